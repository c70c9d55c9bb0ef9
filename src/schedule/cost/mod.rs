//! What a schedule costs on a device: when each step runs, how long all of it takes, and the least that any schedule of
//! the same work could take.
//!
//! In: a [`Schedule`] and a [`Device`], and nothing else. Out: an [`Estimate`]; a [`Timeline`] for pictures.
//!
//! The model: `work` says how long a step takes alone; `simulate` runs all ranks, with a rank's kernels slowed while its
//! transfers are under way; `bound` is the lower bound. It never exceeds the
//! makespan, and where the two are equal the schedule is proved to be the best of its work in this model.

mod bound;
mod simulate;
mod work;

pub use simulate::{Flight, Span, Timeline};

use super::flow::Flow;
use super::types::{Schedule, StepOp, Stream};
use crate::device::Device;
use crate::ir::{Attention, Type};
use crate::layout::Layout;
use std::fmt;

/// The figures of a schedule on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// End of the last step of any rank, in µs.
    pub makespan_us: f64,
    /// The least time in µs that any order of the same steps and messages takes on the device.
    pub lower_bound_us: f64,
    /// What the lower bound comes from.
    pub limiter: Limiter,
    /// Time in µs in which the rank that is done last computes nothing: communication that is not hidden.
    pub exposed_us: f64,
    /// Bytes of each rank's arena.
    pub peak_bytes: Vec<usize>,
}

/// What a lower bound comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// The kernels of one rank.
    Compute,
    /// The transfers of one rank, and what must be before and after them. The ranks are those of its message if all go the
    /// same way.
    Link {
        /// The rank.
        from: usize,
        /// Where all of its messages go.
        to: Option<usize>,
    },
    /// A chain of steps of which each needs what the one before makes.
    Chain,
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limiter::Compute => f.write_str("compute"),
            Limiter::Link { from, to: Some(to) } => write!(f, "link {from}→{to}"),
            Limiter::Link { from, to: None } => write!(f, "links of rank {from}"),
            Limiter::Chain => f.write_str("chain"),
        }
    }
}

impl Estimate {
    /// Lower bound over makespan: 1 is proved to be the best.
    pub fn efficiency(&self) -> f64 {
        efficiency(self.lower_bound_us, self.makespan_us)
    }
}

/// A bound over a makespan; of no time, 1.
pub fn efficiency(bound: f64, makespan: f64) -> f64 {
    if makespan > 0.0 { bound / makespan } else { 1.0 }
}

/// What no schedule of an attention under these layouts (of its query rows and of its key rows) is below, in µs: the pairs that
/// the mask keeps for the rank that has most of them, at the rate of the device. The operands' types are those of the attention.
pub(crate) fn least(attention: &Attention, operands: &[Type], [q, kv]: [&Layout; 2], device: &Device) -> f64 {
    work::least(attention, operands, [q, kv], device)
}

/// A schedule on a device, with the time of each step alone: what more is asked of it is worked out when it is.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    schedule: &'a Schedule,
    costs: work::Costs,
}

impl<'a> Run<'a> {
    pub(crate) fn of(schedule: &'a Schedule, device: &Device) -> Run<'a> {
        Run { schedule, costs: work::Costs::of(schedule, device) }
    }

    /// What the makespan is not below, in µs: the load of one rank, of the rank that has most.
    pub(crate) fn least(&self) -> f64 {
        self.costs.least()
    }

    /// End of the last step of any rank, in µs.
    pub(crate) fn makespan(&self) -> f64 {
        simulate::run(self.schedule, &self.costs).makespan
    }
}

/// Estimates a schedule.
pub fn estimate(schedule: &Schedule, device: &Device) -> Estimate {
    let costs = work::Costs::of(schedule, device);
    let timeline = simulate::run(schedule, &costs);
    let (lower_bound_us, limiter) = bound::lower_bound(schedule, &costs, &timeline);
    Estimate {
        makespan_us: timeline.makespan,
        lower_bound_us,
        limiter,
        exposed_us: timeline.makespan - critical(schedule, &timeline).1,
        peak_bytes: schedule.ranks.iter().map(|r| r.arena_bytes).collect(),
    }
}

/// Runs the model. Nothing is assumed of the schedule: what can never run is left without a span.
pub fn timeline(schedule: &Schedule, device: &Device) -> Timeline {
    simulate::run(schedule, &work::Costs::of(schedule, device))
}

/// Every message that is through in a timeline of [`timeline`], by sender.
pub fn flights(schedule: &Schedule, device: &Device, timeline: &Timeline) -> Vec<Flight> {
    simulate::flights(schedule, &work::Costs::of(schedule, device), timeline)
}

/// The bytes of its arena that hold something still to be read, of a rank over time: (time, bytes from then on), in order.
pub fn live_bytes(schedule: &Schedule, timeline: &Timeline, rank: usize) -> Vec<(f64, usize)> {
    let spans = &timeline.spans[rank];
    let mut changes: Vec<(f64, i64)> = Vec::new();
    for life in Flow::of(&schedule.ranks[rank]).lives {
        // What nobody reads is there while it is written.
        let ends: Option<Vec<f64>> =
            life.readers.iter().chain([&life.writer]).map(|&r| spans[r].map(|s| s.end)).collect();
        let replaced = life.replaced.map_or(Some(f64::INFINITY), |r| spans[r].map(|s| s.begin));
        if let (Some(from), Some(ends), Some(replaced)) = (spans[life.writer], ends, replaced) {
            let to = ends.into_iter().fold(0.0, f64::max).min(replaced).max(from.begin);
            changes.extend([(from.begin, life.at.len() as i64), (to, -(life.at.len() as i64))]);
        }
    }
    // Of changes at one time the ends first.
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut live = 0i64;
    let mut out: Vec<(f64, usize)> = Vec::new();
    for (time, change) in changes {
        live += change;
        match out.last_mut() {
            Some(last) if last.0 == time => last.1 = live.max(0) as usize,
            _ => out.push((time, live.max(0) as usize)),
        }
    }
    out
}

/// The rank that is done last, of such the one that computes most, and how long it computes.
pub(crate) fn critical(schedule: &Schedule, timeline: &Timeline) -> (usize, f64) {
    let ranks = schedule.ranks.iter().zip(&timeline.spans).enumerate().map(|(r, (program, spans))| {
        let (mut end, mut busy) = (0.0f64, 0.0);
        for (step, span) in program.steps.iter().zip(spans) {
            let Some(span) = span else { continue };
            end = end.max(span.end);
            if step.stream == Stream::Compute && !matches!(step.op, StepOp::Exchange { .. }) {
                busy += span.end - span.begin;
            }
        }
        (r, end, busy)
    });
    let last = ranks.max_by(|a, b| a.1.total_cmp(&b.1).then(a.2.total_cmp(&b.2)).then(b.0.cmp(&a.0)));
    last.map_or((0, 0.0), |(r, _, busy)| (r, busy))
}
