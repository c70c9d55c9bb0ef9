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
///
/// ```
/// let text = r#"schedule "o" all-gather {
///   attention q f32[1,1,2,1] k f32[1,1,2,1] v f32[1,1,2,1] acc f32 empty zero
///   scores factor 1.0 | fill -inf unless causal(0)
///   q_layout  contiguous 2 { 0:2 }
///   kv_layout contiguous 2 { 0:2 }
///   rank 0 arena 16 {
///     slot kv.local 0..16
///     #0 compute  pack kv 0:2@kv.local[0..16]
///     #1 compute  attn_partial full cast_out q 0:2 k 0:2@kv.local[0..16]
///   }
/// }
/// "#;
/// let report = annulus::check::check(&annulus::schedule::parse(text)?[0]);
/// // The step says that no pair is masked, but query row 0 does not see key row 1.
/// let failure = &report.failed[0];
/// assert_eq!((failure.check, failure.rank), ("coverage", 0));
/// assert!(report.passed.iter().any(|p| p.check == "race"));
/// # Ok::<(), annulus::schedule::ParseScheduleError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Checks that hold, in order.
    pub passed: Vec<Passed>,
    /// Faults, in order of check, rank and step; at most 100.
    pub failed: Vec<Failure>,
}
