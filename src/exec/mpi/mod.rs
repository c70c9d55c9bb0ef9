//! mpi: one rank a process, over the message passing interface, where there is no GPU.
//!
//! In: a program and its schedules, the same in every process. Out: whole outputs, in every process. Nothing is needed to build: the
//! library is looked up at run, by MPI's standard binary interface (MPI 5.0, chapter 20; MPICH from 5, Open MPI from 6). Invariants: every wait has a
//! deadline, but for those of MPI's own begin and end, which wait for all processes; before the first message all ranks agree on what they run; a rank that fails tells the others why, and then ends the job; messages
//! have as many bytes as both sides say.

#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, unsafe_op_in_unsafe_fn)]

mod calls;
mod error;
mod library;
mod message;
mod ranks;
mod transport;
mod world;

pub use error::MpiError;
pub use ranks::OverMpi;
pub use world::World;
