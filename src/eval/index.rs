//! Operations steered by index tensors, and the k largest.

use super::number::{Element, Scalar, same, with_scalar, wrap};
use super::shape::pick;
use super::walk::around;
use crate::ir::tensor::with_data;
use crate::ir::{Binary, Data, Tensor};
use std::cmp::Ordering;

/// Indices as places within `extent`; a negative one counts from the end.
fn places(indices: &Tensor, extent: impl Fn(usize) -> usize) -> Result<Vec<usize>, String> {
    let place = |(n, i): (usize, i64)| {
        let e = extent(n);
        let p = if i < 0 { i.checked_add_unsigned(e as u64) } else { Some(i) };
        p.and_then(|p| usize::try_from(p).ok())
            .filter(|&p| p < e)
            .ok_or_else(|| format!("index {i} is not among {e}"))
    };
    match indices.data() {
        Data::I64(v) => v.iter().copied().enumerate().map(place).collect(),
        Data::I32(v) => v.iter().map(|&i| i64::from(i)).enumerate().map(place).collect(),
        other => Err(format!("indices are {}", other.dtype())),
    }
}

pub(super) fn gather(x: &Tensor, indices: &Tensor, axis: usize) -> Result<Data, String> {
    let dims = around(x.shape(), axis);
    let at = places(indices, |_| dims.1)?;
    Ok(with_data!(x.data(), v => wrap(pick(v, dims, &at))))
}

/// The flat place of each index tuple, in slices of what the tuples leave.
fn tuples(x: &[usize], indices: &Tensor) -> Result<Vec<usize>, String> {
    let depth = indices.shape().last().copied().unwrap_or(0);
    if depth == 0 {
        return Ok(vec![0; indices.shape().iter().rev().skip(1).product()]);
    }
    let at = places(indices, |n| x[n % depth])?;
    Ok(at.chunks(depth).map(|t| t.iter().zip(x).fold(0, |p, (&i, &e)| p * e + i)).collect())
}

pub(super) fn gather_nd(x: &Tensor, indices: &Tensor, batch: usize) -> Result<Data, String> {
    let depth = indices.shape().last().copied().unwrap_or(0);
    let entries: usize = x.shape()[..batch].iter().product();
    let inner: usize = x.shape()[batch + depth..].iter().product();
    let slices: usize = x.shape()[batch..batch + depth].iter().product();
    let flat = tuples(&x.shape()[batch..], indices)?;
    let each = flat.len() / entries.max(1);
    let at: Vec<usize> = flat.iter().enumerate().map(|(n, &p)| n / each.max(1) * slices + p).collect();
    Ok(with_data!(x.data(), v => wrap(pick(v, (1, 0, inner), &at))))
}

/// Replaces, and then later tuples win, or combines, one tuple after the other.
pub(super) fn scatter_nd(
    x: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    how: Option<Binary>,
) -> Result<Data, String> {
    if updates.is_empty() {
        return Ok(x.data().clone());
    }
    let depth = indices.shape().last().copied().unwrap_or(0);
    let inner = x.shape()[depth..].iter().product();
    let at = tuples(x.shape(), indices)?;
    let updates = updates.data();
    let Some(how) = how else {
        return with_data!(x.data(), v => put(v, &at, updates, inner, |_, new| new));
    };
    let no = || Err(format!("does not combine {} by {}", x.dtype(), how.name()));
    with_scalar!(x.data(), v => match how {
        Binary::Add => put(v, &at, updates, inner, Scalar::add),
        Binary::Mul => put(v, &at, updates, inner, Scalar::mul),
        Binary::Min => put(v, &at, updates, inner, Scalar::min),
        Binary::Max => put(v, &at, updates, inner, Scalar::max),
        _ => no(),
    }, no())
}

fn put<T: Element>(
    x: &[T],
    at: &[usize],
    updates: &Data,
    inner: usize,
    combine: impl Fn(T, T) -> T,
) -> Result<Data, String> {
    let updates = same::<T>(updates)?;
    let mut out = x.to_vec();
    for (n, &p) in at.iter().enumerate() {
        let slice = &mut out[p * inner..(p + 1) * inner];
        slice.iter_mut().zip(&updates[n * inner..]).for_each(|(old, &new)| *old = combine(*old, new));
    }
    Ok(wrap(out))
}

/// Values and places of the k best along an axis; NaN counts as the largest.
pub(super) fn topk(x: &Tensor, axis: usize, k: usize, largest: bool) -> Result<(Data, Data), String> {
    let dims = around(x.shape(), axis);
    with_scalar!(x.data(), v => Ok(best(v, dims, k, largest)), Err(format!("does not take {}", x.dtype())))
}

fn best<T: Scalar>(
    v: &[T],
    (outer, n, inner): (usize, usize, usize),
    k: usize,
    largest: bool,
) -> (Data, Data) {
    let compare = |a: T, b: T| {
        a.partial_cmp(&b).unwrap_or_else(|| {
            // Of two, at least one is NaN: it is unequal to itself.
            let (a_nan, b_nan) = (a.partial_cmp(&a).is_none(), b.partial_cmp(&b).is_none());
            a_nan.cmp(&b_nan)
        })
    };
    let mut values = vec![T::default(); outer * k * inner];
    let mut indices = vec![0i64; outer * k * inner];
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| v[(o * n + j) * inner + i];
            let mut order: Vec<usize> = (0..n).collect();
            // The sort is stable: ties stay in the order of their places.
            order.sort_by(|&a, &b| {
                let c = compare(at(a), at(b));
                if largest { Ordering::reverse(c) } else { c }
            });
            for (r, &j) in order[..k].iter().enumerate() {
                values[(o * k + r) * inner + i] = at(j);
                indices[(o * k + r) * inner + i] = j as i64;
            }
        }
    }
    (wrap(values), wrap(indices))
}
