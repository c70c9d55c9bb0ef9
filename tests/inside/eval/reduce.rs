//! Reductions, softmax and running sums.

use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::{DType, Op, Reduction, Tensor};
use proptest::prelude::*;

/// Finite numbers of moderate size.
fn plain(
    dtype: impl Strategy<Value = DType>,
    rank: std::ops::RangeInclusive<usize>,
) -> impl Strategy<Value = Tensor> {
    (dtype, shapes(rank), any::<u64>()).prop_map(|(d, s, seed)| {
        let v: Vec<f64> = noise(s.iter().product(), seed)
            .iter()
            .map(|x| if d.is_float() { x * 2.0 } else { (x * 9.0).trunc() })
            .collect();
        tensor(d, &s, &v)
    })
}

proptest! {
    #[test]
    fn reductions(
        x in plain(numbers(), 0..=4), pick in proptest::collection::vec(any::<bool>(), 4), keep in any::<bool>(),
        kind in proptest::sample::select(Reduction::ALL),
    ) {
        let rank = x.shape().len();
        let axes: Vec<usize> = (0..rank).filter(|&a| pick[a]).collect();
        let v = Nd::of(&x);
        let kept: Vec<usize> = (0..rank).filter(|a| !pick[*a]).collect();
        let outer: Vec<usize> = kept.iter().map(|&a| x.shape()[a]).collect();
        let inner: Vec<usize> = axes.iter().map(|&a| x.shape()[a]).collect();
        let n: usize = inner.iter().product();
        let got = run(Op::Reduce { kind, axes: axes.clone(), keep }, std::slice::from_ref(&x));
        if !x.dtype().is_float() && n == 0 && outer.iter().product::<usize>() > 0 {
            if kind == Reduction::Mean { prop_assert!(got.is_err()); }
            return Ok(());
        }
        let got = got.unwrap();
        let shape: Vec<usize> = if keep { (0..rank).map(|a| if pick[a] { 1 } else { x.shape()[a] }).collect() } else { outer.clone() };
        prop_assert_eq!(got.shape(), &shape[..]);
        let mut size = vec![];
        let want = from_fn(&outer, |o| {
            let row: Vec<f64> = indices(&inner).iter().map(|i| {
                let mut at = vec![0; rank];
                kept.iter().zip(o).for_each(|(&a, &n)| at[a] = n);
                axes.iter().zip(i).for_each(|(&a, &n)| at[a] = n);
                v.at(&at)
            }).collect();
            match kind {
                Reduction::Sum => row.iter().sum(),
                Reduction::Mean if x.dtype().is_float() => row.iter().sum::<f64>() / n as f64,
                Reduction::Mean => (row.iter().sum::<f64>() / n as f64).trunc(),
                Reduction::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                Reduction::Min => row.iter().copied().fold(f64::INFINITY, f64::min),
                Reduction::Prod => row.iter().product(),
            }
        });
        size.extend(want.iter().map(|w| w.abs().max(1.0)));
        for ((g, w), s) in got.to_f64().into_iter().zip(want).zip(size) {
            // One rounding to the type, and the sum's own error in the accumulator relative to the largest terms.
            let slack = if x.dtype().is_float() { unit(x.dtype()).0 * s + 2.0 * n as f64 * unit(x.dtype().accumulator()).0 * s } else { 0.0 };
            let product_overflow = kind == Reduction::Prod && !x.dtype().is_float() && w.abs() > 2e9;
            prop_assert!(g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= slack || product_overflow, "{g:e} {w:e}");
        }
    }

    #[test]
    fn softmaxes(x in tensors(floats(), shapes(1..=4)), a in 0usize..4) {
        let axis = a % x.shape().len();
        let (v, shape) = (Nd::of(&x), x.shape().to_vec());
        let got = run(Op::Softmax { axis }, std::slice::from_ref(&x)).unwrap();
        let want = from_fn(&shape, |i| {
            let row: Vec<f64> = (0..shape[axis]).map(|j| { let mut i = i.to_vec(); i[axis] = j; v.at(&i) }).collect();
            if row.iter().any(|x| x.is_nan()) { return f64::NAN; }
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (row[i[axis]] - most).exp() / row.iter().map(|x| (x - most).exp()).sum::<f64>()
        });
        prop_assert_eq!(got.ty(), x.ty());
        assert_close(x.dtype(), &got.to_f64(), &want, 40.0);
        let wide = &apply(&Op::Softmax { axis }, &[x], Precision::F64).unwrap()[0];
        assert_close(DType::F64, &wide.to_f64(), &want, 40.0);
    }

    #[test]
    fn running_sums(x in plain(numbers(), 1..=3), a in 0usize..3, exclusive in any::<bool>(), reverse in any::<bool>()) {
        let axis = a % x.shape().len();
        let (v, shape) = (Nd::of(&x), x.shape().to_vec());
        let got = run(Op::CumSum { axis, exclusive, reverse }, std::slice::from_ref(&x)).unwrap();
        let want = from_fn(&shape, |i| (0..shape[axis]).filter(|&j| {
            let before = if reverse { j > i[axis] } else { j < i[axis] };
            before || (!exclusive && j == i[axis])
        }).map(|j| { let mut i = i.to_vec(); i[axis] = j; v.at(&i) }).sum());
        for (g, w) in got.to_f64().into_iter().zip(want) {
            prop_assert!((g - w).abs() <= 2.0 * unit(x.dtype()).0 * w.abs().max(8.0));
        }
    }
}

