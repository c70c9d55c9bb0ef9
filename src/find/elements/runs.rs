//! Tensors of few distinct runs: each row of the last axis is a list of runs, and axes along which nothing changes are held
//! once. A causal mask over S rows and S keys takes memory linear in S.
//!
//! Invariant: the runs of every row add up to the extent of the last axis.

use super::abstract_value::Cell;

/// Most runs of one tensor, and most that are looked at on the way to it.
pub(crate) const RUNS: usize = 1 << 22;

/// What stands in a run.
pub(crate) trait Value: Copy + PartialEq {
    /// What the elements from number `n` on are.
    fn after(self, n: usize) -> Self;
    /// What the first element is.
    fn first(self) -> Self;
    /// What `len` elements of this and `more` of `next` are, if that can be said.
    fn joined(self, len: usize, next: Self, more: usize) -> Option<Self>;
    /// Puts together what single elements from place `from` on say as one run.
    fn gather(_runs: &mut Vec<(usize, Self)>, _from: usize) {}
}

impl Value for Cell {
    fn after(self, n: usize) -> Cell {
        Cell::after(self, n)
    }

    fn first(self) -> Cell {
        Cell::first(self)
    }

    fn joined(self, len: usize, next: Cell, more: usize) -> Option<Cell> {
        Cell::joined(self, len, next, more)
    }

    fn gather(runs: &mut Vec<(usize, Cell)>, from: usize) {
        crate::find::elements::abstract_value::count(runs, from);
    }
}

impl Value for (bool, bool) {
    fn after(self, _: usize) -> Self {
        self
    }

    fn first(self) -> Self {
        self
    }

    fn joined(self, _: usize, next: Self, _: usize) -> Option<Self> {
        (self == next).then_some(self)
    }
}

/// A tensor as runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Runs<T> {
    shape: Vec<usize>,
    /// Extents that are held of the axes before the last: the shape's, or 1 where all are the same.
    held: Vec<usize>,
    /// Where each row begins in `runs`; one more for the end.
    starts: Vec<usize>,
    runs: Vec<(usize, T)>,
}

/// Distances of rows along axes of which `held` are held.
fn strides(held: &[usize]) -> Vec<usize> {
    let mut out = vec![0; held.len()];
    let mut step = 1;
    for (s, &e) in out.iter_mut().zip(held).rev() {
        *s = if e == 1 { 0 } else { step };
        step *= e;
    }
    out
}

/// Strides of an operand for each of `rank` leading axes, aligned at the last.
fn aligned(held: &[usize], rank: usize) -> Vec<usize> {
    let mut out = vec![0; rank - held.len()];
    out.extend(strides(held));
    out
}

/// For each row of a result that holds `held`, the row of each operand with these strides.
pub(crate) fn places<const N: usize>(
    held: &[usize],
    strides: [Vec<usize>; N],
) -> impl Iterator<Item = [usize; N]> + use<N> {
    let held = held.to_vec();
    let total: usize = held.iter().product();
    let mut index = vec![0; held.len()];
    let mut at = [0; N];
    (0..total).map(move |_| {
        let here = at;
        for axis in (0..held.len()).rev() {
            index[axis] += 1;
            for (a, s) in at.iter_mut().zip(&strides) {
                *a += s[axis];
            }
            if index[axis] < held[axis] {
                break;
            }
            for (a, s) in at.iter_mut().zip(&strides) {
                *a -= s[axis] * index[axis];
            }
            index[axis] = 0;
        }
        here
    })
}

/// Cuts several rows of `len` elements into pieces in which each is one run: the length, and what stands in each.
pub(crate) fn meet<T: Value, const N: usize>(rows: [&[(usize, T)]; N], mut f: impl FnMut(usize, [T; N])) {
    let mut next = [0; N];
    // What is left of the run of each row, and how far it has been gone through.
    let mut done = [0; N];
    loop {
        let mut len = usize::MAX;
        for i in 0..N {
            while rows[i].get(next[i]).is_some_and(|r| r.0 == done[i]) {
                next[i] += 1;
                done[i] = 0;
            }
            let Some(r) = rows[i].get(next[i]) else { return };
            len = len.min(r.0 - done[i]);
        }
        f(len, std::array::from_fn(|i| rows[i][next[i]].1.after(done[i])));
        done.iter_mut().for_each(|d| *d += len);
    }
}

