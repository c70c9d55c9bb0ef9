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
    /// The result and its axes: PV's, or what is left of it after a division.
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
    /// The narrowest type of an exponential.
    pub(super) exponentials: Option<DType>,
    /// The widest type in which a number is added to a sum of exponentials.
    pub(super) sums: Option<DType>,
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

/// Operations that an exponential or a sum is looked for behind.
const SPELLING_LIMIT: usize = 5;

/// Behind what only moves or converts.
fn plain(graph: &Graph, mut v: ValueId) -> ValueId {
    while let Op::Reshape(_) | Op::Broadcast(_) | Op::Permute(_) | Op::Cast(_) = graph.op(v.op) {
        v = graph.operands(v.op)[0];
    }
    v
}

/// Whether it is an exponential, or one of which a mask has left something.
fn exponential(graph: &Graph, v: ValueId, limit: usize) -> bool {
    let op = plain(graph, v).op;
    let below = |v: &ValueId| limit > 0 && exponential(graph, *v, limit - 1);
    match graph.op(op) {
        Op::Unary(Unary::Exp) => true,
        Op::Binary(Binary::Pow) => graph.as_constant(plain(graph, graph.operands(op)[0])).is_some(),
        Op::Binary(Binary::Mul) => graph.operands(op).iter().any(below),
        Op::Select => graph.operands(op)[1..].iter().any(below),
        _ => false,
    }
}

/// Whether it is a sum of exponentials, or one that is kept from 0.
fn summed(graph: &Graph, v: ValueId, limit: usize) -> bool {
    let op = plain(graph, v).op;
    let x = graph.operands(op);
    let below = |v: &ValueId| limit > 0 && summed(graph, *v, limit - 1);
    match graph.op(op) {
        Op::Reduce { kind: Reduction::Sum, .. } => exponential(graph, x[0], limit),
        Op::Contract(_) => {
            x.iter().any(|&v| graph.as_constant(plain(graph, v)).is_some())
                && x.iter().any(|&v| exponential(graph, v, limit))
        }
        Op::Binary(Binary::Add | Binary::Max) => x.iter().any(below),
        Op::Select => x[1..].iter().any(below),
        _ => false,
    }
}

/// Whether it is a constant of this number everywhere.
fn is_number(graph: &Graph, v: ValueId, number: f64) -> bool {
    let c = graph.as_constant(plain(graph, v)).and_then(|c| c.data.as_deref());
    c.is_some_and(|t| t.to_f64().iter().all(|&n| n == number))
}

/// What a sum of exponentials divides.
fn dividend(graph: &Graph, id: OpId) -> Option<ValueId> {
    let x = graph.operands(id);
    let sum = |v: ValueId| summed(graph, v, SPELLING_LIMIT);
    let inverse = |v: ValueId| {
        let op = plain(graph, v).op;
        match graph.op(op) {
            Op::Unary(Unary::Reciprocal) => sum(graph.operands(op)[0]),
            Op::Binary(Binary::Div) => {
                is_number(graph, graph.operands(op)[0], 1.0) && sum(graph.operands(op)[1])
            }
            _ => false,
        }
    };
    match graph.op(id) {
        Op::Binary(Binary::Div) if sum(x[1]) => Some(x[0]),
        Op::Binary(Binary::Mul) if inverse(x[1]) => Some(x[0]),
        Op::Binary(Binary::Mul) if inverse(x[0]) => Some(x[1]),
        _ => None,
    }
}

/// The product of exponentials and values that their sum divides afterwards, and its exponentials.
fn divided_after(graph: &Graph, id: OpId) -> Option<(OpId, ValueId)> {
    let product = plain(graph, dividend(graph, id)?).op;
    let exponentials =
        graph.operands(product).into_iter().find(|&v| exponential(graph, v, SPELLING_LIMIT))?;
    matches!(graph.op(product), Op::Contract(_)).then_some((product, exponentials))
}

/// Whether it is the logarithm of a sum of exponentials, or one to which a maximum was added.
fn log_sum(graph: &Graph, v: ValueId) -> bool {
    let log = |v: ValueId| {
        let op = plain(graph, v).op;
        matches!(graph.op(op), Op::Unary(Unary::Log)) && summed(graph, graph.operands(op)[0], SPELLING_LIMIT)
    };
    let at = plain(graph, v);
    let sum = matches!(graph.op(at.op), Op::Binary(Binary::Add));
    log(at) || (sum && graph.operands(at.op).iter().any(|&o| log(o)))
}

