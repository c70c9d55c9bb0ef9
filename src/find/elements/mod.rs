//! elements: what the elements of a value can be, whatever the inputs are.
//!
//! In: a value of the graph. Out: for each run of elements the numbers that it can hold, or single elements at places.
//!
//! Invariant: what is said of an element holds every number that the element can have.

pub(crate) mod abstract_value;
pub(crate) mod interpret;
pub(crate) mod runs;
pub(crate) mod sample;
