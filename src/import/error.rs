//! Why a model could not be read.

use crate::ir::{Refused, WayOut};

/// Why a model could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no model, or contradict themselves.
    #[error("{0}")]
    Malformed(String),
    /// An operator, or a form of it, that the importer does not know.
    #[error(transparent)]
    Unsupported(Box<Unsupported>),
    /// The model is valid, but holds what annulus does not know.
    #[error("{0}")]
    Refused(Refused),
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

/// A node that is not lowered, nor carried as it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("node {node} ({op}) is not supported: {}; its operands are ({operands}){others}; {}", .why.why(), .why.way_out().text())]
pub struct Unsupported {
    /// Operator with its domain.
    pub op: String,
    /// Name of the node; OpType_index if it has none.
    pub node: String,
    /// Names and types of its operands.
    pub operands: String,
    /// What about it, and the way out.
    pub why: Refused,
    /// What else of the model is not known, in words; empty if nothing is.
    pub others: String,
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
        matches!(self, ImportError::Unsupported(_) | ImportError::Refused(_))
    }

    /// The same error of a tensor that a node reads.
    pub(super) fn read_by(self, node: &str, op: &str) -> ImportError {
        let read = |why: String| format!("node {node} ({op}) reads {why}");
        match self {
            ImportError::Malformed(why) => ImportError::Malformed(read(why)),
            ImportError::Refused(why) => ImportError::Refused(why.map(read)),
            other => other,
        }
    }

    /// The error with the names of the model as they may be shown: what is not printable is escaped.
    pub(super) fn printable(self) -> ImportError {
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
            ImportError::Unsupported(u) => ImportError::Unsupported(Box::new(Unsupported {
                op: shown(u.op),
                node: shown(u.node),
                operands: shown(u.operands),
                why: u.why.map(shown),
                others: shown(u.others),
            })),
            ImportError::Refused(why) => ImportError::Refused(why.map(shown)),
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

/// A refusal of bytes that are no model, or contradict themselves.
pub(super) fn malformed<T>(why: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Malformed(why.into()))
}

/// A refusal of what annulus does not know, with a way out.
pub(super) fn refused<T>(why: impl Into<String>, way_out: WayOut) -> Result<T, ImportError> {
    Err(ImportError::Refused(Refused::new(why, way_out)))
}
