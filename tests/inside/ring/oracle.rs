//! Attention written out in f64, pair by pair, and random arguments for it.

use super::case::Case;
use crate::inside::support::scores::{Reading, dead};
use annulus::ir::{DType, EmptyRow, Tensor, Type, types::strides};
use annulus::layout::Progression;

/// A whole tensor as f64 (truth as 0 and 1).
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Array {
    /// The element at an index, broadcast: axes are aligned at the last, extents of 1 repeat.
    fn at(&self, index: &[usize]) -> f64 {
        let missing = index.len() - self.shape.len();
        let place = |((&e, &s), &i): ((&usize, &usize), &usize)| if e == 1 { 0 } else { i * s };
        let strides = strides(&self.shape);
        self.data[self.shape.iter().zip(&strides).zip(&index[missing..]).map(place).sum::<usize>()]
    }

    /// The rows along an axis, in order.
    pub(crate) fn rows(&self, axis: usize, rows: &[Progression]) -> Array {
        let (outer, inner) =
            (self.shape[..axis].iter().product::<usize>(), self.shape[axis + 1..].iter().product::<usize>());
        let mut data = vec![];
        for o in 0..outer {
            for r in rows.iter().flat_map(Progression::rows) {
                let begin = (o * self.shape[axis] + r) * inner;
                data.extend_from_slice(&self.data[begin..begin + inner]);
            }
        }
        let mut shape = self.shape.clone();
        shape[axis] = rows.iter().map(|p| p.len).sum();
        Array { shape, data }
    }

    pub(crate) fn tensor(&self, dtype: DType) -> Tensor {
        Tensor::from_f64(dtype, self.shape.clone(), &self.data).unwrap()
    }
}

/// Whole arguments of a case: a linear congruence of `seed`. Every fourth seed makes logits of ±1e4. The values of keys
/// that no row may see are NaN.
pub(crate) fn arguments(case: &Case, seed: u64) -> Vec<Array> {
    let s = &case.sizes;
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    let loud = if seed.is_multiple_of(4) { 1e4 } else { 2.0 };
    let mut fill = |shape: Vec<usize>, factor: f64, dtype: DType| {
        let n = shape.iter().product();
        let data = (0..n).map(|_| {
            let x = next() * factor;
            // As it will be stored.
            let stored = Tensor::from_f64(
                dtype,
                Vec::<usize>::new(),
                &[if dtype == DType::Bool { f64::from(x > -0.3) } else { x }],
            );
            stored.unwrap().to_f64()[0]
        });
        let data = data.collect();
        Array { shape, data }
    };
    let mut out = vec![
        fill(vec![s.batch, s.q_heads, s.q_len, s.head_dim], loud, case.dtype),
        fill(vec![s.batch, s.kv_heads, s.kv_len, s.head_dim], 1.0, case.dtype),
        fill(vec![s.batch, s.kv_heads, s.kv_len, s.v_head_dim], 1.0, case.dtype),
    ];
    for (i, leaf) in case.leaves.iter().enumerate() {
        let sinks = case.attention.sinks == Some(i + 3);
        // Sinks as loud as the loudest scores, or louder; every third one −∞, or all.
        let factor = if sinks && seed.is_multiple_of(3) { 3e4 } else { 1.0 };
        let mut leaf = fill(leaf.shape.clone(), factor, leaf.dtype);
        if sinks {
            let none = |i: usize| i % 3 == 2 || seed % 5 == 4;
            let silent = leaf.data.iter_mut().enumerate().filter(|(i, _)| none(*i));
            silent.for_each(|(_, x)| *x = f64::NEG_INFINITY);
        }
        out.push(leaf);
    }
    let steps = case.attention.scores.steps();
    let nobody = |k: usize| (0..s.batch).all(|b| (0..s.q_len).all(|q| dead(steps, [b, q, k])));
    for k in (0..s.kv_len).filter(|&k| nobody(k)) {
        for (i, x) in out[2].data.iter_mut().enumerate() {
            if i / s.v_head_dim % s.kv_len == k {
                *x = f64::NAN;
            }
        }
    }
    out
}

