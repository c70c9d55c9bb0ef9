//! coverage: every pair of a query row and a key row that the mask may keep is computed exactly once, and no mask is left
//! out where it masks something.
//!
//! The keys that a result comes from, through carries and merges on whatever ranks, are progressions; that they are disjoint, and
//! that what is between them is masked for every query row, is arithmetic on their ends. What a step says about its keys is believed
//! here; `filled` shows that it is true.

use super::kept::Kept;
use super::log::{Log, heads_name, rows_name, step_name};
use super::results::{Partial, Results};
use super::rows::{Run, sweep};
use crate::layout::Progression;
use crate::mask::Tile;
use crate::schedule::{Schedule, StepOp};

/// Gaps and rows that may be looked at one by one for a whole schedule.
const MOST_WORK: u64 = 1 << 28;

pub(super) fn coverage(schedule: &Schedule, results: &Results, log: &mut Log<'_>) {
    let steps = schedule.attention.scores.steps();
    let needed = Kept::needed(steps);
    let unmasked = Kept::unmasked(steps);
    // The results, by the rank that makes them.
    let mut ends: Vec<Vec<&Partial>> = vec![vec![]; schedule.ranks.len()];
    results.all.iter().filter(|p| p.ends).for_each(|p| ends[p.rank].push(p));
    log.each_rank(|r, log| {
        let mut work = MOST_WORK / schedule.ranks.len() as u64;
        for &last in &ends[r] {
            let Some(q) = Run::of(&last.rows) else { continue };
            let mut keys: Vec<Progression> = Vec::new();
            let mut steps: Vec<(usize, usize)> = Vec::new();
            // Nothing is taken in twice, so that this is a tree.
            let mut open = vec![last];
            while let Some(p) = open.pop() {
                open.extend(results.sources(p).iter().rev().map(|&s| &results.all[s]));
                let at = (p.rank, p.step);
                let StepOp::AttnPartial { kv, tile, .. } = &schedule.ranks[at.0].steps[at.1].op else {
                    continue;
                };
                for piece in kv {
                    keys.push(piece.rows);
                    steps.push(at);
                    if *tile == Tile::Full {
                        full(unmasked.as_ref(), &q, &piece.rows, at, &mut work, log);
                    }
                }
            }
            let end = last.step;
            let of = || rows_name(&last.rows) + &heads_name(last.heads, schedule.attention.sizes.q_heads);
            let hard =
                || format!("the keys of query {} have too many steps to prove that each is met once", of());
            let Some(sweep) = sweep(&keys, schedule.attention.sizes.kv_len) else {
                log.fail(r, end, hard);
                continue;
            };
            match sweep.overlap {
                None => log.fact(),
                Some((a, b, row)) => {
                    let (at, step) = steps[b].max(steps[a]);
                    let (there, other) = steps[b].min(steps[a]);
                    log.fail(at, step, || {
                        let on = if there == at { String::new() } else { format!(" of rank {there}") };
                        let by = if (there, other) == (at, step) {
                            "twice".to_owned()
                        } else {
                            format!("again after {}{on}", step_name(schedule, there, other))
                        };
                        format!("query {} meet key row {row} {by}", of())
                    });
                }
            }
            for gap in &sweep.gaps {
                let left = work.checked_sub(1).map(|left| work = left);
                match left.map(|()| needed.inside(&q, gap, &mut work)) {
                    Some(Ok(None)) => log.fact(),
                    Some(Ok(Some((row, key)))) => log.fail(r, end, || {
                        format!(
                            "query {} never meet key {}: the mask may keep key {key} for query {row}",
                            of(),
                            gap.name()
                        )
                    }),
                    None | Some(Err(_)) => {
                        log.fail(r, end, hard);
                        return;
                    }
                }
            }
        }
    });
}

/// Whether a block that is not masked has no masked pair.
fn full(
    unmasked: Option<&Kept>,
    q: &Run,
    keys: &Progression,
    (rank, step): (usize, usize),
    work: &mut u64,
    log: &mut Log<'_>,
) {
    let Some(k) = Run::of(keys) else { return };
    match unmasked.map(|kept| kept.outside(q, &k, work)) {
        Some(Ok(None)) => log.fact(),
        Some(Ok(Some((row, key)))) => {
            log.fail(rank, step, || format!("is not masked, but the mask hides key {key} from query {row}"));
        }
        Some(Err(_)) => {
            log.fail(rank, step, || {
                "is not masked, and its batch entries are too many to prove it".to_owned()
            });
        }
        None => log.fail(rank, step, || "is not masked, but a tensor may mask any pair".to_owned()),
    }
}
