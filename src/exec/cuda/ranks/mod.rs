//! ranks: the ranks of islands on one GPU, or one of them on each of as many, each a process.
//!
//! In: a schedule, and the arguments of every rank. Out: results of every rank. A [`Part`] is one rank as a host embeds it: it is told a
//! [`Call`], raw pointers and the host's stream; [`enqueue_all`] tells all ranks from one thread. [`Island`] is all parts with memory of
//! its own, [`Kernels`] are what programs share, [`OnGpu`] runs a whole program whose islands are on the GPU. [`Alone`] is one rank whose
//! messages come at the pace of a link, to be timed. Each rank has a stream for kernels and one of higher priority for each axis of the
//! mesh; messages are copies on the receiver's stream, ordered by events. Times of several ranks on one GPU compare with nothing.
//! Where each rank is a process, messages go by NCCL ([`super::nccl`]).
//!
//! A host that has memory and a stream, whatever crate they are of (hosts in other languages: `hosts/c`):
//!
//! ```no_run
//! use annulus::exec::cuda::Gpu;
//! use annulus::exec::cuda::ranks::{Call, IslandError, Kernels, Part, RunOptions, enqueue_all};
//! # use std::{ffi::c_void, time::Duration};
//!
//! # fn attend(
//! #     compiled: &annulus::Compiled,
//! #     arguments: &[Vec<u64>],
//! #     out: &[u64],
//! #     workspace: &[u64],
//! #     stream: *mut c_void,
//! # ) -> Result<(), IslandError> {
//! let options = RunOptions { cache: None, graph: true, patience: Duration::from_secs(60) };
//! let schedule = &compiled.islands[0].schedule;
//! let mut parts = Part::all(&Gpu::current()?, &mut Kernels::new(), schedule, options)?;
//! // Device pointers of rank r, as many bytes behind each as its part says; here there is no log-sum-exp.
//! let call = |(r, part): (usize, &Part)| Call {
//!     arguments: &arguments[r],
//!     out: out[r],
//!     lse: 0,
//!     workspace: workspace[r],
//!     workspace_bytes: part.workspace_bytes(),
//! };
//! let calls: Vec<Call> = parts.iter().enumerate().map(call).collect();
//! let mut all: Vec<&mut Part> = parts.iter_mut().collect();
//! // SAFETY: the memory stays, and nobody else touches it, until the stream has done the call.
//! unsafe { enqueue_all(&mut all, &calls, stream) }?;
//! # Ok(())
//! # }
//! ```

mod alone;
mod call;
mod copies;
mod error;
mod graph;
mod host;
mod island;
mod known;
mod loaded;
mod messages;
mod options;
mod part;
mod prepared;
mod rank;
mod run;
mod shared;
mod spare;
mod together;

pub use alone::{Alone, Wire};
pub use call::{ALIGNMENT, Call, CallError, Place};
pub use error::IslandError;
pub use island::{Given, Island};
pub use loaded::Kernels;
pub use options::RunOptions;
pub use part::Part;
pub use run::OnGpu;
pub use together::{Told, enqueue_all};
