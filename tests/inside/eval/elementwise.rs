//! Functions of one, two and three elements, conversions and counts.

use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::{Binary, DType, Data, Op, Tensor, Type, Unary};
use proptest::prelude::*;
use std::sync::Arc;

/// Error function by its series and, far out, by the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let a = x.abs();
    if a > 6.0 {
        return x.signum();
    }
    if a < 2.5 {
        // 2/√π · e^−x² · Σ 2ⁿ x^(2n+1) / (2n+1)!!, every term of one sign.
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum;
    }
    let mut tail = 0.0;
    for n in (1..200).rev() {
        tail = f64::from(n) / 2.0 / (a + tail);
    }
    x.signum() * (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + tail))
}

fn reference(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Erf => erf(x),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => {
            let down = x.floor();
            match x - down {
                d if d < 0.5 => down,
                d if d > 0.5 => down + 1.0,
                _ if x.is_finite() => 2.0 * (x / 2.0).round(),
                _ => x,
            }
        }
        Unary::Not => f64::from(u8::from(x == 0.0)),
        Unary::IsNan => f64::from(u8::from(x.is_nan())),
        Unary::IsInf => f64::from(u8::from(x.is_infinite())),
    }
}

fn takes(op: Unary, dtype: DType) -> bool {
    match op {
        Unary::Not => dtype == DType::Bool,
        Unary::Neg | Unary::Abs | Unary::Sign => dtype != DType::Bool,
        _ => dtype.is_float(),
    }
}

proptest! {
    #[test]
    fn functions_of_one_element(x in tensors(dtypes(), shapes(0..=3))) {
        for &op in Unary::ALL.iter().filter(|op| takes(**op, x.dtype())) {
            let got = run(Op::Unary(op), std::slice::from_ref(&x)).unwrap();
            let want: Vec<f64> = x.to_f64().iter().map(|&v| reference(op, v)).collect();
            prop_assert_eq!(got.shape(), x.shape());
            // The functions of the platform in f32 are within a few units. In f64 the error function's own formula here is
            // good to some 1e-15.
            let units = if x.dtype() == DType::F64 { 32.0 } else { 8.0 };
            assert_close(x.dtype(), &got.to_f64(), &want, units);
            if x.dtype().is_float() {
                let wide = &apply(&Op::Unary(op), std::slice::from_ref(&x), Precision::F64).unwrap()[0];
                assert_close(DType::F64, &wide.to_f64(), &want, 32.0);
                prop_assert_eq!(wide.dtype() == DType::Bool, got.dtype() == DType::Bool);
            }
        }
    }
}

fn of_two(op: Binary, x: f64, y: f64) -> f64 {
    let truth = |b: bool| f64::from(u8::from(b));
    match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Mod if y.is_infinite() && x.is_finite() => {
            if x == 0.0 || (x < 0.0) == (y < 0.0) {
                x
            } else {
                y
            }
        }
        Binary::Mod => {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        Binary::Pow => x.powf(y),
        Binary::Min | Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::And => truth(x != 0.0 && y != 0.0),
        Binary::Or => truth(x != 0.0 || y != 0.0),
        Binary::Xor => truth((x != 0.0) != (y != 0.0)),
        Binary::Eq => truth(x == y),
        Binary::Lt => truth(x < y),
        Binary::Le => truth(x <= y),
        Binary::Gt => truth(x > y),
        Binary::Ge => truth(x >= y),
    }
}

fn integer_of_two(op: Binary, x: i128, y: i128) -> i128 {
    match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Mod => (x % y + y) % y,
        Binary::Pow => (0..y).fold(1i128, |p, _| (p * x) as i64 as i128),
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::Eq => (x == y).into(),
        Binary::Lt => (x < y).into(),
        Binary::Le => (x <= y).into(),
        Binary::Gt => (x > y).into(),
        Binary::Ge => (x >= y).into(),
        Binary::And | Binary::Or | Binary::Xor => unreachable!(),
    }
}

/// Two shapes that broadcast to one.
fn pairs(dtype: impl Strategy<Value = DType>) -> impl Strategy<Value = (Tensor, Tensor)> {
    (dtype, shapes(0..=4)).prop_flat_map(|(d, s)| {
        let one = |s: Vec<usize>| narrowed(s).prop_flat_map(move |s| values(d, s));
        (one(s.clone()), one(s))
    })
}

fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let pad = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    pad(a).iter().zip(pad(b)).map(|(&x, y)| if x == 1 { y } else { x }).collect()
}

fn check_two(op: Binary, a: &Tensor, b: &Tensor) {
    let dtype = a.dtype();
    let shape = broadcast(a.shape(), b.shape());
    let (x, y) = (Nd::of(a), Nd::of(b));
    let got = run(Op::Binary(op), &[a.clone(), b.clone()]);
    let pairs: Vec<(f64, f64)> =
        indices(&shape).iter().map(|i| (x.broadcast_at(i), y.broadcast_at(i))).collect();
    if !dtype.is_float() && dtype != DType::Bool {
        let zero = matches!(op, Binary::Div | Binary::Mod) && y.v.contains(&0.0) && !pairs.is_empty();
        let undefined = op == Binary::Pow && pairs.iter().any(|&(x, y)| x == 0.0 && y < 0.0);
        assert_eq!(got.is_err(), zero || undefined, "{op:?} {got:?}");
        let Ok(got) = got else { return };
        for (got, (x, y)) in got.to_f64().into_iter().zip(pairs) {
            // Powers beyond reach of this formula have a test of their own.
            if op == Binary::Pow && !(0.0..100.0).contains(&y) {
                continue;
            }
            let exact = integer_of_two(op, x as i128, y as i128);
            let want = if dtype == DType::I32 { f64::from(exact as i32) } else { exact as i64 as f64 };
            assert_eq!(got, want, "{op:?} of {x} and {y} in {dtype}");
        }
        return;
    }
    let got = got.unwrap();
    assert_eq!(got.shape(), &shape[..]);
    assert_eq!(got.dtype() == DType::Bool, op.is_comparison() || op.is_logical());
    let want: Vec<f64> = pairs.iter().map(|&(x, y)| of_two(op, x, y)).collect();
    // One rounding, but for powers, and for remainders whose sign is mended by a sum.
    let units = match op {
        Binary::Pow => 8.0,
        Binary::Mod => 2.0,
        _ => 1.0,
    };
    assert_close(dtype, &got.to_f64(), &want, units);
}

proptest! {
    #[test]
    fn functions_of_two_elements((a, b) in pairs(dtypes())) {
        for &op in Binary::ALL {
            let truth = a.dtype() == DType::Bool;
            if op.is_logical() == truth || truth && op == Binary::Eq {
                check_two(op, &a, &b);
            } else {
                prop_assert!(run(Op::Binary(op), &[a.clone(), b.clone()]).is_err());
            }
        }
    }

    #[test]
    fn choices(
        (a, b) in pairs(dtypes()), seed in 0u64..99, rank in 0usize..3,
    ) {
        let shape = broadcast(a.shape(), b.shape());
        let own: Vec<usize> = shape[shape.len().min(rank)..].to_vec();
        let c = tensor(DType::Bool, &own, &noise(own.iter().product(), seed).iter().map(|&x| f64::from(x > 0.0)).collect::<Vec<_>>());
        let got = run(Op::Select, &[c.clone(), a.clone(), b.clone()]).unwrap();
        let (c, x, y) = (Nd::of(&c), Nd::of(&a), Nd::of(&b));
        let want = from_fn(&shape, |i| if c.broadcast_at(i) != 0.0 { x.broadcast_at(i) } else { y.broadcast_at(i) });
        let bits = |v: Vec<f64>| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(got.to_f64()), bits(want));
    }
}

#[test]
fn the_error_function_to_the_last_digits() {
    // From tables.
    for (x, want) in [
        (0.1, 0.112_462_916_018_284_9),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (2.0, 0.995_322_265_018_952_7),
        (3.0, 0.999_977_909_503_001_4),
    ] {
        for x in [x, -x] {
            let got = run(Op::Unary(Unary::Erf), &[Tensor::scalar(DType::F64, x)]).unwrap().to_f64()[0];
            assert!(is_close(DType::F64, got, want * x.signum(), 3.0), "{x}: {got:e}");
        }
    }
}

