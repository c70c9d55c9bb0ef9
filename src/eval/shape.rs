//! Operations that move elements and compute nothing.

use super::number::{Element, same, wrap};
use super::walk::{around, broadcast_strides, copy, strides};
use crate::ir::tensor::with_data;
use crate::ir::{Data, Tensor};
use crate::layout::Progression;

pub(super) fn permute(x: &Tensor, perm: &[usize], shape: &[usize]) -> Data {
    let own = strides(x.shape());
    let view: Vec<isize> = perm.iter().map(|&a| own[a]).collect();
    with_data!(x.data(), v => wrap(copy(v, shape, &view, 0)))
}

pub(super) fn broadcast(x: &Tensor, shape: &[usize]) -> Data {
    let view = broadcast_strides(x.shape(), shape);
    with_data!(x.data(), v => wrap(copy(v, shape, &view, 0)))
}

pub(super) fn slice(x: &Tensor, axis: usize, start: usize, step: i64, shape: &[usize]) -> Data {
    let mut view = strides(x.shape());
    let begin = start as isize * view[axis];
    view[axis] *= step as isize;
    with_data!(x.data(), v => wrap(copy(v, shape, &view, begin)))
}

/// Rows of an axis that is taken as (outer, length, inner).
pub(super) fn rows(x: &Tensor, axis: usize, (outer, inner): (usize, usize), rows: &[Progression]) -> Data {
    let (before, extent, after) = around(x.shape(), axis);
    let length = extent / (outer * inner).max(1);
    let picked: Vec<usize> = rows.iter().flat_map(Progression::rows).collect();
    with_data!(x.data(), v => wrap(pick(v, (before * outer, length, inner * after), &picked)))
}

/// Of x taken as (outer, length, inner), the slices that `picked` numbers.
pub(super) fn pick<T: Copy>(
    x: &[T],
    (outer, length, inner): (usize, usize, usize),
    picked: &[usize],
) -> Vec<T> {
    let mut out = Vec::with_capacity(outer * picked.len() * inner);
    for o in 0..outer {
        for &i in picked {
            let at = (o * length + i) * inner;
            out.extend_from_slice(&x[at..at + inner]);
        }
    }
    out
}

pub(super) fn concat(x: &[Tensor], axis: usize) -> Result<Data, String> {
    fn join<T: Element>(first: &[T], x: &[Tensor], axis: usize) -> Result<Data, String> {
        let parts: Vec<(&[T], usize)> = x
            .iter()
            .map(|t| {
                let (_, extent, inner) = around(t.shape(), axis);
                Ok((same::<T>(t.data())?, extent * inner))
            })
            .collect::<Result<_, String>>()?;
        let mut out = Vec::with_capacity(parts.iter().map(|(v, _)| v.len()).sum::<usize>().max(first.len()));
        for o in 0..around(x[0].shape(), axis).0 {
            for &(v, run) in &parts {
                out.extend_from_slice(&v[o * run..(o + 1) * run]);
            }
        }
        Ok(wrap(out))
    }
    with_data!(x[0].data(), v => join(v, x, axis))
}

pub(super) fn pad(x: &Tensor, with: &Tensor, low: &[usize], shape: &[usize]) -> Result<Data, String> {
    fn fill<T: Element>(
        v: &[T],
        x: &Tensor,
        with: &Data,
        low: &[usize],
        shape: &[usize],
    ) -> Result<Data, String> {
        let mut out = vec![same::<T>(with)?[0]; shape.iter().product()];
        if !v.is_empty() {
            let (from, to) = (strides(x.shape()), strides(shape));
            let start = low.iter().zip(&to).map(|(&l, &s)| l as isize * s).sum();
            let walk = super::walk::Walk::new(x.shape(), [&from, &to]);
            let [s, t] = walk.step.map(|s| s as usize);
            walk.runs([0, start], &mut |[i, o]| (0..walk.len).for_each(|n| out[o + n * t] = v[i + n * s]));
        }
        Ok(wrap(out))
    }
    with_data!(x.data(), v => fill(v, x, with.data(), low, shape))
}
