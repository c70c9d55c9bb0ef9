//! `annulus check`.

use super::args::Check;
use super::print;
use super::stop::Stop;
use super::text_file::name;
use annulus::check;
use annulus::dump::report::{CheckFailure, Checks};
use annulus::schedule;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct CheckReport {
    ranks: usize,
    checks: Checks,
    ok: bool,
}

pub(crate) fn run(args: &Check) -> Result<(), Stop> {
    match (&args.flight, &args.schedule) {
        (Some(folder), _) => super::flight::run(folder, args.json),
        (None, Some(schedule)) => proved(args, schedule),
        (None, None) => Err(Stop::Usage("a schedule is wanted, or --flight DIR".into())),
    }
}

fn proved(args: &Check, path: &Path) -> Result<(), Stop> {
    let text = super::text_file::read_text(path)?;
    let schedules =
        schedule::parse(&text).map_err(|e| Stop::Usage(format!("{} is no schedule\n{e}", name(path))))?;
    let mut checks = Checks::default();
    let mut lines = Vec::new();
    for (nth, s) in schedules.iter().enumerate() {
        let report = check::check(s);
        let proved: Vec<String> =
            report.passed.iter().map(|p| format!("{} ({} facts)", p.check, p.facts)).collect();
        if report.failed.is_empty() {
            lines.push(format!("{}: proved: {}", s.name, proved.join(", ")));
        } else {
            lines.push(format!("{}: NOT proved", s.name));
        }
        for f in &report.failed {
            lines.push(format!("  {}: rank {}, step #{} ({}): {}", f.check, f.rank, f.step, f.op, f.message));
            // A fault of the head or of an arena has no step.
            let line = schedule::line_of(&text, nth, f.rank, f.step);
            if let Some((number, line)) = line.filter(|(_, line)| line.contains(&f.op)) {
                lines.push(format!("    line {number}: {line}"));
            }
        }
        // What was not asked of one schedule, since another check failed there, has not passed.
        let passed = report.passed.iter().map(|p| p.check.to_owned());
        if nth == 0 {
            checks.passed.extend(passed);
        } else {
            checks.passed.retain(|c| report.passed.iter().any(|p| p.check == *c));
        }
        checks.failed.extend(report.failed.iter().map(CheckFailure::from));
    }
    // A check that fails anywhere has not passed.
    checks.passed.retain(|p| !checks.failed.iter().any(|f| f.check == *p));
    let ok = checks.failed.is_empty();
    let faults = checks.failed.len();
    if args.json {
        let ranks = schedules.iter().map(|s| s.ranks.len()).max().unwrap_or(0);
        print::json(&CheckReport { ranks, checks, ok })?;
    } else {
        print::text(&lines.join("\n"))?;
    }
    if ok { Ok(()) } else { Err(Stop::Failed(format!("{faults} faults in {}", name(path)))) }
}
