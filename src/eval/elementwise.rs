//! Functions of one, two and three elements, and conversions.

use super::number::{Element, Scalar, same, with_scalar, wrap};
use super::real::{Real, with_real};
use super::walk::{Walk, broadcast_strides};
use crate::ir::narrow::{bf16_from_f64, f16_from_f64};
use crate::ir::{Binary, DType, Data, Type, Unary};
use half::{bf16, f16};

pub(super) fn unary(op: Unary, x: &Data) -> Result<Data, String> {
    match op {
        Unary::Not => {
            let v = same::<bool>(x)?;
            Ok(wrap(v.iter().map(|&b| !b).collect()))
        }
        Unary::Neg | Unary::Abs | Unary::Sign => {
            with_scalar!(x, v => Ok(wrap(signs(op, v))), no(x))
        }
        _ => with_real!(x, v => Ok(real(op, v)), no(x)),
    }
}

fn no<R>(x: &Data) -> Result<R, String> {
    Err(format!("does not take {}", x.dtype()))
}

fn map<T: Scalar>(x: &[T], f: impl Fn(T) -> T) -> Vec<T> {
    x.iter().map(|&a| f(a)).collect()
}

fn signs<T: Scalar>(op: Unary, x: &[T]) -> Vec<T> {
    match op {
        Unary::Neg => map(x, Scalar::neg),
        Unary::Abs => map(x, Scalar::abs),
        _ => map(x, Scalar::sign),
    }
}

fn real<T: Real>(op: Unary, x: &[T]) -> Data {
    let values = match op {
        Unary::Exp => map(x, Real::exp),
        Unary::Log => map(x, Real::ln),
        Unary::Sqrt => map(x, Real::sqrt),
        Unary::Reciprocal => map(x, |a| T::ONE.div(a)),
        Unary::Sin => map(x, Real::sin),
        Unary::Cos => map(x, Real::cos),
        Unary::Tanh => map(x, Real::tanh),
        Unary::Sigmoid => map(x, Real::sigmoid),
        Unary::Erf => map(x, Real::erf),
        Unary::Floor => map(x, Real::floor),
        Unary::Ceil => map(x, Real::ceil),
        Unary::Round => map(x, Real::round_ties_even),
        Unary::IsNan => return wrap(x.iter().map(|&a| a.is_nan()).collect()),
        Unary::IsInf => return wrap(x.iter().map(|&a| a.is_infinite()).collect()),
        Unary::Neg | Unary::Abs | Unary::Sign | Unary::Not => signs(op, x),
    };
    wrap(values)
}

/// `f` on every pair of elements, broadcast to `shape`, which has elements.
fn zip<A: Copy, B: Copy, R>(
    shape: &[usize],
    (a, a_shape): (&[A], &[usize]),
    (b, b_shape): (&[B], &[usize]),
    mut f: impl FnMut(A, B) -> R,
) -> Vec<R> {
    let walk = Walk::new(shape, [&broadcast_strides(a_shape, shape), &broadcast_strides(b_shape, shape)]);
    let mut out = Vec::with_capacity(shape.iter().product());
    let len = walk.len;
    walk.runs([0, 0], &mut |[i, j]| match walk.step {
        [1, 1] => out.extend(a[i..i + len].iter().zip(&b[j..j + len]).map(|(&x, &y)| f(x, y))),
        [1, 0] => out.extend(a[i..i + len].iter().map(|&x| f(x, b[j]))),
        [s, t] => out.extend((0..len).map(|n| f(a[i + n * s as usize], b[j + n * t as usize]))),
    });
    out
}

type Operand<'a> = (&'a Data, &'a [usize]);

pub(super) fn binary(op: Binary, a: Operand, b: Operand, shape: &[usize]) -> Result<Data, String> {
    if let Data::Bool(v) = a.0 {
        let w = same::<bool>(b.0)?;
        let f = match op {
            Binary::And => |x, y| x && y,
            Binary::Or => |x, y| x || y,
            Binary::Xor => |x, y| x != y,
            Binary::Eq => |x, y| x == y,
            _ => return no(a.0),
        };
        return Ok(wrap(zip(shape, (v, a.1), (w, b.1), f)));
    }
    with_scalar!(a.0, v => arithmetic(op, (v, a.1), (same(b.0)?, b.1), shape), no(a.0))
}

