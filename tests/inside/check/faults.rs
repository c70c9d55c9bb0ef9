//! Every planted fault is named by a check whose business it is.

use super::case::Case;
use super::corpus::{corpus, example, travelling, with_sinks};
use super::plant::{KINDS, Kind};
use super::plant_travel;
use super::right::CHECKS;
use super::sound::computes;
use super::travel::OF_NO_STRATEGY;
use crate::inside::support::cases::snapshot;
use crate::inside::support::data::say;
use annulus::check::{Report, check};
use annulus::mask::Tile;
use annulus::schedule::{Schedule, StepOp};
use rayon::prelude::*;
use std::fmt::Write;

/// Every how many-th schedule of the corpus a kind of fault is planted in.
const SHARE: usize = 23;

/// What became of the faults of one kind.
#[derive(Default)]
struct Outcome {
    planted: usize,
    harmless: usize,
    survivors: Vec<String>,
}

/// A kind of fault at every place of every `share`-th schedule from the `first` on. What the checks `besides` say is not listened to.
fn plant(
    kind: &Kind,
    corpus: &[(String, Case, Schedule)],
    (first, share): (usize, usize),
    besides: &[&str],
) -> Outcome {
    let mut out = Outcome::default();
    for (name, case, schedule) in corpus.iter().skip(first % share).step_by(share) {
        for (fault, rank, step) in (kind.plant)(schedule) {
            out.planted += 1;
            let mut report = check(&fault);
            assert!(consistent(&report), "{} in {name}: {report:?}", kind.name);
            report.failed.retain(|f| !besides.contains(&f.check));
            if report.failed.is_empty() && computes(case, &fault, 7).is_ok() {
                // Keys that a gather brings and nobody here reads may lie anywhere; blocks that a narrow window jumps over, stripe by
                // stripe, need not be computed.
                out.harmless += 1;
                continue;
            }
            if !report.failed.iter().any(|f| kind.checks.contains(&f.check)) {
                let found: Vec<&str> = report.failed.iter().map(|f| f.check).collect();
                out.survivors.push(format!("{} in {name}, rank {rank}, step {step}: {found:?}", kind.name));
            }
        }
    }
    out
}

/// No check both holds and fails, and faults are in order.
fn consistent(report: &Report) -> bool {
    let at = |check: &str| CHECKS.iter().position(|c| *c == check).unwrap();
    let keys: Vec<(usize, usize, usize)> =
        report.failed.iter().map(|f| (at(f.check), f.rank, f.step)).collect();
    keys.is_sorted() && report.passed.iter().all(|p| report.failed.iter().all(|f| f.check != p.check))
}

#[test]
fn what_is_only_slower_is_no_fault() {
    // A mask applied where nothing is masked, an event that nobody needs, a wait that another one implies.
    for (name, _, schedule) in corpus().iter().step_by(3) {
        let mut slower = schedule.clone();
        for rank in &mut slower.ranks {
            let mut last = None;
            for (i, step) in rank.steps.iter_mut().enumerate() {
                if let StepOp::AttnPartial { tile, .. } = &mut step.op {
                    *tile = Tile::Partial;
                }
                step.waits.extend(last);
                last = Some(*step.records.get_or_insert(i));
            }
        }
        assert_eq!(check(&slower).failed, [], "{name}");
    }
}

/// A fault of each kind, in the middle of the first schedule that can have it, and what is said of it.
fn told(kinds: &[Kind], schedules: &[Schedule], besides: &[&str]) -> String {
    let mut out = String::new();
    for kind in kinds {
        // In the middle of the program, where most is around it.
        let all = schedules.iter().map(kind.plant).find(|all| !all.is_empty()).unwrap();
        let (fault, rank, step) = &all[all.len() / 2];
        let _ = writeln!(out, "{} (rank {rank}, step {step})", kind.name);
        let mut failed = check(fault).failed;
        failed.retain(|f| !besides.contains(&f.check));
        for f in failed.iter().take(4) {
            let _ =
                writeln!(out, "    {}: rank {}, step {}, {}: {}", f.check, f.rank, f.step, f.op, f.message);
        }
        match failed.len().saturating_sub(4) {
            0 => {}
            more => {
                let _ = writeln!(out, "    and {more} more");
            }
        }
    }
    out
}

