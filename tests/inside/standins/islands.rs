//! Islands whose ranks all run on the stand-in of one GPU: device programs through CUDA's calls, against attention written out; each
//! program in a process of its own.

use super::builder::build::on_standins;
use super::told;
use crate::inside::ring::case::Case;
use crate::inside::ring::oracle::{Array, arguments, attention, differs, local};
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::ranks::{Island, Kernels, RunOptions};
use annulus::ir::{DType, Tensor};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use std::process::Command;
use std::time::Duration;

/// Which cases this process runs: strategies by name, ranks, nodes, seed of the arguments.
const INSIDE: &str = "ANNULUS_TEST_ISLANDS";

fn again(what: &str) -> Command {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::standins::islands::the_islands", "--ignored", "--nocapture"]);
    program.env(INSIDE, what);
    program
}

/// Thirteen causal rows, three heads over one, Dk 16, Dv 8: heads and rows that two ranks do not divide.
pub(super) fn case(ranks: usize, nodes: usize, kind: LayoutKind) -> Case {
    let mut case = Case { nodes, ..Case::new(13, ranks, kind, Mask::causal(0)) };
    (case.sizes.q_heads, case.sizes.kv_heads) = (3, 1);
    (case.sizes.head_dim, case.sizes.v_head_dim) = (16, 8);
    case.attention.lse = true;
    case
}

#[test]
#[ignore = "other tests run it, in a process where the loader finds the stand-ins"]
fn the_islands() {
    let Some(what) = std::env::var_os(INSIDE) else { return };
    for line in what.to_str().unwrap().split(';') {
        let words: Vec<&str> = line.split(' ').collect();
        let [way, ranks, nodes, layout] = words[..] else { panic!("{line}") };
        let kind = LayoutKind::ALL.into_iter().find(|k| k.name() == layout).unwrap();
        let case = case(ranks.parse().unwrap(), nodes.parse().unwrap(), kind);
        match island(&case, Strategy::from_name(way).unwrap()) {
            Ok(()) => println!("right {line}"),
            Err(e) => println!("refused {line}: {e}"),
        }
    }
}

/// Runs it twice, the second time of a graph, with other arguments.
fn island(case: &Case, way: Strategy) -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::open(0)?;
    let mut kernels = Kernels::new();
    let options = RunOptions { cache: None, graph: true, patience: Duration::from_secs(60) };
    let schedule = case.schedule(way);
    let mut island = Island::new(&gpu, &mut kernels, &schedule, options)?;
    for (turn, seed) in [1, 2].into_iter().enumerate() {
        let given = island.run(&handed(case, seed))?;
        assert_eq!(island.replayed(), turn > 0);
        if let Some(wrong) = judged(case, seed, given) {
            panic!("{wrong}");
        }
    }
    Ok(())
}

/// Each rank's arguments, as bytes.
pub(super) fn handed(case: &Case, seed: u64) -> Vec<Vec<Vec<u8>>> {
    let whole = arguments(case, seed);
    let bytes = |x: Tensor| x.data().to_le_bytes();
    (0..case.ranks).map(|r| local(case, &whole, r).into_iter().map(bytes).collect()).collect()
}

/// What is wrong with the results of these arguments.
pub(super) fn judged(case: &Case, seed: u64, given: Vec<[Vec<u8>; 2]>) -> Option<String> {
    wrong(case, &arguments(case, seed), given)
}

/// The bytes of every rank's results are those of attention written out.
pub(super) fn judge(case: &Case, whole: &[Array], given: Vec<[Vec<u8>; 2]>) {
    if let Some(wrong) = wrong(case, whole, given) {
        panic!("{wrong}");
    }
}

fn wrong(case: &Case, whole: &[Array], given: Vec<[Vec<u8>; 2]>) -> Option<String> {
    let want = attention(case, whole);
    let tolerance = if case.dtype == DType::F32 { 2e-5 } else { 4e-3 };
    for (rank, [out, lse]) in given.into_iter().enumerate() {
        let s = &case.sizes;
        let rows = case.q_rows()[rank].iter().map(|p| p.len).sum::<usize>();
        let out = Tensor::from_le_bytes(case.dtype, [s.batch, s.q_heads, rows, s.v_head_dim], &out).unwrap();
        let lse = Tensor::from_le_bytes(DType::F32, [s.batch, s.q_heads, rows], &lse).unwrap();
        let wrong = differs(case, rank, &want, &[out, lse], tolerance);
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn every_strategy_is_right_under_every_seed() {
    let all: Vec<String> = Strategy::ALL.iter().map(|way| format!("{way} 2 1 zigzag")).collect();
    let more = ["queries 4 2 contiguous", "heads 4 2 contiguous", "ring 1 1 contiguous"].map(str::to_owned);
    let what = [all, more.to_vec()].concat();
    // The kernels' own accesses to registers and shared memory are looked at by their own tests.
    let run = |what: &str, seed| {
        on_standins(&mut again(what), seed).env("ANNULUS_STANDINS_QUICK", "1").output().unwrap()
    };
    let done = run(&what.join(";"), 1);
    what.iter().for_each(|line| drop(told(&done, &format!("right {line}"))));
    for seed in 2..=4 {
        told(&run("ring 2 1 zigzag", seed), "right ring");
    }
}

/// Whatever fails is told as an error.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_fails_is_an_error() {
    let fail = |name: &str, value: &str| {
        let mut program = again("ring 2 1 zigzag");
        let program = on_standins(&mut program, 3).env("ANNULUS_STANDINS_QUICK", "1");
        told(&program.env(format!("ANNULUS_STANDINS_{name}"), value).output().unwrap(), "refused ring")
    };
    for what in ["alloc:3", "launch:1", "launch:4", "copy:5", "run:9", "graph:1"] {
        fail("FAIL", what);
    }
    for call in [
        "cuMemGetInfo_v2",
        "cuStreamCreateWithPriority",
        "cuEventCreate",
        "cuEventRecord",
        "cuStreamWaitEvent",
        "cuStreamBeginCapture_v2",
        "cuGraphInstantiateWithFlags",
        "cuGraphLaunch",
    ] {
        fail("FAIL", &format!("{call}:1"));
    }
    let told = fail("MEMORY", "8000");
    assert!(told.contains("bytes of device memory") && told.contains("are free"), "{told}");
    assert!(fail("ARCH", "sm_75").contains("there are no kernels for this GPU"));
}
