//! What transfers hold: which kernels may have them beside them, against every path of the program; what that costs; what the pass chooses.

use super::case::{Case, cases};
use super::events::precedes;
use crate::inside::check::corpus::travelling;
use crate::inside::driver::attention;
use crate::inside::support::cases::snapshot;
use annulus::device::{Device, DeviceKind};
use annulus::ir::DType;
use annulus::layout::LayoutKind;
use annulus::lower::Arch;
use annulus::lower::program::{Action, Target, lower};
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::schedule::cost::{estimate, timeline};
use annulus::schedule::{Schedule, StepOp, Stream};
use proptest::prelude::*;
use std::fmt::Write;

/// The schedule with a budget for each exchange, from a list over and over; both ends of a message have the same.
pub(crate) fn with_budgets(mut schedule: Schedule, budgets: &[Option<usize>]) -> Schedule {
    for step in schedule.ranks.iter_mut().flat_map(|r| &mut r.steps) {
        if let StepOp::Exchange { group, sms, .. } = &mut step.op {
            *sms = budgets[*group % budgets.len()];
        }
    }
    schedule
}

/// By step of a rank, what the exchanges hold that neither come before it nor after it on any path.
fn left(schedule: &Schedule, rank: usize) -> Vec<usize> {
    let program = &schedule.ranks[rank];
    let before = precedes(program, &schedule.mesh);
    let of = |step: usize| {
        if program.steps[step].stream != Stream::Compute {
            return 0;
        }
        let of_axis = |axis: usize| {
            let held = program.steps.iter().enumerate().map(|(x, s)| match &s.op {
                StepOp::Exchange { sms, sends, recvs, .. }
                    if s.stream == Stream::Comm(axis) && !(sends.is_empty() && recvs.is_empty()) =>
                {
                    if before(x, step) || before(step, x) { 0 } else { sms.unwrap_or(0) }
                }
                _ => 0,
            });
            held.max().unwrap_or(0)
        };
        (0..schedule.mesh.axes.len()).map(of_axis).sum()
    };
    (0..program.steps.len()).map(of).collect()
}

/// Launches of the device programs leave what transfers beside their steps may hold, and say nothing where nothing stays for it.
fn launches_leave(schedule: &Schedule) -> usize {
    let mut leaving = 0;
    let Ok(programs) = lower(schedule, Target::Cuda(Arch::Sm90a)) else { return 0 };
    for (rank, program) in programs.iter().enumerate() {
        let left = left(schedule, rank);
        for op in &program.ops {
            match &op.action {
                Action::Launch(launch) => {
                    let want = if launch.grid.most.is_some() { left[op.step] } else { 0 };
                    assert_eq!(launch.grid.leaves, want, "rank {rank}, step {}", op.step);
                    leaving += usize::from(want > 0);
                    let (all, few) = (launch.grid.on(132), launch.grid.on(1));
                    assert!(few >= 1 && all <= launch.grid.blocks.max(launch.grid.multiple));
                }
                Action::Group(group) => {
                    let StepOp::Exchange { sms, .. } = schedule.ranks[rank].steps[op.step].op else {
                        panic!("a group of another step");
                    };
                    assert_eq!(group.sms, sms);
                }
                _ => {}
            }
        }
    }
    leaving
}

