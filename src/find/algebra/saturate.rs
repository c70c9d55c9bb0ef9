//! Saturates the e-graph of a region and reads the normal form off it, with the rules that led there.
//!
//! Rules that hide nothing run first, and the others only if those do not lead there.
//!
//! One e-graph per region, and equal regions are solved once: layer 80 costs nothing after layer 1. Limits count iterations
//! and nodes, never time, so that every rank reaches the same answer.

use super::normal_form::{Normal, read};
use super::rule::Rule;
use super::rules;
use super::term::{Digits, Expr, Facts, LeafFacts};
use crate::find::types::{Applied, ITERATION_LIMIT, NODE_LIMIT, Numerics, Work};
use egg::{CostFunction, EGraph, Extractor, FlatTerm, Id, Language, RecExpr, Runner, StopReason};
use std::collections::HashMap;
use std::time::Duration;

/// Most nodes of a region's term written as a tree: an explanation is one, so that values read over and over would make it
/// grow without bound.
const TREE_LIMIT: usize = 4096;
/// egg's clock, out of the way: the limits above end a run long before.
const NO_CLOCK: Duration = Duration::from_secs(24 * 3600);

/// Solved regions by their terms and facts.
#[derive(Default)]
pub(crate) struct Solver {
    known: HashMap<Key, Vec<Solved>>,
    /// What it took so far.
    pub(crate) work: Work,
}

/// What came of one set of facts.
type Solved = (Vec<LeafFacts>, Result<Normal, String>);

/// Equal structure: the same nodes in the same order.
type Key = (Vec<Expr>, Vec<Numerics>, [u64; 2], Vec<(Id, Digits)>);

impl Solver {
    /// The normal form, or the operation that stands in its way.
    pub(crate) fn solve(
        &mut self,
        (term, halves): (&RecExpr<Expr>, &[(Id, Digits)]),
        facts: &Facts,
        admitted: &[Numerics],
    ) -> Result<Normal, String> {
        let leaves = &facts.leaves;
        let numbers = [facts.swallowed, facts.small].map(f64::to_bits);
        let key = (term.as_ref().to_vec(), admitted.to_vec(), numbers, halves.to_vec());
        let known = self.known.entry(key).or_default();
        if let Some((_, r)) = known.iter().find(|(l, _)| l == leaves) {
            return r.clone();
        }
        self.work.regions += 1;
        let work = &mut self.work;
        let result = solve((term, halves), facts, admitted, work);
        let result = result.map_err(|why| {
            let all = solve((term, halves), facts, &Numerics::ALL, work);
            let missing = |n: &Normal| {
                let m: Vec<&str> = Numerics::ALL
                    .iter()
                    .filter(|c| !admitted.contains(c) && n.applied.iter().any(|a| a.numerics == **c))
                    .map(|c| c.name())
                    .collect();
                m.join(", ")
            };
            match all {
                Ok(n) => {
                    format!("it needs rules of class {}, which are not admitted (--numerics)", missing(&n))
                }
                Err(_) => why,
            }
        });
        known.push((leaves.to_vec(), result.clone()));
        result
    }
}

fn tree_size(term: &RecExpr<Expr>) -> usize {
    let mut sizes: Vec<usize> = Vec::with_capacity(term.as_ref().len());
    for node in term.as_ref() {
        sizes.push(node.fold(1, |n: usize, id| n.saturating_add(sizes[usize::from(id)])));
    }
    sizes.last().copied().unwrap_or(0)
}

fn solve(
    (term, halves): (&RecExpr<Expr>, &[(Id, Digits)]),
    facts: &Facts,
    admitted: &[Numerics],
    work: &mut Work,
) -> Result<Normal, String> {
    if tree_size(term) > TREE_LIMIT {
        return Err(format!(
            "values between QKᵀ and the product with V are read so often that their expression, written as a tree, has more than {TREE_LIMIT} nodes"
        ));
    }
    let of = |hiding: bool| {
        let all = rules::all().zip(rules::REWRITES.iter());
        all.filter(move |(r, _)| admitted.contains(&r.numerics) && (hiding || r.hides.is_empty()))
            .map(|(_, rewrite)| rewrite)
    };
    let mut runner = Runner::<Expr, Facts>::new(Facts::default())
        .with_egraph(egraph(term, facts, halves))
        .without_explanation_length_optimization()
        .with_iter_limit(ITERATION_LIMIT)
        .with_node_limit(NODE_LIMIT)
        .with_time_limit(NO_CLOCK)
        .with_expr(term)
        .run(of(false));
    // A rule that hides something may ask what is not known of a term, and all that is known of one is known at the end alone.
    if saturated(&runner) && !is_attention(&runner) {
        runner.stop_reason = None;
        runner = runner.run(of(true));
    }
    work.nodes = work.nodes.max(runner.egraph.total_number_of_nodes());
    work.rounds = work.rounds.max(runner.iterations.len());
    if !saturated(&runner) {
        return Err(format!(
            "the rules did not settle within {ITERATION_LIMIT} rounds and {NODE_LIMIT} nodes; write the attention as one operator, such as opset 23's Attention"
        ));
    }
    if let Some(two) = &runner.egraph.analysis.conflict {
        return Err(format!("the rules made {two} equal, which is a fault of annulus: please report it"));
    }
    let root = runner.roots[0];
    let (_, best) = Extractor::new(&runner.egraph, Cost(&runner.egraph)).find_best(root);
    let halves = halves_of(&runner.egraph, &best);
    let mut normal = read(&best, &halves)?;
    let used = explain(&mut runner, term, &best);
    normal.guards = used.iter().filter_map(|r| r.guard).collect();
    normal.hidden = used.iter().flat_map(|r| r.hides.iter().copied()).collect();
    let applied = |r: &Rule| Applied::new(r.name, r.what.to_owned(), r.numerics);
    normal.applied = used.into_iter().map(applied).collect();
    Ok(normal)
}

