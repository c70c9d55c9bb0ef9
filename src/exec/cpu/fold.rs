//! The fold of a value of which each rank has a part.
//!
//! In: the parts, in the order of the ranks. Out: the value, rounded once to its type. The order is fixed, so that the bits are.

use crate::ir::{DType, Data, Reduction, Tensor};
use half::{bf16, f16};
use std::sync::Arc;

/// Folds the parts of all ranks, in their order, into a value of `dtype`: what a [`Call`](crate::host::Call) of kind
/// [`Reduce`](crate::host::CallKind::Reduce) gives every rank.
///
/// ```
/// use annulus::exec::cpu::fold;
/// use annulus::ir::{DType, Reduction, Tensor};
///
/// let part = |x| Tensor::from_f64(DType::F32, [2], x).expect("two numbers");
/// let sum = fold(&[part(&[1.0, 2.0]), part(&[3.0, 4.0])], Reduction::Sum, DType::F16)?;
/// assert_eq!((sum.dtype(), sum.to_f64()), (DType::F16, vec![4.0, 6.0]));
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// If there is no part, the parts are not all of one shape and of type [`DType::part`] of `dtype`, or `kind` is another than
/// sum, max and min.
pub fn fold(parts: &[Tensor], kind: Reduction, dtype: DType) -> Result<Tensor, String> {
    let (first, others) = parts.split_first().ok_or("there is no rank")?;
    if let Some(other) = others.iter().find(|t| t.ty() != first.ty()) {
        return Err(format!("one rank has a part of {}, and another of {}", first.ty(), other.ty()));
    }
    if first.dtype() != dtype.part() {
        return Err(format!("a part of {} is none of a value of {dtype}", first.ty()));
    }
    macro_rules! folded {
        ($variant:ident, $add:expr, $max:expr, $min:expr) => {{
            let mut out = match first.data() {
                Data::$variant(x) => x.to_vec(),
                _ => vec![],
            };
            for part in others {
                let Data::$variant(x) = part.data() else { continue };
                for (a, &b) in out.iter_mut().zip(x.iter()) {
                    *a = match kind {
                        Reduction::Sum => $add(*a, b),
                        Reduction::Max => $max(*a, b),
                        Reduction::Min => $min(*a, b),
                        _ => return Err(format!("parts are not folded by {}", kind.name())),
                    };
                }
            }
            out
        }};
    }
    // What is no number wins, and −0 is below +0.
    macro_rules! floats {
        ($variant:ident, $t:ty) => {
            folded!(
                $variant,
                |a: $t, b: $t| a + b,
                |a: $t, b: $t| if a.is_nan() || a > b || (a == b && a.is_sign_positive()) { a } else { b },
                |a: $t, b: $t| if a.is_nan() || a < b || (a == b && a.is_sign_negative()) { a } else { b }
            )
        };
    }
    let data = match first.data() {
        Data::F64(_) => Data::F64(Arc::new(floats!(F64, f64))),
        Data::F32(_) => {
            let out = floats!(F32, f32);
            match dtype {
                DType::F16 => Data::F16(Arc::new(out.into_iter().map(f16::from_f32).collect())),
                DType::BF16 => Data::BF16(Arc::new(out.into_iter().map(bf16::from_f32).collect())),
                _ => Data::F32(Arc::new(out)),
            }
        }
        Data::I64(_) => Data::I64(Arc::new(folded!(I64, i64::wrapping_add, i64::max, i64::min))),
        Data::I32(_) => Data::I32(Arc::new(folded!(I32, i32::wrapping_add, i32::max, i32::min))),
        Data::F16(_) | Data::BF16(_) | Data::Bool(_) => {
            return Err(format!("parts are not folded in {}", first.dtype()));
        }
    };
    Tensor::new(first.shape().to_vec(), data).ok_or_else(|| "the parts do not fit".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dtype: DType, x: &[f64]) -> Tensor {
        Tensor::from_f64(dtype, [x.len()], x).unwrap()
    }

    #[test]
    fn parts_are_added_in_the_order_of_the_ranks() {
        // 1 is lost beside 2^24 unless the other large part has gone before.
        let [large, one, less] = [16_777_216.0, 1.0, -16_777_216.0].map(|x| of(DType::F32, &[x]));
        let sum = |parts: &[&Tensor]| {
            let parts: Vec<Tensor> = parts.iter().map(|&t| t.clone()).collect();
            fold(&parts, Reduction::Sum, DType::F32).unwrap()
        };
        assert_eq!(sum(&[&large, &one, &less]), of(DType::F32, &[0.0]));
        assert_eq!(sum(&[&large, &less, &one]), of(DType::F32, &[1.0]));
    }

    #[test]
    fn the_sum_of_halves_is_rounded_once() {
        // 2049 is no f16, and 2049 + 2049 is one.
        for dtype in [DType::F16, DType::BF16] {
            let part = of(DType::F32, &[2049.0]);
            let sum = fold(&[part.clone(), part], Reduction::Sum, dtype).unwrap();
            assert_eq!(sum, of(dtype, &[4098.0]));
        }
    }

    #[test]
    fn what_is_no_number_is_the_largest_and_the_smallest() {
        for dtype in [DType::F32, DType::F64] {
            let parts = [of(dtype, &[f64::NAN, -0.0, 1.0]), of(dtype, &[2.0, 0.0, f64::NAN])];
            for (kind, zero) in [(Reduction::Max, 0.0f64), (Reduction::Min, -0.0)] {
                let x = fold(&parts, kind, dtype).unwrap().to_f64();
                assert!(x[0].is_nan() && x[2].is_nan(), "{x:?}");
                assert_eq!(x[1].to_bits(), zero.to_bits());
            }
        }
        let parts = [of(DType::I64, &[3.0, -2.0]), of(DType::I64, &[-1.0, 5.0])];
        assert_eq!(fold(&parts, Reduction::Max, DType::I64).unwrap(), of(DType::I64, &[3.0, 5.0]));
        assert_eq!(fold(&parts, Reduction::Min, DType::I64).unwrap(), of(DType::I64, &[-1.0, -2.0]));
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let (a, b) = (of(DType::F32, &[1.0]), of(DType::F32, &[1.0, 2.0]));
        let why = |parts: &[Tensor], kind, dtype| fold(parts, kind, dtype).unwrap_err();
        assert_eq!(why(&[], Reduction::Sum, DType::F32), "there is no rank");
        assert_eq!(
            why(&[a.clone(), b], Reduction::Sum, DType::F32),
            "one rank has a part of f32[1], and another of f32[2]"
        );
        assert_eq!(
            why(std::slice::from_ref(&a), Reduction::Sum, DType::F64),
            "a part of f32[1] is none of a value of f64"
        );
        assert_eq!(why(&[a.clone(), a], Reduction::Prod, DType::F32), "parts are not folded by prod");
    }
}
