//! Which operations a region holds, and that none of their results is read from outside.

use super::builder::Builder;
use super::types::{Fail, label, miss};
use crate::ir::OpId;
use std::collections::{HashSet, VecDeque};

/// Most operations of a region.
const REGION_LIMIT: usize = 64;

impl Builder<'_> {
    /// An operation and those before the region's end that depend on it.
    pub(super) fn after(&self, id: OpId) -> HashSet<OpId> {
        let graph = self.graph;
        let mut after = HashSet::from([id]);
        let mut queue = VecDeque::from([id]);
        while let Some(id) = queue.pop_front() {
            for (user, _) in graph.results(id).into_iter().flat_map(|v| graph.uses(v)) {
                if (user == self.last || self.order.before(user, self.last)) && after.insert(user) {
                    queue.push_back(user);
                }
            }
        }
        after
    }

    /// Operations that depend on QKᵀ and on which the region's end depends, in topological order.
    pub(super) fn interior(&self, qk: OpId, last: OpId) -> Result<Vec<OpId>, Fail> {
        let graph = self.graph;
        let after = self.after(qk);
        let mut inside: HashSet<OpId> = HashSet::new();
        let mut stack: Vec<OpId> = graph.operands(last).iter().map(|v| v.op).collect();
        while let Some(id) = stack.pop() {
            if after.contains(&id) && inside.insert(id) && id != qk {
                stack.extend(graph.operands(id).iter().map(|v| v.op));
            }
        }
        if inside.len() > REGION_LIMIT {
            return miss(format!(
                "more than {REGION_LIMIT} operations lie between QKᵀ and the product with V"
            ));
        }
        let mut list: Vec<OpId> = inside.into_iter().collect();
        list.sort_unstable_by_key(|id| (self.order.place(*id), *id));
        Ok(list)
    }

    pub(super) fn nothing_escapes(&self, interior: &[OpId], last: OpId) -> Result<(), Fail> {
        let graph = self.graph;
        for &id in interior {
            let what = match id {
                _ if id == self.nodes[1] => "the probabilities",
                _ if id == self.nodes[2] => "the products with V before their division",
                _ => "the scores",
            };
            for v in graph.results(id) {
                if graph.is_output(v) {
                    return miss(format!(
                        "{what} ({}) are an output of the graph and would have to be held whole, which an attention never does; remove that output",
                        graph.value(v).name
                    ));
                }
                for (user, _) in graph.uses(v) {
                    if user != last && !interior.contains(&user) && self.order.is_live(user) {
                        let name = label(graph, user);
                        return miss(format!(
                            "{what} ({}) are also read by {name} and would have to be held whole, which an attention never does; remove that use",
                            graph.value(v).name
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
