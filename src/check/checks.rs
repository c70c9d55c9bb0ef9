//! The checks in their order: which needs which, and which run side by side.
//!
//! In: a schedule. Out: the report of all checks. Invariants: nothing runs before `form` holds; `deadlock` and `filled` run
//! if `matching` holds, `merge once` if all steps ran, `coverage` if nothing is taken in twice besides, and `labels` holds only
//! then; all others need only `form`. The report has one order, whatever runs first.

use super::log::Log;
use super::report::{MOST_FAILURES, Report};
use super::results::Results;
use super::{bound, coverage, form, labels, matching, merge, race, replay, sizes};
use crate::schedule::Schedule;

/// Proves a schedule. [`guide::proof`](crate::guide::proof) says what each check shows, and has an example of a schedule that is wrong.
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
    let (Ran { deadlock, filled, travelled, results }, (race, rest, mut labels)) = (ran, apart);
    let followed = results.map(|results| followed(schedule, &results)).unwrap_or_default();
    for mut part in [deadlock, race, filled, followed, rest] {
        report.passed.append(&mut part.passed);
        report.failed.append(&mut part.failed);
    }
    let all = travelled.map(|log| labels.join(log)).is_some();
    // What a part of the messages had proves nothing, but what is wrong is wrong.
    if all || labels.failed() {
        labels.close(report);
    }
}

/// What running the steps shows.
#[derive(Default)]
struct Ran<'a> {
    deadlock: Report,
    filled: Report,
    /// What messages had, if all steps ran or something is wrong with it.
    travelled: Option<Log<'a>>,
    /// If all steps ran.
    results: Option<Results>,
}

/// deadlock and filled, if messages match.
fn run<'a>(schedule: &'a Schedule, links: Option<&matching::Links>) -> Ran<'a> {
    let mut out = Ran::default();
    if let Some(links) = links {
        let (mut deadlock, mut filled) = (Log::new(schedule, "deadlock"), Log::new(schedule, "filled"));
        let mut labels = Log::new(schedule, "labels");
        out.results = replay::replay(schedule, links, &mut deadlock, &mut filled, &mut labels);
        let ran = out.results.is_some();
        deadlock.close(&mut out.deadlock);
        // What a part of the steps filled proves nothing, but what it finds wrong is wrong.
        if ran || filled.failed() {
            filled.close(&mut out.filled);
        }
        out.travelled = (ran || labels.failed()).then_some(labels);
    }
    out
}

/// coverage and merge once, which follow partial results through all ranks.
fn followed(schedule: &Schedule, results: &Results) -> Report {
    let mut report = Report::default();
    if results.are_trees() {
        let mut log = Log::new(schedule, "coverage");
        coverage::coverage(schedule, results, &mut log);
        log.close(&mut report);
    }
    let mut log = Log::new(schedule, "merge once");
    merge::merge_once(schedule, results, &mut log);
    log.close(&mut report);
    report
}

/// race; what needs no order of the steps; and of labels what does not.
fn alone(schedule: &Schedule) -> (Report, Report, Log<'_>) {
    let (mut races, mut rest) = (Report::default(), Report::default());
    let mut log = Log::new(schedule, "race");
    race::race(schedule, &mut log);
    log.close(&mut races);
    let mut log = Log::new(schedule, "memory");
    bound::memory(schedule, &mut log);
    log.close(&mut rest);
    let mut log = Log::new(schedule, "sizes");
    sizes::sizes(schedule, &mut log);
    log.close(&mut rest);
    let mut log = Log::new(schedule, "labels");
    labels::labels(schedule, &mut log);
    (races, rest, log)
}
