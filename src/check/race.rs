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
    let accesses = Accesses::of(program);
    let mut cuts: Vec<usize> = accesses.all.iter().flat_map(|a| [a.0, a.1]).collect();
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
        for &(start, end, write) in accesses.at(i) {
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
    accesses: &Accesses,
    (start, end): (usize, usize),
    log: &mut Log<'_>,
) {
    // The bytes that both touch.
    let theirs = accesses.at(other).iter().find(|a| a.2 == wrote && a.0 < end && a.1 > start);
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

/// What each step reads, then what it writes, one step behind the other. A carry that is read and written in place is one
/// write. A step's own reads and writes have no order among themselves.
struct Accesses {
    all: Vec<Access>,
    ends: Vec<usize>,
}

impl Accesses {
    fn of(program: &RankProgram) -> Accesses {
        let steps = program.steps.len();
        let mut out = Accesses { all: Vec::with_capacity(2 * steps), ends: Vec::with_capacity(steps) };
        for step in &program.steps {
            let mut add = |v: &View, write: bool| {
                let start = program.slots[v.slot].offset + v.start;
                out.all.push((start, start + v.bytes, write));
            };
            match &step.op {
                StepOp::Pack { pieces } => pieces.iter().for_each(|p| add(&p.at, true)),
                StepOp::Exchange { sends, recvs, .. } => {
                    sends.iter().flat_map(|t| &t.views).for_each(|v| add(v, false));
                    recvs.iter().flat_map(|t| &t.views).for_each(|v| add(v, true));
                }
                StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
                    kv.iter().for_each(|p| add(&p.at, false));
                    if *carry_in || !cast_out {
                        q.iter().filter_map(|p| p.carry.as_ref()).for_each(|v| add(v, !cast_out));
                    }
                }
            }
            out.ends.push(out.all.len());
        }
        out
    }

    fn at(&self, step: usize) -> &[Access] {
        let from = step.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[from..self.ends[step]]
    }
}
