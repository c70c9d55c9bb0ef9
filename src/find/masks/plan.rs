//! Masks by evaluation: what is added to the scores, chosen for them or left of them becomes terms, fill and bias.
//!
//! In: biases and conditions in the order in which they act, each a value that broadcasts to (batch, query head, query
//! row, key row). Out: a [`Mask`] with its leaves, and a bias. How a mask is spelled does not matter: its elements are
//! evaluated ([`values`](crate::find::elements::interpret)) and the terms are recognised by their shape.
//!
//! A finite fill becomes −∞ only if it is so large that nothing is left of a masked key, and every row is proved to keep a
//! key, whatever the inputs are. Otherwise it stays a finite fill, or data.

use super::classify::{classify, recognised};
use super::conditions::{above, condition, fault};
use super::finite_fill::to_infinity;
use super::infinities;
use super::recognise::Recognised;
use super::reorder;
use super::types::name;
use super::types::{Addend, Condition, Context, Entry, Item, MaskPlan, MaskSource, Piece};
use crate::find::decimal::decimal;
use crate::find::magnitude::{HUGE, MASKING};
use crate::find::types::{Applied, Numerics};
use crate::ir::{AttentionSizes, Binary, DType, Op, Tensor, ValueId};
use crate::mask::{Fill, Mask, Term};

/// Turns pieces into a mask and a bias. `dtype` is the type in which the pieces act.
///
/// # Errors
/// If no mask and bias says the same.
pub(crate) fn plan(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    pieces: &[Piece],
) -> Result<MaskPlan, String> {
    let mut notes = vec![];
    let mut entries: Vec<Entry> = vec![];
    let (meets_infinity, above) = (infinities::meeting(cx, pieces), infinities::above(cx, pieces));
    let pieces = one_fill(floored(cx, pieces, &mut notes)?, &mut notes);
    for (group, p) in pieces.iter().enumerate() {
        entries.extend(classify(cx, group, p, dtype, &mut notes)?);
    }
    to_infinity(cx, sizes, dtype, &mut entries, &mut notes)?;
    added_instead(cx, dtype, &mut entries, &mut notes);
    let plan = arrange(cx, sizes, dtype, entries, notes)?;
    Ok(MaskPlan { meets_infinity, above, ..plan })
}

/// Turns masks before a floor into one that replaces scores by it: whatever they made of a masked score is not above it.
///
/// # Errors
/// If that is not known.
fn floored(cx: &mut Context<'_>, pieces: &[Piece], notes: &mut Vec<Applied>) -> Result<Vec<Piece>, String> {
    let mut out: Vec<Piece> = vec![];
    for piece in pieces {
        let &Piece::Floor(f) = piece else {
            out.push(piece.clone());
            continue;
        };
        let mut conditions = vec![];
        for before in std::mem::take(&mut out) {
            match before {
                Piece::Added(v) => {
                    let known = cx.values.get(cx.graph, cx.constants, v);
                    let ends = [(0.0, 0.0), (f64::NEG_INFINITY, f)];
                    if !known.is_some_and(|p| cx.values.all(&p, &ends)) {
                        return Err(format!(
                            "scores are kept from falling below {}, and {}, which is added to them, is not known to be 0 or as low \
                             everywhere; bind the inputs that it is made of (--bind), or mask with −∞",
                            decimal(f),
                            name(cx, v)
                        ));
                    }
                    conditions.push(Condition::True(above(cx, v, MASKING / 2.0)?));
                }
                Piece::Kept(more, Fill::NegInf) => conditions.extend(more),
                Piece::Kept(more, Fill::Replace(g) | Fill::Add(g)) if g <= f => conditions.extend(more),
                _ => {
                    return Err(format!(
                        "scores are kept from falling below {}, but a mask before that put a larger number in their place; mask with −∞",
                        decimal(f)
                    ));
                }
            }
        }
        if !conditions.is_empty() {
            let what = format!(
                "all masked scores are raised to the lower bound {}, which is their fill",
                decimal(f)
            );
            notes.push(Applied::new("floor-is-fill", what, Numerics::Domain));
            out.push(Piece::Kept(conditions, Fill::Replace(f)));
        }
    }
    Ok(out)
}

/// Puts together the conditions of masks that follow each other with one fill: a score that one or the other replaces by it.
fn one_fill(pieces: Vec<Piece>, notes: &mut Vec<Applied>) -> Vec<Piece> {
    let mut out: Vec<Piece> = vec![];
    for piece in pieces {
        if let (Some(Piece::Kept(before, Fill::Replace(f))), Piece::Kept(more, Fill::Replace(g))) =
            (out.last_mut(), &piece)
            && f == g
        {
            before.extend(more.iter().cloned());
            let what = format!("several conditions that replace scores by {} are one mask", decimal(*g));
            notes.push(Applied::new("one-fill", what, Numerics::Exact));
        } else {
            out.push(piece);
        }
    }
    out
}

