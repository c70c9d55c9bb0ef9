//! Masks by evaluation: what is added to the scores, chosen for them or left of them becomes terms, fill and bias.
//!
//! In: biases and conditions in the order in which they act, each a value that broadcasts to (batch, query head, query
//! row, key row). Out: a [`Mask`] with its leaves, and a bias. How a mask is spelled does not matter: its elements are
//! evaluated ([`values`](super::values)) and a band is recognised by its shape.
//!
//! A finite fill becomes −∞ only if it is so large that nothing is left of a masked key, and every row is proved to keep a
//! key, whatever the inputs are. Otherwise it stays a finite fill, or data.

use super::band::Band;
use super::trace::CONSTANT_LIMIT;
use super::values::{Possible, Values};
use super::{Applied, Numerics};
use crate::eval::Constants;
use crate::ir::{AttentionSizes, Binary, DType, Graph, Op, Tensor, ValueId};
use crate::mask::{Fill, Mask, Term};
use std::sync::Arc;

/// A fill at or below this leaves nothing of a masked key, unless scores are of the same size.
const HUGE: f64 = -1e30;
/// The same of f16, whose range ends there.
const HUGE_F16: f64 = -65504.0;
/// An addend of two values of which one is 0 is a mask if the other is at or below this; above, it is a bias.
const MASKING: f64 = -1e3;
/// A bias within this bound does not reach a huge fill.
const SMALL_BIAS: f64 = 1e6;
/// The same for f16.
const SMALL_BIAS_F16: f64 = 1e3;

/// One thing that happens to the scores.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// The value is added.
    Added(ValueId),
    /// The score is kept where every condition holds.
    Kept(Vec<Condition>, Fill),
}

/// A condition on a pair of rows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition {
    /// The boolean value is true.
    True(ValueId),
    /// The pair lies within the band.
    Within(Band),
}

/// What becomes of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The mask; tensor terms count leaves from operand 3.
    pub(super) mask: Mask,
    /// Operands from 3 on.
    pub(super) leaves: Vec<ValueId>,
    /// Operand index of the bias.
    pub(super) bias: Option<usize>,
    /// What was done by evaluation.
    pub(super) applied: Vec<Applied>,
}

/// Graph and memos that the work goes on.
pub(super) struct Context<'a> {
    pub(super) graph: &'a mut Graph,
    pub(super) constants: &'a mut Constants,
    pub(super) values: &'a mut Values,
    /// Admitted classes.
    pub(super) admitted: &'a [Numerics],
}

/// What an item is made of, should it have to stay a tensor.
#[derive(Clone, Debug)]
enum Source {
    Added(ValueId),
    Condition(ValueId),
    Band(Band),
}

#[derive(Clone, Debug)]
struct Item {
    /// Items of one piece share its fill.
    group: usize,
    source: Source,
    fill: Fill,
    /// More than one fill, or a bias as well: it is a mask only if the fill becomes −∞.
    only_as_infinity: bool,
    /// Whether values that are no fill are left to add.
    and_bias: bool,
    /// What may be kept and what may be masked, and the shape.
    known: Option<(Vec<usize>, Vec<(bool, bool)>)>,
}

enum Entry {
    Bias(ValueId),
    Mask(Item),
}

fn huge(x: f64, dtype: DType) -> bool {
    x <= if dtype == DType::F16 { HUGE_F16 } else { HUGE }
}

fn nothing(cx: &Context<'_>, v: ValueId) -> Applied {
    applied("mask-of-nothing", format!("{} masks nothing", name(cx, v)), Numerics::Exact)
}

fn applied(rule: &'static str, what: String, numerics: Numerics) -> Applied {
    Applied { rule, what, numerics }
}

/// Turns pieces into a mask and a bias. `dtype` is the type in which the pieces act.
///
/// # Errors
/// If no mask and bias says the same.
pub(super) fn plan(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    pieces: &[Piece],
) -> Result<Plan, String> {
    let mut notes = vec![];
    let mut entries: Vec<Entry> = vec![];
    for (group, p) in pieces.iter().enumerate() {
        entries.extend(classify(cx, group, p, dtype, &mut notes));
    }
    to_infinity(cx, sizes, dtype, &mut entries, &mut notes)?;
    arrange(cx, sizes, dtype, entries, notes)
}

