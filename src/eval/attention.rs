//! Attention, whole or one pair of chunks, as [`crate::ir::Attention`] says.
//!
//! Scores of a block of query rows against all keys at once, then their maximum, exponentials and sum, then the values:
//! two passes over whole rows, nothing online. A score of −∞ is a key that takes no part: masked with −∞, biased with
//! −∞, or beyond the range of the type; a row without any other is the neutral partial result (0, −∞, 0).

use super::elementwise::cast;
use super::leaf::{Leaves, elements};
use super::matrix::Matrix;
use super::number::wrap;
use super::partial::{finish, sink};
use super::real::Real;
use super::reduce::sum;
use crate::ir::infer::attention_sizes;
use crate::ir::{
    Attention, AttentionSizes, DType, Data, DropMask, Factor, Partial, ScoreStep, Scores, Tensor,
};
use crate::mask::{Fill, Mask, Term, Tile};
use rayon::prelude::*;

/// Query rows whose scores are in memory at once, per thread.
const BLOCK: usize = 64;

/// Whole attention: `acc` is the type of accumulation, `out` that of the result.
pub(super) fn attention(a: &Attention, x: &[Tensor], acc: DType, out: DType) -> Result<Vec<Data>, String> {
    fn run<A: Real>(a: &Attention, s: AttentionSizes, x: &[Tensor], out: DType) -> Result<Vec<Data>, String> {
        let numbers = Numbers::<A>::of(x)?;
        let problem = Problem::whole(a, s, x, &numbers)?;
        let [mut o, mut m, mut l] = problem.solve();
        if let Some(n) = a.sinks {
            sink([&mut o, &mut m, &mut l], &x[n], [s.batch, s.q_heads, s.q_len, s.v_head_dim])?;
        }
        let (o, lse) = finish(&o, &m, &l, s.v_head_dim, a.empty_row);
        let mut results = vec![cast(&wrap(o), out)];
        if a.lse {
            results.push(wrap(lse));
        }
        if a.stats {
            let log = |l: A| if l == A::ZERO { A::ZERO } else { l.ln() };
            let logs: Vec<A> = l.into_iter().map(log).collect();
            results.extend([wrap(m), wrap(logs)]);
        }
        Ok(results)
    }
    let sizes = attention_sizes(&x[0].ty(), &x[1].ty(), &x[2].ty())?;
    if acc == DType::F64 { run::<f64>(a, sizes, x, out) } else { run::<f32>(a, sizes, x, out) }
}

/// One pair of chunks: o, m and l.
pub(super) fn partial(p: &Partial, x: &[Tensor], acc: DType) -> Result<Vec<Data>, String> {
    fn run<A: Real>(p: &Partial, x: &[Tensor]) -> Result<Vec<Data>, String> {
        let a = &*p.attention;
        let (&[batch, q_heads, q_len, head_dim], &[_, kv_heads, kv_len, stride]) =
            (x[0].shape(), x[1].shape())
        else {
            return Err("wants four axes".into());
        };
        let k_rows: Vec<usize> = p.k_rows.iter().flat_map(|r| r.rows()).collect();
        let packed = elements::<A>(&x[1])?;
        let problem = Problem {
            sizes: AttentionSizes {
                batch,
                q_heads,
                kv_heads,
                q_len,
                kv_len,
                head_dim,
                v_head_dim: p.v_head_dim,
            },
            q: &elements::<A>(&x[0])?,
            k: Packed { data: &packed, stride, first: 0, width: head_dim },
            v: Packed { data: &packed, stride, first: head_dim, width: p.v_head_dim },
            scores: &a.scores,
            dropout: drop_mask(a, x, 2)?,
            fills: p.tile != Tile::Full,
            q_rows: p.q_rows.iter().flat_map(|r| r.rows()).collect(),
            leaves: Leaves::new(a, x, 2, k_rows.iter().max().map_or(0, |&r| r + 1))?,
            k_rows,
        };
        let [o, m, l] = problem.solve();
        Ok(vec![wrap(o), wrap(m), wrap(l)])
    }
    if acc == DType::F64 { run::<f64>(p, x) } else { run::<f32>(p, x) }
}