/// In the model's run, whatever is under way while a kernel runs is left what it holds: by then the kernel takes as much longer.
fn kernels_make_room(schedule: &Schedule, device: &Device) {
    let t = timeline(schedule, device);
    let alone =
        timeline(&with_budgets(schedule.clone(), &[None]), &Device { slowdown: 0.0, ..device.clone() });
    for (rank, program) in schedule.ranks.iter().enumerate() {
        let left = left(schedule, rank);
        for (i, step) in program.steps.iter().enumerate().filter(|(_, s)| s.stream == Stream::Compute) {
            let span = t.spans[rank][i].unwrap();
            for (x, other) in program.steps.iter().enumerate() {
                let StepOp::Exchange { sms: Some(sms), .. } = other.op else { continue };
                let moving = t.spans[rank][x].unwrap();
                let (from, to) = (span.begin.max(moving.moving), span.end.min(moving.end));
                assert!(
                    to - from <= 1e-9 * t.makespan || left[i] >= sms,
                    "rank {rank}: {x} beside {i} ({step:?})"
                );
            }
            let took = alone.spans[rank][i].unwrap();
            let least = (took.end - took.begin) * 132.0 / (132 - left[i].min(131)) as f64;
            assert!(span.end - span.begin >= least * (1.0 - 1e-6) - 1e-9, "rank {rank}, step {i}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_beside_a_kernel_is_left_room(
        case in cases(), budgets in prop::collection::vec(prop::option::of(prop::sample::select(vec![0usize, 1, 2, 16, 64])), 1..4),
        slowdown in 0.0f64..0.5,
    ) {
        let mut device = Device::named("h200x8x8").unwrap();
        device.slowdown = slowdown;
        for way in Strategy::ALL {
            let schedule = with_budgets(case.schedule(way), &budgets);
            launches_leave(&schedule);
            kernels_make_room(&schedule, &device);
            let e = estimate(&schedule, &device);
            prop_assert!(e.lower_bound_us <= e.makespan_us, "{e:?}");
        }
    }
}

/// On two levels the transfers of both axes have their room.
#[test]
fn both_levels_are_left_room() {
    let device = Device::named("h200x8x8").unwrap();
    let mut leaving = 0;
    for (name, mut case, schedule) in travelling() {
        let schedule = with_budgets(schedule, &[Some(4), Some(1), None]);
        kernels_make_room(&schedule, &device);
        let e = estimate(&schedule, &device);
        assert!(e.lower_bound_us <= e.makespan_us, "{name}: {e:?}");
        // Where a strategy makes it, in a type that Hopper's kernels take.
        (case.dtype, case.attention.acc) = (DType::BF16, DType::F32);
        (case.sizes.head_dim, case.sizes.v_head_dim) = (64, 64);
        for way in Strategy::ALL {
            leaving += launches_leave(&with_budgets(case.schedule(way), &[Some(4), Some(1)]));
        }
    }
    assert!(leaving > 20, "{leaving}");
}

/// A device on which only pairs and links take time, with 100 multiprocessors, of which links want 10 (8 with a power of two).
fn device(tflops: f64, gb_s: f64) -> Device {
    let link = annulus::device::Link::new(gb_s, 0.0, 0.0).sms(8);
    let floats = DType::ALL.into_iter().filter(|d| d.is_float());
    let built = Device::builder("test", DeviceKind::Cpu).launch_us(0.0).memory_gb_s(1e9).tile([1, 1]);
    let built = built.slowdown(0.0).sms(100).node(link);
    floats.fold(built, |b, d| b.tflops(d, 1, tflops)).build().unwrap()
}

/// A uniform ring: kernels beside a hop take M/(M − b) of their time, the last one its own, and a hop S/b of the link's.
#[test]
fn a_ring_with_a_budget_is_the_closed_form() {
    let ranks = 4;
    let case = Case::new(ranks * 6, ranks, LayoutKind::Contiguous, Mask::none());
    let schedule = case.schedule(Strategy::Ring);
    let us = |schedule: &Schedule, device: &Device| estimate(schedule, device).makespan_us;
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b;
    // Kernels alone, and hops alone.
    let slow = device(1e-5, 1e6);
    let kernel = us(&schedule, &slow) / ranks as f64;
    for sms in [1, 2, 8, 64] {
        let with = with_budgets(schedule.clone(), &[Some(sms)]);
        let want = kernel * (3.0 * 100.0 / (100 - sms) as f64 + 1.0);
        assert!(near(us(&with, &slow), want), "{sms}: {} is not {want}", us(&with, &slow));
    }
    let hops = device(1e6, 1e-2);
    let hop = us(&schedule, &hops) / 3.0;
    for (sms, part) in [(1, 8.0), (4, 2.0), (8, 1.0), (64, 1.0), (0, 1.0)] {
        let with = with_budgets(schedule.clone(), &[Some(sms)]);
        assert!(near(us(&with, &hops), 3.0 * hop * part), "{sms}");
    }
}

/// What is asked of the pass, by how long the rows are: as few as hide the hops, all where nothing hides them.
#[test]
fn the_pass_takes_as_many_as_take_the_least_time() {
    let mut out = String::new();
    for rows in [256, 1024, 4096, 16_384, 65_536] {
        for (strategy, nodes) in [(Strategy::Ring, 1), (Strategy::AllGather, 1), (Strategy::Queries, 2)] {
            let graph = attention(rows * 8, "causal(0)");
            let device = if nodes == 1 { "h200x8" } else { "h200x8x8" };
            let options = annulus::Options::new(8).strategy(strategy).device(Device::named(device));
            let options = if nodes > 1 { options.nodes(nodes) } else { options };
            let compiled = annulus::compile(&graph, &options).unwrap();
            let (island, chosen) = (&compiled.islands[0], compiled.islands[0].schedule.comm_sms());
            let us = |sms: Option<usize>| {
                let asked = annulus::compile(&graph, &options.clone().comm_sms(sms)).unwrap();
                asked.islands[0].estimate.makespan_us
            };
            // No number that is the same for all transfers is better.
            let all: Vec<f64> = compiled.device.budgets().into_iter().map(|b| us(Some(b))).collect();
            let best = all.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(
                island.estimate.makespan_us <= best * (1.0 + 1e-9),
                "{rows} {strategy}: {chosen:?} of {all:?}"
            );
            let all: Vec<String> = all.iter().map(|us| format!("{us:.1}")).collect();
            let taken = island.estimate.makespan_us;
            writeln!(
                out,
                "{rows} rows a rank, {strategy}: {chosen:?}, {taken:.1} µs; with 1, 2, 4 … {} µs",
                all.join(", ")
            )
            .unwrap();
        }
    }
    snapshot("search", "multiprocessors", &out);
}