/// Turns a huge fill that replaces scores, which are then added to or masked again, into one that is added: it swallows any
/// score that is not itself as large. Before it nothing else may have masked: what it replaced would come back.
fn added_instead(cx: &mut Context<'_>, dtype: DType, entries: &mut Vec<Entry>, notes: &mut Vec<Applied>) {
    if !matches!(dtype, DType::F32 | DType::F64) || !cx.admitted.contains(&Numerics::Domain) {
        return;
    }
    let masks =
        entries.iter().filter_map(|e| if let Entry::Mask(item) = e { Some(item.group) } else { None });
    let Some(group) = masks.clone().next() else { return };
    let own = entries.iter().position(|e| matches!(e, Entry::Mask(_))).unwrap_or(0);
    let end = own + masks.take_while(|g| *g == group).count();
    // What the last mask replaces nothing changes any more.
    if end == entries.len() {
        return;
    }
    let (mut conditions, mut fill) = (vec![], None);
    for e in &entries[own..end] {
        let Entry::Mask(Item { fill: Fill::Replace(f), source: MaskSource::Condition(keep), .. }) = e else {
            return;
        };
        if *f > HUGE {
            return;
        }
        conditions.push(*keep);
        fill = Some(*f);
    }
    let Some(f) = fill else { return };
    for e in &entries[..own] {
        let Entry::Bias(v) = e else { return };
        if !reorder::beside_huge(cx, *v) {
            return;
        }
    }
    let n = format!("{}.fill", name(cx, conditions[0]));
    let all = conditions[1..]
        .iter()
        .try_fold(conditions[0], |a, &b| cx.graph.add1(Op::Binary(Binary::And), &[a, b], &n, "").ok());
    let zero = cx.graph.constant(&n, Tensor::scalar(dtype, 0.0));
    let number = cx.graph.constant(&n, Tensor::scalar(dtype, f));
    let Some(keep) = all else { return };
    let Ok(v) = cx.graph.add1(Op::Select, &[keep, zero, number], &n, "") else { return };
    let what = format!("a fill of {} is added instead: it swallows the score that it replaced", decimal(f));
    notes.push(Applied::new("fill-is-added", what, Numerics::Domain));
    let p = cx.values.get(cx.graph, cx.constants, v);
    let known = p.map(|p| cx.values.certain(&p, &[(0.0, 0.0)]));
    let (source, fill) = (MaskSource::Added(v), Fill::Add(f));
    let item = Item { group, source, fill, only_as_infinity: false, and_bias: false, known };
    entries.splice(own..end, [Entry::Mask(item)]);
}

/// One mask and one bias from what is left.
fn arrange(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    entries: Vec<Entry>,
    mut notes: Vec<Applied>,
) -> Result<MaskPlan, String> {
    let mut biases: Vec<Addend> = vec![];
    let mut items: Vec<Item> = vec![];
    // Where each group of items stands among the entries.
    let mut places: Vec<(usize, usize)> = vec![];
    let mut replaced: Option<usize> = None;
    for (at, e) in entries.into_iter().enumerate() {
        match e {
            Entry::Bias(value) => {
                if replaced.is_some() {
                    return Err(format!(
                        "{} is added after a mask replaced scores by a finite number, where an attention adds biases first; add it \
                         before the mask, or mask with −∞",
                        name(cx, value)
                    ));
                }
                biases.push(Addend { value, at, masked: false });
            }
            Entry::Mask(i) => {
                if let (true, MaskSource::Added(value)) = (i.and_bias, &i.source) {
                    biases.push(Addend { value: *value, at, masked: i.fill == Fill::NegInf });
                }
                if replaced.is_some_and(|g| g != i.group) {
                    return Err("scores that one mask replaced by a finite number are masked again, where an attention has one fill; combine the \
                                conditions, or mask with −∞"
                        .into());
                }
                if matches!(i.fill, Fill::Replace(_)) {
                    replaced = Some(i.group);
                }
                places.push((i.group, at));
                items.push(i);
            }
        }
    }
    let place = |group: usize| places.iter().find(|p| p.0 == group).map_or(0, |p| p.1);
    let infinite = items.iter().any(|i| i.fill == Fill::NegInf);
    let mut groups: Vec<usize> = items.iter().filter(|i| i.fill != Fill::NegInf).map(|i| i.group).collect();
    groups.dedup();
    if !groups.is_empty() && (infinite || groups.len() > 1) {
        // One of several fills can be the mask's; what is added can as well be a bias.
        let spare = if infinite {
            None
        } else {
            items.iter().find(|i| recognised(i, sizes).is_some()).or(items.first()).map(|i| i.group)
        };
        let mut kept = vec![];
        for i in items {
            match (&i.source, i.fill) {
                (_, Fill::NegInf) => kept.push(i),
                _ if spare == Some(i.group) => kept.push(i),
                (MaskSource::Added(value), Fill::Add(_)) => {
                    biases.push(Addend { value: *value, at: place(i.group), masked: false });
                }
                _ => return Err("two masks have different fills, one of them finite, where an attention has one fill; mask with −∞ in both".into()),
            }
        }
        items = kept;
    }
    biases.sort_by_key(|b| b.at);
    if items.iter().any(|i| matches!(i.fill, Fill::Replace(_))) {
        reorder::replaceable(cx, &biases)?;
    }
    let small = matches!(dtype, DType::F16 | DType::BF16);
    // What replaces a score is not rounded with it, and bf16 loses a score beside a huge number as f32 does.
    let rounded = |i: &Item| matches!(i.fill, Fill::Add(f) if dtype != DType::BF16 || f > HUGE);
    if small && items.iter().any(rounded) {
        return Err(format!(
            "a finite fill is added in {dtype}, and a row may have no key: what {dtype} rounds then decides it, and sums in f32 \
             round otherwise; mask with −∞ or in f32"
        ));
    }
    if small && let Some(b) = biases.iter().find(|b| !reorder::survives_rounding(cx, b, dtype)) {
        return Err(format!(
            "{} is added in {dtype} and may be large for all keys of a row, whose scores {dtype} then rounds to one number and f32 \
             does not; bind the inputs that it is made of (--bind), or add it in f32",
            name(cx, b.value)
        ));
    }
    let last = items.iter().find(|i| matches!(i.fill, Fill::Add(_))).map(|i| place(i.group));
    let in_order = last.is_none_or(|p| biases.iter().all(|b| b.at < p));
    if biases.len() > 1 || !in_order {
        if let Some(swallowed) = reorder::reorderable(cx, sizes, dtype, &biases, &items)? {
            notes.push(swallowed);
        }
        notes.push(Applied::new(
            "sum-of-biases",
            "several biases are added to each other before they are added to the scores".into(),
            Numerics::Reassociation,
        ));
    }
    let biases: Vec<ValueId> = biases.iter().map(|b| b.value).collect();
    let mut plan = terms(cx, sizes, items, &mut notes)?;
    if let Some(bias) = sum(cx, &biases)? {
        plan.leaves.push(bias);
        plan.bias = Some(2 + plan.leaves.len());
    }
    plan.applied = notes;
    Ok(plan)
}

