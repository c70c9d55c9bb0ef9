//! text: the form of a [`Schedule`](super::Schedule) that people read and files hold.
//!
//! In: a schedule, or text. Out: text, or schedules with an error that shows the line and a caret.
//!
//! Invariants: what is printed parses back to an equal schedule (with finite numbers), and prints the same bytes again. A schedule need not be right to be
//! printed or parsed: `check` says what is wrong with it. One step is one line; a comment behind a step is its reason,
//! any other comment is skipped. Without `slots` a ring has two. No control character of a name or reason reaches the text unescaped.
//!
//! ```text
//! schedule "layers.0" ring slots 2 {
//!   attention q f32[1,4,32,16] k f32[1,2,32,16] v f32[1,2,32,16] acc f32 empty zero
//!   scores factor 0.25 | fill -inf unless causal(0)
//!   q_layout contiguous 32 { 0:16 | 16:16 }
//!   kv_layout contiguous 32 { 0:16 | 16:16 }
//!   rank 0 arena 18432 {
//!     slot kv.local    0..4096
//!     slot kv.0     4096..8192
//!     #0 compute          record e0  pack 0:16@kv.local[0..4096]
//!     #1 comm     wait e0            sendrecv g1 to 1 kv.local[0..4096] from 1 kv.0[0..4096]  // hop 1
//! ```
//!
//! `0:16` are the rows 0 to 15, `0:16:2` every second row from 0; `@` says where they lie; `a[0..4]+b[0..4]` is one
//! message of two views; ranks of a layout are parted by `|`, and `-` owns nothing. `%7[0..4]` is the slot of number 7
//! where a name would not say which.

mod chars;
mod cursor;
mod error;
mod line;
mod parse;
mod parse_step;
mod print;

pub use error::ParseScheduleError;
pub use line::line_of;
pub use parse::parse;

#[cfg(test)]
mod tests;
