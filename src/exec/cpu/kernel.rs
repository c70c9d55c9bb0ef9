//! attn_partial: (o, m, l) of query rows over key rows, by the online softmax.
//!
//! In: query rows of a tensor, decoded keys and values, a carry or none. Out: the new carry; [`finish`] divides it.
//!
//! Invariants: a masked key takes no part, whatever its bytes are. A carry of (0, −∞, 0) is neutral. Bits depend on rows
//! and pieces alone, not on the number of threads: work is cut in fixed blocks, and each block is one thread's.

use super::acc::Acc;
use super::leaves::Leaves;
use super::scores::Program;
use crate::ir::EmptyRow;
use crate::layout::Progression;
use crate::mask::Tile;
use crate::schedule::{AttentionFacts, Heads};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

const Q_BLOCK: usize = 64;
const K_BLOCK: usize = 256;

/// Query rows of a tensor, and the leaves that go with them.
pub(in crate::exec) struct Queries<A> {
    /// (B, heads, rows, Dk).
    pub(in crate::exec) q: Vec<A>,
    /// Its heads, and how many rows it has.
    pub(in crate::exec) heads: Heads,
    pub(in crate::exec) rows: usize,
    pub(in crate::exec) leaves: Leaves<A>,
}

/// Some of these rows and heads; the first row is row `local` of the tensor.
#[derive(Clone, Copy)]
pub(in crate::exec) struct Part<'a> {
    pub(in crate::exec) rows: &'a Progression,
    pub(in crate::exec) heads: Heads,
    pub(in crate::exec) local: usize,
}

/// Keys (B, heads, rows, Dk) and values (B, heads, rows, Dv).
pub(in crate::exec) struct Keys<A> {
    pub(in crate::exec) rows: Progression,
    pub(in crate::exec) heads: Heads,
    pub(in crate::exec) k: Vec<A>,
    pub(in crate::exec) v: Vec<A>,
}

/// o (B, heads, rows, Dv) not divided, m and l (B, heads, rows).
pub(in crate::exec) struct Carry<A> {
    pub(in crate::exec) o: Vec<A>,
    pub(in crate::exec) m: Vec<A>,
    pub(in crate::exec) l: Vec<A>,
}

impl<A: Acc> Carry<A> {
    /// The carry of no key.
    pub(in crate::exec) fn empty(facts: &AttentionFacts, rows: usize, heads: usize) -> Carry<A> {
        let n = facts.sizes.batch * heads * rows;
        Carry {
            o: vec![A::zero(); n * facts.sizes.v_head_dim],
            m: vec![A::NEG_INFINITY; n],
            l: vec![A::zero(); n],
        }
    }
}

/// Folds `keys` into the carry of some query rows.
pub(in crate::exec) fn attn_partial<A: Acc>(
    facts: &AttentionFacts,
    queries: &Queries<A>,
    part: Part<'_>,
    keys: &[Keys<A>],
    tile: Tile,
    carry: &mut Carry<A>,
) {
    let (hq, dv) = (part.heads.len, facts.sizes.v_head_dim);
    let (n, heads) = (part.rows.len, facts.sizes.batch * hq);
    if n == 0 || heads == 0 {
        return;
    }
    let mut work = Vec::new();
    let (mut o, mut m, mut l) = (&mut carry.o[..], &mut carry.m[..], &mut carry.l[..]);
    for head in 0..heads {
        for first in (0..n).step_by(Q_BLOCK) {
            let len = Q_BLOCK.min(n - first);
            let (o1, o2) = o.split_at_mut(len * dv);
            let (m1, m2) = m.split_at_mut(len);
            let (l1, l2) = l.split_at_mut(len);
            (o, m, l) = (o2, m2, l2);
            let (batch, head) = (head / hq, part.heads.start + head % hq);
            work.push(Block { batch, head, first, o: o1, m: m1, l: l1 });
        }
    }
    work.into_par_iter().for_each(|block| block.fold(facts, queries, part, keys, tile));
}

/// Query rows of one head of one batch entry.
struct Block<'c, A> {
    batch: usize,
    head: usize,
    /// First row of the block among the piece's.
    first: usize,
    o: &'c mut [A],
    m: &'c mut [A],
    l: &'c mut [A],
}

