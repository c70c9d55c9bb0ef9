//! From bytes to a decoded model, a verified graph, or a tensor.

use super::data;
use super::departure::Departure;
use super::error::ImportError;
use super::lower::lower;
use super::options::ImportOptions;
use super::proto::{ModelProto, TensorProto};
use crate::ir::{Graph, Tensor, verify};
use prost::Message;

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
pub(crate) fn graph(model: &ModelProto, options: &ImportOptions) -> Result<Graph, ImportError> {
    noted(model, options).map(|(graph, _)| graph)
}

/// [`graph`], and the nodes of which ONNX Runtime gives something else than they mean.
///
/// # Errors
/// As [`onnx`].
pub(super) fn noted(
    model: &ModelProto,
    options: &ImportOptions,
) -> Result<(Graph, Vec<Departure>), ImportError> {
    let (graph, departures) = lower(model, options).map_err(ImportError::printable)?;
    verify(&graph).map_err(|broken| {
        let first = broken.first().map(ToString::to_string).unwrap_or_default();
        ImportError::Malformed(format!("the graph does not verify: {first}"))
    })?;
    Ok((graph, departures))
}

/// Decodes a model without lowering it.
///
/// # Errors
/// If the bytes are no `ModelProto`.
pub(super) fn decode(bytes: &[u8]) -> Result<ModelProto, ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Malformed("the file is empty, not an ONNX model".into()));
    }
    ModelProto::decode(bytes).map_err(|e| ImportError::Malformed(format!("not an ONNX model: {e}")))
}

/// Reads a `TensorProto`: its name and its value.
///
/// # Errors
/// If the bytes are no tensor, or their number is not that of its shape.
pub fn tensor(bytes: &[u8]) -> Result<(String, Tensor), ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::Malformed("the file is empty, not an ONNX tensor".into()));
    }
    let t =
        TensorProto::decode(bytes).map_err(|e| ImportError::Malformed(format!("not an ONNX tensor: {e}")))?;
    let value = data::tensor(&t, "tensor")?;
    Ok((t.name, value))
}
