//! How many multiprocessors transfers had best hold.
//!
//! In: a schedule and a device. Out: a number for each axis of the mesh, of those that the device offers. With more of them transfers
//! are faster, and the kernels beside them have less of the device. Which numbers are promising is seen by each rank by itself, for many
//! schedules are compared; between those that are near the model is run.
//!
//! All transfers along an axis hold the same: NCCL takes a limit for a communicator (its configurations of single calls, from 2.31 on,
//! leave out sends and receives), and a communicator for each number costs memory.

use super::simulate;
use super::work::{Cost, Costs, Load, Loads, slower};
use crate::device::Device;
use crate::schedule::beside::{Recorded, beside};
use crate::schedule::mesh::Stream;
use crate::schedule::types::{RankProgram, Schedule};
use rayon::prelude::*;

/// What takes this many times as long as others does not become better than they are by another number.
const HOPE: f64 = 1.05;

/// Numbers with which a rank by itself takes this many times as long as with the best are not tried.
const PROMISING: f64 = 1.02;

/// Times nearer than this are one: fewer multiprocessors are taken.
const NEAR: f64 = 1e-9;

/// For each axis what its transfers hold.
type Given = Vec<Option<usize>>;

/// The numbers that a schedule's transfers may have.
pub(super) struct Budgets {
    pub(super) loads: Loads,
    /// The ranks by themselves, where there is a choice.
    ranks: Vec<Alone>,
    /// For each axis the most that a transfer along it can use.
    wants: Vec<usize>,
    /// What each number that is offered gives, the same for all axes that can use it, and how long the slowest rank by itself takes then.
    offered: Vec<(Given, f64)>,
}

impl Budgets {
    /// Those of a schedule; one alone where it was asked for, and none where nobody knows.
    pub(super) fn of(schedule: &Schedule, device: &Device, asked: Option<usize>) -> Budgets {
        let loads = Loads::of(schedule, device);
        let (axes, numbers) = (schedule.mesh.axes.len(), device.budgets());
        if asked.is_some() || numbers.len() < 2 {
            let given = vec![asked.or(numbers.first().copied()); axes];
            return Budgets { loads, ranks: vec![], wants: vec![], offered: vec![(given, 0.0)] };
        }
        let wants = wants(schedule, &loads, device);
        let ranks: Vec<Alone> =
            schedule.ranks.par_iter().map(|program| Alone::of(program, axes + 1)).collect();
        let mut offered: Vec<(Given, f64)> = vec![];
        for number in numbers {
            let given: Given = wants.iter().map(|&most| Some(number.min(most))).collect();
            if offered.last().is_none_or(|(before, _)| *before != given) {
                let us = ranks.par_iter().zip(&loads.0).map(|(rank, loads)| rank.us(loads, device, &given));
                let us = us.reduce(|| 0.0, f64::max);
                offered.push((given, us));
            }
        }
        Budgets { loads, ranks, wants, offered }
    }

    /// The most promising.
    pub(super) fn first(&self) -> &Given {
        let mut best = &self.offered[0];
        for other in &self.offered {
            if other.1 < best.1 * (1.0 - NEAR) {
                best = other;
            }
        }
        &best.0
    }

    /// How long the steps take with this.
    fn costs(&self, device: &Device, given: &Given) -> Costs {
        let rank = |(alone, loads): (&Alone, &Vec<Load>)| -> Vec<Cost> {
            let cost = |(part, load): (&Part, &Load)| {
                load.cost(device, held(given, part.beside), of_lane(given, part.lane))
            };
            alone.steps.iter().zip(loads).map(cost).collect()
        };
        let steps = self.ranks.par_iter().zip(&self.loads.0).map(rank).collect();
        Costs { steps, slowdown: device.slowdown }
    }

