//! In which type values are kept.

use super::elementwise::cast;
use crate::ir::{DType, Tensor, Type};

/// In which type results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the graph declares them.
    Declared,
    /// Floating values in f64 throughout; a cast still rounds to its type, so that half-precision constants and overflows
    /// keep their meaning (but a cast that loses nothing of its declared operand, as f32 to f32, leaves it). Outputs are
    /// f64 where the graph declares a floating type.
    F64,
}

/// The type in which a value declared as `ty` is kept.
pub(super) fn held(ty: &Type, precision: Precision) -> Type {
    if precision == Precision::F64 && ty.dtype.is_float() {
        Type::new(DType::F64, ty.shape.clone())
    } else {
        ty.clone()
    }
}

/// The value in the type in which it is kept.
pub(super) fn hold(x: &Tensor, precision: Precision) -> Tensor {
    let to = held(&x.ty(), precision);
    if to.dtype == x.dtype() {
        return x.clone();
    }
    // As many elements as before.
    Tensor::new(to.shape, cast(x.data(), to.dtype)).unwrap_or_else(|| x.clone())
}
