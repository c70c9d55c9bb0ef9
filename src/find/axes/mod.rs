//! axes: layout operations as factors of axes.
//!
//! In: values that were reshaped, permuted, sliced or repeated. Out: where their elements come from, as lists of factors, and
//! operations that lay a value out in another order of factors.
//!
//! Invariant: the extents of an axis' factors multiply to the extent of the axis.

pub(crate) mod factors;
pub(crate) mod relayout;
pub(crate) mod trace;
