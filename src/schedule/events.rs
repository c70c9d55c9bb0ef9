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
    let accesses: Vec<Vec<Access>> = steps.iter().map(|s| accesses(&s.op, slots)).collect();
    // after[i]: for each stream how many of the rank's steps, in order of issue, reach up to one that is done when i is.
    let mut after: Vec<Clock> = Vec::with_capacity(steps.len());
    let mut latest: Clock = [0; STREAMS];
    let mut waited = vec![false; steps.len()];
    for j in 0..steps.len() {
        let own = index(steps[j].stream);
        let mut clock = if latest[own] == 0 { [0; STREAMS] } else { after[latest[own] - 1] };
        let mut candidates: Vec<usize> = Stream::ALL
            .iter()
            .filter(|s| index(**s) != own)
            .filter_map(|s| {
                (clock[index(*s)]..j)
                    .rev()
                    .find(|&i| steps[i].stream == *s && conflict(&accesses[i], &accesses[j]))
            })
            .collect();
        // A later step may imply an earlier one, never the reverse.
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        let mut waits = Vec::new();
        for i in candidates {
            if clock[index(steps[i].stream)] > i {
                continue;
            }
            for (c, a) in clock.iter_mut().zip(after[i]) {
                *c = (*c).max(a);
            }
            waited[i] = true;
            waits.push(i);
        }
        waits.sort_unstable();
        steps[j].waits = waits;
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
        step.waits = step.waits.iter().filter_map(|&i| records[i]).collect();
    }
}

const STREAMS: usize = Stream::ALL.len();

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

fn conflict(a: &[Access], b: &[Access]) -> bool {
    a.iter().any(|x| b.iter().any(|y| (x.writes || y.writes) && x.start.max(y.start) < x.end.min(y.end)))
}

fn accesses(op: &StepOp, slots: &[Slot]) -> Vec<Access> {
    let mut out = Vec::new();
    let mut touch = |view: &View, writes| {
        let start = slots[view.slot].offset + view.start;
        out.push(Access { start, end: start + view.bytes, writes });
    };
    match op {
        StepOp::Pack { pieces } => pieces.iter().for_each(|p| touch(&p.at, true)),
        StepOp::Exchange { sends, recvs, .. } => {
            sends.iter().flat_map(|t| &t.views).for_each(|v| touch(v, false));
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
    out
}
