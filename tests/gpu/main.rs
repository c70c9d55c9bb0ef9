//! The kernels on a GPU; without one it says so and succeeds.
//!
//! `gpu check` holds every variant that runs on this GPU against a reference in f64. `gpu serve` reads lines and answers each
//! with times, so that a script can alternate our kernel with others on the same GPU. `gpu cubins [I/N]` compiles, without a GPU,
//! what both need, and leaves it in the cache.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod around;
mod case;
mod check;
mod kernels;
mod programs;
mod reference;
mod refused;
#[allow(dead_code)] // what other oracles read
#[path = "../inside/support/scores.rs"]
mod scores;
mod serve;

use annulus::exec::cuda::Gpu;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let mode = args.next();
    if mode.as_deref() == Some("cubins") {
        return kernels::precompile(args.next().as_deref());
    }
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(e) => {
            println!("no GPU: skipped ({e})");
            return ExitCode::SUCCESS;
        }
    };
    let Some(arch) = gpu.arch() else {
        println!("no kernels for this GPU: skipped");
        return ExitCode::SUCCESS;
    };
    println!("{} ({})", gpu.name().unwrap_or_default(), arch.name());
    match mode.as_deref() {
        None | Some("check") => check::run(&gpu, arch, args.next().as_deref()),
        Some("serve") => serve::run(&gpu, arch),
        Some(other) => {
            eprintln!("{other}: expected check [FILTER], serve, or cubins [I/N]");
            ExitCode::from(2)
        }
    }
}
