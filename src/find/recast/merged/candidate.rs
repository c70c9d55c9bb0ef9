//! What was found to be an attention in parts.

use super::judge::Verdict;
use crate::ir::{OpId, ValueId};
use std::collections::BTreeSet;

/// A result that is an attention.
pub(super) struct Candidate {
    pub(super) v: ValueId,
    pub(super) verdict: Verdict,
    /// Logarithms of its sum that something reads.
    pub(super) logs: Vec<ValueId>,
    /// What it is made of, scores included.
    pub(super) inside: BTreeSet<OpId>,
}
