//! A rank a process over the stand-in of NCCL, all on the stand-in of one GPU, against all ranks in one process: the same bits, and an error on every
//! rank where one fails. The processes are this program, started again.

use super::builder::build::on_standins;
use super::islands::{case, handed, judged};
use crate::inside::ring::case::Case;
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::nccl::{Processes, Wanted};
use annulus::exec::cuda::ranks::{Island, Kernels, OnGpu, RunOptions};
use annulus::exec::group::{Meeting, Place, free_port};
use annulus::import::case::load;
use annulus::ir::{DType, Tensor};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Compiled, Options, compile, join_on_gpu, prepare_on_gpu, prepare_process_on_gpu, run_on_gpu};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What this process does: strategy, layout, ranks, nodes, seed; then its rank and a port, or `all`; and what goes wrong.
const INSIDE: &str = "ANNULUS_TEST_OVER_NCCL";
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
#[ignore = "other tests run it, as ranks"]
fn the_rank() {
    let Ok(what) = std::env::var(INSIDE) else { return };
    if let Some(who) = what.strip_prefix("edges ") {
        return edges(who);
    }
    let done = what.split(';').try_for_each(|line| one(line).map(|said| println!("right {said}")));
    if let Err(why) = done {
        println!("says {why}");
    }
}

/// The bundled model, and what it is fed.
fn compiled(words: &[&str]) -> (Compiled, Vec<Tensor>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama");
    let case = load(&folder, &Default::default(), &Default::default()).unwrap();
    let layout = LayoutKind::ALL.into_iter().find(|k| k.name() == words[1]).unwrap();
    let [ranks, nodes] = [words[2], words[3]].map(|n| n.parse::<usize>().unwrap());
    let options = Options::new(ranks).strategy(Strategy::from_name(words[0]).unwrap()).layout(layout);
    let nodes = Some(nodes).filter(|&n| n > 1);
    let compiled = compile(&case.graph, &options.nodes(nodes)).unwrap();
    (compiled, case.ordered_inputs().unwrap())
}

/// Runs a line; its results as hashes, of an eager run and of one that replays graphs.
fn one(line: &str) -> Result<String, annulus::Error> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut compiled_as = words.clone();
    if words[4] == "1" && words.get(6) == Some(&"other") {
        compiled_as[0] = "all-gather";
    }
    let (compiled, inputs) = compiled(&compiled_as);
    let gpu = Gpu::open(0).unwrap();
    let options = RunOptions { cache: None, graph: true, patience: PATIENCE };
    let (who, port, fault) = (words[4], words[5].parse().unwrap(), words.get(6).copied().unwrap_or(""));
    if who == "all" {
        let mut on = prepare_on_gpu(&compiled, &gpu, options)?;
        return Ok(format!("{} {}", words[..4].join(" "), twice(&compiled, &mut on, &inputs, || {})?));
    }
    let rank: usize = who.parse().unwrap();
    let size = words[2].parse().unwrap();
    let mut meeting = Meeting::new(rank, size, Place::new("127.0.0.1", port));
    (meeting.patience, meeting.silence) = (PATIENCE, Duration::from_millis(500));
    let group = meeting.meet().expect("all come");
    let processes = join_on_gpu(&compiled, &gpu, group, &inputs, PATIENCE)?;
    let mut on = prepare_process_on_gpu(&compiled, &gpu, &processes, options)?;
    let between = || match fault {
        // As if it were killed.
        "dies" if rank == size - 1 => {
            println!("dies");
            std::process::abort()
        }
        "fails" if rank == size - 1 => processes.fail("it has had enough"),
        _ => {}
    };
    let said = twice(&compiled, &mut on, &inputs, between)?;
    drop(on);
    processes.leave()?;
    Ok(format!("{} {said}", words[..4].join(" ")))
}