fn arithmetic<T: Scalar>(
    op: Binary,
    a: (&[T], &[usize]),
    b: (&[T], &[usize]),
    shape: &[usize],
) -> Result<Data, String> {
    macro_rules! each {
        ($f:expr) => {
            wrap::<T>(zip(shape, a, b, $f))
        };
    }
    macro_rules! compare {
        ($op:tt) => { wrap(zip(shape, a, b, |x: T, y: T| x $op y)) };
    }
    let by_zero = || T::INTEGER && b.0.contains(&T::ZERO);
    Ok(match op {
        Binary::Add => each!(T::add),
        Binary::Sub => each!(T::sub),
        Binary::Mul => each!(T::mul),
        Binary::Div | Binary::Mod if by_zero() => return Err("division by zero".into()),
        Binary::Div => each!(T::div),
        Binary::Mod => each!(T::modulo),
        Binary::Pow => {
            let mut undefined = false;
            let values = zip(shape, a, b, |x: T, y: T| {
                x.pow(y).unwrap_or_else(|| {
                    undefined = true;
                    T::ZERO
                })
            });
            if undefined {
                return Err("zero to a negative power".into());
            }
            wrap(values)
        }
        Binary::Min => each!(T::min),
        Binary::Max => each!(T::max),
        Binary::Eq => compare!(==),
        Binary::Lt => compare!(<),
        Binary::Le => compare!(<=),
        Binary::Gt => compare!(>),
        Binary::Ge => compare!(>=),
        Binary::And | Binary::Or | Binary::Xor => return Err("takes truth values".into()),
    })
}

pub(super) fn select(cond: Operand, a: Operand, b: Operand, shape: &[usize]) -> Result<Data, String> {
    let c = same::<bool>(cond.0)?;
    crate::ir::tensor::with_data!(a.0, v => choose((c, cond.1), (v, a.1), (same(b.0)?, b.1), shape))
}

fn choose<T: Element>(
    cond: (&[bool], &[usize]),
    a: (&[T], &[usize]),
    b: (&[T], &[usize]),
    shape: &[usize],
) -> Result<Data, String> {
    let strides = [cond.1, a.1, b.1].map(|s| broadcast_strides(s, shape));
    let walk = Walk::new(shape, [&strides[0], &strides[1], &strides[2]]);
    let [p, s, t] = walk.step.map(|s| s as usize);
    let mut out = Vec::with_capacity(shape.iter().product());
    walk.runs([0; 3], &mut |[h, i, j]| {
        out.extend((0..walk.len).map(|n| if cond.0[h + n * p] { a.0[i + n * s] } else { b.0[j + n * t] }));
    });
    Ok(wrap(out))
}

/// Conversion: integers wrap, floats truncate to integers and saturate (NaN gives 0), and round to nearest even to floats.
pub(super) fn cast(x: &Data, to: DType) -> Data {
    if x.dtype() == to {
        return x.clone();
    }
    macro_rules! to {
        ($v:ident, $from:ty, $wide:expr) => {{
            let wide = $wide;
            match to {
                DType::F64 => wrap($v.iter().map(|&a| wide(a) as f64).collect()),
                DType::F32 => wrap($v.iter().map(|&a| wide(a) as f32).collect()),
                DType::F16 => wrap($v.iter().map(|&a| f16_from_f64(wide(a) as f64)).collect::<Vec<f16>>()),
                DType::BF16 => wrap($v.iter().map(|&a| bf16_from_f64(wide(a) as f64)).collect::<Vec<bf16>>()),
                DType::I64 => wrap($v.iter().map(|&a| wide(a) as i64).collect()),
                DType::I32 => wrap($v.iter().map(|&a| wide(a) as i32).collect()),
                DType::Bool => wrap($v.iter().map(|&a| a != <$from>::default()).collect()),
            }
        }};
    }
    match x {
        Data::F64(v) => to!(v, f64, |a: f64| a),
        Data::F32(v) => to!(v, f32, |a: f32| a),
        Data::F16(v) => to!(v, f16, |a: f16| a.to_f32()),
        Data::BF16(v) => to!(v, bf16, |a: bf16| a.to_f32()),
        Data::I64(v) if to == DType::BF16 => wrap(v.iter().map(|&a| bf16_from_i64(a)).collect()),
        Data::I64(v) => to!(v, i64, |a: i64| a),
        Data::I32(v) => to!(v, i32, |a: i32| a),
        Data::Bool(v) => to!(v, bool, |a: bool| i32::from(a)),
    }
}

/// Rounded once: what an f64 would lose is kept as a sticky bit below its reach. (Of f16, what an f64 loses is infinite.)
fn bf16_from_i64(a: i64) -> bf16 {
    let exact = a.unsigned_abs() < 1 << 53;
    bf16_from_f64(if exact { a as f64 } else { ((a >> 11) | i64::from(a & 0x7ff != 0)) as f64 * 2048.0 })
}

/// Counts along an axis. The counts are rounded to the type.
pub(super) fn iota(ty: &Type, axis: usize) -> Data {
    let (outer, n, inner) = super::walk::around(&ty.shape, axis);
    let count: Vec<i64> = (0..n).map(|i| i as i64).collect();
    let count = cast(&wrap(count), ty.dtype);
    fn spread<T: Element>(count: &[T], outer: usize, inner: usize) -> Vec<T> {
        let plane: Vec<T> = count.iter().flat_map(|&c| std::iter::repeat_n(c, inner)).collect();
        plane.repeat(outer)
    }
    crate::ir::tensor::with_data!(&count, v => wrap(spread(v, outer, inner)))
}
