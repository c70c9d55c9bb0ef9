//! Regions: from a softmax back to QKᵀ and forward to PV, and the term that stands between them.
//!
//! In: a graph and a softmax in it. Out: a [`Region`], or that this softmax is no attention, or the condition that failed.
//! A region holds the operations whose result depends on QKᵀ and on which PV depends; everything else that they read is a
//! leaf. Nothing in it may be read from outside, for the scores never exist as a whole once they are split.

use super::anchor::{divided_after, dividend};
use super::builder::Builder;
use super::types::{Fail, Region, label, passes};
use crate::eval::Constants;
use crate::ir::Topology;
use crate::ir::{Graph, Op, OpId, ValueId};
use std::collections::{HashSet, VecDeque};

/// Most operations that are looked at in the search for QKᵀ or PV.
const SEARCH_LIMIT: usize = 128;

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
fn mixes_scores(graph: &Graph, order: &Topology, id: OpId) -> bool {
    let Op::Contract(c) = graph.op(id) else { return false };
    let x = graph.operands(id);
    let (letters, from) = if order.depends_on_input(x[0].op) { (&c.lhs, x[0]) } else { (&c.rhs, x[1]) };
    let keeps = c.out.chars().last().is_some_and(|l| letters.contains(l));
    let both = |id: &OpId| graph.operands(*id).iter().all(|v| order.depends_on_input(v.op));
    keeps && contractions_behind(graph, from).iter().any(both)
}

/// Contractions that read what comes of a value, nearest first.
fn contractions_ahead(graph: &Graph, order: &Topology, id: OpId) -> Vec<OpId> {
    let mut found = vec![];
    let mut seen: HashSet<OpId> = HashSet::new();
    let mut queue = VecDeque::from([id]);
    while let Some(id) = queue.pop_front() {
        if !seen.insert(id) || seen.len() > SEARCH_LIMIT {
            continue;
        }
        for (user, _) in graph.uses(graph.result(id)) {
            match graph.op(user) {
                _ if !order.is_live(user) => {}
                Op::Contract(_) if !found.contains(&user) => found.push(user),
                op if passes(op) => queue.push_back(user),
                _ => {}
            }
        }
    }
    found
}

/// PV, where the region ends, and the value behind which QKᵀ is. Where the sum divides after PV, the region ends there.
fn around(graph: &Graph, order: &Topology, anchor: OpId) -> Option<(OpId, OpId, ValueId)> {
    if let Some((pv, exponentials)) = divided_after(graph, anchor) {
        return Some((pv, anchor, exponentials));
    }
    let pv = *contractions_ahead(graph, order, anchor).first()?;
    Some((pv, pv, dividend(graph, anchor).unwrap_or(graph.operands(anchor)[0])))
}

/// The products before and behind a softmax, whether or not they are those of an attention.
pub(crate) fn products(graph: &Graph, order: &Topology, anchor: OpId) -> Vec<OpId> {
    let Some((pv, _, from)) = around(graph, order, anchor) else { return vec![] };
    [vec![pv], contractions_behind(graph, from)].concat()
}

/// A product of queries and keys before a softmax with each product behind it, whether or not they are those of attentions.
pub(crate) fn products_around(graph: &Graph, order: &Topology, anchor: OpId) -> Vec<(OpId, OpId)> {
    let Some((pv, last, from)) = around(graph, order, anchor) else { return vec![] };
    let both = |id: &OpId| graph.operands(*id).iter().all(|v| order.depends_on_input(v.op));
    let Some(qk) = contractions_behind(graph, from).into_iter().find(both) else { return vec![] };
    let all = if last == pv { contractions_ahead(graph, order, anchor) } else { vec![pv] };
    all.into_iter().map(|pv| (qk, pv)).collect()
}

/// Whether each axis that Q and K share is one of V too.
fn keeps_values_apart(r: &Region) -> bool {
    let of_values = r.space.resolve(&r.operands[2].axes.concat());
    r.shared.iter().flatten().all(|d| of_values.contains(d))
}

/// The region around a softmax.
pub(crate) fn region(
    graph: &Graph,
    order: &Topology,
    constants: &mut Constants,
    anchor: OpId,
) -> Result<Region, Fail> {
    if !order.is_live(anchor) {
        return Err(Fail::NotAttention);
    }
    let Some((pv, last, from)) = around(graph, order, anchor) else { return Err(Fail::NotAttention) };
    let (mut first, mut apart) = (None, None);
    for qk in contractions_behind(graph, from) {
        let x = graph.operands(qk);
        let [left, right] = [x[0], x[1]].map(|v| order.depends_on_input(v.op));
        if !(left || right) || !graph.ty(x[0]).dtype.is_float() {
            continue;
        }
        if !(left && right) && mixes_scores(graph, order, qk) {
            first.get_or_insert(Fail::Miss(format!(
                "{} mixes the heads of the scores between QKᵀ and the product with V",
                label(graph, qk)
            )));
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
                    if order.depends_on_input(r.operands[2].base.op) {
                        Ok(r)
                    } else {
                        Err(Fail::NotAttention)
                    }
                })
            }
        };
        match result {
            Ok(r) if keeps_values_apart(&r) => return Ok(r),
            // A product with what differs from row to row is none of queries and keys, if there is another.
            Ok(r) => {
                apart.get_or_insert(r);
            }
            Err(e) => {
                first.get_or_insert(e);
            }
        }
    }
    if let Some(r) = apart {
        return Ok(r);
    }
    Err(match first {
        Some(Fail::Swapped) => Fail::Miss(
            "the softmax runs over an axis of QKᵀ that is neither the rows of Q nor the rows of K".into(),
        ),
        Some(e) => e,
        None => Fail::NotAttention,
    })
}
