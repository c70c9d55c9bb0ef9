//! Why a model could not be read.

/// Why a model could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
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

    /// The same error of a tensor that a node reads.
    pub(super) fn read_by(self, node: &str, op: &str) -> ImportError {
        let read = |why: String| format!("node {node} ({op}) reads {why}");
        match self {
            ImportError::Malformed(why) => ImportError::Malformed(read(why)),
            ImportError::Refused(why) => ImportError::Refused(read(why)),
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

/// A refusal of bytes that are no model, or contradict themselves.
pub(super) fn malformed<T>(why: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Malformed(why.into()))
}

/// A refusal of what annulus does not know.
pub(super) fn refused<T>(why: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Refused(why.into()))
}
