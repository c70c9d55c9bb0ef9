//! Runs all ranks of a schedule in time.
//!
//! In: a schedule and the time of each step alone. Out: begin and end of every step.
//!
//! Steps of a stream run one after another, each when its events have happened. A message begins when both ends are in their
//! group, and takes as long as the busier end is busy with its messages; a group is done when its last message is. While
//! transfers of a rank are under way its kernels are slowed.

use super::work::{Cost, Costs, message};
use crate::schedule::mesh::{Mesh, Stream};
use crate::schedule::steps::StepOp;
use crate::schedule::types::{RankProgram, Schedule};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// When a step runs, in µs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// When its stream was free.
    pub free: f64,
    /// When it began: its stream was free and its events had happened.
    pub begin: f64,
    /// When it was done.
    pub end: f64,
    /// Of a group of transfers: when the first message began; else `begin`.
    pub moving: f64,
}

/// One message under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flight {
    /// The sender and its step.
    pub from: (usize, usize),
    /// The receiver and its step.
    pub to: (usize, usize),
    /// When both were in their group, in µs.
    pub begin: f64,
    /// When it was through.
    pub end: f64,
}

/// The simulated run.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Per rank and step; `None` for a step that never ends.
    pub spans: Vec<Vec<Option<Span>>>,
    /// End of the last step.
    pub makespan: f64,
}

impl Timeline {
    /// How many steps never end.
    pub fn stuck(&self) -> usize {
        self.spans.iter().flatten().filter(|s| s.is_none()).count()
    }
}

/// Runs the model.
pub(super) fn run(schedule: &Schedule, costs: &Costs) -> Timeline {
    let mut s = Simulation {
        schedule,
        costs,
        ranks: schedule.ranks.iter().map(|r| Rank::new(&schedule.mesh, r)).collect(),
        watchers: vec![vec![]; schedule.ranks.len()],
        alarms: BinaryHeap::new(),
        now: 0.0,
    };
    let mut stirred: Vec<usize> = (0..schedule.ranks.len()).collect();
    loop {
        // Ranks in order, each once.
        stirred.sort_unstable();
        stirred.dedup();
        for rank in stirred.drain(..) {
            s.advance(rank);
        }
        let Some(&Reverse(Alarm { time, .. })) = s.alarms.peek() else { break };
        s.now = time;
        while let Some(&Reverse(alarm)) = s.alarms.peek().filter(|a| a.0.time == time) {
            s.alarms.pop();
            if s.rings(alarm) {
                stirred.push(alarm.rank);
            }
        }
    }
    let spans: Vec<Vec<Option<Span>>> = s.ranks.into_iter().map(|r| r.spans).collect();
    let makespan = spans.iter().flatten().flatten().map(|s| s.end).fold(0.0, f64::max);
    Timeline { spans, makespan }
}

/// Every message that is through, by sender.
pub(super) fn flights(schedule: &Schedule, costs: &Costs, timeline: &Timeline) -> Vec<Flight> {
    let exchanges = |r: usize| {
        schedule.ranks[r].steps.iter().enumerate().filter_map(move |(i, s)| match &s.op {
            StepOp::Exchange { group, sends, .. } => Some((*group, i, sends)),
            _ => None,
        })
    };
    let steps: Vec<BTreeMap<usize, usize>> =
        (0..schedule.ranks.len()).map(|r| exchanges(r).map(|(group, i, _)| (group, i)).collect()).collect();
    let flight = |rank: usize, i: usize, group: usize, peer: usize| {
        let &there = steps.get(peer)?.get(&group)?;
        let (ours, theirs) = (timeline.spans[rank][i]?, timeline.spans[peer][there]?);
        let begin = ours.begin.max(theirs.begin);
        let end = begin + message(costs.steps[rank][i], costs.steps[peer][there]);
        Some(Flight { from: (rank, i), to: (peer, there), begin, end })
    };
    (0..schedule.ranks.len())
        .flat_map(|r| exchanges(r).map(move |e| (r, e)))
        .flat_map(|(r, (group, i, sends))| sends.iter().filter_map(move |t| flight(r, i, group, t.peer)))
        .collect()
}

