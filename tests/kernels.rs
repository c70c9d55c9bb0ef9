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

use annulus::lower::{Element, Family, Fill, KernelKey, tiling};
use build::compiler;
use problem::{Problem, rows};
use run::check;

/// Seeds under which every case runs: each is another order of threads, blocks and copies.
const SEEDS: [u64; 4] = [1, 2, 3, 5];

/// A Hopper kernel for these head sizes, with the tiles that they get.
fn hopper(dk: u16, dv: u16, positions: bool) -> KernelKey {
    KernelKey {
        family: Family::Hopper,
        element: Element::Bf16,
        dk,
        dv,
        tiling: tiling(dk, dv, positions),
        positions,
        softcap: false,
        carry_in: false,
        cast_out: true,
        sinks: false,
        fill: Fill::NegInf,
    }
}

#[test]
fn causal() {
    let Some(compiler) = compiler() else { return };
    let mut p = Problem::new(4, 2, 128, 128);
    p.queries(&[rows(0, 1, 200)]).chunk(&[rows(0, 1, 200)]).causal(0);
    check(&compiler, &hopper(128, 128, true), &p, None, &SEEDS).unwrap();
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
