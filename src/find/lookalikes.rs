//! Kin of attention: products of values with weights that came of products of queries and keys, but of no softmax.
//!
//! In: a graph, and the products that a softmax or its spelling explains. Out: a near miss for each other pair of products that
//! stand as QKᵀ and PV do: a sigmoid in the softmax's place, linear attention, exponentials that are merged by hand.

use crate::find::region::types::{label, passes};
use crate::find::types::Miss;
use crate::ir::Topology;
use crate::ir::{Binary, Contract, Graph, Op, OpId, Reduction, Unary, ValueId};
use std::collections::{BTreeSet, HashSet, VecDeque};

/// Most operations that are looked at behind one product.
const SEARCH_LIMIT: usize = 128;

/// Near misses in topological order, each with the place of its product. `explained`: products on either side of a softmax.
pub(crate) fn lookalikes(graph: &Graph, order: &Topology, explained: &HashSet<OpId>) -> Vec<(OpId, Miss)> {
    let mut all = vec![];
    for pv in graph.ops() {
        if !order.is_live(pv) || explained.contains(&pv) || !of_inputs(graph, order, pv) {
            continue;
        }
        let weights = graph.operands(pv).into_iter().find_map(|p| weights(graph, order, explained, pv, p));
        if let Some((qk, between)) = weights {
            all.push((qk, pv, between));
        }
    }
    // In a chain of products each would be both.
    let firsts: HashSet<OpId> = all.iter().map(|(qk, ..)| *qk).collect();
    let seconds: HashSet<OpId> = all.iter().map(|(_, pv, _)| *pv).collect();
    all.retain(|(qk, pv, _)| !seconds.contains(qk) && !firsts.contains(pv));
    let miss = |(qk, pv, between): (OpId, OpId, BTreeSet<&'static str>)| {
        (pv, Miss { at: label(graph, pv), reason: reason(graph, (qk, pv), &between) })
    };
    all.into_iter().map(miss).collect()
}

/// Whether it is a product of floating numbers that both come of inputs, not of weights.
fn of_inputs(graph: &Graph, order: &Topology, id: OpId) -> bool {
    let x = graph.operands(id);
    matches!(graph.op(id), Op::Contract(_))
        && x.iter().all(|&v| order.depends_on_input(v.op) && !looked_up(graph, order, v))
        && graph.ty(x[0]).dtype.is_float()
}

/// Whether it is made of weights that an input chooses, as an expert's are.
fn looked_up(graph: &Graph, order: &Topology, v: ValueId) -> bool {
    let mut at = v;
    for _ in 0..SEARCH_LIMIT {
        let x = graph.operands(at.op);
        match graph.op(at.op) {
            Op::Gather { .. } | Op::GatherNd { .. } if !order.depends_on_input(x[0].op) => return true,
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } | Op::Cast(_) => at = x[0],
            Op::Unary(_) => at = x[0],
            Op::Binary(_) => match (order.depends_on_input(x[0].op), order.depends_on_input(x[1].op)) {
                (true, false) => at = x[0],
                (false, true) => at = x[1],
                _ => return false,
            },
            _ => return false,
        }
    }
    false
}

