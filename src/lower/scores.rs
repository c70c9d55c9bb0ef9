//! Score programs as kernels run them.
//!
//! In: the score program of an attention, and what its step's tile says of the fills. Out: [`KernelScores`]: the fields of the usual
//! order, or a list of steps. Invariant: in exact arithmetic the scores are those of the program, and they are rounded no more often:
//! constant factors that meet become one, and so do fills of −∞, which commute with what follows until a step makes a number of −∞.

use crate::ir::{DType, Factor, ScoreStep, Scores};
use crate::mask::{Fill, Mask, Term, Tile};

/// What a kernel does to products q·k, with the numbers, masks and operand indices that its launch is handed.
#[derive(Clone, Debug, PartialEq)]
pub enum KernelScores {
    /// A scale, a softcap, a bias, a mask, in this order: the kernels have a field for each.
    Usual {
        /// Factor on q·k.
        scale: f64,
        /// cap of cap·tanh(score/cap); 0 for none.
        softcap: f64,
        /// Operand index of the bias.
        bias: Option<usize>,
        /// Which pairs are kept, and what becomes of the others.
        mask: Mask,
    },
    /// Steps in order, one for each of the key's.
    Steps {
        /// What they do. The scale of the launch is 1.
        steps: Vec<ScoreStep>,
        /// The positions that fills of −∞ keep which no step undoes: outside of them nothing need be computed. They stand in no step.
        seen: Mask,
    },
}

impl KernelScores {
    /// What the kernel of a step with this tile does.
    pub fn of(scores: &Scores, tile: Tile) -> KernelScores {
        let acts = |step: &&ScoreStep| tile != Tile::Full || step.mask().is_none();
        let steps = rewritten(scores.steps().iter().filter(acts));
        usual(&steps).unwrap_or_else(|| by_steps(steps))
    }

    /// The positions outside of which nothing need be computed: what [`sight`](super::sight) is made of.
    pub fn seen(&self) -> &Mask {
        match self {
            KernelScores::Usual { mask: seen, .. } | KernelScores::Steps { seen, .. } => seen,
        }
    }
}

/// The steps with what meets brought together.
pub(super) fn rewritten<'a>(steps: impl IntoIterator<Item = &'a ScoreStep>) -> Vec<ScoreStep> {
    let mut out: Vec<ScoreStep> = vec![];
    // Fills of −∞ that are on their way towards the end.
    let mut hidden = Mask::none();
    for step in steps {
        match (step, out.last_mut()) {
            (ScoreStep::Fill(mask), _) if mask.fill == Fill::NegInf => {
                mask.terms.iter().for_each(|t| keep_once(&mut hidden.terms, t));
                continue;
            }
            (ScoreStep::Factor(Factor::Number(c)), Some(ScoreStep::Factor(Factor::Number(all)))) => {
                *all *= c;
                continue;
            }
            // Kernels have scores in f32.
            (ScoreStep::Round(DType::F32 | DType::F64), _) => continue,
            (ScoreStep::Round(to), Some(ScoreStep::Round(before))) if to == before => continue,
            _ => {}
        }
        if makes_a_number_of_infinity(step) {
            settle(&mut out, &mut hidden);
        }
        out.push(step.clone());
    }
    settle(&mut out, &mut hidden);
    out
}

fn keep_once(terms: &mut Vec<Term>, term: &Term) {
    if !terms.contains(term) {
        terms.push(term.clone());
    }
}

/// Puts the fill of −∞ where it can go no further.
fn settle(out: &mut Vec<ScoreStep>, hidden: &mut Mask) {
    let mask = std::mem::replace(hidden, Mask::none());
    if !mask.terms.is_empty() {
        out.push(ScoreStep::Fill(mask));
    }
}

fn makes_a_number_of_infinity(step: &ScoreStep) -> bool {
    match step {
        ScoreStep::Softcap(_) => true,
        ScoreStep::Fill(mask) => matches!(mask.fill, Fill::Replace(_)),
        ScoreStep::Factor(_) | ScoreStep::Add(_) | ScoreStep::Round(_) => false,
    }
}

/// The fields of the usual order, if the steps are in it and its kernels compute them.
fn usual(steps: &[ScoreStep]) -> Option<KernelScores> {
    let (mut scale, mut softcap, mut bias, mut mask) = (1.0, 0.0, None, Mask::none());
    let mut rest = steps;
    if let [ScoreStep::Factor(Factor::Number(c)), more @ ..] = rest {
        (scale, rest) = (*c, more);
    }
    if let [ScoreStep::Softcap(c), more @ ..] = rest {
        (softcap, rest) = (*c, more);
    }
    if let [ScoreStep::Add(n), more @ ..] = rest {
        (bias, rest) = (Some(*n), more);
    }
    if let [ScoreStep::Fill(m), more @ ..] = rest {
        (mask, rest) = (m.clone(), more);
    }
    let tensors = mask.terms.iter().filter(|t| matches!(t, Term::Tensor { .. })).count();
    // Where a bias is −∞ these kernels leave the key out, whatever the fill says of it.
    let revives = bias.is_some() && matches!(mask.fill, Fill::Replace(_));
    let known = rest.is_empty() && tensors <= 1 && !revives;
    known.then_some(KernelScores::Usual { scale, softcap, bias, mask })
}

/// The steps, of which the last fill of −∞ leaves its positions to the kernel.
fn by_steps(mut steps: Vec<ScoreStep>) -> KernelScores {
    let mut seen = Mask::none();
    if let Some(ScoreStep::Fill(last)) =
        steps.last_mut().filter(|s| s.mask().is_some_and(|m| m.fill == Fill::NegInf))
    {
        let by_tensor = |t: &Term| matches!(t, Term::Tensor { .. });
        (last.terms, seen.terms) = std::mem::take(&mut last.terms).into_iter().partition(by_tensor);
        if last.terms.is_empty() {
            steps.pop();
        }
    }
    KernelScores::Steps { steps, seen }
}