fn twice(
    compiled: &Compiled,
    on: &mut OnGpu<'_>,
    inputs: &[Tensor],
    between: impl FnOnce(),
) -> Result<String, annulus::Error> {
    let mut said = vec![];
    let mut between = Some(between);
    for _ in 0..2 {
        let run = run_on_gpu(compiled, on, inputs, &mut |_| {})?;
        let bytes: Vec<u8> = run.outputs.iter().flat_map(|x| x.data().to_le_bytes()).collect();
        let traffic = format!("{:?}", (run.traffic.bytes_sent, run.traffic.messages));
        said.push(format!("{:x} {traffic}", Sha256::digest(&bytes)));
        between.take().into_iter().for_each(|between| between());
    }
    Ok(said.join(" "))
}

/// Attentions at the edges of what there is, each with a strategy.
fn at_the_edges(ranks: usize) -> Vec<(String, Case, Strategy)> {
    let layouts = [LayoutKind::Contiguous, LayoutKind::Zigzag, LayoutKind::Stripe];
    let (mut out, mut turn) = (vec![], 0);
    let mut add = |name: &str, change: &dyn Fn(&mut Case)| {
        for way in Strategy::ALL.into_iter().skip(turn % 2).step_by(2) {
            let mut case = case(ranks, 1, layouts[turn % 3]);
            change(&mut case);
            out.push((format!("{name} by {way}"), case, way));
            turn += 1;
        }
        turn += 1;
    };
    let rows = |case: &mut Case, rows| (case.sizes.q_len, case.sizes.kv_len) = (rows, rows);
    add("thirteen rows", &|_| {});
    add("fewer rows than ranks", &|case| rows(case, ranks - 1));
    add("one row", &|case| rows(case, 1));
    add("four heads over two", &|case| (case.sizes.q_heads, case.sizes.kv_heads) = (4, 2));
    add("rows without a key", &|case| {
        case.attention.scores = "factor 0.25 | fill -inf unless causal(-4)".parse().unwrap()
    });
    add("scores of 1e4", &|case| {
        case.attention.scores = "factor 1000 | fill -inf unless causal(0)".parse().unwrap()
    });
    add("documents", &|case| {
        case.attention.scores = "factor 0.25 | fill -inf unless causal(0) & segments(4,7)".parse().unwrap();
    });
    add("f16", &|case| case.dtype = DType::F16);
    out
}

