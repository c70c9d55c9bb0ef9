//! The text of the kernels, run on a CPU against attention written out in f64.
//!
//! `kernels/shim` is the machine: threads as fibers, copies that land late, products that are taken only when waited for, and
//! a watch on every access. The text is what NVRTC gets, but for `ptx*.cuh`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kernels/build.rs"]
mod build;
#[path = "kernels/problem.rs"]
mod problem;
#[path = "kernels/reference.rs"]
mod reference;
#[path = "kernels/run.rs"]
mod run;

use build::{Key, compiler};
use problem::{Problem, rows};
use run::check;

/// Seeds under which every case runs: each is another order of threads, blocks and copies.
const SEEDS: [u64; 4] = [1, 2, 3, 5];

#[test]
fn causal() {
    let Some(compiler) = compiler() else { return };
    let mut p = Problem::new(4, 2, 128, 128);
    p.queries(&[rows(0, 1, 200)]).chunk(&[rows(0, 1, 200)]).causal(0);
    check(&compiler, &Key::default(), &p, &SEEDS).unwrap();
}

/// A fault of each kind in the text, and what finds it. The place must be in the text: where the text changes, so must this.
#[test]
fn planted_faults_are_caught() {
    let Some(compiler) = compiler() else { return };
    let faults = [
        (
            "k is not waited for",
            "race",
            "mbarrier_wait(&bar.k_full[slot_of(blocks + 1)], round_of(blocks + 1));",
            "",
        ),
        (
            "v is not waited for",
            "race",
            "mbarrier_wait(&bar.v_full[slot_of(blocks)], round_of(blocks));\n                wgmma_fence();",
            "wgmma_fence();",
        ),
        (
            "the wrong phase",
            "deadlock",
            "mbarrier_wait(&bar.k_free[slot_of(n)], round_of(n) ^ 1);",
            "mbarrier_wait(&bar.k_free[slot_of(n)], round_of(n));",
        ),
        (
            "the wrong stride",
            " is ",
            "tile_descriptor(smem + K_AT, 16, 1024)",
            "tile_descriptor(smem + K_AT, 16, 512)",
        ),
        (
            "the mask is off by one",
            "column",
            "i32 step = 8 * (i / 4) + (i & 1);",
            "i32 step = 8 * (i / 4) + (i & 1) - 1;",
        ),
        ("o is not rescaled", "column", "if (moved) shrink_rows(o, shrink);", ""),
        (
            "k is released early",
            "while a product reads it",
            "wgmma_wait<1>();\n                hold(s);\n                if (leads) mbarrier_arrive(&bar.k_free[slot_of(blocks + 1)]);",
            "if (leads) mbarrier_arrive(&bar.k_free[slot_of(blocks + 1)]);\n                wgmma_wait<1>();\n                hold(s);",
        ),
        (
            "v is released early",
            "while a product reads it",
            "bool moved = soft.weigh(s, unit, shrink);\n                wgmma_wait<0>();\n                hold(o);\n                hold(weights);\n                if (leads) mbarrier_arrive(&bar.v_free[slot_of(blocks)]);",
            "if (leads) mbarrier_arrive(&bar.v_free[slot_of(blocks)]);\n                bool moved = soft.weigh(s, unit, shrink);\n                wgmma_wait<0>();\n                hold(o);\n                hold(weights);",
        ),
        (
            "scores are read before they are there",
            "touches the sum of a product",
            "turn_pass(wg);\n                wgmma_wait<1>();",
            "turn_pass(wg);",
        ),
        (
            "a race on m and l",
            "race",
            "// All four lanes of the row have read m and l before one of them writes.\n            warp_sync();",
            "",
        ),
        (
            "the turn is not passed on",
            "deadlock",
            "turn_pass(wg);\n                wgmma_wait<1>();",
            "wgmma_wait<1>();",
        ),
        (
            "weights are overwritten under a product",
            "overwrites an operand",
            "wgmma_wait<0>();\n                hold(o);",
            "",
        ),
    ];
    let mut problem = Problem::new(3, 1, 128, 128);
    problem.size = 16.0; // so that maxima grow
    problem.queries(&[rows(450, 1, 150)]).chunk(&[rows(0, 1, 450)]).chunk(&[rows(450, 1, 150)]).causal(0);
    problem.chunks.reverse();
    for (what, found, right, wrong) in faults {
        let key = Key { fault: Some((right, wrong)), cast_out: false, ..Key::default() };
        let said = check(&compiler, &key, &problem, &[1]).expect_err(what);
        assert!(said.contains(found), "{what}: {said}");
    }
}
