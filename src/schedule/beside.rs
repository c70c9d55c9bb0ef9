//! Which transfers may be under way while a kernel runs.
//!
//! In: the program of a rank. Out: for each kernel, and each stream of transfers, the exchanges of which nothing on this rank says that they
//! are over before the kernel begins, or begin after it. What other ranks do may say more: here are all that may be, and never too few.

use super::mesh::Stream;
use super::steps::{Step, StepOp};
use super::types::RankProgram;
use std::collections::BTreeMap;

/// Tells of each step on the stream of kernels that has transfers beside it: the step, the stream's lane, and the exchanges, which lie side
/// by side on that stream.
///
/// Complexity: each step is looked at once for each stream.
pub(crate) fn beside(program: &RankProgram, streams: usize, mut tell: impl FnMut(usize, usize, &[usize])) {
    let clocks = Clocks::of(program, streams);
    let moves = |s: &Step| matches!(&s.op, StepOp::Exchange { sends, recvs, .. } if !(sends.is_empty() && recvs.is_empty()));
    let steps = || program.steps.iter().enumerate();
    for lane in 1..streams {
        let exchanges: Vec<usize> =
            steps().filter(|(_, s)| s.stream.lane() == lane && moves(s)).map(|(i, _)| i).collect();
        if exchanges.is_empty() {
            continue;
        }
        let (mut over, mut begun) = (0, 0);
        for (kernel, _) in steps().filter(|(_, s)| s.stream == Stream::Compute) {
            // Both only rise: a step comes after whatever the one before it on its stream comes after.
            let done = clocks.begin(kernel, lane);
            while exchanges.get(over).is_some_and(|&x| x < done) {
                over += 1;
            }
            while exchanges.get(begun).is_some_and(|&x| clocks.begin(x, 0) <= kernel) {
                begun += 1;
            }
            if over < begun {
                tell(kernel, lane, &exchanges[over..begun]);
            }
        }
    }
}

/// How many multiprocessors the transfers beside each step may hold: of each stream the exchange that holds most.
pub(crate) fn held_beside(program: &RankProgram, streams: usize) -> Vec<usize> {
    let mut held = vec![0usize; program.steps.len()];
    let holds = |s: &Step| matches!(s.op, StepOp::Exchange { sms: Some(1..), .. });
    if !program.steps.iter().any(holds) {
        return held;
    }
    beside(program, streams, |kernel, _, exchanges| {
        let sms = |&x: &usize| match program.steps[x].op {
            StepOp::Exchange { sms, .. } => sms.unwrap_or(0),
            _ => 0,
        };
        held[kernel] = held[kernel].saturating_add(exchanges.iter().map(sms).max().unwrap_or(0));
    });
    held
}

/// Which step recorded each event first. Numbers of events are small, unless someone wrote others.
pub(super) struct Recorded {
    low: Vec<Option<usize>>,
    high: BTreeMap<usize, usize>,
}

impl Recorded {
    /// Of a program, before any of its steps.
    pub(super) fn none(program: &RankProgram) -> Recorded {
        Recorded { low: vec![None; program.steps.len()], high: BTreeMap::new() }
    }

    /// A step comes, after those before it.
    pub(super) fn add(&mut self, i: usize, step: &Step) {
        let Some(event) = step.records else { return };
        match self.low.get_mut(event) {
            Some(by) => _ = by.get_or_insert(i),
            None => _ = self.high.entry(event).or_insert(i),
        }
    }

    /// The steps before whose events a step waits for; an event that nothing has recorded yet says nothing.
    pub(super) fn awaited(&self, step: &Step) -> impl Iterator<Item = usize> {
        let by =
            |&event: &usize| self.low.get(event).copied().unwrap_or_else(|| self.high.get(&event).copied());
        step.waits.iter().filter_map(by)
    }
}

/// For each step and each stream how many of the rank's steps, in order of issue, reach up to one that is over before the step begins.
struct Clocks {
    streams: usize,
    begin: Vec<usize>,
}

impl Clocks {
    fn of(program: &RankProgram, streams: usize) -> Clocks {
        let mut begin = vec![0; program.steps.len() * streams];
        let mut latest: Vec<Option<usize>> = vec![None; streams];
        let mut recorded = Recorded::none(program);
        let mut clock = vec![0; streams];
        // What is over when a step is: what was when it began, and itself.
        let join = |clock: &mut [usize], begin: &[usize], step: usize| {
            clock.iter_mut().zip(&begin[step * streams..]).for_each(|(c, &b)| *c = b.max(*c));
            if let Some(own) = clock.get_mut(program.steps[step].stream.lane()) {
                *own = (step + 1).max(*own);
            }
        };
        for (i, step) in program.steps.iter().enumerate() {
            let lane = step.stream.lane();
            clock.fill(0);
            if let Some(before) = latest.get(lane).copied().flatten() {
                join(&mut clock, &begin, before);
            }
            recorded.awaited(step).for_each(|by| join(&mut clock, &begin, by));
            begin[i * streams..(i + 1) * streams].copy_from_slice(&clock);
            if let Some(latest) = latest.get_mut(lane) {
                *latest = Some(i);
            }
            recorded.add(i, step);
        }
        Clocks { streams, begin }
    }

    fn begin(&self, step: usize, lane: usize) -> usize {
        self.begin[step * self.streams + lane]
    }
}
