//! The error of the room.

use crate::layout::LayoutKind;

/// Why a graph could not be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// An input cannot be handed out by rows.
    #[error("input {name} cannot be handed out along axis {axis}: {why}")]
    Input {
        /// Its name.
        name: String,
        /// The axis that was named.
        axis: usize,
        /// Why not.
        why: String,
    },
    /// A promise about an operator does not fit.
    #[error("--rowwise {promise}: {why}")]
    Rowwise {
        /// As the command line takes it.
        promise: String,
        /// Why not.
        why: String,
    },
    /// The layout that was asked for does not apply.
    #[error("layout {kind} does not apply: {why}")]
    Layout {
        /// Its name.
        kind: LayoutKind,
        /// Why not.
        why: String,
    },
    /// There is no such rank.
    #[error("there is no rank {rank}: there are {ranks}, numbered from 0")]
    Rank {
        /// The rank that was named.
        rank: usize,
        /// How many there are.
        ranks: usize,
    },
    /// A graph is wanted of a segment that is not local.
    #[error("there is no local segment {segment}")]
    Segment {
        /// Its place in the order.
        segment: usize,
    },
    /// The graph of an island does not fit the program.
    #[error("{at}: {why}")]
    Island {
        /// The attention.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// What the split relies on does not hold. It is a fault of annulus, whatever the graph.
    #[error(
        "internal fault at {at}: {why}; annulus is at fault, not the graph: please report it with the graph and the options"
    )]
    Fault {
        /// The operation or value, by the name of its result.
        at: String,
        /// What does not hold.
        why: String,
    },
}

impl ShardError {
    /// A fault of annulus.
    pub(super) fn fault(at: &str, why: impl Into<String>) -> ShardError {
        ShardError::Fault { at: at.to_owned(), why: why.into() }
    }
}
