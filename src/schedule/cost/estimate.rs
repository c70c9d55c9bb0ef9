//! A schedule on a device: what is asked of the model, from one bound to all figures.

use super::budget::Budgets;
use super::figures::Estimate;
use super::simulate::{self, Flight, Timeline};
use super::{bound, work};
use crate::device::Device;
use crate::schedule::mesh::Stream;
use crate::schedule::steps::StepOp;
use crate::schedule::types::Schedule;

/// A schedule on a device, with the time of each step alone: what more is asked of it is worked out when it is.
pub(crate) struct Timing<'a> {
    schedule: &'a mut Schedule,
    device: &'a Device,
    budgets: Budgets,
}

impl<'a> Timing<'a> {
    /// With transfers that hold what was `asked`, or what is promising.
    pub(crate) fn given(schedule: &'a mut Schedule, device: &'a Device, asked: Option<usize>) -> Timing<'a> {
        let budgets = Budgets::of(schedule, device, asked);
        schedule.give_transfers(budgets.first());
        Timing { schedule, device, budgets }
    }

    /// What the makespan is not below, in µs: the load of one rank, of the rank that has most.
    pub(crate) fn least(&self) -> f64 {
        self.budgets.loads.costs(self.schedule, self.device).least(self.schedule)
    }

    /// End of the last step of any rank, in µs, with transfers that hold whatever is best; of a schedule that takes clearly longer than
    /// `least` only what is promising.
    pub(crate) fn makespan(self, least: f64) -> f64 {
        self.budgets.makespan(self.schedule, self.device, least)
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

/// The rank that is done last, of such the one that computes most, and how long it computes.
fn critical(schedule: &Schedule, timeline: &Timeline) -> (usize, f64) {
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