/// The dropout under the seed that is at hand; operand numbers count q, k and v, and the operands have `before` in their place.
fn drop_mask(a: &Attention, x: &[Tensor], before: usize) -> Result<Option<(f64, DropMask)>, String> {
    let Some(dropout) = a.dropout else { return Ok(None) };
    let seed = (dropout.seed + before).checked_sub(3).and_then(|n| x.get(n)).map(Tensor::data);
    match seed {
        Some(Data::I64(seed)) if seed.len() == 1 => Ok(Some((dropout.scale(), dropout.mask(seed[0])))),
        _ => Err("has no seed for its dropout".into()),
    }
}

/// A (batch, head, row) array of which each row holds `width` wanted elements from `first` on, `stride` apart.
pub(super) struct Packed<'a, A> {
    data: &'a [A],
    stride: usize,
    first: usize,
    width: usize,
}

impl<'a, A> Packed<'a, A> {
    /// The rows of one head as a matrix.
    pub(super) fn head(&self, head: usize, rows: usize) -> Matrix<'a, A> {
        let data = &self.data[head * rows * self.stride..];
        let data = if data.len() < self.first { data } else { &data[self.first..] };
        Matrix { data, rows, cols: self.width, row_stride: self.stride, col_stride: 1 }
    }
}

/// An attention, or one pair of its chunks, with its numbers.
pub(super) struct Problem<'a, A> {
    pub(super) sizes: AttentionSizes,
    pub(super) q: &'a [A],
    pub(super) k: Packed<'a, A>,
    pub(super) v: Packed<'a, A>,
    pub(super) scores: &'a Scores,
    /// What a weight that is kept is multiplied by, and which are.
    pub(super) dropout: Option<(f64, DropMask)>,
    /// Not if every pair is known to be kept.
    fills: bool,
    q_rows: Vec<usize>,
    k_rows: Vec<usize>,
    pub(super) leaves: Leaves<A>,
}

/// q, k and v of a whole attention.
pub(super) struct Numbers<A>([Vec<A>; 3]);

impl<A: Real> Numbers<A> {
    pub(super) fn of(x: &[Tensor]) -> Result<Numbers<A>, String> {
        Ok(Numbers([elements(&x[0])?, elements(&x[1])?, elements(&x[2])?]))
    }
}

impl<'a, A: Real> Problem<'a, A> {
    /// All rows of an attention with these operands.
    pub(super) fn whole(
        a: &'a Attention,
        sizes: AttentionSizes,
        x: &[Tensor],
        Numbers([q, k, v]): &'a Numbers<A>,
    ) -> Result<Problem<'a, A>, String> {
        Ok(Problem {
            sizes,
            q,
            k: Packed { data: k, stride: sizes.head_dim, first: 0, width: sizes.head_dim },
            v: Packed { data: v, stride: sizes.v_head_dim, first: 0, width: sizes.v_head_dim },
            scores: &a.scores,
            dropout: drop_mask(a, x, 3)?,
            fills: true,
            q_rows: (0..sizes.q_len).collect(),
            k_rows: (0..sizes.kv_len).collect(),
            leaves: Leaves::new(a, x, 3, sizes.kv_len)?,
        })
    }
}