/// What this process computes of them, as hashes: of all ranks, or of one.
fn edges(who: &str) {
    let words: Vec<usize> = who.split(' ').map(|n| n.parse().unwrap()).collect();
    let (ranks, port, own) = (words[0], words[1] as u16, words.get(2).copied());
    let gpu = Gpu::open(0).unwrap();
    let processes = own.map(|rank| {
        let mut meeting = Meeting::new(rank, ranks, Place::new("127.0.0.1", port));
        meeting.patience = PATIENCE;
        Processes::join(&gpu, meeting.meet().unwrap(), &Wanted::by([]), PATIENCE).unwrap()
    });
    let mut kernels = Kernels::new();
    let options = RunOptions { cache: None, graph: true, patience: PATIENCE };
    for (name, case, way) in at_the_edges(ranks) {
        let schedule = case.schedule(way);
        let mut island = match &processes {
            Some(all) => Island::of_process(&gpu, &mut kernels, &schedule, all, options),
            None => Island::new(&gpu, &mut kernels, &schedule, options),
        }
        .unwrap_or_else(|e| panic!("{name}: {e}"));
        for seed in [3, 4] {
            let all = handed(&case, seed);
            let here = own.map_or(0..ranks, |rank| rank..rank + 1);
            let given = island.run(&all[here.clone()]).unwrap_or_else(|e| panic!("{name}: {e}"));
            for (rank, [out, lse]) in here.zip(&given) {
                println!("edge {rank} {name}, {:x}", Sha256::digest([out.as_slice(), lse].concat()));
            }
            if own.is_none() {
                assert_eq!(judged(&case, seed, given), None, "{name}");
            }
        }
    }
    if let Some(processes) = processes {
        processes.leave().unwrap();
    }
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_is_at_the_edges_has_the_bits_of_one_process() {
    let (ranks, port) = (3, free_port().unwrap());
    let whole = start(&format!("edges {ranks} {port}"), 1).wait_with_output().unwrap();
    let children: Vec<Child> =
        (0..ranks).map(|rank| start(&format!("edges {ranks} {port} {rank}"), rank as u64 + 2)).collect();
    for (rank, child) in children.into_iter().enumerate() {
        let of_rank = format!("edge {rank} ");
        let (want, got) = (said(&whole, &of_rank), said(&child.wait_with_output().unwrap(), &of_rank));
        assert!(want.len() >= 48 && got == want, "rank {rank} of {ranks}: {got:?}, and not {want:?}");
    }
}

fn start(what: &str, seed: u64) -> Child {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::standins::processes::the_rank", "--ignored", "--nocapture"]);
    let program = on_standins(&mut program, seed).env(INSIDE, what).env("RUST_BACKTRACE", "0");
    // Several ranks on one GPU.
    let program = program.env("NCCL_MULTI_RANK_GPU_ENABLE", "1").env("ANNULUS_STANDINS_QUICK", "1");
    program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The ranks of these lines, each a process.
fn ranks(lines: &[String], count: usize, fault: &str) -> Vec<Output> {
    let ports: Vec<u16> = lines.iter().map(|_| free_port().unwrap()).collect();
    let of = |rank: usize| {
        let lines = lines.iter().zip(&ports).map(|(line, port)| format!("{line} {rank} {port} {fault}"));
        start(&lines.collect::<Vec<_>>().join(";"), rank as u64 + 1)
    };
    let children: Vec<Child> = (0..count).map(of).collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

/// The lines of what a process said that begin so.
fn said(done: &Output, begin: &str) -> Vec<String> {
    let [said, errors] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(!errors.contains("panicked") && !errors.contains("stand-in: "), "{said}{errors}");
    said.lines().filter_map(|line| line.strip_prefix(begin)).map(str::to_owned).collect()
}

/// Each process prints what all ranks in one process print.
fn as_in_one_process(count: usize, lines: &[String]) {
    let whole = lines.iter().map(|line| format!("{line} all 1")).collect::<Vec<_>>().join(";");
    let want = said(&start(&whole, 1).wait_with_output().unwrap(), "right ");
    assert_eq!(want.len(), lines.len());
    for (rank, done) in ranks(lines, count, "").iter().enumerate() {
        let got = said(done, "right ");
        assert_eq!(got, want, "rank {rank}: {}", String::from_utf8_lossy(&done.stdout));
    }
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn every_strategy_gives_the_bits_of_one_process() {
    let mut four = Strategy::ALL.map(|way| format!("{way} zigzag 4 1")).to_vec();
    four.extend(["queries contiguous 4 2", "heads contiguous 4 2"].map(str::to_owned));
    as_in_one_process(4, &four);
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn uneven_shares_give_the_bits_of_one_process() {
    as_in_one_process(3, &Strategy::ALL.map(|way| format!("{way} contiguous 3 1")));
}

/// Whoever dies or gives up is named by all others, within a second.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_rank_that_fails_is_named_by_all_others() {
    let line = ["ring zigzag 3 1".to_owned()];
    for (fault, says) in [
        ("dies", "rank 2 died"),
        ("fails", "rank 2 gave up: it has had enough"),
        ("other", "ranks do not agree on the "),
    ] {
        let begin = Instant::now();
        let done = ranks(&line, 3, fault);
        let survivors = if fault == "dies" { 2 } else { 3 };
        for (rank, done) in done.iter().enumerate().take(survivors) {
            let told = said(done, "says ");
            assert!(told.len() == 1 && told[0].contains(says), "{fault}, rank {rank}: {told:?}");
        }
        assert!(begin.elapsed() < PATIENCE / 2, "{fault}: {:?}", begin.elapsed());
    }
}
