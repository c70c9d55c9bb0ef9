//! Faults planted in annulus's own device programs, and in the calls by which its host code runs them: each is caught under every seed,
//! and the program without one is right under all of them.
//!
//! A process loads the kernels of an island, and plays each fault under each seed in a copy of itself. Caught is what ends with a
//! finding of the stand-ins, an error, or numbers that are not the attention's; for an event that is missing only a race counts.

mod calls;
mod numbers;
mod orders;

use super::builder::build::on_standins;
use super::islands::{case, handed, judged};
use super::trials::{Ended, Trials};
use crate::inside::ring::case::Case;
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::ranks::{Island, Kernels, RunOptions};
use annulus::layout::LayoutKind;
use annulus::lower::program::{Program, Target, lower};
use annulus::ring::Strategy;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

/// What this process plays: an island, which faults, how many seeds, and of the faults of a kind how many.
const INSIDE: &str = "ANNULUS_TEST_PLANTED";

/// How a trial is told to have caught its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// Two operations that nothing orders.
    Race,
    /// Bytes that nobody wrote.
    Unwritten,
    /// Memory that was given back.
    Freed,
    /// Another finding.
    Finding,
    /// An error that the host returns: its own, or the driver's.
    Refused,
    /// Numbers that are not the attention's.
    Wrong,
}

/// Whatever catches it.
const ANY: &[Told] = &[Told::Race, Told::Unwritten, Told::Freed, Told::Finding, Told::Refused, Told::Wrong];

/// A fault.
struct Fault {
    kind: &'static str,
    place: String,
    /// The device programs with it.
    programs: Vec<Program>,
    /// What is planted in the calls.
    call: String,
    /// How it may be told.
    told: &'static [Told],
}

/// `None` where it was right.
fn told(ended: &Ended, what: &str) -> Option<Told> {
    let said = |words: &str| ended.said.contains(words);
    let told = match ended.status {
        97 if said("stand-in: race:") => Told::Race,
        97 if said("which nobody has written") => Told::Unwritten,
        97 if said("use after free") => Told::Freed,
        97 if said("stand-in: ") => Told::Finding,
        0 if said("refused: ") => Told::Refused,
        0 if said("wrong: ") => Told::Wrong,
        0 if said("right") => return None,
        _ => panic!("{what}: {}: {}", ended.status, ended.said),
    };
    Some(told)
}

/// One island, ready to be played with faults.
struct Stage<'g> {
    gpu: &'g Gpu,
    case: Case,
    programs: Vec<Program>,
    trials: Trials,
}

impl Stage<'_> {
    /// Twice, the second time of a graph and with other arguments.
    fn play(&self, kernels: &std::cell::RefCell<Kernels>, programs: &[Program]) -> String {
        let options = RunOptions { cache: None, graph: true, patience: Duration::from_secs(20) };
        let island = Island::of(self.gpu, &mut kernels.borrow_mut(), programs.to_vec(), options);
        let run = || {
            let mut island = island?;
            for seed in [1, 2] {
                if let Some(wrong) = judged(&self.case, seed, island.run(&handed(&self.case, seed))?) {
                    return Ok(format!("wrong: {wrong}"));
                }
            }
            // What it has is freed, behind all that uses it.
            drop(island);
            Ok("right".to_owned())
        };
        run().unwrap_or_else(|e: annulus::exec::cuda::ranks::IslandError| format!("refused: {e}"))
    }
}

