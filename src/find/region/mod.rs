//! region: from a softmax back to QKᵀ and forward to PV.
//!
//! In: a graph and a softmax in it. Out: a region with its term, or that this softmax is no attention, or the condition that
//! failed. A region holds the operations whose result depends on QKᵀ and on which PV depends; everything else that they read
//! is a leaf.
//!
//! Invariant: nothing in a region is read from outside, for the scores never exist as a whole once they are split.

pub(crate) mod anchor;
mod builder;
mod encode;
mod extra_column;
mod interior;
mod operations;
mod score_axes;
pub(crate) mod search;
pub(crate) mod types;
mod values_product;
