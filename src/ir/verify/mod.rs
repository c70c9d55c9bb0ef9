//! The verifier: what every other room takes for granted of a graph.
//!
//! In: any [`Graph`](super::Graph). Out: nothing, or every broken invariant with its place. It runs after every pass and on every text
//! that is parsed; an error after a pass is a bug of that pass.
//!
//! Invariants:
//!
//! * **Acyclic.** No operation needs its own result; [`Graph::ops`](super::Graph::ops) therefore lists every operation.
//! * **Operands.** The operands of an operation with n operands fill the slots 0 to n − 1, each once, and each is a result
//!   that exists.
//! * **Types.** The results of an operation have the types that inference gives for its operands: every rule
//!   about what an operation takes, the attributes of attention and of its parts included, holds. A value has at most 2^56
//!   elements and 64 axes, a constant at most 2^40 elements.
//! * **Names.** A value has a name that is not empty and that no other value of the graph has.
//! * **Inputs.** The list of inputs holds every input operation of the graph once, and nothing else.
//! * **Outputs.** An output is a value that exists; no two outputs have one name.
//! * **Constants**, and what is inside the attributes of opaque operators. Data, where it is there, has the type and the content
//!   hash that the constant claims. (The hash of data
//!   above 64 KiB is compared in debug builds only, and whenever a text is parsed: hashing all weights after every pass
//!   would cost more than the pass.)
//! * **Transfers.** The result of a started transfer is read by exactly one `wait` and by nothing else, is no output, and a
//!   `wait` reads nothing but such a result. Groups count from 1, and a group is started once.
//! * **Tiles.** An `attn_partial` that claims `full` has no pair of rows that its mask takes out.
//! * **Stages.** [`verify_at`] knows where the graph stands: an operation of a later stage is broken; [`Stage`](super::Stage)
//!   has the table. [`verify`] takes operations of every stage.
//! * **Regions.** The graph of a region keeps all of this; graphs nest at most 32 deep.

mod broken;
mod check;

pub use broken::Broken;
pub(super) use check::{Place, faults};
pub use check::{VerifyError, verify, verify_at};

#[cfg(test)]
mod cases;
