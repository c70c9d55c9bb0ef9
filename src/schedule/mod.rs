//! schedule: what each rank does becomes one program of all ranks, with streams, events and slots.
//!
//! In: the plan of an attention, and how many receive slots a ring has. Out: a [`Schedule`].
//!
//! Invariants: what is done, and in which order it is issued, is what the island graphs show; this room adds only where bytes
//! lie and what waits for what. Merges and the finish become fields of the partial before them; a partial result that came
//! from another rank is merged by a step of its own. Events are derived from the bytes that steps touch, and none can be left
//! out.

pub(crate) mod beside;
mod blocks;
mod build;
pub mod cost;
mod deal;
mod events;
mod facts;
pub(crate) mod flow;
mod labels;
mod mesh;
mod ranks;
mod slots;
mod steps;
mod text;
mod travel;
mod travelling;
mod types;

pub use blocks::{Block, Heads, Packed, Place, Port, View};
pub use facts::{AttentionFacts, Leaf};
pub use mesh::{Mesh, MeshAxis, Stream};
pub use ranks::schedule;
pub use steps::{ExchangeKind, KvPiece, Merged, QPiece, Step, StepOp, Transfer};
pub use text::{ParseScheduleError, line_of, parse};
pub use types::{RankProgram, SLOTS, Schedule, Slot};
