//! search: which strategy each island takes, and which layout each sequence of the model.
//!
//! In: a program, the other layouts that its sequences may have, and what was asked for. Out: the program with its layouts, and a
//! schedule for each distinct island, with the choices that were not taken.
//!
//! Each candidate goes through ring and schedule and is estimated on the device. The least makespan is found, and of those that are
//! longer by less than [`TIE`] the first is taken, in the order of [`LayoutKind::ALL`](crate::layout::LayoutKind::ALL) and then of
//! [`Strategy::ALL`](crate::ring::Strategy::ALL): so small a difference is one of the model, and the plainer choice is read more
//! easily. Residuals tie the layers of a sequence together, so that it has one layout, chosen over the sum of all attentions: of
//! several sequences (an encoder's and a decoder's) first one kind for all, then one sequence after another, the others as they
//! are, until none changes. What does not fit into the memory that is allowed is no candidate.
//!
//! On many ranks a candidate is not run to its end if less is enough to exclude it: what the mask keeps for the busiest rank takes
//! too long already, or the kernels or the transfers of one rank do. On very many the layouts are not varied: zigzag for a sequence
//! with a causal attention, else contiguous.
//!
//! Invariants: the same program, options and device give the same choice on every rank. Every schedule that comes out still has to
//! be proved.

mod candidate;
mod class;
mod error;
mod reasons;
mod space;
mod types;

pub use error::SearchError;
pub use reasons::{label, way};
pub(crate) use space::{kinds, search};
pub(crate) use types::{Chosen, SearchOptions};
pub use types::{Rejected, TIE};
