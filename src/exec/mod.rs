//! exec: runs programs. [`cpu`] runs every rank in one process; [`cuda`] compiles and launches kernels; [`libraries`] knows
//! where the libraries of CUDA may lie.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod libraries;
