//! The stand-in of NCCL: what it catches in a program of a few ranks, `tests/standins/programs/messages.cpp`, and that a right one is right.

use super::builder::build::{on_standins, standins};
use super::builder::cxx;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

fn program() -> PathBuf {
    static ONE: LazyLock<PathBuf> = LazyLock::new(|| {
        let text = include_str!("../../standins/programs/messages.cpp");
        let source = standins().join(format!("messages-{}.cpp", cxx::hash(text)));
        cxx::write(&source, text.as_bytes());
        let program = source.with_extension("run");
        let libraries =
            ["libnccl.so.2", "libcuda.so.1"].map(|name| standins().join(name).display().to_string());
        let arguments = [&[source.display().to_string()], &libraries[..], &["-lpthread".to_owned()]].concat();
        cxx::compile(&arguments, &program);
        program
    });
    ONE.clone()
}

/// What each rank says.
fn said(name: &str, ranks: usize, seed: u64, more: &[(&str, &str)]) -> Vec<String> {
    let mut program = Command::new(program());
    on_standins(&mut program, seed).args([name, &ranks.to_string()]);
    program.env("NCCL_MULTI_RANK_GPU_ENABLE", "1").env("ANNULUS_STANDINS_SECONDS", "10");
    let done = program.envs(more.iter().copied()).output().unwrap();
    let lines: Vec<String> = String::from_utf8(done.stdout).unwrap().lines().map(String::from).collect();
    assert_eq!(lines.len(), ranks, "{name}: {lines:?} {}", String::from_utf8_lossy(&done.stderr));
    lines
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn right_ranks_are_right_under_every_seed() {
    for (ranks, seeds) in [(2, 20), (3, 20), (4, 10)] {
        for seed in 1..=seeds {
            for line in said("none", ranks, seed, &[]) {
                assert!(line.contains("exit 0: right"), "{ranks} ranks, seed {seed}: {line}");
            }
        }
    }
    for name in ["graph", "two streams"] {
        for seed in 1..=5 {
            for line in said(name, 3, seed, &[]) {
                assert!(line.contains("exit 0: right"), "{name}, seed {seed}: {line}");
            }
        }
    }
}

/// What at least one of the ranks says, of which fault.
const FAULTS: [(&str, &str); 27] = [
    (
        "count",
        "stand-in: a group of communicator 1: rank 0 sends 256 of uint32, and rank 1 receives 128 of uint32",
    ),
    ("type", "rank 0 sends 256 of uint32, and rank 1 receives 256 of int32"),
    ("orders", "ranks use communicators in different orders"),
    ("ungrouped", "exit 0: not done in time"),
    ("early", "which nobody has written"),
    ("busy", "ncclSend: communicator 1 is in progress, and is asked for more"),
    ("not joined", "ncclSend: communicator 1 is in progress, and is asked for more"),
    ("begun in a group", "ncclCommInitRankConfig in a group with messages"),
    ("two threads", "ncclCommGetAsyncError: another thread is in a call about communicator 1"),
    ("given up", "ncclSend: communicator 1 was given up, and is asked again"),
    ("ending", "ncclSend: communicator 1 is ending"),
    ("reused", "stand-in: race: "),
    ("read beside", "stand-in: race: "),
    ("unwritten", "which nobody has written"),
    ("beyond", "returns 700"),
    ("host memory", "returns 4: ncclSend: 0x"),
    ("own peer", " is its own peer"),
    ("no such rank", "returns 4: ncclSend: rank 2 of 2"),
    ("no such type", "returns 4: ncclSend: type 77"),
    ("no communicator", "returns 4: ncclSend: the communicator is none"),
    ("no context", "returns 1: ncclCommInitRankConfig: no context is current"),
    ("config", "returns 4: ncclCommInitRankConfig: the configuration is not as its header begins it"),
    ("rank beyond", "returns 4: ncclCommInitRankConfig: rank 2 of 2"),
    ("no blocks", "returns 4: ncclCommInitRankConfig: "),
    ("three blocks", "ncclCommInitRankConfig: at most 3 blocks, which are no power of two"),
    ("other blocks", "rank 0 asks for at most 4 blocks, and rank 1 for 8"),
    ("rank twice", "state 5 after less than a second: rank 0 came twice"),
];

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn faults_are_caught_under_every_seed() {
    for (name, words) in FAULTS {
        for seed in 1..=3 {
            let lines = said(name, 2, seed, &[]);
            assert!(lines.iter().any(|line| line.contains(words)), "{name}, seed {seed}: {lines:?}");
        }
    }
}

/// Who is gone is known within a second, or, where the library says nothing, by nobody.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_rank_that_dies_is_an_error_of_the_others() {
    for ranks in [2, 3] {
        for line in said("dies", ranks, 1, &[]).into_iter().filter(|line| !line.starts_with("rank 1 ")) {
            // Asked, or at the next message.
            let known =
                ["state 6 after less than a second", "returns 6: ncclSend: communicator 1 has failed"];
            assert!(known.iter().any(|words| line.contains(words)), "{line}");
        }
        let silent = said("dies in silence", ranks, 1, &[("ANNULUS_STANDINS_NCCL_SILENT", "1")]);
        assert!(silent[0].contains("exit 0: not done in time"), "{silent:?}");
    }
    let one = said("none", 2, 1, &[("NCCL_MULTI_RANK_GPU_ENABLE", "0")]);
    assert!(
        one.iter().all(|l| l.contains("Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 0")),
        "{one:?}"
    );
}
