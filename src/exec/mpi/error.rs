//! Why something of MPI could not be done.

use crate::exec::group::Disagreement;

/// Why something of MPI could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// The library is not there, or is none.
    #[error("libmpi_abi is not available: {reason}; what to do: {remedy}")]
    Unavailable {
        /// What was tried.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The library refused.
    #[error("{what}: {message}")]
    Call {
        /// What was asked of it.
        what: &'static str,
        /// What it says.
        message: String,
    },
    /// The process is one of another number of ranks than the program has.
    #[error(
        "{size} processes were started, and the program is of {ranks} ranks: start as many (mpiexec -n {ranks}), or say --ranks {size}"
    )]
    Ranks {
        /// How many were started.
        size: usize,
        /// How many the program has.
        ranks: usize,
    },
    /// Other ranks did not come.
    #[error(
        "rank {rank} waits for {what} from rank {peer}, for {patience:?}: if that one only computes for longer, let it (--patience)"
    )]
    Late {
        /// Who waits.
        rank: usize,
        /// For whom.
        peer: usize,
        /// For what.
        what: &'static str,
        /// How long.
        patience: std::time::Duration,
    },
    /// A message of another length than is waited for.
    #[error("rank {rank}: {got} bytes came from rank {peer}, and {wanted} are waited for")]
    Length {
        /// Who received it.
        rank: usize,
        /// Who sent it.
        peer: usize,
        /// How many came.
        got: usize,
        /// How many should have.
        wanted: usize,
    },
    /// Another rank failed, and says why.
    #[error("rank {rank} failed: {why}")]
    Failed {
        /// Who.
        rank: usize,
        /// Why.
        why: String,
    },
    /// Ranks do not run the same.
    #[error(transparent)]
    Disagree(#[from] Disagreement),
    /// What came from a rank is nothing that this version says.
    #[error("what came from rank {rank} is no message of this version of annulus")]
    Garbled {
        /// Which.
        rank: usize,
    },
}
