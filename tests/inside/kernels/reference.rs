//! Attention written out in f64, a row at a time.

use super::problem::Problem;
use crate::inside::support::scores::{Reading, Score};
use annulus::ir::DType;
use annulus::lower::MaskedScore;

/// One row of the result.
pub(crate) struct Row {
    /// Σ weight·v, before sinks and division, with weights exp(score − m).
    pub(crate) o: Vec<f64>,
    pub(crate) m: f64,
    pub(crate) l: f64,
    /// The result, and the same with |v| in place of v: what errors are measured by.
    pub(crate) out: Vec<f64>,
    pub(crate) size: Vec<f64>,
    pub(crate) lse: f64,
    /// The largest sum of |q·k| and the like behind a score that counts: what the error of scores is measured by.
    pub(crate) top: f64,
    /// By how much the errors of single scores, where the reference knows them, put off l, relatively, and each number of o.
    pub(crate) blur: f64,
    pub(crate) blurs: Vec<f64>,
    /// How far off the maximum may be.
    pub(crate) slack: f64,
    /// Whether a score is so near to where rounding makes it infinite that either may come.
    pub(crate) unsure: bool,
}

/// A key that counts.
struct Seen<'a> {
    score: f64,
    /// By how much it may be off; 0 where that is measured by `terms`.
    error: f64,
    terms: f64,
    v: &'a [f32],
}

/// Row i of a piece of q, for one head.
pub(crate) fn row(p: &Problem, batch: usize, head: usize, piece: usize, i: usize) -> Row {
    let row = p.pieces[piece].global(i);
    let at = ((batch * p.q_heads + head) * p.q_rows() + p.local(piece) + i) * p.dk;
    let q = &p.q[at..at + p.dk];
    let sight = p.sight(batch, row);
    let kv_head = p.key_head(head);
    let mut seen: Vec<Seen> = Vec::new();
    for keys in p.chunks.iter().flatten() {
        for j in 0..keys.rows.len {
            let key = keys.rows.global(j);
            let place = [batch, head, piece, i];
            let at = (batch * p.kv_heads + kv_head) * keys.rows.len + j;
            let (k, v) = (&keys.k[at * p.dk..][..p.dk], &keys.v[at * p.dv..][..p.dv]);
            let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let terms: f64 = q.iter().zip(k).map(|(&a, &b)| (f64::from(a) * f64::from(b)).abs()).sum();
            if let Some(program) = &p.program {
                let reading = Reading { steps: program.scores.steps(), acc: DType::F32 };
                let leaf = |n: usize| f64::from(program.leaves[n - 3].0.at(p, place, key));
                let pair = [batch, row as usize, key as usize];
                let Score { value: score, error } = reading.score(pair, dot, terms * 2f64.powi(-21), &leaf);
                if score != f64::NEG_INFINITY || error > 0.0 {
                    seen.push(Seen { score, error, terms: 0.0, v });
                }
                continue;
            }
            let bias = p.bias.as_ref().map_or(0.0, |b| b.at(p, place, key));
            let kept =
                sight.contains(&key.into()) && p.mask.as_ref().is_none_or(|m| m.at(p, place, key) != 0.0);
            if bias == f32::NEG_INFINITY || (!kept && p.fill.0 == MaskedScore::NegInf) {
                continue;
            }
            let mut terms = terms * f64::from(p.scale.abs()) + f64::from(bias.abs());
            let mut score = dot * f64::from(p.scale);
            if let Some(cap) = p.softcap {
                score = f64::from(cap) * (score / f64::from(cap)).tanh();
            }
            score += f64::from(bias);
            match p.fill {
                (MaskedScore::Replace, fill) if !kept => (score, terms) = (fill.into(), 0.0),
                (MaskedScore::Add, fill) if !kept => {
                    (score, terms) = (score + f64::from(fill), terms + f64::from(fill.abs()))
                }
                _ => {}
            }
            seen.push(Seen { score, error: 0.0, terms, v });
        }
    }
    let m = seen.iter().map(|s| s.score).fold(f64::NEG_INFINITY, f64::max);
    let (mut o, mut size, mut l) = (vec![0.0; p.dv], vec![0.0; p.dv], 0.0);
    let (mut blur, mut blurs) = (0.0, vec![0.0; p.dv]);
    let unsure = seen.iter().any(|s| s.error.is_infinite());
    for &Seen { score, error, v, .. } in &seen {
        let weight = (score - m).exp();
        let off = weight * (error.exp() - 1.0);
        l += weight;
        blur += off;
        for d in 0..p.dv {
            o[d] += weight * f64::from(v[d]);
            size[d] += weight * f64::from(v[d].abs());
            blurs[d] += off * f64::from(v[d].abs());
        }
    }
    // With a sink, or without: both relative to the larger of m and the sink.
    let sink = p.sinks.as_ref().map_or(f64::NEG_INFINITY, |s| s.at(p, [batch, head, piece, i], 0).into());
    let most = m.max(sink);
    let (out, lse) = if most == f64::NEG_INFINITY {
        (vec![f64::from(p.empty_row); p.dv], f64::NEG_INFINITY)
    } else {
        let all = l * (m - most).exp() + (sink - most).exp();
        let share = (m - most).exp() / all;
        size.iter_mut().for_each(|s| *s *= share);
        blurs.iter_mut().for_each(|b| *b *= share);
        blur *= share;
        (o.iter().map(|x| x * share).collect(), most + all.ln())
    };
    let count = || seen.iter().filter(|s| s.score > m - 20.0);
    let top = count().map(|s| s.terms).fold(0.0, f64::max);
    let slack = top * 2f64.powi(-21) + count().map(|s| s.error).fold(0.0, f64::max);
    Row { o, m, l, out, size, lse, top, blur, blurs, slack, unsure }
}
