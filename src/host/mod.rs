//! host: what the host gets back: a rank's graph in which every island, every gather and every reduce is one `call` operation. The rest of the model
//! is the host's to compile and to run.
//!
//! In: a [`Program`](crate::shard::Program) and a rank. Out: the graph, flat, and for each call what it takes and gives. Its inputs are what the
//! placements say: whole, or the rank's rows; its outputs what the rank holds of the model's outputs. Calls have the same
//! numbers in the same order on every rank, and each is entered by all ranks. [`scatter`] makes a rank's inputs from whole ones, and
//! [`unshard`] whole outputs from those of the ranks.

mod call;
mod hand_back;
mod rows;

pub use call::{Call, CallKind, Port};
pub use hand_back::{HandBack, hand_back};
pub use rows::{RowsError, scatter, scatter_rows, unshard, unshard_rows};
