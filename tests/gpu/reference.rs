//! Attention in f64, row by row, sharing nothing with the kernels.

use super::case::{Case, Inputs};
use annulus::lower::{MaskedScore, Operand};
use rayon::prelude::*;

/// out (B, Hq, rows, Dv) and lse (B, Hq, rows).
pub(crate) struct Reference {
    pub(crate) out: Vec<f64>,
    pub(crate) lse: Vec<f64>,
}

pub(crate) fn reference(case: &Case, inputs: &Inputs) -> Reference {
    let rows: Vec<i32> = case.q.iter().flat_map(|r| r.globals()).collect();
    let mut present = vec![false; case.keys()];
    case.launches.iter().flatten().flat_map(|r| r.globals()).for_each(|k| present[k as usize] = true);
    let (dk, dv, keys) = (case.dk, case.dv, case.keys());
    let each = |index: usize| {
        let (head, row) = (index / rows.len(), index % rows.len());
        let (batch, q_head) = (head / case.q_heads, head % case.q_heads);
        let kv = batch * case.kv_heads + q_head / (case.q_heads / case.kv_heads);
        let q = &inputs.q[index * dk..][..dk];
        let (low, high) = case.visible(batch, rows[row]);
        let mut scores = vec![];
        for key in (0..keys).filter(|k| present[*k]) {
            let pair = rows[row] as usize * keys + key;
            let kept = (low..high).contains(&(key as i64))
                && (!case.mask || inputs.mask[batch * case.last_q_row() * keys + pair] != 0);
            if !kept && case.fill == MaskedScore::NegInf {
                continue;
            }
            let k = &inputs.k[(kv * keys + key) * dk..][..dk];
            let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let cap = f64::from(case.softcap);
            let mut score = dot * f64::from(case.scale);
            if cap > 0.0 {
                score = cap * (score / cap).tanh();
            }
            if case.bias != Operand::None {
                score += f64::from(inputs.bias[q_head * case.last_q_row() * keys + pair]);
            }
            let fill = f64::from(case.fill_value());
            score = match case.fill {
                _ if kept => score,
                MaskedScore::Add => score + fill,
                _ => fill,
            };
            scores.push((key, score));
        }
        let sink = (case.sinks != Operand::None).then(|| f64::from(inputs.sinks[q_head]));
        let top = scores.iter().map(|s| s.1).chain(sink).fold(f64::NEG_INFINITY, f64::max);
        if top == f64::NEG_INFINITY {
            return (vec![f64::from(case.empty_row); dv], f64::NEG_INFINITY);
        }
        let mut sum: f64 = sink.map_or(0.0, |s| (s - top).exp());
        let mut out = vec![0.0; dv];
        for (key, score) in scores {
            let weight = (score - top).exp();
            sum += weight;
            let v = &inputs.v[(kv * keys + key) * dv..][..dv];
            out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * f64::from(*v));
        }
        out.iter_mut().for_each(|o| *o /= sum);
        (out, top + sum.ln())
    };
    let all: Vec<(Vec<f64>, f64)> =
        (0..case.batch * case.q_heads * rows.len()).into_par_iter().map(each).collect();
    let lse = all.iter().map(|r| r.1).collect();
    Reference { out: all.into_iter().flat_map(|r| r.0).collect(), lse }
}
