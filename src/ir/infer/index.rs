//! Operations steered by index tensors, and the k largest.

use super::check::{axis_of, count, with_axis};
use crate::ir::op::Binary;
use crate::ir::types::{DType, Type};

pub(super) fn gather(axis: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 2)?;
    axis_of(axis, x[0])?;
    indices(x[1])?;
    let mut shape = x[0].shape[..axis].to_vec();
    shape.extend(&x[1].shape);
    shape.extend(&x[0].shape[axis + 1..]);
    Ok(vec![Type::new(x[0].dtype, shape)])
}

pub(super) fn gather_nd(batch: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 2)?;
    indices(x[1])?;
    let depth = tuple(x[0], x[1], batch)?;
    let mut shape = x[1].shape[..x[1].rank() - 1].to_vec();
    shape.extend(&x[0].shape[batch + depth..]);
    Ok(vec![Type::new(x[0].dtype, shape)])
}

pub(super) fn scatter_nd(how: Option<Binary>, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 3)?;
    use Binary::{Add, Max, Min, Mul};
    match how {
        None => {}
        Some(Add | Mul | Min | Max) if x[0].dtype != DType::Bool => {}
        Some(Add | Mul | Min | Max) => return Err(format!("does not combine {}", x[0])),
        Some(other) => return Err(format!("does not combine by {}", other.name())),
    }
    indices(x[1])?;
    let depth = tuple(x[0], x[1], 0)?;
    let mut shape = x[1].shape[..x[1].rank() - 1].to_vec();
    shape.extend(&x[0].shape[depth..]);
    if *x[2] != Type::new(x[0].dtype, shape.clone()) {
        return Err(format!("updates are {}, not {}", x[2], Type::new(x[0].dtype, shape)));
    }
    Ok(vec![x[0].clone()])
}

pub(super) fn topk(axis: usize, k: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    axis_of(axis, x[0])?;
    if k > x[0].shape[axis] {
        return Err(format!("{k} of axis {axis} of {}", x[0]));
    }
    let t = with_axis(x[0], axis, k);
    let i = Type::new(DType::I64, t.shape.clone());
    Ok(vec![t, i])
}

/// Checks that a type is one of indices.
fn indices(t: &Type) -> Result<(), String> {
    if matches!(t.dtype, DType::I64 | DType::I32) { Ok(()) } else { Err(format!("indices are {t}")) }
}

/// How many numbers an index tuple has.
fn tuple(x: &Type, i: &Type, batch: usize) -> Result<usize, String> {
    let depth = i.shape.last().copied().unwrap_or(usize::MAX);
    let ok = i.rank() > batch
        && x.rank() >= batch
        && depth <= x.rank() - batch
        && x.shape[..batch] == i.shape[..batch];
    if ok { Ok(depth) } else { Err(format!("index tuples {i} do not fit {x} with {batch} batch axes")) }
}
