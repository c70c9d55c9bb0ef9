//! Why ranks on a GPU could not be made ready, told, or run.

use super::call::CallError;
use crate::exec::cuda::error::CudaError;
use crate::exec::cuda::nccl::NcclError;
use crate::exec::walk::WalkError;
use crate::lower::program::LowerError;

/// Why an island did not run on a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IslandError {
    /// A step that no kernel computes.
    #[error("no GPU kernel: {0}")]
    Lower(#[from] LowerError),
    /// Of CUDA.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// Of NCCL, or of the other processes.
    #[error(transparent)]
    Nccl(#[from] NcclError),
    /// It did not run to its end.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// There are no kernels for the GPU.
    #[error("there are no kernels for this GPU ({0}): run with the CPU backend")]
    Arch(String),
    /// It does not fit.
    #[error(
        "the {ranks} ranks of {island} need {wanted} bytes of device memory, {most} of them rank {largest}, and {free} are free: take fewer ranks, another strategy, or --backend cpu"
    )]
    Memory {
        /// The island.
        island: String,
        /// How many ranks.
        ranks: usize,
        /// Bytes of all.
        wanted: usize,
        /// Of the rank that needs most, and which it is.
        most: usize,
        /// See `most`.
        largest: usize,
        /// How many bytes are free.
        free: usize,
    },
    /// What is handed over is not what the island takes.
    #[error("rank {rank}: argument {argument} has {bytes} bytes, and the island takes {wanted}")]
    Argument {
        /// The rank.
        rank: usize,
        /// Its number.
        argument: usize,
        /// How many it has.
        bytes: usize,
        /// How many it should have.
        wanted: usize,
    },
    /// The device takes too long.
    #[error("{}the device is not done after {patience:?}: wait longer (--patience), or see what else runs there", match late {
        Some((rank, stream)) => format!("rank {rank}, stream {stream}: "),
        None => String::new(),
    })]
    Late {
        /// A rank that is not done, and the name of its stream, where they are told one by one.
        late: Option<(usize, String)>,
        /// How long it had.
        patience: std::time::Duration,
    },
    /// As many ranks are handed over as there are.
    #[error("{got} ranks are handed over, and the island has {wanted}, each with {arguments} arguments")]
    Ranks {
        /// How many came.
        got: usize,
        /// How many there are.
        wanted: usize,
        /// Of each.
        arguments: usize,
    },
    /// A call that the rank cannot take. Nothing of it was enqueued.
    #[error("rank {rank}: {why}")]
    Call {
        /// The rank.
        rank: usize,
        /// What is wrong with it.
        why: CallError,
    },
    /// The parts are not those of one island, each once and in the order of ranks. Nothing was enqueued.
    #[error("{got} parts are handed over: wanted are all {wanted} of one island, each once, rank 0 first")]
    Parts {
        /// How many came.
        got: usize,
        /// How many ranks the island has.
        wanted: usize,
    },
    /// A call of some rank failed. Nothing was enqueued, and nothing will be before all parts begin anew.
    #[error("a call before failed, and all ranks must begin anew: {0}")]
    GivenUp(String),
}