#[test]
#[ignore = "other tests run it, in a process where the loader finds the stand-ins"]
fn the_faults() {
    let Some(what) = std::env::var_os(INSIDE) else { return };
    let words: Vec<&str> = what.to_str().unwrap().split(' ').collect();
    let [way, ranks, nodes, layout, faults, seeds, most] = words[..] else { panic!("{words:?}") };
    let kind = LayoutKind::ALL.into_iter().find(|k| k.name() == layout).unwrap();
    let case = case(ranks.parse().unwrap(), nodes.parse().unwrap(), kind);
    let mut case = case;
    if let Some(x) = std::env::var_os("PX") {
        let n: Vec<usize> = x.to_str().unwrap().split(' ').map(|x| x.parse().unwrap()).collect();
        (case.sizes.q_len, case.sizes.kv_len) = (n[0], n[0]);
        (case.sizes.q_heads, case.sizes.kv_heads) = (n[1], n[2]);
        (case.sizes.head_dim, case.sizes.v_head_dim) = (n[3], n[4]);
    }
    let gpu = Gpu::open(0).unwrap();
    let schedule = case.schedule(Strategy::from_name(way).unwrap());
    let programs = lower(&schedule, Target::Cuda(gpu.arch().unwrap())).unwrap();
    if std::env::var_os("ANNULUS_PLANTED_SHOW").is_some() {
        programs.iter().for_each(|p| println!("{p:?}"));
    }
    let stage = Stage { gpu: &gpu, case, programs, trials: Trials::open() };
    let kernels = std::cell::RefCell::new(Kernels::new());
    // Everything is loaded before the first trial.
    assert_eq!(stage.play(&kernels, &stage.programs), "right");
    let untouched = |seed| stage.trials.run(seed, "", &|| stage.play(&kernels, &stage.programs));
    let mut said = String::new();
    let seeds: u64 = seeds.parse().unwrap();
    for seed in 1..=seeds {
        let ended = untouched(seed);
        assert!(ended.status == 0 && ended.said.contains("right"), "seed {seed}: {}", ended.said);
        said = ended.said;
    }
    let all = match faults {
        "orders" => orders::faults(&stage.programs),
        "numbers" => numbers::faults(&stage.programs),
        "calls" => calls::faults(&stage.programs, &said),
        _ => panic!("{faults}"),
    };
    report(&stage, &kernels, thinned(all, most.parse().unwrap()), seeds);
}

/// So many of each kind, evenly chosen.
fn thinned(all: Vec<Fault>, most: usize) -> Vec<Fault> {
    let mut counts = BTreeMap::new();
    all.iter().for_each(|f| *counts.entry(f.kind).or_insert(0usize) += 1);
    let mut seen = BTreeMap::new();
    let mut all = all;
    all.retain(|f| {
        let (n, count) = (seen.entry(f.kind).or_insert(0usize), counts[f.kind]);
        *n += 1;
        // The places where n · most / count goes up.
        count <= most || (*n * most / count) > ((*n - 1) * most / count)
    });
    all
}

/// Plays all; prints a line for each kind, and those that change nothing.
fn report(stage: &Stage<'_>, kernels: &std::cell::RefCell<Kernels>, faults: Vec<Fault>, seeds: u64) {
    let mut kinds: BTreeMap<&str, (usize, BTreeMap<Told, usize>)> = BTreeMap::new();
    let mut harmless = String::new();
    for fault in faults {
        let what = format!("{}, {}", fault.kind, fault.place);
        let mut caught = 0;
        let mut by: Vec<Told> = vec![];
        for seed in 1..=seeds {
            let ended = stage.trials.run(seed, &fault.call, &|| stage.play(kernels, &fault.programs));
            if let Some(told) = told(&ended, &what) {
                assert!(fault.told.contains(&told), "{what}, seed {seed}: {told:?}: {}", ended.said);
                by.push(told);
                caught += 1;
            }
        }
        // Under every seed, or under none.
        assert!(caught == 0 || caught == seeds, "{what}: caught under {caught} of {seeds} seeds");
        if caught == 0 {
            writeln!(harmless, "harmless: {what}").unwrap();
            continue;
        }
        let (places, ways) = kinds.entry(fault.kind).or_default();
        *places += 1;
        by.sort_unstable();
        by.dedup();
        by.iter().for_each(|told| *ways.entry(*told).or_insert(0) += 1);
    }
    for (kind, (places, ways)) in kinds {
        let ways: Vec<String> = ways.iter().map(|(told, n)| format!("{told:?} {n}")).collect();
        println!("caught: {kind}: {places} places: {}", ways.join(", "));
    }
    print!("{harmless}");
}

/// The lines that a process prints, which must have ended with success.
fn played(what: &str) -> Vec<String> {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::standins::planted::the_faults", "--ignored", "--nocapture"]);
    program.env(INSIDE, what);
    let done = on_standins(&mut program, 1).env("ANNULUS_STANDINS_QUICK", "1").output().unwrap();
    let [said, errors] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(done.status.success(), "{what}: {said}{errors}");
    let lines = said.lines().filter(|l| l.starts_with("caught: ") || l.starts_with("harmless: "));
    lines.map(str::to_owned).collect()
}
