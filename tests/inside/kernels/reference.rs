//! Attention written out in f64, a row at a time.

use super::problem::Problem;
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
}

/// Row i of a piece of q, for one head.
pub(crate) fn row(p: &Problem, batch: usize, head: usize, piece: usize, i: usize) -> Row {
    let row = p.pieces[piece].global(i);
    let at = ((batch * p.q_heads + head) * p.q_rows() + p.local(piece) + i) * p.dk;
    let q = &p.q[at..at + p.dk];
    let sight = p.sight(batch, row);
    let kv_head = head / (p.q_heads / p.kv_heads);
    let mut seen: Vec<(f64, f64, &[f32])> = Vec::new();
    for keys in p.chunks.iter().flatten() {
        for j in 0..keys.rows.len {
            let key = keys.rows.global(j);
            let place = [batch, head, piece, i];
            let bias = p.bias.as_ref().map_or(0.0, |b| b.at(p, place, key));
            let kept =
                sight.contains(&key.into()) && p.mask.as_ref().is_none_or(|m| m.at(p, place, key) != 0.0);
            if bias == f32::NEG_INFINITY || (!kept && p.fill.0 == MaskedScore::NegInf) {
                continue;
            }
            let at = (batch * p.kv_heads + kv_head) * keys.rows.len + j;
            let k = &keys.k[at * p.dk..][..p.dk];
            let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let terms: f64 = q.iter().zip(k).map(|(&a, &b)| (f64::from(a) * f64::from(b)).abs()).sum();
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
            seen.push((score, terms, &keys.v[at * p.dv..][..p.dv]));
        }
    }
    let m = seen.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
    let (mut o, mut size, mut l) = (vec![0.0; p.dv], vec![0.0; p.dv], 0.0);
    for &(score, _, v) in &seen {
        let weight = (score - m).exp();
        l += weight;
        for d in 0..p.dv {
            o[d] += weight * f64::from(v[d]);
            size[d] += weight * f64::from(v[d].abs());
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
        (o.iter().map(|x| x * share).collect(), most + all.ln())
    };
    let top = seen.iter().filter(|s| s.0 > m - 20.0).map(|s| s.1).fold(0.0, f64::max);
    Row { o, m, l, out, size, lse, top }
}
