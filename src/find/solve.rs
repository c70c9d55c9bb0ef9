//! Saturates the e-graph of a region and reads the normal form off it, with the rules that led there.
//!
//! One e-graph per region, and equal regions are solved once: layer 80 costs nothing after layer 1. Limits count iterations
//! and nodes, never time, so that every rank reaches the same answer.

use super::lang::{Facts, Leaf, LeafFacts, Term};
use super::rule::Rule;
use super::rules::RULES;
use super::{Applied, Numerics, Work, region};
use egg::{CostFunction, EGraph, Extractor, FlatTerm, Id, Language, RecExpr, Runner, StopReason};
use std::collections::HashMap;
use std::time::Duration;

/// Most rounds of the rules over one region.
pub(super) const ITERATION_LIMIT: usize = 96;
/// Most nodes of one e-graph.
pub(super) const NODE_LIMIT: usize = 8192;
/// Most nodes of a region's term written as a tree: an explanation is one, so that values read over and over would make it
/// grow without bound.
const TREE_LIMIT: usize = 4096;
/// egg's clock, out of the way: the limits above end a run long before.
const NO_CLOCK: Duration = Duration::from_secs(24 * 3600);

/// A leaf as the normal form reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LeafRef {
    /// Which leaf.
    pub(super) leaf: Leaf,
    /// Operations on it, innermost first.
    pub(super) ops: Vec<LeafOp>,
}

/// An operation on a leaf that a rule asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum LeafOp {
    /// Logical negation.
    Not,
    /// Arithmetic negation.
    Neg,
    /// Whether it is not 0.
    Nonzero,
    /// 1 over it.
    Reciprocal,
    /// So many times it.
    Times(f64),
    /// Only where another one is true, elsewhere 0.
    Only(Box<LeafRef>),
}

/// A number, or one for each row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Factor {
    /// A number.
    Number(f64),
    /// A leaf that is the same for all keys of a row.
    Leaf(LeafRef),
}

/// What happens to the scores, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Something is added.
    Bias(LeafRef),
    /// −∞ where the condition is false.
    Keep(LeafRef),
    /// A number where the condition is false.
    Replace(LeafRef, f64),
    /// No score is below this number.
    Floor(f64),
}

/// The normal form of a region.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Normal {
    /// Factor on q·k.
    pub(super) scale: f64,
    /// Softcap, 0 for none.
    pub(super) softcap: f64,
    /// Biases and masks after that.
    pub(super) steps: Vec<Step>,
    /// One more score of each row, without a value.
    pub(super) sinks: Option<Factor>,
    /// Whether a row without a key gives zeros.
    pub(super) zero_empty: bool,
    /// Factors on Q, beside the scale.
    pub(super) on_q: Vec<LeafRef>,
    /// Factors on the rows of V.
    pub(super) on_v: Vec<LeafRef>,
    /// Factors on the result.
    pub(super) on_result: Vec<Factor>,
    /// The rules, in the order of the explanation.
    pub(super) applied: Vec<Applied>,
}

/// Solved regions by their terms and facts.
#[derive(Default)]
pub(super) struct Solver {
    known: HashMap<Key, Vec<Solved>>,
    /// What it took so far.
    pub(super) work: Work,
}

/// What came of one set of facts.
type Solved = (Vec<LeafFacts>, Result<Normal, String>);

/// Equal structure: the same nodes in the same order.
type Key = (Vec<Term>, Vec<Numerics>, [u64; 2]);

impl Solver {
    /// The normal form, or the operation that stands in its way.
    pub(super) fn solve(
        &mut self,
        term: &RecExpr<Term>,
        facts: &Facts,
        admitted: &[Numerics],
    ) -> Result<Normal, String> {
        let leaves = &facts.leaves;
        let key =
            (term.as_ref().to_vec(), admitted.to_vec(), [facts.swallowed, facts.small].map(f64::to_bits));
        let known = self.known.entry(key).or_default();
        if let Some((_, r)) = known.iter().find(|(l, _)| l == leaves) {
            return r.clone();
        }
        self.work.regions += 1;
        let work = &mut self.work;
        let result = solve(term, facts, admitted, work);
        let result = result.map_err(|why| {
            let all = solve(term, facts, &Numerics::ALL, work);
            let missing = |n: &Normal| {
                let m: Vec<&str> = Numerics::ALL
                    .iter()
                    .filter(|c| !admitted.contains(c) && n.applied.iter().any(|a| a.numerics == **c))
                    .map(|c| c.name())
                    .collect();
                m.join(", ")
            };
            match all {
                Ok(n) => format!("it needs rules of class {}, which are not admitted", missing(&n)),
                Err(_) => why,
            }
        });
        known.push((leaves.to_vec(), result.clone()));
        result
    }
}