#[test]
fn sums_of_halves_are_kept_in_f32() {
    // In f16 the sum would stick at 2048, in bf16 at 256.
    for dtype in [DType::F16, DType::BF16] {
        let x = tensor(dtype, &[1 << 14], &[1.0; 1 << 14]);
        let got =
            run(Op::Reduce { kind: Reduction::Sum, axes: vec![0], keep: false }, std::slice::from_ref(&x))
                .unwrap();
        assert_eq!(got.to_f64(), [16384.0]);
        let got = run(Op::CumSum { axis: 0, exclusive: false, reverse: false }, &[x]).unwrap();
        assert_eq!(got.to_f64()[16383], 16384.0);
    }
}

#[test]
fn a_long_sum_is_close() {
    let n = 1 << 20;
    let x = tensor(DType::F32, &[n], &vec![0.1; n]);
    let got =
        run(Op::Reduce { kind: Reduction::Mean, axes: vec![0], keep: false }, &[x]).unwrap().to_f64()[0];
    assert!((got - f64::from(0.1f32)).abs() < 1e-8, "{got}");
}

#[test]
fn reductions_propagate_nan_and_know_nothing() {
    let reduce = |kind, x: &Tensor| {
        run(Op::Reduce { kind, axes: vec![0], keep: false }, std::slice::from_ref(x)).unwrap().to_f64()[0]
    };
    let x = tensor(DType::F32, &[3], &[1.0, f64::NAN, 2.0]);
    for &kind in Reduction::ALL {
        assert!(reduce(kind, &x).is_nan(), "{kind:?}");
    }
    let none = tensor(DType::F32, &[0], &[]);
    assert_eq!((reduce(Reduction::Sum, &none), reduce(Reduction::Prod, &none)), (0.0, 1.0));
    assert_eq!(
        (reduce(Reduction::Max, &none), reduce(Reduction::Min, &none)),
        (f64::NEG_INFINITY, f64::INFINITY)
    );
    assert!(reduce(Reduction::Mean, &none).is_nan());
}

#[test]
fn a_softmax_of_nothing_but_minus_infinity_is_nan() {
    let x = tensor(DType::F32, &[2, 2], &[f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY, 3.0]);
    let got = run(Op::Softmax { axis: 1 }, &[x]).unwrap().to_f64();
    assert!(got[0].is_nan() && got[1].is_nan());
    assert_eq!(got[2..], [0.0, 1.0]);
}
