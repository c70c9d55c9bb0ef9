//! Anchors: where a search begins. A softmax, or what spells one: exponentials and their sum, in any of the ways of dividing.

use crate::ir::{Binary, Graph, Op, OpId, Reduction, Unary, ValueId};

/// Operations that an exponential or a sum is looked for behind.
const SPELLING_LIMIT: usize = 5;

/// Behind what only moves or converts.
pub(crate) fn plain(graph: &Graph, mut v: ValueId) -> ValueId {
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
pub(super) fn dividend(graph: &Graph, id: OpId) -> Option<ValueId> {
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
pub(super) fn divided_after(graph: &Graph, id: OpId) -> Option<(OpId, ValueId)> {
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
pub(crate) fn is_anchor(graph: &Graph, id: OpId) -> bool {
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