fn tree_size(term: &RecExpr<Term>) -> usize {
    let mut sizes: Vec<usize> = Vec::with_capacity(term.as_ref().len());
    for node in term.as_ref() {
        sizes.push(node.fold(1, |n: usize, id| n.saturating_add(sizes[usize::from(id)])));
    }
    sizes.last().copied().unwrap_or(0)
}

fn solve(
    term: &RecExpr<Term>,
    facts: &Facts,
    admitted: &[Numerics],
    work: &mut Work,
) -> Result<Normal, String> {
    if tree_size(term) > TREE_LIMIT {
        return Err(format!(
            "values between QKᵀ and PV are read too often: a tree of more than {TREE_LIMIT} nodes"
        ));
    }
    let rules: Vec<_> = RULES.iter().filter(|r| admitted.contains(&r.numerics)).map(Rule::rewrite).collect();
    let mut runner = Runner::<Term, Facts>::new(facts.clone())
        .with_explanations_enabled()
        .without_explanation_length_optimization()
        .with_iter_limit(ITERATION_LIMIT)
        .with_node_limit(NODE_LIMIT)
        .with_time_limit(NO_CLOCK)
        .with_expr(term)
        .run(&rules);
    work.nodes = work.nodes.max(runner.egraph.total_number_of_nodes());
    work.rounds = work.rounds.max(runner.iterations.len());
    if !matches!(runner.stop_reason, Some(StopReason::Saturated)) {
        return Err(format!(
            "the rules did not settle within {ITERATION_LIMIT} rounds and {NODE_LIMIT} nodes"
        ));
    }
    if let Some(two) = &runner.egraph.analysis.conflict {
        return Err(format!("rules made {two} one, which is a fault of theirs"));
    }
    let root = runner.roots[0];
    let (_, best) = Extractor::new(&runner.egraph, Cost(&runner.egraph)).find_best(root);
    let mut normal = read(&best)?;
    normal.applied = explain(&mut runner, term, &best);
    Ok(normal)
}

/// Prefers terms of the normal form; what is left of the others shows what stood in the way.
pub(super) struct Cost<'a>(pub(super) &'a EGraph<Term, Facts>);

impl CostFunction<Term> for Cost<'_> {
    type Cost = u64;

    fn cost<C: FnMut(Id) -> u64>(&mut self, node: &Term, mut costs: C) -> u64 {
        let of_scores = |x: &Id| self.0[*x].data.score;
        let own = match node {
            // Of a mask or a bias they are of the normal form.
            Term::Not([x]) | Term::Neg([x]) | Term::Nonzero([x]) | Term::Reciprocal([x]) if of_scores(x) => {
                1000
            }
            Term::Scores(_)
            | Term::Cap(_)
            | Term::Bias(_)
            | Term::Keep(_)
            | Term::Replace(_)
            | Term::Floor(_)
            | Term::Sink(_)
            | Term::ZeroEmpty(_)
            | Term::Attention(_)
            | Term::AttentionZero(_)
            | Term::Scaled(_)
            | Term::Weighted(_)
            | Term::Times(_)
            | Term::Number(_)
            | Term::Leaf(_)
            | Term::Not(_)
            | Term::Neg(_)
            | Term::Nonzero(_)
            | Term::Only(_) => 1,
            Term::Reciprocal(_) => 20,
            Term::Softmax(_) | Term::Loose(_) => 10,
            _ => 1000,
        };
        node.fold(own, |sum: u64, id| sum.saturating_add(costs(id)))
    }
}