impl<A: Real> Problem<'_, A> {
    /// o (not divided), m and l of every row. There is at least one row.
    fn solve(&self) -> [Vec<A>; 3] {
        let s = &self.sizes;
        let heads: Vec<[Vec<A>; 3]> = (0..s.batch * s.q_heads)
            .into_par_iter()
            .map(|bh| self.head(bh / s.q_heads, bh % s.q_heads))
            .collect();
        let join = |n: usize| heads.iter().flat_map(|h| h[n].iter().copied()).collect();
        [join(0), join(1), join(2)]
    }

    fn head(&self, b: usize, h: usize) -> [Vec<A>; 3] {
        let s = &self.sizes;
        let group = b * s.kv_heads + h / (s.q_heads / s.kv_heads);
        let k = self.k.head(group, self.k_rows.len());
        let v = self.v.head(group, self.k_rows.len());
        // A product with a zero weight is zero only if the value is finite.
        let finite = (0..s.kv_len).all(|j| v.row(j).iter().all(|x| x.is_finite()));
        let mut o = vec![A::ZERO; s.q_len * s.v_head_dim];
        let (mut m, mut l) = (vec![A::LEAST; s.q_len], vec![A::ZERO; s.q_len]);
        if s.kv_len == 0 {
            return [o, m, l];
        }
        let mut scores = vec![A::ZERO; BLOCK.min(s.q_len) * s.kv_len];
        for first in (0..s.q_len).step_by(BLOCK) {
            let rows = BLOCK.min(s.q_len - first);
            let scores = &mut scores[..rows * s.kv_len];
            let q = Matrix {
                data: &self.q[((b * s.q_heads + h) * s.q_len + first) * s.head_dim..],
                rows,
                cols: s.head_dim,
                row_stride: s.head_dim,
                col_stride: 1,
            };
            A::product(q, k.transposed(), scores);
            for (i, row) in scores.chunks_mut(s.kv_len).enumerate() {
                self.settle([b, h, first + i], row, |_| {});
                let most = row.iter().fold(A::LEAST, |m, &x| m.max(x));
                if most == A::LEAST {
                    row.fill(A::ZERO);
                    continue;
                }
                m[first + i] = most;
                let dead: Vec<bool> =
                    if finite { vec![] } else { row.iter().map(|&x| x == A::LEAST).collect() };
                row.iter_mut().for_each(|x| *x = if *x == A::LEAST { A::ZERO } else { x.sub(most).exp() });
                l[first + i] = sum(row);
                self.drop([b, h, first + i], row);
                if !finite {
                    let into = &mut o[(first + i) * s.v_head_dim..(first + i + 1) * s.v_head_dim];
                    for (j, &weight) in row.iter().enumerate().filter(|(j, _)| !dead[*j]) {
                        into.iter_mut().zip(v.row(j)).for_each(|(o, &v)| *o = o.add(weight.mul(v)));
                    }
                }
            }
            if finite && s.v_head_dim > 0 {
                let p = Matrix { data: scores, rows, cols: s.kv_len, row_stride: s.kv_len, col_stride: 1 };
                A::product(p, v, &mut o[first * s.v_head_dim..(first + rows) * s.v_head_dim]);
            }
        }
        [o, m, l]
    }

    /// Drops weights of one query row, and divides the others.
    fn drop(&self, [b, h, i]: [usize; 3], row: &mut [A]) {
        let Some((scale, mask)) = self.dropout else { return };
        let (mut kept, scale) = (mask.of_row([b, h, self.q_rows[i]]), A::from_f64(scale));
        for (weight, &key) in row.iter_mut().zip(&self.k_rows) {
            *weight = if kept(key) { weight.mul(scale) } else { A::ZERO };
        }
    }

    /// Turns the products q·k of one query row into scores; −∞ takes no part. Each step's scores are told before it acts.
    pub(super) fn settle(&self, [b, h, i]: [usize; 3], row: &mut [A], mut before: impl FnMut(&[A])) {
        let pairs = |row: &mut [A], of: &dyn Fn(A, usize) -> A| {
            row.iter_mut().zip(&self.k_rows).for_each(|(x, &key)| *x = of(*x, key));
        };
        // What is −∞ stays so, whatever it is multiplied by or whatever is added.
        let dead = |x: A| x == A::LEAST;
        for step in self.scores.steps() {
            before(row);
            match step {
                ScoreStep::Factor(Factor::Number(c)) => {
                    let c = A::from_f64(*c);
                    pairs(row, &|x, _| if dead(x) { x } else { x.mul(c) });
                }
                ScoreStep::Factor(Factor::Leaf(n)) => pairs(row, &|x, key| {
                    if dead(x) { x } else { x.mul(self.leaves.number(*n, [b, h, i, key])) }
                }),
                ScoreStep::Softcap(c) => {
                    let c = A::from_f64(*c);
                    pairs(row, &|x, _| x.div(c).tanh().mul(c));
                }
                ScoreStep::Add(n) => pairs(row, &|x, key| {
                    let more = self.leaves.number(*n, [b, h, i, key]);
                    if dead(x) || dead(more) { A::LEAST } else { x.add(more) }
                }),
                ScoreStep::Fill(mask) if self.fills => {
                    let kept = self.keeps(step, mask, [b, h, i]);
                    pairs(row, &|x, key| match mask.fill {
                        _ if kept(key) => x,
                        Fill::NegInf => A::LEAST,
                        Fill::Replace(f) => A::from_f64(f),
                        Fill::Add(_) if dead(x) => x,
                        Fill::Add(f) => x.add(A::from_f64(f)),
                    });
                }
                ScoreStep::Fill(_) => {}
                ScoreStep::Round(to) => pairs(row, &|x, _| rounded(x, *to)),
            }
        }
    }
}

