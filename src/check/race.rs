//! race: two accesses to the same byte, one of them a write, are ordered by streams and events.
//!
//! Vector clocks, rank by rank: a step knows, of each stream, up to which step it is surely done. An event carries the
//! clock of the step that records it. Order that comes from messages through other ranks is not counted. The arena is cut
//! where any access begins or ends, and of each cut the last reader and the last writer of each stream are kept: the steps
//! of one stream are ordered, so that the last one stands for all.

use super::form::MOST_AXES;
use super::log::{Log, step_name};
use super::touch::{Touch, touches};
use crate::schedule::{RankProgram, Schedule};

/// How many cuts may be touched in one rank.
const MOST_WORK: usize = 1 << 28;

pub(super) fn race(schedule: &Schedule, log: &mut Log<'_>) {
    // Of each stream two numbers are kept for every cut: no more streams than there are.
    match schedule.mesh.axes.len() {
        0 | 1 => log.each_rank(|r, log| rank::<2>(schedule, r, &schedule.ranks[r], log)),
        2 => log.each_rank(|r, log| rank::<3>(schedule, r, &schedule.ranks[r], log)),
        _ => log.each_rank(|r, log| rank::<{ MOST_AXES + 1 }>(schedule, r, &schedule.ranks[r], log)),
    }
}

/// Of each stream, one more than the last step that is surely done.
type Clock<const STREAMS: usize> = [usize; STREAMS];

/// The last accesses of each stream to one cut of the arena: one more than the step, 0 for none.
#[derive(Clone, Copy)]
struct Last<const STREAMS: usize> {
    read: Clock<STREAMS>,
    write: Clock<STREAMS>,
}

/// One access: first byte, end, whether it writes.
type Access = (usize, usize, bool);

fn rank<const STREAMS: usize>(schedule: &Schedule, r: usize, program: &RankProgram, log: &mut Log<'_>) {
    let accesses = Accesses::of(program);
    let mut cuts: Vec<usize> = accesses.all.iter().flat_map(|a| [a.0, a.1]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut last = vec![Last { read: [0; STREAMS], write: [0; STREAMS] }; cuts.len()];
    let mut clocks: [Clock<STREAMS>; STREAMS] = [[0; STREAMS]; STREAMS];
    // By number: `form` has shown that numbers are small.
    let mut events: Vec<Clock<STREAMS>> = vec![[0; STREAMS]; program.steps.len()];
    let mut work = 0usize;
    for (i, step) in program.steps.iter().enumerate() {
        let stream = step.stream.lane();
        let mut clock = clocks[stream];
        for e in &step.waits {
            let Some(event) = events.get(*e) else { continue };
            clock.iter_mut().zip(event).for_each(|(c, e)| *c = (*c).max(*e));
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
fn conflict<const STREAMS: usize>(
    last: &Last<STREAMS>,
    clock: Clock<STREAMS>,
    i: usize,
    write: bool,
) -> Option<(usize, bool)> {
    let late = |done: Clock<STREAMS>| (0..STREAMS).find(|&s| done[s] > clock[s]).map(|s| done[s] - 1);
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

/// What each step reads, then what it writes, one step behind the other. A step's own reads and writes have no order among
/// themselves.
struct Accesses {
    all: Vec<Access>,
    ends: Vec<usize>,
}

impl Accesses {
    fn of(program: &RankProgram) -> Accesses {
        let steps = program.steps.len();
        let mut out = Accesses { all: Vec::with_capacity(2 * steps), ends: Vec::with_capacity(steps) };
        for step in &program.steps {
            touches(&step.op, |v, touch| {
                let start = program.slots[v.slot].offset + v.start;
                out.all.push((start, start + v.bytes, touch != Touch::Reads));
            });
            out.ends.push(out.all.len());
        }
        out
    }

    fn at(&self, step: usize) -> &[Access] {
        let from = step.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[from..self.ends[step]]
    }
}
