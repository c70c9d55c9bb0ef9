//! The whole way on real models: read, find, split, rewrite, schedule, prove, run on every rank count, compare.

use super::support::data;
use crate::inside::support::cases::snapshot;
use annulus::dump::report::{self, Report};
use annulus::eval::compare;
use annulus::eval::{Precision, eval};
use annulus::import::ImportOptions;
use annulus::import::case::{self, Case, Stored};
use annulus::ir::{DType, Tensor};
use annulus::layout::{LayoutKind, Progression};
use annulus::ring::Strategy;
use annulus::{Compiled, Options};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

const RANKS: [usize; 5] = [1, 2, 3, 4, 8];

fn load(folder: &Path) -> Case {
    case::load(folder, &Stored::default(), &ImportOptions::default())
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

fn inputs(case: &Case) -> Vec<Tensor> {
    case.ordered_inputs().expect("every input is stored")
}

fn judge(case: &Case, got: &[Tensor], what: &str) {
    assert_eq!(got.len(), case.expected.len(), "{what}");
    for (i, (got, (name, want))) in got.iter().zip(&case.expected).enumerate() {
        let t = case.tolerance[i];
        let c = compare(got, want, t.atol, t.rtol, false).unwrap_or_else(|e| panic!("{what} {name}: {e}"));
        assert!(c.within, "{what}, output {name}: {c:?}");
    }
}

/// Architectures of which every operation beside attention is done by rows.
const BY_ROWS: [&str; 6] = ["llama", "gpt2", "mistral", "qwen2", "phi3", "gemma2"];

/// Compiles, runs and judges; everything that must hold of any model.
fn runs(case: &Case, options: &Options, what: &str) -> (Compiled, Report) {
    let compiled = annulus::compile(&case.graph, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = report::report(&compiled);
    let (found, refused) = (report.attention.found, &report.attention.refused);
    assert_eq!(report.attention.rewritten, found, "{what}: {refused:?}");
    assert!(report.checks.failed.is_empty(), "{what}: {:?}", report.checks.failed);
    assert!(found == 0 || report.checks.passed.len() == 10, "{what}: {:?}", report.checks.passed);
    let run = annulus::run(&compiled, &inputs(case), 0).unwrap_or_else(|e| panic!("{what}: {e}"));
    judge(case, &run.outputs, what);
    assert_eq!(run.traffic.bytes_sent, report.traffic.bytes_sent, "{what}");
    assert_eq!(run.traffic.messages, report.traffic.messages, "{what}");
    (compiled, report)
}

/// Nothing is put together, and each rank does its share of the work, to the last operation. With a mask of keys as input every
/// rank makes the mask of all keys, and what a row without a key gives is folded over the ranks: a little more.
fn by_rows(compiled: &Compiled, report: &Report, key_mask: bool, what: &str) {
    let folded = |g: &report::GatherReport| key_mask && g.kind == "reduce";
    assert!(report.gathered.iter().all(folded), "{what}: {:?}", report.gathered);
    let (layout, whole) = (&compiled.program.layouts[0], report.whole_flops);
    for (r, &flops) in report.local_flops.iter().enumerate() {
        let (own, share) = (flops * layout.length as u64, whole * layout.share(r) as u64);
        let more = if key_mask { whole * layout.length as u64 / 1000 } else { 0 };
        assert!(whole > 0 && (share..=share + more).contains(&own), "{what}, rank {r}: {flops} of {whole}");
    }
}

fn attention_count(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    manifest["attention_count"].as_u64().expect("a count") as usize
}

fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

#[test]
fn bundled_models_run_with_every_strategy_and_layout() {
    for name in ["llama", "gpt2", "mistral"] {
        let folder = bundled(name);
        let case = load(&folder);
        let attentions = attention_count(&folder);
        for (strategy, ranks) in Strategy::ALL.into_iter().flat_map(|s| RANKS.map(|p| (s, p))) {
            let options = Options::new(ranks).strategy(strategy);
            let what = format!("{name}, {ranks} ranks, {}", strategy.name());
            let (compiled, report) = runs(&case, &options, &what);
            assert_eq!(report.attention.found, attentions, "{what}");
            by_rows(&compiled, &report, false, &what);
        }
        for (strategy, layout) in Strategy::ALL.into_iter().flat_map(|s| LayoutKind::ALL.map(|l| (s, l))) {
            let options = Options::new(5).strategy(strategy).layout(layout);
            let what = format!("{name}, {}, {layout}", strategy.name());
            if layout == LayoutKind::Document {
                let refused = annulus::compile(&case.graph, &options).expect_err("it has no documents");
                assert!(refused.to_string().contains("keeps documents apart"), "{refused}");
                continue;
            }
            let (compiled, report) = runs(&case, &options, &what);
            by_rows(&compiled, &report, false, &what);
            assert!(compiled.islands.iter().all(|i| i.schedule.q_layout.kind == layout), "{what}");
        }
    }
}

#[test]
fn another_order_of_steps_gives_the_same_bits() {
    let case = load(&bundled("llama"));
    let options = Options::new(4).strategy(Strategy::Ring).layout(LayoutKind::Zigzag);
    let compiled = annulus::compile(&case.graph, &options).expect("compiles");
    let first = annulus::run(&compiled, &inputs(&case), 0).expect("runs").outputs;
    for seed in 1..20 {
        assert_eq!(
            annulus::run(&compiled, &inputs(&case), seed).expect("runs").outputs,
            first,
            "seed {seed}"
        );
    }
}

/// A token that the vocabulary lacks: the rank that owns its row fails, all end, and the error names rank, operation and index.
#[test]
fn a_rank_that_fails_ends_all_and_is_named() {
    let case = load(&bundled("llama"));
    let mut ids = inputs(&case)[0].to_f64();
    let (row, rows) = (20, ids.len());
    ids[row] = 99_999.0;
    let bad = Tensor::from_f64(DType::I64, [1, rows], &ids).expect("as many");
    for (ranks, layout) in RANKS.into_iter().flat_map(|p| LayoutKind::ALL.map(|l| (p, l))) {
        if layout == LayoutKind::Document {
            continue;
        }
        let options = Options::new(ranks).layout(layout);
        let compiled = annulus::compile(&case.graph, &options).expect("compiles");
        let own = |rows: &Vec<Progression>| rows.iter().any(|p| p.rows().any(|r| r == row));
        let owner = compiled.program.layouts[0].rows.iter().position(own).expect("an owner");
        let why =
            annulus::run(&compiled, std::slice::from_ref(&bad), 0).expect_err("a wrong index").to_string();
        let wants = [&format!("rank {owner}, segment 0: gather")[..], "index 99999 is not among 61"];
        assert!(wants.iter().all(|w| why.contains(w)), "{layout}, {ranks} ranks: {why}");
    }
}

/// The choice of the pass, and every strategy: one after another over models and rank counts.
fn options(turn: usize, ranks: usize) -> Options {
    let strategy = turn.checked_sub(1).map(|i| Strategy::ALL[i]);
    Options::new(ranks).strategy(strategy)
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(of).expect("a folder").map(|e| e.expect("an entry").path());
    let mut all: Vec<PathBuf> = all.filter(|p| p.is_dir()).collect();
    all.sort();
    all
}

/// ONNX's own cases of attention, as one operator and written out. Those that are not rewritten stand with their reasons in
/// the snapshot `onnx_attention_not_found`, and are right all the same.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn every_attention_case_of_onnx_runs_on_every_rank_count() {
    let cases = data::folder("onnx-attention");
    let folders = folders(&cases);
    assert_eq!(folders.len(), 126);
    let rewritten = folders.par_iter().enumerate().map(|(i, folder)| {
        let name = folder.file_name().expect("a name").to_string_lossy();
        let case = load(folder);
        let on = |(j, ranks): (usize, usize)| {
            let options = options((i + j) % (1 + Strategy::ALL.len()), ranks);
            let what = format!("{name}, {ranks} ranks, {:?}", options.strategy);
            let (compiled, report) = runs(&case, &options, &what);
            assert_eq!(report.attention.found + compiled.missed.len(), 1, "{what}");
            report.attention.rewritten
        };
        RANKS.into_iter().enumerate().map(on).sum::<usize>()
    });
    assert_eq!(rewritten.sum::<usize>(), 115 * RANKS.len());
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// Every real model: evaluated, then split on every rank count; every attention is rewritten. What is put together on every
    /// rank stands in the snapshot.
    #[test]
    #[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
    fn every_model_runs_on_every_rank_count() {
        let models = data::folder("models");
        let folders = folders(&models);
        let lines = folders.par_iter().enumerate().map(|(i, folder)| {
            let name = folder.file_name().expect("a name").to_string_lossy();
            let case = load(folder);
            let attentions = attention_count(folder);
            let got = eval(&case.graph, &inputs(&case), Precision::Declared);
            judge(&case, &got.unwrap_or_else(|e| panic!("{name}: {e}")), &format!("{name}, eval"));
            let mut gathered = vec![];
            for (j, ranks) in RANKS.into_iter().enumerate() {
                let options = options((i + j) % (1 + Strategy::ALL.len()), ranks);
                let what = format!("{name}, {ranks} ranks, {:?}", options.strategy);
                let (compiled, report) = runs(&case, &options, &what);
                assert_eq!(report.attention.rewritten, attentions, "{what}");
                let family = name.split(['.', '-']).next().expect("a family");
                if BY_ROWS.contains(&family) {
                    by_rows(&compiled, &report, name.contains("-pad"), &what);
                }
                gathered.push(report.gathered.len());
            }
            gathered.dedup();
            let gathered = match gathered[..] {
                [0] => String::new(),
                _ => format!(", values put together: {gathered:?}"),
            };
            (attentions, format!("{name}: rewritten {attentions} of {attentions}{gathered}"))
        });
        let (attentions, lines): (Vec<usize>, Vec<String>) = lines.unzip();
        assert_eq!((lines.len(), attentions.iter().sum::<usize>()), (69, 144));
        snapshot("spine", "models", &lines.join("\n"));
    }
}