    /// The makespan of the best, which the schedule's transfers are given; of a schedule that takes clearly longer than `least` that of the
    /// most promising.
    pub(super) fn makespan(&self, schedule: &mut Schedule, device: &Device, least: f64) -> f64 {
        let mut best = self.first().clone();
        schedule.give_transfers(&best);
        if self.ranks.is_empty() {
            return simulate::run(schedule, &self.loads.costs(schedule, device)).makespan;
        }
        let run = |given: &Given| simulate::run(schedule, &self.costs(device, given)).makespan;
        let mut us = run(&best);
        if us > least * HOPE {
            return us;
        }
        let first = best.clone();
        let nearly = self.offered.iter().map(|o| o.1).fold(f64::INFINITY, f64::min) * PROMISING;
        for (given, alone) in &self.offered {
            if *given == first || *alone > nearly {
                continue;
            }
            let then = run(given);
            // Fewer where nothing is lost by it, more where something is won.
            let fewer = given.iter().zip(&best).all(|(a, b)| a <= b);
            if if fewer { then <= us * (1.0 + NEAR) } else { then < us * (1.0 - NEAR) } {
                (us, best) = (then, given.clone());
            }
        }
        if best.len() > 1 {
            us = self.axis_by_axis(&mut best, us, &run);
        }
        schedule.give_transfers(&best);
        us
    }

    /// Half of what an axis has, or twice as much, as long as the run is shorter for it.
    fn axis_by_axis(&self, given: &mut Given, mut us: f64, run: &dyn Fn(&Given) -> f64) -> f64 {
        for axis in 0..given.len() {
            for twice in [false, true] {
                let begin = given[axis];
                while let Some(sms) = given[axis] {
                    let next = if twice { sms * 2 } else { sms / 2 };
                    if next == 0 || next > self.wants[axis] {
                        break;
                    }
                    let mut other = given.clone();
                    other[axis] = Some(next);
                    let then = run(&other);
                    if if twice { then >= us * (1.0 - NEAR) } else { then > us * (1.0 + NEAR) } {
                        break;
                    }
                    (us, *given) = (then, other);
                }
                if given[axis] != begin {
                    break;
                }
            }
        }
        us
    }
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

/// What transfers along these axes hold together, a bit for each axis.
fn held(given: &Given, axes: usize) -> usize {
    given.iter().enumerate().take(AXES).map(|(axis, sms)| (axes >> axis & 1) * sms.unwrap_or(0)).sum()
}

/// What those of a stream hold.
fn of_lane(given: &Given, lane: usize) -> Option<usize> {
    lane.checked_sub(1).and_then(|axis| given.get(axis).copied().flatten())
}

/// A rank by itself, as if its peers came to each message when it does.
struct Alone {
    streams: usize,
    steps: Vec<Part>,
    /// The steps whose events a step waits for, one step behind the other.
    waits: Vec<usize>,
}

/// A step of it.
struct Part {
    lane: usize,
    /// Which axes may have transfers beside it, a bit for each.
    beside: usize,
    /// Where its waits end.
    waits: usize,
}

/// Of axes beyond these no kernel is taken to have transfers beside it: no mesh that is scheduled has as many.
const AXES: usize = usize::BITS as usize;

impl Alone {
    fn of(program: &RankProgram, streams: usize) -> Alone {
        let mut masks = vec![0usize; program.steps.len()];
        beside(program, streams, |kernel, lane, _| {
            masks[kernel] |= if lane <= AXES { 1 << (lane - 1) } else { 0 };
        });
        let (mut steps, mut waits) = (Vec::with_capacity(masks.len()), vec![]);
        let mut recorded = Recorded::none(program);
        for (i, (step, beside)) in program.steps.iter().zip(masks).enumerate() {
            waits.extend(recorded.awaited(step));
            steps.push(Part { lane: step.stream.lane(), beside, waits: waits.len() });
            recorded.add(i, step);
        }
        Alone { streams, steps, waits }
    }

    /// When its last step is done.
    fn us(&self, loads: &[Load], device: &Device, given: &Given) -> f64 {
        let mut free = vec![0.0f64; self.streams];
        let mut ends: Vec<f64> = Vec::with_capacity(self.steps.len());
        let mut from = 0;
        for (step, load) in self.steps.iter().zip(loads) {
            let us = match load {
                Load::Kernel(us) => us * slower(device, held(given, step.beside)),
                Load::Transfers(both) => {
                    let sms = of_lane(given, step.lane);
                    both.iter().map(|traffic| traffic.us(device, sms)).fold(0.0, f64::max)
                }
            };
            let free = free.get_mut(step.lane);
            let begin = free.as_ref().map_or(0.0, |free| **free);
            let end = self.waits[from..step.waits].iter().map(|&w| ends[w]).fold(begin, f64::max) + us;
            from = step.waits;
            ends.push(end);
            free.into_iter().for_each(|free| *free = end);
        }
        ends.into_iter().fold(0.0, f64::max)
    }
}
