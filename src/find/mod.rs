//! find: names every scaled-dot-product attention of a graph in normal form, with the reasons, and every near miss.
//!
//! In: a verified graph. Out: the graph with each found region replaced by one attention node, and the reasons.
//!
//! What a region is and what stands in it is found without names or sizes:
//!
//! | file | idea |
//! |---|---|
//! | `space`, `trace`, `emit` | layout operations as factors of axes: traced back, and laid out anew |
//! | `join` | products over some keys and over others, put together by hand |
//! | `kin` | what stands where attention would, but for the softmax |
//! | `region`, `encode` | from a softmax back to QKᵀ and forward to PV; the operations between as a term |
//! | `lang`, `rule`, `rules`, `solve` | the term's normal form by egg; each rule states its numerics class |
//! | `cells`, `runs`, `values` | what the elements of a mask can be for every input, in memory linear in the rows |
//! | `items`, `fills`, `masks`, `order` | masks by evaluation: what they keep, and their fill |
//! | `positions`, `band`, `documents` | the terms that rows of kept keys spell |
//! | `points`, `bias`, `added` | what kind of bias it is, by its elements; or a mask of numbers that are added |
//! | `rewrite`, `explicit` | the attention in PV's place; an operator that is one already, in the same normal form |
//! | `rows`, `ways` | whether queries and keys come from one sequence |
//! | [`report`] | the figures of the command line |
//!
//! Invariants: a graph in which nothing is found comes out identical. K and V of an attention are not repeated over query
//! heads where the graph only repeated them. No class of rewriting that is not admitted is used. The answer depends on
//! nothing but the graph and the options: limits count nodes and rounds, never time.

mod added;
mod band;
mod bias;
mod cells;
mod documents;
mod emit;
mod encode;
#[cfg(test)]
mod examples;
mod explicit;
mod fills;
mod items;
mod join;
mod kin;
mod lang;
mod masks;
#[cfg(test)]
mod meaning;
mod order;
mod points;
mod positions;
mod region;
pub mod report;
mod rewrite;
mod rows;
mod rule;
mod rules;
mod runs;
mod solve;
mod space;
mod trace;
mod values;
mod ways;

use crate::eval::Constants;
use crate::ir::infer::attention_sizes;
use crate::ir::{DType, Graph, Op, OpId, Tensor, ValueId};
use crate::mask;
use lang::{Facts, Leaf, LeafFacts, Term};
use masks::Context;
use region::{Fail, Order, Region, label};
use rewrite::Rewritten;
use rows::Kin;
use solve::Solver;
use std::collections::{HashMap, HashSet};

/// How far a rewriting may change numbers. Ordered: a later class changes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Numerics {
    /// Same bits, where Q, K and V are finite.
    Exact,
    /// Sums and products in another order.
    Reassociation,
    /// Roundings left out or added.
    Rounding,
    /// A more precise type on the way.
    MorePrecision,
    /// Different only where a value is not finite or a sum of exponentials leaves the numbers of its type, or where no row
    /// can be empty.
    Domain,
}

impl Numerics {
    /// Every class, in order.
    pub const ALL: [Numerics; 5] = [
        Numerics::Exact,
        Numerics::Reassociation,
        Numerics::Rounding,
        Numerics::MorePrecision,
        Numerics::Domain,
    ];

    /// The name on the command line: `exact`, `reassociation`, `rounding`, `precision`, `domain`.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Exact => "exact",
            Numerics::Reassociation => "reassociation",
            Numerics::Rounding => "rounding",
            Numerics::MorePrecision => "precision",
            Numerics::Domain => "domain",
        }
    }
}

/// What is admitted.
#[derive(Clone, Debug)]
pub struct FindOptions {
    /// Classes of rewriting that may be used.
    pub numerics: Vec<Numerics>,
    /// Inputs whose values may shape what is found, each with its value; what comes of it is right for these values alone,
    /// and [`Found::guards`] says so. One that is no input of the graph, or of another type, is not used
    /// ([`crate::find_attentions`] refuses it).
    pub bound: Vec<Bound>,
}

/// An input and the value that it is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// Name of the input.
    pub input: String,
    /// Its value.
    pub value: Tensor,
}

impl Bound {
    /// The input of that name and type.
    pub fn of(&self, graph: &Graph) -> Option<ValueId> {
        let fits = |v: &ValueId| graph.value(*v).name == self.input && *graph.ty(*v) == self.value.ty();
        graph.inputs().into_iter().find(fits)
    }
}

