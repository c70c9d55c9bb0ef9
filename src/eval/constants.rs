//! Values known without inputs: what shape arithmetic and masks come to.

use super::precision::Precision;
use super::run::apply;
use crate::ir::{Graph, Op, OpId, RegionKind, Tensor, Type, ValueId};
use std::collections::{HashMap, HashSet};

/// Values that depend on constants alone, evaluated once and kept.
///
/// The memo holds for one graph while it grows ([`Graph::add`], [`Graph::input`], [`Graph::weight`], [`Graph::output`]).
/// After [`Graph::replace`] or [`Graph::remove_dead`], or for another graph, make a new one: what was already asked for is
/// not looked at again. As a safeguard, an operation that is found with other operands or another name than
/// when it was first asked for empties the memo.
#[derive(Debug, Default)]
pub(crate) struct Constants {
    known: HashMap<OpId, Known>,
    /// Inputs whose values are given.
    bound: HashMap<OpId, Tensor>,
}

/// What is known of an operation.
#[derive(Debug)]
struct Known {
    /// Name of the first result and operands, to notice another graph.
    name: String,
    operands: Vec<ValueId>,
    /// The most elements that a value has on the way, results included; `None` if no evaluation can know the results.
    peak: Option<usize>,
    /// The results, once they were asked for.
    results: Option<Vec<Tensor>>,
}

impl Constants {
    /// These inputs count as constants of these values.
    pub(crate) fn bound(inputs: impl IntoIterator<Item = (ValueId, Tensor)>) -> Constants {
        let bound = inputs.into_iter().map(|(v, t)| (v.op, t)).collect();
        Constants { known: HashMap::new(), bound }
    }

    /// These operations are no longer those that were asked for.
    #[cfg(feature = "onnx")]
    pub(crate) fn forget(&mut self, gone: &[OpId]) {
        for id in gone {
            self.known.remove(id);
        }
    }

    /// The value if it depends on constants with data alone and has at most `limit` elements, also on the way to it
    /// (the scores of an attention count). An operation that fails gives `None`, and so do regions and transfers.
    ///
    /// A refusal because of one limit does not outlast a call with a higher one.
    pub(crate) fn value(&mut self, graph: &Graph, v: ValueId, limit: usize) -> Option<Tensor> {
        graph.get(v)?;
        if self.known.get(&v.op).is_some_and(|k| !k.describes(graph, v.op)) {
            self.known.clear();
        }
        self.classify(graph, v.op);
        self.known.get(&v.op)?.peak.filter(|&p| p <= limit)?;
        self.evaluate(graph, v.op);
        self.known.get(&v.op)?.results.as_ref()?.get(v.port).cloned()
    }

    /// Finds [`Known::peak`] of an operation and all that it depends on, from types alone.
    fn classify(&mut self, graph: &Graph, op: OpId) {
        let mut stack = vec![(op, false)];
        let mut open = HashSet::new();
        while let Some((id, ready)) = stack.pop() {
            if self.known.contains_key(&id) {
                continue;
            }
            let operands = graph.operands(id);
            if !ready {
                if !open.insert(id) {
                    // Among its own operands: a faulty change made a cycle, of which nothing is known.
                    continue;
                }
                stack.push((id, true));
                stack.extend(operands.iter().map(|v| (v.op, false)));
                continue;
            }
            let peak = operands.iter().fold(own(graph, id, &operands, &self.bound), |peak, v| {
                peak.zip(self.known.get(&v.op).and_then(|k| k.peak)).map(|(a, b)| a.max(b))
            });
            let name = first_name(graph, id);
            self.known.insert(id, Known { name, operands, peak, results: None });
        }
    }

    /// Evaluates an operation that is known to depend on constants alone, and first what it depends on.
    fn evaluate(&mut self, graph: &Graph, op: OpId) {
        let mut stack = vec![(op, false)];
        while let Some((id, ready)) = stack.pop() {
            let Some(known) = self.known.get(&id) else { continue };
            if known.results.is_some() || known.peak.is_none() {
                continue;
            }
            let operands = graph.operands(id);
            if !ready {
                stack.push((id, true));
                stack.extend(operands.iter().map(|v| (v.op, false)));
                continue;
            }
            let operand = |v: &ValueId| self.known.get(&v.op)?.results.as_ref()?.get(v.port).cloned();
            let operands: Option<Vec<Tensor>> = operands.iter().map(operand).collect();
            let results = match self.bound.get(&id) {
                Some(value) => Some(vec![value.clone()]),
                None => operands.and_then(|x| apply(graph.op(id), &x, Precision::Declared).ok()),
            };
            if let Some(known) = self.known.get_mut(&id) {
                // What fails, and what depends on it, cannot be known.
                known.peak = known.peak.filter(|_| results.is_some());
                known.results = results;
            }
        }
    }
}

impl Known {
    fn describes(&self, graph: &Graph, id: OpId) -> bool {
        self.name == first_name(graph, id) && self.operands == graph.operands(id)
    }
}

fn first_name(graph: &Graph, id: OpId) -> String {
    graph.results(id).first().map_or_else(String::new, |&v| graph.value(v).name.clone())
}

/// The most elements that the operation itself has to do with; `None` if it needs more than constants.
fn own(graph: &Graph, id: OpId, operands: &[ValueId], bound: &HashMap<OpId, Tensor>) -> Option<usize> {
    let results = graph.results(id);
    let largest = results.iter().map(|&v| graph.ty(v).elements()).max().unwrap_or(0);
    let score = |q: &Type, k: &Type| match (&q.shape[..], &k.shape[..]) {
        (&[b, h, i, _], &[_, _, j, _]) => [b, h, i, j].iter().fold(1usize, |n, &e| n.saturating_mul(e)),
        _ => usize::MAX,
    };
    match graph.op(id) {
        Op::Input(_) if bound.contains_key(&id) => Some(largest),
        Op::Input(_)
        | Op::Opaque(_)
        | Op::Start(..)
        | Op::Wait
        | Op::Unshard { .. }
        | Op::AllReduce { .. }
        | Op::Call { .. } => None,
        Op::Region(RegionKind::Segment | RegionKind::Island { .. }, _) => None,
        Op::Constant(c) if c.data.is_none() => None,
        Op::Attention(_) | Op::AttentionBackward(_) | Op::Partial(_) => {
            let (q, k) = (operands.first()?, operands.get(1)?);
            Some(largest.max(score(graph.ty(*q), graph.ty(*k))))
        }
        _ => Some(largest),
    }
}
