//! Why a graph could not be evaluated.

use super::lacking::{Lacking, described};
use super::memory::Shortage;

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
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
    /// The outputs need operators that annulus does not compute. Nothing was computed.
    #[error("{}", described(.0))]
    Lacks(Vec<Lacking>),
    /// There is no memory for it. Nothing was computed.
    #[error("{0}")]
    Memory(Box<Shortage>),
    /// The inputs are not those of the graph.
    #[error("{0}")]
    Inputs(String),
}

impl From<Box<Shortage>> for EvalError {
    fn from(shortage: Box<Shortage>) -> EvalError {
        EvalError::Memory(shortage)
    }
}