impl<A: Acc> Block<'_, A> {
    fn fold(
        self,
        facts: &AttentionFacts,
        queries: &Queries<A>,
        Part { rows, local, .. }: Part<'_>,
        keys: &[Keys<A>],
        tile: Tile,
    ) {
        let s = &facts.sizes;
        let n = self.m.len();
        let head = self.batch * queries.heads.len + self.head - queries.heads.start;
        let at = (head * queries.rows + local + self.first) * s.head_dim;
        let q = view(&queries.q[at..at + n * s.head_dim], n, s.head_dim);
        let mut o = view_mut(self.o, n, s.v_head_dim);
        let program = Program::of(&facts.scores, tile == Tile::Partial);
        let global = |i: usize| rows.start + (self.first + i) * rows.step;
        let widest = keys.iter().map(|p| p.rows.len).max().unwrap_or(0).min(K_BLOCK);
        let mut scores = Array2::<A>::zeros((n, widest));
        let mut live = vec![true; widest];
        for piece in keys.iter().filter(|p| p.rows.len > 0) {
            let len = piece.rows.len;
            let kv_head = self.head / (s.q_heads / s.kv_heads) - piece.heads.start;
            let kv_head = self.batch * piece.heads.len + kv_head;
            let k = view(&piece.k[kv_head * len * s.head_dim..][..len * s.head_dim], len, s.head_dim);
            let v = view(&piece.v[kv_head * len * s.v_head_dim..][..len * s.v_head_dim], len, s.v_head_dim);
            let all = program.hull(self.batch, (0..n).map(global), &piece.rows);
            for begin in (all.start / K_BLOCK * K_BLOCK..all.end).step_by(K_BLOCK) {
                let block = begin.max(all.start)..(begin + K_BLOCK).min(all.end);
                let width = block.len();
                let mut p = scores.slice_mut(s![.., ..width]);
                let v = v.slice(s![block.clone(), ..]);
                let scale = A::of_f64(program.scale);
                general_mat_mul(scale, &q, &k.slice(s![block.clone(), ..]).t(), A::zero(), &mut p);
                let mut dead: Vec<(usize, Vec<bool>)> = Vec::new();
                for i in 0..n {
                    let row = p.row_mut(i).into_slice();
                    let Some(row) = row else { continue };
                    let at = [self.batch, self.head, global(i), local + self.first + i];
                    program.run(&queries.leaves, at, row, &piece.rows, &block);
                    let live = &mut live[..width];
                    live.iter_mut().zip(&*row).for_each(|(l, &x)| *l = x != A::NEG_INFINITY);
                    let correction = exponentiate(row, live, &mut self.m[i], &mut self.l[i]);
                    if let Some(dropout) = facts.dropout {
                        let scale = A::of_f64(dropout.scale());
                        let mask = dropout.mask(queries.leaves.seed);
                        let mut kept = mask.of_row([self.batch, self.head, global(i)]);
                        for (j, weight) in block.clone().zip(row.iter_mut()) {
                            let key = piece.rows.start + j * piece.rows.step;
                            *weight = if kept(key) { *weight * scale } else { A::zero() };
                        }
                    }
                    o.row_mut(i).mapv_inplace(|x| x * correction);
                    if live.contains(&false) {
                        dead.push((i, live.to_vec()));
                    }
                }
                accumulate(&p.view(), &v, &dead, &mut o);
            }
        }
    }
}

/// Replaces live scores by exp(score − m) for the new maximum m, dead ones by 0; returns exp(old m − new m), by which the
/// sums so far shrink. NaN in a live score, or in the carry, stays NaN.
fn exponentiate<A: Acc>(row: &mut [A], live: &[bool], m: &mut A, l: &mut A) -> A {
    let mut top = *m;
    for (x, &alive) in row.iter().zip(live) {
        if alive && *x > top {
            top = *x;
        }
    }
    let correction = if *m == top { A::one() } else { (*m - top).exp() };
    let nothing = top == A::NEG_INFINITY;
    for (x, &alive) in row.iter_mut().zip(live) {
        *x = match alive {
            false => A::zero(),
            // exp(−∞ − −∞): a score of −∞ weighs nothing.
            true if nothing && !x.is_nan() => A::zero(),
            true => (*x - top).exp(),
        };
    }
    *l = *l * correction + sum(row);
    *m = top;
    correction
}

/// Eight partial sums: as exact as any order, and it vectorises.
fn sum<A: Acc>(row: &[A]) -> A {
    let mut lanes = [A::zero(); 8];
    let (eights, rest) = row.as_chunks::<8>();
    for chunk in eights {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    let tail = rest.iter().fold(A::zero(), |a, &x| a + x);
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h)) + tail
}

