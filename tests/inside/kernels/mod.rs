//! The text of the kernels, run on a CPU against attention written out in f64.
//!
//! `kernels/shim` is the machine: threads as fibers, copies that land late, products that are taken only when waited for, and
//! a watch on every access. The text is what NVRTC gets, but for `ptx*.cuh`.

mod around;
mod build;
mod faults;
mod hopper;
mod listed;
mod portable;
mod problem;
mod programs;
mod reference;
mod run;
mod steps;

use annulus::lower::{KernelKey, Operand};
use problem::Problem;

/// Seeds under which every case runs: each is another order of threads, blocks and copies.
const SEEDS: [u64; 2] = [1, 2];

/// One problem by the kernel that it needs, which `plain` makes for its head sizes, under every seed.
fn run(plain: impl Fn(&Problem) -> KernelKey, p: &Problem) {
    let compiler = build::compiler();
    run::check(compiler, &needed(plain(p), p), p, [None; 2], &SEEDS).unwrap();
}

/// What the problem needs beyond a plain kernel.
fn needed(plain: KernelKey, p: &Problem) -> KernelKey {
    KernelKey {
        mask: p.mask.is_some(),
        bias: if p.bias.is_some() { p.bias_in } else { Operand::None },
        sinks: if p.sinks.is_some() && p.cast_out { p.sinks_in } else { Operand::None },
        fill: p.fill.0,
        softcap: p.softcap.is_some(),
        cast_out: p.cast_out,
        ..plain
    }
}

/// Each fault in the text of the kernel for this problem is found, and the text without it is right.
fn plant(plain: impl Fn(&Problem) -> KernelKey, p: &Problem, faults: &[faults::Fault]) {
    plant_in(plain, p, faults, |fault| [Some(fault), None]);
}

/// The same, of faults in its text or in that of the kernel behind it.
fn plant_in(
    plain: impl Fn(&Problem) -> KernelKey,
    p: &Problem,
    faults: &[faults::Fault],
    place: impl Fn(&faults::Fault) -> [Option<&faults::Fault>; 2],
) {
    let compiler = build::compiler();
    let key = needed(plain(p), p);
    run::check(compiler, &key, p, [None; 2], &SEEDS).unwrap();
    for fault in faults {
        let said = run::check(compiler, &key, p, place(fault), &[1]).expect_err(fault.name);
        assert!(said.contains(fault.found), "{}: {said}", fault.name);
    }
}
