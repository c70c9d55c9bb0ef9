//! Masks by evaluation: what is added to the scores, chosen for them or left of them becomes steps of the score program.
//!
//! In: factors, softcaps, roundings, biases and conditions in the order in which they act, each leaf a value that broadcasts to
//! (batch, query head, query row, key row). Out: [`Scores`] with their leaves. How a mask is spelled does not matter: its elements are
//! evaluated ([`values`](crate::find::elements::interpret)) and the terms are recognised by their shape.
//!
//! The order is the graph's. Only fills of −∞ go to where they all meet, before a softcap or a number in their place, or at the end:
//! −∞ stays −∞ whatever is added to it. A finite fill becomes −∞ only if it is so large that nothing is left of a masked key, and
//! every row is proved to keep a key, whatever the inputs are. Otherwise it stays a finite fill, or data.

use super::classify::{classify, recognised};
use super::conditions::{above, condition, fault};
use super::finite_fill::to_infinity;
use super::infinities;
use super::recognise::Recognised;
use super::size::survives_rounding;
use super::split::split;
use super::types::name;
use super::types::{Condition, Context, Entry, Item, MaskPlan, MaskSource, Piece};
use crate::find::algebra::normal_form::Rounding;
use crate::find::decimal::decimal;
use crate::find::magnitude::{HUGE, MASKING};
use crate::find::types::{Applied, Numerics};
use crate::ir::{AttentionSizes, DType, Factor, ScoreStep, Scores, ValueId};
use crate::mask::{Fill, Mask, Term};

/// Turns pieces into steps. `dtype` is the type in which the pieces act.
///
/// # Errors
/// If no steps say the same.
pub(crate) fn plan(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    pieces: &[Piece],
) -> Result<MaskPlan, String> {
    let mut notes = vec![];
    let mut entries: Vec<Entry> = vec![];
    let (meets_infinity, above) = (infinities::meeting(cx, pieces), infinities::above(cx, pieces));
    let pieces = floored(cx, pieces, &mut notes)?;
    let pieces = split(cx, dtype, pieces, &mut notes)?;
    let pieces = one_fill(pieces, &mut notes);
    for (group, p) in pieces.iter().enumerate() {
        entries.extend(classify(cx, group, p, dtype, &mut notes)?);
    }
    to_infinity(cx, sizes, dtype, &mut entries, &mut notes)?;
    let rounds = entries.iter().any(|e| rounded_away(cx, e, dtype));
    // A factor of 1 is told only where there is no other.
    let factors = |e: &&Entry| matches!(e, Entry::Other(Piece::Factor(_) | Piece::FactorBy(_)));
    let several = entries.iter().filter(factors).count() > 1;
    let one = |e: &Entry| several && matches!(e, Entry::Other(Piece::Factor(c)) if *c == 1.0);
    entries.retain(|e| !one(e));
    let mut writer = Writer { cx, sizes, dtype, notes, leaves: vec![], steps: vec![], infinite: vec![] };
    let mut at = 0;
    while let Some(entry) = entries.get(at) {
        at += 1;
        match entry {
            Entry::Other(Piece::Round(to, why)) if *why == Rounding::Converted || rounds => writer.round(*to),
            Entry::Other(other) => writer.other(other)?,
            Entry::Bias(v) => writer.add(*v),
            Entry::Mask(item) => {
                let with =
                    |e: &&Entry| matches!(e, Entry::Mask(i) if i.group == item.group && i.fill == item.fill);
                let all = 1 + entries[at..].iter().take_while(with).count();
                let group = &entries[at - 1..at - 1 + all];
                let items = group.iter().filter_map(|e| if let Entry::Mask(i) = e { Some(i) } else { None });
                writer.fill(items.cloned().collect())?;
                at += all - 1;
            }
        }
    }
    writer.infinities()?;
    let Writer { notes: applied, leaves, steps, .. } = writer;
    Ok(MaskPlan { scores: Scores::new(steps), leaves, meets_infinity, above, applied })
}

/// Whether a half type rounds scores away beside an addend, so that what it rounds decides a row.
fn rounded_away(cx: &mut Context<'_>, entry: &Entry, dtype: DType) -> bool {
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return false;
    }
    match entry {
        // What replaces a score is not rounded with it, and bf16 loses a score beside a huge number as f32 does.
        Entry::Mask(Item { fill: Fill::Add(f), .. }) => dtype != DType::BF16 || *f > HUGE,
        Entry::Mask(Item { and_bias: true, source: MaskSource::Added(v), fill, .. }) => {
            !survives_rounding(cx, *v, *fill == Fill::NegInf, dtype)
        }
        Entry::Bias(v) => !survives_rounding(cx, *v, false, dtype),
        Entry::Mask(_) | Entry::Other(_) => false,
    }
}

/// Steps as they are written.
struct Writer<'a, 'b> {
    cx: &'a mut Context<'b>,
    sizes: AttentionSizes,
    /// The type in which the pieces act.
    dtype: DType,
    notes: Vec<Applied>,
    leaves: Vec<ValueId>,
    steps: Vec<ScoreStep>,
    /// Fills of −∞ on their way to where they meet.
    infinite: Vec<Item>,
}