/// The product of which `p` is made element by element, and the names of what was done to it, if `pv` sums over an axis that
/// only one operand of that product has. Both products have batch entries or heads in common: weights have none.
fn weights(
    graph: &Graph,
    order: &Topology,
    explained: &HashSet<OpId>,
    pv: OpId,
    p: ValueId,
) -> Option<(OpId, BTreeSet<&'static str>)> {
    let mut found = None;
    let mut seen: Vec<ValueId> = vec![];
    let mut known = HashSet::new();
    let mut queue = VecDeque::from([p]);
    while let Some(v) = queue.pop_front() {
        if !known.insert(v) {
            continue;
        }
        if seen.len() == SEARCH_LIMIT {
            return None;
        }
        seen.push(v);
        match graph.op(v.op) {
            Op::Softmax { .. } => return None,
            Op::Contract(_) if found.is_none() && of_inputs(graph, order, v.op) => found = Some(v.op),
            op if passes(op) => queue.extend(graph.operands(v.op)),
            _ => {}
        }
    }
    let qk = found.filter(|id| !explained.contains(id))?;
    let (Op::Contract(inner), Op::Contract(outer)) = (graph.op(qk), graph.op(pv)) else { return None };
    let (x, y) = (graph.operands(qk), graph.operands(pv));
    let extents = |letters: &str, v: ValueId, pick: &dyn Fn(char) -> bool| -> Vec<usize> {
        letters.chars().zip(&graph.ty(v).shape).filter(|(l, _)| pick(*l)).map(|(_, &e)| e).collect()
    };
    let common = |c: &Contract, v: ValueId| {
        !extents(&c.lhs, v, &|l| c.rhs.contains(l) && c.out.contains(l)).is_empty()
    };
    let whole = graph.ty(graph.result(qk)).elements() == graph.ty(p).elements();
    let keys = [
        extents(&inner.lhs, x[0], &|l| !inner.rhs.contains(l)),
        extents(&inner.rhs, x[1], &|l| !inner.lhs.contains(l)),
    ]
    .concat();
    let letters = if y[0] == p { &outer.lhs } else { &outer.rhs };
    let summed = extents(letters, p, &|l| !outer.out.contains(l));
    let over_keys = keys.contains(&summed.iter().product()) || summed.iter().any(|e| keys.contains(e));
    if !whole || summed.is_empty() || !over_keys || !common(inner, x[0]) || !common(outer, y[0]) {
        return None;
    }
    // What was done to the product itself, not to what it was multiplied by.
    seen.sort_unstable_by_key(|v| order.place(v.op));
    let mut of_product = HashSet::from([graph.result(qk)]);
    let mut between = BTreeSet::new();
    for v in seen {
        if v.op != qk && graph.operands(v.op).iter().any(|o| of_product.contains(o)) {
            of_product.insert(v);
            between.extend(function(graph.op(v.op)));
        }
    }
    of_product.contains(&p).then_some((qk, between))
}

/// The name of an operation that is more than a factor, an addend, a mask or a layout.
fn function(op: &Op) -> Option<&'static str> {
    match op {
        Op::Unary(Unary::Neg | Unary::Not) | Op::Select => None,
        Op::Unary(u) => Some(u.name()),
        Op::Binary(b @ (Binary::Max | Binary::Min | Binary::Pow)) => Some(b.name()),
        _ => None,
    }
}

/// An axis over which the rows of a product are summed: of blocks of keys that stand beside each other along it.
fn summed_blocks(graph: &Graph, pv: OpId) -> Option<usize> {
    let mut at = vec![graph.result(pv)];
    let mut next = 0;
    while let Some(&v) = at.get(next).filter(|_| next < SEARCH_LIMIT) {
        next += 1;
        for (user, _) in graph.uses(v) {
            match graph.op(user) {
                Op::Reduce { kind: Reduction::Sum, axes, .. } => {
                    let inner = |a: &&usize| **a + 1 < graph.ty(v).rank();
                    if let Some(&axis) = axes.iter().find(inner) {
                        return Some(axis);
                    }
                }
                Op::Binary(_) | Op::Cast(_) if graph.ty(graph.result(user)).shape == graph.ty(v).shape => {
                    let new = graph.result(user);
                    if !at.contains(&new) {
                        at.push(new);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

fn reason(graph: &Graph, (qk, pv): (OpId, OpId), between: &BTreeSet<&'static str>) -> String {
    let qk = label(graph, qk);
    if between.contains("exp") {
        if let Some(axis) = summed_blocks(graph, pv) {
            return format!(
                "exponentials of {qk} are multiplied by V, and summed over axis {axis} afterwards, along which blocks of keys stand: blocks \
                 are put together only where each has products of its own; slice K and V by blocks, or write one softmax over all keys"
            );
        }
        return format!(
            "exponentials of {qk} are multiplied by V, but not known to be divided by their sum over all keys; parts over some keys are \
             put together only where each is masked, biased and shifted in the same way"
        );
    }
    if between.is_empty() {
        return format!(
            "no softmax stands between {qk} and this product: it is a linear attention, which annulus does not split"
        );
    }
    let names: Vec<&str> = between.iter().copied().collect();
    format!(
        "{} stands between {qk} and this product where a softmax would: it is another kind of attention, which annulus does not split",
        names.join(", ")
    )
}
