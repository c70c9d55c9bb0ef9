//! flight: what each rank of a failed run did last, and where the ranks first went different ways.
//!
//! In: a [`Record`] from the walker of each rank that failed, which [`keep`] writes to the folder of [`keep_in`] or of
//! [`keep_in_own`]. Out: [`judge`] reads the records of
//! all ranks and says which group of messages was not reached by whom, and why. Invariants: a record holds numbers of operations, ranks and
//! bytes, and nothing of the data; it is no longer than [`MOST_BYTES`]; whatever a file holds, reading it ends with a record or with a word
//! for what is wrong with it.

mod judge;
mod keep;
mod record;
mod text;

pub use judge::{Judged, judge};
pub use keep::{Kept, keep, keep_in, keep_in_own, kept_in, read_folder};
pub use record::{Cause, Group, Happened, Note, Record, State};
pub use text::{Damage, MOST_BYTES, parse};
