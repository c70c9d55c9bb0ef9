//! Numbers of operations and values of a graph.

use petgraph::stable_graph::NodeIndex;

/// An operation of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub(super) NodeIndex);

impl OpId {
    /// A small number, unique in its graph; numbers of removed operations may come back.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A value of a graph: one result of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// The operation that makes it.
    pub op: OpId,
    /// Which of its results.
    pub port: usize,
}
