//! Folds along axes and over ranks: reductions, softmax and running sums.

use super::check::{axis_of, count};
use crate::ir::op::Reduction;
use crate::ir::types::{DType, Type};

pub(super) fn reduce(axes: &[usize], keep: bool, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    if x[0].dtype == DType::Bool {
        return Err("does not take bool".into());
    }
    if !axes.is_sorted_by(|a, b| a < b) {
        return Err(format!("axes {axes:?} are not ascending"));
    }
    axes.iter().try_for_each(|&a| axis_of(a, x[0]))?;
    let shape: Vec<usize> = (0..x[0].rank())
        .filter_map(|i| match (axes.contains(&i), keep) {
            (false, _) => Some(x[0].shape[i]),
            (true, true) => Some(1),
            (true, false) => None,
        })
        .collect();
    Ok(vec![Type::new(x[0].dtype, shape)])
}

pub(super) fn all_reduce(
    kind: Reduction,
    ranks: usize,
    dtype: DType,
    x: &[&Type],
) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    if !matches!(kind, Reduction::Sum | Reduction::Max | Reduction::Min) {
        return Err(format!("does not fold parts by {}: want sum, max or min", kind.name()));
    }
    if ranks == 0 {
        return Err("there are 0 ranks".into());
    }
    if dtype == DType::Bool || x[0].dtype != dtype.part() {
        return Err(format!("the parts of a value of {dtype} are not {}", x[0]));
    }
    Ok(vec![Type::new(dtype, x[0].shape.clone())])
}

pub(super) fn softmax(axis: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    axis_of(axis, x[0])?;
    if !x[0].dtype.is_float() {
        return Err(format!("does not take {}", x[0]));
    }
    Ok(vec![x[0].clone()])
}

pub(super) fn cumsum(axis: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    axis_of(axis, x[0])?;
    if x[0].dtype == DType::Bool {
        return Err("does not take bool".into());
    }
    Ok(vec![x[0].clone()])
}
