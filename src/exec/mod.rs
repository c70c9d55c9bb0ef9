//! exec: runs programs. [`cpu`] runs every rank in one process; [`walk`] runs device programs; [`cuda`] compiles and launches kernels, [`cache`] keeps what was
//! compiled, [`libraries`] knows where the libraries of CUDA may lie.

#[cfg(all(any(feature = "cli", feature = "cuda"), target_os = "linux"))]
pub mod cache;
pub mod cpu;
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub mod cuda;
#[cfg(any(feature = "cli", feature = "cuda"))]
pub mod libraries;
pub mod walk;
