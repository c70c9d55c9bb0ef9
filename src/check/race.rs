//! race: two accesses to the same byte, one of them a write, are ordered by streams and events.
//!
//! Vector clocks, rank by rank: a step knows, of each stream, up to which step it is surely done. An event carries the
//! clock of the step that records it. Order that comes from messages through other ranks is not counted. The arena is cut
//! where any access begins or ends, and of each cut the last reader and the last writer of each stream are kept: the steps
//! of one stream are ordered, so that the last one stands for all.

use super::log::{Log, step_name};
use crate::schedule::{RankProgram, Schedule, StepOp, View};

/// How many cuts may be touched in one rank.
const MOST_WORK: usize = 1 << 28;

pub(super) fn race(schedule: &Schedule, log: &mut Log<'_>) {
    log.each_rank(|r, log| rank(schedule, r, &schedule.ranks[r], log));
}

/// Of each stream, one more than the last step that is surely done.
type Clock = [usize; 2];

/// The last accesses of each stream to one cut of the arena: one more than the step, 0 for none.
#[derive(Clone, Copy, Default)]
struct Last {
    read: Clock,
    write: Clock,
}

/// One access: first byte, end, whether it writes.
type Access = (usize, usize, bool);

fn rank(schedule: &Schedule, r: usize, program: &RankProgram, log: &mut Log<'_>) {
    let accesses: Vec<Vec<Access>> = program.steps.iter().map(|s| accesses(program, &s.op)).collect();
    let mut cuts: Vec<usize> = accesses.iter().flatten().flat_map(|a| [a.0, a.1]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut last = vec![Last::default(); cuts.len()];
    let mut clocks: [Clock; 2] = [[0; 2]; 2];
    // By number: `form` has shown that numbers are small.
    let mut events: Vec<Clock> = vec![[0; 2]; program.steps.len()];
    let mut work = 0usize;
    for (i, step) in program.steps.iter().enumerate() {
        let stream = step.stream as usize;
        let mut clock = clocks[stream];
        for e in &step.waits {
            let event = events.get(*e).copied().unwrap_or_default();
            clock = [clock[0].max(event[0]), clock[1].max(event[1])];
        }
        for &(start, end, write) in &accesses[i] {
            let from = cuts.partition_point(|&c| c < start);
            let to = cuts.partition_point(|&c| c < end);
            work = work.saturating_add(to - from);
            if work > MOST_WORK {
                log.fail(r, i, || "its transfers and views overlap too often to prove an order".to_owned());
                return;
            }
            let mut told = None;
            for at in &mut last[from..to] {
                if let Some((other, wrote)) = conflict(at, clock, i, write) {
                    if told != Some(other) {
                        told = Some(other);
                        tell(schedule, (r, i, write), (other, wrote), &accesses, (start, end), log);
                    }
                } else {
                    log.fact();
                }
                if write {
                    at.write[stream] = i + 1;
                } else {
                    at.read[stream] = i + 1;
                }
            }
        }
        clock[stream] = i + 1;
        clocks[stream] = clock;
        if let Some(event) = step.records.and_then(|e| events.get_mut(e)) {
            *event = clock;
        }
    }
}

/// The step, and whether it wrote, whose access to the cut is not ordered before this one of step `i`.
fn conflict(last: &Last, clock: Clock, i: usize, write: bool) -> Option<(usize, bool)> {
    let late = |done: Clock| (0..2).find(|&s| done[s] > clock[s]).map(|s| done[s] - 1);
    debug_assert!(last.read.iter().chain(&last.write).all(|&s| s <= i + 1));
    late(last.write).map(|s| (s, true)).or_else(|| late(last.read).filter(|_| write).map(|s| (s, false)))
}

fn tell(
    schedule: &Schedule,
    (r, i, write): (usize, usize, bool),
    (other, wrote): (usize, bool),
    accesses: &[Vec<Access>],
    (start, end): (usize, usize),
    log: &mut Log<'_>,
) {
    // The bytes that both touch.
    let theirs = accesses[other].iter().find(|a| a.2 == wrote && a.0 < end && a.1 > start);
    let (from, to) = theirs.map_or((start, end), |a| (a.0.max(start), a.1.min(end)));
    let slots: Vec<String> = schedule.ranks[r]
        .slots
        .iter()
        .filter(|s| s.offset < to && s.offset + s.bytes > from)
        .map(|s| s.name.escape_debug().to_string())
        .collect();
    let does = |w: bool| if w { "writes" } else { "reads" };
    log.fail(r, i, || {
        let bytes = format!("bytes {from}..{to} of the arena ({})", slots.join(", "));
        if other == i {
            format!("{} {bytes} and {} them in the same step", does(write), does(wrote))
        } else {
            let name = step_name(schedule, r, other);
            format!("{} {bytes}, which {name} {}, and nothing says which is first", does(write), does(wrote))
        }
    });
}

/// What a step reads, then what it writes. A carry that is read and written in place is one write. A step's own reads and
/// writes have no order among themselves.
fn accesses(program: &RankProgram, op: &StepOp) -> Vec<Access> {
    let at = |v: &View, write: bool| {
        let start = program.slots[v.slot].offset + v.start;
        (start, start + v.bytes, write)
    };
    match op {
        StepOp::Pack { pieces } => pieces.iter().map(|p| at(&p.at, true)).collect(),
        StepOp::Exchange { sends, recvs, .. } => {
            let sent = sends.iter().flat_map(|t| &t.views).map(|v| at(v, false));
            sent.chain(recvs.iter().flat_map(|t| &t.views).map(|v| at(v, true))).collect()
        }
        StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
            let keys = kv.iter().map(|p| at(&p.at, false));
            let used = *carry_in || !cast_out;
            let carries = q.iter().filter_map(|p| p.carry.as_ref().filter(|_| used));
            keys.chain(carries.map(|v| at(v, !cast_out))).collect()
        }
    }
}