/// A bias, a mask, both, or nothing.
fn classify(
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
                match *c {
                    Condition::Within(band) => items.push(item(Source::Band(band), None)),
                    Condition::True(v) => {
                        let p = cx.values.get(cx.graph, cx.constants, v);
                        let known = p.map(|p| (p.shape.clone(), p.certain(|x| x != 0.0)));
                        if known.as_ref().is_some_and(|(_, k)| k.iter().all(|&(_, no)| !no)) {
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
            let known = Some((p.shape.clone(), p.certain(|x| x == 0.0)));
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

/// An addend of many values: the huge ones of a constant are a mask, the others a bias.
fn dense(cx: &mut Context<'_>, group: usize, v: ValueId, dtype: DType) -> Vec<Entry> {
    let bias = vec![Entry::Bias(v)];
    let Some(t) = cx.constants.value(cx.graph, v, CONSTANT_LIMIT) else { return bias };
    let values = t.to_f64();
    let masked = |x: f64| huge(x, dtype);
    if !values.iter().any(|&x| masked(x)) || values.iter().all(|&x| masked(x)) {
        return bias;
    }
    let known = values.iter().map(|&x| (!masked(x), masked(x))).collect();
    vec![Entry::Mask(Item {
        group,
        source: Source::Added(v),
        fill: Fill::Add(HUGE),
        only_as_infinity: true,
        and_bias: true,
        known: Some((t.shape().to_vec(), known)),
    })]
}

/// Turns huge finite fills into −∞ where every row is proved to keep a key.
fn to_infinity(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    entries: &mut Vec<Entry>,
    notes: &mut Vec<Applied>,
) -> Result<(), String> {
    let safe_bias = entries.iter().all(|e| match e {
        Entry::Bias(v) => is_small(cx, *v, dtype, false),
        Entry::Mask(i) if i.and_bias => {
            let Source::Added(v) = i.source else { return false };
            is_small(cx, v, dtype, true)
        }
        Entry::Mask(_) => true,
    });
    let items: Vec<&Item> =
        entries.iter().filter_map(|e| if let Entry::Mask(i) = e { Some(i) } else { None }).collect();
    let finite = items.iter().any(|i| i.fill != Fill::NegInf || i.only_as_infinity);
    if !finite {
        return Ok(());
    }
    let full = safe_bias && no_row_is_empty(sizes, &items);
    let may = full && cx.admitted.contains(&Numerics::Domain);
    for e in entries.iter_mut() {
        let Entry::Mask(item) = e else { continue };
        let size = match item.fill {
            Fill::NegInf => f64::NEG_INFINITY,
            Fill::Add(f) | Fill::Replace(f) => f,
        };
        if may && (item.only_as_infinity || huge(size, dtype)) {
            if item.fill != Fill::NegInf || item.only_as_infinity {
                notes.push(applied(
                    "fill-to-infinity",
                    format!("a fill of {size:?} is −∞, for every row keeps a key"),
                    Numerics::Domain,
                ));
            }
            item.fill = Fill::NegInf;
            item.only_as_infinity = false;
        } else if item.only_as_infinity {
            let Source::Added(v) = item.source else { return Err("a condition has several fills".into()) };
            *e = Entry::Bias(v);
        }
    }
    Ok(())
}

/// Whether a value is constant and far from every huge fill; fills among its own values are let pass if `fills`.
fn is_small(cx: &mut Context<'_>, v: ValueId, dtype: DType, fills: bool) -> bool {
    let bound = if dtype == DType::F16 { SMALL_BIAS_F16 } else { SMALL_BIAS };
    cx.constants
        .value(cx.graph, v, CONSTANT_LIMIT)
        .is_some_and(|t| t.to_f64().iter().all(|&x| x.abs() <= bound || (fills && huge(x, dtype))))
}

/// Whether every row of every batch entry and head certainly keeps a key, all items together.
fn no_row_is_empty(sizes: AttentionSizes, items: &[&Item]) -> bool {
    let bands: Option<Vec<Band>> =
        items.iter().map(|i| if let Source::Band(b) = i.source { Some(b) } else { None }).collect();
    if let Some(bands) = bands {
        let band = bands.into_iter().fold(Band::default(), Band::and);
        let mask = Mask { terms: band.terms(sizes.q_len, sizes.kv_len), fill: Fill::NegInf };
        return mask.no_row_is_empty(sizes.q_len, sizes.kv_len);
    }
    let (mut batch, mut heads) = (1, 1);
    for i in items {
        let shape = match (&i.known, &i.source) {
            (Some((shape, _)), _) => shape.as_slice(),
            (None, Source::Band(_)) => &[],
            (None, _) => return false,
        };
        let extent = |from_last: usize| shape.len().checked_sub(from_last).map_or(1, |a| shape[a]);
        batch = batch.max(extent(4));
        heads = heads.max(extent(3));
    }
    let (q, k) = (sizes.q_len, sizes.kv_len);
    let total = [batch, heads, q, k].iter().fold(1usize, |n, &e| n.saturating_mul(e));
    if total > CONSTANT_LIMIT {
        return false;
    }
    let kept = |i: &Item, at: [usize; 4]| match (&i.known, &i.source) {
        (Some((shape, known)), _) => {
            let place = shape.iter().enumerate().fold(0, |p, (axis, &e)| {
                let x = at[4 - shape.len() + axis];
                p * e + if e == 1 { 0 } else { x }
            });
            !known[place].1
        }
        (None, Source::Band(b)) => b.keeps(at[2], at[3]),
        (None, _) => false,
    };
    let rows = (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..q).map(move |i| [b, h, i])));
    let mut rows = rows;
    rows.all(|[b, h, i]| (0..k).any(|j| items.iter().all(|m| kept(m, [b, h, i, j]))))
}

/// One mask and one bias from what is left.
fn arrange(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    entries: Vec<Entry>,
    mut notes: Vec<Applied>,
) -> Result<Plan, String> {
    let mut biases: Vec<ValueId> = vec![];
    let mut items: Vec<Item> = vec![];
    let mut replaced: Option<usize> = None;
    for e in entries {
        match e {
            Entry::Bias(v) => {
                if replaced.is_some() {
                    return Err(format!("{} is added after a finite fill replaced scores", name(cx, v)));
                }
                biases.push(v);
            }
            Entry::Mask(i) => {
                if let (true, Source::Added(v)) = (i.and_bias, &i.source) {
                    biases.push(*v);
                }
                if replaced.is_some_and(|g| g != i.group) {
                    return Err("scores that a finite fill replaced are masked again".into());
                }
                if matches!(i.fill, Fill::Replace(_)) {
                    replaced = Some(i.group);
                }
                items.push(i);
            }
        }
    }
    let infinite = items.iter().any(|i| i.fill == Fill::NegInf);
    let mut groups: Vec<usize> = items.iter().filter(|i| i.fill != Fill::NegInf).map(|i| i.group).collect();
    groups.dedup();
    if !groups.is_empty() && (infinite || groups.len() > 1) {
        // One of several fills can be the mask's; what is added can as well be a bias.
        let spare = if infinite {
            None
        } else {
            items.iter().find(|i| shown(i, sizes).is_some()).or(items.first()).map(|i| i.group)
        };
        let mut kept = vec![];
        for i in items {
            match (&i.source, i.fill) {
                (_, Fill::NegInf) => kept.push(i),
                _ if spare == Some(i.group) => kept.push(i),
                (Source::Added(v), Fill::Add(_)) => biases.push(*v),
                _ => return Err("a finite fill stands beside another fill".into()),
            }
        }
        items = kept;
    }
    let small = matches!(dtype, DType::F16 | DType::BF16);
    let finite = items.iter().any(|i| i.fill != Fill::NegInf);
    let data = biases.iter().any(|&v| !is_small(cx, v, DType::F16, true));
    if small && (finite || data) {
        return Err(format!("masks are added in {dtype}, whose rounding decides rows without a key"));
    }
    if biases.len() > 1 {
        notes.push(applied(
            "sum-of-biases",
            "biases are added to each other first".into(),
            Numerics::Reassociation,
        ));
    }
    let mut plan = terms(cx, sizes, items, &mut notes);
    if let Some(bias) = sum(cx, &biases) {
        plan.leaves.push(bias);
        plan.bias = Some(2 + plan.leaves.len());
    }
    plan.applied = notes;
    Ok(plan)
}

/// The band within which an item may keep a pair, and whether it is all that the item says.
fn shown(item: &Item, sizes: AttentionSizes) -> Option<(Band, bool)> {
    if let Source::Band(b) = item.source {
        return Some((b, true));
    }
    let (shape, known) = item.known.as_ref()?;
    let (q, k) = (sizes.q_len, sizes.kv_len);
    let extent = |from_last: usize| shape.len().checked_sub(from_last).map_or(1, |a| shape[a]);
    let (eq, ek) = (extent(2), extent(1));
    if q.saturating_mul(k) > CONSTANT_LIMIT || q == 0 || k == 0 {
        return None;
    }
    // What some batch entry and head may keep, and what every one certainly keeps.
    let (mut may, mut must) = (vec![false; q * k], vec![true; q * k]);
    for (at, &(yes, no)) in known.iter().enumerate() {
        let (i, j) = (at / ek % eq, at % ek);
        let rows = if eq == 1 { 0..q } else { i..i + 1 };
        let keys = if ek == 1 { 0..k } else { j..j + 1 };
        for cell in rows.flat_map(|i| keys.clone().map(move |j| i * k + j)) {
            may[cell] |= yes;
            must[cell] &= !no;
        }
    }
    let band = Band::fit(&may, k).filter(|b| *b != Band::default())?;
    Some((band, may == must))
}

/// Terms and tensor leaves.
fn terms(cx: &mut Context<'_>, sizes: AttentionSizes, items: Vec<Item>, notes: &mut Vec<Applied>) -> Plan {
    let fill = items.first().map_or(Fill::NegInf, |i| i.fill);
    let mut band = Band::default();
    let mut leaves: Vec<ValueId> = vec![];
    for i in &items {
        let shown = shown(i, sizes);
        if let Some((b, _)) = shown {
            band = band.and(b);
        }
        let what = match i.source {
            Source::Added(v) | Source::Condition(v) => name(cx, v),
            Source::Band(_) => continue,
        };
        if let Some((b, exact)) = shown {
            let text = Mask { terms: b.terms(sizes.q_len, sizes.kv_len), fill: Fill::NegInf };
            let rest = if exact { "" } else { ", and more" };
            notes.push(applied("mask-by-evaluation", format!("{what} is {text}{rest}"), Numerics::Exact));
        }
        if i.fill == Fill::NegInf && matches!(i.source, Source::Added(_)) {
            notes.push(applied("added-infinity", format!("{what} masks with −∞"), Numerics::Domain));
        }
        if !shown.is_some_and(|(_, exact)| exact) {
            let leaf = condition(cx, i);
            if !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        }
    }
    let mut terms = band.terms(sizes.q_len, sizes.kv_len);
    terms.extend((0..leaves.len()).map(|n| Term::Tensor { operand: 3 + n }));
    let fill = if terms.is_empty() { Fill::NegInf } else { fill };
    Plan { mask: Mask { terms, fill }, leaves, bias: None, applied: vec![] }
}

/// The boolean value that says where an item keeps a score.
fn condition(cx: &mut Context<'_>, item: &Item) -> ValueId {
    let v = match item.source {
        Source::Condition(v) => v,
        Source::Band(_) => unreachable!("a band is no tensor"),
        Source::Added(v) => {
            let dtype = cx.graph.ty(v).dtype;
            // Fills are at or below MASKING and the rest is at or above it, or they are huge and the rest is not.
            let bound = if item.and_bias { huge_bound(dtype) } else { MASKING / 2.0 };
            let n = format!("{}.keep", cx.graph.value(v).name);
            let c = cx.graph.constant(&n, Tensor::scalar(dtype, bound));
            match cx.graph.add1(Op::Binary(Binary::Gt), &[v, c], &n, "") {
                Ok(keep) => keep,
                Err(_) => unreachable!("a float compares with a scalar of its type"),
            }
        }
    };
    match cx.constants.value(cx.graph, v, CONSTANT_LIMIT) {
        Some(t) if cx.graph.as_constant(v).is_none() => {
            let n = cx.graph.value(v).name.clone();
            cx.graph.constant(&n, t)
        }
        _ => v,
    }
}

fn huge_bound(dtype: DType) -> f64 {
    if dtype == DType::F16 { HUGE_F16 } else { HUGE }
}

/// The sum of the biases, in their type, or in one that holds them all.
fn sum(cx: &mut Context<'_>, biases: &[ValueId]) -> Option<ValueId> {
    let types: Vec<DType> = biases.iter().map(|&v| cx.graph.ty(v).dtype).collect();
    let first = *types.first()?;
    let wide = if types.iter().all(|&t| t == first) {
        first
    } else if types.contains(&DType::F64) {
        DType::F64
    } else {
        DType::F32
    };
    let mut total: Option<ValueId> = None;
    for &v in biases {
        let n = format!("{}.bias", cx.graph.value(v).name);
        let v = if cx.graph.ty(v).dtype == wide {
            v
        } else {
            cx.graph.add1(Op::Cast(wide), &[v], &n, "").ok()?
        };
        total = Some(match total {
            None => v,
            Some(t) => cx.graph.add1(Op::Binary(Binary::Add), &[t, v], &n, "").ok()?,
        });
    }
    total
}

fn name(cx: &Context<'_>, v: ValueId) -> String {
    cx.graph.value(v).name.clone()
}
