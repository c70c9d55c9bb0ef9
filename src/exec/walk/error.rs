//! The error of a walk.

use crate::exec::cpu::ExecError;
use crate::exec::flight::Cause;
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
    /// Whose fault it is.
    pub cause: Cause,
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.rank)?;
        self.step.iter().try_for_each(|step| write!(f, ", step {step}"))?;
        write!(f, ", {}: {}", self.op, self.why)
    }
}

impl std::error::Error for WalkError {}

impl From<WalkError> for ExecError {
    fn from(e: WalkError) -> ExecError {
        let step = e.step.map_or(String::new(), |step| format!("step {step}, "));
        ExecError { rank: e.rank, at: format!("{step}{}", e.op), why: e.why }
    }
}
