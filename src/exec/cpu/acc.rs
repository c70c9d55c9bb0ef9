//! The two types in which partial results are kept, and conversions from and to the type of the attention.

use crate::ir::narrow::{bf16_from_f64, f16_from_f64};
use crate::ir::{DType, Data};
use half::{bf16, f16};
use std::sync::Arc;

/// f32 or f64.
pub(in crate::exec) trait Acc:
    ndarray::LinalgScalar + PartialOrd + Send + Sync + std::ops::AddAssign + std::ops::MulAssign
{
    const NEG_INFINITY: Self;
    const NAN: Self;
    const BYTES: usize;

    fn of_f32(x: f32) -> Self;
    fn of_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn tanh(self) -> Self;
    fn is_nan(self) -> bool;
    fn is_finite(self) -> bool;
    /// Little-endian bytes to numbers; the length is a multiple of the size.
    fn read(bytes: &[u8]) -> Vec<Self>;
    fn write(values: &[Self], bytes: &mut [u8]);
    /// Elements of `dtype`, rounded to nearest even.
    fn cast(values: Vec<Self>, dtype: DType) -> Data;
}

macro_rules! acc {
    ($t:ty, $of_f32:expr, $of_f64:expr, $f64:expr, $f32:expr, $f16:expr, $bf16:expr) => {
        impl Acc for $t {
            const NEG_INFINITY: $t = <$t>::NEG_INFINITY;
            const NAN: $t = <$t>::NAN;
            const BYTES: usize = size_of::<$t>();

            fn of_f32(x: f32) -> $t {
                $of_f32(x)
            }
            fn of_f64(x: f64) -> $t {
                $of_f64(x)
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> $t {
                self.exp()
            }
            fn ln(self) -> $t {
                self.ln()
            }
            fn tanh(self) -> $t {
                self.tanh()
            }
            fn is_nan(self) -> bool {
                self.is_nan()
            }
            fn is_finite(self) -> bool {
                self.is_finite()
            }
            fn read(bytes: &[u8]) -> Vec<$t> {
                bytes.as_chunks().0.iter().map(|c| <$t>::from_le_bytes(*c)).collect()
            }
            fn write(values: &[$t], bytes: &mut [u8]) {
                for (v, c) in values.iter().zip(bytes.as_chunks_mut().0) {
                    *c = v.to_le_bytes();
                }
            }
            fn cast(values: Vec<$t>, dtype: DType) -> Data {
                match dtype {
                    DType::F64 => Data::F64(Arc::new(values.into_iter().map($f64).collect())),
                    DType::F32 => Data::F32(Arc::new(values.into_iter().map($f32).collect())),
                    DType::F16 => Data::F16(Arc::new(values.into_iter().map($f16).collect())),
                    DType::BF16 => Data::BF16(Arc::new(values.into_iter().map($bf16).collect())),
                    other => Data::from_f64(other, &values.into_iter().map($f64).collect::<Vec<_>>()),
                }
            }
        }
    };
}

acc!(f32, |x| x, |x| x as f32, f64::from, |x| x, f16::from_f32, bf16::from_f32);
acc!(f64, f64::from, |x| x, |x| x, |x| x as f32, f16_from_f64, bf16_from_f64);

/// Little-endian elements of a floating `dtype` as numbers.
pub(in crate::exec) fn decode<A: Acc>(dtype: DType, bytes: &[u8]) -> Vec<A> {
    match dtype {
        DType::F64 => bytes.as_chunks().0.iter().map(|c| A::of_f64(f64::from_le_bytes(*c))).collect(),
        DType::F16 => {
            bytes.as_chunks().0.iter().map(|c| A::of_f32(f16::from_le_bytes(*c).to_f32())).collect()
        }
        DType::BF16 => {
            bytes.as_chunks().0.iter().map(|c| A::of_f32(bf16::from_le_bytes(*c).to_f32())).collect()
        }
        _ => bytes.as_chunks().0.iter().map(|c| A::of_f32(f32::from_le_bytes(*c))).collect(),
    }
}

/// The elements of a tensor as numbers.
pub(in crate::exec) fn numbers<A: Acc>(data: &Data) -> Vec<A> {
    match data {
        Data::F32(v) => v.iter().map(|&x| A::of_f32(x)).collect(),
        Data::F16(v) => v.iter().map(|x| A::of_f32(x.to_f32())).collect(),
        Data::BF16(v) => v.iter().map(|x| A::of_f32(x.to_f32())).collect(),
        other => other.to_f64().into_iter().map(A::of_f64).collect(),
    }
}