impl<A: Real> Problem<'_, A> {
    /// Which keys a fill leaves as they are for a query row.
    pub(super) fn keeps(
        &self,
        step: &ScoreStep,
        mask: &Mask,
        [b, h, i]: [usize; 3],
    ) -> impl Fn(usize) -> bool {
        let visible = Interval::of(&mask.terms, b, self.q_rows[i]);
        let tensors: Vec<usize> = step.leaves().map(|(n, _)| n).collect();
        move |key| visible.holds(key) && tensors.iter().all(|&n| self.leaves.holds(n, [b, h, i, key]))
    }
}

/// A number rounded to a floating type.
fn rounded<A: Real>(x: A, to: DType) -> A {
    A::from_f64(to.round(x.to_f64()))
}

/// The keys that the positional terms of a mask keep for one query row of a batch entry: an interval of global rows, ends included, empty
/// where it ends before it begins.
struct Interval {
    low: usize,
    high: usize,
}

impl Interval {
    const ALL: Interval = Interval { low: 0, high: usize::MAX };

    fn of(terms: &[Term], batch: usize, q: usize) -> Interval {
        let mut all = Interval::ALL;
        let (mut low, mut high) = (0i128, i128::MAX);
        for term in terms {
            match *term {
                Term::Causal { offset } => high = high.min(q as i128 + i128::from(offset)),
                Term::Window { left, right, offset } => {
                    let own = q as i128 + i128::from(offset);
                    low = left.map_or(low, |l| low.max(own - i128::from(l)));
                    high = right.map_or(high, |r| high.min(own + i128::from(r)));
                }
                Term::Segments { ref starts, offset } => {
                    // Documents begin at 0 and at each start; before 0 the first one goes on.
                    let own = q as i128 + i128::from(offset);
                    let begun = starts.iter().take_while(|&&s| s as i128 <= own).count();
                    low = low.max(begun.checked_sub(1).map_or(0, |i| starts[i] as i128));
                    high = high.min(starts.get(begun).map_or(i128::MAX, |&s| s as i128 - 1));
                }
                Term::Prefix { length, offset } => {
                    // Causal, but the keys before the prefix's end are there for all.
                    high = high.min((length as i128 - 1).max(q as i128 + i128::from(offset)));
                }
                Term::Keys { start, end } => {
                    low = low.max(start as i128);
                    high = high.min(end as i128 - 1);
                }
                Term::Batch { ref entries } => {
                    let own = Interval::of(&entries[batch], batch, q);
                    all = Interval { low: all.low.max(own.low), high: all.high.min(own.high) };
                }
                Term::Tensor { .. } => {}
            }
        }
        let (low, high) = (low.max(all.low as i128), high.min(all.high as i128));
        match usize::try_from(low) {
            Ok(low) if high >= low as i128 => {
                Interval { low, high: usize::try_from(high).unwrap_or(usize::MAX) }
            }
            // Nothing between, or all beyond any key.
            _ => Interval { low: 1, high: 0 },
        }
    }

    fn holds(&self, key: usize) -> bool {
        self.low <= key && key <= self.high
    }
}
