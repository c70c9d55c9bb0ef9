//! schedule: what each rank does becomes one program of all ranks, with streams, events and slots.
//!
//! In: the plan of an attention, and how many receive slots a ring has. Out: a [`Schedule`].
//!
//! Invariants: what is done, and in which order it is issued, is what the island graphs show; this room adds only where bytes
//! lie and what waits for what. Merges and the finish become fields of the partial before them. Events are derived from the
//! bytes that steps touch, and none can be left out.

mod build;
pub mod cost;
mod events;
pub(crate) mod flow;
mod labels;
mod ranks;
mod slots;
mod text;
mod types;

pub use ranks::schedule;
pub use text::{ParseScheduleError, line_of, parse};
pub use types::{
    AttentionFacts, ExchangeKind, KvPiece, Leaf, QPiece, RankProgram, SLOTS, Schedule, Slot, Step, StepOp,
    Stream, Transfer, View,
};