/// Terms and tensor leaves.
fn terms(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    items: Vec<Item>,
    notes: &mut Vec<Applied>,
) -> Result<MaskPlan, String> {
    let fill = items.first().map_or(Fill::NegInf, |i| i.fill);
    let mut all = Recognised::default();
    let mut leaves: Vec<ValueId> = vec![];
    for i in &items {
        let recognised = recognised(i, sizes);
        let exact = recognised.as_ref().is_some_and(|(_, exact)| *exact);
        if let Some((recognised, _)) = &recognised {
            all.band = all.band.and(recognised.band);
            let new = recognised.more.iter().filter(|t| !all.more.contains(t));
            all.more.extend(new.cloned().collect::<Vec<_>>());
        }
        let what = match &i.source {
            MaskSource::Added(v) | MaskSource::Condition(v) => name(cx, *v),
            MaskSource::Positions(_) => continue,
        };
        if let Some((recognised, exact)) = recognised {
            let text = Mask { terms: recognised.terms(sizes.q_len, sizes.kv_len), fill: Fill::NegInf };
            let rest = if exact { "" } else { ", and more" };
            notes.push(Applied::new(
                "mask-by-evaluation",
                format!("{what} is {text}{rest}"),
                Numerics::Exact,
            ));
        }
        if i.fill == Fill::NegInf && matches!(i.source, MaskSource::Added(_)) {
            notes.push(Applied::new("added-infinity", format!("{what} masks with −∞"), Numerics::Domain));
        }
        if !exact {
            let leaf = condition(cx, i)?;
            if !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        }
    }
    let mut terms = all.terms(sizes.q_len, sizes.kv_len);
    terms.extend((0..leaves.len()).map(|n| Term::Tensor { operand: 3 + n }));
    let fill = if terms.is_empty() { Fill::NegInf } else { fill };
    Ok(MaskPlan::of(Mask { terms, fill }, leaves, None))
}

/// The sum of the biases, in their type, or in one that holds them all.
fn sum(cx: &mut Context<'_>, biases: &[ValueId]) -> Result<Option<ValueId>, String> {
    let types: Vec<DType> = biases.iter().map(|&v| cx.graph.ty(v).dtype).collect();
    let Some(&first) = types.first() else { return Ok(None) };
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
            cx.graph.add1(Op::Cast(wide), &[v], &n, "").map_err(|e| fault(&e.to_string()))?
        };
        total = Some(match total {
            None => v,
            Some(t) => {
                cx.graph.add1(Op::Binary(Binary::Add), &[t, v], &n, "").map_err(|e| fault(&e.to_string()))?
            }
        });
    }
    Ok(total)
}
