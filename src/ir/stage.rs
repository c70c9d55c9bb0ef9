//! Stages: which operations a graph may hold where it stands on its way from a model to what a rank runs.
//!
//! A graph is of one type at every stage, so that it is printed, parsed and evaluated alike. What tells the stages apart is
//! which operations are legal: one that a later stage makes is an error before it. This table is the only place that says so;
//! [`verify_at`](super::verify::verify_at) reads it.
//!
//! | stage | made by | model | attention | rows | island | program | call |
//! |---|---|---|---|---|---|---|---|
//! | import | an importer, a text, a builder | yes | yes | | | | |
//! | find | `find`, and kept by `shard` | yes | yes | | | | |
//! | segment | `shard`: a rank's work between gathers and islands | yes | yes | yes | | | |
//! | ring | `ring`: a rank's part of one attention | layout alone | | yes | yes | | |
//! | rank | `shard`: the printed program of a rank | | | yes | | yes | |
//! | hand back | `host`: what the host of a rank runs | yes | yes | yes | | | yes |
//!
//! Attention that cannot be split stays whole, and stands in a segment. The graphs of regions are at stages of their own:
//! [`Stage::of_region`].

use super::op::{Op, RegionKind};
use std::fmt;

/// Where a graph stands on its way from a model to what a rank runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// A model as it comes in.
    Import,
    /// The model with every attention that was found as one node; the graph of a [`Program`](crate::shard::Program) as well.
    Find,
    /// A rank's work between two gathers or islands.
    Segment,
    /// A rank's part of one attention.
    Ring,
    /// The printed program of a rank: segments, gathers, reduces and islands.
    Rank,
    /// The graph that the host of a rank runs, in which what is split is a call.
    HandBack,
}

/// What an operation is, as far as stages are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Inputs and constants, which every graph may hold.
    Source,
    /// Moves elements and changes none.
    Layout,
    /// Computes, as models do.
    Model,
    /// Attention as one node.
    Attention,
    /// A rank's rows of a whole value.
    Rows,
    /// A part of an island: chunks, transfers, partial results, merges.
    Island,
    /// A part of a rank's printed program: segments, islands, gathers, reduces.
    Program,
    /// A call of the host's.
    Call,
}

impl Family {
    fn of(op: &Op) -> Family {
        match op {
            Op::Input(_) | Op::Constant(_) => Family::Source,
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } | Op::Concat { .. } => {
                Family::Layout
            }
            Op::Iota { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Cast(_)
            | Op::Contract(_)
            | Op::Conv { .. }
            | Op::Pool { .. }
            | Op::Reduce { .. }
            | Op::Softmax { .. }
            | Op::Pad { .. }
            | Op::Gather { .. }
            | Op::GatherNd { .. }
            | Op::ScatterNd { .. }
            | Op::CumSum { .. }
            | Op::TopK { .. }
            | Op::Opaque(_) => Family::Model,
            Op::Attention(_) | Op::AttentionBackward(_) => Family::Attention,
            Op::Rows { .. } => Family::Rows,
            Op::Chunk { .. }
            | Op::Start(..)
            | Op::Wait
            | Op::Partial(_)
            | Op::Merge { .. }
            | Op::Finish { .. } => Family::Island,
            Op::Region(..) | Op::Unshard { .. } | Op::AllReduce { .. } => Family::Program,
            Op::Call { .. } => Family::Call,
        }
    }

    /// Where operations of this family come from.
    fn made_by(self) -> &'static str {
        match self {
            Family::Source | Family::Layout | Family::Model | Family::Attention => "a model has it",
            Family::Rows => "it picks the rows of one rank, which `shard` and `ring` decide",
            Family::Island => "it is a part of a rank's island, which `ring` makes",
            Family::Program => "it is a part of a rank's printed program, which `shard` makes",
            Family::Call => "it is a call of a rank's host, which `host` makes",
        }
    }
}

impl Stage {
    /// Every stage, in the order in which a graph passes through them.
    pub const ALL: [Stage; 6] =
        [Stage::Import, Stage::Find, Stage::Segment, Stage::Ring, Stage::Rank, Stage::HandBack];

    /// The name in messages: that of the pass after which a graph is at this stage.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Import => "import",
            Stage::Find => "find",
            Stage::Segment => "shard",
            Stage::Ring => "ring",
            Stage::Rank => "shard",
            Stage::HandBack => "hand back",
        }
    }

    /// Whether a graph at this stage may hold the operation.
    pub fn allows(self, op: &Op) -> bool {
        let family = Family::of(op);
        match self {
            _ if family == Family::Source => true,
            Stage::Import | Stage::Find => {
                matches!(family, Family::Layout | Family::Model | Family::Attention)
            }
            Stage::Segment => {
                matches!(family, Family::Layout | Family::Model | Family::Attention | Family::Rows)
            }
            Stage::Ring => matches!(family, Family::Layout | Family::Rows | Family::Island),
            Stage::Rank => matches!(family, Family::Rows | Family::Program),
            Stage::HandBack => !matches!(family, Family::Island | Family::Program),
        }
    }

    /// Why a graph at this stage may not hold the operation, for a reader who meets it.
    pub(crate) fn refusal(self, op: &Op) -> String {
        let holds = match self {
            Stage::Import => "a model that is read",
            Stage::Find => "a model whose attentions were found",
            Stage::Segment => "a segment of a rank",
            Stage::Ring => "the island of a rank",
            Stage::Rank => "the printed program of a rank",
            Stage::HandBack => "the graph of a rank's host",
        };
        format!("{holds} holds no {}: {}", op.name(), Family::of(op).made_by())
    }

    /// At which stage the graph of a region is.
    pub fn of_region(kind: &RegionKind) -> Stage {
        match kind {
            RegionKind::Segment => Stage::Segment,
            RegionKind::Island { .. } => Stage::Ring,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
