//! What masks are made of on the way from the graph to a plan.

use crate::eval::Constants;
use crate::find::elements::interpret::{Known, Values};
use crate::find::types::{Applied, Numerics};
use crate::ir::{Graph, ValueId};
use crate::mask::{Fill, Mask, Term};

/// One thing that happens to the scores.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
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

/// What becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct MaskPlan {
    /// The mask; tensor terms count leaves from operand 3.
    pub(crate) mask: Mask,
    /// Operands from 3 on.
    pub(crate) leaves: Vec<ValueId>,
    /// Operand index of the bias.
    pub(crate) bias: Option<usize>,
    /// An addend that may be +∞ or NaN where the graph adds −∞ to it.
    pub(crate) meets_infinity: Option<ValueId>,
    /// An addend that may be +∞ or NaN.
    pub(crate) above: Option<ValueId>,
    /// What was done by evaluation.
    pub(crate) applied: Vec<Applied>,
}

impl MaskPlan {
    /// Of a mask and a bias that are known already.
    pub(crate) fn of(mask: Mask, leaves: Vec<ValueId>, bias: Option<usize>) -> MaskPlan {
        MaskPlan { mask, leaves, bias, meets_infinity: None, above: None, applied: vec![] }
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

/// A bias or a mask.
pub(crate) enum Entry {
    /// It is added.
    Bias(ValueId),
    /// It masks.
    Mask(Item),
}

/// Something that is added to the scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addend {
    pub(crate) value: ValueId,
    /// Its place in the order of the graph.
    pub(crate) at: usize,
    /// Whether keys at its huge fills are masked with −∞ besides.
    pub(crate) masked: bool,
}

/// Name of a value.
pub(crate) fn name(cx: &Context<'_>, v: ValueId) -> String {
    cx.graph.value(v).name.clone()
}
