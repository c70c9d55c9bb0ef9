//! What the proof gives: the checks that hold, and the faults.

/// At most so many faults are reported.
pub(crate) const MOST_FAILURES: usize = 100;

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
    /// The step of that rank; the number of its steps where a fault belongs to none of them.
    pub step: usize,
    /// The operation of that step; else the part of the schedule.
    pub op: String,
    /// What is wrong, with the conflicting pair.
    pub message: String,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Checks that hold, in order.
    pub passed: Vec<Passed>,
    /// Faults, in order of check, rank and step; at most [`MOST_FAILURES`].
    pub failed: Vec<Failure>,
}
