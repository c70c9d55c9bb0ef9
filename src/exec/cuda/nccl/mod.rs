//! nccl: messages between ranks that are processes, each with a GPU of its own, by NVIDIA's library for that.
//!
//! In: a group of processes that have met ([`crate::exec::group`]), or communicators that a host has. Out: the transport of a rank's device
//! program, and what whole runs ask of all ranks besides. Invariants: no function is called before it was found in the library; nothing
//! blocks, nothing waits without a limit; a rank that fails ends all others, by name; what is sent is checked against the memory that
//! the program says it has.

mod communicator;
mod error;
mod functions;
mod lanes;
mod pieces;
mod processes;
mod transport;

pub use communicator::Communicator;
#[cfg(test)]
pub(crate) use communicator::new_id;
pub use error::NcclError;
pub use functions::version;
pub(in crate::exec::cuda) use lanes::Lanes;
pub use lanes::Wanted;
#[cfg(test)]
pub(crate) use pieces::{Piece, Pieces};
pub use processes::Processes;
pub(in crate::exec::cuda) use transport::{Nccl, Streams};
