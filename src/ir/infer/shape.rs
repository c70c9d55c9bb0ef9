//! Operations that move elements and compute nothing.

use super::check::{axis_of, count, factored, with_axis};
use super::rows::{counted, within};
use crate::ir::types::{Type, broadcast};
use crate::layout::Progression;

pub(super) fn reshape(shape: &[usize], x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    let t = Type::new(x[0].dtype, shape);
    if t.checked_elements() != x[0].checked_elements() {
        return Err(format!("{} has not as many elements as {t}", x[0]));
    }
    Ok(vec![t])
}

pub(super) fn permute(perm: &[usize], x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    let mut seen = perm.to_vec();
    seen.sort_unstable();
    if seen != (0..x[0].rank()).collect::<Vec<_>>() {
        return Err(format!("{perm:?} is no permutation of the axes of {}", x[0]));
    }
    Ok(vec![Type::new(x[0].dtype, perm.iter().map(|&a| x[0].shape[a]).collect::<Vec<_>>())])
}

pub(super) fn broadcast_to(shape: &[usize], x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    if broadcast(&x[0].shape, shape).as_deref() != Some(shape) {
        return Err(format!("{} does not broadcast to {shape:?}", x[0]));
    }
    Ok(vec![Type::new(x[0].dtype, shape)])
}

pub(super) fn slice(
    axis: usize,
    start: usize,
    len: usize,
    step: i64,
    x: &[&Type],
) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    axis_of(axis, x[0])?;
    let extent = x[0].shape[axis] as i128;
    let last = start as i128 + (len as i128 - 1) * i128::from(step);
    if step == 0 || (len > 0 && !((0..extent).contains(&(start as i128)) && (0..extent).contains(&last))) {
        return Err(format!("start {start}, len {len}, step {step} leave axis {axis} of {}", x[0]));
    }
    Ok(vec![with_axis(x[0], axis, len)])
}

pub(super) fn rows(
    axis: usize,
    (outer, inner): (usize, usize),
    rows: &[Progression],
    x: &[&Type],
) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    let length = factored(x[0], axis, outer, inner)?;
    within(rows, length)?;
    let extent = outer.saturating_mul(counted(rows)?).saturating_mul(inner);
    Ok(vec![with_axis(x[0], axis, extent)])
}

pub(super) fn concat(axis: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    let Some(first) = x.first() else { return Err("wants at least one operand".into()) };
    axis_of(axis, first)?;
    let mut extent = 0usize;
    for t in x {
        if t.rank() != first.rank() || with_axis(t, axis, 0) != with_axis(first, axis, 0) {
            return Err(format!("{first} and {t} differ beside axis {axis}"));
        }
        extent = extent.saturating_add(t.shape[axis]);
    }
    Ok(vec![with_axis(first, axis, extent)])
}

pub(super) fn pad(low: &[usize], high: &[usize], x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 2)?;
    if low.len() != x[0].rank() || high.len() != x[0].rank() {
        return Err(format!("{low:?} and {high:?} do not fit {}", x[0]));
    }
    if x[1].dtype != x[0].dtype || x[1].rank() != 0 {
        return Err(format!("pads {} with {}", x[0], x[1]));
    }
    let shape: Vec<usize> =
        (0..low.len()).map(|i| low[i].saturating_add(x[0].shape[i]).saturating_add(high[i])).collect();
    Ok(vec![Type::new(x[0].dtype, shape)])
}
