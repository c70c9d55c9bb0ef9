//! What a region is: the operations between QKᵀ and PV as a term, with its leaves and axes; and why a softmax has none.

use crate::find::algebra::term::{Digits, Expr, LeafId, V};
use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::trace::Trace;
use crate::ir::{DType, Graph, Op, OpId, ValueId};
use egg::{Id, RecExpr};

/// A value that enters a region between QKᵀ and PV.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeafValue {
    /// The value.
    pub(crate) value: ValueId,
    /// Its axes as factors of the scores' axes.
    pub(crate) axes: Axes,
    /// Whether it holds truth values.
    pub(crate) truth: bool,
}

/// What an axis of Q is at the product with K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QAxis {
    /// One of those that Q and K share, by its place among them in the scores.
    Shared(usize),
    /// One of Q alone, likewise.
    Free(usize),
    /// One that is contracted.
    Depth,
}

/// A candidate.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Every factor.
    pub(crate) space: Space,
    /// The term whose root is PV.
    pub(crate) term: RecExpr<Expr>,
    /// Masks and biases: leaf 3 and those after it.
    pub(crate) leaves: Vec<LeafValue>,
    /// Q, K and V.
    pub(crate) operands: [Trace; 3],
    /// QKᵀ, the softmax, and PV.
    pub(crate) nodes: [OpId; 3],
    /// The result and its axes: PV's, or what is left of it after a division.
    pub(crate) out: (ValueId, Axes),
    /// The axes of the softmax.
    pub(crate) softmax_axes: Axes,
    /// Factors of the key axis, in their order.
    pub(crate) keys: Vec<Dim>,
    /// Factors contracted between Q and K.
    pub(crate) depth: Vec<Dim>,
    /// Factors of V that stand in the result.
    pub(crate) depth_v: Vec<Dim>,
    /// Axes that Q and K share, and axes of Q alone, in the order of the scores.
    pub(crate) shared: Axes,
    /// See `shared`.
    pub(crate) free: Axes,
    /// The axes of Q at the product, in their order.
    pub(crate) q_order: Vec<QAxis>,
    /// A half type in which something is added to or chosen for the scores.
    pub(crate) narrow: Option<DType>,
    /// Nodes of the term before the softmax that are computed in a half type, with its digits.
    pub(crate) halves: Vec<(Id, Digits)>,
    /// The narrowest type of an exponential.
    pub(crate) exponentials: Option<DType>,
    /// The widest type in which a number is added to a sum of exponentials.
    pub(crate) sums: Option<DType>,
}

impl Region {
    /// A text about the term, with each leaf by its name and type.
    pub(crate) fn with_names(&self, graph: &Graph, text: &str) -> String {
        let mut text = text.to_owned();
        for (i, l) in self.leaves.iter().enumerate().rev() {
            let name = format!("{} {}", graph.value(l.value).name, graph.ty(l.value));
            text = text.replace(&LeafId(V.0 + 1 + i).to_string(), &name);
        }
        text
    }
}

/// Why a softmax gives no region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fail {
    /// It is something else: a router, a classifier.
    NotAttention,
    /// It looks like attention, but this condition failed.
    Miss(String),
    /// The keys are on the left side of QKᵀ.
    Swapped,
}

/// A near miss.
pub(crate) fn miss<T>(why: impl Into<String>) -> Result<T, Fail> {
    Err(Fail::Miss(why.into()))
}

/// Whether a region may hold it between QKᵀ and PV.
pub(crate) fn passes(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Cast(_)
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Broadcast(_)
            | Op::Reduce { .. }
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Softmax { .. }
    )
}

/// The same, or a product.
pub(crate) fn passes_or_multiplies(op: &Op) -> bool {
    passes(op) || matches!(op, Op::Contract(_))
}

/// The source node of an operation, or the name of its result if it has none.
pub(crate) fn label(graph: &Graph, id: OpId) -> String {
    match graph.source(id) {
        "" => graph.value(graph.result(id)).name.clone(),
        s => s.to_owned(),
    }
}
