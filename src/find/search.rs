//! The search: every candidate of a graph in topological order, found, missed or passed over.
//!
//! In: a verified graph. Out: the graph with each found region replaced by one attention node, with the reasons for every match
//! and every near miss.

use super::dropped::drop_weights;
use super::hidden::Around;
use super::log_sum::attach;
use super::masks::additive;
use super::masks::infinities::fills_no_row;
use super::masks::types::Context;
use super::recast::copies;
use super::recast::driver::recast;
use super::recast::split_keys;
use super::recast::types::{Log, Site};
use super::region::anchor::is_anchor;
use super::region::search::products;
use super::region::types::{Fail, label};
use super::rewrite::Rewritten;
use super::types::{Applied, Bound, FindOptions, Found, FoundAttention, Miss, Numerics, Ring};
use super::written_out::written_out;
use super::{explicit, lookalikes, opaque, rewrite};
use crate::eval::Constants;
use crate::find::algebra::saturate::Solver;
use crate::find::elements::interpret::Values;
use crate::find::sequence::self_or_cross::{Origins, Relation};
use crate::ir::Topology;
use crate::ir::infer::attention_sizes;
use crate::ir::{Graph, Op, OpId};
use crate::mask;
use std::collections::{HashMap, HashSet};

/// Why parts of a softmax are not put together.
const FILLED: &str = "parts of a softmax are put together as an attention over all keys does, but a row of which masks leave no key is \
                      another there; mask with −∞";
/// Most times that a graph is recast: each time without the places at which it helped nothing.
const ROUNDS: usize = 4;

/// Finds every attention.
///
/// A softmax that is no attention (a router's, a classifier's) is neither found nor missed. Complexity: linear in the graph,
/// beside one e-graph per distinct region.
pub fn find(graph: &Graph, options: &FindOptions) -> Found {
    let mut found = found(graph, options);
    if let Some(asked) = options.dropout {
        drop_weights(&mut found, asked);
    }
    found
}

/// The same without what is asked for besides.
fn found(graph: &Graph, options: &FindOptions) -> Found {
    let Searched { mut found, places } = best(graph, options, &Notes::default());
    let mut left = HashSet::new();
    for _ in 0..ROUNDS {
        // Only where something was missed or a sum of products stands before a softmax, and only if it helps.
        let Some(recast) = recast(graph, &places, &options.numerics, &left) else { break };
        for (ids, why) in &recast.refused {
            let missed = places.iter().zip(&mut found.missed);
            missed.filter(|(id, _)| ids.contains(id)).for_each(|(_, miss)| miss.reason.clone_from(why));
        }
        if recast.sites.is_empty() {
            break;
        }
        let other = best(&recast.graph, options, &notes(&recast.sites));
        let lives = |id: &OpId| other.found.graph.get_op(*id).is_some();
        let stays = |s: &&Site| {
            s.products.iter().chain(&s.gone).any(lives) || s.log.is_some_and(|log| lives(&log.stand_in.op))
        };
        let useless: Vec<&Site> = recast.sites.iter().filter(stays).collect();
        if useless.is_empty() && keeps(&found, &other.found) {
            return other.found;
        }
        if useless.iter().any(|s| s.key.0 == copies::RULE) {
            shared(&mut found, &other.found);
        }
        told(&mut found, &other.found);
        if useless.is_empty() {
            break;
        }
        left.extend(useless.iter().map(|s| s.key));
    }
    found
}

/// Whether every attention of one search is one of another, and no fewer are found.
fn keeps(before: &Found, after: &Found) -> bool {
    let names: HashSet<&str> = after.attentions.iter().map(|a| a.name.as_str()).collect();
    after.attentions.len() >= before.attentions.len()
        && before.attentions.iter().all(|a| names.contains(a.name.as_str()))
}

/// Of what shares scores with something that is no attention: that it would be one, and what the other lacks.
fn shared(found: &mut Found, other: &Found) {
    let Some(lacks) = other.missed.first() else { return };
    for miss in found.missed.iter_mut().filter(|m| other.missed.iter().all(|o| o.at != m.at)) {
        miss.reason += &format!(
            "; with scores of its own it is an attention, but what else reads them is none: at {}, {}",
            lacks.at, lacks.reason
        );
    }
}

/// What stops an attention when its parts are together says more than that they are parts.
fn told(found: &mut Found, other: &Found) {
    let reasons: HashMap<&str, &String> = other.missed.iter().map(|o| (o.at.as_str(), &o.reason)).collect();
    for miss in &mut found.missed {
        if let Some(reason) = reasons.get(miss.at.as_str()) {
            miss.reason.clone_from(reason);
        }
    }
}

