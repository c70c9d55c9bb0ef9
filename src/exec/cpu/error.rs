//! The error of a run.

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rank {rank}, {at}: {why}")]
#[non_exhaustive]
pub struct ExecError {
    /// The rank that failed first.
    pub rank: usize,
    /// Where: the segment or the island and its step.
    pub at: String,
    /// What is wrong.
    pub why: String,
}
