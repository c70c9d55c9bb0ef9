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
    beside(program, streams, |kernel, _, exchanges| {
        let sms = |&x: &usize| match program.steps[x].op {
            StepOp::Exchange { sms, .. } => sms.unwrap_or(0),
            _ => 0,
        };
        held[kernel] = held[kernel].saturating_add(exchanges.iter().map(sms).max().unwrap_or(0));
    });
    held
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
        let mut recorded = BTreeMap::new();
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
            // An event that nothing has recorded yet says nothing.
            for recorder in step.waits.iter().filter_map(|e| recorded.get(e)) {
                join(&mut clock, &begin, *recorder);
            }
            begin[i * streams..(i + 1) * streams].copy_from_slice(&clock);
            if let Some(latest) = latest.get_mut(lane) {
                *latest = Some(i);
            }
            if let Some(event) = step.records {
                recorded.entry(event).or_insert(i);
            }
        }
        Clocks { streams, begin }
    }

    fn begin(&self, step: usize, lane: usize) -> usize {
        self.begin[step * self.streams + lane]
    }
}
