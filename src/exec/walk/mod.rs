//! walk: runs device programs.
//!
//! In: the [`Program`](crate::lower::program::Program)s of ranks. Out: what they compute, on whatever engine. [`walk`] is the one function that runs
//! a rank's program, over an [`Engine`] (a device with streams and events) and a [`Transport`] (how messages come to other ranks);
//! [`walk_all`] runs all ranks of one process; [`issue`] and [`issue_all`] do not wait for what they issued. Engines are the CPU's, where each launch is a kernel of the CPU executor, and those that
//! hosts bring; [`Local`] carries messages between ranks of one process on one device.

mod cpu;
mod drive;
mod engine;
mod error;
mod kernels;
mod local;
mod patient;
mod transport;
mod walker;

pub use cpu::{Cpu, Device, LocalError, Place, Results, run_local, run_rank};
pub use drive::{issue, issue_all, walk, walk_all};
pub use engine::{Engine, HostMemory, Marks, Pointer, Spread};
pub use error::WalkError;
pub use local::Local;
pub use patient::Patient;
pub use transport::{Polled, Transport, TransportError};
pub use walker::{Walk, record_of_issued, record_of_none};
