//! recast: graphs that hold an attention in another shape than the search knows, brought into that shape before it begins.
//!
//! In: a verified graph, and where the search missed something in it. Out: a graph that computes the same, with each place at which
//! it was recast, in which the search is done anew. What it does not find there is left as it was: see [`search`](super::search).
//!
//! | file | shape |
//! |---|---|
//! | `side_by_side` | scores that are sums of products: one product over parts side by side |
//! | `factors` | factors of Q and K before slices, caches and rotations: behind those |
//! | `linear` | a sum of probabilities times V: a sum of products |
//! | `slices` | slices of probabilities: of slices of queries and keys |
//! | `values` | one softmax that several products with values read: one with the values side by side |
//! | `merged` | softmaxes over parts of the keys, put together; masked probabilities; logarithms of sums beside a softmax |
//! | `copies` | scores that several softmaxes read: scores of their own for each |
//! | `operands` | several values as one operand |
//! | `driver` | all of these, in this order |
//!
//! Invariants: nothing is recast that is not proved to be the same but for its class of rewriting. The work is bounded by numbers of
//! operations, and depends on nothing but the graph and the options.

pub(crate) mod copies;
pub(crate) mod driver;
mod factors;
mod linear;
mod merged;
pub(crate) mod operands;
mod side_by_side;
mod slices;
pub(crate) mod split_keys;
pub(crate) mod types;
mod values;
