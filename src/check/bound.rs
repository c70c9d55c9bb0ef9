//! memory: no arena is larger than its strategy needs. The bound is a closed form of shares and of the slots that the schedule
//! says a ring has, not of what the steps do, and for a ring it does not depend on the number of ranks.
//!
//! | strategy | bytes of a rank |
//! |---|---|
//! | `ring`, `ring-reverse` | own keys and values, receive slots as large as the largest share, o, m and l of its rows |
//! | `all-gather`, `all-gather-staged` | own keys and values, those of all ranks, o, m and l of its rows |
//!
//! The text of a schedule names no other strategy.

use super::bytes::{carry_bytes, kv_bytes};
use super::log::Log;
use crate::ir::Strategy;
use crate::layout::Progression;
use crate::schedule::Schedule;

/// What a slot may lose in front of it, so that it begins where copies and vector loads like it.
const ALIGNMENT: u128 = 255;

pub(super) fn memory(schedule: &Schedule, log: &mut Log<'_>) {
    let a = &schedule.attention;
    let rows = |own: &[Progression]| own.iter().map(|p| p.len).sum::<usize>();
    let keys: Vec<u128> = schedule
        .kv_layout
        .rows
        .iter()
        .map(|own| kv_bytes(a, rows(own)).unwrap_or(usize::MAX) as u128)
        .collect();
    let share = keys.iter().copied().max().unwrap_or(0);
    let (others, what) = match schedule.strategy {
        // One share is computed on and sent on while the next arrives, in as many slots as the schedule says.
        Strategy::Ring | Strategy::RingReverse => {
            ((schedule.slots as u128).saturating_mul(share), format!("{} receive slots", schedule.slots))
        }
        Strategy::AllGather | Strategy::AllGatherStaged => {
            (keys.iter().fold(0u128, |sum, k| sum.saturating_add(*k)), "those of all ranks".to_owned())
        }
    };
    for (r, program) in schedule.ranks.iter().enumerate() {
        let carry = carry_bytes(a, rows(&schedule.q_layout.rows[r])).unwrap_or(usize::MAX) as u128;
        let most =
            keys[r].saturating_add(others).saturating_add(carry + ALIGNMENT * program.slots.len() as u128);
        let holds = program.arena_bytes as u128 <= most;
        if holds {
            log.fact();
            continue;
        }
        log.fail_at(r, 0, "arena".to_owned(), || {
            format!(
                "it has {} bytes; the {} strategy needs {most} at most: {} for its keys and values, {others} for {what}, \
                 {carry} for partial results, the rest to align slots",
                program.arena_bytes, schedule.strategy, keys[r]
            )
        });
    }
}
