//! The text of the kernels, run on a CPU against attention written out in f64.
//!
//! `kernels/shim` is the machine: threads as fibers, copies that land late, products that are taken only when waited for, and
//! a watch on every access. The text is what NVRTC gets, but for `ptx*.cuh`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kernels/build.rs"]
mod build;
#[path = "kernels/faults.rs"]
mod faults;
#[path = "kernels/problem.rs"]
mod problem;
#[path = "kernels/reference.rs"]
mod reference;
#[path = "kernels/run.rs"]
mod run;

use annulus::lower::{Element, HopperTiling, KernelKey, Tiling};
use build::compiler;
use problem::{Problem, rows};
use run::check;

/// Seeds under which every case runs: each is another order of threads, blocks and copies.
const SEEDS: [u64; 4] = [1, 2, 3, 5];

/// A Hopper kernel for these head sizes, with the tiles that they get.
fn hopper(dk: usize, dv: usize, positions: bool) -> KernelKey {
    KernelKey::hopper(Element::Bf16, dk, dv, positions).unwrap()
}

/// One problem with the kernels that it needs, under every seed.
fn run(key: &KernelKey, problem: &mut Problem, more: impl FnOnce(&mut Problem)) {
    let Some(compiler) = compiler() else { return };
    problem.bf16 = key.element == Element::Bf16;
    more(problem);
    check(&compiler, key, problem, None, &SEEDS).unwrap();
}

/// Lengths that no block divides, rows that start anywhere, grouped heads.
#[test]
fn tails_and_grouped_heads() {
    for (queries, keys) in [(200, 333), (1, 1), (129, 127), (64, 256), (3, 700)] {
        run(&hopper(128, 128, true), &mut Problem::new(4, 2, 128, 128), |p| {
            p.queries(&[rows(keys - queries, 1, queries as usize)])
                .chunk(&[rows(0, 1, keys as usize)])
                .causal(0);
        });
    }
    run(&hopper(128, 128, false), &mut Problem::new(6, 1, 128, 128), |p| {
        p.queries(&[rows(0, 1, 150)]).chunk(&[rows(0, 1, 400)]);
    });
}

/// Every pair of head sizes that has tiles of its own, and sizes that are padded.
#[test]
fn head_sizes() {
    for (dk, dv) in [(64, 64), (192, 128), (256, 256), (192, 192), (256, 64)] {
        for positions in [true, false] {
            run(&hopper(dk, dv, positions), &mut Problem::new(2, 1, dk, dv), |p| {
                p.queries(&[rows(0, 1, 140)]).chunk(&[rows(0, 1, 300)]);
                p.high = if positions { 1 } else { p.high };
            });
        }
    }
}

#[test]
fn padded_head_sizes() {
    for (dk, dv, key) in
        [(80, 40, hopper(128, 64, true)), (8, 96, hopper(64, 128, true)), (72, 200, hopper(128, 256, true))]
    {
        run(&key, &mut Problem::new(2, 2, dk, dv), |p| {
            p.queries(&[rows(20, 1, 130)]).chunk(&[rows(0, 1, 150)]).causal(0);
        });
    }
}

#[test]
fn half_precision() {
    let key = KernelKey { element: Element::F16, ..hopper(128, 128, true) };
    run(&key, &mut Problem::new(2, 1, 128, 128), |p| {
        p.queries(&[rows(0, 1, 140)]).chunk(&[rows(0, 1, 140)]).causal(0);
    });
}

/// Chunks of a sequence in an order that no ring has, with more pieces than one on both sides; rows of a stripe.
#[test]
fn carries() {
    let key = hopper(128, 128, true);
    for (parts, step) in [(1, 1), (2, 1), (5, 1), (8, 4)] {
        for cast_out in [true, false] {
            run(&KernelKey { cast_out, ..key }, &mut Problem::new(2, 1, 128, 128), |p| {
                p.gap = 3;
                p.queries(&[rows(1, step, 70), rows(300, 1, 100)]).causal(0);
                // Part i has rows i, i + parts, … of a stripe, or a run of rows.
                let length = 400 / parts;
                for i in [3, 0, 6, 2, 7, 1, 5, 4].into_iter().filter(|&i| i < parts) {
                    if step > 1 {
                        p.chunk(&[rows(i, parts, length as usize)]);
                    } else {
                        p.chunk(&[rows(i * length, 1, 20), rows(i * length + 20, 1, length as usize - 20)]);
                    }
                }
            });
        }
    }
}

