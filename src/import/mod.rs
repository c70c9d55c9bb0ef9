//! import: ONNX models and test cases become graphs and tensors.
//!
//! In: bytes of a `ModelProto` or `TensorProto`, untrusted. Out: a verified [`Graph`](crate::ir::Graph), tensors. [`case`] reads the files.
//!
//! The way of a model: `proto` decodes it, `flat` writes out its functions and inner graphs, `lower` gives names and types, sorts the nodes and walks them; the table in
//! `ops` names for each operator its arity and the function that lowers it to [`crate::ir::Op`]s.
//!
//! Invariants: no panic, whatever the bytes; no recursion over the depth of the graph; memory bounded by the size of the
//! file. Every operation keeps the name of the node that it stands for, and a value the name that the model gives it. Shapes
//! are concrete: operands that shape the graph are evaluated from constants, and one that depends on the values of the
//! inputs is refused. An attribute that the importer does not ask for is refused, never passed over. A node that changes
//! nothing becomes nothing.

mod captures;
pub mod case;
mod data;
mod declared;
mod departure;
mod error;
mod external;
mod flat;
mod inputs;
mod lower;
mod narrowest;
mod node;
mod opaque;
mod ops;
mod options;
mod outcome;
pub(crate) mod proto;
mod read;

pub use departure::{Departure, Differs};
pub use error::{ImportError, Unsupported};
pub use options::ImportOptions;
#[cfg(test)]
pub(crate) use read::graph;
pub use read::{onnx, tensor};
