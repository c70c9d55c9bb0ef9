//! Element types, shapes and the type of a value.

use super::narrow::{bf16_from_f64, f16_from_f64};
use std::fmt;

/// The largest number of elements that a type may have: 2^56, so that bytes of a few values add up in 63 bits. Such a value need not
/// exist: the scores of an attention that is found never do. What is made is bounded by [`MAX_DATA`], and by the memory that is there.
pub const MAX_ELEMENTS: usize = 1 << 56;

/// The largest number of elements of data, such as a constant, and of rows of a sequence: 2^40.
pub const MAX_DATA: usize = 1 << 40;

/// The largest number of axes that one value may have.
pub const MAX_RANK: usize = 64;

/// How deep graphs may nest: a graph with a region nests one deep.
pub(crate) const MAX_NESTING: usize = 32;

/// An element type. It may be matched exhaustively, on purpose: whoever hands tensors to annulus or takes them back has to know of
/// each, and hears from the compiler of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// A truth value, one byte in memory.
    Bool,
}

impl DType {
    /// Every element type, in the order of declaration.
    pub const ALL: [DType; 7] =
        [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::Bool];

    /// The name in the text form: `f64`, `f32`, `f16`, `bf16`, `i64`, `i32`, `bool`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::Bool => "bool",
        }
    }

    /// The type of that name, if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Bool => 1,
        }
    }

    /// The nearest number of a floating type, ties to even; of another type the number itself.
    pub fn round(self, x: f64) -> f64 {
        match self {
            DType::F32 => f64::from(x as f32),
            DType::F16 => f64::from(f16_from_f64(x)),
            DType::BF16 => f64::from(bf16_from_f64(x)),
            _ => x,
        }
    }

    /// Whether it is one of the four floating types.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether every number of this floating type is one of floating type `to`: a conversion loses nothing. A type is exact
    /// in itself; integers and truth values are exact in nothing here.
    pub fn is_exact_in(self, to: DType) -> bool {
        self == to && self.is_float()
            || matches!(
                (self, to),
                (DType::F16 | DType::BF16, DType::F32 | DType::F64) | (DType::F32, DType::F64)
            )
    }

    /// Whether it is another type that holds every number of this one.
    pub fn widens_to(self, to: DType) -> bool {
        self != to && self.is_exact_in(to)
    }

    /// The type in which partial attention results of this input type are kept
    /// (f64 for f64, f32 for every other floating type).
    pub fn accumulator(self) -> DType {
        if self == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// The type in which a rank keeps its part of a sum over ranks: f32 for the halves, so that the sum is rounded once, and
    /// every other type as it is.
    pub fn part(self) -> DType {
        if self.is_float() { self.accumulator() } else { self }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type of a value: its element type and its shape, outermost axis first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Extents; empty for a scalar. An extent may be 0.
    pub shape: Vec<usize>,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Type {
        Type { dtype, shape: shape.into() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements, or `None` above [`MAX_ELEMENTS`]. An extent of 0 counts as 1 for the bound, so that strides
    /// and products over some of the axes do not overflow either.
    pub fn checked_elements(&self) -> Option<usize> {
        self.elements_within(MAX_ELEMENTS)
    }

    /// Number of elements of data of this type, or `None` above [`MAX_DATA`], where an extent of 0 counts as 1 as well.
    pub fn data_elements(&self) -> Option<usize> {
        self.elements_within(MAX_DATA)
    }

    fn elements_within(&self, most: usize) -> Option<usize> {
        let mut n = 1usize;
        for &d in &self.shape {
            n = n.checked_mul(d.max(1)).filter(|&n| n <= most)?;
        }
        Some(if self.shape.contains(&0) { 0 } else { n })
    }

    /// Number of elements of a verified type.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in bytes of a verified type, without padding.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Row-major strides, in elements, of a shape.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1] * shape[i + 1].max(1);
    }
    out
}

/// The shape to which two shapes broadcast, aligned at their last axis as in NumPy and ONNX;
/// `None` if an axis differs and neither extent is 1.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], i: usize| {
        let missing = rank - s.len();
        if i < missing { 1 } else { s[i - missing] }
    };
    (0..rank)
        .map(|i| match (extent(a, i), extent(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::DType;

    #[test]
    fn a_type_is_exact_in_one_of_no_fewer_bits_of_exponent_and_fraction() {
        let bits = |t: DType| match t {
            DType::F64 => Some((11, 52)),
            DType::F32 => Some((8, 23)),
            DType::F16 => Some((5, 10)),
            DType::BF16 => Some((8, 7)),
            DType::I64 | DType::I32 | DType::Bool => None,
        };
        for from in DType::ALL {
            for to in DType::ALL {
                let want = bits(from).zip(bits(to)).is_some_and(|((e, f), (e2, f2))| e <= e2 && f <= f2);
                assert_eq!(from.is_exact_in(to), want, "{from} in {to}");
            }
        }
    }
}
