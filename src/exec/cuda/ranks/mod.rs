//! ranks: the ranks of islands on one GPU.
//!
//! In: a schedule, and the arguments of every rank. Out: results of every rank. [`Island`] lowers, takes memory, and runs; [`Kernels`] are
//! what programs share, [`OnGpu`] runs a whole program whose islands are on the GPU. Each rank has a stream for kernels and one of higher priority for each axis of the mesh; messages are copies
//! on the receiver's stream, ordered by events. Nothing of it compares with a run on as many GPUs but the results.

mod graph;
mod island;
mod loaded;
mod rank;
mod run;

pub use island::{Given, Island, IslandError, RunOptions};
pub use loaded::Kernels;
pub use run::OnGpu;
