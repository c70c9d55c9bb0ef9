//! The cost model against closed forms and recurrences, and the bound against the makespan of anything.

use super::case::{Case, cases};
use crate::inside::check::corpus::travelling;
use annulus::device::Device;
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::schedule::cost::{Limiter, estimate, flights, live_bytes, timeline};
use annulus::schedule::{Schedule, StepOp};
use proptest::prelude::*;

/// A device on which only pairs and links take time: `pairs` 10⁶ operations a µs, whole tiles of one pair.
fn device(tflops: f64, gb_s: f64, latency_us: f64, slowdown: f64) -> Device {
    let rates: String =
        ["f64", "f32", "f16", "bf16"].map(|d| format!("[tflops.{d}]\n1 = {tflops:?}\n")).concat();
    let text = format!(
        "name = \"test\"\nkind = \"cpu\"\nlaunch_us = 0\nmemory_gb_s = 1e9\ntile = [1, 1]\nslowdown = {slowdown:?}\n{rates}\
         [link.node]\ngb_s = {gb_s:?}\nlatency_us = {latency_us:?}\nmessage_us = 0\n"
    );
    Device::parse(&text, "test").unwrap()
}

fn near(a: f64, b: f64) -> bool {
    // Moving bytes at 10⁹ GB/s takes no time to speak of.
    (a - b).abs() <= 1e-6 * b.abs().max(1e-12)
}

/// µs of a partial result over so many pairs.
fn pairs_us(case: &Case, tflops: f64, pairs: usize) -> f64 {
    let s = &case.sizes;
    2.0 * (s.batch * s.q_heads * (s.head_dim + s.v_head_dim) * pairs) as f64 / tflops * 1e-6
}

fn kv_us(case: &Case, gb_s: f64, rows: usize) -> f64 {
    let s = &case.sizes;
    (s.batch * s.kv_heads * (s.head_dim + s.v_head_dim) * rows * case.dtype.bytes()) as f64 / gb_s * 1e-3
}

