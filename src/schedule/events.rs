//! Events: derived from what each step reads and writes, then thinned.
//!
//! In: the steps of a rank in order of issue, without events, and its slots. Out: `waits` and `records` of each step.
//!
//! Two steps conflict if they touch a common byte of the arena and one of them writes it. Of two conflicting steps on
//! different streams the later in order of issue waits for the earlier, unless the order of streams and other waits say
//! so already. Each wait that is left guards a conflict that nothing else orders: without it the program has a race.
//! Arguments are only read, and rows of the output are written by one step on one stream, so neither makes a conflict.

use super::types::{Slot, Step, StepOp, Stream, View};

/// Fills in the events of a rank's steps.
///
/// Complexity: each step looks back no further than to what it is already known to come after.
pub(super) fn derive(steps: &mut [Step], slots: &[Slot]) {
    let accesses = Accesses::of(steps, slots);
    // after[i]: for each stream how many of the rank's steps, in order of issue, reach up to one that is done when i is.
    let mut after: Vec<Clock> = Vec::with_capacity(steps.len());
    let mut latest: Clock = [0; STREAMS];
    let mut waited = vec![false; steps.len()];
    for j in 0..steps.len() {
        let own = index(steps[j].stream);
        let mut clock = if latest[own] == 0 { [0; STREAMS] } else { after[latest[own] - 1] };
        // Of the one other stream the latest step that must be over; those before it are over then.
        let other = 1 - own;
        let conflicting =
            (clock[other]..j).rev().find(|&i| index(steps[i].stream) == other && accesses.conflict(i, j));
        if let Some(i) = conflicting {
            for (c, a) in clock.iter_mut().zip(after[i]) {
                *c = (*c).max(a);
            }
            waited[i] = true;
            steps[j].waits = vec![i];
        }
        clock[own] = j + 1;
        after.push(clock);
        latest[own] = j + 1;
    }
    number(steps, &waited);
}

/// Events take numbers in order of recording; `waits` held steps until now.
fn number(steps: &mut [Step], waited: &[bool]) {
    let mut next = 0;
    for (step, &waited) in steps.iter_mut().zip(waited) {
        step.records = waited.then_some(next);
        next += usize::from(waited);
    }
    let records: Vec<Option<usize>> = steps.iter().map(|s| s.records).collect();
    for step in steps {
        for wait in &mut step.waits {
            // What is waited for records.
            *wait = records[*wait].unwrap_or_default();
        }
    }
}

/// Of two streams a step has one other.
const STREAMS: usize = 2;
const _: () = assert!(Stream::ALL.len() == STREAMS);

type Clock = [usize; STREAMS];

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Compute => 0,
        Stream::Comm => 1,
    }
}

/// Bytes of the arena that a step touches.
#[derive(Clone, Copy, Debug)]
struct Access {
    start: usize,
    end: usize,
    writes: bool,
}

/// What each step touches, one step behind the other: adjacent bytes touched alike are one access.
struct Accesses {
    all: Vec<Access>,
    ends: Vec<usize>,
}

impl Accesses {
    fn of(steps: &[Step], slots: &[Slot]) -> Accesses {
        let mut out =
            Accesses { all: Vec::with_capacity(2 * steps.len()), ends: Vec::with_capacity(steps.len()) };
        for step in steps {
            let first = out.all.len();
            let mut touch = |view: &View, writes| {
                let start = slots[view.slot].offset + view.start;
                let end = start + view.bytes;
                match out.all[first..].last_mut() {
                    Some(last) if last.end == start && last.writes == writes => last.end = end,
                    _ => out.all.push(Access { start, end, writes }),
                }
            };
            touched(&step.op, &mut touch);
            out.ends.push(out.all.len());
        }
        out
    }

    fn at(&self, step: usize) -> &[Access] {
        let from = step.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[from..self.ends[step]]
    }

    fn conflict(&self, i: usize, j: usize) -> bool {
        let meet = |x: &Access, y: &Access| (x.writes || y.writes) && x.start.max(y.start) < x.end.min(y.end);
        self.at(i).iter().any(|x| self.at(j).iter().any(|y| meet(x, y)))
    }
}

fn touched(op: &StepOp, touch: &mut impl FnMut(&View, bool)) {
    match op {
        StepOp::Pack { pieces } => pieces.iter().for_each(|p| touch(&p.at, true)),
        StepOp::Exchange { sends, recvs, .. } => {
            // One part is sent to everyone: it is read once.
            let mut before: &[View] = &[];
            for t in sends.iter().filter(|t| !t.views.is_empty()) {
                if t.views != before {
                    t.views.iter().for_each(|v| touch(v, false));
                }
                before = &t.views;
            }
            recvs.iter().flat_map(|t| &t.views).for_each(|v| touch(v, true));
        }
        StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
            kv.iter().for_each(|p| touch(&p.at, false));
            for carry in q.iter().filter_map(|p| p.carry.as_ref()) {
                if *carry_in {
                    touch(carry, false);
                }
                if !cast_out {
                    touch(carry, true);
                }
            }
        }
    }
}
