//! find: names every scaled-dot-product attention of a graph in normal form, with the reasons, and every near miss.
//!
//! In: a verified graph. Out: the graph with each found region replaced by one attention node, and the reasons.
//!
//! What a region is and what stands in it is found without names or sizes. In the order in which a graph passes through:
//!
//! | room or file | idea |
//! |---|---|
//! | `axes` | layout operations as factors of axes: traced back, and laid out anew |
//! | `elements` | what the elements of a value can be for every input, in memory linear in the rows |
//! | `magnitude` | every number that decides what is large or small, in one table, each with its reason |
//! | `decimal` | numbers of a graph in the texts for its reader |
//! | `same` | values and masks that are written twice |
//! | `algebra` | terms, their facts, the rules and the normal form that egg reaches with them |
//! | `region` | from a softmax back to QKᵀ and forward to PV; the operations between as a term |
//! | `masks` | masks by evaluation: what they keep, their fill, the terms that rows of kept keys spell, the kind of a bias |
//! | `observers` | what behind an attention makes a number of NaN |
//! | `hidden` | rows that are NaN in the graph and numbers in the attention, and whether that is seen |
//! | `hoist` | factors of whole rows and keys, which go on Q and K |
//! | `sequence` | whether queries and keys come from one sequence |
//! | `repeated` | heads of K and V that are repeated before something else is done to them |
//! | `roles` | which factors of the scores are batch, heads and rows |
//! | `rewrite`, `explicit` | the attention in PV's place; an operator that is one already, in the same normal form |
//! | `lookalikes` | what stands where attention would, but for the softmax |
//! | `opaque` | what may be attention among the operators that annulus does not compute |
//! | `recast` | other shapes of an attention, brought into the one that a region has |
//! | `dropped` | dropout that is asked for, which exporters leave out |
//! | `log_sum` | the logarithm of a sum of exponentials as a second result |
//! | `written_out`, `search` | one attention that is written out; every candidate of a graph |
//! | [`report`] | the figures of the command line |
//!
//! Invariants: a graph in which nothing is found comes out identical. K and V of an attention are not repeated over query
//! heads where the graph only repeated them. No class of rewriting that is not admitted is used. The answer depends on
//! nothing but the graph and the options: limits count nodes and rounds, never time.

mod algebra;
mod axes;
mod decimal;
mod dropped;
mod elements;
mod explicit;
mod hidden;
mod hoist;
mod log_sum;
mod lookalikes;
mod magnitude;
mod masks;
mod observers;
mod opaque;
mod recast;
mod region;
mod repeated;
pub mod report;
mod rewrite;
mod roles;
mod same;
mod search;
mod sequence;
mod types;
mod written_out;

pub use search::find;
pub use types::{
    Applied, AskedDropout, Bound, FindOptions, Found, FoundAttention, Miss, Numerics, Ring, Work,
};