impl<T: Value> Runs<T> {
    /// Without rows so far: they follow in order, `held` many.
    pub(crate) fn new(shape: &[usize], held: Vec<usize>) -> Runs<T> {
        debug_assert_eq!(held.len(), shape.len().saturating_sub(1));
        Runs { shape: shape.to_vec(), held, starts: vec![0], runs: vec![] }
    }

    /// The same everywhere.
    pub(crate) fn all(shape: &[usize], value: T) -> Runs<T> {
        let mut r = Runs::new(shape, repeated(shape));
        for _ in 0..r.held.iter().product::<usize>() {
            r.push(last(shape), value);
            r.end();
        }
        r
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn held(&self) -> &[usize] {
        &self.held
    }

    /// Extents that are held of the axis at this place, counted from the last as 1; the last is always held.
    pub(crate) fn held_extent(&self, from_last: usize) -> usize {
        self.held.len().checked_sub(from_last - 1).map_or(1, |a| self.held[a])
    }

    /// Every run of every row.
    pub(crate) fn runs(&self) -> &[(usize, T)] {
        &self.runs
    }

    pub(crate) fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn row(&self, i: usize) -> &[(usize, T)] {
        &self.runs[self.starts[i]..self.starts[i + 1]]
    }

    /// Rows of this for each row of a result of `rank` axes.
    pub(crate) fn strides(&self, rank: usize) -> Vec<usize> {
        aligned(&self.held, rank.saturating_sub(1))
    }

    /// Appends to the row that is being written.
    pub(crate) fn push(&mut self, len: usize, value: T) {
        if len == 0 {
            return;
        }
        let open = self.starts.last().is_some_and(|&s| s < self.runs.len());
        if open
            && let Some(r) = self.runs.last_mut()
            && let Some(joined) = r.1.joined(r.0, value, len)
        {
            *r = (r.0 + len, joined);
            return;
        }
        self.runs.push((len, if len == 1 { value.first() } else { value }));
    }

    /// Ends the row that is being written. `None` if there are too many runs.
    pub(crate) fn end(&mut self) -> Option<()> {
        if let Some(&from) = self.starts.last() {
            T::gather(&mut self.runs, from);
        }
        self.starts.push(self.runs.len());
        (self.runs.len() <= RUNS && self.starts.len() <= RUNS).then_some(())
    }

    /// Each run as something else.
    pub(crate) fn map<U: Value>(&self, f: impl Fn(usize, T) -> U) -> Runs<U> {
        let mut out = Runs::new(&self.shape, self.held.clone());
        for i in 0..self.rows() {
            for &(n, v) in self.row(i) {
                out.push(n, f(n, v));
            }
            out.end();
        }
        out
    }

    /// Broadcast to a shape.
    pub(crate) fn broadcast(&self, shape: &[usize]) -> Option<Runs<T>> {
        let rank = shape.len().saturating_sub(1);
        let mut held = vec![1; rank - self.held.len()];
        held.extend(&self.held);
        for (h, &e) in held.iter_mut().zip(shape) {
            *h = if e == 0 { 0 } else { *h };
        }
        let spread = last(&self.shape) == 1 && last(shape) != 1;
        let mut out = Runs::new(shape, held.clone());
        for [i] in places(&held, [aligned(&self.held, rank)]) {
            for &(n, v) in self.row(i) {
                out.push(if spread { last(shape) } else { n }, v);
            }
            out.end()?;
        }
        Some(out)
    }

    /// The same elements under another shape.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Option<Runs<T>> {
        if last(shape) == last(&self.shape)
            && let Some(held) = regroup(lead(&self.shape), &self.held, lead(shape))
        {
            return Some(Runs { shape: shape.to_vec(), held, ..self.clone() });
        }
        // Rows without elements would be gone through for nothing.
        if self.shape.contains(&0) {
            return None;
        }
        let mut out = Runs::new(shape, lead(shape).to_vec());
        let (mut left, mut seen) = (last(shape), 0);
        for [i] in places(lead(&self.shape), [strides(&self.held)]) {
            for &(n, v) in self.row(i) {
                let mut done = 0;
                while done < n {
                    let take = left.min(n - done);
                    out.push(take, v.after(done));
                    done += take;
                    left -= take;
                    if left == 0 {
                        out.end()?;
                        left = last(shape);
                    }
                }
                seen += 1;
                if seen > RUNS {
                    return None;
                }
            }
        }
        (out.rows() == lead(shape).iter().product::<usize>()).then(|| out.condensed())
    }

