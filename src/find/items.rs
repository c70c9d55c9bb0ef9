//! What one addend or condition is: a bias, a mask, both, or nothing.
//!
//! In: a value that acts on the scores. Out: an [`Entry`] with what its elements can be.

use super::Applied;
use super::Numerics;
use super::band::Band;
use super::documents::Documents;
use super::masks::{Condition, Context, Piece};
use super::trace::CONSTANT_LIMIT;
use super::values::Possible;
use crate::ir::{AttentionSizes, DType, ValueId};
use crate::mask::Fill;
use std::sync::Arc;

/// A fill at or below this leaves nothing of a masked key, unless scores are of the same size.
pub(super) const HUGE: f64 = -1e30;
/// The same of f16, whose range ends there.
pub(super) const HUGE_F16: f64 = -65504.0;
/// An addend of two values of which one is 0 is a mask if the other is at or below this; above, it is a bias.
pub(super) const MASKING: f64 = -1e3;
/// A bias within this bound does not reach a huge fill.
pub(super) const SMALL_BIAS: f64 = 1e6;
/// The same for f16.
pub(super) const SMALL_BIAS_F16: f64 = 1e3;

/// What the elements of a mask can be.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Extents.
    pub(super) shape: Vec<usize>,
    /// For each element whether the pair may be kept, and whether it may be masked.
    pub(super) sets: Vec<(bool, bool)>,
}

impl Known {
    /// The extent of the axis at this place, counted from the last as 1.
    pub(super) fn extent(&self, from_last: usize) -> usize {
        self.shape.len().checked_sub(from_last).map_or(1, |a| self.shape[a])
    }
}

/// What an item is made of, should it have to stay a tensor.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Added(ValueId),
    Condition(ValueId),
    Band(Band),
    Documents(Documents),
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
        Piece::Kept(ref conditions, fill) => {
            let item = |source, known| {
                Entry::Mask(Item { group, source, fill, only_as_infinity: false, and_bias: false, known })
            };
            let mut items = vec![];
            for c in conditions {
                match c {
                    Condition::Within(band) => items.push(item(Source::Band(*band), None)),
                    Condition::Together(d) => items.push(item(Source::Documents(d.clone()), None)),
                    &Condition::True(v) => {
                        let p = cx.values.get(cx.graph, cx.constants, v);
                        let known = p.map(|p| known(&p, |x| x != 0.0));
                        if known.as_ref().is_some_and(|k| k.sets.iter().all(|&(_, no)| !no)) {
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
            let possible: Option<Arc<Possible>> = cx.values.get(cx.graph, cx.constants, v);
            let Some(p) = possible else { return dense(cx, group, v, dtype) };
            let fills: Vec<f64> = p.table.iter().copied().filter(|&x| x != 0.0).collect();
            if fills.is_empty() {
                notes.push(nothing(cx, v));
                return vec![];
            }
            let masks = fills.len() < p.table.len() && fills.iter().all(|&f| f <= MASKING);
            if !masks {
                return dense(cx, group, v, dtype);
            }
            let known = Some(known(&p, |x| x == 0.0));
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

fn known(p: &Possible, keeps: impl Fn(f64) -> bool) -> Known {
    Known { shape: p.shape.clone(), sets: p.certain(keeps) }
}

/// An addend of many values: the huge ones of a constant are a mask, the others a bias.
fn dense(cx: &mut Context<'_>, group: usize, v: ValueId, dtype: DType) -> Vec<Entry> {
    let bias = vec![Entry::Bias(v)];
    let Some(t) = cx.constants.value(cx.graph, v, CONSTANT_LIMIT) else { return bias };
    let values = t.to_f64();
    let masked = |x: f64| huge(x, dtype);
    if !values.iter().any(|&x| masked(x)) || values.iter().all(|&x| masked(x)) {
        return bias;
    }
    let sets = values.iter().map(|&x| (!masked(x), masked(x))).collect();
    vec![Entry::Mask(Item {
        group,
        source: Source::Added(v),
        fill: Fill::Add(HUGE),
        only_as_infinity: true,
        and_bias: true,
        known: Some(Known { shape: t.shape().to_vec(), sets }),
    })]
}

/// The band within which an item may keep a pair, and whether it is all that the item says.
pub(super) fn shown(item: &Item, sizes: AttentionSizes) -> Option<(Band, bool)> {
    if let Source::Band(b) = item.source {
        return Some((b, true));
    }
    let (may, must) = matrix(item, sizes)?;
    let band = Band::fit(&may, sizes.kv_len).filter(|b| *b != Band::default())?;
    Some((band, may == must))
}

/// The documents and the band that are all that an item says.
pub(super) fn packed(item: &Item, sizes: AttentionSizes) -> Option<(Documents, Band)> {
    let (may, must) = matrix(item, sizes)?;
    if may == must { Documents::fit(&may, sizes.kv_len) } else { None }
}

/// For each pair of a query row and a key whether some batch entry and head may keep it, and whether every one certainly
/// does.
fn matrix(item: &Item, sizes: AttentionSizes) -> Option<(Vec<bool>, Vec<bool>)> {
    let known = item.known.as_ref()?;
    let (q, k) = (sizes.q_len, sizes.kv_len);
    let (eq, ek) = (known.extent(2), known.extent(1));
    if q.saturating_mul(k) > CONSTANT_LIMIT || q == 0 || k == 0 {
        return None;
    }
    let (mut may, mut must) = (vec![false; q * k], vec![true; q * k]);
    for (at, &(yes, no)) in known.sets.iter().enumerate() {
        let (i, j) = (at / ek % eq, at % ek);
        let rows = if eq == 1 { 0..q } else { i..i + 1 };
        let keys = if ek == 1 { 0..k } else { j..j + 1 };
        for cell in rows.flat_map(|i| keys.clone().map(move |j| i * k + j)) {
            may[cell] |= yes;
            must[cell] &= !no;
        }
    }
    Some((may, must))
}

/// The bound of [`huge`].
pub(super) fn huge_bound(dtype: DType) -> f64 {
    if dtype == DType::F16 { HUGE_F16 } else { HUGE }
}

/// Name of a value.
pub(super) fn name(cx: &Context<'_>, v: ValueId) -> String {
    cx.graph.value(v).name.clone()
}
