//! The search: every candidate of a graph in topological order, found, missed or passed over.
//!
//! In: a verified graph. Out: the graph with each found region replaced by one attention node, with the reasons for every match
//! and every near miss.

use super::hidden::Around;
use super::masks::additive;
use super::masks::types::Context;
use super::region::anchor::is_anchor;
use super::region::search::products;
use super::region::types::{Fail, label};
use super::rewrite::Rewritten;
use super::types::{Applied, Bound, FindOptions, Found, FoundAttention, Miss, Numerics, Ring};
use super::written_out::written_out;
use super::{explicit, lookalikes, opaque, rewrite, split_keys};
use crate::eval::Constants;
use crate::find::algebra::saturate::Solver;
use crate::find::elements::interpret::Values;
use crate::find::sequence::self_or_cross::{Origins, Relation};
use crate::ir::Topology;
use crate::ir::infer::attention_sizes;
use crate::ir::{Graph, Op, OpId};
use crate::mask;
use std::collections::{HashMap, HashSet};

/// Finds every attention.
///
/// A softmax that is no attention (a router's, a classifier's) is neither found nor missed. Complexity: linear in the graph,
/// beside one e-graph per distinct region.
pub fn find(graph: &Graph, options: &FindOptions) -> Found {
    let (mut found, missed) = search(graph, options, &HashSet::new());
    if missed.is_empty() || !options.numerics.contains(&Numerics::Reassociation) {
        return found;
    }
    // Only where something was missed, and only if it helps.
    let Some(joined) = split_keys::joined(graph, &missed) else { return found };
    let (other, _) = search(&joined.graph, options, &joined.products);
    let names: HashSet<&str> = other.attentions.iter().map(|a| a.name.as_str()).collect();
    let kept = |a: &FoundAttention| names.contains(a.name.as_str());
    if other.attentions.len() > found.attentions.len() && found.attentions.iter().all(kept) {
        return other;
    }
    // What stops it when its parts are together says more than that they are parts.
    let reasons: HashMap<&str, &String> = other.missed.iter().map(|o| (o.at.as_str(), &o.reason)).collect();
    for miss in &mut found.missed {
        if let Some(reason) = reasons.get(miss.at.as_str()) {
            miss.reason.clone_from(reason);
        }
    }
    found
}

/// One search, and where it missed; `joined` are products that were put together for it.
fn search(graph: &Graph, options: &FindOptions, joined: &HashSet<OpId>) -> (Found, Vec<OpId>) {
    let mut g = graph.clone();
    let order = Topology::new(graph);
    // What the graph is made of never depends on inputs; what its masks are may, if those are bound.
    let mut constants = Constants::default();
    let guards: Vec<Bound> = options.bound.iter().filter(|b| b.of(graph).is_some()).cloned().collect();
    let inputs = guards.iter().filter_map(|b| Some((b.of(graph)?, b.value.clone())));
    let mut bound = Constants::bound(inputs);
    let mut values = Values::default();
    let mut origins = Origins::default();
    let mut solver = Solver::default();
    let mut attentions = vec![];
    let mut missed = vec![];
    let mut explained = HashSet::new();
    let mut around = Around::new(graph, &order);
    let mut changed = false;
    for id in candidates(graph, &order) {
        let explicit = matches!(graph.op(id), Op::Attention(_));
        let mut cx = Context {
            graph: &mut g,
            constants: &mut bound,
            values: &mut values,
            admitted: &options.numerics,
            scores: vec![],
        };
        let (done, nodes, name) = if explicit {
            // What cannot be brought to normal form is attention all the same.
            let done = explicit::normalise(&mut cx, id).unwrap_or(Rewritten { op: id, applied: vec![] });
            let name = label(graph, id);
            (done, vec![name.clone()], name)
        } else {
            explained.extend(products(graph, &order, id));
            match written_out(&mut cx, &mut around, &mut constants, &mut solver, id) {
                Ok((mut done, region)) => {
                    if region.nodes.iter().any(|n| joined.contains(n)) {
                        done.applied.insert(
                            0,
                            Applied {
                                rule: "joined-keys",
                                what:
                                    "products over some keys and over others are one product over all of them"
                                        .into(),
                                numerics: Numerics::Reassociation,
                            },
                        );
                    }
                    let nodes = rewrite::sources(graph, &region);
                    let name = label(graph, region.out.0.op);
                    (done, nodes, name)
                }
                Err(Fail::Miss(reason)) => {
                    missed.push((id, Miss { at: label(graph, id), reason }));
                    continue;
                }
                Err(Fail::NotAttention | Fail::Swapped) => {
                    around.passed.insert(id);
                    continue;
                }
            }
        };
        changed |= done.op != id;
        let added = added_masks(&mut cx, done.op);
        let x = g.operands(done.op);
        let relation = origins.relation(&g, &order, [(x[0], 2), (x[1], 2), (x[2], 2)]);
        attentions.push(FoundAttention {
            op: done.op,
            name,
            is_self: relation != Relation::Other,
            is_step: relation == Relation::Step,
            added,
            explicit,
            nodes,
            applied: done.applied,
            ring: Ring::Unasked,
        });
    }
    missed.extend(lookalikes::lookalikes(graph, &order, &explained));
    missed.extend(opaque::opaque(graph, &order));
    missed.sort_by_key(|(id, _)| order.place(*id));
    let (places, missed) = missed.into_iter().unzip();
    if !changed {
        let found = Found { graph: graph.clone(), attentions, missed, guards: vec![], work: solver.work };
        return (found, places);
    }
    g.remove_dead();
    debug_assert_eq!(crate::ir::verify::verify(&g), Ok(()), "find breaks the graph");
    (Found { graph: g, attentions, missed, guards, work: solver.work }, places)
}

/// Of what is added to an attention's scores, what is a mask, with what positions say of it.
fn added_masks(cx: &mut Context<'_>, attention: OpId) -> Vec<(usize, Vec<mask::Term>)> {
    let Op::Attention(a) = cx.graph.op(attention).clone() else { return vec![] };
    let x = cx.graph.operands(attention);
    let sizes = attention_sizes(cx.graph.ty(x[0]), cx.graph.ty(x[1]), cx.graph.ty(x[2]));
    let Ok(sizes) = sizes else { return vec![] };
    let masks = a.scores.added().filter_map(|n| Some((n, additive::mask(cx, sizes, *x.get(n)?)?)));
    masks.collect()
}

/// Softmax operations and attention operators that an output needs, in topological order.
fn candidates(graph: &Graph, order: &Topology) -> Vec<OpId> {
    graph
        .ops()
        .into_iter()
        .filter(|&id| order.is_live(id))
        .filter(|&id| matches!(graph.op(id), Op::Attention(_)) || is_anchor(graph, id))
        .collect()
}