/// The arguments that a rank is handed.
pub(crate) fn local(case: &Case, whole: &[Array], rank: usize) -> Vec<Tensor> {
    let (q, kv) = (&case.q_rows()[rank], &case.kv_rows()[rank]);
    let mut out = vec![
        whole[0].rows(2, q).tensor(case.dtype),
        whole[1].rows(2, kv).tensor(case.dtype),
        whole[2].rows(2, kv).tensor(case.dtype),
    ];
    for (leaf, x) in case.leaves.iter().zip(&whole[3..]) {
        let handed = if leaf.by_query_rows { x.rows(x.shape.len() - 2, q) } else { x.clone() };
        out.push(handed.tensor(leaf.dtype));
    }
    out
}

/// Output and log-sum-exp.
pub(crate) fn attention(case: &Case, x: &[Array]) -> Vec<Array> {
    let (s, a) = (&case.sizes, &case.attention);
    let reading = Reading { steps: a.scores.steps(), acc: DType::F64 };
    let mut out = Array { shape: vec![s.batch, s.q_heads, s.q_len, s.v_head_dim], data: vec![] };
    let mut lse = Array { shape: vec![s.batch, s.q_heads, s.q_len], data: vec![] };
    for b in 0..s.batch {
        for h in 0..s.q_heads {
            let g = h / (s.q_heads / s.kv_heads);
            for q in 0..s.q_len {
                let score = |k: usize| -> f64 {
                    let dot = |d| x[0].at(&[b, h, q, d]) * x[1].at(&[b, g, k, d]);
                    let product = (0..s.head_dim).map(dot).sum::<f64>();
                    reading.score([b, q, k], product, 0.0, &|n| x[n].at(&[b, h, q, k])).value
                };
                let scores: Vec<f64> = (0..s.kv_len).map(score).collect();
                let sink = a.sinks.map_or(f64::NEG_INFINITY, |n| x[n].at(&[b, h, q, 0]));
                let most = scores.iter().copied().fold(sink, f64::max);
                let weight = |k: &usize| (scores[*k] - most).exp();
                let live: Vec<usize> = (0..s.kv_len).filter(|&k| scores[k] != f64::NEG_INFINITY).collect();
                let counts = sink != f64::NEG_INFINITY;
                let extra = if counts { (sink - most).exp() } else { 0.0 };
                let sum = live.iter().map(weight).sum::<f64>() + extra;
                lse.data.push(most + sum.ln());
                for d in 0..s.v_head_dim {
                    let dot: f64 = live.iter().map(|k| weight(k) * x[2].at(&[b, g, *k, d])).sum();
                    out.data.push(match a.empty_row {
                        _ if counts || !live.is_empty() => dot / sum,
                        EmptyRow::Zero => 0.0,
                        EmptyRow::Nan => f64::NAN,
                    });
                }
            }
        }
    }
    if a.lse { vec![out, lse] } else { vec![out] }
}

/// The first place where a rank's results differ from its rows of the whole results by more than `tolerance` (absolute and
/// relative).
pub(crate) fn differs(
    case: &Case,
    rank: usize,
    whole: &[Array],
    results: &[Tensor],
    tolerance: f64,
) -> Option<String> {
    if whole.len() != results.len() {
        return Some(format!("{} results", results.len()));
    }
    for (i, (want, have)) in whole.iter().zip(results).enumerate() {
        let want = want.rows(2, &case.q_rows()[rank]);
        let dtype = if i == 0 { case.dtype } else { case.attention.acc };
        if have.ty() != Type::new(dtype, want.shape.clone()) {
            return Some(format!("result {i} is {}", have.ty()));
        }
        for (j, (&w, h)) in want.data.iter().zip(have.to_f64()).enumerate() {
            let same = w == h || (w.is_nan() && h.is_nan()) || (w - h).abs() <= tolerance * (1.0 + w.abs());
            if !same {
                return Some(format!("rank {rank}, result {i}, element {j}: {h}, not {w}"));
            }
        }
    }
    None
}
