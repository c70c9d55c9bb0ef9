//! ranks: the ranks of islands on one GPU.
//!
//! In: a schedule, and the arguments of every rank. Out: results of every rank. A [`Part`] is one rank as a host embeds it: it is told a
//! [`Call`], raw pointers and the host's stream; [`enqueue_all`] tells all ranks from one thread. [`Island`] is all parts with memory of
//! its own, [`Kernels`] are what programs share, [`OnGpu`] runs a whole program whose islands are on the GPU. [`Alone`] is one rank whose
//! messages come at the pace of a link, to be timed. Each rank has a stream for kernels and one of higher priority for each axis of the
//! mesh; messages are copies on the receiver's stream, ordered by events. Nothing of it compares with a run on as many GPUs but the results.

mod alone;
mod call;
mod copies;
mod error;
mod graph;
mod host;
mod island;
mod loaded;
mod part;
mod prepared;
mod rank;
mod run;
mod shared;
mod together;

pub use alone::{Alone, Wire};
pub use call::{ALIGNMENT, Call, CallError, Place};
pub use error::IslandError;
pub use island::{Given, Island, RunOptions};
pub use loaded::Kernels;
pub use part::Part;
pub use run::OnGpu;
pub use together::{Told, enqueue_all};
