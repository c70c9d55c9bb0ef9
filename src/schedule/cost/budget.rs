//! How many multiprocessors transfers had best hold.
//!
//! In: a schedule and a device. Out: a number for each axis of the mesh, of those that the device offers. With more of them transfers
//! are faster, and the kernels beside them have less of the device. A promising number comes from each rank by itself, for many schedules
//! are compared; those that may be taken are refined by running the model.
//!
//! All transfers along an axis hold the same: NCCL takes a limit for a communicator (its configurations of single calls, from 2.31 on,
//! leave out sends and receives), and a communicator for each number costs memory.

use super::simulate;
use super::work::{Load, Loads, slower};
use crate::device::Device;
use crate::schedule::beside::beside;
use crate::schedule::mesh::Stream;
use crate::schedule::steps::StepOp;
use crate::schedule::types::{RankProgram, Schedule};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What takes this many times as long as others does not become better than they are by another number.
const HOPE: f64 = 1.05;

/// Times nearer than this are one: fewer multiprocessors are taken.
const NEAR: f64 = 1e-9;

/// For each axis the number with which the slowest rank by itself is fastest, or what was asked for.
pub(super) fn promising(
    schedule: &Schedule,
    loads: &Loads,
    device: &Device,
    asked: Option<usize>,
) -> Vec<Option<usize>> {
    let axes = schedule.mesh.axes.len();
    let offered = device.budgets();
    if asked.is_some() || offered.len() < 2 {
        return vec![asked.or(offered.first().copied()); axes];
    }
    let wants = wants(schedule, loads, device);
    let given = |budget: usize| wants.iter().map(|&most| Some(budget.min(most))).collect::<Vec<_>>();
    let of_rank = |(loads, program): (&Vec<Load>, &RankProgram)| {
        let alone = Alone::of(loads, program, axes + 1);
        offered.iter().map(|&budget| alone.us(device, &given(budget))).collect::<Vec<f64>>()
    };
    let ranks: Vec<Vec<f64>> = loads.0.par_iter().zip(&schedule.ranks).map(of_rank).collect();
    let mut best = (f64::INFINITY, offered[0]);
    for (n, &budget) in offered.iter().enumerate() {
        let us = ranks.iter().map(|us| us[n]).fold(0.0, f64::max);
        if us < best.0 * (1.0 - NEAR) {
            best = (us, budget);
        }
    }
    given(best.1)
}

/// For each axis the most that a transfer along it can use.
fn wants(schedule: &Schedule, loads: &Loads, device: &Device) -> Vec<usize> {
    let mut most = vec![0; schedule.mesh.axes.len()];
    for (loads, program) in loads.0.iter().zip(&schedule.ranks) {
        for (load, step) in loads.iter().zip(&program.steps) {
            if let (Load::Transfers(both), Stream::Comm(axis)) = (load, step.stream)
                && let Some(most) = most.get_mut(axis)
            {
                *most = both.iter().map(|traffic| traffic.wants(device)).fold(*most, usize::max);
            }
        }
    }
    most
}

/// A rank by itself, as if its peers came to each message when it does.
struct Alone<'a> {
    streams: usize,
    steps: Vec<Part<'a>>,
}

/// A step of it.
struct Part<'a> {
    lane: usize,
    load: &'a Load,
    /// Which axes may have transfers beside it, a bit for each.
    beside: usize,
    /// The steps whose events it waits for.
    waits: Vec<usize>,
}

/// Of axes beyond these no kernel is taken to have transfers beside it: no mesh that is scheduled has as many.
const AXES: usize = usize::BITS as usize;

impl<'a> Alone<'a> {
    fn of(loads: &'a [Load], program: &RankProgram, streams: usize) -> Alone<'a> {
        let mut masks = vec![0usize; loads.len()];
        beside(program, streams, |kernel, lane, _| {
            masks[kernel] |= if lane <= AXES { 1 << (lane - 1) } else { 0 };
        });
        let mut recorded = BTreeMap::new();
        let mut steps = Vec::with_capacity(loads.len());
        for (i, ((load, step), beside)) in loads.iter().zip(&program.steps).zip(masks).enumerate() {
            let waits = step.waits.iter().filter_map(|e| recorded.get(e).copied()).collect();
            steps.push(Part { lane: step.stream.lane(), load, beside, waits });
            step.records.iter().for_each(|&event| {
                recorded.entry(event).or_insert(i);
            });
        }
        Alone { streams, steps }
    }

    /// When its last step is done.
    fn us(&self, device: &Device, given: &[Option<usize>]) -> f64 {
        let held = |mask: usize| {
            let of = |(axis, sms): (usize, &Option<usize>)| (mask >> axis & 1) * sms.unwrap_or(0);
            given.iter().enumerate().take(AXES).map(of).sum::<usize>()
        };
        let mut free = vec![0.0f64; self.streams];
        let mut ends: Vec<f64> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let sms = step.lane.checked_sub(1).and_then(|axis| given.get(axis).copied().flatten());
            let us = match step.load {
                Load::Kernel(us) => us * slower(device, held(step.beside)),
                Load::Transfers(both) => {
                    both.iter().map(|traffic| traffic.us(device, sms)).fold(0.0, f64::max)
                }
            };
            let free = free.get_mut(step.lane);
            let begin =
                step.waits.iter().map(|&w| ends[w]).fold(free.as_ref().map_or(0.0, |f| **f), f64::max);
            ends.push(begin + us);
            free.into_iter().for_each(|free| *free = begin + us);
        }
        ends.into_iter().fold(0.0, f64::max)
    }
}

/// The makespan, given the least of others: where it may be less than these, transfers hold half of what they did or twice as much, axis by
/// axis, as long as it is shorter for it.
pub(super) fn refined(schedule: &mut Schedule, loads: &Loads, device: &Device, least: f64) -> f64 {
    let offered = device.budgets();
    let mut given: Vec<Option<usize>> =
        (0..schedule.mesh.axes.len()).map(|axis| held_along(schedule, axis)).collect();
    let mut run = |given: &[Option<usize>]| {
        schedule.give_transfers(given);
        simulate::run(schedule, &loads.costs(schedule, device)).makespan
    };
    let mut us = run(&given);
    if us > least * HOPE || offered.len() < 2 {
        return us;
    }
    let wants = wants(schedule, loads, device);
    let mut run = |given: &[Option<usize>]| {
        schedule.give_transfers(given);
        simulate::run(schedule, &loads.costs(schedule, device)).makespan
    };
    for axis in 0..given.len() {
        for twice in [false, true] {
            let begin = given[axis];
            while let Some(sms) = given[axis] {
                let next = if twice { sms * 2 } else { sms / 2 };
                if !offered.contains(&next) || next > wants[axis] {
                    break;
                }
                let mut other = given.clone();
                other[axis] = Some(next);
                let then = run(&other);
                // Fewer where nothing is lost by it, more where something is won.
                let better = if twice { then < us * (1.0 - NEAR) } else { then <= us * (1.0 + NEAR) };
                if !better {
                    break;
                }
                (us, given) = (then, other);
            }
            if given[axis] != begin {
                break;
            }
        }
    }
    schedule.give_transfers(&given);
    us
}

/// What the first transfer along an axis holds.
fn held_along(schedule: &Schedule, axis: usize) -> Option<usize> {
    let mut steps = schedule.ranks.iter().flat_map(|r| &r.steps).filter(|s| s.stream == Stream::Comm(axis));
    steps.find_map(|s| match s.op {
        StepOp::Exchange { sms, .. } => Some(sms),
        _ => None,
    })?
}
