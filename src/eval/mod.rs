//! eval: runs a graph on one rank, as it stands. The oracle.
//!
//! In: a verified graph and its inputs. Out: its outputs.

use crate::ir::{Graph, Op, Tensor, ValueId};
use std::collections::HashMap;

/// In which type results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the graph declares them.
    Declared,
    /// Floating values in f64 throughout; a cast still rounds to its type, so that half-precision constants and overflows
    /// keep their meaning. Outputs are f64 where the graph declares a floating type.
    F64,
}

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// One operation failed.
    #[error("{op} {name}{}: {why}", if source_node.is_empty() { String::new() } else { format!(" (node {source_node})") })]
    Op {
        /// Mnemonic.
        op: &'static str,
        /// Name of its first result.
        name: String,
        /// Node of the imported model.
        source_node: String,
        /// What is wrong.
        why: String,
    },
    /// The inputs are not those of the graph.
    #[error("{0}")]
    Inputs(String),
}

/// Evaluates a graph. `inputs` stand in the order of the graph's inputs, in their declared types.
///
/// # Errors
/// If an input does not fit, a weight has no data, or an operation fails (an index out of range, a region or a transfer,
/// which need other ranks).
pub fn eval(_graph: &Graph, _inputs: &[Tensor], _precision: Precision) -> Result<Vec<Tensor>, EvalError> {
    Err(EvalError::Inputs("not written".into()))
}

/// Applies one operation to its operands.
///
/// # Errors
/// What is wrong, as a text without the operation's name.
pub fn apply(_op: &Op, _operands: &[Tensor], _precision: Precision) -> Result<Vec<Tensor>, String> {
    Err("not written".into())
}

/// Values that depend on constants alone, evaluated once and kept.
#[derive(Debug, Default)]
pub struct Constants {
    known: HashMap<ValueId, Option<Tensor>>,
}

impl Constants {
    /// The value if it depends on constants with data alone and has at most `limit` elements, also on the way to it.
    /// The memo holds only while the graph grows; make a new one after a change.
    pub fn value(&mut self, _graph: &Graph, v: ValueId, _limit: usize) -> Option<Tensor> {
        self.known.get(&v).cloned().flatten()
    }
}
