//! Regions: from a softmax back to QKᵀ and forward to PV, and the term that stands between them.
//!
//! In: a graph and a softmax in it. Out: a [`Region`], or that this softmax is no attention, or the condition that failed.
//! A region holds the operations whose result depends on QKᵀ and on which PV depends; everything else that they read is a
//! leaf. Nothing in it may be read from outside, for the scores never exist as a whole once they are split.

use super::encode::Builder;
use super::lang::{Leaf, Term};
use super::space::{Axes, Dim, Space};
use super::trace::Trace;
use crate::eval::Constants;
use crate::ir::{Binary, DType, Graph, Op, OpId, Reduction, Unary, ValueId};
use egg::RecExpr;
use std::collections::{HashMap, HashSet, VecDeque};

/// Most operations that are looked at in the search for QKᵀ or PV.
const SEARCH_LIMIT: usize = 128;

/// A value that enters a region between QKᵀ and PV.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LeafValue {
    /// The value.
    pub(super) value: ValueId,
    /// Its axes as factors of the scores' axes.
    pub(super) axes: Axes,
}

/// Number of the leaf that stands for Q. Masks and biases come after V.
pub(super) const Q: Leaf = Leaf(0);
/// Number of the leaf that stands for K.
pub(super) const K: Leaf = Leaf(1);
/// Number of the leaf that stands for V.
pub(super) const V: Leaf = Leaf(2);

/// A candidate.
#[derive(Clone, Debug)]
pub(super) struct Region {
    /// Every factor.
    pub(super) space: Space,
    /// The term whose root is PV.
    pub(super) term: RecExpr<Term>,
    /// Masks and biases: leaf 3 and those after it.
    pub(super) leaves: Vec<LeafValue>,
    /// Q, K and V.
    pub(super) operands: [Trace; 3],
    /// QKᵀ, the softmax, and PV.
    pub(super) nodes: [OpId; 3],
    /// PV's result and its axes.
    pub(super) out: (ValueId, Axes),
    /// Factors of the key axis, in their order.
    pub(super) keys: Vec<Dim>,
    /// Factors contracted between Q and K.
    pub(super) depth: Vec<Dim>,
    /// Factors of V that stand in the result.
    pub(super) depth_v: Vec<Dim>,
    /// Axes that Q and K share, and axes of Q alone, in the order of the scores.
    pub(super) shared: Axes,
    /// See `shared`.
    pub(super) free: Axes,
    /// A half type in which something is added to or chosen for the scores.
    pub(super) narrow: Option<DType>,
}

impl Region {
    /// A text about the term, with each leaf by its name and type.
    pub(super) fn with_names(&self, graph: &Graph, text: &str) -> String {
        let mut text = text.to_owned();
        for (i, l) in self.leaves.iter().enumerate().rev() {
            let name = format!("{} {}", graph.value(l.value).name, graph.ty(l.value));
            text = text.replace(&Leaf(V.0 + 1 + i).to_string(), &name);
        }
        text
    }
}

/// Why a softmax gives no region.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fail {
    /// It is something else: a router, a classifier.
    NotAttention,
    /// It looks like attention, but this condition failed.
    Miss(String),
    /// The keys are on the left side of QKᵀ.
    Swapped,
}

/// A near miss.
pub(super) fn miss<T>(why: impl Into<String>) -> Result<T, Fail> {
    Err(Fail::Miss(why.into()))
}

/// What is known about the graph before anything is rewritten.
pub(super) struct Order {
    place: HashMap<OpId, usize>,
    live: HashSet<OpId>,
    dynamic: HashSet<OpId>,
}

impl Order {
    /// Looks at every operation once.
    pub(super) fn new(graph: &Graph) -> Order {
        let ops = graph.ops();
        let mut dynamic = HashSet::new();
        for &id in &ops {
            let input = matches!(graph.op(id), Op::Input(_));
            if input || graph.operands(id).iter().any(|v| dynamic.contains(&v.op)) {
                dynamic.insert(id);
            }
        }
        let mut live = HashSet::new();
        let mut stack: Vec<OpId> = graph.outputs().iter().map(|o| o.value.op).collect();
        while let Some(id) = stack.pop() {
            if live.insert(id) {
                stack.extend(graph.operands(id).iter().map(|v| v.op));
            }
        }
        Order { place: ops.into_iter().enumerate().map(|(i, id)| (id, i)).collect(), live, dynamic }
    }

    /// Whether a value depends on an input.
    pub(super) fn is_dynamic(&self, v: ValueId) -> bool {
        self.dynamic.contains(&v.op)
    }

    /// Whether a value depends on an input; of values added since, it is taken for granted.
    pub(super) fn is_known_dynamic(&self, v: ValueId) -> bool {
        !self.place.contains_key(&v.op) || self.is_dynamic(v)
    }

    /// Whether an output needs it.
    pub(super) fn is_live(&self, id: OpId) -> bool {
        self.live.contains(&id)
    }

    /// Place in the topological order.
    pub(super) fn place(&self, id: OpId) -> Option<usize> {
        self.place.get(&id).copied()
    }

