//! A random attention, its tensors, and what it must yield: written out in f64, row by row.

use crate::inside::support::layouts::layout_of;
use crate::inside::support::programs::{Kind, build, drafts};
use crate::inside::support::scores::{Reading, epsilon, wobble};
use annulus::ir::{AttentionSizes, DType, EmptyRow, Tensor};
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::mask::Term;
use annulus::schedule::{AttentionFacts, Leaf};
use proptest::prelude::*;

/// An attention on whole tensors: q, k, v, then the leaves.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) facts: AttentionFacts,
    pub(crate) args: Vec<Tensor>,
    pub(crate) layout: LayoutKind,
    pub(crate) ranks: usize,
    pub(crate) seed: u64,
}

/// splitmix64, as numbers in −1..1.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize], scale: f64) -> Tensor {
        let n = shape.iter().product();
        let x: Vec<f64> = (0..n).map(|_| self.unit() * scale).collect();
        Tensor::from_f64(dtype, shape, &x).unwrap()
    }
}

/// Terms of positions, now and then some for each of two batch entries.
fn all_terms() -> impl Strategy<Value = Vec<Term>> + Clone {
    let own = proptest::option::weighted(0.15, proptest::collection::vec(terms(), 2));
    let all = (terms(), own).prop_map(|(mut terms, own)| {
        terms.extend(own.map(|entries| Term::Batch { entries: entries.into() }));
        terms
    });
    all.boxed()
}

fn terms() -> impl Strategy<Value = Vec<Term>> {
    let causal = (-9i64..9).prop_map(|offset| Term::Causal { offset });
    let window = (proptest::option::of(0u64..9), proptest::option::of(0u64..9), -6i64..6)
        .prop_map(|(left, right, offset)| Term::Window { left, right, offset });
    let documents =
        (proptest::collection::btree_set(1usize..40, 0..6), prop_oneof![3 => Just(0i64), 1 => 0i64..6])
            .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset });
    let prefix = (0usize..30, -6i64..6).prop_map(|(length, offset)| Term::Prefix { length, offset });
    let keys = (0usize..12, 0usize..40).prop_map(|(start, n)| Term::Keys { start, end: start + n });
    proptest::collection::vec(
        prop_oneof![
            3 => Just(Term::Causal { offset: 0 }), 1 => causal, 2 => window, 2 => documents, 1 => prefix, 1 => keys
        ],
        0..3,
    )
}

/// Rows of an extent are either there or broadcast, by one bit each.
fn broadcast(full: [usize; 4], bits: u8) -> [usize; 4] {
    std::array::from_fn(|i| if bits >> i & 1 == 1 { full[i] } else { 1 })
}

