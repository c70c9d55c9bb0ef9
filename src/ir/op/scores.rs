//! The score program of an attention: what happens to q·k before the softmax, step by step, in the model's own order.

use crate::ir::types::DType;
use crate::layout::Progression;
use crate::mask::{Fill, Mask, Term, Tile};

/// What scores are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Factor {
    /// A finite number.
    Number(f64),
    /// Operand index of a leaf, broadcast to (B, Hq, Sq, Sk).
    Leaf(usize),
}

/// One step of a score program. Every step maps a score x of query row i and key row j to another.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreStep {
    /// x · factor. A score of −∞ stays what it is.
    Factor(Factor),
    /// cap · tanh(x / cap), cap a finite number above 0. A score of −∞ becomes −cap.
    Softcap(f64),
    /// x + leaf, by operand index, broadcast to (B, Hq, Sq, Sk). A score of −∞ stays what it is, whatever is added.
    Add(usize),
    /// Where the mask does not keep the pair, x becomes what its fill says.
    Fill(Mask),
    /// x rounded to the nearest number of a narrower floating type, ties to even.
    Round(DType),
}

impl ScoreStep {
    /// Operand indices of the leaves that it reads, each with whether it is one of truth values.
    pub fn leaves(&self) -> impl Iterator<Item = (usize, bool)> + '_ {
        let number = match *self {
            ScoreStep::Factor(Factor::Leaf(n)) | ScoreStep::Add(n) => Some((n, false)),
            _ => None,
        };
        let terms = if let ScoreStep::Fill(m) = self { m.terms.as_slice() } else { &[] };
        let truths = terms.iter().filter_map(|t| match *t {
            Term::Tensor { operand } => Some((operand, true)),
            _ => None,
        });
        number.into_iter().chain(truths)
    }

    /// The mask, if it is a fill.
    pub fn mask(&self) -> Option<&Mask> {
        if let ScoreStep::Fill(m) = self { Some(m) } else { None }
    }
}

/// A straight program over scores: [`ScoreStep`]s in the order in which they act on q·k.
///
/// A score that is −∞ at the end is a key that takes no part, even if its value is infinite or NaN. Which pairs that is by
/// position, and so what need not be computed, is derived from the steps here and nowhere else: [`Scores::live`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    steps: Vec<ScoreStep>,
    live: Mask,
    /// Whether some fill stands in no live term: it is finite, or a later step undoes it.
    others: bool,
}

impl Scores {
    /// The program of these steps. Fills that keep every pair are left out.
    pub fn new(steps: impl IntoIterator<Item = ScoreStep>) -> Scores {
        let fills_nothing = |s: &ScoreStep| s.mask().is_some_and(|m| m.terms.is_empty());
        let steps: Vec<ScoreStep> = steps.into_iter().filter(|s| !fills_nothing(s)).collect();
        let begin = steps.iter().rposition(undoes).map_or(0, |at| at + 1);
        let mut live = Mask::none();
        steps[begin..].iter().filter_map(infinite).for_each(|m| join(&mut live, m));
        let others = steps[..begin].iter().any(|s| s.mask().is_some())
            || steps[begin..].iter().any(|s| s.mask().is_some() && infinite(s).is_none());
        Scores { steps, live, others }
    }

    /// q·k times a number.
    pub fn scaled(scale: f64) -> Scores {
        Scores::usual(scale, 0.0, None, Mask::none())
    }

    /// The usual order: a scale, a softcap (0 for none), a bias, a mask.
    pub fn usual(scale: f64, softcap: f64, bias: Option<usize>, mask: Mask) -> Scores {
        let factor = ScoreStep::Factor(Factor::Number(scale));
        let cap = (softcap != 0.0).then_some(ScoreStep::Softcap(softcap));
        let steps = [Some(factor), cap, bias.map(ScoreStep::Add), Some(ScoreStep::Fill(mask))];
        Scores::new(steps.into_iter().flatten())
    }

    /// The steps in order.
    pub fn steps(&self) -> &[ScoreStep] {
        &self.steps
    }

    /// Which pairs may have a part in the softmax: the terms of all fills of −∞ that no later step undoes. A softcap, and a finite
    /// number that replaces scores, make a number of −∞. Its fill is −∞, so that what it does not keep need not be computed.
    pub fn live(&self) -> &Mask {
        &self.live
    }

    /// What the steps say about every pair of `q` and `k`: [`Tile::Skip`] if none has a part in the softmax, [`Tile::Full`] if no fill
    /// acts on any, so that fills may be left out.
    pub fn tile(&self, q: &Progression, k: &Progression) -> Tile {
        let tile = self.live.tile(q, k);
        let more = || self.others && self.masks().any(|m| m.tile(q, k) != Tile::Full);
        if tile == Tile::Full && more() { Tile::Partial } else { tile }
    }

