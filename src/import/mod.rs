//! import: ONNX models and test cases become graphs and tensors.
//!
//! In: bytes of a `ModelProto` or `TensorProto`, untrusted. Out: a verified [`Graph`], tensors. [`case`] reads the files.
//!
//! The way of a model: [`proto`] decodes it, `flat` writes out its functions and inner graphs, `lower` gives names and types, sorts the nodes and walks them; the table in
//! `ops` names for each operator its arity and the function that lowers it to [`crate::ir::Op`]s.
//!
//! Invariants: no panic, whatever the bytes; no recursion over the depth of the graph; memory bounded by the size of the
//! file. Every operation keeps the name of the node that it stands for, and a value the name that the model gives it. Shapes
//! are concrete: operands that shape the graph are evaluated from constants, and one that depends on the values of the
//! inputs is refused. An attribute that the importer does not ask for is refused, never passed over. A node that changes
//! nothing becomes nothing.

pub mod case;
mod data;
mod external;
mod flat;
mod lower;
mod node;
mod ops;
pub mod proto;

use crate::ir::{Graph, Tensor, verify::verify};
use prost::Message;
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
    /// The model is valid, but holds what annulus does not know.
    #[error("{0}")]
    Refused(String),
    /// A symbolic dimension has no size.
    #[error("dimension {dim} of input {input} is symbolic: give its size with --dim {dim}=N{}", also(.others))]
    Symbolic {
        /// The input.
        input: String,
        /// The dimension's name.
        dim: String,
        /// Others without a size.
        others: Vec<String>,
    },
    /// A size was given for a dimension that no input has.
    #[error("--dim {dim}: no input has a dimension of that name; {}", listed(.known))]
    UnknownDimension {
        /// The name.
        dim: String,
        /// The symbolic dimensions of the inputs, in order.
        known: Vec<String>,
    },
}

/// Further dimensions in words.
fn also(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; sizes are wanted besides: {}", some(names)) }
}

/// What there is, in words.
fn listed(names: &[String]) -> String {
    match names {
        [] => "every dimension of the inputs has a fixed size".to_owned(),
        _ => format!("there is {}", some(names)),
    }
}

/// The first few of many names.
fn some(names: &[String]) -> String {
    const MOST: usize = 16;
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=MOST => shown,
        n => format!("{shown} and {} more", n - MOST),
    }
}

impl ImportError {
    /// Whether the model may well be valid, and annulus knows not enough.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ImportError::Unsupported { .. } | ImportError::Refused(_))
    }

    /// The error with the names of the model as they may be shown: what is not printable is escaped.
    fn printable(self) -> ImportError {
        let shown = |text: String| -> String {
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                // Quotes and the like are printable: only what has an escape by number, or one of a line, goes.
                match c.escape_debug().len() {
                    1 => out.push(c),
                    _ if matches!(c, '"' | '\'' | '\\') => out.push(c),
                    _ => out.extend(c.escape_debug()),
                }
            }
            out
        };
        match self {
            ImportError::Malformed(why) => ImportError::Malformed(shown(why)),
            ImportError::Unsupported { op, node, why } => {
                ImportError::Unsupported { op: shown(op), node: shown(node), why: shown(why) }
            }
            ImportError::Refused(why) => ImportError::Refused(shown(why)),
            ImportError::Symbolic { input, dim, others } => ImportError::Symbolic {
                input: shown(input),
                dim: shown(dim),
                others: others.into_iter().map(shown).collect(),
            },
            ImportError::UnknownDimension { dim, known } => ImportError::UnknownDimension {
                dim: shown(dim),
                known: known.into_iter().map(shown).collect(),
            },
        }
    }
}

/// Reads an ONNX model.
///
/// # Errors
/// See [`ImportError`]; nothing is guessed.
pub fn onnx(bytes: &[u8], options: &ImportOptions) -> Result<Graph, ImportError> {
    graph(&decode(bytes)?, options)
}

/// Lowers a decoded model.
///
/// # Errors
/// As [`onnx`].
pub fn graph(model: &proto::ModelProto, options: &ImportOptions) -> Result<Graph, ImportError> {
    let graph = lower::lower(model, options).map_err(ImportError::printable)?;
    verify(&graph).map_err(|broken| {
        let first = broken.first().map(ToString::to_string).unwrap_or_default();
        ImportError::Malformed(format!("the graph does not verify: {first}"))
    })?;
    Ok(graph)
}

/// Decodes a model without lowering it.
///
/// # Errors
/// If the bytes are no `ModelProto`.
pub fn decode(bytes: &[u8]) -> Result<proto::ModelProto, ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Malformed("the file is empty, not an ONNX model".into()));
    }
    proto::ModelProto::decode(bytes).map_err(|e| ImportError::Malformed(format!("not an ONNX model: {e}")))
}

/// Reads a `TensorProto`: its name and its value.
///
/// # Errors
/// If the bytes are no tensor, or their number is not that of its shape.
pub fn tensor(bytes: &[u8]) -> Result<(String, Tensor), ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Malformed("the file is empty, not an ONNX tensor".into()));
    }
    let t = proto::TensorProto::decode(bytes)
        .map_err(|e| ImportError::Malformed(format!("not an ONNX tensor: {e}")))?;
    let value = data::tensor(&t, "tensor")?;
    Ok((t.name, value))
}
