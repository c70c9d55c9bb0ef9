//! coverage: every pair of a query row and a key row that the mask may keep is computed exactly once, and no mask is left
//! out where it masks something.
//!
//! The keys of a chain are progressions; that they are disjoint, and that what is between them is masked for every query
//! row of the chain, is arithmetic on their ends. What a step says about its keys is believed here; `filled` shows that it
//! is true.

use super::chains::Chain;
use super::kept::Kept;
use super::log::{Log, rows_name, step_name};
use super::rows::{Run, sweep};
use crate::layout::Progression;
use crate::mask::Tile;
use crate::schedule::{Schedule, StepOp};

/// Gaps and rows that may be looked at one by one for a whole schedule.
const MOST_WORK: u64 = 1 << 28;

pub(super) fn coverage(schedule: &Schedule, chains: &[Vec<Chain>], log: &mut Log<'_>) {
    let steps = schedule.attention.scores.steps();
    let needed = Kept::needed(steps);
    let unmasked = Kept::unmasked(steps);
    log.each_rank(|r, log| {
        let mut work = MOST_WORK / schedule.ranks.len() as u64;
        for chain in &chains[r] {
            let Some(q) = Run::of(&chain.rows) else { continue };
            let mut keys: Vec<Progression> = Vec::new();
            let mut steps: Vec<usize> = Vec::new();
            for &i in &chain.steps {
                let StepOp::AttnPartial { kv, tile, .. } = &schedule.ranks[r].steps[i].op else { continue };
                for p in kv {
                    keys.push(p.rows);
                    steps.push(i);
                    if *tile == Tile::Full {
                        full(unmasked.as_ref(), &q, &p.rows, (r, i), &mut work, log);
                    }
                }
            }
            let end = chain.steps.last().copied().unwrap_or(schedule.ranks[r].steps.len());
            let hard = || {
                let rows = rows_name(&chain.rows);
                format!("the keys of query {rows} have too many steps to prove that each is met once")
            };
            let Some(sweep) = sweep(&keys, schedule.attention.sizes.kv_len) else {
                log.fail(r, end, hard);
                continue;
            };
            match sweep.overlap {
                None => log.fact(),
                Some((a, b, row)) => {
                    let step = steps[b].max(steps[a]);
                    let other = steps[b].min(steps[a]);
                    log.fail(r, step, || {
                        let by = if other == step {
                            "twice".to_owned()
                        } else {
                            format!("again after {}", step_name(schedule, r, other))
                        };
                        format!("query {} meet key row {row} {by}", rows_name(&chain.rows))
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
                            rows_name(&chain.rows),
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
