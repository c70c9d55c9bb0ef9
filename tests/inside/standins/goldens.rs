//! The numeric goldens on the stand-in of a GPU, as programs of one island: within their own tolerance, or refused by name. None is left
//! out silently.

use super::builder::build::on_standins;
use crate::inside::exec::case::Case;
use crate::inside::exec::golden::{Golden, files, read};
use crate::inside::exec::{on_nodes, program_of};
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::ranks::{IslandError, OnGpu, RunOptions};
use annulus::ir::DType;
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// What this process plays: which of the goldens, as those whose number leaves `rest` when divided by `of`, then ranks, with commas; the
/// strategies of each in turn, or all.
const INSIDE: &str = "ANNULUS_TEST_GOLDENS";

/// What came of one.
enum Came {
    Right,
    /// What no kernel computes, by name.
    Refused(String),
}

/// Runs it on so many ranks of one GPU.
fn golden(gpu: &Gpu, golden: &Golden, ranks: usize, nodes: usize, way: Strategy) -> Came {
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
        for ranks in ranks.split(',').map(|n| n.parse::<usize>().unwrap()) {
            let turn = [Strategy::ALL[(number + ranks) % Strategy::ALL.len()]];
            for &way in if ways == "all" { &Strategy::ALL[..] } else { &turn } {
                let nodes = if way.uses_levels() && ranks == 4 { 2 } else { 1 };
                match golden(&gpu, &g, ranks, nodes, way) {
                    Came::Right => println!("right {} {ranks} {}", g.name, way.name()),
                    Came::Refused(why) => println!("refused {} {ranks} {}: {why}", g.name, way.name()),
                }
            }
        }
    }
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
