//! check: the proof. Reads a [`Schedule`](crate::schedule::Schedule) and nothing else.
//!
//! In: a schedule of all ranks, from this pass or from a file that anyone wrote. Out: a [`Report`]: which checks hold and
//! how many facts each proved, or what is wrong and where.
//!
//! Invariants: it shares no code with mask/, layout/, ring/, schedule/ or exec/ beyond the types. It has its own meaning
//! of masks (`kept`) and of rows (`rows`), and follows rows through copies and messages (`memory`) instead of
//! believing what a step says about them. Nothing in a schedule can make it panic: sizes are computed with checked or
//! 128-bit arithmetic, and no check but `form` runs before all numbers are known to be in range.
//!
//! | check | what holds |
//! |---|---|
//! | `form` | indices, ranges and sizes fit; layouts own every row once; events are recorded before they are waited for |
//! | `matching` | the k-th send of a rank to another is its k-th receive in group, kind and bytes; groups have one order |
//! | `deadlock` | with no buffering at all, every step of every rank runs |
//! | `race` | of two accesses to a byte, one of them a write, streams and events order which is first |
//! | `filled` | bytes that are read hold what the step says that they hold |
//! | `coverage` | every pair of rows that the mask may keep is computed exactly once |
//! | `merge once` | every partial result goes into one other or gives the result of its rows, which are given once, their sinks counted once |
//! | `memory` | every byte of an arena is filled, no more of them than the closed form of its strategy; receive slots are as many as the head says |
//! | `sizes` | every count and offset fits a signed 64-bit integer |
//! | `labels` | layouts and strategy are what the head calls them |
//!
//! A check that another one needs is not run if that one fails: it is then neither passed nor failed.

mod area;
mod arena;
mod bound;
mod bytes;
mod checks;
mod coverage;
mod form;
mod kept;
mod labels;
mod layouts;
mod levels;
mod log;
mod matching;
mod memory;
mod merge;
mod race;
mod replay;
mod report;
mod results;
mod rows;
mod sizes;
mod touch;

pub use checks::check;
#[cfg(test)]
pub(crate) use report::MOST_FAILURES;
pub use report::{Failure, Passed, Report};