#[test]
fn corners_of_arithmetic() {
    let f = |op, x: f64, y: f64| {
        run(Op::Binary(op), &[Tensor::scalar(DType::F32, x), Tensor::scalar(DType::F32, y)]).unwrap().to_f64()
            [0]
    };
    assert!(f(Binary::Min, f64::NAN, 1.0).is_nan() && f(Binary::Max, 1.0, f64::NAN).is_nan());
    assert!(f(Binary::Min, 0.0, -0.0).is_sign_negative() && f(Binary::Max, -0.0, 0.0).is_sign_positive());
    assert_eq!((f(Binary::Mod, -7.0, 3.0), f(Binary::Mod, 7.0, -3.0)), (2.0, -2.0));
    assert!(f(Binary::Div, 0.0, 0.0).is_nan() && f(Binary::Div, 1.0, -0.0) == f64::NEG_INFINITY);
    assert_eq!((f(Binary::Pow, 0.0, 0.0), f(Binary::Eq, f64::NAN, f64::NAN)), (1.0, 0.0));
    let i = |op, x: i64, y: i64| {
        let s = |v| Tensor::new([], Data::I64(Arc::new(vec![v]))).unwrap();
        run(Op::Binary(op), &[s(x), s(y)]).map(|t| match t.data() {
            Data::I64(v) => v[0],
            _ => unreachable!(),
        })
    };
    assert_eq!(i(Binary::Div, -7, 2), Ok(-3));
    assert_eq!((i(Binary::Mod, -7, 3), i(Binary::Mod, 7, -3)), (Ok(2), Ok(-2)));
    assert_eq!(i(Binary::Add, i64::MAX, 1), Ok(i64::MIN));
    assert_eq!(i(Binary::Div, i64::MIN, -1), Ok(i64::MIN));
    assert_eq!(i(Binary::Mod, i64::MIN, -1), Ok(0));
    assert_eq!(
        (i(Binary::Pow, 2, 62), i(Binary::Pow, -1, -3), i(Binary::Pow, 7, -1)),
        (Ok(1 << 62), Ok(-1), Ok(0))
    );
    assert!(i(Binary::Div, 1, 0).is_err() && i(Binary::Mod, 1, 0).is_err() && i(Binary::Pow, 0, -1).is_err());
    // Exact beyond the reach of an f64.
    assert_eq!(i(Binary::Sub, (1 << 60) + 1, 1 << 60), Ok(1));
    let round = |x| run(Op::Unary(Unary::Round), &[Tensor::scalar(DType::F64, x)]).unwrap().to_f64()[0];
    assert_eq!((round(0.5), round(1.5), round(-2.5)), (0.0, 2.0, -2.0));
    let sigmoid = |x| run(Op::Unary(Unary::Sigmoid), &[Tensor::scalar(DType::F32, x)]).unwrap().to_f64()[0];
    assert_eq!((sigmoid(-1e4), sigmoid(1e4)), (0.0, 1.0));
    assert!(sigmoid(-90.0) > 0.0);
}

/// The nearest number of a half type by trying its neighbours; ties go to the even one.
fn nearest(dtype: DType, x: f64) -> f64 {
    let number = |bits: u16| match dtype {
        DType::F16 => half::f16::from_bits(bits).to_f64(),
        _ => half::bf16::from_bits(bits).to_f64(),
    };
    let infinite = if dtype == DType::F16 { 0x7c00 } else { 0x7f80 };
    // Bisection over the positive numbers: the last one not above |x|.
    let (mut low, mut high) = (0u16, infinite);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if number(middle) <= x.abs() { low = middle } else { high = middle }
    }
    // Beyond the largest number, infinity counts as the next step.
    let above = if high == infinite { 2.0 * number(low) - number(low - 1) } else { number(high) };
    let (down, up) = (x.abs() - number(low), above - x.abs());
    let chosen = if x.is_infinite() || up < down || (up == down && low & 1 == 1) { high } else { low };
    number(chosen).copysign(x)
}

