//! cuda: compiles kernels and launches them on a GPU.
//!
//! In: texts and keys of [`crate::lower`]. Out: machine code, buffers on the device, launches and their times. Invariants: this is
//! beside `exec/mpi` the only room with unsafe code; no function of CUDA is called before its library was found and loaded, for cudarc panics
//! where one is missing; whatever reaches a kernel was checked against the buffers that it points into.

#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, unsafe_op_in_unsafe_fn)]

mod aliasing;
mod bounds;
mod current;
mod error;
mod gpu;
mod helpers;
mod launch;
mod maps;
pub mod nccl;
mod nvrtc;
mod paced;
mod params;
mod probe;
pub mod ranks;
mod settle;
mod step;
mod versions;

pub use error::CudaError;
pub use gpu::{Buffer, Gpu, Kernel};
pub use helpers::{FinishStep, HelperKernel, Runs};
pub use nvrtc::{
    Code, CompiledKernel, KernelSource, code, compile, known as nvrtc_knows, matches_driver,
    version as nvrtc_version,
};
pub use step::{AttentionStep, BufferRange, DeviceTensor, KvRows, QRows, StepInput};
pub use versions::{Device, devices, versions};
