//! The least time that any order of the same steps and messages takes.
//!
//! In: a schedule, the time of each step alone, and one run of it. Out: the lower bound and what it comes from.
//!
//! The greatest of, for kernels that nothing slows and streams, slots and links without end unless they are named:
//! * the critical path: a step needs the steps that wrote what it reads, and both ends of a message meet;
//! * for each rank the load of its kernels, with the least that its transfers can take of them: w' = W + Σκ·C, for of C µs of
//!   a transfer (along the axis where the sum is greatest) as much passes under kernels as the rank does not stand still, and a µs that it
//!   stands still costs more. A kernel beside it does 1 − κ = (M − h) / (M·(1 + slowdown)) of its work in a µs: of M multiprocessors it
//!   holds h;
//! * for each rank's kernels, and its transfers along each axis, the bound of one machine: jobs with heads and tails from the critical path, in
//!   the order of greatest tail, interrupted where a greater one becomes ready (Jackson's preemptive schedule; Carlier and
//!   Pinson, Management Science 35, 1989).
//!
//! The run serves only to order the steps: dependences that it does not keep are left out, which makes the bound lower.

use super::figures::Limiter;
use super::simulate::{Span, Timeline};
use super::work::{Costs, message};
use crate::schedule::flow::Flow;
use crate::schedule::mesh::Stream;
use crate::schedule::steps::{Step, StepOp, Transfer};
use crate::schedule::types::{RankProgram, Schedule};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Two bounds nearer than this are one: the difference is of rounding.
const NEAR: f64 = 1e-9;

/// The bound in µs, never above the makespan of the run, and its owner.
pub(super) fn lower_bound(schedule: &Schedule, costs: &Costs, timeline: &Timeline) -> (f64, Limiter) {
    let graph = Dependencies::new(schedule, costs, timeline);
    let (heads, tails) = (graph.heads(), graph.tails());
    let of_rank = |rank: usize| {
        // Those of each axis run beside those of the others.
        let mut transfers: Vec<Vec<Job>> = schedule.mesh.streams().map(|_| vec![]).collect();
        let mut lost = vec![0.0f64; transfers.len()];
        let mut kernels = vec![];
        let mut chain = 0.0f64;
        for (i, step) in schedule.ranks[rank].steps.iter().enumerate() {
            let (cost, head) = (costs.steps[rank][i], heads[rank][i]);
            if timeline.spans[rank][i].is_none() {
                continue;
            }
            // What follows from its begin on, less its own time: a group is not done before its last message is.
            let whole = graph.rest_from(&tails, rank, i);
            chain = chain.max(head + whole);
            let job = Job { head, time: cost.alone(), tail: (whole - cost.alone()).max(0.0) };
            match step.op {
                StepOp::Exchange { .. } => {
                    if let Some(t) = transfers.get_mut(step.stream.lane()) {
                        t.push(job);
                        lost[step.stream.lane()] += cost.lost();
                    }
                }
                // On another stream they would run beside these.
                _ if step.stream == Stream::Compute => kernels.push(job),
                _ => {}
            }
        }
        let load = |jobs: &Vec<Job>| jobs.iter().map(|j| j.time).sum::<f64>();
        let least = load(&kernels) + lost.into_iter().fold(0.0, f64::max);
        let links = transfers.into_iter().map(one_machine).fold(0.0, f64::max);
        (chain, least, one_machine(kernels), links)
    };
    // The ranks apart, and put together in their order.
    let ranks: Vec<_> = (0..schedule.ranks.len()).into_par_iter().map(of_rank).collect();
    let mut bounds = [0.0f64; 4];
    let mut link = 0;
    for (rank, (chain, least, of_kernels, of_link)) in ranks.into_iter().enumerate() {
        let mut raise = |owner: Owner, bound| bounds[owner as usize] = bounds[owner as usize].max(bound);
        raise(Owner::Chain, chain);
        raise(Owner::Load, least);
        raise(Owner::Kernels, of_kernels);
        if of_link > bounds[Owner::Link as usize] * (1.0 + NEAR) {
            (bounds[Owner::Link as usize], link) = (of_link, rank);
        }
    }
    let bound = bounds.into_iter().fold(0.0, f64::max);
    let owns = |owner: Owner| bounds[owner as usize] >= bound * (1.0 - NEAR);
    let limiter = match () {
        () if owns(Owner::Load) => Limiter::Compute,
        () if owns(Owner::Link) => Limiter::Link { from: link, to: only_peer(&schedule.ranks[link]) },
        () => Limiter::Chain,
    };
    debug_assert!(bound <= timeline.makespan * (1.0 + NEAR), "{bounds:?} above {}", timeline.makespan);
    // Sums in another order differ by their rounding.
    let tight = bound >= timeline.makespan * (1.0 - NEAR);
    (if tight { timeline.makespan } else { bound }, limiter)
}

/// Which bound.
#[derive(Clone, Copy)]
enum Owner {
    Load,
    Link,
    Kernels,
    Chain,
}

