//! cuda: compiles kernels and launches them on a GPU.
//!
//! In: texts and keys of [`crate::lower`]. Out: machine code, buffers on the device, launches and their times. Invariants: this is
//! the only room with unsafe code; no function of CUDA is called before its library was found and loaded, for cudarc panics
//! where one is missing; whatever reaches a kernel was checked against the buffers that it points into.

#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, unsafe_op_in_unsafe_fn)]

mod around;
mod attention;
mod gpu;
mod nvrtc;
mod probe;
mod ranges;

pub use around::{FinishStep, HelperKernel, Runs};
pub use attention::{KvRows, Place, QRows, Step, Tensor};
pub use gpu::{Buffer, Gpu, Kernel};
pub use nvrtc::{Code, Compiled, Source, code, compile, version as nvrtc_version};

/// What can be loaded here: each library of [`super::libraries`] by name with its version, or why it does not load.
pub fn versions() -> [(&'static str, Result<String, CudaError>); 3] {
    let driver = gpu::driver_version().map(|v| format!("{}.{}", v / 1000, v % 1000 / 10));
    let nvrtc = nvrtc::version().map(|(major, minor)| format!("{major}.{minor}"));
    let nccl = probe::nccl().map(|v| format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100));
    [("libcuda", driver), ("libnvrtc", nvrtc), ("libnccl", nccl)]
}

/// Why something of CUDA could not be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CudaError {
    /// A library is not there, or does not load.
    #[error("{library} is not available: {reason}")]
    Unavailable {
        /// `libcuda`.
        library: &'static str,
        /// What was tried.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The driver refused.
    #[error("{what}: {message}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// What it says.
        message: String,
    },
    /// A kernel does not compile: a fault of annulus.
    #[error("{kernel} does not compile for {arch}:\n{log}")]
    Compile {
        /// Entry point.
        kernel: String,
        /// Architecture.
        arch: &'static str,
        /// The compiler's log, as it is.
        log: String,
    },
    /// A launch that would read or write outside of its buffers.
    #[error("launch refused: {0}")]
    Launch(String),
}