fn read(best: &RecExpr<Term>) -> Result<Normal, String> {
    let node = |id: &Id| &best[*id];
    let number = |id: &Id| if let Term::Number(n) = node(id) { Some(n.get()) } else { None };
    let factor = |id: &Id| match number(id) {
        Some(x) => Ok(Factor::Number(x)),
        None => leaf_ref(best, *id).map(Factor::Leaf),
    };
    let mut top = &best[best.root()];
    let mut on_result = vec![];
    while let Term::Times([a, m]) = top {
        on_result.push(factor(m)?);
        top = node(a);
    }
    let (mut at, v, zero_empty) = match top {
        Term::Attention([s, v]) => (s, v, false),
        Term::AttentionZero([s, v]) => (s, v, true),
        _ => return Err(obstacle(best)),
    };
    let (mut v, mut on_v) = (v, vec![]);
    while let Term::Weighted([of, m]) = node(v) {
        on_v.push(leaf_ref(best, *m)?);
        v = of;
    }
    if *node(v) != Term::Leaf(region::V) {
        return Err("V is changed after it was traced".into());
    }
    let mut n = Normal {
        scale: 1.0,
        softcap: 0.0,
        steps: vec![],
        sinks: None,
        zero_empty,
        on_q: vec![],
        on_v,
        on_result,
        applied: vec![],
    };
    if let Term::Sink([s, b]) = node(at) {
        n.sinks = Some(factor(b)?);
        at = s;
    }
    loop {
        match node(at) {
            Term::Bias([s, b]) => {
                n.steps.push(Step::Bias(leaf_ref(best, *b)?));
                at = s;
            }
            Term::Keep([s, c]) => {
                n.steps.push(Step::Keep(leaf_ref(best, *c)?));
                at = s;
            }
            Term::Replace([s, c, f]) => {
                let f = number(f).ok_or("a fill is no number")?;
                n.steps.push(Step::Replace(leaf_ref(best, *c)?, f));
                at = s;
            }
            Term::Floor([s, f]) => {
                n.steps.push(Step::Floor(number(f).ok_or("a least score is no number")?));
                at = s;
            }
            Term::Cap([s, c]) if matches!(node(s), Term::Scores(_)) => {
                n.softcap = number(c).ok_or("a softcap is no number")?;
                at = s;
            }
            Term::Scores([q, k, s]) => {
                n.scale = number(s).filter(|s| s.is_finite()).ok_or("the scale is no finite number")?;
                let mut q = q;
                while let Term::Scaled([of, m]) = node(q) {
                    n.on_q.push(leaf_ref(best, *m)?);
                    q = of;
                }
                let bare = [(q, region::Q, "Q"), (k, region::K, "K")];
                for (id, leaf, name) in bare {
                    if *node(id) != Term::Leaf(leaf) {
                        return Err(format!("{} on {name} is no scale", name_of(node(id))));
                    }
                }
                n.steps.reverse();
                return Ok(n);
            }
            other => return Err(format!("{} of the scores is not understood", name_of(other))),
        }
    }
}

fn name_of(t: &Term) -> String {
    t.to_string().trim_start_matches("op:").to_owned()
}

