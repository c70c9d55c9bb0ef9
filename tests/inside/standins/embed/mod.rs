//! Parts of islands as hosts embed them, on the stand-ins: raw pointers and the host's own streams, from a thread per rank and from one for all, against
//! attention written out; each program in a process of its own. `host` is the host's side, `calls` and `faults` are what it does.

// The calls take raw pointers and streams.
#![allow(unsafe_code)]

mod calls;
mod faults;
mod host;

use super::builder::build::on_standins;
use super::{islands, told};
use annulus::exec::cuda::ranks::{IslandError, Part};
use annulus::ir::{Attention, DType};
use annulus::layout::LayoutKind;
use annulus::lower::Arch;
use annulus::lower::program::{Target, lower};
use annulus::ring::Strategy;
use host::Host;
use std::process::{Command, Output};
use std::time::Duration;

/// What this process does: lines of what is done, strategy, ranks, nodes, layout, and what else is particular.
const INSIDE: &str = "ANNULUS_TEST_EMBED";

/// What a process can do, by name.
type Deed = fn(&mut Host) -> Result<(), IslandError>;
const DOCUMENTS: &str = "causal(0) & segments(4,7)";
const DEEDS: [(&str, Deed); 13] = [
    ("threads", calls::a_thread_for_each_rank),
    ("together", calls::one_thread_for_all),
    ("ahead", calls::ranks_that_run_ahead),
    ("flight", calls::two_calls_in_flight),
    ("captured", calls::a_stream_under_capture),
    ("joined", calls::ranks_of_one_capture),
    ("default", calls::the_default_stream),
    ("many", calls::more_pointers_than_graphs),
    ("dropped", calls::parts_that_go_while_they_run),
    ("turns", calls::many_turns),
    ("wrong", faults::wrong_calls),
    ("missing", faults::a_rank_that_does_not_come),
    ("fails", faults::a_rank_that_fails),
];

#[test]
#[ignore = "other tests run it, in a process where the loader finds the stand-ins"]
fn the_hosts() {
    let Some(what) = std::env::var_os(INSIDE) else { return };
    for line in what.to_str().unwrap().split(';') {
        let words: Vec<&str> = line.split(' ').collect();
        let [deed, way, ranks, nodes, layout, ref particular @ ..] = words[..] else { panic!("{line}") };
        let kind = LayoutKind::ALL.into_iter().find(|k| k.name() == layout).unwrap();
        let mut case = islands::case(ranks.parse().unwrap(), nodes.parse().unwrap(), kind);
        match particular {
            // On Hopper, with tickets and marks that are zero when a call begins.
            ["bf16"] => {
                (case.dtype, case.sizes.head_dim, case.sizes.v_head_dim) = (DType::BF16, 64, 64);
                let schedule = case.schedule(Strategy::Ring);
                let programs = lower(&schedule, Target::Cuda(Arch::Sm90a)).unwrap();
                assert!(programs.iter().all(|p| p.zeroed.iter().any(|r| r.bytes > 0)));
            }
            // With tables of which keys a row sees, which lie in memory of the parts.
            ["documents"] => {
                case.attention = Attention::plain(0.5, DType::F32).masked(DOCUMENTS.parse().unwrap())
            }
            _ => assert!(particular.is_empty(), "{line}"),
        }
        case.attention.lse = true;
        let (_, deed) = DEEDS.into_iter().find(|(name, _)| *name == deed).unwrap();
        let patience = Duration::from_secs(if words[0] == "missing" { 1 } else { 60 });
        let done =
            Host::new(case, Strategy::from_name(way).unwrap(), patience).and_then(|mut h| deed(&mut h));
        match done {
            Ok(()) => println!("right {line}"),
            Err(e) => println!("refused {line}: {e}"),
        }
    }
}

fn run(what: &str, seed: u64, more: &[(&str, &str)]) -> Output {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::standins::embed::the_hosts", "--ignored", "--nocapture"]);
    // The kernels' own accesses to registers and shared memory are looked at by their own tests.
    let program = on_standins(program.env(INSIDE, what), seed).env("ANNULUS_STANDINS_QUICK", "1");
    let more = more.iter().map(|(name, value)| (format!("ANNULUS_STANDINS_{name}"), value));
    program.envs(more).output().unwrap()
}

fn right(what: &str, seed: u64, more: &[(&str, &str)]) {
    let done = run(what, seed, more);
    what.split(';').for_each(|line| drop(told(&done, &format!("right {line}"))));
}

#[test]
fn a_part_goes_from_thread_to_thread() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Part>();
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn every_strategy_is_right_from_many_threads_and_from_one() {
    let two = Strategy::ALL.iter().map(|way| format!("{way} 2 1 zigzag"));
    let four = ["queries 4 2 contiguous", "heads 4 2 contiguous"].map(str::to_owned);
    let each = two.chain(four).flat_map(|case| [format!("threads {case}"), format!("together {case}")]);
    right(&each.collect::<Vec<_>>().join(";"), 1, &[]);
    right(
        "threads ring 2 1 zigzag bf16;together ring 2 1 zigzag bf16;threads ring 2 1 zigzag documents",
        1,
        &[],
    );
    for seed in 2..=4 {
        right("threads ring 2 1 zigzag;together heads 2 1 zigzag", seed, &[]);
    }
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn the_hosts_streams_are_what_the_host_makes_of_them() {
    for seed in [1, 3, 4] {
        right(
            "ahead ring 2 1 zigzag;flight ring 2 1 zigzag;captured ring 2 1 zigzag;joined heads 2 1 zigzag;default queries 2 1 zigzag",
            seed,
            &[],
        );
    }
    // Under this seed nothing is done before it is waited for, or asked for.
    right("many ring 2 1 zigzag", 4, &[]);
    right("dropped ring 2 1 zigzag documents", 4, &[("LEAKS", "1")]);
}

/// The memory of the parts and of this host is all that is ever allocated: six buffers a rank, two of the GPU's, the tables.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn nothing_is_allocated_once_there_are_parts() {
    let what = "turns ring 2 1 zigzag";
    let before = run(what, 1, &[("FAIL", "alloc:15")]);
    told(&before, &format!("refused {what}"));
    right(what, 1, &[("FAIL", "alloc:16")]);
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_is_wrong_is_told_and_the_next_call_is_right() {
    right("wrong ring 2 1 zigzag;missing ring 2 1 zigzag", 1, &[]);
    for (seed, what) in [(1, "launch:2"), (2, "cuStreamWaitEvent:9"), (3, "copy:22"), (4, "cuEventRecord:7")]
    {
        right("fails ring 2 1 zigzag", seed, &[("FAIL", what)]);
    }
}
