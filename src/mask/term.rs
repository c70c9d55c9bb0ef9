//! The conditions of a mask.

use std::sync::Arc;

/// One condition that a key must meet to be kept. `q` and `k` are global row numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Term {
    /// Keep if `k <= q + offset`. The offset may be negative.
    Causal {
        /// How far the last visible key is ahead of the query's own number.
        offset: i64,
    },
    /// Keep if `q + offset - left <= k <= q + offset + right`; a bound that is `None` does not bind.
    Window {
        /// Keys before the query's own position.
        left: Option<u64>,
        /// Keys after the query's own position.
        right: Option<u64>,
        /// Position of query row 0 among the keys.
        offset: i64,
    },
    /// Documents packed one after another: keep if query and key are of the same one. Query row q stands at position
    /// `q + offset` among the keys.
    Segments {
        /// The positions at which a document begins, the first one's left out; ascending, none twice, none 0.
        starts: Arc<[usize]>,
        /// Position of query row 0 among the keys.
        offset: i64,
    },
    /// Keep if `k <= q + offset`, or if `k < length`: causal behind a prefix that every query row sees.
    Prefix {
        /// Keys of the prefix.
        length: usize,
        /// As that of [`Term::Causal`].
        offset: i64,
    },
    /// Keep if `start <= k < end`: the other keys are padding.
    Keys {
        /// The first key that is none.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// Batch entry b keeps what every term of `entries[b]` keeps; there is one list for each batch entry, of terms that depend
    /// on positions alone and are no batch again.
    Batch {
        /// The terms of each batch entry.
        entries: Arc<[Vec<Term>]>,
    },
    /// Keep where the boolean operand of the attention with this index (see [`crate::ir::Attention`]) is true.
    /// It broadcasts to (batch, query head, query row, key row).
    Tensor {
        /// Index among the attention's operands.
        operand: usize,
    },
}
