//! What the rules of several families ask of operands, and the types that they make.

use crate::ir::types::Type;

/// Checks the number of operands.
pub(super) fn count(x: &[&Type], n: usize) -> Result<(), String> {
    let s = if n == 1 { "" } else { "s" };
    if x.len() == n { Ok(()) } else { Err(format!("wants {n} operand{s}, has {}", x.len())) }
}

/// Checks that a type has an axis.
pub(super) fn axis_of(axis: usize, t: &Type) -> Result<(), String> {
    if axis < t.rank() { Ok(()) } else { Err(format!("{t} has no axis {axis}")) }
}

/// The type with another extent of an axis; the type itself if it has no such axis.
pub(super) fn with_axis(t: &Type, axis: usize, extent: usize) -> Type {
    let mut t = t.clone();
    if let Some(e) = t.shape.get_mut(axis) {
        *e = extent;
    }
    t
}

/// The rows of an axis that is taken as (outer, rows, inner).
pub(super) fn factored(t: &Type, axis: usize, outer: usize, inner: usize) -> Result<usize, String> {
    let extent = t.shape.get(axis).ok_or_else(|| format!("{t} has no axis {axis}"))?;
    let around = outer.checked_mul(inner).filter(|&n| n > 0);
    match around {
        Some(n) if extent % n == 0 => Ok(extent / n),
        _ => Err(format!("axis {axis} of {t} is not {outer} × rows × {inner}")),
    }
}
