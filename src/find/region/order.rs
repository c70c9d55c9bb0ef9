//! What is known about the graph before anything is rewritten.

use crate::ir::{Graph, Op, OpId, ValueId};
use std::collections::{HashMap, HashSet};

/// What is known about the graph before anything is rewritten.
pub(crate) struct Order {
    place: HashMap<OpId, usize>,
    live: HashSet<OpId>,
    dynamic: HashSet<OpId>,
}

impl Order {
    /// Looks at every operation once.
    pub(crate) fn new(graph: &Graph) -> Order {
        let ops = graph.ops();
        let mut dynamic = HashSet::new();
        for &id in &ops {
            let input = matches!(graph.op(id), Op::Input(_));
            if input || graph.operands(id).iter().any(|v| dynamic.contains(&v.op)) {
                dynamic.insert(id);
            }
        }
        let mut live = HashSet::new();
        let mut stack: Vec<OpId> = graph.outputs().iter().map(|o| o.value.op).collect();
        while let Some(id) = stack.pop() {
            if live.insert(id) {
                stack.extend(graph.operands(id).iter().map(|v| v.op));
            }
        }
        Order { place: ops.into_iter().enumerate().map(|(i, id)| (id, i)).collect(), live, dynamic }
    }

    /// Whether a value depends on an input.
    pub(crate) fn is_dynamic(&self, v: ValueId) -> bool {
        self.dynamic.contains(&v.op)
    }

    /// Whether a value depends on an input; of values added since, it is taken for granted.
    pub(crate) fn is_known_dynamic(&self, v: ValueId) -> bool {
        !self.place.contains_key(&v.op) || self.is_dynamic(v)
    }

    /// Whether an output needs it.
    pub(crate) fn is_live(&self, id: OpId) -> bool {
        self.live.contains(&id)
    }

    /// Place in the topological order.
    pub(crate) fn place(&self, id: OpId) -> Option<usize> {
        self.place.get(&id).copied()
    }

    /// Whether both were there from the start, and `a` comes first.
    pub(crate) fn before(&self, a: OpId, b: OpId) -> bool {
        matches!((self.place.get(&a), self.place.get(&b)), (Some(a), Some(b)) if a < b)
    }
}