#[test]
fn messages() {
    snapshot("check", "planted_faults", &told(KINDS, &[example(), with_sinks()], &[]));
    let schedules: Vec<Schedule> = travelling().into_iter().map(|(_, _, schedule)| schedule).collect();
    let out = told(plant_travel::KINDS, &schedules[4..], &OF_NO_STRATEGY);
    snapshot("check", "planted_faults_of_what_travels", &out);
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// Each kind at every operation to which it applies, and each is reported, or shown harmless by the executor.
    #[test]
    fn every_planted_fault_is_named() {
        let corpus = corpus();
        // Each kind takes other schedules; all kinds together take all.
        let outcomes: Vec<Outcome> =
            KINDS.par_iter().enumerate().map(|(k, kind)| plant(kind, &corpus, (k, SHARE), &[])).collect();
        let survivors: Vec<&String> = outcomes.iter().flat_map(|o| &o.survivors).collect();
        assert!(survivors.is_empty(), "{}: {survivors:#?}", survivors.len());
        let (planted, harmless) = outcomes.iter().fold((0, 0), |n, o| (n.0 + o.planted, n.1 + o.harmless));
        say(&format!("{planted} planted faults, {harmless} of them harmless"));
        for (kind, o) in KINDS.iter().zip(&outcomes) {
            assert!(o.planted >= 8, "{}: {}", kind.name, o.planted);
            let few = o.harmless * 2 < o.planted;
            assert!(few, "{}: {} of {} are harmless", kind.name, o.harmless, o.planted);
        }
    }

    /// The same where queries and heads travel: faults of every kind, old and new, in every schedule.
    #[test]
    fn every_fault_of_what_travels_is_named() {
        let corpus = travelling();
        let kinds =
            || KINDS.par_iter().map(|k| (k, false)).chain(plant_travel::KINDS.par_iter().map(|k| (k, true)));
        let outcomes: Vec<Outcome> =
            kinds().map(|(kind, _)| plant(kind, &corpus, (0, 1), &OF_NO_STRATEGY)).collect();
        let survivors: Vec<&String> = outcomes.iter().flat_map(|o| &o.survivors).collect();
        assert!(survivors.is_empty(), "{}: {survivors:#?}", survivors.len());
        let (planted, harmless) = outcomes.iter().fold((0, 0), |n, o| (n.0 + o.planted, n.1 + o.harmless));
        say(&format!("{planted} faults planted where queries and heads travel, {harmless} of them harmless"));
        for ((kind, new), o) in kinds().collect::<Vec<_>>().into_iter().zip(&outcomes) {
            assert!(!new || o.planted >= 8, "{}: {}", kind.name, o.planted);
            // Some kinds are of these checks alone.
            let few = o.harmless * 2 <= o.planted || kind.checks.iter().all(|c| OF_NO_STRATEGY.contains(c));
            assert!(few, "{}: {} of {} are harmless", kind.name, o.harmless, o.planted);
        }
    }

    /// Every wait and every record of the whole corpus, one at a time: without it the proof says what is no longer ordered.
    #[test]
    fn no_event_can_be_left_out() {
        let corpus = corpus();
        let kinds = ["a wait is removed", "an event is not recorded"];
        let kinds = kinds.map(|name| KINDS.iter().find(|k| k.name == name).unwrap());
        let removed =
            corpus.par_chunks(8).flat_map_iter(|some| kinds.map(|kind| plant(kind, some, (0, 1), &[])));
        let (planted, unseen) = removed
            .map(|o| {
                assert!(o.survivors.is_empty(), "{:#?}", o.survivors);
                (o.planted, o.harmless)
            })
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert!(planted > 10_000 && unseen == 0, "{unseen} of {planted} are not needed");
    }
}
