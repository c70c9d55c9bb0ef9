//! The checks in their order: which needs which, and which run side by side.
//!
//! In: a schedule. Out: the report of all checks. Invariants: nothing runs before `form` holds; `deadlock` and `filled` run
//! if `matching` holds, and `labels` holds only where they ran; all others need only `form`. The report has one order,
//! whatever runs first.

use super::log::Log;
use super::report::{MOST_FAILURES, Report};
use super::{bound, chains, coverage, form, labels, matching, merge, race, replay, sizes};
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
    let ((deadlock, filled, travelled), (race, rest, mut labels)) = (ran, apart);
    for mut part in [deadlock, race, filled, rest] {
        report.passed.append(&mut part.passed);
        report.failed.append(&mut part.failed);
    }
    let all = travelled.map(|log| labels.join(log)).is_some();
    // What a part of the messages had proves nothing, but what is wrong is wrong.
    if all || labels.failed() {
        labels.close(report);
    }
}

/// deadlock and filled, if messages match, and what messages had if all steps ran or something is wrong with it.
fn run<'a>(schedule: &'a Schedule, links: Option<&matching::Links>) -> (Report, Report, Option<Log<'a>>) {
    let (mut deadlocked, mut unfilled, mut travelled) = (Report::default(), Report::default(), None);
    if let Some(links) = links {
        let (mut deadlock, mut filled) = (Log::new(schedule, "deadlock"), Log::new(schedule, "filled"));
        let mut labels = Log::new(schedule, "labels");
        let ran = replay::replay(schedule, links, &mut deadlock, &mut filled, &mut labels);
        deadlock.close(&mut deadlocked);
        // What a part of the steps filled proves nothing, but what it finds wrong is wrong.
        if ran || filled.failed() {
            filled.close(&mut unfilled);
        }
        travelled = (ran || labels.failed()).then_some(labels);
    }
    (deadlocked, unfilled, travelled)
}

/// race; what needs no order of the steps; and of labels what does not.
fn alone(schedule: &Schedule) -> (Report, Report, Log<'_>) {
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
    let mut log = Log::new(schedule, "labels");
    labels::labels(schedule, &mut log);
    (races, rest, log)
}
