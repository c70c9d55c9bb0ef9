//! annulus: a compiler pass for long-context attention. A graph with scaled-dot-product attention goes in; for each rank
//! of a group of GPUs the program comes out that computes the same result with the sequence split over the ranks.
//!
//! The modules, which these pages call rooms, in the order in which a graph passes through them: [`import`] → [`ir`] → [`find`] →
//! [`shard`] → [`search`], which tries [`ring`] → [`schedule`] → estimate for each strategy and layout → [`check`] → [`lower`] → [`exec`] →
//! [`host`]. [`eval`], [`mask`], [`layout`] and [`device`] serve them, [`dump`] draws. [`compile`] is the whole of it, a line a stage.
//! [`guide`] explains it chapter by chapter, and says how things are added.
//!
//! Order of use: `layout`, `mask`, `ir`, `device`, `eval`, `import`, `find`, `shard`, `ring`, `schedule`, `search`, `check`,
//! `lower`, `exec`, `host`, `pass`, `dump`, `cli`, `guide`. A room uses none that stands behind it; `tests/rooms.rs` sees to it.
//!
//! # Features
//! `onnx` reads ONNX models and test cases, `dump` draws, `cli` is what the binary needs, `cuda` compiles and launches kernels; all
//! are on by default. Without any, the library is the pass, with its text forms, and the executor on the CPU.

// Tests name what they test as everybody does.
#[cfg(test)]
extern crate self as annulus;

pub mod check;
pub mod device;
#[cfg(feature = "dump")]
pub mod dump;
pub mod eval;
pub mod exec;
pub mod find;
pub mod guide;
pub mod host;
#[cfg(feature = "onnx")]
pub mod import;
pub mod ir;
pub mod layout;
pub mod lower;
pub mod mask;
mod pass;
pub mod ring;
pub mod schedule;
pub mod search;
pub mod shard;

#[cfg(test)]
#[path = "../tests/inside/mod.rs"]
mod inside;

#[cfg(all(feature = "mpi", target_os = "linux"))]
pub use pass::run_over_mpi;
pub use pass::{Compiled, Error, Island, Options, compile, find_attentions, run, run_watched};
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub use pass::{join_on_gpu, prepare_on_gpu, prepare_process_on_gpu, run_on_gpu};
pub use search::{Rejected, TIE, label, way};

/// The examples of the README are run as tests.
#[cfg(all(doctest, feature = "onnx"))]
#[doc = include_str!("../README.md")]
struct Readme;
