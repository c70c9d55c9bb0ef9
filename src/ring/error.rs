//! The error of the room.

/// Why an attention is not split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
#[non_exhaustive]
pub struct RingError {
    /// The attention.
    pub at: String,
    /// Why not.
    pub reason: String,
}