impl Writer<'_, '_> {
    /// The operand index of a leaf.
    fn leaf(&mut self, v: ValueId) -> usize {
        let place = self.leaves.iter().position(|&l| l == v);
        3 + place.unwrap_or_else(|| {
            self.leaves.push(v);
            self.leaves.len() - 1
        })
    }

    fn add(&mut self, v: ValueId) {
        let n = self.leaf(v);
        self.steps.push(ScoreStep::Add(n));
    }

    fn round(&mut self, to: DType) {
        if self.steps.last() != Some(&ScoreStep::Round(to)) {
            self.steps.push(ScoreStep::Round(to));
        }
    }

    fn other(&mut self, piece: &Piece) -> Result<(), String> {
        match *piece {
            // Of one factor the product takes the other along.
            Piece::Factor(c) => match self.steps.last_mut() {
                Some(ScoreStep::Factor(Factor::Number(before))) if (*before * c).is_finite() => *before *= c,
                Some(_) if c == 1.0 => {}
                _ => self.steps.push(ScoreStep::Factor(Factor::Number(c))),
            },
            Piece::FactorBy(v) => {
                let n = self.leaf(v);
                self.steps.push(ScoreStep::Factor(Factor::Leaf(n)));
            }
            Piece::Softcap(c) => {
                self.infinities()?;
                self.steps.push(ScoreStep::Softcap(c));
            }
            // What the graph's type rounds is not lost beside small addends, and kept in the wider one.
            Piece::Round(..) => {}
            Piece::Added(_) | Piece::Kept(..) | Piece::Floor(_) => {
                return Err(fault("a piece was not sorted"));
            }
        }
        Ok(())
    }

    /// A mask with one fill.
    fn fill(&mut self, items: Vec<Item>) -> Result<(), String> {
        for i in &items {
            if let (true, MaskSource::Added(v)) = (i.and_bias, &i.source) {
                self.add(*v);
            }
        }
        match items.first().map(|i| i.fill) {
            None => {}
            Some(Fill::NegInf) => self.infinite.extend(items),
            Some(Fill::Replace(f)) => {
                self.infinities()?;
                let terms = self.terms(&items)?;
                self.steps.push(ScoreStep::Fill(Mask { terms, fill: Fill::Replace(f) }));
            }
            Some(Fill::Add(f)) => {
                let terms = self.terms(&items)?;
                // What one number replaced and another is added to is their sum.
                match self.steps.last_mut() {
                    Some(ScoreStep::Fill(Mask { terms: before, fill: Fill::Replace(g) }))
                        if *before == terms && self.dtype.round(f + *g).is_finite() =>
                    {
                        *g += f;
                    }
                    _ => self.steps.push(ScoreStep::Fill(Mask { terms, fill: Fill::Add(f) })),
                }
            }
        }
        Ok(())
    }

    /// Fills of −∞ so far, as one.
    fn infinities(&mut self) -> Result<(), String> {
        let items = std::mem::take(&mut self.infinite);
        let terms = self.terms(&items)?;
        self.steps.push(ScoreStep::Fill(Mask { terms, fill: Fill::NegInf }));
        Ok(())
    }

    /// Terms of the masks of one fill, of which tensors name leaves.
    fn terms(&mut self, items: &[Item]) -> Result<Vec<Term>, String> {
        let sizes = self.sizes;
        let mut all = Recognised::default();
        let mut tensors: Vec<Term> = vec![];
        for i in items {
            let recognised = recognised(i, sizes);
            let exact = recognised.as_ref().is_some_and(|(_, exact)| *exact);
            if let Some((recognised, _)) = &recognised {
                all.band = all.band.and(recognised.band);
                let new = recognised.more.iter().filter(|t| !all.more.contains(t));
                all.more.extend(new.cloned().collect::<Vec<_>>());
            }
            let what = match &i.source {
                MaskSource::Added(v) | MaskSource::Condition(v) => name(self.cx, *v),
                MaskSource::Positions(_) => continue,
            };
            if let Some((recognised, exact)) = recognised {
                let text = Mask { terms: recognised.terms(sizes.q_len, sizes.kv_len), fill: Fill::NegInf };
                let rest = if exact { "" } else { ", and more" };
                let what = format!("{what} is {text}{rest}");
                self.notes.push(Applied::new("mask-by-evaluation", what, Numerics::Exact));
            }
            if i.fill == Fill::NegInf && matches!(i.source, MaskSource::Added(_)) {
                let what = format!("{what} masks with −∞");
                self.notes.push(Applied::new("added-infinity", what, Numerics::Domain));
            }
            if !exact {
                let leaf = condition(self.cx, i)?;
                let term = Term::Tensor { operand: self.leaf(leaf) };
                if !tensors.contains(&term) {
                    tensors.push(term);
                }
            }
        }
        let mut terms = all.terms(sizes.q_len, sizes.kv_len);
        terms.extend(tensors);
        Ok(terms)
    }
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
            let first = conditions.is_empty();
            match before {
                Piece::Factor(_) | Piece::FactorBy(_) | Piece::Softcap(_) if first => out.push(before),
                Piece::Round(..) => out.push(before),
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
