//! Why something of NCCL could not be done.

use crate::exec::cuda::error::CudaError;

/// Why something of NCCL could not be done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NcclError {
    /// The library is not there, or is older than what is called; or the driver's.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The library refused, or a communicator failed meanwhile.
    #[error("{what}: {code}{}", said(.message))]
    Call {
        /// What was asked of it.
        what: &'static str,
        /// NCCL's name of the error.
        code: String,
        /// What it says besides; may be empty.
        message: String,
    },
    /// The communicator was given up, or another rank failed.
    #[error("{0}")]
    Over(String),
    /// Other ranks, or the library, take too long.
    #[error(
        "rank {rank} waits for {what}, for {patience:?}: are all ranks started, and can they reach each other? Or let them (--patience)"
    )]
    Late {
        /// Who waits.
        rank: usize,
        /// For what.
        what: &'static str,
        /// How long.
        patience: std::time::Duration,
    },
    /// The process is one of another number of ranks than the program has.
    #[error(
        "{size} processes were started, and the program is of {ranks} ranks: start as many (annulus launch -n {ranks}), or say --ranks {size}"
    )]
    Ranks {
        /// How many were started.
        size: usize,
        /// How many the program has.
        ranks: usize,
    },
    /// The communicator of a host is none that the ranks can use.
    #[error("the host's communicator {0}")]
    Foreign(String),
    /// What a program sends cannot be told NCCL.
    #[error("rank {rank}, group {group}: {why}")]
    Program {
        /// The rank.
        rank: usize,
        /// The group's number.
        group: usize,
        /// What is wrong.
        why: String,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(", {message}") }
}
