//! What one addend or condition is: a bias, a mask, both, or nothing.
//!
//! In: a value that acts on the scores. Out: an [`Entry`] with what its elements can be.

use super::Applied;
use super::Numerics;
use super::band::Band;
use super::cells::TRUE;
use super::masks::{Condition, Context, Piece};
use super::positions::{Rows, Said, union};
use super::runs::{Runs, meet};
use super::values::{Known, Possible};
use crate::ir::{AttentionSizes, DType, ValueId};
use crate::mask::{Fill, Term};

/// A fill at or below this leaves nothing of a masked key, unless scores are of the same size.
pub(super) const HUGE: f64 = -1e30;
/// The same of f16, whose range ends there.
pub(super) const HUGE_F16: f64 = -65504.0;
/// An addend of two values of which one is 0 is a mask if the other is at or below this; above, it is a bias.
pub(super) const MASKING: f64 = -1e3;
/// Most numbers of an addend that is looked at number by number.
const FEW: usize = 8;
/// A bias within this bound does not reach a huge fill.
pub(super) const SMALL_BIAS: f64 = 1e6;
/// The same for f16.
pub(super) const SMALL_BIAS_F16: f64 = 1e3;

/// What an item is made of, should it have to stay a tensor.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Added(ValueId),
    Condition(ValueId),
    Positions(Term),
}

/// One mask.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Items of one piece share its fill.
    pub(super) group: usize,
    pub(super) source: Source,
    /// What a masked score becomes.
    pub(super) fill: Fill,
    /// More than one fill, or a bias as well: it is a mask only if the fill becomes −∞.
    pub(super) only_as_infinity: bool,
    /// Whether values that are no fill are left to add.
    pub(super) and_bias: bool,
    /// What its elements can be, if that is known.
    pub(super) known: Option<Known>,
}

/// A bias or a mask.
pub(super) enum Entry {
    /// It is added.
    Bias(ValueId),
    /// It masks.
    Mask(Item),
}

/// Whether a fill is huge in this type.
pub(super) fn huge(x: f64, dtype: DType) -> bool {
    x <= if dtype == DType::F16 { HUGE_F16 } else { HUGE }
}

fn nothing(cx: &Context<'_>, v: ValueId) -> Applied {
    applied("mask-of-nothing", format!("{} masks nothing", name(cx, v)), Numerics::Exact)
}

/// A note for the reader.
pub(super) fn applied(rule: &'static str, what: String, numerics: Numerics) -> Applied {
    Applied { rule, what, numerics }
}

/// A bias, a mask, both, or nothing.
pub(super) fn classify(
    cx: &mut Context<'_>,
    group: usize,
    piece: &Piece,
    dtype: DType,
    notes: &mut Vec<Applied>,
) -> Vec<Entry> {
    match *piece {
        Piece::Floor(_) => unreachable!("floors have become fills"),
        Piece::Kept(ref conditions, fill) => {
            let item = |source, known| {
                Entry::Mask(Item { group, source, fill, only_as_infinity: false, and_bias: false, known })
            };
            let mut items = vec![];
            for c in conditions {
                match c {
                    Condition::Positions(term) => items.push(item(Source::Positions(term.clone()), None)),
                    &Condition::True(v) => {
                        let p = cx.values.get(cx.graph, cx.constants, v);
                        let known = p.map(|p| cx.values.certain(&p, TRUE));
                        if known.as_ref().is_some_and(|k| k.runs().iter().all(|&(_, (_, no))| !no)) {
                            notes.push(nothing(cx, v));
                        } else {
                            items.push(item(Source::Condition(v), known));
                        }
                    }
                }
            }
            items
        }
        Piece::Added(v) => {
            let Some(p) = cx.values.get(cx.graph, cx.constants, v) else { return vec![Entry::Bias(v)] };
            let Some(numbers) = cx.values.numbers(&p, FEW) else { return dense(cx, group, v, &p, dtype) };
            let fills: Vec<f64> = numbers.iter().copied().filter(|&x| x != 0.0).collect();
            if fills.is_empty() {
                notes.push(nothing(cx, v));
                return vec![];
            }
            let masks = fills.len() < numbers.len() && fills.iter().all(|&f| f <= MASKING);
            if !masks {
                return dense(cx, group, v, &p, dtype);
            }
            let known = Some(cx.values.certain(&p, &[(0.0, 0.0)]));
            let fill = if fills[0] == f64::NEG_INFINITY { Fill::NegInf } else { Fill::Add(fills[0]) };
            let several = fills.len() > 1;
            if several && !fills.iter().all(|&f| huge(f, dtype)) {
                return vec![Entry::Bias(v)];
            }
            vec![Entry::Mask(Item {
                group,
                source: Source::Added(v),
                fill,
                only_as_infinity: several,
                and_bias: false,
                known,
            })]
        }
    }
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
        source: Source::Added(v),
        fill: Fill::Add(HUGE),
        only_as_infinity: true,
        and_bias: true,
        known: Some(known),
    })]
}

/// What positions say of an item, and whether it is all; otherwise it is a band outside of which no pair is kept.
pub(super) fn said(item: &Item, sizes: AttentionSizes) -> Option<(Said, bool)> {
    if let Source::Positions(term) = &item.source {
        return Some((Said::by(term), true));
    }
    let (entries, exact) = rows(item, sizes)?;
    if exact && let Some(said) = Said::fit(&entries, sizes.kv_len) {
        return Some((said, true));
    }
    let (band, _) = Band::fit(&union(&entries), sizes.kv_len);
    (band != Band::default()).then(|| (Said { band, more: vec![] }, false))
}

/// For each batch entry that differs and each query row the range of keys within which some head may keep a pair, and whether
/// every one certainly keeps all of it.
fn rows(item: &Item, sizes: AttentionSizes) -> Option<(Vec<Rows>, bool)> {
    let known = item.known.as_ref()?;
    let (q, k) = (sizes.q_len, sizes.kv_len);
    if q == 0 || k == 0 {
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

/// The bound of [`huge`].
pub(super) fn huge_bound(dtype: DType) -> f64 {
    if dtype == DType::F16 { HUGE_F16 } else { HUGE }
}

/// Name of a value.
pub(super) fn name(cx: &Context<'_>, v: ValueId) -> String {
    cx.graph.value(v).name.clone()
}