    /// Whether the steps are a constant factor, a softcap, one leaf added and a fill, in this order, each at most once.
    pub fn is_usual(&self) -> bool {
        let place = |s: &ScoreStep| match s {
            ScoreStep::Factor(Factor::Number(_)) => Some(0),
            ScoreStep::Softcap(_) => Some(1),
            ScoreStep::Add(_) => Some(2),
            ScoreStep::Fill(_) => Some(3),
            ScoreStep::Factor(Factor::Leaf(_)) | ScoreStep::Round(_) => None,
        };
        let places: Option<Vec<i32>> = self.steps.iter().map(place).collect();
        places.is_some_and(|p| p.is_sorted_by(|a, b| a < b))
    }

    /// The masks of all fills, in order.
    pub fn masks(&self) -> impl Iterator<Item = &Mask> {
        self.steps.iter().filter_map(ScoreStep::mask)
    }

    /// The conjunction of all fills' masks: which pairs no fill touches. Its fill is that of the last one.
    pub fn mask(&self) -> Mask {
        let mut all = Mask::none();
        for m in self.masks() {
            all.fill = m.fill;
            join(&mut all, m);
        }
        all
    }

    /// The product of all constant factors; `None` if a factor is a leaf.
    pub fn scale(&self) -> Option<f64> {
        let mut scale = 1.0;
        for step in &self.steps {
            match step {
                ScoreStep::Factor(Factor::Number(x)) => scale *= x,
                ScoreStep::Factor(Factor::Leaf(_)) => return None,
                _ => {}
            }
        }
        Some(scale)
    }

    /// cap of the first softcap, 0 for none.
    pub fn softcap(&self) -> f64 {
        let cap = |s: &ScoreStep| if let ScoreStep::Softcap(c) = s { Some(*c) } else { None };
        self.steps.iter().find_map(cap).unwrap_or(0.0)
    }

    /// Operand indices of what is added, in order.
    pub fn added(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().filter_map(|s| if let ScoreStep::Add(n) = s { Some(*n) } else { None })
    }

    /// Operand indices of all leaves, in the order in which they are read, each with whether it is one of truth values.
    pub fn leaves(&self) -> impl Iterator<Item = (usize, bool)> {
        self.steps.iter().flat_map(ScoreStep::leaves)
    }

    /// Whether some fill says of each batch entry what it keeps.
    pub fn by_entry(&self) -> bool {
        self.masks().any(Mask::by_entry)
    }

    /// The program of some of the batch entries, in that order; see [`Mask::of_entries`].
    pub fn of_entries(&self, which: &[usize]) -> Scores {
        Scores::new(self.steps.iter().map(|s| match s {
            ScoreStep::Fill(m) => ScoreStep::Fill(m.of_entries(which)),
            other => other.clone(),
        }))
    }

    /// What is wrong with the numbers and terms over so many batch entries, operands aside.
    pub fn fault(&self, batch: usize) -> Option<String> {
        self.steps.iter().find_map(|s| match s {
            ScoreStep::Factor(Factor::Number(x)) if !x.is_finite() => {
                Some(format!("scores are multiplied by {x}, which is not finite"))
            }
            ScoreStep::Softcap(c) if !c.is_finite() || *c <= 0.0 => {
                Some(format!("a softcap of {c} is no finite number above 0"))
            }
            ScoreStep::Round(t) if !t.is_float() => {
                Some(format!("scores are rounded to {t}, which is no floating type"))
            }
            ScoreStep::Fill(m) => match m.fill {
                Fill::Replace(x) | Fill::Add(x) if !x.is_finite() => {
                    Some(format!("the mask fills with {x}, which is not finite"))
                }
                _ => m.fault(batch),
            },
            _ => None,
        })
    }
}

/// Whether a step makes a number of −∞.
fn undoes(step: &ScoreStep) -> bool {
    matches!(step, ScoreStep::Softcap(_) | ScoreStep::Fill(Mask { fill: Fill::Replace(_), .. }))
}

/// The mask of a fill of −∞.
fn infinite(step: &ScoreStep) -> Option<&Mask> {
    step.mask().filter(|m| m.fill == Fill::NegInf)
}

/// Adds the terms of another mask that are not there yet.
fn join(all: &mut Mask, more: &Mask) {
    for t in &more.terms {
        if !all.terms.contains(t) {
            all.terms.push(t.clone());
        }
    }
}
