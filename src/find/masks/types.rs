//! What masks are made of on the way from the graph to a plan.

use crate::eval::Constants;
use crate::find::algebra::normal_form::Rounding;
use crate::find::elements::interpret::{Known, Values};
use crate::find::types::{Applied, Numerics};
use crate::ir::{DType, Graph, Scores, ValueId};
use crate::mask::{Fill, Term};

/// One thing that happens to the scores.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// They are multiplied by a number.
    Factor(f64),
    /// They are multiplied by the value.
    FactorBy(ValueId),
    /// c·tanh(s/c).
    Softcap(f64),
    /// They are rounded; only beside large addends if the graph does no more than compute in that type.
    Round(DType, Rounding),
    /// The value is added.
    Added(ValueId),
    /// The score is kept where every condition holds.
    Kept(Vec<Condition>, Fill),
    /// A score below the number, which is huge, becomes it.
    Floor(f64),
}

/// A condition on a pair of rows.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// The boolean value is true.
    True(ValueId),
    /// A term that depends on positions alone keeps the pair.
    Positions(Term),
}

/// What becomes of them.
#[derive(Clone, Debug)]
pub(crate) struct MaskPlan {
    /// The steps, whose leaves count from operand 3.
    pub(crate) scores: Scores,
    /// Operands from 3 on.
    pub(crate) leaves: Vec<ValueId>,
    /// An addend that may be +∞ or NaN where the graph adds −∞ to it.
    pub(crate) meets_infinity: Option<ValueId>,
    /// An addend that may be +∞ or NaN.
    pub(crate) above: Option<ValueId>,
    /// What was done by evaluation.
    pub(crate) applied: Vec<Applied>,
}

impl MaskPlan {
    /// Of steps that are known already.
    pub(crate) fn of(scores: Scores, leaves: Vec<ValueId>) -> MaskPlan {
        MaskPlan { scores, leaves, meets_infinity: None, above: None, applied: vec![] }
    }

    /// The value of a leaf, by operand index.
    pub(crate) fn leaf(&self, operand: usize) -> Option<ValueId> {
        self.leaves.get(operand.wrapping_sub(3)).copied()
    }

    /// What is added to scores, in order.
    pub(crate) fn added(&self) -> Vec<ValueId> {
        self.scores.added().filter_map(|n| self.leaf(n)).collect()
    }
}

/// Graph and memos that the work goes on.
pub(crate) struct Context<'a> {
    pub(crate) graph: &'a mut Graph,
    pub(crate) constants: &'a mut Constants,
    pub(crate) values: &'a mut Values,
    /// Admitted classes.
    pub(crate) admitted: &'a [Numerics],
    /// What Q and K of the scores are made of.
    pub(crate) scores: Vec<ValueId>,
    /// Whether the logarithm of a row's sum of exponentials is read beside the result.
    pub(crate) reads_log: bool,
    /// Whether weights will be dropped: what is right of a row whose weights are known is then another thing.
    pub(crate) drops: bool,
}

/// What an item is made of, should it have to stay a tensor.
#[derive(Clone, Debug)]
pub(crate) enum MaskSource {
    Added(ValueId),
    Condition(ValueId),
    Positions(Term),
}

/// One mask.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Items of one piece share its fill.
    pub(crate) group: usize,
    pub(crate) source: MaskSource,
    /// What a masked score becomes.
    pub(crate) fill: Fill,
    /// More than one fill, or a bias as well: it is a mask only if the fill becomes −∞.
    pub(crate) only_as_infinity: bool,
    /// Whether values that are no fill are left to add.
    pub(crate) and_bias: bool,
    /// What its elements can be, if that is known.
    pub(crate) known: Option<Known>,
}

/// A bias, a mask, or another step.
pub(crate) enum Entry {
    /// What is neither.
    Other(Piece),
    /// It is added.
    Bias(ValueId),
    /// It masks.
    Mask(Item),
}

/// Name of a value.
pub(crate) fn name(cx: &Context<'_>, v: ValueId) -> String {
    cx.graph.value(v).name.clone()
}