/// When a lane may be done; of no meaning if the lane's number has changed since.
#[derive(Clone, Copy)]
struct Alarm {
    time: f64,
    rank: usize,
    lane: usize,
    number: u64,
}

impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> Ordering {
        let key = |a: &Alarm| (a.rank, a.lane, a.number);
        self.time.total_cmp(&other.time).then(key(self).cmp(&key(other)))
    }
}
impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Alarm {
    fn eq(&self, other: &Alarm) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Alarm {}

/// What a stream is doing.
enum Doing {
    Nothing,
    Kernel {
        begin: f64,
        /// Time to go if nothing slows it, as of `since`.
        left: f64,
        since: f64,
    },
    Transfers {
        group: usize,
        cost: Cost,
        begin: f64,
        moving: f64,
        /// Messages that have not begun, and when the last of the others is through.
        missing: usize,
        end: f64,
    },
}

struct Lane {
    /// Its steps, and which is next or being done.
    steps: Vec<usize>,
    next: usize,
    free: f64,
    doing: Doing,
    number: u64,
}

/// Which events of a rank have happened. Their numbers are small, unless someone wrote others.
struct Events {
    low: Vec<bool>,
    high: BTreeSet<usize>,
}

impl Events {
    fn happen(&mut self, event: usize) {
        match self.low.get_mut(event) {
            Some(happened) => *happened = true,
            None => {
                self.high.insert(event);
            }
        }
    }

    fn happened(&self, event: usize) -> bool {
        self.low.get(event).copied().unwrap_or_else(|| self.high.contains(&event))
    }
}

struct Rank {
    /// One a stream.
    lanes: Vec<Lane>,
    events: Events,
    /// Groups of transfers under way.
    moving: usize,
    spans: Vec<Option<Span>>,
}

impl Rank {
    fn new(mesh: &Mesh, program: &RankProgram) -> Rank {
        let lane = |stream: Stream| {
            let steps = program.steps.iter().enumerate().filter(|(_, s)| s.stream == stream).map(|(i, _)| i);
            Lane { steps: steps.collect(), next: 0, free: 0.0, doing: Doing::Nothing, number: 0 }
        };
        Rank {
            lanes: mesh.streams().map(lane).collect(),
            events: Events { low: vec![false; program.steps.len()], high: BTreeSet::new() },
            moving: 0,
            spans: vec![None; program.steps.len()],
        }
    }

    /// The lane that is in a group, and its cost.
    fn in_group(&self, wanted: usize) -> Option<Cost> {
        self.lanes.iter().find_map(|lane| match lane.doing {
            Doing::Transfers { group, cost, .. } if group == wanted => Some(cost),
            _ => None,
        })
    }
}

struct Simulation<'a> {
    schedule: &'a Schedule,
    costs: &'a Costs,
    ranks: Vec<Rank>,
    /// For each rank who waits for it to come into a group: the group, the rank and lane that wait, and whether these send.
    watchers: Vec<Vec<(usize, usize, usize, bool)>>,
    alarms: BinaryHeap<Reverse<Alarm>>,
    now: f64,
}

