//! A rank a process over the stand-in of NCCL, all on the stand-in of one GPU, against all ranks in one process: the same bits, and an error on every
//! rank where one fails. The processes are this program, started again.

use super::builder::build::on_standins;
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::ranks::{OnGpu, RunOptions};
use annulus::exec::group::{Meeting, Place, free_port};
use annulus::import::case::load;
use annulus::ir::Tensor;
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

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn every_strategy_gives_the_bits_of_one_process() {
    let all =
        |ranks: usize, layout: &str| Strategy::ALL.map(|way| format!("{way} {layout} {ranks} 1")).to_vec();
    let mut four = all(4, "zigzag");
    four.extend(["queries contiguous 4 2", "heads contiguous 4 2"].map(str::to_owned));
    for (count, lines) in [(4, four), (3, all(3, "contiguous"))] {
        let whole = lines.iter().map(|line| format!("{line} all 1")).collect::<Vec<_>>().join(";");
        let want = said(&start(&whole, 1).wait_with_output().unwrap(), "right ");
        assert_eq!(want.len(), lines.len());
        for (rank, done) in ranks(&lines, count, "").iter().enumerate() {
            let got = said(done, "right ");
            assert_eq!(got, want, "rank {rank}: {}", String::from_utf8_lossy(&done.stdout));
        }
    }
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
