//! Operators of which ONNX Runtime gives something else than they mean.
//!
//! annulus keeps the meaning of the standard, or of the operator's own description. Where stored outputs come from ONNX Runtime and an
//! output differs, this may be why; the importer notes each such node as it lowers it.

use std::fmt;

/// A node of which ONNX Runtime gives something else than it means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Departure {
    /// Name of the node.
    pub node: String,
    /// Its operator, with the domain if that is not the default one.
    pub operator: String,
    /// In what.
    pub what: Differs,
}

/// In what ONNX Runtime (1.31) differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Differs {
    /// A unidirectional MultiHeadAttention with fewer rows than keys.
    LastRow,
    /// A float mask of which a row may be the least number of its type for every key.
    LeastRow,
    /// A softmax that is asked for in a narrower type than that of the operands.
    Precision,
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Differs::LastRow => {
                "it is unidirectional and has fewer rows than keys: ONNX Runtime leaves the last row unmasked, and annulus masks every row"
            }
            Differs::LeastRow => {
                "a row of its mask may be the least number of its type for every key: ONNX Runtime gives zeros for such a row, and \
                 annulus a softmax, as the standard says"
            }
            Differs::Precision => {
                "its softmax_precision is below the type of its operands: ONNX Runtime computes the whole softmax in it, and annulus in the \
                 wider type"
            }
        })
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.node, self.operator, self.what)
    }
}