prop_compose! {
    /// Attentions of every kind that the executor takes, of fewer than so many rows; small, for there are many.
    pub(crate) fn cases(rows: usize)(
        dtype in prop_oneof![Just(DType::F32), Just(DType::F64), Just(DType::F16), Just(DType::BF16)],
        (batch, kv_heads, group) in (prop_oneof![3 => Just(1usize), 1 => Just(2)], 1usize..3, 1usize..4),
        q_len in prop_oneof![1 => Just(0usize), 1 => Just(1), 6 => 2..rows],
        kv_len in proptest::option::of(0..rows),
        (head_dim, v_head_dim) in prop_oneof![9 => (1usize..9, 1usize..9), 1 => (0usize..2, 1usize..3), 1 => (1usize..3, 0usize..2)],
        drafts in drafts(all_terms()),
        sinks in proptest::option::of((0u8..8, prop_oneof![2 => Just(3.0), 1 => Just(1e4), 1 => Just(f64::INFINITY)])),
        magnitude in prop_oneof![3 => Just(1.0), 1 => Just(40.0)],
        empty_row in prop_oneof![Just(EmptyRow::Zero), Just(EmptyRow::Nan)],
        [lse, sliced, shared] in any::<[bool; 3]>(),
        layout in proptest::sample::select(&LayoutKind::ALL[..]),
        ranks in prop_oneof![2 => 1usize..5, 1 => 5usize..10],
        seed in any::<u64>(),
    ) -> Case {
        let mut numbers = Numbers(seed);
        let kv_len = kv_len.unwrap_or(q_len);
        let sizes = AttentionSizes { batch, q_heads: kv_heads * group, kv_heads, q_len, kv_len, head_dim, v_head_dim };
        let full = [batch, sizes.q_heads, q_len, kv_len];
        let mut args = vec![
            numbers.tensor(dtype, &[batch, sizes.q_heads, q_len, head_dim], magnitude),
            numbers.tensor(dtype, &[batch, kv_heads, kv_len, head_dim], magnitude),
            numbers.tensor(dtype, &[batch, kv_heads, kv_len, v_head_dim], 1.0),
        ];
        let mut leaves = Vec::new();
        let (scores, of_steps) = build(&drafts, full, args.len(), shared);
        for leaf in of_steps {
            let (shape, dtype) = (leaf.shape, leaf.dtype);
            let n: usize = shape.iter().product();
            // Whole rows of truth are false now and then.
            let truth = leaf.kind == Kind::Truth;
            let rows: Vec<bool> = (0..n / shape[3].max(1)).map(|_| truth && numbers.bits().is_multiple_of(5)).collect();
            let x: Vec<f64> =
                (0..n).map(|i| if rows[i / shape[3]] { 0.0 } else { leaf.element(numbers.unit()) }).collect();
            args.push(Tensor::from_f64(dtype, shape, &x).unwrap());
            leaves.push(Leaf { dtype, shape, by_query_rows: sliced && shape[2] == q_len });
        }
        let mut sinks_at = None;
        if let Some((bits, size)) = sinks {
            let mut shape = broadcast(full, bits);
            shape[3] = 1;
            let n = shape.iter().product();
            // Some are −∞; where the size is infinite, all are.
            let x: Vec<f64> = (0..n)
                .map(|_| (numbers.unit() * size, numbers.bits()))
                .map(|(x, bits)| if x.is_infinite() || bits.is_multiple_of(4) { f64::NEG_INFINITY } else { x })
                .collect();
            sinks_at = Some(args.len());
            args.push(Tensor::from_f64(DType::F32, shape, &x).unwrap());
            leaves.push(Leaf { dtype: DType::F32, shape, by_query_rows: sliced && shape[2] == q_len });
        }
        let facts = AttentionFacts {
            sizes, dtype, acc: dtype.accumulator(), scores, sinks: sinks_at, dropout: None, empty_row, lse, leaves,
        };
        Case { facts, args, layout, ranks, seed }
    }
}

/// One row of a (rows × width) table taken from whole rows.
pub(crate) fn rows_of(x: &Tensor, rows: &[Progression]) -> Tensor {
    let (shape, data) = (x.shape(), x.to_f64());
    let (heads, length, width) = (shape[0] * shape[1], shape[2], shape[3]);
    let numbers: Vec<usize> = rows.iter().flat_map(Progression::rows).collect();
    let mut out = Vec::new();
    for h in 0..heads {
        for &r in &numbers {
            out.extend_from_slice(&data[(h * length + r) * width..][..width]);
        }
    }
    Tensor::from_f64(x.dtype(), [shape[0], shape[1], numbers.len(), width], &out).unwrap()
}

impl Case {
    pub(crate) fn layouts(&self) -> (Layout, Layout) {
        let s = &self.facts.sizes;
        let of = |queries| layout_of(self.layout, s, self.ranks, &self.facts.scores.mask(), queries);
        (of(true), of(s.q_len == s.kv_len))
    }

    /// Each rank's arguments.
    pub(crate) fn local(&self) -> Vec<Vec<Tensor>> {
        let (q, kv) = self.layouts();
        (0..self.ranks)
            .map(|r| {
                let mut args = vec![
                    rows_of(&self.args[0], &q.rows[r]),
                    rows_of(&self.args[1], &kv.rows[r]),
                    rows_of(&self.args[2], &kv.rows[r]),
                ];
                for (leaf, x) in self.facts.leaves.iter().zip(&self.args[3..]) {
                    args.push(if leaf.by_query_rows { rows_of(x, &q.rows[r]) } else { x.clone() });
                }
                args
            })
            .collect()
    }

    /// What must come out, and how far off it may be.
    pub(crate) fn expected(&self) -> Expected {
        self.expected_in(self.facts.acc)
    }