/// Sliding windows, a shift for each batch entry, offsets that leave rows without keys, documents.
#[test]
fn masks_by_position() {
    let key = hopper(128, 128, true);
    run(&key, &mut Problem::new(2, 1, 128, 128), |p| {
        p.batch = 2;
        p.queries(&[rows(100, 1, 200)]).chunk(&[rows(0, 1, 150), rows(150, 1, 150)]);
        (p.low, p.high, p.shift) = (-40, 17, Some(vec![-3, 120]));
    });
    for empty_row in [0.0, f32::NAN] {
        run(&key, &mut Problem::new(1, 1, 128, 128), |p| {
            p.queries(&[rows(0, 1, 300)]).chunk(&[rows(200, 1, 60)]).chunk(&[rows(0, 1, 70)]).causal(-30);
            p.low = -90;
            p.empty_row = empty_row;
        });
    }
    run(&key, &mut Problem::new(2, 2, 128, 128), |p| {
        p.queries(&[rows(0, 1, 140), rows(200, 1, 60)]).chunk(&[rows(0, 1, 260)]).causal(0);
        p.documents = Some(vec![0, 1, 90, 129, 210, 255]);
    });
}

/// No key at all, in a launch or in a tile; the counter is left as it was.
#[test]
fn nothing_to_see() {
    let key = hopper(128, 128, true);
    for cast_out in [true, false] {
        run(&KernelKey { cast_out, ..key }, &mut Problem::new(3, 1, 128, 128), |p| {
            p.queries(&[rows(0, 1, 200)])
                .chunk(&[])
                .chunk(&[rows(100, 1, 50)])
                .chunk(&[rows(400, 1, 50)])
                .causal(0);
        });
        run(&KernelKey { cast_out, ..key }, &mut Problem::new(1, 1, 128, 128), |p| {
            p.queries(&[rows(0, 1, 20)]).chunk(&[]);
        });
    }
}

#[test]
fn softcap_and_sinks() {
    let key = KernelKey { softcap: true, ..hopper(128, 128, true) };
    run(&key, &mut Problem::new(2, 1, 128, 128), |p| {
        p.softcap = Some(15.0);
        p.size = 10.0;
        p.queries(&[rows(0, 1, 140)]).chunk(&[rows(70, 1, 70)]).chunk(&[rows(0, 1, 70)]).causal(0);
        p.sinks = Some(vec![3.0, -2.0]);
    });
    run(&hopper(64, 64, true), &mut Problem::new(3, 3, 64, 64), |p| {
        p.queries(&[rows(0, 1, 100)]).chunk(&[rows(0, 1, 100)]).causal(-10);
        p.sinks = Some(vec![0.5, f32::NEG_INFINITY, 40.0]);
    });
}

/// Scores of ±1e4, where exp of an absolute score would be 0 or ∞.
#[test]
fn large_scores() {
    for chunks in [1, 3] {
        run(&hopper(128, 128, true), &mut Problem::new(2, 1, 128, 128), |p| {
            p.size = 4000.0;
            p.queries(&[rows(0, 1, 150)]).causal(0);
            (0..chunks).for_each(|i| {
                p.chunk(&[rows(i * 150 / chunks, 1, (150 / chunks) as usize)]);
            });
        });
    }
}

/// Warpgroups, turns, slots for q, and how many products go ahead of the softmax.
#[test]
fn tilings() {
    let key = hopper(64, 64, true);
    for (warpgroups, turns, q_slots, values_ahead) in
        [(2, false, 1, 3), (3, true, 2, 4), (1, false, 2, 1), (2, true, 1, 2)]
    {
        let tiling = Tiling::Hopper(HopperTiling { warpgroups, turns, q_slots, values_ahead, keys: 64 });
        run(&KernelKey { tiling, ..key }, &mut Problem::new(2, 1, 64, 64), |p| {
            p.queries(&[rows(0, 1, 330)]).chunk(&[rows(0, 1, 330)]).causal(0);
        });
    }
}

#[test]
fn planted_faults_are_caught() {
    let Some(compiler) = compiler() else { return };
    let mut problem = Problem::new(3, 1, 128, 128);
    problem.size = 16.0; // so that maxima grow
    problem.queries(&[rows(450, 1, 150)]).chunk(&[rows(450, 1, 150)]).chunk(&[rows(0, 1, 450)]).causal(0);
    let key = KernelKey { cast_out: false, ..hopper(128, 128, true) };
    check(&compiler, &key, &problem, None, &SEEDS).unwrap();
    for fault in faults::HOPPER {
        let said = check(&compiler, &key, &problem, Some(fault), &[1]).expect_err(fault.name);
        assert!(said.contains(fault.found), "{}: {said}", fault.name);
    }
}
