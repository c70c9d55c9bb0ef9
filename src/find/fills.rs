//! Finite fills that are as good as −∞.
//!
//! A huge fill leaves nothing of a masked key if its row has another one: exp(f − max) is 0. Where a row may have none, the
//! fill is a number like any other. The proof looks at every row of every batch entry and head, whatever the inputs are.

use super::band::Band;
use super::items::{Entry, Item, Known, SMALL_BIAS, SMALL_BIAS_F16, Source, applied, huge};
use super::masks::Context;
use super::trace::CONSTANT_LIMIT;
use super::{Applied, Numerics};
use crate::ir::{AttentionSizes, DType, ValueId};
use crate::mask::{Fill, Mask};

/// Turns huge finite fills into −∞ where every row is proved to keep a key.
///
/// # Errors
/// If a condition has several fills, which no value can have.
pub(super) fn to_infinity(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    entries: &mut [Entry],
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
pub(super) fn is_small(cx: &mut Context<'_>, v: ValueId, dtype: DType, fills: bool) -> bool {
    let bound = if dtype == DType::F16 { SMALL_BIAS_F16 } else { SMALL_BIAS };
    cx.constants
        .value(cx.graph, v, CONSTANT_LIMIT)
        .is_some_and(|t| t.to_f64().iter().all(|&x| x.abs() <= bound || (fills && huge(x, dtype))))
}

/// Whether every row of every batch entry and head certainly keeps a key, all items together.
pub(super) fn no_row_is_empty(sizes: AttentionSizes, items: &[&Item]) -> bool {
    let bands: Option<Vec<Band>> =
        items.iter().map(|i| if let Source::Band(b) = i.source { Some(b) } else { None }).collect();
    if let Some(bands) = bands {
        let band = bands.into_iter().fold(Band::default(), Band::and);
        let mask = Mask { terms: band.terms(sizes.q_len, sizes.kv_len), fill: Fill::NegInf };
        return mask.no_row_is_empty(sizes.q_len, sizes.kv_len);
    }
    let (mut batch, mut heads) = (1, 1);
    for i in items {
        match (&i.known, &i.source) {
            (Some(known), _) => {
                batch = batch.max(known.extent(4));
                heads = heads.max(known.extent(3));
            }
            (None, Source::Band(_) | Source::Documents(_)) => {}
            (None, _) => return false,
        }
    }
    let (q, k) = (sizes.q_len, sizes.kv_len);
    let total = [batch, heads, q, k].iter().fold(1usize, |n, &e| n.saturating_mul(e));
    if total > CONSTANT_LIMIT {
        return false;
    }
    let kept = |i: &Item, at: [usize; 4]| match (&i.known, &i.source) {
        (Some(Known { shape, sets }), _) => {
            let place = shape.iter().enumerate().fold(0, |p, (axis, &e)| {
                let x = at[4 - shape.len() + axis];
                p * e + if e == 1 { 0 } else { x }
            });
            !sets[place].1
        }
        (None, Source::Band(b)) => b.keeps(at[2], at[3]),
        (None, Source::Documents(d)) => d.keeps(at[2], at[3]),
        (None, _) => false,
    };
    let rows = (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..q).map(move |i| [b, h, i])));
    { rows }.all(|[b, h, i]| (0..k).any(|j| items.iter().all(|m| kept(m, [b, h, i, j]))))
}
