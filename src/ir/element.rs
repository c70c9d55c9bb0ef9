//! Elements as Rust types: a tensor from a vector or from borrowed bytes, and back.
//!
//! In: elements and a shape. Out: a [`Tensor`] that has as many elements as its shape says, or how many it would need.

use super::tensor::{Data, Tensor};
use super::types::{DType, Type};
use half::{bf16, f16};
use std::sync::Arc;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type whose values are elements of a tensor: f64, f32, f16, bf16, i64, i32 and bool, and no other.
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + Send + Sync + 'static {
    /// The element type.
    const DTYPE: DType;

    /// The elements as data.
    #[doc(hidden)]
    fn into_data(values: Vec<Self>) -> Data;

    /// The elements of data that is of this type.
    #[doc(hidden)]
    fn of_data(data: &Data) -> Option<&[Self]>;
}

macro_rules! element {
    ($($t:ty => $variant:ident),*) => {$(
        impl sealed::Sealed for $t {}

        impl Element for $t {
            const DTYPE: DType = DType::$variant;

            fn into_data(values: Vec<Self>) -> Data {
                Data::$variant(Arc::new(values))
            }

            fn of_data(data: &Data) -> Option<&[Self]> {
                match data {
                    Data::$variant(v) => Some(v),
                    _ => None,
                }
            }
        }
    )*};
}
element!(f64 => F64, f32 => F32, f16 => F16, bf16 => BF16, i64 => I64, i32 => I32, bool => Bool);

/// Why elements are no tensor of a shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// There are more or fewer elements than the shape says.
    #[error("{ty} has {} elements, and {given} are given", .ty.elements())]
    Elements {
        /// The type that was asked for.
        ty: Type,
        /// How many elements there are.
        given: usize,
    },
    /// There are more or fewer bytes than the shape says.
    #[error("{ty} has {} bytes, and {given} are given", .ty.bytes())]
    Bytes {
        /// The type that was asked for.
        ty: Type,
        /// How many bytes there are.
        given: usize,
    },
    /// No value may be so large.
    #[error("{ty} has more than 2^40 elements")]
    TooLarge {
        /// The type that was asked for.
        ty: Type,
    },
}

impl Tensor {
    /// A tensor of these elements, row-major; the vector is taken, not copied.
    ///
    /// ```
    /// use annulus::ir::{DType, Tensor, f16};
    ///
    /// let x = Tensor::from_vec([2, 3], vec![0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0])?;
    /// assert_eq!((x.dtype(), x.shape()), (DType::F32, &[2, 3][..]));
    /// assert_eq!(x.as_slice::<f32>(), Some(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0][..]));
    /// // It has no elements of another type.
    /// assert_eq!(x.as_slice::<f64>(), None);
    ///
    /// let halves = Tensor::from_vec([1], vec![f16::from_f32(0.5)])?;
    /// assert_eq!(halves.to_f64(), [0.5]);
    ///
    /// let short = Tensor::from_vec([2, 3], vec![true; 5]).unwrap_err();
    /// assert_eq!(short.to_string(), "bool[2,3] has 6 elements, and 5 are given");
    /// # Ok::<(), annulus::ir::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// If the number of elements is not that of the shape, or the shape has more elements than any value may have.
    pub fn from_vec<T: Element>(shape: impl Into<Vec<usize>>, values: Vec<T>) -> Result<Tensor, TensorError> {
        let (ty, given) = (Type::new(T::DTYPE, shape), values.len());
        match ty.data_elements() {
            None => Err(TensorError::TooLarge { ty }),
            Some(n) if n != given => Err(TensorError::Elements { ty, given }),
            Some(_) => made(ty, T::into_data(values)),
        }
    }