/// The innermost operation that is not of the normal form although what it reads is.
fn obstacle(best: &RecExpr<Term>) -> String {
    let done = |t: &Term| matches!(t, Term::Softmax(_) | Term::Loose(_) | Term::ZeroEmpty(_));
    for node in best.as_ref() {
        let child = |id: &Id| &best[*id];
        match node {
            Term::Add([a, b]) | Term::Max([a, b]) if matches!(child(a), Term::RowSum(_)) => {
                let does = if matches!(node, Term::Add(_)) { "has added to it" } else { "is at least" };
                return format!(
                    "the sum of exp {does} {}, beside which it is not proved to be large: the probabilities need not add up to 1",
                    name_of(child(b))
                );
            }
            Term::Log([a]) if matches!(child(a), Term::RowSum([e]) if matches!(child(e), Term::Exp(_))) => {
                return "the logarithm of a sum of exp is subtracted, and the largest score is not known to have been taken from all before: \
                        where the sum overflows that makes zeros, not a softmax"
                    .into();
            }
            Term::Mul([a, b]) if matches!((child(a), child(b)), (Term::Exp(_), Term::Leaf(_))) => {
                return format!("exp is multiplied by {}, which is not known to be 0 or 1", child(b));
            }
            _ => {}
        }
    }
    // What a softmax is made of stands in the way only if nothing else does.
    let part = |t: &Term| {
        matches!(t, Term::RowMax(_) | Term::RowMaxOrZero(_) | Term::Sub(_) | Term::Exp(_) | Term::RowSum(_))
    };
    let (parts, others): (Vec<&Term>, Vec<&Term>) = best.as_ref().iter().partition(|t| part(t));
    for node in others.into_iter().chain(parts) {
        let over = |f: &dyn Fn(&Term) -> bool| node.children().iter().any(|c| f(&best[*c]));
        let by_leaf = |x: &Id| match &best[*x] {
            Term::Leaf(l) => Some(*l),
            _ => None,
        };
        if let Term::Mul([a, b]) | Term::Div([a, b]) = node
            && best[*a].is_normal_scores()
            && let Some(l) = by_leaf(b)
        {
            return format!("the scale is not one number, but {l}");
        }
        if !node.is_normal_scores() && !done(node) && over(&Term::is_normal_scores) {
            let plain = over(&|t| matches!(t, Term::Scores(_) | Term::Cap(_)));
            let what = if plain { "scores" } else { "masked scores" };
            return format!("{} of the {what} is not understood", name_of(node));
        }
        match node {
            Term::Mul([a, b]) if done(&best[*a]) && by_leaf(b).is_some() => {
                return format!(
                    "the probabilities are multiplied by {}, one number for each query and key: they would have to be held whole",
                    best[*b]
                );
            }
            Term::Where([c, ..]) if over(&done) && by_leaf(c).is_some() => {
                return format!(
                    "the probabilities are chosen by {}, which is not known to be their mask: they would have to be held whole",
                    best[*c]
                );
            }
            _ => {}
        }
        if !matches!(node, Term::Pv(_)) && over(&done) {
            return format!("{} of the probabilities is not understood", name_of(node));
        }
    }
    "no rule leads from QKᵀ to PV".into()
}

fn leaf_ref(best: &RecExpr<Term>, id: Id) -> Result<LeafRef, String> {
    let mut ops = vec![];
    let mut at = id;
    let leaf = loop {
        match &best[at] {
            Term::Leaf(l) if l.0 > region::V.0 => break *l,
            Term::Not([x]) => {
                ops.push(LeafOp::Not);
                at = *x;
            }
            Term::Neg([x]) => {
                ops.push(LeafOp::Neg);
                at = *x;
            }
            Term::Nonzero([x]) => {
                ops.push(LeafOp::Nonzero);
                at = *x;
            }
            Term::Reciprocal([x]) => {
                ops.push(LeafOp::Reciprocal);
                at = *x;
            }
            Term::Only([x, c]) => {
                ops.push(LeafOp::Only(Box::new(leaf_ref(best, *c)?)));
                at = *x;
            }
            Term::Times([x, n]) if matches!(best[*n], Term::Number(_)) => {
                if let Term::Number(n) = best[*n] {
                    ops.push(LeafOp::Times(n.get()));
                }
                at = *x;
            }
            other => return Err(format!("{} on a mask or bias is not understood", name_of(other))),
        }
    };
    ops.reverse();
    Ok(LeafRef { leaf, ops })
}

/// The rules on the way from the region's term to its normal form, each once, with how often it was used.
fn explain(runner: &mut Runner<Term, Facts>, from: &RecExpr<Term>, to: &RecExpr<Term>) -> Vec<Applied> {
    let mut explanation = runner.explain_equivalence(from, to);
    let mut names: Vec<String> = vec![];
    for flat in explanation.make_flat_explanation() {
        let mut stack: Vec<&FlatTerm<Term>> = vec![flat];
        while let Some(t) = stack.pop() {
            names.extend([&t.forward_rule, &t.backward_rule].into_iter().flatten().map(|s| s.to_string()));
            stack.extend(t.children.iter().rev());
        }
    }
    let mut applied: Vec<Applied> = vec![];
    for name in names {
        let Some(rule) = RULES.iter().find(|r| r.name == name) else { continue };
        if !applied.iter().any(|a| a.rule == rule.name) {
            applied.push(Applied { rule: rule.name, what: rule.what.to_owned(), numerics: rule.numerics });
        }
    }
    applied
}
