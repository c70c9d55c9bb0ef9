//! Numbers of operations and values of a graph.

use petgraph::stable_graph::NodeIndex;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

/// Whose ids these are: a graph, and every clone of it. Two graphs that were begun apart have no id in common, as long as fewer
/// than 2^32 are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin(u32);

impl Origin {
    /// One that no graph before it has.
    pub(super) fn fresh() -> Origin {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Origin(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An operation of a graph. It is one of the graph's clones too, and of no other graph: that knows it as foreign.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// Of one graph in the order of their numbers.
impl Ord for OpId {
    fn cmp(&self, other: &OpId) -> std::cmp::Ordering {
        let key = |id: &OpId| (u64::from(id.origin.0) << 32) | id.node.index() as u64;
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for OpId {
    fn partial_cmp(&self, other: &OpId) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// By its number alone: ids of several graphs seldom meet in one map.
impl Hash for OpId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.node.hash(state);
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
