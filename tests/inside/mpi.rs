//! One rank a process, over MPI, against all ranks in one process: the same bits, and an error on every rank where one fails.
//!
//! `ANNULUS_MPIEXEC` names the launcher of an MPI with the standard's binary interface, whose library stands in `lib` beside its folder;
//! without it the tests are ignored. The processes are this program, started again.

#![cfg(all(feature = "mpi", target_os = "linux"))]

use crate::inside::ring::case::cases;
use crate::inside::ring::oracle::{arguments, local};
use annulus::exec::cpu::Ranks;
use annulus::exec::mpi::{OverMpi, World};
use annulus::exec::walk::run_local;
use annulus::import::case::load;
use annulus::ir::Tensor;
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Compiled, Options, compile, run, run_over_mpi};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What this process does as a rank.
const INSIDE: &str = "ANNULUS_TEST_OVER_MPI";

/// Where ranks leave what they did last.
const FLIGHT: &str = "ANNULUS_TEST_FLIGHT";

/// So many processes that do this.
fn processes(count: usize, what: &str) -> Output {
    launcher(count, what).output().unwrap()
}

/// What starts them.
fn launcher(count: usize, what: &str) -> Command {
    let launcher =
        PathBuf::from(std::env::var_os("ANNULUS_MPIEXEC").expect("ANNULUS_MPIEXEC names a launcher"));
    let library =
        launcher.parent().and_then(|bin| bin.parent()).expect("it stands in a folder bin").join("lib");
    let mut program = Command::new(launcher);
    program.args(["-n", &count.to_string()]).arg(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::mpi::the_rank", "--ignored", "--nocapture", "--test-threads", "1"]);
    program.env(INSIDE, what).env("LD_LIBRARY_PATH", library).env("RUST_BACKTRACE", "0");
    program
}

/// How often a line with these words was said.
fn said(done: &Output, words: &str) -> usize {
    let all = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    all.iter().flat_map(|text| text.lines()).filter(|line| line.contains(words)).count()
}

fn told(done: &Output) -> String {
    [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
#[ignore = "other tests run it, in processes that a launcher starts"]
fn the_rank() {
    let Ok(what) = std::env::var(INSIDE) else { return };
    let mut world = World::join().unwrap();
    let done = match what.as_str() {
        "llama" => llama(&mut world),
        "islands" => islands(&mut world),
        fault => faulty(&mut world, fault),
    };
    match done {
        Ok(()) => println!("rank {} of {} is right", world.rank(), world.size()),
        Err(why) => {
            println!("rank {} says: {why}", world.rank());
            world.fail(&why);
        }
    }
}

fn compiled(ranks: usize, strategy: Strategy, layout: LayoutKind) -> (Compiled, Vec<Tensor>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama");
    let case = load(&folder, &Default::default(), &Default::default()).unwrap();
    let compiled = compile(&case.graph, &Options::new(ranks).strategy(strategy).layout(layout)).unwrap();
    (compiled, case.ordered_inputs().unwrap())
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The bundled model by every strategy, with shares that are even and uneven.
fn llama(world: &mut World) -> Result<(), String> {
    for (seed, strategy) in Strategy::ALL.into_iter().enumerate() {
        let layout = [LayoutKind::Zigzag, LayoutKind::Contiguous, LayoutKind::Balanced][seed % 3];
        let (compiled, inputs) = compiled(world.size(), strategy, layout);
        let here = run(&compiled, &inputs, 0).map_err(|e| e.to_string())?;
        let there = run_over_mpi(&compiled, world, &inputs, (seed as u64, PATIENCE), &mut |_| {});
        let there = there.map_err(|e| e.to_string())?;
        let same = here
            .outputs
            .iter()
            .zip(&there.outputs)
            .all(|(a, b)| a.data().to_le_bytes() == b.data().to_le_bytes());
        if !same || here.outputs.len() != there.outputs.len() || here.traffic != there.traffic {
            return Err(format!("{strategy}, {} differs from the run in one process", layout.name()));
        }
    }
    Ok(())
}

/// Attentions at random, the same on all ranks, by a strategy in turn.
fn islands(world: &mut World) -> Result<(), String> {
    let (ranks, rank) = (world.size(), world.rank());
    let mut over = OverMpi::new(world, ranks, (7, PATIENCE)).map_err(|e| e.to_string())?;
    let mut runner = TestRunner::deterministic();
    for turn in 0..120 {
        let mut case = cases().new_tree(&mut runner).unwrap().current();
        case.ranks = ranks;
        case.nodes = if ranks.is_multiple_of(case.nodes) { case.nodes } else { 1 };
        let way = Strategy::ALL[turn % Strategy::ALL.len()];
        let schedule = Arc::new(case.schedule(way));
        let whole = arguments(&case, turn as u64);
        let args: Vec<Vec<Tensor>> = (0..ranks).map(|r| local(&case, &whole, r)).collect();
        let want = run_local(&schedule, &args, 3).map_err(|e| e.to_string())?;
        let got = over.island(&schedule, &args[rank..=rank], turn, &mut |_, _| {});
        let (got, _) = got.map_err(|e| format!("attention {turn} by {way}: {e}"))?;
        let bytes = |all: &[Tensor]| all.iter().map(|x| x.data().to_le_bytes()).collect::<Vec<_>>();
        if bytes(&got[0]) != bytes(&want[rank]) {
            return Err(format!("attention {turn} by {way} differs: {case:?}"));
        }
    }
    Ok(())
}

/// The last rank does something wrong; all others say what.
fn faulty(world: &mut World, fault: &str) -> Result<(), String> {
    let last = world.rank() + 1 == world.size();
    let (strategy, layout) = match fault {
        "another strategy" if last => (Strategy::Heads, LayoutKind::Contiguous),
        "another layout" if last => (Strategy::Ring, LayoutKind::Zigzag),
        _ => (Strategy::Ring, LayoutKind::Contiguous),
    };
    let ranks = world.size() + usize::from(fault == "another number of ranks");
    let (compiled, mut inputs) = compiled(ranks, strategy, layout);
    let mut patience = PATIENCE;
    match fault {
        "other inputs" if last => drop(inputs.pop()),
        "late" => {
            patience = Duration::from_secs(1);
            if last {
                std::thread::sleep(Duration::from_secs(3));
            }
        }
        "stops" => {
            patience = Duration::from_secs(1);
            annulus::exec::flight::keep_in(std::env::var_os(FLIGHT).unwrap());
        }
        "gone" if last => return Err("it has no more room".into()),
        "other values" if last => {
            let first = &mut inputs[0];
            *first =
                Tensor::from_le_bytes(first.dtype(), first.shape().to_vec(), &vec![0; first.ty().bytes()])
                    .unwrap();
        }
        _ => {}
    }
    let rank = world.rank();
    let done = run_over_mpi(&compiled, world, &inputs, (0, patience), &mut |at| {
        // The others want its keys.
        if fault == "stops" && rank == 0 && at.segment == 2 && at.begun == 0 {
            std::thread::sleep(Duration::from_secs(4));
        }
        // In the middle of it, behind the agreement.
        if fault == "killed" && at.segment == 2 && at.begun == 0 {
            println!("rank {rank} is in the middle");
            if last {
                std::process::abort();
            }
        }
    });
    done.map(|_| ()).map_err(|e| e.to_string())
}

#[test]
#[cfg_attr(not(test_mpi), ignore = "set ANNULUS_MPIEXEC where MPI with the standard's binary interface is")]
fn a_model_is_the_same_to_the_bit() {
    for count in [1, 2, 3, 4] {
        let done = processes(count, "llama");
        assert!(done.status.success(), "{}", told(&done));
        assert_eq!(said(&done, "is right"), count, "{}", told(&done));
    }
}

#[test]
#[cfg_attr(not(test_mpi), ignore = "set ANNULUS_MPIEXEC where MPI with the standard's binary interface is")]
fn islands_are_the_same_to_the_bit() {
    for count in [1, 3, 4] {
        let done = processes(count, "islands");
        assert!(done.status.success(), "{}", told(&done));
        assert_eq!(said(&done, "is right"), count, "{}", told(&done));
    }
}

/// Who failed, or what differs, is said by every rank that lives, and the job ends.
#[test]
#[cfg_attr(not(test_mpi), ignore = "set ANNULUS_MPIEXEC where MPI with the standard's binary interface is")]
fn a_fault_of_one_rank_is_told_by_all() {
    for (fault, words, by) in [
        ("another strategy", "rank 2 says heads, contiguous (", 3),
        ("another layout", "rank 2 says ring, zigzag (", 3),
        ("other values", "ranks do not agree on the values of the inputs: ranks 0 and 1 say ", 3),
        ("other inputs", "ranks do not agree on the list of inputs: ranks 0 and 1 say ", 3),
        ("another number of ranks", "3 processes were started, and the program is of 4 ranks", 3),
        ("late", "from rank 2, for 1s", 1),
        ("gone", "rank 2 failed: it has no more room", 2),
    ] {
        let done = processes(3, fault);
        assert!(!done.status.success() && said(&done, "is right") == 0, "{fault}: {}", told(&done));
        assert!(said(&done, words) >= by, "{fault}: {}", told(&done));
        assert_eq!(said(&done, "panicked"), 0, "{fault}: {}", told(&done));
    }
    // Whose process dies, its launcher ends the others.
    let begin = Instant::now();
    let done = processes(3, "killed");
    assert!(!done.status.success(), "{}", told(&done));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(said(&done, "is in the middle") >= 1 && said(&done, "is right") == 0, "{}", told(&done));
}

/// Who waits in vain leaves what it did last, and that says for whom.
#[test]
#[cfg_attr(not(test_mpi), ignore = "set ANNULUS_MPIEXEC where MPI with the standard's binary interface is")]
fn what_ranks_left_says_who_stopped() {
    let folder = std::env::temp_dir().join(format!("annulus-stops-{}", std::process::id()));
    let done = launcher(3, "stops").env(FLIGHT, &folder).output().unwrap();
    let kept = annulus::exec::flight::read_folder(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    let kept = kept.unwrap();
    assert!(!done.status.success() && kept.damaged.is_empty() && !kept.records.is_empty(), "{}", told(&done));
    let judged = annulus::exec::flight::judge(&kept.records);
    let missing = judged.diverged.as_ref().map(|d| d.2.clone());
    assert_eq!(missing, Some(vec![0]), "{judged}{}", told(&done));
    assert!(judged.cause.iter().any(|(rank, _)| *rank == 0), "{judged}");
}
