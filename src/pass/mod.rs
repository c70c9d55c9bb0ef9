//! pass: the whole way as one function, a line a stage, and each stage's result verified.
//!
//! In: a graph, and what is asked. Out: the graph split over the ranks with a proved schedule for each distinct island, or why not;
//! the graph is left as it was.
//!
//! Invariants: the pass only calls the rooms, in their order, and decides nothing itself. What a stage gives is verified before the
//! next one reads it.

mod compiled;
mod error;
#[cfg(any(feature = "cuda", feature = "mpi"))]
mod facts;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod gpu;
#[cfg(all(feature = "mpi", target_os = "linux"))]
mod mpi;
mod options;
mod path;
mod verified;

pub use compiled::{Compiled, Island};
pub use error::Error;
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub use gpu::{join_on_gpu, prepare_on_gpu, prepare_process_on_gpu, run_on_gpu};
#[cfg(all(feature = "mpi", target_os = "linux"))]
pub use mpi::run_over_mpi;
pub use options::Options;
pub use path::{compile, find_attentions, run, run_watched};
