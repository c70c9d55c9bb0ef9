//! Why a search finds no schedule.

use crate::ring::RingError;

/// Why no schedule is chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// An attention cannot be split as asked.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No choice keeps within the memory that is allowed.
    #[error(
        "the island of {island} needs {needed} bytes on a rank ({choice}), and {allowed} are allowed: allow as many, or take more ranks"
    )]
    Memory {
        /// Name of the island.
        island: String,
        /// Bytes that are allowed.
        allowed: usize,
        /// The least that any choice needs.
        needed: usize,
        /// That choice.
        choice: String,
    },
}