    /// With axes held once along which all rows are the same, where that is every axis.
    pub(crate) fn condensed(self) -> Runs<T> {
        if self.rows() > 1 && (1..self.rows()).all(|i| self.row(i) == self.row(0)) {
            let mut out = Runs::new(&self.shape, repeated(&self.shape));
            out.runs = self.row(0).to_vec();
            out.starts.push(out.runs.len());
            return out;
        }
        self
    }

    /// Result axis i is axis `perm[i]`.
    pub(crate) fn permute(&self, perm: &[usize]) -> Option<Runs<T>> {
        let Some((&to_last, leading)) = perm.split_last() else { return Some(self.clone()) };
        if to_last == self.held.len() {
            let held: Vec<usize> = leading.iter().map(|&a| self.held[a]).collect();
            let own = strides(&self.held);
            let shape: Vec<usize> = perm.iter().map(|&a| self.shape[a]).collect();
            let mut out = Runs::new(&shape, held.clone());
            for [i] in places(&held, [leading.iter().map(|&a| own[a]).collect()]) {
                for &(n, v) in self.row(i) {
                    out.push(n, v);
                }
                out.end()?;
            }
            return Some(out);
        }
        // The axis that becomes the last beside the last, those two exchanged, and the last where it belongs.
        let n = self.held.len();
        let others = leading.iter().copied().filter(|&a| a != n);
        let first: Vec<usize> = others.clone().chain([to_last, n]).collect();
        let turned = self.permute(&first)?.transpose()?;
        let place = |axis: usize| match axis {
            a if a == to_last => n,
            a if a == n => n - 1,
            a => first.iter().position(|&f| f == a).unwrap_or(0),
        };
        let second: Vec<usize> = perm.iter().map(|&a| place(a)).collect();
        turned.permute(&second)
    }

    /// The last two axes exchanged.
    fn transpose(&self) -> Option<Runs<T>> {
        let n = self.shape.len();
        let (rows, cols) = (self.shape[n - 2], self.shape[n - 1]);
        if cols > RUNS {
            return None;
        }
        let mut shape = self.shape.clone();
        shape.swap(n - 2, n - 1);
        let outer = &self.held[..n - 2];
        let mut held = outer.to_vec();
        held.push(cols);
        let mut out = Runs::new(&shape, held);
        let mut seen = 0;
        let once = self.held[n - 2] == 1;
        for block in 0..outer.iter().product() {
            let row = |i: usize| self.row(if once { block } else { block * rows + i });
            // For each column where its runs begin, and what they are.
            let mut columns: Vec<Vec<(usize, T)>> = vec![vec![]; cols];
            for i in 0..if once { rows.min(1) } else { rows } {
                let mut j = 0;
                let mut put = |len: usize, v: T, changed: bool| {
                    if changed {
                        for c in 0..len {
                            columns[j + c].push((i, v.after(c).first()));
                        }
                        seen += len;
                    }
                    j += len;
                };
                if i == 0 {
                    row(0).iter().for_each(|&(n, v)| put(n, v, true));
                } else {
                    meet([row(i - 1), row(i)], |n, [a, b]| put(n, b, a != b));
                }
                if seen > RUNS {
                    return None;
                }
            }
            for c in columns {
                let ends = c.iter().skip(1).map(|r| r.0).chain([rows]);
                for (&(begin, v), end) in c.iter().zip(ends) {
                    out.push(end - begin, v);
                }
                out.end()?;
            }
        }
        Some(out)
    }

    /// Elements start, start+step, … of an axis, within its extent.
    pub(crate) fn slice(&self, axis: usize, start: usize, len: usize, step: i64) -> Option<Runs<T>> {
        let mut shape = self.shape.clone();
        shape[axis] = len;
        if self.held.get(axis) == Some(&1) && len > 0 {
            return Some(Runs { shape, ..self.clone() });
        }
        if axis == self.held.len() && step == 1 {
            return self.range(&shape, start);
        }
        if len > RUNS {
            return None;
        }
        let which: Vec<usize> = (0..len as i64).map(|i| (start as i64 + i * step) as usize).collect();
        self.pick(axis, &which)
    }

    /// The last axis from `from` on, as far as the shape says.
    fn range(&self, shape: &[usize], from: usize) -> Option<Runs<T>> {
        let mut out = Runs::new(shape, self.held.clone());
        let to = from + last(shape);
        for i in 0..self.rows() {
            let mut at = 0;
            for &(n, v) in self.row(i) {
                let (a, b) = (at.max(from), (at + n).min(to));
                if a < b {
                    out.push(b - a, v.after(a - at));
                }
                at += n;
            }
            out.end()?;
        }
        Some(out)
    }

