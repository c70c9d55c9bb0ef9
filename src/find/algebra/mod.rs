//! algebra: the normal form of a region by equality saturation.
//!
//! In: a region's term and the facts of its leaves. Out: its normal form with the rules that led there, or the operation that
//! stands in its way.
//!
//! Invariants: each rule states its numerics class, and an example generator tries it. Limits count nodes and rounds, never
//! time, so that every rank reaches the same answer.

mod condition;
#[cfg(test)]
mod examples;
pub(crate) mod normal_form;
pub(crate) mod rule;
mod rules;
pub(crate) mod saturate;
#[cfg(test)]
mod semantics;
pub(crate) mod term;
mod words;