/// What a negation is of, spelled as one or as a product with −1.
fn negated(graph: &Graph, v: ValueId) -> Option<ValueId> {
    let op = plain(graph, v).op;
    let x = graph.operands(op);
    let less_one = |v: ValueId| is_number(graph, v, -1.0);
    match graph.op(op) {
        Op::Unary(Unary::Neg) => Some(x[0]),
        Op::Binary(Binary::Mul) if less_one(x[1]) => Some(x[0]),
        Op::Binary(Binary::Mul) if less_one(x[0]) => Some(x[1]),
        _ => None,
    }
}

/// Whether it is a softmax, or spells one: a quotient of exponentials and their sum, before the product with the values or after
/// it, or exp(x − ln Σ exp(x)).
pub(super) fn is_anchor(graph: &Graph, id: OpId) -> bool {
    match graph.op(id) {
        Op::Softmax { .. } => true,
        Op::Unary(Unary::Exp) => {
            let less = plain(graph, graph.operands(id)[0]).op;
            let x = graph.operands(less);
            match graph.op(less) {
                Op::Binary(Binary::Sub) => log_sum(graph, x[1]),
                Op::Binary(Binary::Add) => {
                    x.iter().any(|&o| negated(graph, o).is_some_and(|of| log_sum(graph, of)))
                }
                _ => false,
            }
        }
        _ => {
            dividend(graph, id).is_some_and(|x| exponential(graph, x, SPELLING_LIMIT))
                || divided_after(graph, id).is_some()
        }
    }
}

/// Whether a region may hold it between QKᵀ and PV.
pub(super) fn passes(op: &Op) -> bool {
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
pub(super) fn passes_or_multiplies(op: &Op) -> bool {
    passes(op) || matches!(op, Op::Contract(_))
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

/// Whether a product with weights is one of scores, whose keys it keeps apart: of what comes of a product of values that both
/// depend on inputs.
fn mixes_scores(graph: &Graph, order: &Order, id: OpId) -> bool {
    let Op::Contract(c) = graph.op(id) else { return false };
    let x = graph.operands(id);
    let (letters, from) = if order.is_dynamic(x[0]) { (&c.lhs, x[0]) } else { (&c.rhs, x[1]) };
    let keeps = c.out.chars().last().is_some_and(|l| letters.contains(l));
    let both = |id: &OpId| graph.operands(*id).iter().all(|v| order.is_dynamic(*v));
    keeps && contractions_behind(graph, from).iter().any(both)
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

/// PV, where the region ends, and the value behind which QKᵀ is. Where the sum divides after PV, the region ends there.
fn around(graph: &Graph, order: &Order, anchor: OpId) -> Option<(OpId, OpId, ValueId)> {
    if let Some((pv, exponentials)) = divided_after(graph, anchor) {
        return Some((pv, anchor, exponentials));
    }
    let pv = contraction_ahead(graph, order, anchor)?;
    Some((pv, pv, dividend(graph, anchor).unwrap_or(graph.operands(anchor)[0])))
}

/// The products before and behind a softmax, whether or not they are those of an attention.
pub(super) fn products(graph: &Graph, order: &Order, anchor: OpId) -> Vec<OpId> {
    let Some((pv, _, from)) = around(graph, order, anchor) else { return vec![] };
    [vec![pv], contractions_behind(graph, from)].concat()
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
    let Some((pv, last, from)) = around(graph, order, anchor) else { return Err(Fail::NotAttention) };
    let mut first = None;
    for qk in contractions_behind(graph, from) {
        let x = graph.operands(qk);
        let [left, right] = [x[0], x[1]].map(|v| order.is_dynamic(v));
        if !(left || right) || !graph.ty(x[0]).dtype.is_float() {
            continue;
        }
        if !(left && right) && mixes_scores(graph, order, qk) {
            first.get_or_insert(Fail::Miss(format!("{} mixes heads of the scores", label(graph, qk))));
            continue;
        }
        let attempt = |swap, constants: &mut Constants| {
            Builder::new(graph, order, constants, [qk, anchor, pv], last, swap).and_then(Builder::build)
        };
        let result = match (left, right) {
            (true, true) => match attempt(false, constants) {
                Err(Fail::Swapped) => attempt(true, constants),
                other => other,
            },
            // Queries may be weights, as a model learns them that looks up a sequence; keys that are, are a router's. What is no
            // attention then is no near miss either.
            _ => {
                let found = attempt(left, constants).map_err(|_| Fail::NotAttention);
                found.and_then(|r| {
                    if order.is_dynamic(r.operands[2].base) { Ok(r) } else { Err(Fail::NotAttention) }
                })
            }
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