    /// Whether both were there from the start, and `a` comes first.
    pub(super) fn before(&self, a: OpId, b: OpId) -> bool {
        matches!((self.place.get(&a), self.place.get(&b)), (Some(a), Some(b)) if a < b)
    }
}

/// Whether it is a softmax, or spells one: a quotient of exp and its sum, or exp(x − ln Σ exp(x)).
pub(super) fn is_anchor(graph: &Graph, id: OpId) -> bool {
    let x = graph.operands(id);
    let exp = |v: ValueId| matches!(graph.op(v.op), Op::Unary(Unary::Exp));
    // Behind what only moves or converts.
    let plain = |mut v: ValueId| {
        while let Op::Reshape(_) | Op::Broadcast(_) | Op::Cast(_) = graph.op(v.op) {
            v = graph.operands(v.op)[0];
        }
        v
    };
    let sum = |v: ValueId| {
        let v = plain(v);
        let sums = matches!(graph.op(v.op), Op::Reduce { kind: Reduction::Sum, .. });
        sums.then(|| plain(graph.operands(v.op)[0])).filter(|&e| exp(e))
    };
    let log = |v: ValueId| {
        let v = plain(v);
        matches!(graph.op(v.op), Op::Unary(Unary::Log)) && sum(graph.operands(v.op)[0]).is_some()
    };
    match graph.op(id) {
        Op::Softmax { .. } => true,
        Op::Binary(Binary::Div) => exp(plain(x[0])) && sum(x[1]) == Some(plain(x[0])),
        Op::Binary(Binary::Mul) => {
            let inverse = plain(x[1]);
            exp(plain(x[0]))
                && matches!(graph.op(inverse.op), Op::Unary(Unary::Reciprocal))
                && sum(graph.operands(inverse.op)[0]) == Some(plain(x[0]))
        }
        Op::Unary(Unary::Exp) if matches!(graph.op(x[0].op), Op::Binary(Binary::Sub)) => {
            let lse = plain(graph.operands(x[0].op)[1]);
            log(lse)
                || (matches!(graph.op(lse.op), Op::Binary(Binary::Add))
                    && graph.operands(lse.op).iter().any(|&o| log(o)))
        }
        _ => false,
    }
}

fn passes(op: &Op) -> bool {
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

/// Contractions behind a value through operations that a region may hold, nearest first.
fn contractions_behind(graph: &Graph, v: ValueId) -> Vec<OpId> {
    let mut found = vec![];
    let mut seen: HashSet<OpId> = HashSet::new();
    let mut queue = VecDeque::from([v.op]);
    while let Some(id) = queue.pop_front() {
        if !seen.insert(id) || seen.len() > SEARCH_LIMIT {
            continue;
        }
        match graph.op(id) {
            Op::Contract(_) => found.push(id),
            op if passes(op) => queue.extend(graph.operands(id).iter().map(|x| x.op)),
            _ => {}
        }
    }
    found
}

/// The first contraction that reads what comes of a value.
fn contraction_ahead(graph: &Graph, order: &Order, id: OpId) -> Option<OpId> {
    let mut seen: HashSet<OpId> = HashSet::new();
    let mut queue = VecDeque::from([id]);
    while let Some(id) = queue.pop_front() {
        if !seen.insert(id) || seen.len() > SEARCH_LIMIT {
            continue;
        }
        for (user, _) in graph.uses(graph.result(id)) {
            match graph.op(user) {
                _ if !order.live.contains(&user) => {}
                Op::Contract(_) => return Some(user),
                op if passes(op) => queue.push_back(user),
                _ => {}
            }
        }
    }
    None
}

/// The region around a softmax.
pub(super) fn region(
    graph: &Graph,
    order: &Order,
    constants: &mut Constants,
    anchor: OpId,
) -> Result<Region, Fail> {
    if !order.live.contains(&anchor) {
        return Err(Fail::NotAttention);
    }
    let Some(pv) = contraction_ahead(graph, order, anchor) else { return Err(Fail::NotAttention) };
    let mut first = None;
    for qk in contractions_behind(graph, graph.operands(anchor)[0]) {
        let x = graph.operands(qk);
        let keys_are_weights = x.iter().any(|&v| !order.is_dynamic(v));
        if keys_are_weights || !graph.ty(x[0]).dtype.is_float() {
            continue;
        }
        let attempt = |swap, constants: &mut Constants| {
            Builder::new(graph, order, constants, [qk, anchor, pv], swap).and_then(Builder::build)
        };
        let result = match attempt(false, constants) {
            Err(Fail::Swapped) => attempt(true, constants),
            other => other,
        };
        match result {
            Ok(r) => return Ok(r),
            Err(e) => {
                first.get_or_insert(e);
            }
        }
    }
    Err(match first {
        Some(Fail::Swapped) => Fail::Miss("the softmax is over neither side's free axes of QKᵀ".into()),
        Some(e) => e,
        None => Fail::NotAttention,
    })
}

/// The source node of an operation, or the name of its result if it has none.
pub(super) fn label(graph: &Graph, id: OpId) -> String {
    match graph.source(id) {
        "" => graph.value(graph.result(id)).name.clone(),
        s => s.to_owned(),
    }
}