impl Simulation<'_> {
    /// Begins whatever a rank can begin now.
    fn advance(&mut self, rank: usize) {
        for lane in 0..self.ranks[rank].lanes.len() {
            let state = &self.ranks[rank];
            let Some(&i) = state.lanes[lane].steps.get(state.lanes[lane].next) else { continue };
            let step = &self.schedule.ranks[rank].steps[i];
            let idle = matches!(state.lanes[lane].doing, Doing::Nothing);
            if !idle || !step.waits.iter().all(|&e| state.events.happened(e)) {
                continue;
            }
            let cost = self.costs.steps[rank][i];
            match &step.op {
                StepOp::Exchange { group, sends, recvs, .. } if !(sends.is_empty() && recvs.is_empty()) => {
                    let messages =
                        sends.iter().map(|t| (t.peer, true)).chain(recvs.iter().map(|t| (t.peer, false)));
                    self.enter(rank, lane, *group, cost, messages);
                }
                _ => {
                    let lane_state = &mut self.ranks[rank].lanes[lane];
                    lane_state.doing = Doing::Kernel { begin: self.now, left: cost.takes(), since: self.now };
                    self.set_alarm(rank, lane);
                }
            }
        }
    }

    /// A rank comes into a group.
    fn enter(
        &mut self,
        rank: usize,
        lane: usize,
        group: usize,
        cost: Cost,
        messages: impl Iterator<Item = (usize, bool)>,
    ) {
        let (mut missing, mut begun) = (0, vec![]);
        for (peer, sends) in messages {
            missing += 1;
            match self.ranks.get(peer).and_then(|p| p.in_group(group)) {
                Some(theirs) => begun.push((theirs, sends)),
                None => {
                    if let Some(watchers) = self.watchers.get_mut(peer) {
                        watchers.push((group, rank, lane, sends));
                    }
                }
            }
        }
        let begin = self.now;
        self.ranks[rank].lanes[lane].doing =
            Doing::Transfers { group, cost, begin, moving: f64::INFINITY, missing, end: begin };
        for (theirs, sends) in begun {
            self.message_begins(rank, lane, theirs, sends);
        }
        for (g, watcher, at, sends) in std::mem::take(&mut self.watchers[rank]) {
            if g == group {
                self.message_begins(watcher, at, cost, sends);
            } else {
                self.watchers[rank].push((g, watcher, at, sends));
            }
        }
    }

    /// A message of a rank's group begins; `theirs` is the cost of the other end's group.
    fn message_begins(&mut self, rank: usize, lane: usize, theirs: Cost, sends: bool) {
        let now = self.now;
        let Doing::Transfers { cost, moving, missing, end, .. } = &mut self.ranks[rank].lanes[lane].doing
        else {
            return;
        };
        let time = if sends { message(*cost, theirs) } else { message(theirs, *cost) };
        *end = end.max(now + time);
        *missing -= 1;
        let (first, last) = (moving.is_infinite(), *missing == 0);
        if first {
            *moving = now;
            self.change_moving(rank, 1);
        }
        if last {
            self.set_alarm(rank, lane);
        }
    }

    /// Transfers of a rank begin or end: its kernels go slower or faster from now on.
    fn change_moving(&mut self, rank: usize, by: isize) {
        let slowdown = 1.0 + self.costs.slowdown;
        let state = &mut self.ranks[rank];
        let before = if state.moving > 0 { slowdown } else { 1.0 };
        state.moving = state.moving.saturating_add_signed(by);
        let after = if state.moving > 0 { slowdown } else { 1.0 };
        if before == after {
            return;
        }
        for lane in 0..self.ranks[rank].lanes.len() {
            if let Doing::Kernel { left, since, .. } = &mut self.ranks[rank].lanes[lane].doing {
                *left = (*left - (self.now - *since) / before).max(0.0);
                *since = self.now;
                self.set_alarm(rank, lane);
            }
        }
    }

    fn set_alarm(&mut self, rank: usize, lane: usize) {
        let state = &mut self.ranks[rank];
        let factor = if state.moving > 0 { 1.0 + self.costs.slowdown } else { 1.0 };
        let lane_state = &mut state.lanes[lane];
        let time = match lane_state.doing {
            Doing::Nothing => return,
            Doing::Kernel { left, since, .. } => since + left * factor,
            Doing::Transfers { end, .. } => end,
        };
        lane_state.number += 1;
        self.alarms.push(Reverse(Alarm { time, rank, lane, number: lane_state.number }));
    }

    /// A lane is done, if the alarm still holds.
    fn rings(&mut self, alarm: Alarm) -> bool {
        let lane = &mut self.ranks[alarm.rank].lanes[alarm.lane];
        if lane.number != alarm.number {
            return false;
        }
        let (begin, moving, transfers) = match lane.doing {
            Doing::Nothing => return false,
            Doing::Kernel { begin, .. } => (begin, begin, false),
            Doing::Transfers { begin, moving, .. } => (begin, moving, true),
        };
        let i = lane.steps[lane.next];
        let span = Span { free: lane.free, begin, end: alarm.time, moving };
        lane.doing = Doing::Nothing;
        lane.next += 1;
        lane.free = alarm.time;
        let state = &mut self.ranks[alarm.rank];
        state.spans[i] = Some(span);
        if let Some(event) = self.schedule.ranks[alarm.rank].steps[i].records {
            state.events.happen(event);
        }
        if transfers {
            self.change_moving(alarm.rank, -1);
        }
        true
    }
}