    /// A tensor of elements that stand somewhere as little-endian bytes, row-major, which are copied: at no particular
    /// alignment, a truth value as one byte that is not 0.
    ///
    /// ```
    /// use annulus::ir::{DType, Tensor};
    ///
    /// let bytes = [1, 0, 0, 0, 255, 255, 255, 255];
    /// let x = Tensor::from_le_bytes(DType::I32, [2], &bytes)?;
    /// assert_eq!(x.as_slice::<i32>(), Some(&[1, -1][..]));
    /// assert_eq!(x.to_le_bytes(), bytes);
    ///
    /// let long = Tensor::from_le_bytes(DType::F64, [2, 0], &bytes).unwrap_err();
    /// assert_eq!(long.to_string(), "f64[2,0] has 0 bytes, and 8 are given");
    /// # Ok::<(), annulus::ir::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// If the number of bytes is not that of the shape, or the shape has more elements than any value may have.
    pub fn from_le_bytes(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        bytes: &[u8],
    ) -> Result<Tensor, TensorError> {
        let (ty, given) = (Type::new(dtype, shape), bytes.len());
        match ty.data_elements() {
            None => Err(TensorError::TooLarge { ty }),
            Some(n) if n * dtype.bytes() != given => Err(TensorError::Bytes { ty, given }),
            Some(_) => match Data::from_le_bytes(dtype, bytes) {
                Some(data) => made(ty, data),
                None => Err(TensorError::Bytes { ty, given }),
            },
        }
    }

    /// The elements, row-major, if they are of this type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::of_data(self.data())
    }

    /// The elements as little-endian bytes, row-major.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        self.data().to_le_bytes()
    }
}

/// A tensor of data whose length was looked at.
fn made(ty: Type, data: Data) -> Result<Tensor, TensorError> {
    let given = data.len();
    Tensor::new(ty.shape.clone(), data).ok_or(TensorError::Elements { ty, given })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::MAX_DATA;

    fn round<T: Element + std::fmt::Debug>(values: Vec<T>) {
        let x = Tensor::from_vec([values.len() / 2, 2], values.clone()).unwrap();
        assert_eq!((x.dtype(), x.as_slice::<T>()), (T::DTYPE, Some(&values[..])));
        let mut bytes = vec![7];
        bytes.extend(x.to_le_bytes());
        // From where no element is aligned.
        assert_eq!(Tensor::from_le_bytes(T::DTYPE, x.shape(), &bytes[1..]).unwrap(), x);
        let given = bytes.len();
        let more = Tensor::from_le_bytes(T::DTYPE, x.shape(), &bytes).unwrap_err();
        assert_eq!(more, TensorError::Bytes { ty: x.ty(), given });
        let given = values.len();
        let ty = Type::new(T::DTYPE, [3, given]);
        assert_eq!(Tensor::from_vec([3, given], values), Err(TensorError::Elements { ty, given }));
    }

    #[test]
    fn every_type_goes_in_and_comes_out() {
        round(vec![1.5f64, -0.0, f64::MAX, f64::INFINITY]);
        round(vec![1.5f32, -2.0]);
        round(vec![f16::from_f32(0.25), f16::MAX]);
        round(vec![bf16::from_f32(0.25), bf16::MIN]);
        round(vec![i64::MIN, 1 << 60]);
        round(vec![i32::MIN, -1]);
        round(vec![true, false]);
        assert_eq!(Tensor::from_vec([0, 5], Vec::<f32>::new()).unwrap().len(), 0);
        assert_eq!(Tensor::from_vec([], vec![3i64]).unwrap(), Tensor::scalar(DType::I64, 3.0));
    }

    #[test]
    fn no_shape_is_too_large_to_be_refused() {
        for shape in [vec![MAX_DATA, 2], vec![usize::MAX; 3], vec![0, usize::MAX]] {
            let ty = Type::new(DType::F32, shape.clone());
            let large = Err(TensorError::TooLarge { ty });
            assert_eq!(Tensor::from_vec(shape.clone(), vec![1.0f32]), large);
            assert_eq!(Tensor::from_le_bytes(DType::F32, shape, &[0; 4]), large);
        }
    }
}