    /// Elements `which` of an axis.
    pub(crate) fn pick(&self, axis: usize, which: &[usize]) -> Option<Runs<T>> {
        let mut shape = self.shape.clone();
        shape[axis] = which.len();
        if axis < self.held.len() {
            let mut held = self.held.clone();
            if held[axis] != 1 {
                held[axis] = which.len();
            } else if which.is_empty() {
                held[axis] = 0;
            }
            let own = strides(&self.held);
            let inner: usize = held[axis + 1..].iter().product();
            let flat: Vec<usize> =
                own.iter().enumerate().map(|(a, &s)| if a == axis { 0 } else { s }).collect();
            let mut out = Runs::new(&shape, held.clone());
            for (r, [i]) in places(&held, [flat]).enumerate() {
                let along = if self.held[axis] == 1 { 0 } else { which[r / inner.max(1) % held[axis]] };
                for &(n, v) in self.row(i + along * own[axis]) {
                    out.push(n, v);
                }
                out.end()?;
            }
            return Some(out);
        }
        if let Some(&from) = which.first()
            && which.windows(2).all(|w| w[1] == w[0] + 1)
        {
            return self.range(&shape, from);
        }
        let mut seen = 0;
        let mut out = Runs::new(&shape, self.held.clone());
        for i in 0..self.rows() {
            let ends: Vec<usize> = self
                .row(i)
                .iter()
                .scan(0, |e, r| {
                    *e += r.0;
                    Some(*e)
                })
                .collect();
            for &w in which {
                let p = ends.partition_point(|&e| e <= w);
                let &(n, v) = self.row(i).get(p)?;
                out.push(1, v.after(w + n - ends[p]).first());
            }
            seen += which.len();
            out.end().filter(|()| seen <= RUNS)?;
        }
        Some(out)
    }

    /// Joined along an axis.
    pub(crate) fn concat(parts: &[Runs<T>], axis: usize) -> Option<Runs<T>> {
        let first = parts.first()?;
        let mut shape = first.shape.clone();
        shape[axis] = parts.iter().map(|p| p.shape[axis]).sum();
        let rank = first.held.len();
        let mut held: Vec<usize> =
            (0..rank).map(|a| parts.iter().map(|p| p.held[a]).max().unwrap_or(1)).collect();
        if axis < rank {
            held[axis] = shape[axis];
        }
        if held.contains(&0) {
            held.iter_mut().zip(&shape).for_each(|(h, &e)| *h = if e == 0 { 0 } else { *h });
        }
        // Part and place of each element of the axis.
        let owner: Vec<(usize, usize)> =
            parts.iter().enumerate().flat_map(|(p, x)| (0..x.shape[axis]).map(move |i| (p, i))).collect();
        let own: Vec<Vec<usize>> = parts.iter().map(|p| strides(&p.held)).collect();
        let mut out = Runs::new(&shape, held.clone());
        let counts = strides(&held);
        for r in 0..held.iter().product::<usize>() {
            let index = |a: usize| r.checked_div(counts[a]).map_or(0, |n| n % held[a]);
            let place =
                |p: usize| (0..rank).filter(|&a| a != axis).map(|a| index(a) * own[p][a]).sum::<usize>();
            if axis < rank {
                let (p, i) = owner[index(axis)];
                parts[p].row(place(p) + i * own[p][axis]).iter().for_each(|&(n, v)| out.push(n, v));
            } else {
                for (p, part) in parts.iter().enumerate() {
                    part.row(place(p)).iter().for_each(|&(n, v)| out.push(n, v));
                }
            }
            out.end()?;
        }
        Some(out)
    }
}

