//! The kernels on a GPU; without one it says so, and checks a few on the stand-ins of CUDA (`tests/standins`), which are no GPU.
//!
//! `gpu check [NAMES] [ROWS]` holds every variant that runs on this GPU against a reference in f64: those whose name holds one of
//! NAMES, which commas part, and that have at most so many rows of queries and keys. `gpu standins [NAMES] [SEEDS]` does that on the
//! stand-ins, at 256 rows and less, under each seed from 1. `gpu serve` reads lines and answers each with times, so that a script
//! can alternate our kernel with others on the same GPU. `gpu ranks [quick]` and `gpu played [quick]` run schedules, all ranks on the one GPU and
//! one rank alone, and print figures. `gpu cubins [I/N]` compiles, without a GPU, what both need, and leaves it
//! in the cache.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod around;
mod case;
mod check;
mod kernels;
mod played;
mod programs;
mod ranks;
mod reference;
mod refused;
mod schedules;
#[allow(dead_code)] // what other oracles read
#[path = "../inside/support/scores.rs"]
mod scores;
mod serve;
#[path = "../standins/mod.rs"]
mod standins;

use annulus::exec::cuda::Gpu;
use schedules::Size;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let mode = args.next();
    if mode.as_deref() == Some("cubins") {
        return kernels::precompile(args.next().as_deref());
    }
    if mode.as_deref() == Some("standins") {
        let (names, seeds) = (args.next(), args.next().map_or(Ok(1), |n| n.parse()));
        let Ok(seeds) = seeds else {
            eprintln!("expected standins [NAMES] [SEEDS]");
            return ExitCode::from(2);
        };
        return on_standins(names.as_deref().unwrap_or(""), seeds);
    }
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(e) => {
            println!("no GPU: skipped ({e})");
            // Where the program was asked for something, it was asked for a GPU.
            return if mode.is_none() && cfg!(test_cxx) { on_standins(FEW, 1) } else { ExitCode::SUCCESS };
        }
    };
    let Some(arch) = gpu.arch() else {
        println!("no kernels for this GPU: skipped");
        return ExitCode::SUCCESS;
    };
    println!("{} ({})", gpu.name().unwrap_or_default(), arch.name());
    match mode.as_deref() {
        None | Some("check") => {
            let (names, rows) = (args.next(), args.next().and_then(|n| n.parse().ok()));
            let only = Only { names: names.unwrap_or_default(), rows: rows.unwrap_or(usize::MAX) };
            check::run(&gpu, arch, &only)
        }
        Some("serve") => serve::run(&gpu, arch),
        Some("ranks") => ranks::run(&gpu, Size::of(args.next().as_deref())),
        Some("played") => played::run(&gpu, Size::of(args.next().as_deref())),
        Some(other) => {
            eprintln!(
                "{other}: expected check [NAMES] [ROWS], standins [NAMES] [SEEDS], serve, ranks [quick], played [quick], or cubins [I/N]"
            );
            ExitCode::from(2)
        }
    }
}

/// Some of each kind of kernel, for a suite that has no GPU.
const FEW: &str =
    "length d128/128 63x64 full,F16 Replace bias F32 mask true,Merge,Pack,Cast { element: Bf16,refused";

/// Which checks are made.
pub(crate) struct Only {
    /// Parts of their names, with commas between; all, if empty.
    names: String,
    /// At most so many rows of queries and keys.
    rows: usize,
}

impl Only {
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.names.split(',').any(|part| name.contains(part))
    }

    pub(crate) fn takes_case(&self, case: &case::Case) -> bool {
        self.takes(&case.name) && case.q_rows().max(case.keys()) <= self.rows
    }
}

/// This program again, where the loader finds the stand-ins.
fn on_standins(names: &str, seeds: u64) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for seed in 1..=seeds {
        println!("on stand-ins of CUDA, which are no GPU, under seed {seed}:");
        let mut program = Command::new(std::env::current_exe().expect("this program"));
        let done = standins::build::on_standins(&mut program, seed).args(["check", names, "256"]).status();
        if !done.is_ok_and(|status| status.success()) {
            code = ExitCode::FAILURE;
        }
        // Schedules, as small as they get: that the figures are taken at all.
        for mode in ["ranks", "played"] {
            let mut program = Command::new(std::env::current_exe().expect("this program"));
            let done = standins::build::on_standins(&mut program, seed).args([mode, "tiny"]).status();
            if !done.is_ok_and(|status| status.success()) {
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
