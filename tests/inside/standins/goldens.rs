//! The numeric goldens on the stand-in of a GPU, as programs of one island: within their own tolerance, or refused by name. None is left
//! out silently.

use super::builder::build::on_standins;
use crate::inside::exec::case::Case;
use crate::inside::exec::golden::{Golden, files, read};
use crate::inside::exec::{on_nodes, program_of};
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::ranks::{IslandError, OnGpu, RunOptions};
use annulus::ir::{DType, Tensor};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// What this process plays: the goldens whose number leaves `rest` when divided by `of`; then on how many ranks, with commas, and by which
/// strategies: `turn`, each by one of them, or `all`.
const INSIDE: &str = "ANNULUS_TEST_GOLDENS";

/// What came of one.
enum Came {
    Right,
    /// What no kernel computes, by name.
    Refused(String),
}

/// Runs it on so many ranks of one GPU.
fn play(gpu: &Gpu, golden: &Golden, ranks: usize, nodes: usize, way: Strategy) -> Came {
    let layout = [LayoutKind::Zigzag, LayoutKind::Contiguous][ranks % 2];
    let case = Case { layout, ranks, ..golden.case.clone() };
    let (program, op) = program_of(&case);
    let schedules = [(op, Arc::new(on_nodes(&program, op, way, nodes)))].into();
    let options = RunOptions { cache: None, graph: false, patience: Duration::from_secs(120) };
    let what = format!("{}, {ranks} ranks, {}", golden.name, way.name());
    let mut on = match OnGpu::prepare(gpu, &schedules, options) {
        Ok(on) => on,
        Err(IslandError::Lower(e)) => return Came::Refused(e.to_string()),
        Err(e) => panic!("{what}: {e}"),
    };
    let run = on.run(&program, &schedules, &case.args, &mut |_| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (i, got) in run.outputs.iter().enumerate() {
        // What a golden allows before the cast holds for f32; behind a cast its own figure does.
        let f32 = case.facts.dtype == DType::F32 || i == 1;
        let tolerance = if f32 { golden.tolerance[i] } else { golden.after_cast.unwrap() };
        for (j, (g, w)) in got.to_f64().iter().zip(&golden.want[i]).enumerate() {
            let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance;
            assert!(same, "{what}, output {i}, element {j}: {g}, not {w} within {tolerance:e}");
        }
    }
    Came::Right
}

#[test]
#[ignore = "other tests run it, in a process where the loader finds the stand-ins"]
fn the_goldens() {
    let Some(what) = std::env::var_os(INSIDE) else { return };
    let words: Vec<&str> = what.to_str().unwrap().split(' ').collect();
    let [rest, of, ranks, ways] = words[..] else { panic!("{words:?}") };
    let [rest, of]: [usize; 2] = [rest, of].map(|n| n.parse().unwrap());
    let gpu = Gpu::open(0).unwrap();
    for (number, path) in files().iter().enumerate().filter(|(number, _)| number % of == rest) {
        let g = read(path);
        if number < 2 {
            match play(&gpu, &wider(&g), 2, 1, Strategy::Ring) {
                Came::Right => panic!("{} in f64 has a kernel", g.name),
                Came::Refused(why) => println!("refused {} in f64: {why}", g.name),
            }
        }
        let turn = 1 + number / 2 % 4;
        for ranks in ranks.split(',').map(|n| if n == "turn" { turn } else { n.parse().unwrap() }) {
            let turn = [Strategy::ALL[(number + ranks) % Strategy::ALL.len()]];
            for &way in if ways == "all" { &Strategy::ALL[..] } else { &turn } {
                let nodes = if way.uses_levels() && ranks == 4 { 2 } else { 1 };
                match play(&gpu, &g, ranks, nodes, way) {
                    Came::Right => println!("right {} {ranks} {}", g.name, way.name()),
                    Came::Refused(why) => println!("refused {} {ranks} {}: {why}", g.name, way.name()),
                }
            }
        }
    }
}

/// In f64, for which there are no kernels.
fn wider(golden: &Golden) -> Golden {
    let mut case = golden.case.clone();
    (case.facts.dtype, case.facts.acc) = (DType::F64, DType::F64);
    for x in &mut case.args[..3] {
        *x = Tensor::from_f64(DType::F64, x.shape(), &x.to_f64()).unwrap();
    }
    Golden { name: golden.name.clone(), case, want: golden.want.clone(), ranks: vec![], ..*golden }
}

/// The lines of a process, which must have ended with success.
fn played(what: &str, seed: u64) -> Vec<String> {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::standins::goldens::the_goldens", "--ignored", "--nocapture"]);
    program.env(INSIDE, what);
    let done = on_standins(&mut program, seed).env("ANNULUS_STANDINS_QUICK", "1").output().unwrap();
    let [said, errors] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(done.status.success(), "{what}: {said}{errors}");
    let lines = said.lines().filter(|line| line.starts_with("right ") || line.starts_with("refused "));
    lines.map(str::to_owned).collect()
}

/// Both halves side by side.
fn halves(ranks_and_ways: &str) -> Vec<String> {
    std::thread::scope(|scope| {
        let half =
            |rest: usize| scope.spawn(move || played(&format!("{rest} 2 {ranks_and_ways}"), 1 + rest as u64));
        let both = [half(0), half(1)];
        both.into_iter().flat_map(|half| half.join().unwrap()).collect()
    })
}

/// How many were right; those in f64 were refused by name, and no other.
fn right(lines: &[String]) -> usize {
    let (right, refused): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("right "));
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().all(|line| line.contains(" in f64: ") && line.contains("f64")), "{refused:?}");
    right.len()
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// Each golden on one number of ranks by one strategy, which take turns.
    #[test]
    #[cfg_attr(
        not(all(test_cxx, test_data)),
        ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens, and CXX"
    )]
    fn goldens_within_their_own_tolerance() {
        assert_eq!(right(&halves("turn turn")), 41);
    }

    #[test]
    #[ignore = "a sweep that is run by hand: tests/standins.sh"]
    fn goldens_on_every_number_of_ranks_by_every_strategy() {
        assert_eq!(right(&halves("1,2,3,4 all")), 41 * 4 * Strategy::ALL.len());
    }
}
