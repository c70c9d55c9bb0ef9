//! Whether additions to the scores may be done in another order than the graph's.
//!
//! An attention adds one bias to a score and then masks it; a key whose bias is −∞ takes no part. A graph that adds twice, or
//! replaces scores after it added −∞, says the same only if the numbers that are added allow it: −1e9 swallows the digits
//! of what it meets first, and decides a row that has no other key.

use super::fills::no_row_is_empty;
use super::items::{Item, Known, Source, huge, name};
use super::masks::Context;
use super::trace::CONSTANT_LIMIT;
use crate::ir::{AttentionSizes, DType, ValueId};
use crate::mask::Fill;

/// Up to here an addend's rounding in f32, 2⁻²⁴ of it, is that of a score.
const SMALL_SUM: f64 = 1e3;
/// The same of f16, whose rounding is 2⁻¹¹ of a number.
const SMALL_SUM_F16: f64 = 16.0;
/// The same of bf16, whose rounding is 2⁻⁹ of a number.
const SMALL_SUM_BF16: f64 = 4.0;

/// Something that is added to the scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addend {
    pub(super) value: ValueId,
    /// Its place in the order of the graph.
    pub(super) at: usize,
    /// Whether keys at its huge fills are masked with −∞ besides.
    pub(super) masked: bool,
}

fn small_sum(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => SMALL_SUM_F16,
        DType::BF16 => SMALL_SUM_BF16,
        _ => SMALL_SUM,
    }
}

/// What a value's elements can be: its shape, and for each element whether all of its numbers pass, and whether all numbers
/// pass `every`. `None` if they are not known.
fn numbers(
    cx: &mut Context<'_>,
    v: ValueId,
    pass: impl Fn(f64) -> bool,
    every: impl Fn(f64) -> bool,
) -> Option<(Known, bool)> {
    if let Some(t) = cx.constants.value(cx.graph, v, CONSTANT_LIMIT) {
        let x = t.to_f64();
        let sets = x.iter().map(|&x| (pass(x), !pass(x))).collect();
        return Some((Known { shape: t.shape().to_vec(), sets }, x.into_iter().all(every)));
    }
    let p = cx.values.get(cx.graph, cx.constants, v)?;
    Some((Known { shape: p.shape.clone(), sets: p.certain(pass) }, p.table.iter().copied().all(every)))
}

/// Whether scores may be replaced after the biases were added in one: the biases and their sum are nowhere −∞, which an
/// attention takes for a key that is not there, whatever replaces its score.
///
/// # Errors
/// The bias that is not proved so.
pub(super) fn replaceable(cx: &mut Context<'_>, biases: &[Addend]) -> Result<(), String> {
    let least = f64::from(f32::MIN) / biases.len().max(1) as f64;
    for b in biases {
        if !numbers(cx, b.value, |_| true, |x| x >= least).is_some_and(|(_, all)| all) {
            let n = name(cx, b.value);
            return Err(format!("a finite fill replaces scores to which {n} added what may be −∞"));
        }
    }
    Ok(())
}

/// Whether a bias of a half type may be added in a wider one: its rounding is that of a score.
pub(super) fn survives_rounding(cx: &mut Context<'_>, b: &Addend, dtype: DType) -> bool {
    let bound = small_sum(dtype);
    // −∞ is as exact as a number; only what is proved −∞ for the mask may be huge.
    let fine = |x: f64| x.abs() <= bound || x == f64::NEG_INFINITY || (b.masked && huge(x, dtype));
    numbers(cx, b.value, fine, fine).is_some_and(|(_, all)| all)
}

/// Whether the biases and the fill may be added in any order: no addend is large, or every row has a key at which none is,
/// beside which a key at a large negative one weighs nothing.
///
/// # Errors
/// If neither is proved.
pub(super) fn reorderable(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    biases: &[Addend],
    items: &[Item],
) -> Result<(), String> {
    let bound = small_sum(dtype);
    let mut guards: Vec<Item> = items.to_vec();
    let fills = items.iter().all(|i| !matches!(i.fill, Fill::Add(f) if f.is_nan() || f.abs() > bound));
    let mut small = fills;
    for b in biases {
        let exact = |x: f64| x.abs() <= bound || x == f64::NEG_INFINITY || (b.masked && huge(x, dtype));
        let n = name(cx, b.value);
        let unknown =
            || format!("{n} is not known to be small, and another order of additions rounds it otherwise");
        small &= numbers(cx, b.value, exact, exact).ok_or_else(unknown)?.1;
        let (known, low) = numbers(cx, b.value, |x| x.abs() <= bound, |x| x <= bound).ok_or_else(unknown)?;
        if !low {
            return Err(unknown());
        }
        guards.push(Item {
            group: usize::MAX,
            source: Source::Added(b.value),
            fill: Fill::NegInf,
            only_as_infinity: false,
            and_bias: false,
            known: Some(known),
        });
    }
    if small || no_row_is_empty(sizes, &guards.iter().collect::<Vec<_>>()) {
        return Ok(());
    }
    Err("a large negative bias decides a row without a key, and another order of additions rounds it otherwise".into())
}
