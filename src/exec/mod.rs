//! exec: runs programs. [`cpu`] runs every rank in one process; [`walk`] runs device programs; `cuda` compiles and launches kernels, `cache`
//! keeps what was compiled; `mpi` has one rank a process; `libraries` knows where the libraries of both may lie. In [`group`]
//! ranks that are processes of their own find each other; in [`flight`] those that fail leave what they did last.

#[cfg(all(any(feature = "cli", feature = "cuda"), target_os = "linux"))]
pub mod cache;
pub mod cpu;
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub mod cuda;
pub mod flight;
pub mod group;
#[cfg(any(feature = "cli", feature = "cuda", feature = "mpi"))]
pub mod libraries;
#[cfg(all(feature = "mpi", target_os = "linux"))]
pub mod mpi;
pub mod walk;
