//! A tensor: a type and its elements, row-major, shared and never changed in place.

use super::narrow::{bf16_from_f64, f16_from_f64};
use super::types::{DType, Type};
use half::{bf16, f16};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The elements of a tensor in their own type. Sharing is by `Arc`, so that a clone copies nothing. It may be matched
/// exhaustively, as [`DType`] may.
#[derive(Clone, Debug)]
pub enum Data {
    /// f64 elements.
    F64(Arc<Vec<f64>>),
    /// f32 elements.
    F32(Arc<Vec<f32>>),
    /// f16 elements.
    F16(Arc<Vec<f16>>),
    /// bf16 elements.
    BF16(Arc<Vec<bf16>>),
    /// i64 elements.
    I64(Arc<Vec<i64>>),
    /// i32 elements.
    I32(Arc<Vec<i32>>),
    /// Truth values.
    Bool(Arc<Vec<bool>>),
}

/// Runs `$body` with `$v` bound to the elements, whatever their type.
macro_rules! with_data {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::ir::Data::F64($v) => $body,
            $crate::ir::Data::F32($v) => $body,
            $crate::ir::Data::F16($v) => $body,
            $crate::ir::Data::BF16($v) => $body,
            $crate::ir::Data::I64($v) => $body,
            $crate::ir::Data::I32($v) => $body,
            $crate::ir::Data::Bool($v) => $body,
        }
    };
}
pub(crate) use with_data;

impl Data {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Data::F64(_) => DType::F64,
            Data::F32(_) => DType::F32,
            Data::F16(_) => DType::F16,
            Data::BF16(_) => DType::BF16,
            Data::I64(_) => DType::I64,
            Data::I32(_) => DType::I32,
            Data::Bool(_) => DType::Bool,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        with_data!(self, v => v.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of type `dtype` from f64 numbers, rounded to nearest even (integers truncate, a truth value is ≠ 0).
    pub fn from_f64(dtype: DType, values: &[f64]) -> Data {
        match dtype {
            DType::F64 => Data::F64(Arc::new(values.to_vec())),
            DType::F32 => Data::F32(Arc::new(values.iter().map(|&x| x as f32).collect())),
            DType::F16 => Data::F16(Arc::new(values.iter().map(|&x| f16_from_f64(x)).collect())),
            DType::BF16 => Data::BF16(Arc::new(values.iter().map(|&x| bf16_from_f64(x)).collect())),
            DType::I64 => Data::I64(Arc::new(values.iter().map(|&x| x as i64).collect())),
            DType::I32 => Data::I32(Arc::new(values.iter().map(|&x| x as i32).collect())),
            DType::Bool => Data::Bool(Arc::new(values.iter().map(|&x| x != 0.0).collect())),
        }
    }

    /// Every element as f64 (exact but for i64 beyond 2^53).
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Data::F64(v) => v.to_vec(),
            Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::F16(v) => v.iter().map(|&x| x.to_f64()).collect(),
            Data::BF16(v) => v.iter().map(|&x| x.to_f64()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Data::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }

    /// Elements from little-endian bytes (a truth value is one byte, ≠ 0); `None` if the length does not fit.
    pub fn from_le_bytes(dtype: DType, bytes: &[u8]) -> Option<Data> {
        if !bytes.len().is_multiple_of(dtype.bytes()) {
            return None;
        }
        macro_rules! read {
            ($variant:ident, $t:ty) => {
                Data::$variant(Arc::new(
                    bytes
                        .as_chunks::<{ size_of::<$t>() }>()
                        .0
                        .iter()
                        .map(|c| <$t>::from_le_bytes(*c))
                        .collect(),
                ))
            };
        }
        Some(match dtype {
            DType::F64 => read!(F64, f64),
            DType::F32 => read!(F32, f32),
            DType::F16 => read!(F16, f16),
            DType::BF16 => read!(BF16, bf16),
            DType::I64 => read!(I64, i64),
            DType::I32 => read!(I32, i32),
            DType::Bool => Data::Bool(Arc::new(bytes.iter().map(|&b| b != 0).collect())),
        })
    }

    /// The elements as little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::BF16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::Bool(v) => v.iter().map(|&x| u8::from(x)).collect(),
        }
    }
}

/// A tensor. Its data always has as many elements as its shape says.
///
/// ```
/// use annulus::ir::{DType, Tensor};
///
/// let x = Tensor::from_f64(DType::BF16, [2, 2], &[1.0, 0.1, -2.0, 3.0]).unwrap();
/// assert_eq!(x.ty().to_string(), "bf16[2,2]");
/// assert_eq!(x.to_f64(), [1.0, 0.10009765625, -2.0, 3.0]); // rounded to what bf16 holds
/// assert_eq!(Tensor::from_f64(DType::F32, [3], &[1.0]), None);
/// ```
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// A tensor, or `None` if the number of elements is not that of the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: Data) -> Option<Tensor> {
        let shape = shape.into();
        let want = Type::new(data.dtype(), shape.clone()).data_elements()?;
        (want == data.len()).then_some(Tensor { shape, data })
    }

    /// A tensor of `dtype` from f64 numbers; `None` if their count is not that of the shape.
    pub fn from_f64(dtype: DType, shape: impl Into<Vec<usize>>, values: &[f64]) -> Option<Tensor> {
        Tensor::new(shape, Data::from_f64(dtype, values))
    }

    /// A scalar of `dtype`.
    pub fn scalar(dtype: DType, value: f64) -> Tensor {
        Tensor { shape: vec![], data: Data::from_f64(dtype, &[value]) }
    }

    /// A vector of i64.
    pub fn vector_i64(values: &[i64]) -> Tensor {
        Tensor { shape: vec![values.len()], data: Data::I64(Arc::new(values.to_vec())) }
    }

    /// Element type and shape.
    pub fn ty(&self) -> Type {
        Type::new(self.data.dtype(), self.shape.clone())
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same elements under another shape; `None` if the count differs.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Option<Tensor> {
        Tensor::new(shape, self.data.clone())
    }

    /// Every element as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        self.data.to_f64()
    }

    /// Content hash: SHA-256 over type, shape and little-endian elements, the first 64 bits.
    /// It names a constant in text; equal content has an equal name.
    pub fn content_hash(&self) -> u64 {
        let mut h = Sha256::new();
        h.update(self.dtype().name().as_bytes());
        h.update((self.shape.len() as u64).to_le_bytes());
        for &d in &self.shape {
            h.update((d as u64).to_le_bytes());
        }
        h.update(self.data.to_le_bytes());
        let digest = h.finalize();
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }
}

/// Equal type, shape and bits; NaN equals a NaN of the same bits.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.shape == other.shape
            && self.dtype() == other.dtype()
            && self.data.to_le_bytes() == other.data.to_le_bytes()
    }
}
