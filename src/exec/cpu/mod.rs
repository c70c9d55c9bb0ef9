//! exec/cpu: runs the schedules of all ranks in one process, streams and events honoured.
//!
//! In: a program, its schedules, whole inputs. Out: whole outputs, and what was sent.
//!
//! Invariants: a step starts only when every step before it on its stream is done and its events have happened, and nothing
//! else orders steps, so that a schedule that lacks an event fails under some seed. A transfer happens while both ends are
//! in their exchange; nothing is buffered. Bytes that nobody wrote, that are being received, or whose last
//! reader is done are NaN. Schedules
//! may come from untrusted text: every view, row and event is checked, and what cannot run is an error, never a hang.
//!
//! `program` walks the segments; `island` is the event loop of one schedule over `arena` and `kernel`; `validate` holds
//! what must be true of a schedule before a byte is touched; `rows` cuts and joins tensors by rows.

pub(in crate::exec) mod acc;
mod arena;
mod error;
mod fold;
mod island;
pub(in crate::exec) mod kernel;
pub(in crate::exec) mod leaves;
mod outcome;
mod own;
mod program;
mod ranks;
mod rows;
mod scores;
pub(in crate::exec) mod validate;

pub use error::ExecError;
pub use fold::fold;
pub use island::run_island;
pub use outcome::{Progress, Run, Traffic};
pub use program::{run, run_watched, run_with};
pub use ranks::Ranks;
#[cfg(all(any(feature = "cuda", feature = "mpi"), target_os = "linux"))]
pub(in crate::exec) use ranks::whole_of;
pub(crate) use rows::{cut, join};
