//! The device program: what each rank's device is told, operation by operation.
//!
//! In: a [`Schedule`](crate::schedule::Schedule) and a [`Target`]. Out: a [`Program`] for each rank, a plain list of launches, copies,
//! events and groups of messages, each on a stream. Invariants: operations stand in the order of issue of the schedule's steps, those
//! of a step on its stream, between its waits and its record; an argument holds addresses, strides and numbers, and nothing that reads
//! it looks back at the schedule; what no kernel computes is refused by name, before anything runs. No device is touched.

mod args;
mod attn;
mod build;
mod bytes;
mod copy;
mod error;
mod merge;
#[cfg(any(feature = "cuda", test))]
mod params;
mod place;
mod scores;
mod text;
mod types;

pub use args::{
    AttentionArg, FinishArg, KernelScoring, KvArg, LeafArg, Marks, MergeArg, PackArg, QArg, Scoring,
    SeenKeys, StepArg, Strided, TableArg,
};
pub use build::lower;
pub use bytes::{Address, Base, Runs};
pub use error::{LowerError, Why};
#[cfg(any(feature = "cuda", test))]
pub(crate) use params::{Addresses, KernelParams, kernel_params};
pub use text::with_kernels;
pub use types::{
    Action, Argument, Copy, Grid, Group, Kernel, Launch, Message, Op, Program, Region, Shared, Target, Work,
};
