//! masks: what is added to the scores, chosen for them or left of them becomes terms, a fill and a bias.
//!
//! In: biases and conditions in the order in which they act, each a value that broadcasts to (batch, query head, query row, key
//! row). Out: a mask with its leaves, and a bias. How a mask is spelled does not matter: its elements are evaluated, and the
//! terms are recognised by their shape.
//!
//! Invariant: a finite fill becomes −∞ only if it is so large that nothing is left of a masked key, and every row is proved to
//! keep a key, whatever the inputs are, or rows without one are computed apart. Otherwise it stays a finite fill, or data.

pub(crate) mod additive;
pub(crate) mod band;
pub(crate) mod bias_kind;
pub(crate) mod classify;
pub(crate) mod conditions;
pub(crate) mod documents;
pub(crate) mod finite_fill;
pub(crate) mod infinities;
pub(crate) mod mean_of_values;
pub(crate) mod plan;
pub(crate) mod recognise;
pub(crate) mod size;
pub(crate) mod split;
pub(crate) mod types;
