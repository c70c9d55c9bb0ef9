//! sequence: whether the rows of queries and keys come from one sequence.
//!
//! In: the row axes of Q, K and V. Out: whether they are one sequence's, and whether the step is one of decoding.

pub(crate) mod self_or_cross;
mod step_back;
