//! Every planted fault is named by a check whose business it is.

use crate::corpus::{corpus, example, with_sinks};
use crate::plant::KINDS;
use crate::right::CHECKS;
use crate::sound::computes;
use annulus::check::{Report, check};
use annulus::mask::Tile;
use annulus::schedule::StepOp;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Every how many-th schedule of the corpus a kind of fault is planted in.
const SHARE: usize = 37;

#[test]
fn every_planted_fault_is_named() {
    let corpus = corpus();
    let mut planted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut harmless: BTreeMap<&str, usize> = BTreeMap::new();
    let mut survivors: Vec<String> = Vec::new();
    for (k, kind) in KINDS.iter().enumerate() {
        // Each kind takes other schedules; all kinds together take all.
        for (name, case, schedule) in corpus.iter().skip(k % SHARE).step_by(SHARE) {
            for (fault, rank, step) in (kind.plant)(schedule) {
                *planted.entry(kind.name).or_default() += 1;
                let report = check(&fault);
                if report.failed.is_empty() && computes(case, &fault, 7).is_ok() {
                    // Keys that a gather brings and nobody here reads may lie anywhere.
                    *harmless.entry(kind.name).or_default() += 1;
                    continue;
                }
                if !report.failed.iter().any(|f| kind.checks.contains(&f.check)) {
                    let found: Vec<&str> = report.failed.iter().map(|f| f.check).collect();
                    survivors.push(format!("{} in {name}, rank {rank}, step {step}: {found:?}", kind.name));
                }
                assert!(consistent(&report), "{} in {name}: {report:?}", kind.name);
            }
        }
    }
    assert!(survivors.is_empty(), "{} of {planted:?}:\n{}", survivors.len(), survivors.join("\n"));
    // And where stripes meet documents, a block may be computed in which no pair is kept.
    let allowed =
        ["keys are received in another slot", "keys are sent from another slot", "a chunk of keys is lost"];
    assert!(
        harmless.iter().all(|(name, &n)| allowed.contains(name) && n * 2 < planted[name]),
        "{harmless:?}"
    );
    for kind in KINDS {
        assert!(planted.get(kind.name).is_some_and(|&n| n >= 8), "{}: {planted:?}", kind.name);
    }
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
            let mut events = rank.steps.iter().filter(|s| s.records.is_some()).count();
            let mut last = None;
            for step in &mut rank.steps {
                if let StepOp::AttnPartial { tile, .. } = &mut step.op {
                    *tile = Tile::Partial;
                }
                step.waits.extend(last);
                if step.records.is_none() {
                    step.records = Some(events);
                    events += 1;
                }
                last = step.records;
            }
        }
        assert_eq!(check(&slower).failed, [], "{name}");
    }
}

#[test]
fn messages() {
    let schedules = [example(), with_sinks()];
    let mut out = String::new();
    for kind in KINDS {
        // In the middle of the program, where most is around it.
        let all = schedules.iter().map(kind.plant).find(|all| !all.is_empty()).unwrap();
        let (fault, rank, step) = &all[all.len() / 2];
        let _ = writeln!(out, "{} (rank {rank}, step {step})", kind.name);
        let report = check(fault);
        for f in report.failed.iter().take(4) {
            let _ =
                writeln!(out, "    {}: rank {}, step {}, {}: {}", f.check, f.rank, f.step, f.op, f.message);
        }
        match report.failed.len().saturating_sub(4) {
            0 => {}
            more => {
                let _ = writeln!(out, "    and {more} more");
            }
        }
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/check"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("planted_faults", out));
}
