//! Folds along axes: reductions, softmax, running sums.
//!
//! Sums are pairwise, in an order that depends on the length alone.

use super::number::{Scalar, with_scalar, wrap};
use super::real::{Real, with_real};
use super::walk::{around, copy, strides};
use crate::ir::{Data, Reduction, Tensor};
use std::borrow::Cow;

/// Pairwise sum: the error grows with the logarithm of the length.
pub(super) fn sum<A: Scalar>(x: &[A]) -> A {
    const LANES: usize = 8;
    const LEAF: usize = 8 * LANES;
    if x.len() > LEAF {
        // Half, rounded to whole leaves. The depth is the logarithm of the length.
        let half = x.len().div_ceil(2 * LEAF) * LEAF;
        return sum(&x[..half]).add(sum(&x[half..]));
    }
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut lanes = [A::ZERO; LANES];
    for chunk in whole {
        lanes.iter_mut().zip(chunk).for_each(|(s, &y)| *s = s.add(y));
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    let lanes = a.add(b).add(c.add(d)).add(e.add(f).add(g.add(h)));
    lanes.add(rest.iter().fold(A::ZERO, |s, &y| s.add(y)))
}

fn no<R>(x: &Tensor) -> Result<R, String> {
    Err(format!("does not take {}", x.dtype()))
}

pub(super) fn reduce(x: &Tensor, kind: Reduction, axes: &[usize]) -> Result<Data, String> {
    with_scalar!(x.data(), v => fold(v, x.shape(), kind, axes), no(x))
}

fn fold<T: Scalar>(v: &[T], shape: &[usize], kind: Reduction, axes: &[usize]) -> Result<Data, String> {
    let kept: Vec<usize> = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
    let count: usize = kept.iter().map(|&a| shape[a]).product();
    let n: usize = axes.iter().map(|&a| shape[a]).product();
    let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let rows = if order.is_sorted() {
        Cow::Borrowed(v)
    } else {
        let own = strides(shape);
        let extents: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
        let view: Vec<isize> = order.iter().map(|&a| own[a]).collect();
        Cow::Owned(copy(v, &extents, &view, 0))
    };
    let one = |row: &[T]| -> Option<T> {
        let each = |start: T, f: fn(T, T) -> T| row.iter().fold(start, |s, &x| f(s, x));
        match kind {
            Reduction::Sum => Some(sum(row)),
            Reduction::Mean => T::mean(sum(row), n),
            Reduction::Max => Some(each(T::LEAST, T::max)),
            Reduction::Min => Some(each(T::GREATEST, T::min)),
            Reduction::Prod => Some(each(T::ONE, T::mul)),
        }
    };
    let values: Option<Vec<T>> = (0..count).map(|i| one(&rows[i * n..(i + 1) * n])).collect();
    values.map(wrap).ok_or_else(|| "the integer mean of nothing".into())
}

pub(super) fn softmax(x: &Tensor, axis: usize) -> Result<Data, String> {
    with_real!(x.data(), v => Ok(wrap(soften(v, around(x.shape(), axis)))), no(x))
}

/// A row of nothing but −∞ gives NaN, as −∞ − −∞ does.
fn soften<T: Real>(v: &[T], (outer, n, inner): (usize, usize, usize)) -> Vec<T> {
    let mut out = v.to_vec();
    let mut row = vec![T::ZERO; n];
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| (o * n + j) * inner + i;
            (0..n).for_each(|j| row[j] = v[at(j)]);
            let most = row.iter().fold(T::LEAST, |m, &x| m.max(x));
            row.iter_mut().for_each(|x| *x = x.sub(most).exp());
            let total = sum(&row);
            (0..n).for_each(|j| out[at(j)] = row[j].div(total));
        }
    }
    out
}

pub(super) fn cumsum(x: &Tensor, axis: usize, exclusive: bool, reverse: bool) -> Result<Data, String> {
    let dims = around(x.shape(), axis);
    with_scalar!(x.data(), v => Ok(wrap(scan(v, dims, exclusive, reverse))), no(x))
}

fn scan<T: Scalar>(
    v: &[T],
    (outer, n, inner): (usize, usize, usize),
    exclusive: bool,
    reverse: bool,
) -> Vec<T> {
    let mut out = v.to_vec();
    for o in 0..outer {
        for i in 0..inner {
            let mut total = T::ZERO;
            for j in 0..n {
                let at = (o * n + if reverse { n - 1 - j } else { j }) * inner + i;
                let with = total.add(v[at]);
                out[at] = if exclusive { total } else { with };
                total = with;
            }
        }
    }
    out
}