/// The extent of the last axis; a scalar has one element.
fn last(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

fn lead(shape: &[usize]) -> &[usize] {
    &shape[..shape.len().saturating_sub(1)]
}

/// Nothing held but one of each axis.
pub(crate) fn repeated(shape: &[usize]) -> Vec<usize> {
    lead(shape).iter().map(|&e| e.min(1)).collect()
}

/// What is held of axes `new` that are axes `old` put together or cut; `None` if that cannot be said of them.
fn regroup(old: &[usize], held: &[usize], new: &[usize]) -> Option<Vec<usize>> {
    if old.iter().product::<usize>() != new.iter().product::<usize>() || old.contains(&0) {
        return None;
    }
    let mut out = vec![1; new.len()];
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        // The next axes on both sides that hold the same number of rows.
        let (from, to) = (i, j);
        let (mut a, mut b) = (1, 1);
        while i == from || j == to || a != b {
            if (a <= b || j == new.len()) && i < old.len() {
                a *= old[i];
                i += 1;
            } else if j < new.len() {
                b *= new[j];
                j += 1;
            } else {
                break;
            }
        }
        if a != b {
            return None;
        }
        if held[from..i].iter().all(|&h| h == 1) {
            continue;
        }
        if held[from..i] != old[from..i] {
            return None;
        }
        out[to..j].copy_from_slice(&new[to..j]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Precision, apply};
    use crate::ir::{Data, Op, Tensor};
    use proptest::prelude::*;
    use std::sync::Arc;

    impl Runs<Cell> {
        /// Every element, where each is one number.
        fn dense(&self) -> Tensor {
            let mut values = vec![];
            for [i] in places(lead(&self.shape), [strides(&self.held)]) {
                for &(n, v) in self.row(i) {
                    for e in 0..n {
                        let Cell::Line { at, .. } = v.after(e) else { panic!("no number") };
                        values.push(at as i64);
                    }
                }
            }
            Tensor::new(self.shape.clone(), Data::I64(Arc::new(values))).unwrap()
        }
    }

    /// Elements that repeat, count and jump.
    fn runs(shape: &[usize], held: &[bool], numbers: &[u8]) -> Runs<Cell> {
        let held: Vec<usize> = lead(shape).iter().zip(held).map(|(&e, &h)| if h { e } else { 1 }).collect();
        let mut r = Runs::new(shape, held.clone());
        let mut at = 0;
        for _ in 0..held.iter().product::<usize>() {
            let mut left = last(shape);
            while left > 0 {
                at = (at + 1) % numbers.len();
                let (n, x) = (usize::from(numbers[at] % 3) + 1, f64::from(numbers[at] % 5));
                let n = n.min(left);
                r.push(n, Cell::line(x, f64::from(numbers[at] / 128), n, crate::ir::DType::I64));
                left -= n;
            }
            r.end();
        }
        r
    }

    fn evaluated(op: &Op, x: &[Tensor]) -> Tensor {
        apply(op, x, Precision::Declared).unwrap().remove(0)
    }

    proptest! {
        #[test]
        fn layout_operations_do_what_eval_does(
            shape in proptest::collection::vec(1usize..5, 1..5), held in any::<[bool; 4]>(),
            numbers in proptest::collection::vec(any::<u8>(), 1..40), dice in any::<[usize; 8]>(),
        ) {
            let x = runs(&shape, &held, &numbers);
            let dense = x.dense();
            let rank = shape.len();
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, dice[i] % (i + 1));
            }
            prop_assert_eq!(x.permute(&perm).unwrap().dense(), evaluated(&Op::Permute(perm), std::slice::from_ref(&dense)));
            // Neighbours put together, an axis of 1 put in, and the reverse.
            let mut other = shape.clone();
            if rank > 1 {
                let a = dice[4] % (rank - 1);
                let e = other.remove(a);
                other[a] *= e;
            }
            other.insert(dice[5] % (other.len() + 1), 1);
            let there = x.reshape(&other).unwrap();
            prop_assert_eq!(there.dense(), evaluated(&Op::Reshape(other), std::slice::from_ref(&dense)));
            prop_assert_eq!(there.reshape(&shape).unwrap().dense(), dense.clone());
            let axis = dice[6] % rank;
            let start = dice[7] % shape[axis];
            let len = shape[axis] - start;
            let which: Vec<usize> = (start..start + len).collect();
            let slice = Op::Slice { axis, start, len, step: 1 };
            prop_assert_eq!(x.pick(axis, &which).unwrap().dense(), evaluated(&slice, std::slice::from_ref(&dense)));
            let back: Vec<usize> = (0..shape[axis]).rev().collect();
            let slice = Op::Slice { axis, start: shape[axis] - 1, len: shape[axis], step: -1 };
            prop_assert_eq!(x.pick(axis, &back).unwrap().dense(), evaluated(&slice, std::slice::from_ref(&dense)));
            let both = Runs::concat(&[x.clone(), x.clone()], axis).unwrap();
            prop_assert_eq!(both.dense(), evaluated(&Op::Concat { axis }, &[dense.clone(), dense.clone()]));
            let mut wide = vec![2];
            wide.extend(&shape);
            prop_assert_eq!(x.broadcast(&wide).unwrap().dense(), evaluated(&Op::Broadcast(wide), &[dense]));
        }
    }
}