    /// The same where `acc` is the type of accumulation.
    pub(crate) fn expected_in(&self, acc: DType) -> Expected {
        let f = &self.facts;
        let s = &f.sizes;
        let x: Vec<Vec<f64>> = self.args.iter().map(Tensor::to_f64).collect();
        let leaf = |i: usize, b: usize, h: usize, q: usize, k: usize| {
            let shape = f.leaves[i - 3].shape;
            let at =
                [b, h, q, k].iter().zip(shape).fold(0, |at, (&j, e)| at * e + if e == 1 { 0 } else { j });
            x[i][at]
        };
        let eps = 2.0 * epsilon(acc);
        let reading = Reading { steps: f.scores.steps(), acc };
        // Of the output's type: a unit in the last place, and half of the least number.
        let (rounding, least) = match f.dtype {
            _ if acc != f.acc => (eps, 0.0),
            DType::F16 => (1.0 / 1024.0, 2f64.powi(-25)),
            DType::BF16 => (1.0 / 128.0, 2f64.powi(-134)),
            _ => (eps, 0.0),
        };
        let mut out = Expected::default();
        for b in 0..s.batch {
            for h in 0..s.q_heads {
                let g = h / (s.q_heads / s.kv_heads);
                for i in 0..s.q_len {
                    let (mut scores, mut all) = (Vec::new(), Vec::new());
                    for j in 0..s.kv_len {
                        let q = &x[0][((b * s.q_heads + h) * s.q_len + i) * s.head_dim..][..s.head_dim];
                        let k = &x[1][((b * s.kv_heads + g) * s.kv_len + j) * s.head_dim..][..s.head_dim];
                        let product = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>();
                        let size = q.iter().zip(k).map(|(a, b)| (a * b).abs()).sum::<f64>();
                        let off = eps * (s.head_dim + 1) as f64 * size;
                        let score = reading.score([b, i, j], product, off, &|n| leaf(n, b, h, i, j));
                        all.push(score);
                        if score.value != f64::NEG_INFINITY {
                            scores.push((j, score.value));
                        }
                        out.scores += 1;
                        out.unjudged += usize::from(score.error.is_infinite());
                    }
                    let sink = f.sinks.map_or(f64::NEG_INFINITY, |o| leaf(o, b, h, i, 0));
                    out.dead += usize::from(scores.is_empty());
                    let empty = scores.is_empty() && sink == f64::NEG_INFINITY;
                    let m = scores.iter().fold(sink, |m, &(_, y)| m.max(y));
                    let weights: Vec<(usize, f64)> =
                        scores.iter().map(|&(j, y)| (j, (y - m).exp())).collect();
                    let extra = if sink.is_finite() { (sink - m).exp() } else { 0.0 };
                    let l = weights.iter().map(|w| w.1).sum::<f64>() + extra;
                    let wobble = wobble(&all, m, l);
                    let n = (scores.len() + 16) as f64;
                    for d in 0..s.v_head_dim {
                        let v = |j: usize| x[2][((b * s.kv_heads + g) * s.kv_len + j) * s.v_head_dim + d];
                        let o = weights.iter().map(|&(j, w)| w * v(j)).sum::<f64>() / l;
                        let stated = if f.empty_row == EmptyRow::Zero { 0.0 } else { f64::NAN };
                        let o = if empty { stated } else { o };
                        let size = scores.iter().map(|&(j, _)| v(j).abs()).fold(0.0, f64::max);
                        out.out.push((o, size * (2.0 * wobble + n * eps) + o.abs() * rounding + least));
                    }
                    let lse = if empty { f64::NEG_INFINITY } else { m + l.ln() };
                    out.lse.push((lse, wobble + eps * (n + lse.abs())));
                }
            }
        }
        out
    }
}

/// Numbers and how far off each may be.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) out: Vec<(f64, f64)>,
    pub(crate) lse: Vec<(f64, f64)>,
    /// Rows without a live key.
    pub(crate) dead: usize,
    /// Scores of which rounding decides whether they are finite, and all.
    pub(crate) unjudged: usize,
    pub(crate) scores: usize,
}

/// The first number that is off, in words. NaN is right where NaN is expected.
pub(crate) fn first_wrong(got: &Tensor, want: &[(f64, f64)]) -> Option<String> {
    let got = got.to_f64();
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).enumerate().find_map(|(i, (&g, &(w, tolerance)))| {
        let same = g == w || (g.is_nan() && w.is_nan());
        let right = same || tolerance == f64::INFINITY || (g - w).abs() <= tolerance;
        (!right).then(|| format!("element {i}: {g} is not {w} within {tolerance:e}"))
    })
}