proptest! {
    /// Without a mask and with equal shares: the greater of P·w and (P−1)·c + w, and nothing is better.
    #[test]
    fn a_uniform_ring_is_the_closed_form(
        ranks in 1usize..10, share in 1usize..6, tflops in 1e-6f64..1e-4, gb_s in 1e-2f64..1.0, latency in 0.0f64..2.0,
    ) {
        let case = Case::new(ranks * share, ranks, LayoutKind::Contiguous, Mask::none());
        let schedule = case.schedule(Strategy::Ring);
        let w = pairs_us(&case, tflops, share * share);
        let c = latency + kv_us(&case, gb_s, share);
        let p = ranks as f64;
        let e = estimate(&schedule, &device(tflops, gb_s, latency, 0.0));
        let want = (p * w).max((p - 1.0) * c + w);
        prop_assert!(near(e.makespan_us, want), "{} is not {want}", e.makespan_us);
        prop_assert_eq!(e.efficiency(), 1.0);
        prop_assert!(near(e.exposed_us + p * w, e.makespan_us));
        if p * w > ((p - 1.0) * c + w) * 1.001 {
            prop_assert_eq!(e.limiter, Limiter::Compute);
        } else if p * w < ((p - 1.0) * c + w) * 0.999 {
            prop_assert!(matches!(e.limiter, Limiter::Link { .. }), "{:?}", e.limiter);
        }
        // Slowed by transfers, all of which pass under kernels: the bound knows it.
        let slow = estimate(&schedule, &device(tflops, gb_s, latency, 0.25));
        if w >= c * 1.25 {
            prop_assert!(near(slow.makespan_us, p * w + 0.2 * (p - 1.0) * c));
            prop_assert_eq!(slow.efficiency(), 1.0);
        }
    }

    /// Uneven shares: the recurrence of hops, with two slots and both messages of a rank in one group.
    #[test]
    fn an_uneven_ring_is_the_recurrence(
        ranks in 2usize..8, rows in 8usize..40, tflops in 1e-6f64..1e-4, gb_s in 1e-2f64..1.0, latency in 0.01f64..2.0,
    ) {
        let case = Case::new(rows, ranks, LayoutKind::Contiguous, Mask::none());
        let schedule = case.schedule(Strategy::Ring);
        let share = |r: usize| schedule.q_layout.share(r);
        let source = |r: usize, hop: usize| (r + ranks - hop) % ranks;
        let w = |r: usize, hop: usize| pairs_us(&case, tflops, share(r) * share(source(r, hop)));
        let through = |to: usize, hop: usize| latency + kv_us(&case, gb_s, share(source(to, hop)));
        let mut done = vec![vec![0.0f64; ranks]; ranks];
        let mut computed = vec![(0..ranks).map(|r| w(r, 0)).collect::<Vec<f64>>()];
        for hop in 1..ranks {
            let posted: Vec<f64> = (0..ranks)
                .map(|r| {
                    let slot = if hop > 2 { computed[hop - 2][r] } else { 0.0 };
                    done[hop - 1][r].max(slot)
                })
                .collect();
            for r in 0..ranks {
                let (before, after) = (source(r, 1), (r + 1) % ranks);
                // A group's end carries the busier of what it sends and receives.
                let arrives = posted[r].max(posted[before]) + through(r, hop);
                let leaves = posted[r].max(posted[after]) + through(after, hop);
                done[hop][r] = arrives.max(leaves);
            }
            let next = (0..ranks).map(|r| done[hop][r].max(computed[hop - 1][r]) + w(r, hop)).collect();
            computed.push(next);
        }
        let want = computed[ranks - 1].iter().copied().fold(0.0, f64::max).max(done[ranks - 1].iter().copied().fold(0.0, f64::max));
        let e = estimate(&schedule, &device(tflops, gb_s, latency, 0.0));
        prop_assert!(near(e.makespan_us, want), "{} is not {want}", e.makespan_us);
    }

    /// Uneven shares: a slot more never makes a ring longer, if nothing slows its kernels, and with a slot for each hop none waits
    /// for a slot.
    #[test]
    fn more_slots_are_never_longer(
        ranks in 2usize..8, rows in 8usize..40, tflops in 1e-6f64..1e-4, gb_s in 1e-2f64..1.0, latency in 0.01f64..2.0,
    ) {
        let case = Case::new(rows, ranks, LayoutKind::Contiguous, Mask::causal(0));
        let device = device(tflops, gb_s, latency, 0.0);
        let time = |slots| estimate(&case.schedule_with(Strategy::Ring, slots), &device).makespan_us;
        let times: Vec<f64> = (2..=ranks + 1).map(time).collect();
        prop_assert!(times.windows(2).all(|t| t[1] <= t[0] * (1.0 + 1e-9)), "{times:?}");
        prop_assert_eq!(time(ranks + 1), time(ranks.max(2)));
    }

    #[test]
    fn no_bound_is_above_the_makespan(
        case in cases(), tflops in 1e-6f64..1e-2, gb_s in 1e-3f64..1e3, latency in 0.0f64..5.0, slowdown in 0.0f64..2.0,
    ) {
        let own = device(tflops, gb_s, latency, slowdown);
        for device in [&own, &Device::named("h200x8x8").unwrap(), &Device::named("cpu").unwrap()] {
            for way in Strategy::ALL {
                let schedule = case.schedule(way);
                let e = estimate(&schedule, device);
                prop_assert!(e.makespan_us.is_finite() && e.lower_bound_us >= 0.0);
                prop_assert!(e.lower_bound_us <= e.makespan_us, "{e:?}");
                prop_assert!((0.0..=1.0).contains(&e.efficiency()) && e.exposed_us >= -1e-9, "{e:?}");
                kept(&schedule, device);
            }
        }
    }
}