/// o += p·v. A dead key's value is not read into the sum: 0 · ∞ would be NaN.
fn accumulate<A: Acc>(
    p: &ArrayView2<'_, A>,
    v: &ArrayView2<'_, A>,
    dead: &[(usize, Vec<bool>)],
    o: &mut ArrayViewMut2<'_, A>,
) {
    if dead.is_empty() || v.iter().all(|x| x.is_finite()) {
        general_mat_mul(A::one(), p, v, A::one(), o);
        return;
    }
    for i in 0..p.nrows() {
        let live = dead.iter().find(|(row, _)| *row == i).map(|(_, live)| live);
        for (j, weight) in p.row(i).iter().enumerate() {
            if live.is_none_or(|l| l[j]) {
                for (o, &x) in o.row_mut(i).iter_mut().zip(v.row(j)) {
                    *o += *weight * x;
                }
            }
        }
    }
}

/// Counts the sinks of some query rows in their carry. Without any, or of a sink of −∞, the carry stays as it is, to the bit.
pub(in crate::exec) fn join_sinks<A: Acc>(
    facts: &AttentionFacts,
    leaves: &Leaves<A>,
    Part { rows, heads, local }: Part<'_>,
    carry: &mut Carry<A>,
) {
    let Some(sinks) = &leaves.sinks else { return };
    let dv = facts.sizes.v_head_dim;
    for head in 0..facts.sizes.batch * heads.len {
        for (i, global) in rows.rows().enumerate() {
            let (batch, of) = (head / heads.len, heads.start + head % heads.len);
            let sink = sinks.row(batch, of, global, local + i).at(0);
            let n = head * rows.len + i;
            let mut weight = [sink];
            let correction = exponentiate(&mut weight, &[true], &mut carry.m[n], &mut carry.l[n]);
            if correction != A::one() {
                carry.o[n * dv..(n + 1) * dv].iter_mut().for_each(|x| *x *= correction);
            }
        }
    }
}

/// Folds another partial result of the same rows into a carry.
pub(in crate::exec) fn merge<A: Acc>(facts: &AttentionFacts, carry: &mut Carry<A>, other: &Carry<A>) {
    let dv = facts.sizes.v_head_dim;
    for n in 0..carry.m.len() {
        let (a, b) = (carry.m[n], other.m[n]);
        if b == A::NEG_INFINITY && other.l[n] == A::zero() {
            // Of no key.
            continue;
        }
        let top = if a > b || a.is_nan() { a } else { b };
        // Of −∞ − −∞ nothing weighs anything.
        let weight = |m: A| if m == top { A::one() } else { (m - top).exp() };
        let (own, theirs) = (weight(a), weight(b));
        carry.m[n] = top;
        carry.l[n] = carry.l[n] * own + other.l[n] * theirs;
        let rows = carry.o[n * dv..(n + 1) * dv].iter_mut().zip(&other.o[n * dv..(n + 1) * dv]);
        rows.for_each(|(x, &y)| *x = *x * own + y * theirs);
    }
}

/// Divides: out (B, Hq, rows, Dv) and lse (B, Hq, rows). A row without a live key has l = 0.
pub(in crate::exec) fn finish<A: Acc>(facts: &AttentionFacts, carry: Carry<A>) -> (Vec<A>, Vec<A>) {
    let Carry { mut o, m, l } = carry;
    let empty = match facts.empty_row {
        EmptyRow::Zero => A::zero(),
        EmptyRow::Nan => A::NAN,
    };
    for (row, &l) in o.chunks_mut(facts.sizes.v_head_dim.max(1)).zip(&l) {
        row.iter_mut().for_each(|x| *x = if l == A::zero() { empty } else { *x / l });
    }
    let lse = m.into_iter().zip(l).map(|(m, l)| if l == A::zero() { A::NEG_INFINITY } else { m + l.ln() });
    (o, lse.collect())
}

fn view<A: Acc>(x: &[A], rows: usize, columns: usize) -> ArrayView2<'_, A> {
    ArrayView2::from_shape((rows, columns), x).expect("the slice has rows × columns elements")
}

fn view_mut<A: Acc>(x: &mut [A], rows: usize, columns: usize) -> ArrayViewMut2<'_, A> {
    ArrayViewMut2::from_shape((rows, columns), x).expect("the slice has rows × columns elements")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_minus_infinity_is_neutral_and_nan_stays() {
        let inf = f32::NEG_INFINITY;
        let (mut m, mut l) = (inf, 0.0f32);
        assert_eq!(exponentiate(&mut [inf, inf], &[true, false], &mut m, &mut l), 1.0);
        assert_eq!((m, l), (inf, 0.0));
        exponentiate(&mut [inf, f32::NAN], &[true, true], &mut m, &mut l);
        assert!(l.is_nan());
        let (mut m, mut l) = (f32::NAN, 1.0f32);
        exponentiate(&mut [3.0], &[true], &mut m, &mut l);
        assert!(l.is_nan());
    }
}