/// The rank to which all of a rank's messages go.
fn only_peer(program: &RankProgram) -> Option<usize> {
    let mut peers = program.steps.iter().flat_map(|s| match &s.op {
        StepOp::Exchange { sends, .. } => sends.as_slice(),
        _ => &[],
    });
    let first = peers.next()?.peer;
    peers.all(|t| t.peer == first).then_some(first)
}

/// What needs what.
struct Dependencies<'a> {
    costs: &'a Costs,
    ranks: Vec<Needs>,
    /// All steps that end, by begin and by end.
    by_begin: Vec<(usize, usize)>,
    by_end: Vec<(usize, usize)>,
}

/// What the steps of one rank need. Lists lie one step behind the other.
struct Needs {
    /// The steps of the rank that wrote what it reads.
    sources: Lists<usize>,
    /// Those that read what it writes.
    readers: Lists<usize>,
    /// The other ends of its messages, and the time of each message.
    peers: Lists<(usize, usize, f64)>,
}

/// A list for each step.
struct Lists<T> {
    all: Vec<T>,
    ends: Vec<usize>,
}

impl<T> Lists<T> {
    fn at(&self, step: usize) -> &[T] {
        let from = step.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[from..self.ends[step]]
    }

    fn of(lists: impl Iterator<Item = impl Iterator<Item = T>>) -> Lists<T> {
        let mut out = Lists { all: vec![], ends: vec![] };
        for list in lists {
            out.all.extend(list);
            out.ends.push(out.all.len());
        }
        out
    }
}

impl Lists<usize> {
    /// For each step those whose lists name it, ascending.
    fn turned(&self) -> Lists<usize> {
        let mut ends = vec![0; self.ends.len()];
        self.all.iter().for_each(|&to| ends[to] += 1);
        let mut sum = 0;
        for end in &mut ends {
            sum += std::mem::replace(end, sum);
        }
        // `ends` are begins until each list is full.
        let mut all = vec![0; self.all.len()];
        for from in 0..self.ends.len() {
            for &to in self.at(from) {
                all[ends[to]] = from;
                ends[to] += 1;
            }
        }
        Lists { all, ends }
    }
}

