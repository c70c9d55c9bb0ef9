//! check: the proof. Reads a [`Schedule`] and nothing else.
//!
//! In: a schedule of all ranks, from this pass or from a file that anyone wrote. Out: a [`Report`]: which checks hold and
//! how many facts each proved, or what is wrong and where.
//!
//! Invariants: it shares no code with mask/, layout/, ring/, schedule/ or exec/ beyond the types. It has its own meaning
//! of masks (`kept`) and of rows (`rows`), and follows rows through copies and messages (`memory`) instead of
//! believing what a step says about them. Nothing in a schedule can make it panic: sizes are computed with checked or
//! 128-bit arithmetic, and no check but `form` runs before all numbers are known to be in range.
//!
//! | check | what holds |
//! |---|---|
//! | `form` | indices, ranges and sizes fit; layouts own every row once; events are recorded before they are waited for |
//! | `matching` | the k-th send of a rank to another is its k-th receive in group, kind and bytes; groups have one order |
//! | `deadlock` | with no buffering at all, every step of every rank runs |
//! | `race` | of two accesses to a byte, one of them a write, streams and events order which is first |
//! | `filled` | bytes that are read hold what the step says that they hold |
//! | `coverage` | every pair of rows that the mask may keep is computed exactly once |
//! | `merge once` | every output row is one chain of partial results, written by its last, its sinks counted once |
//! | `memory` | no arena is larger than the closed form of its strategy |
//! | `sizes` | every count and offset fits a signed 64-bit integer |
//!
//! A check that another one needs is not run if that one fails: it is then neither passed nor failed.

mod bound;
mod chains;
mod coverage;
mod form;
mod kept;
mod log;
mod matching;
mod memory;
mod merge;
mod race;
mod replay;
mod rows;
mod sizes;

use crate::schedule::Schedule;
use log::Log;

/// At most so many faults are reported.
pub const MOST_FAILURES: usize = 100;

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

/// Proves a schedule.
pub fn check(schedule: &Schedule) -> Report {
    let mut report = Report::default();
    checks(schedule, &mut report);
    report.failed.truncate(MOST_FAILURES);
    report
}

fn checks(schedule: &Schedule, report: &mut Report) {
    let mut log = Log::new(schedule, "form");
    form::form(schedule, &mut log);
    if !log.close(report) {
        return;
    }
    let mut log = Log::new(schedule, "matching");
    let links = matching::matching(schedule, &mut log);
    log.close(report);
    // Two halves of about the same work; neither needs the other.
    let (ran, apart) = rayon::join(|| run(schedule, links.as_ref()), || alone(schedule));
    let ((deadlock, filled), (race, rest)) = (ran, apart);
    for mut part in [deadlock, race, filled, rest] {
        report.passed.append(&mut part.passed);
        report.failed.append(&mut part.failed);
    }
}

/// deadlock and filled, if messages match.
fn run(schedule: &Schedule, links: Option<&matching::Links>) -> (Report, Report) {
    let (mut deadlocked, mut unfilled) = (Report::default(), Report::default());
    if let Some(links) = links {
        let (mut deadlock, mut filled) = (Log::new(schedule, "deadlock"), Log::new(schedule, "filled"));
        let ran = replay::replay(schedule, links, &mut deadlock, &mut filled);
        deadlock.close(&mut deadlocked);
        // What a part of the steps filled proves nothing, but what it finds wrong is wrong.
        if ran || filled.failed() {
            filled.close(&mut unfilled);
        }
    }
    (deadlocked, unfilled)
}

/// race; and what needs no order of the steps.
fn alone(schedule: &Schedule) -> (Report, Report) {
    let (mut races, mut rest) = (Report::default(), Report::default());
    let mut log = Log::new(schedule, "race");
    race::race(schedule, &mut log);
    log.close(&mut races);
    let chains = chains::chains(schedule);
    let mut log = Log::new(schedule, "coverage");
    coverage::coverage(schedule, &chains, &mut log);
    log.close(&mut rest);
    let mut log = Log::new(schedule, "merge once");
    merge::merge_once(schedule, &chains, &mut log);
    log.close(&mut rest);
    let mut log = Log::new(schedule, "memory");
    bound::memory(schedule, &mut log);
    log.close(&mut rest);
    let mut log = Log::new(schedule, "sizes");
    sizes::sizes(schedule, &mut log);
    log.close(&mut rest);
    (races, rest)
}
