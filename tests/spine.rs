//! The whole way on real models: read, find, split, rewrite, schedule, prove, run on every rank count, compare.

#[path = "support/data.rs"]
mod data;

use annulus::dump::report;
use annulus::eval::compare::compare;
use annulus::eval::{Precision, eval};
use annulus::import::ImportOptions;
use annulus::import::case::{self, Case, Stored};
use annulus::ir::Tensor;
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Compiled, Options};
use std::path::{Path, PathBuf};

const RANKS: [usize; 5] = [1, 2, 3, 4, 8];

/// Float32, static shapes, no past, no mask input, not optimised by a runtime: what the spine must do whole.
const PLAIN: [&str; 15] = [
    "gpt2.dyn-eager-op18",
    "gpt2.dyn-sdpa-op23",
    "gpt2.dynold-sdpa-op18",
    "gpt2.tsold-eager-op17",
    "gpt2.tsold-sdpa-op14",
    "llama.dyn-eager-op18",
    "llama.dyn-sdpa-op20",
    "llama.dyn-sdpa-op23",
    "llama.dynold-sdpa-op18",
    "llama.tsold-eager-op14",
    "llama.tsold-sdpa-op17",
    "mistral.dyn-eager-op20",
    "mistral.dyn-sdpa-op18",
    "mistral.dyn-sdpa-op23",
    "mistral.tsold-eager-op14",
];

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

/// Everything that must hold of a compiled model, and its run.
fn runs(case: &Case, options: &Options, attentions: usize, what: &str) -> Compiled {
    let compiled = annulus::compile(&case.graph, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = report::report(&compiled);
    assert_eq!(report.attention.found, attentions, "{what}");
    assert_eq!(report.attention.rewritten, attentions, "{what}: {:?}", report.attention.refused);
    assert!(report.gathered.is_empty(), "{what}: {:?}", report.gathered);
    assert!(report.checks.failed.is_empty() && report.checks.passed.len() >= 5, "{what}");
    let run = annulus::run(&compiled, &inputs(case), 0).unwrap_or_else(|e| panic!("{what}: {e}"));
    judge(case, &run.outputs, what);
    assert_eq!(run.traffic.bytes_sent, report.traffic.bytes_sent, "{what}");
    assert_eq!(run.traffic.messages, report.traffic.messages, "{what}");
    let share =
        |r: usize| compiled.program.layouts[0].share(r) as f64 / compiled.program.layouts[0].length as f64;
    for (r, &flops) in report.local_flops.iter().enumerate() {
        let want = report.whole_flops as f64 * share(r);
        assert!(
            (flops as f64 - want).abs() <= 0.02 * report.whole_flops as f64,
            "{what}, rank {r}: {flops} of {want}"
        );
    }
    compiled
}

fn attention_count(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    manifest["attention_count"].as_u64().expect("a count") as usize
}

fn on_every_rank_count(folder: &Path) {
    let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
    let case = load(folder);
    let got =
        eval(&case.graph, &inputs(&case), Precision::Declared).unwrap_or_else(|e| panic!("{name}: {e}"));
    judge(&case, &got, &format!("{name}, eval"));
    for ranks in RANKS {
        for strategy in Strategy::ALL {
            let options = Options { strategy: Some(strategy), ..Options::new(ranks) };
            let what = format!("{name}, {ranks} ranks, {}", strategy.name());
            runs(&case, &options, attention_count(folder), &what);
        }
    }
}

fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

#[test]
fn bundled_models_run_on_every_rank_count() {
    for name in ["llama", "gpt2", "mistral"] {
        on_every_rank_count(&bundled(name));
    }
}

#[test]
fn bundled_models_run_with_every_strategy_and_layout() {
    for name in ["llama", "gpt2", "mistral"] {
        let folder = bundled(name);
        let case = load(&folder);
        for strategy in Strategy::ALL {
            for layout in LayoutKind::ALL {
                let options = Options { strategy: Some(strategy), layout: Some(layout), ..Options::new(5) };
                let what = format!("{name}, {}, {layout}", strategy.name());
                if layout == LayoutKind::Document {
                    let refused = annulus::compile(&case.graph, &options).expect_err("it has no documents");
                    assert!(refused.to_string().contains("keeps documents apart"), "{refused}");
                    continue;
                }
                let compiled = runs(&case, &options, attention_count(&folder), &what);
                assert!(compiled.islands.iter().all(|i| i.schedule.q_layout.kind == layout), "{what}");
            }
        }
    }
}

#[test]
fn another_order_of_steps_gives_the_same_bits() {
    let case = load(&bundled("llama"));
    let options =
        Options { strategy: Some(Strategy::Ring), layout: Some(LayoutKind::Zigzag), ..Options::new(4) };
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

#[test]
fn plain_models_run_on_every_rank_count() {
    let Some(models) = data::folder("models") else { return };
    let family = |n: &str| ["llama", "gpt2", "mistral"].iter().any(|f| n.starts_with(f));
    let there = std::fs::read_dir(&models)
        .expect("models")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| family(n))
        .count();
    assert_eq!(there, 25, "folders of the three families");
    for name in PLAIN {
        on_every_rank_count(&models.join(name));
    }
}

/// Sinks, windows beside full layers, and experts that a router chooses.
#[test]
fn models_with_sinks_run_on_every_rank_count() {
    let Some(models) = data::folder("models") else { return };
    for name in ["gpt_oss.dyn-eager-op18", "gpt_oss.dyn-eager-op23"] {
        on_every_rank_count(&models.join(name));
    }
}

/// The rest of the three families, as far as the rooms go: what runs, and what is refused and why.
#[test]
fn other_models_run_or_are_refused_by_name() {
    let Some(models) = data::folder("models") else { return };
    let mut names: Vec<String> = std::fs::read_dir(&models)
        .expect("models")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| ["llama", "gpt2", "mistral"].iter().any(|f| n.starts_with(f)))
        .filter(|n| !PLAIN.contains(&n.as_str()))
        .collect();
    names.sort();
    assert_eq!(names.len(), 10);
    let mut lines = Vec::new();
    for name in names {
        let folder = models.join(&name);
        let line = match case::load(&folder, &Stored::default(), &ImportOptions::default()) {
            Err(e) => format!("refused: {e}").replace(&format!("{}/", models.display()), ""),
            Ok(case) => {
                let got = eval(&case.graph, &inputs(&case), Precision::Declared).expect("evaluates");
                judge(&case, &got, &name);
                let mut rewritten = Vec::new();
                for ranks in RANKS {
                    let what = format!("{name}, {ranks} ranks");
                    let compiled = annulus::compile(&case.graph, &Options::new(ranks)).expect(&what);
                    let run = annulus::run(&compiled, &inputs(&case), 0).expect(&what);
                    judge(&case, &run.outputs, &what);
                    let report = report::report(&compiled);
                    let gathered = match report.gathered.len() {
                        0 => String::new(),
                        n => format!(" ({n} values gathered)"),
                    };
                    let of = attention_count(&folder);
                    rewritten.push(format!("{} of {of}{gathered}", report.attention.rewritten));
                }
                rewritten.dedup();
                format!("right at P = 1, 2, 3, 4, 8; rewritten {}", rewritten.join(", "))
            }
        };
        lines.push(format!("{name}: {line}"));
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/spine"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("other_models", lines.join("\n")));
}
