//! The error of a walk.

use std::fmt;

/// Why a device program did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalkError {
    /// The rank.
    pub rank: usize,
    /// The step of the schedule, if it is known.
    pub step: Option<usize>,
    /// The operation.
    pub op: String,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.rank)?;
        self.step.iter().try_for_each(|step| write!(f, ", step {step}"))?;
        write!(f, ", {}: {}", self.op, self.why)
    }
}

impl std::error::Error for WalkError {}