impl<'a> Dependencies<'a> {
    fn new(schedule: &Schedule, costs: &'a Costs, timeline: &Timeline) -> Dependencies<'a> {
        // The groups of each rank in order, with their steps.
        let groups: Vec<Vec<(usize, usize)>> = schedule
            .ranks
            .par_iter()
            .map(|program| {
                let group = |(i, s): (usize, &Step)| match s.op {
                    StepOp::Exchange { group, .. } => Some((group, i)),
                    _ => None,
                };
                let mut groups: Vec<_> = program.steps.iter().enumerate().filter_map(group).collect();
                groups.sort_unstable();
                groups
            })
            .collect();
        let there = |peer: usize, group: usize| -> Option<usize> {
            let groups = groups.get(peer)?;
            let &(g, step) = groups[..groups.partition_point(|g| g.0 <= group)].last()?;
            (g == group).then_some(step)
        };
        let needs = |(rank, program): (usize, &RankProgram)| {
            let spans = &timeline.spans[rank];
            let flow = Flow::of(program);
            let kept = |w: usize, i: usize| spans[w].zip(spans[i]).is_some_and(|(w, r)| w.end <= r.begin);
            let sources = Lists::of((0..program.steps.len()).map(|i| {
                let (flow, kept) = (&flow, &kept);
                flow.sources(i).iter().copied().filter(move |&w| kept(w, i))
            }));
            let meets = |i: usize| {
                let (group, sends, recvs) = match &program.steps[i].op {
                    StepOp::Exchange { group, sends, recvs, .. } => {
                        (*group, sends.as_slice(), recvs.as_slice())
                    }
                    _ => (0, &[][..], &[][..]),
                };
                let ours = costs.steps[rank][i];
                let end = move |t: &Transfer, sends: bool| {
                    let j = there(t.peer, group)?;
                    let (a, b) = (timeline.spans[rank][i]?, timeline.spans[t.peer][j]?);
                    let theirs = costs.steps[t.peer][j];
                    let time = if sends { message(ours, theirs) } else { message(theirs, ours) };
                    // As the run has it: both were there.
                    (a.end >= b.begin + time * (1.0 - NEAR)).then_some((t.peer, j, time))
                };
                let out = sends.iter().filter_map(move |t| end(t, true));
                out.chain(recvs.iter().filter_map(move |t| end(t, false)))
            };
            let peers = Lists::of((0..program.steps.len()).map(meets));
            Needs { readers: sources.turned(), sources, peers }
        };
        let ranks = schedule.ranks.par_iter().enumerate().map(needs).collect();
        let sorted = |time: fn(&Span) -> f64| {
            let spans = timeline.spans.iter().enumerate();
            let mut by: Vec<(f64, usize, usize)> = spans
                .flat_map(|(rank, spans)| spans.iter().enumerate().map(move |(i, s)| (rank, i, s)))
                .filter_map(|(rank, i, s)| s.as_ref().map(|s| (time(s), rank, i)))
                .collect();
            // No two are equal, so that the order does not depend on how it is found.
            by.par_sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            by.into_iter().map(|(_, rank, i)| (rank, i)).collect()
        };
        let (by_begin, by_end) = (sorted(|s| s.begin), sorted(|s| s.end));
        Dependencies { costs, ranks, by_begin, by_end }
    }

    fn zeros(&self) -> Vec<Vec<f64>> {
        self.ranks.iter().map(|needs| vec![0.0; needs.sources.ends.len()]).collect()
    }

    fn alone(&self, rank: usize, i: usize) -> f64 {
        self.costs.steps[rank][i].alone()
    }

    /// The earliest begin of each step. A step whose begin is not known yet counts as beginning at 0.
    fn heads(&self) -> Vec<Vec<f64>> {
        let mut heads = self.zeros();
        for &(rank, i) in &self.by_begin {
            let end = |&w: &usize| {
                let met = self.ranks[rank].peers.at(w).iter().map(|&(p, j, time)| heads[p][j] + time);
                met.fold(heads[rank][w] + self.alone(rank, w), f64::max)
            };
            heads[rank][i] = self.ranks[rank].sources.at(i).iter().map(end).fold(0.0, f64::max);
        }
        heads
    }

    /// The least time from the end of each step to the end of all.
    fn tails(&self) -> Vec<Vec<f64>> {
        let mut tails = self.zeros();
        for &(rank, i) in self.by_end.iter().rev() {
            let after = self.ranks[rank].readers.at(i).iter().map(|&r| self.rest_from(&tails, rank, r));
            tails[rank][i] = after.fold(0.0, f64::max);
        }
        tails
    }

    /// The least time from the begin of a step to the end of all.
    fn rest_from(&self, tails: &[Vec<f64>], rank: usize, i: usize) -> f64 {
        let own = self.alone(rank, i) + tails[rank][i];
        // Its messages end no sooner, on either side.
        let peers = self.ranks[rank].peers.at(i).iter();
        peers.map(|&(p, j, time)| time + tails[rank][i].max(tails[p][j])).fold(own, f64::max)
    }
}

/// A job of one machine: it is ready after its head, and after it the tail passes elsewhere.
struct Job {
    head: f64,
    time: f64,
    tail: f64,
}

/// By tail, the greatest first.
struct Ready {
    tail: f64,
    left: f64,
}

impl Ord for Ready {
    fn cmp(&self, other: &Ready) -> Ordering {
        self.tail.total_cmp(&other.tail).then(self.left.total_cmp(&other.left))
    }
}
impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Ready) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Ready {
    fn eq(&self, other: &Ready) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Ready {}

/// The value of Jackson's preemptive schedule.
fn one_machine(mut jobs: Vec<Job>) -> f64 {
    jobs.sort_by(|a, b| a.head.total_cmp(&b.head));
    let mut coming = jobs.into_iter().peekable();
    let mut ready = BinaryHeap::<Ready>::new();
    let (mut now, mut value) = (0.0f64, 0.0f64);
    loop {
        if ready.is_empty() {
            let Some(next) = coming.peek() else { return value };
            now = now.max(next.head);
        }
        while let Some(job) = coming.next_if(|j| j.head <= now) {
            ready.push(Ready { tail: job.tail, left: job.time });
        }
        let Some(mut job) = ready.pop() else { continue };
        let until = coming.peek().map_or(f64::INFINITY, |j| j.head);
        if now + job.left <= until {
            now += job.left;
            value = value.max(now + job.tail);
        } else {
            job.left -= until - now;
            now = until;
            ready.push(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over all subsets: the least head, the sum of the times, the least tail.
    fn by_subsets(jobs: &[(f64, f64, f64)]) -> f64 {
        let mut most = 0.0f64;
        for set in 1u32..1 << jobs.len() {
            let some: Vec<_> = (0..jobs.len()).filter(|i| set >> i & 1 == 1).map(|i| jobs[i]).collect();
            let least = |of: fn(&(f64, f64, f64)) -> f64| some.iter().map(of).fold(f64::INFINITY, f64::min);
            most = most.max(least(|j| j.0) + some.iter().map(|j| j.1).sum::<f64>() + least(|j| j.2));
        }
        most
    }

    proptest::proptest! {
        #[test]
        fn one_machine_is_the_greatest_over_subsets(
            jobs in proptest::collection::vec((0u32..20, 1u32..10, 0u32..20), 0..8),
        ) {
            let jobs: Vec<(f64, f64, f64)> =
                jobs.into_iter().map(|(h, p, t)| (f64::from(h), f64::from(p), f64::from(t))).collect();
            let all = jobs.iter().map(|&(head, time, tail)| Job { head, time, tail }).collect();
            proptest::prop_assert_eq!(one_machine(all), by_subsets(&jobs));
        }
    }
}
