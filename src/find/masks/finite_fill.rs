//! Finite fills that are as good as −∞.
//!
//! A huge fill leaves nothing of a masked key if its row has another one: exp(f − max) is 0. Where a row may have none, the
//! fill is a number like any other. The proof looks at every row of every batch entry and head, whatever the inputs are.

use super::types::MaskSource;
use super::types::{Context, Entry, Item, Piece};
use crate::find::axes::trace::CONSTANT_LIMIT;
use crate::find::decimal::decimal;
use crate::find::elements::interpret::Known;
use crate::find::magnitude::{MODERATE_FACTOR, huge, huge_bound, small_bias};
use crate::find::types::{Applied, Numerics};
use crate::ir::{AttentionSizes, DType, ValueId};
use crate::mask::{Fill, Mask};

/// Turns huge finite fills into −∞ where every row is proved to keep a key.
///
/// # Errors
/// If a condition has several fills, which no value can have.
pub(crate) fn to_infinity(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    entries: &mut [Entry],
    notes: &mut Vec<Applied>,
) -> Result<(), String> {
    let safe_bias = entries.iter().all(|e| match e {
        Entry::Bias(v) => is_small(cx, *v, dtype, false),
        Entry::Mask(i) if i.and_bias => {
            let MaskSource::Added(v) = i.source else { return false };
            is_small(cx, v, dtype, true)
        }
        Entry::Mask(_) | Entry::Other(_) => true,
    });
    let items: Vec<&Item> =
        entries.iter().filter_map(|e| if let Entry::Mask(i) = e { Some(i) } else { None }).collect();
    let finite = items.iter().any(|i| i.fill != Fill::NegInf || i.only_as_infinity);
    if !finite {
        return Ok(());
    }
    let full = safe_bias && no_row_is_empty(sizes, &items);
    let full = full && cx.admitted.contains(&Numerics::Domain);
    let last = entries.iter().rposition(keeps_nothing_huge).unwrap_or(0);
    for (at, e) in entries.iter_mut().enumerate() {
        let may = full && at >= last;
        let Entry::Mask(item) = e else { continue };
        let size = match item.fill {
            Fill::NegInf => f64::NEG_INFINITY,
            Fill::Add(f) | Fill::Replace(f) => f,
        };
        if may && (item.only_as_infinity || huge(size, dtype)) {
            if item.fill != Fill::NegInf || item.only_as_infinity {
                notes.push(Applied::new(
                    "fill-to-infinity",
                    format!("a fill of {} is as good as −∞, for every row keeps a key", decimal(size)),
                    Numerics::Domain,
                ));
            }
            item.fill = Fill::NegInf;
            item.only_as_infinity = false;
        } else if item.only_as_infinity {
            let MaskSource::Added(v) = item.source else {
                return Err("one condition has several fills".into());
            };
            *e = Entry::Bias(v);
        }
    }
    Ok(())
}

/// Whether a huge number need not be huge any more behind a step.
fn keeps_nothing_huge(e: &Entry) -> bool {
    match e {
        Entry::Other(Piece::Factor(c)) => !(1.0 / MODERATE_FACTOR..=MODERATE_FACTOR).contains(c),
        Entry::Other(Piece::FactorBy(_) | Piece::Softcap(_)) => true,
        _ => false,
    }
}

/// Whether a value is far from every huge fill; fills among its own values are let pass if `fills`.
pub(crate) fn is_small(cx: &mut Context<'_>, v: ValueId, dtype: DType, fills: bool) -> bool {
    let bound = small_bias(dtype);
    let small = (-bound, bound);
    let p = cx.values.get(cx.graph, cx.constants, v);
    p.is_some_and(|p| {
        let huge = if fills { (f64::NEG_INFINITY, huge_bound(dtype)) } else { small };
        cx.values.all(&p, &[small, huge])
    })
}

/// Whether every row of every batch entry and head certainly keeps a key, all items together.
pub(crate) fn no_row_is_empty(sizes: AttentionSizes, items: &[&Item]) -> bool {
    let (q, k) = (sizes.q_len, sizes.kv_len);
    // Of each item the batch entries, heads and rows that differ, and where they stand.
    let mut held = [1; 3];
    let mut rows = vec![];
    for i in items {
        match (&i.known, &i.source) {
            (Some(known), _) => {
                for (h, from_last) in held.iter_mut().zip([4, 3, 2]) {
                    *h = known.held_extent(from_last).max(*h);
                }
                let own = known.strides(4.max(known.shape().len()));
                rows.push(Kept::Known(known, own));
            }
            (None, MaskSource::Positions(term)) => {
                let mask = Mask { terms: vec![term.clone()], fill: Fill::NegInf };
                (held[0], held[2]) = (held[0].max(mask.entries()), q);
                rows.push(Kept::Positions(mask));
            }
            (None, _) => return false,
        }
    }
    if q == 0 || sizes.batch == 0 || sizes.q_heads == 0 {
        return true;
    }
    if held.iter().fold(1usize, |n, &h| n.saturating_mul(h)) > CONSTANT_LIMIT {
        return false;
    }
    let [batch, heads, q] = held;
    let all = (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..q).map(move |i| [b, h, i])));
    { all }.all(|at| {
        // Ranges of keys that every item so far keeps.
        let mut left = vec![(0, k)];
        rows.iter().for_each(|kept| kept.cut(at, k, &mut left));
        !left.is_empty()
    })
}

/// What an item keeps of a row.
enum Kept<'a> {
    /// And the distances of rows along batch, heads and query rows.
    Known(&'a Known, Vec<usize>),
    Positions(Mask),
}

impl Kept<'_> {
    /// Leaves of ranges of keys what the row of a batch entry and head keeps for certain.
    fn cut(&self, at: [usize; 3], keys: usize, left: &mut Vec<(usize, usize)>) {
        let mut kept = vec![];
        match self {
            Kept::Positions(mask) => {
                let (low, high) = mask.keys_of(at[0], at[2]);
                let (from, to) = (low.max(0), high.saturating_add(1).min(keys as i128));
                if from < to {
                    kept.push((from as usize, to as usize));
                }
            }
            Kept::Known(known, own) => {
                let runs = known.row(at.iter().zip(own).map(|(&i, &s)| i * s).sum());
                let whole = matches!(runs, [(1, _)]);
                let mut at = 0;
                for &(n, (_, no)) in runs {
                    let n = if whole { keys } else { n };
                    if !no {
                        kept.push((at, at + n));
                    }
                    at += n;
                }
            }
        }
        *left = left
            .iter()
            .flat_map(|&(a, b)| kept.iter().map(move |&(c, d)| (a.max(c), b.min(d))))
            .filter(|(a, b)| a < b)
            .collect();
    }
}
