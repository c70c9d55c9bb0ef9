//! The operations of a graph that are not dead, by their place in the order.

use crate::ir::{Graph, Op, OpId, Topology, Type, ValueId};

/// The operations of a graph without the dead ones, by their place in the order, with their operands and readers.
pub(super) struct Live<'a> {
    pub(super) graph: &'a Graph,
    topology: Topology,
    pub(super) operands: Vec<Vec<ValueId>>,
    /// For each operation those that read it, by place, ascending.
    pub(super) users: Vec<Vec<usize>>,
}

impl<'a> Live<'a> {
    pub(super) fn new(graph: &'a Graph) -> Live<'a> {
        let topology = Topology::without_dead(graph);
        let operands = topology.order().iter().map(|&op| graph.operands(op)).collect();
        let users = vec![vec![]; topology.order().len()];
        let mut live = Live { graph, topology, operands, users };
        for i in 0..live.order().len() {
            for slot in 0..live.operands[i].len() {
                let at = live.at(live.operands[i][slot]);
                if live.users[at].last() != Some(&i) {
                    live.users[at].push(i);
                }
            }
        }
        live
    }

    /// The operations, operands first.
    pub(super) fn order(&self) -> &[OpId] {
        self.topology.order()
    }

    /// The place of the operation that makes a value.
    pub(super) fn at(&self, v: ValueId) -> usize {
        self.topology.place(v.op).expect("what is read is not dead")
    }

    pub(super) fn op(&self, i: usize) -> &'a Op {
        self.graph.op(self.order()[i])
    }

    pub(super) fn types(&self, i: usize) -> Vec<&'a Type> {
        self.operands[i].iter().map(|&v| self.graph.ty(v)).collect()
    }

    /// The name of what an operation makes.
    pub(super) fn name(&self, i: usize) -> &'a str {
        &self.graph.value(self.graph.result(self.order()[i])).name
    }

    pub(super) fn out(&self, i: usize) -> &'a Type {
        self.graph.ty(self.graph.result(self.order()[i]))
    }
}