proptest! {
    #[test]
    fn halves_round_to_nearest_even(x in prop_oneof![
        any::<f64>().prop_filter("NaN", |x| !x.is_nan()), -70000.0f64..70000.0, -1.0f64..1.0, -1e-6f64..1e-6,
        // Next to a tie.
        (any::<u16>(), -2i64..3).prop_map(|(b, d)| {
            let x = half::f16::from_bits(b & 0x7bff).to_f64() * (1.0 + 2f64.powi(-11));
            f64::from_bits((x.to_bits() as i64 + d).max(0) as u64)
        }),
    ]) {
        for dtype in [DType::F16, DType::BF16] {
            let got = run(Op::Cast(dtype), &[Tensor::scalar(DType::F64, x)]).unwrap().to_f64()[0];
            prop_assert_eq!(got.to_bits(), nearest(dtype, x).to_bits(), "{} of {:e}: {:e}", dtype, x, got);
            let wide = apply(&Op::Cast(dtype), &[Tensor::scalar(DType::F64, x)], Precision::F64).unwrap();
            prop_assert_eq!((wide[0].dtype(), wide[0].to_f64()[0].to_bits()), (DType::F64, got.to_bits()));
        }
    }

    #[test]
    fn conversions(x in tensors(dtypes(), shapes(0..=2)), to in dtypes()) {
        let got = run(Op::Cast(to), std::slice::from_ref(&x)).unwrap();
        prop_assert_eq!(got.dtype(), to);
        for (g, v) in got.to_f64().into_iter().zip(x.to_f64()) {
            let want = match to {
                DType::Bool => f64::from(u8::from(v != 0.0)),
                DType::I64 | DType::I32 if !v.is_finite() => continue,
                DType::I64 | DType::I32 => v.trunc(),
                _ => v,
            };
            prop_assert!(is_close(to, g, want, 1.0), "{} to {}: {:e} became {:e}", x.dtype(), to, v, g);
        }
    }
}

#[test]
fn conversions_at_the_edges() {
    let cast = |x: Tensor, to| run(Op::Cast(to), &[x]).unwrap().to_f64()[0];
    assert_eq!(cast(Tensor::scalar(DType::F32, f64::NAN), DType::I32), 0.0);
    assert_eq!(cast(Tensor::scalar(DType::F32, f64::NAN), DType::Bool), 1.0);
    assert_eq!(cast(Tensor::scalar(DType::F64, 1e300), DType::I32), f64::from(i32::MAX));
    assert_eq!(cast(Tensor::scalar(DType::F64, -2.9), DType::I64), -2.0);
    let big = |v: i64| Tensor::new([], Data::I64(Arc::new(vec![v]))).unwrap();
    assert_eq!(cast(big((1 << 32) + 5), DType::I32), 5.0);
    // A tie of bf16 but for one unit that an f64 would drop.
    let tie = (1i64 << 62) + (1 << 54);
    assert_eq!(cast(big(tie), DType::BF16), (1i64 << 62) as f64);
    assert_eq!(cast(big(tie + 1), DType::BF16), ((1i64 << 62) + (1 << 55)) as f64);
    assert_eq!(cast(big(-tie - 1), DType::BF16), -((1i64 << 62) + (1 << 55)) as f64);
    // A cast rounds also where everything is kept in f64.
    let wide = apply(&Op::Cast(DType::F16), &[Tensor::scalar(DType::F32, 0.1)], Precision::F64).unwrap();
    assert_eq!(wide[0].to_f64()[0], 0.0999755859375);
    let wide = apply(&Op::Cast(DType::F16), &[Tensor::scalar(DType::F32, -3.4e38)], Precision::F64).unwrap();
    assert_eq!(wide[0].to_f64()[0], f64::NEG_INFINITY);
}

#[test]
fn counts() {
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32] {
        for axis in 0..3 {
            let ty = Type::new(dtype, [2, 3, 4]);
            let got = run(Op::Iota { ty: ty.clone(), axis }, &[]).unwrap();
            assert_eq!(got.ty(), ty);
            assert_eq!(got.to_f64(), from_fn(&ty.shape, |i| i[axis] as f64));
        }
    }
    // 2049 is no f16, and stays none in f64.
    let op = Op::Iota { ty: Type::new(DType::F16, [2050]), axis: 0 };
    let wide = apply(&op, &[], Precision::F64).unwrap();
    assert_eq!((wide[0].dtype(), wide[0].to_f64()[2049]), (DType::F64, 2048.0));
}
