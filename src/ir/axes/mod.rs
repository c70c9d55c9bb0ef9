//! Where the elements of a result come from: for each operation, what each axis of its operands is to the axes of its result.
//!
//! In: an operation with the types of its operands and of its first result. Out: for each operand a [`Map`]. It is written
//! once, for every operation, and is read in both directions: `shard` follows rows of a sequence through it, `find` traces rows
//! and single elements back, and puts together what was cut.
//!
//! Invariant: an element of the result is made of no other elements of an operand than those that the map names. Where the map
//! says [`Along::Kept`], [`Along::Sliced`], [`Along::Joined`] or [`Along::Repeated`], it is made of exactly one along that axis.

mod map;
mod rule;
#[cfg(test)]
mod tests;

pub(crate) use map::{Along, Map};
pub(crate) use rule::{maps, maps_of};
