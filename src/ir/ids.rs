//! Numbers of operations and values of a graph.

use petgraph::stable_graph::NodeIndex;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whose ids these are: a graph, and every clone of it. Two graphs that were begun apart have no id in common, as long as fewer
/// than 2^32 are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Origin(u32);

impl Origin {
    /// One that no graph before it has.
    pub(super) fn fresh() -> Origin {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Origin(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An operation of a graph. It is one of the graph's clones too, and of no other graph: that knows it as foreign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId {
    pub(super) origin: Origin,
    pub(super) node: NodeIndex,
}

impl OpId {
    /// A small number, unique in its graph; numbers of removed operations may come back.
    pub fn index(self) -> usize {
        self.node.index()
    }
}

/// By its number alone, which is the same in every run.
impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpId({})", self.index())
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
