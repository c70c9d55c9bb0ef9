//! Events: derived from what each step reads and writes, then thinned.
//!
//! In: the steps of a rank in order of issue, without events, and its slots. Out: `waits` and `records` of each step.
//!
//! Two steps conflict if they touch a common byte of the arena and one of them writes it. Of two conflicting steps on
//! different streams the later in order of issue waits for the earlier, unless the order of streams and other waits say
//! so already. Each wait that is left guards a conflict that nothing else orders: without it the program has a race.
//! Arguments are only read, and rows of the output are written by one step on one stream, so neither makes a conflict.

use super::blocks::View;
use super::steps::Step;
use super::types::Slot;

/// Fills in the events of a rank's steps, which run on that many streams. An event has the number of the step that records it, so
/// that it keeps its name where others come or go.
///
/// Complexity: each step looks back no further than to what it is already known to come after.
pub(super) fn derive(steps: &mut [Step], slots: &[Slot], streams: usize) {
    let accesses = Accesses::of(steps, slots);
    let lanes: Vec<usize> = steps.iter().map(|s| s.stream.lane()).collect();
    // Of each step, for each stream how many of the rank's steps, in order of issue, reach up to one that is done when it is.
    let mut after = vec![0; steps.len() * streams];
    let mut latest = vec![0; streams];
    let mut clock = vec![0; streams];
    let mut waits: Vec<usize> = Vec::with_capacity(streams);
    for j in 0..steps.len() {
        let own = lanes[j];
        match latest[own] {
            0 => clock.fill(0),
            before => clock.copy_from_slice(&after[(before - 1) * streams..before * streams]),
        }
        // Of each other stream the latest step that must be over; those before it are over then.
        let conflicting = |lane: usize| {
            let of_lane = |i: &usize| lanes[*i] == lane && accesses.conflict(*i, j);
            (clock[lane]..j).rev().find(of_lane)
        };
        waits.clear();
        waits.extend((0..streams).filter(|&lane| lane != own).filter_map(conflicting));
        // A later one may come after an earlier one; the other way round it cannot be.
        waits.sort_unstable_by(|a, b| b.cmp(a));
        waits.retain(|&i| {
            let needed = clock[lanes[i]] <= i;
            clock.iter_mut().zip(&after[i * streams..]).for_each(|(c, &a)| *c = a.max(*c));
            needed
        });
        for &i in &waits {
            steps[i].records = Some(i);
        }
        steps[j].waits.extend(waits.drain(..).rev());
        clock[own] = j + 1;
        after[j * streams..(j + 1) * streams].copy_from_slice(&clock);
        latest[own] = j + 1;
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
            step.op.touched(&mut touch);
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
