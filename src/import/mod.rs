//! import: ONNX models and test cases become graphs and tensors.
//!
//! In: bytes of a `ModelProto` or `TensorProto`, untrusted. Out: a verified [`Graph`], tensors.

use crate::ir::{Graph, Tensor};
use std::collections::BTreeMap;

/// What the importer must be told.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Sizes of symbolic dimensions by name.
    pub dims: BTreeMap<String, usize>,
    /// Shapes of the stored inputs by input name: they bind symbolic dimensions that `dims` does not.
    pub input_shapes: BTreeMap<String, Vec<usize>>,
}

/// Why a model could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// The bytes are no model, or contradict themselves.
    #[error("{0}")]
    Malformed(String),
    /// An operator, or a form of it, that the importer does not know.
    #[error("node {node} ({op}) is not supported: {why}")]
    Unsupported {
        /// Operator with its domain.
        op: String,
        /// Name of the node; OpType_index if it has none.
        node: String,
        /// What about it, with the operand types.
        why: String,
    },
    /// A symbolic dimension has no size.
    #[error("dimension {dim} of input {input} is symbolic: give its size with --dim {dim}=N")]
    Symbolic {
        /// The input.
        input: String,
        /// The dimension's name.
        dim: String,
    },
}

/// Reads an ONNX model.
///
/// # Errors
/// See [`ImportError`]; nothing is guessed.
pub fn onnx(_bytes: &[u8], _options: &ImportOptions) -> Result<Graph, ImportError> {
    Err(ImportError::Malformed("not written".into()))
}

/// Reads a `TensorProto`: its name and its value.
///
/// # Errors
/// If the bytes are no tensor, or their number is not that of its shape.
pub fn tensor(_bytes: &[u8]) -> Result<(String, Tensor), ImportError> {
    Err(ImportError::Malformed("not written".into()))
}