/// The timeline keeps what the schedule says: streams in order, events, both ends of a message, and no step is left out.
fn kept(schedule: &Schedule, device: &Device) {
    let t = timeline(schedule, device);
    assert_eq!(t.stuck(), 0);
    for (program, spans) in schedule.ranks.iter().zip(&t.spans) {
        for stream in schedule.mesh.streams() {
            let on = program.steps.iter().zip(spans).filter(|(s, _)| s.stream == stream);
            on.fold(0.0, |free, (_, span)| {
                let span = span.unwrap();
                assert!(span.free == free && span.begin >= free && span.end >= span.begin);
                span.end
            });
        }
        for (step, span) in program.steps.iter().zip(spans) {
            for e in &step.waits {
                let recorder = program.steps.iter().position(|s| s.records == Some(*e)).unwrap();
                assert!(spans[recorder].unwrap().end <= span.unwrap().begin);
            }
        }
    }
    let messages = schedule.ranks.iter().flat_map(|r| &r.steps).map(|s| match &s.op {
        StepOp::Exchange { sends, .. } => sends.len(),
        _ => 0,
    });
    let flights = flights(schedule, device, &t);
    assert_eq!(flights.len(), messages.sum::<usize>());
    for f in flights {
        for (rank, step) in [f.from, f.to] {
            let span = t.spans[rank][step].unwrap();
            assert!(f.begin >= span.begin && f.end <= span.end * (1.0 + 1e-12));
        }
    }
    for (rank, program) in schedule.ranks.iter().enumerate() {
        let live = live_bytes(schedule, &t, rank);
        assert!(live.iter().all(|&(_, bytes)| bytes <= program.arena_bytes));
        assert!(live.last().is_none_or(|&(_, bytes)| bytes == 0), "all is read in the end");
    }
}

/// Where queries and heads travel: on one level and two, every step has its time, and the bound is below.
#[test]
fn what_no_strategy_makes_is_timed_as_well() {
    for (name, _, schedule) in travelling() {
        for device in ["h200x8", "h200x8x8", "cpu"].map(|d| Device::named(d).unwrap()) {
            let e = estimate(&schedule, &device);
            assert!(e.makespan_us.is_finite() && e.makespan_us > 0.0, "{name}: {e:?}");
            assert!(0.0 < e.lower_bound_us && e.lower_bound_us <= e.makespan_us, "{name}: {e:?}");
            kept(&schedule, &device);
        }
    }
}

/// Causal work on contiguous shares waits for the last rank; a zigzag's does not.
#[test]
fn imbalance_is_seen() {
    let device = device(1e-3, 1e3, 0.0, 0.0);
    let of = |kind| estimate(&Case::new(256, 8, kind, Mask::causal(0)).schedule(Strategy::Ring), &device);
    let (contiguous, zigzag) = (of(LayoutKind::Contiguous), of(LayoutKind::Zigzag));
    // max/mean is (2P − 1)/P.
    let ratio = contiguous.makespan_us / zigzag.makespan_us;
    assert!((ratio - 15.0 / 8.0).abs() < 0.02, "{ratio}");
    assert_eq!((contiguous.limiter, zigzag.limiter), (Limiter::Compute, Limiter::Compute));
    assert!(zigzag.efficiency() > 0.999, "{zigzag:?}");
}

/// Across nodes the slow link counts.
#[test]
fn two_levels_are_told_apart() {
    let case = Case::new(16 * 64, 16, LayoutKind::Contiguous, Mask::none());
    let schedule = case.schedule(Strategy::Ring);
    let near = Device::named("h200x8x8").unwrap();
    let mut same_node = near.clone();
    same_node.ranks_per_node = 16;
    assert!(estimate(&schedule, &near).makespan_us > estimate(&schedule, &same_node).makespan_us * 1.2);
}

/// Long sequences of a real model's heads on H200: what the tables of the literature say of the same shapes, within 15 %.
#[test]
fn llama_8b_is_as_long_as_it_should_be() {
    let mut case = Case::new(131_072, 8, LayoutKind::Zigzag, Mask::causal(0));
    case.sizes.q_heads = 32;
    case.sizes.kv_heads = 8;
    (case.sizes.head_dim, case.sizes.v_head_dim) = (128, 128);
    case.dtype = annulus::ir::DType::BF16;
    let e = estimate(&case.schedule(Strategy::Ring), &Device::named("h200x8").unwrap());
    // 29.3 ms at 600 Tflop/s.
    assert!((e.makespan_us / 29_300.0 - 600.0 / 655.0).abs() < 0.15, "{e:?}");
    assert!(e.efficiency() > 0.99 && e.exposed_us < 0.01 * e.makespan_us, "{e:?}");
    assert_eq!(e.limiter, Limiter::Compute);
}
