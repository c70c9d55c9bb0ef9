//! Scores that several softmaxes read, or a softmax that several products read which no axis puts side by side: each gets a copy of
//! its own, from the product of queries and keys on, so that each is one attention.

use super::types::{Recasting, Site};
use crate::find::region::anchor::is_anchor;
use crate::find::region::search::products_around;
use crate::find::region::types::passes;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Graph, Op, OpId, Topology, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The name by which `--explain` tells it.
pub(crate) const RULE: &str = "scores-of-their-own";
/// Most operations between a product of queries and keys and one with values.
const LIMIT: usize = 64;
/// Most attentions that are made of one product.
const COPIES: usize = 8;

/// What lies between a product of queries and keys and one with values.
struct Way {
    qk: OpId,
    pv: OpId,
    /// In topological order, with the product of queries and keys, without that with values.
    inside: Vec<OpId>,
}

/// Gives every product with values that shares something with another a way of its own.
pub(crate) fn copies(work: &mut Recasting<'_>, near: &HashSet<OpId>) {
    let order = Topology::new(&work.graph);
    let anchors: Vec<OpId> = order
        .order()
        .iter()
        .copied()
        .filter(|id| near.contains(id) && order.is_live(*id) && is_anchor(&work.graph, *id))
        .collect();
    let mut ways: Vec<Way> = vec![];
    for anchor in anchors {
        for (qk, pv) in products_around(&work.graph, &order, anchor) {
            if !ways.iter().any(|w| w.pv == pv) {
                ways.extend(way(&work.graph, &order, qk, pv));
            }
        }
    }
    // Those that share a product of queries and keys, in the order of the graph.
    let mut groups: Vec<Vec<Way>> = vec![];
    for way in ways {
        match groups.iter_mut().find(|g| g[0].qk == way.qk) {
            Some(group) => group.push(way),
            None => groups.push(vec![way]),
        }
    }
    for group in groups.into_iter().filter(|g| (2..=COPIES).contains(&g.len())) {
        let key = (RULE, group[0].qk);
        if !work.may(key, Numerics::Exact) || !closed(&work.graph, &order, &group) {
            continue;
        }
        let Some(products) = copied(&mut work.graph, &group) else { continue };
        let what = format!(
            "{} softmaxes or products with V read one product of queries and keys: each is an attention that has it of its own",
            group.len()
        );
        let applied = Applied::new(RULE, what, Numerics::Exact);
        work.sites.push(Site { key, products, gone: vec![], applied, log: None, keyed: None });
    }
}

/// What a product with values is made of, as far as a product of queries and keys that it depends on.
fn way(g: &Graph, order: &Topology, qk: OpId, pv: OpId) -> Option<Way> {
    let mut after: HashSet<OpId> = HashSet::from([qk]);
    let mut stack = vec![qk];
    while let Some(id) = stack.pop() {
        for (user, _) in g.results(id).into_iter().flat_map(|v| g.uses(v)) {
            if (user == pv || passes(g.op(user)) && order.before(user, pv)) && after.insert(user) {
                stack.push(user);
            }
        }
    }
    if !after.contains(&pv) {
        return None;
    }
    let mut inside: HashSet<OpId> = HashSet::new();
    let mut stack: Vec<OpId> = g.operands(pv).iter().map(|v| v.op).collect();
    while let Some(id) = stack.pop() {
        if after.contains(&id) && inside.insert(id) && id != qk {
            if inside.len() > LIMIT {
                return None;
            }
            stack.extend(g.operands(id).iter().map(|v| v.op));
        }
    }
    let mut inside: Vec<OpId> = inside.into_iter().collect();
    inside.sort_unstable_by_key(|id| (order.place(*id), *id));
    inside.contains(&qk).then_some(Way { qk, pv, inside })
}

/// Whether nothing else reads what lies on the ways: only then nothing of scores is left.
fn closed(g: &Graph, order: &Topology, group: &[Way]) -> bool {
    let all: BTreeSet<OpId> = group.iter().flat_map(|w| w.inside.iter().chain([&w.pv])).copied().collect();
    let inside = group.iter().flat_map(|w| &w.inside);
    inside.flat_map(|id| g.results(*id)).all(|v| {
        !g.is_output(v) && g.uses(v).into_iter().all(|(user, _)| all.contains(&user) || !order.is_live(user))
    })
}

/// Copies all ways but the first, and gives the products of queries and keys and of values of all.
fn copied(g: &mut Graph, group: &[Way]) -> Option<Vec<OpId>> {
    let first = group.first()?;
    let (mut products, mut replaced) = (vec![first.qk, first.pv], vec![]);
    for way in &group[1..] {
        let mut new: HashMap<ValueId, ValueId> = HashMap::new();
        for &id in way.inside.iter().chain([&way.pv]) {
            let (op, source) = (g.op(id).clone(), g.source(id).to_owned());
            let old = g.result(id);
            let operands: Vec<ValueId> =
                g.operands(id).into_iter().map(|v| new.get(&v).copied().unwrap_or(v)).collect();
            let name = g.value(old).name.clone();
            let copy = g.add(op, &operands, &name, &source).ok()?;
            if matches!(g.op(copy), Op::Contract(_)) {
                products.push(copy);
            }
            new.insert(old, g.result(copy));
        }
        let old = g.result(way.pv);
        replaced.push((old, new.get(&old).copied()?));
    }
    for (old, new) in replaced {
        g.replace(old, new).ok()?;
    }
    Some(products)
}