impl Default for FindOptions {
    fn default() -> FindOptions {
        FindOptions { numerics: Numerics::ALL.to_vec(), bound: vec![] }
    }
}

/// One step of an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Name of the rule.
    pub rule: &'static str,
    /// What it did here, for the reader.
    pub what: String,
    /// Its class.
    pub numerics: Numerics,
}

/// One attention that was found.
#[derive(Clone, Debug)]
pub struct FoundAttention {
    /// The attention operation in [`Found::graph`].
    pub op: OpId,
    /// A name for people: the source node that computes its result.
    pub name: String,
    /// Whether the rows of q, k and v come from one sequence axis.
    pub is_self: bool,
    /// Whether it is a step of decoding: self-attention of a single row, all others of whose sequence are past keys.
    pub is_step: bool,
    /// If its bias is no bias but a mask, of numbers that are added: what positions say of it.
    pub added: Option<Vec<mask::Term>>,
    /// Whether it was one operator in the source, not written out.
    pub explicit: bool,
    /// Source nodes of the region: QKᵀ, softmax, PV, or the one operator.
    pub nodes: Vec<String>,
    /// The rules that led here, in order.
    pub applied: Vec<Applied>,
    /// Why the ring cannot split it; `None` if it can.
    pub refused: Option<String>,
}

/// A region that looks like attention and is not, as far as can be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The node at which it was given up.
    pub at: String,
    /// The condition that failed.
    pub reason: String,
}

/// What the algebra took. Limits count the same, never time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Distinct regions, each saturated once.
    pub regions: usize,
    /// Nodes of the largest e-graph.
    pub nodes: usize,
    /// Rounds of the rules over the region that took the most.
    pub rounds: usize,
}

