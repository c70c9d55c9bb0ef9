//! `annulus check --flight DIR`: where the ranks of a failed run first went different ways.

use super::print;
use super::stop::Stop;
use annulus::exec::flight::{Judged, judge, read_folder};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Report {
    ranks: usize,
    /// Ranks whose records are there.
    records: Vec<usize>,
    /// Ranks that left none.
    without: Vec<usize>,
    damaged: Vec<Damaged>,
    differences: Vec<String>,
    /// Null where no rank waits for another one.
    diverged: Option<Diverged>,
    cause: Vec<Cause>,
}

#[derive(Serialize)]
struct Damaged {
    file: String,
    why: String,
}

#[derive(Serialize)]
struct Diverged {
    group: usize,
    waiting: Vec<usize>,
    missing: Vec<usize>,
}

#[derive(Serialize)]
struct Cause {
    rank: usize,
    /// Null where it left no record.
    says: Option<String>,
}

pub(super) fn run(folder: &Path, json: bool) -> Result<(), Stop> {
    let kept = read_folder(folder).map_err(|e| Stop::Usage(format!("{}: {e}", folder.display())))?;
    if kept.records.is_empty() && kept.damaged.is_empty() {
        return Err(Stop::Usage(format!(
            "{}: there is no record of a rank (rank-N.flight): runs that fail leave them with --flight DIR",
            folder.display()
        )));
    }
    let judged = judge(&kept.records);
    if json {
        let Judged { ranks, without, differences, diverged, cause } = judged;
        return print::json(&Report {
            ranks,
            records: kept.records.iter().map(|r| r.rank).collect(),
            without,
            damaged: kept
                .damaged
                .into_iter()
                .map(|(file, why)| Damaged { file, why: why.to_string() })
                .collect(),
            differences,
            diverged: diverged.map(|(group, waiting, missing)| Diverged { group, waiting, missing }),
            cause: cause.into_iter().map(|(rank, says)| Cause { rank, says }).collect(),
        });
    }
    let mut lines: Vec<String> =
        kept.damaged.iter().take(16).map(|(file, why)| format!("{file} {why}")).collect();
    lines.push(judged.to_string());
    print::text(&lines.join("\n"))
}