/// What was done to each product that was made before the search.
#[derive(Clone, Default)]
struct Notes {
    of: HashMap<OpId, Vec<Applied>>,
    logs: Vec<Log>,
    keyed: HashSet<OpId>,
}

fn notes(sites: &[Site]) -> Notes {
    let mut notes = Notes::default();
    for site in sites {
        for &id in &site.products {
            notes.of.entry(id).or_default().push(site.applied.clone());
        }
        notes.logs.extend(site.log);
        notes.keyed.extend(site.keyed);
    }
    notes
}

/// A search, and where it missed.
struct Searched {
    found: Found,
    places: Vec<OpId>,
}

/// A search, and another with products over parts of the keys put together if that finds more.
fn best(graph: &Graph, options: &FindOptions, notes: &Notes) -> Searched {
    let mut first = search(graph, options, notes);
    if first.places.is_empty() || !options.numerics.contains(&Numerics::Reassociation) {
        return first;
    }
    let Some(joined) = split_keys::joined(graph, &first.places) else { return first };
    let what = "products over some keys and over others are one product over all of them";
    let applied = Applied::new("joined-keys", what.into(), Numerics::Reassociation);
    let mut notes = notes.clone();
    for &id in &joined.products {
        notes.of.entry(id).or_default().push(applied.clone());
    }
    let other = search(&joined.graph, options, &notes);
    if other.found.attentions.len() > first.found.attentions.len() && keeps(&first.found, &other.found) {
        return other;
    }
    told(&mut first.found, &other.found);
    first
}

/// One search, and where it missed.
fn search(graph: &Graph, options: &FindOptions, notes: &Notes) -> Searched {
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
            reads_log: false,
            drops: options.dropout.is_some(),
        };
        let (done, nodes, name) = if explicit {
            // What cannot be brought to normal form is attention all the same.
            let done = explicit::normalise(&mut cx, id).unwrap_or(Rewritten { op: id, applied: vec![] });
            let name = label(graph, id);
            (done, vec![name.clone()], name)
        } else {
            explained.extend(products(graph, &order, id));
            let log = notes.logs.iter().find(|log| log.anchor == id);
            cx.reads_log = log.is_some();
            let written = written_out(&mut cx, &mut around, &mut constants, &mut solver, id);
            let written = written.and_then(|(done, region)| {
                if notes.keyed.contains(&id) && !fills_no_row(&mut cx, done.op) {
                    return Err(Fail::Miss(FILLED.into()));
                }
                log.map_or(Ok(()), |log| attach(&mut cx, done.op, &region, log)).map_err(Fail::Miss)?;
                Ok((done, region))
            });
            match written {
                Ok((mut done, region)) => {
                    let mut before: Vec<Applied> = vec![];
                    for note in region.nodes.iter().filter_map(|n| notes.of.get(n)).flatten() {
                        if !before.contains(note) {
                            before.push(note.clone());
                        }
                    }
                    done.applied.splice(0..0, before);
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
        let [added, in_bias] = added_masks(&mut cx, done.op);
        let x = g.operands(done.op);
        let relation = origins.relation(&g, &order, [(x[0], 2), (x[1], 2), (x[2], 2)]);
        attentions.push(FoundAttention {
            op: done.op,
            name,
            is_self: relation != Relation::Other,
            is_step: relation == Relation::Step,
            added,
            in_bias,
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
        return Searched { found, places };
    }
    g.remove_dead();
    debug_assert_eq!(crate::ir::verify::verify(&g), Ok(()), "find breaks the graph");
    Searched { found: Found { graph: g, attentions, missed, guards, work: solver.work }, places }
}

/// Of what is added to an attention's scores, what is a mask, and what holds one beside a bias, with what positions say of it.
fn added_masks(cx: &mut Context<'_>, attention: OpId) -> [Vec<(usize, Vec<mask::Term>)>; 2] {
    let mut all = [vec![], vec![]];
    let Op::Attention(a) = cx.graph.op(attention).clone() else { return all };
    let x = cx.graph.operands(attention);
    let sizes = attention_sizes(cx.graph.ty(x[0]), cx.graph.ty(x[1]), cx.graph.ty(x[2]));
    let Ok(sizes) = sizes else { return all };
    for n in a.scores.added() {
        let Some(&v) = x.get(n) else { continue };
        if let Some(terms) = additive::mask(cx, sizes, v) {
            all[0].push((n, terms));
        } else if let Some(terms) = additive::mask_in_bias(cx, sizes, v) {
            all[1].push((n, terms));
        }
    }
    all
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