impl Work {
    /// Beyond these nodes or rounds a region is given up.
    pub const LIMIT: Work =
        Work { regions: usize::MAX, nodes: solve::NODE_LIMIT, rounds: solve::ITERATION_LIMIT };
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The graph with attention nodes. Byte-identical in text if nothing was found.
    pub graph: Graph,
    /// In topological order.
    pub attentions: Vec<FoundAttention>,
    /// Near misses, in topological order.
    pub missed: Vec<Miss>,
    /// The values of inputs for which the graph computes what it did. Empty if it does for all.
    pub guards: Vec<Bound>,
    /// What the algebra took.
    pub work: Work,
}

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
    let Some(joined) = join::joined(graph, &missed) else { return found };
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
    let order = Order::new(graph);
    // What the graph is made of never depends on inputs; what its masks are may, if those are bound.
    let mut constants = Constants::default();
    let guards: Vec<Bound> = options.bound.iter().filter(|b| b.of(graph).is_some()).cloned().collect();
    let inputs = guards.iter().filter_map(|b| Some((b.of(graph)?, b.value.clone())));
    let mut bound = Constants::bound(inputs);
    let mut values = values::Values::default();
    let mut origins = rows::Origins::default();
    let mut solver = Solver::default();
    let mut attentions = vec![];
    let mut missed = vec![];
    let mut explained = HashSet::new();
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
            explained.extend(region::products(graph, &order, id));
            match written_out(&mut cx, &order, &mut constants, &mut solver, id) {
                Ok((mut done, region)) => {
                    if region.nodes.iter().any(|n| joined.contains(n)) {
                        done.applied.insert(
                            0,
                            Applied {
                                rule: "joined-keys",
                                what: "products over some keys and over others are one over all of them"
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
                Err(Fail::NotAttention | Fail::Swapped) => continue,
            }
        };
        changed |= done.op != id;
        let added = added_mask(&mut cx, done.op);
        let x = g.operands(done.op);
        let kin = origins.kin(&g, &order, [(x[0], 2), (x[1], 2), (x[2], 2)]);
        attentions.push(FoundAttention {
            op: done.op,
            name,
            is_self: kin != Kin::Other,
            is_step: kin == Kin::Step,
            added,
            explicit,
            nodes,
            applied: done.applied,
            refused: None,
        });
    }
    missed.extend(kin::kin(graph, &order, &explained));
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

/// What positions say of an attention's bias, if that is a mask.
fn added_mask(cx: &mut Context<'_>, attention: OpId) -> Option<Vec<mask::Term>> {
    let Op::Attention(a) = cx.graph.op(attention) else { return None };
    let x = cx.graph.operands(attention);
    let bias = *x.get(a.bias?)?;
    let sizes = attention_sizes(cx.graph.ty(x[0]), cx.graph.ty(x[1]), cx.graph.ty(x[2])).ok()?;
    added::mask(cx, sizes, bias)
}

/// Softmax operations and attention operators that an output needs, in topological order.
fn candidates(graph: &Graph, order: &Order) -> Vec<OpId> {
    graph
        .ops()
        .into_iter()
        .filter(|&id| order.is_live(id))
        .filter(|&id| matches!(graph.op(id), Op::Attention(_)) || region::is_anchor(graph, id))
        .collect()
}

/// One attention that is written out.
fn written_out(
    cx: &mut Context<'_>,
    order: &Order,
    constants: &mut Constants,
    solver: &mut Solver,
    id: OpId,
) -> Result<(Rewritten, Region), Fail> {
    let region = region::region(cx.graph, order, constants, id)?;
    cx.scores = region.operands[..2].iter().map(|t| t.base).collect();
    // Half the distance from 1 to the next number.
    let swallowed = match region.sums {
        Some(DType::F64) => f64::EPSILON / 2.0,
        _ => f64::from(f32::EPSILON) / 2.0,
    };
    let small = region.narrow.map_or(1e4, order::small_sum);
    let facts = Facts { leaves: leaf_facts(cx, &region), swallowed, small, conflict: None };
    let normal = solver
        .solve(&region.term, &facts, cx.admitted)
        .map_err(|why| Fail::Miss(region.with_names(cx.graph, &why)))?;
    let done = rewrite::rewrite(cx, &region, &normal).map_err(Fail::Miss)?;
    Ok((done, region))
}

/// What rules may ask of the leaves. Constants only where one is multiplied by or added to a product with one.
fn leaf_facts(cx: &mut Context<'_>, region: &Region) -> Vec<LeafFacts> {
    let mut facts = vec![LeafFacts::default(); region.leaves.len() + region::V.0 + 1];
    let terms = region.term.as_ref();
    let multiplied = |t: &Term| match t {
        Term::Mul([_, b]) => {
            if let Term::Leaf(l) = region.term[*b] {
                Some(l)
            } else {
                None
            }
        }
        _ => None,
    };
    let masks: Vec<Leaf> = terms.iter().filter_map(multiplied).collect();
    let keys = region.space.resolve(&region.keys);
    let of_queries = region.space.resolve(&region.free.concat());
    for (leaf, fact) in region.leaves.iter().zip(&mut facts[region::V.0 + 1..]) {
        let axes = region.space.resolve_all(&leaf.axes);
        if let Op::Cast(to) = cx.graph.op(leaf.value.op)
            && to.is_float()
        {
            let of = cx.graph.operands(leaf.value.op)[0];
            let laid = |l: &region::LeafValue| l.value == of && region.space.resolve_all(&l.axes) == axes;
            let place = region.leaves.iter().position(laid);
            fact.truth =
                place.filter(|_| cx.graph.ty(of).dtype == DType::Bool).map(|n| Leaf(region::V.0 + 1 + n));
        }
        if cx.graph.ty(leaf.value).dtype.is_float() {
            (fact.size, fact.finite) = order::size(cx, leaf.value);
        }
        fact.row = !axes.iter().flatten().any(|d| keys.contains(d));
        fact.column = !axes.iter().flatten().any(|d| of_queries.contains(d));
        if masks.is_empty() {
            continue;
        }
        let known = cx.values.get(cx.graph, cx.constants, leaf.value);
        fact.binary = known.is_some_and(|p| cx.values.all(&p, &[(0.0, 0.0), (1.0, 1.0)]));
        // Laid out on the axes of the scores as the mask is.
        let laid = |l: &Leaf| {
            let mask = region.leaves.get(l.0.checked_sub(region::V.0 + 1)?)?;
            (region.space.resolve_all(&mask.axes) == axes).then_some(mask.value)
        };
        let of = |l: &Leaf| Some((*l, masks::inverse(cx, laid(l)?, leaf.value)?));
        fact.inverse = masks.iter().find_map(of);
        let constant = cx.constants.value(cx.graph, leaf.value, trace::CONSTANT_LIMIT);
        fact.constant = constant.map(|t| (axes, t.to_f64()));
    }
    facts
}
