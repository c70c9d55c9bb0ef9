//! What one addend or condition is: a bias, a mask, both, or nothing.
//!
//! In: a value that acts on the scores. Out: an [`Entry`] with what its elements can be.

use super::band::Band;
use super::conditions::fault;
use super::recognise::{Recognised, Rows, union};
use super::types::MaskSource;
use super::types::{Condition, Context, Entry, Item, Piece, name};
use crate::find::elements::abstract_value::TRUE;
use crate::find::elements::interpret::Possible;
use crate::find::elements::runs::{RUNS, Runs, meet};
use crate::find::magnitude::{HUGE, MASKING, huge, huge_bound};
use crate::find::types::{Applied, Numerics};
use crate::ir::{AttentionSizes, DType, ValueId};
use crate::mask::Fill;

/// Most numbers of an addend that is looked at number by number.
const FEW: usize = 8;
fn nothing(cx: &Context<'_>, v: ValueId) -> Applied {
    Applied::new("mask-of-nothing", format!("{} masks nothing", name(cx, v)), Numerics::Exact)
}

/// A bias, a mask, both, or nothing.
///
/// # Errors
/// If it is none of them.
pub(crate) fn classify(
    cx: &mut Context<'_>,
    group: usize,
    piece: &Piece,
    dtype: DType,
    notes: &mut Vec<Applied>,
) -> Result<Vec<Entry>, String> {
    Ok(match *piece {
        Piece::Factor(_) | Piece::FactorBy(_) | Piece::Softcap(_) | Piece::Round(..) => {
            vec![Entry::Other(piece.clone())]
        }
        Piece::Floor(f) => return Err(fault(&format!("the lower bound {f} of the scores became no fill"))),
        Piece::Kept(ref conditions, fill) => {
            let item = |source, known| {
                Entry::Mask(Item { group, source, fill, only_as_infinity: false, and_bias: false, known })
            };
            let mut items = vec![];
            for c in conditions {
                match c {
                    Condition::Positions(term) => items.push(item(MaskSource::Positions(term.clone()), None)),
                    &Condition::True(v) => {
                        let p = cx.values.get(cx.graph, cx.constants, v);
                        let known = p.map(|p| cx.values.certain(&p, TRUE));
                        if known.as_ref().is_some_and(|k| k.runs().iter().all(|&(_, (_, no))| !no)) {
                            notes.push(nothing(cx, v));
                        } else {
                            items.push(item(MaskSource::Condition(v), known));
                        }
                    }
                }
            }
            items
        }
        Piece::Added(v) => {
            let Some(p) = cx.values.get(cx.graph, cx.constants, v) else {
                return Ok(vec![Entry::Bias(v)]);
            };
            let Some(numbers) = cx.values.numbers(&p, FEW) else {
                return Ok(dense(cx, group, v, &p, dtype));
            };
            let fills: Vec<f64> = numbers.iter().copied().filter(|&x| x != 0.0).collect();
            if fills.is_empty() {
                notes.push(nothing(cx, v));
                return Ok(vec![]);
            }
            let masks = fills.len() < numbers.len() && fills.iter().all(|&f| f <= MASKING);
            if !masks {
                return Ok(dense(cx, group, v, &p, dtype));
            }
            let known = Some(cx.values.certain(&p, &[(0.0, 0.0)]));
            let fill = if fills[0] == f64::NEG_INFINITY { Fill::NegInf } else { Fill::Add(fills[0]) };
            let several = fills.len() > 1;
            if several && !fills.iter().all(|&f| huge(f, dtype)) {
                return Ok(vec![Entry::Bias(v)]);
            }
            vec![Entry::Mask(Item {
                group,
                source: MaskSource::Added(v),
                fill,
                only_as_infinity: several,
                and_bias: false,
                known,
            })]
        }
    })
}

/// An addend of many values: those that are certainly huge are a mask, the others a bias.
fn dense(cx: &Context<'_>, group: usize, v: ValueId, p: &Possible, dtype: DType) -> Vec<Entry> {
    let masked = cx.values.certain(p, &[(f64::NEG_INFINITY, huge_bound(dtype))]);
    let known = masked.map(|_, (huge, other)| (other, huge));
    let some = |f: &dyn Fn((bool, bool)) -> bool| known.runs().iter().any(|&(_, s)| f(s));
    if !some(&|(keep, mask)| mask && !keep) || !some(&|(keep, _)| keep) {
        return vec![Entry::Bias(v)];
    }
    vec![Entry::Mask(Item {
        group,
        source: MaskSource::Added(v),
        fill: Fill::Add(HUGE),
        only_as_infinity: true,
        and_bias: true,
        known: Some(known),
    })]
}

/// What positions say of an item, and whether it is all; otherwise no pair outside of it is kept: it is the part of the mask that is
/// constant, where another part comes from an input.
pub(crate) fn recognised(item: &Item, sizes: AttentionSizes) -> Option<(Recognised, bool)> {
    if let MaskSource::Positions(term) = &item.source {
        return Some((Recognised::by(term), true));
    }
    let (entries, exact) = rows(item, sizes)?;
    if exact && let Some(recognised) = Recognised::fit(&entries, sizes.kv_len) {
        return Some((recognised, true));
    }
    // Documents, prefixes and padding if they are all that the rows may keep, else a band.
    let constant = Recognised::fit(&entries, sizes.kv_len).filter(|r| *r != Recognised::default());
    if let Some(constant) = constant {
        return Some((constant, false));
    }
    let (band, _) = Band::fit(&union(&entries), sizes.kv_len);
    (band != Band::default()).then(|| (Recognised { band, more: vec![] }, false))
}

/// For each batch entry that differs and each query row the range of keys within which some head may keep a pair, and whether
/// every one certainly keeps all of it.
fn rows(item: &Item, sizes: AttentionSizes) -> Option<(Vec<Rows>, bool)> {
    let known = item.known.as_ref()?;
    let (q, k) = (sizes.q_len, sizes.kv_len);
    // One range a row is written out, and one number a key.
    if q == 0 || k == 0 || q.max(k) > RUNS {
        return None;
    }
    let [batch, heads, held] = [4, 3, 2].map(|from_last| known.held_extent(from_last));
    let own = known.strides(4.max(known.shape().len()));
    let spread = |at: [usize; 3]| match known.row(at.iter().zip(&own).map(|(&i, &s)| i * s).sum()) {
        [(1, s)] => vec![(k, *s)],
        row => row.to_vec(),
    };
    let mut exact = true;
    let mut entries = vec![];
    for b in 0..batch {
        let mut ranges = vec![];
        for i in 0..held {
            let mut row = spread([b, 0, i]);
            for h in 1..heads {
                let mut both = Runs::new(&[k], vec![]);
                meet([&row, &spread([b, h, i])], |n, [(a, b), (c, d)]| both.push(n, (a || c, b || d)));
                both.end()?;
                row = both.row(0).to_vec();
            }
            exact &= row.iter().all(|&(_, (yes, no))| yes != no);
            let mut at = 0;
            let mut range: Option<(usize, usize)> = None;
            for (n, (yes, _)) in row {
                if yes {
                    exact &= range.is_none_or(|(_, to)| to == at);
                    range = Some((range.map_or(at, |(from, _)| from), at + n));
                }
                at += n;
            }
            ranges.push(range);
        }
        entries.push(if held == 1 { vec![ranges[0]; q] } else { ranges });
    }
    Some((entries, exact))
}