/// Whether the rules have said all that they say.
fn saturated(runner: &Runner<Expr, Facts>) -> bool {
    matches!(runner.stop_reason, Some(StopReason::Saturated))
}

/// Whether the whole of a term is an attention.
fn is_attention(runner: &Runner<Expr, Facts>) -> bool {
    let (_, best) = Extractor::new(&runner.egraph, Cost(&runner.egraph)).find_best(runner.roots[0]);
    read(&best, &[]).is_ok()
}

/// The e-graph of a term, of some of whose nodes it is known in which half type they are computed.
fn egraph(term: &RecExpr<Expr>, facts: &Facts, halves: &[(Id, Digits)]) -> EGraph<Expr, Facts> {
    let mut graph = EGraph::new(facts.clone()).with_explanations_enabled();
    let mut ids: Vec<Id> = Vec::with_capacity(term.as_ref().len());
    for node in term.as_ref() {
        let node = node.clone().map_children(|c| ids[usize::from(c)]);
        ids.push(graph.add(node));
    }
    for &(node, digits) in halves {
        if let Some(&id) = ids.get(usize::from(node)) {
            let fact = graph[id].data.clone();
            let half = fact.half.into_iter().chain([digits]).min();
            graph.set_analysis_data(id, super::term::Fact { half, ..fact });
        }
    }
    graph.rebuild();
    graph
}

/// Of each node of a term in the e-graph, the half type in which the graph computes it.
fn halves_of(graph: &EGraph<Expr, Facts>, term: &RecExpr<Expr>) -> Vec<Option<Digits>> {
    let ids = graph.lookup_expr_ids(term).unwrap_or_default();
    ids.into_iter().map(|id| graph[id].data.half).collect()
}

/// Prefers terms of the normal form; what is left of the others shows what stood in the way.
pub(crate) struct Cost<'a>(pub(crate) &'a EGraph<Expr, Facts>);

impl CostFunction<Expr> for Cost<'_> {
    type Cost = u64;

    fn cost<C: FnMut(Id) -> u64>(&mut self, node: &Expr, mut costs: C) -> u64 {
        let of_scores = |x: &Id| self.0[*x].data.score;
        let own = match node {
            // Of a mask or a bias they are of the normal form.
            Expr::Not([x]) | Expr::Neg([x]) | Expr::Nonzero([x]) | Expr::Reciprocal([x]) if of_scores(x) => {
                1000
            }
            // A mask says more.
            Expr::Factor([_, m]) if self.0[*m].data.number.is_none() => 30,
            Expr::Scores(_)
            | Expr::Factor(_)
            | Expr::Round(_)
            | Expr::Cap(_)
            | Expr::Bias(_)
            | Expr::Keep(_)
            | Expr::Replace(_)
            | Expr::Floor(_)
            | Expr::Sink(_)
            | Expr::ZeroEmpty(_)
            | Expr::ZeroNan(_)
            | Expr::Attention(_)
            | Expr::AttentionZero(_)
            | Expr::AttentionZeroNan(_)
            | Expr::Weighted(_)
            | Expr::Times(_)
            | Expr::Number(_)
            | Expr::Leaf(_)
            | Expr::Not(_)
            | Expr::Neg(_)
            | Expr::Nonzero(_)
            | Expr::Only(_) => 1,
            Expr::Reciprocal(_) => 20,
            Expr::Softmax(_) | Expr::Loose(_) => 10,
            _ => 1000,
        };
        node.fold(own, |sum: u64, id| sum.saturating_add(costs(id)))
    }
}

/// The rules on the way from the region's term to its normal form, each once, in the order of the explanation.
fn explain(runner: &mut Runner<Expr, Facts>, from: &RecExpr<Expr>, to: &RecExpr<Expr>) -> Vec<&'static Rule> {
    let mut explanation = runner.explain_equivalence(from, to);
    let mut used: Vec<&'static Rule> = vec![];
    for flat in explanation.make_flat_explanation() {
        let mut stack: Vec<&FlatTerm<Expr>> = vec![flat];
        while let Some(t) = stack.pop() {
            for name in [&t.forward_rule, &t.backward_rule].into_iter().flatten() {
                // What egg itself says of equal terms is named `=`; names of rules are unique.
                let rule = rules::all().find(|r| r.name == name.as_str());
                used.extend(rule.filter(|r| !used.iter().any(|u| std::ptr::eq(*u, *r))));
            }
            stack.extend(t.children.iter().rev());
        }
    }
    used
}
