//! Case files: one idea each. What is found and why is a snapshot; the graph afterwards computes what it did.

use crate::inside::support::cases::{files, reviewed, stem};
use annulus::eval::{Precision, compare, eval};
use annulus::find::report::record;
use annulus::find::{FindOptions, Found, Numerics, find};
use annulus::ir::{DType, Graph, Tensor, parse};
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub(crate) fn cases() -> Vec<PathBuf> {
    ["inside/find", "inside/find/forms", "inside/find/odd"].map(files).concat()
}

pub(crate) fn graph(path: &Path) -> Graph {
    parse(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{}\n{e}", path.display()))
}

/// Inputs of a graph from a small generator; truth values keep most keys, so that rows with and without keys occur.
pub(crate) fn inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    graph
        .inputs()
        .into_iter()
        .map(|v| {
            let t = graph.ty(v);
            let values: Vec<f64> = (0..t.elements())
                .map(|_| match t.dtype {
                    DType::Bool => f64::from(u8::from(next() % 3 != 0)),
                    // Mostly 1, and some that are no truth values.
                    DType::I64 | DType::I32 => [1, 1, 0, 1, 0, 1, 2, -1][next() as usize % 8] as f64,
                    _ => (next() % 4096) as f64 / 1024.0 - 2.0,
                })
                .collect();
            Tensor::from_f64(t.dtype, t.shape.clone(), &values).unwrap()
        })
        .collect()
}

/// Both graphs on the same inputs.
pub(crate) fn same(before: &Graph, after: &Graph, seed: u64, tolerance: f64) -> Result<(), String> {
    let inputs = inputs(before, seed);
    let want = eval(before, &inputs, Precision::Declared).map_err(|e| e.to_string())?;
    let got = eval(after, &inputs, Precision::Declared).map_err(|e| e.to_string())?;
    for (o, (got, want)) in before.outputs().iter().zip(got.iter().zip(&want)) {
        let c = compare(got, want, tolerance, tolerance, true)?;
        if !c.within {
            return Err(format!("{} differs by {} ({:?})", o.name, c.max_abs_error, c.worst));
        }
    }
    Ok(())
}

fn text(found: &Found) -> String {
    let mut out = String::new();
    for a in &found.attentions {
        let json = serde_json::to_string_pretty(&record(&found.graph, a)).unwrap();
        writeln!(out, "found {json}").unwrap();
        for step in &a.applied {
            writeln!(out, "  {} ({}): {}", step.rule, step.numerics.name(), step.what).unwrap();
        }
    }
    for m in &found.missed {
        writeln!(out, "missed {}: {}", m.at, m.reason).unwrap();
    }
    if found.attentions.is_empty() && found.missed.is_empty() {
        writeln!(out, "nothing").unwrap();
    }
    if !found.attentions.is_empty() {
        write!(out, "\n{}", found.graph).unwrap();
    }
    out
}

#[test]
fn what_is_found_in_every_case_and_why() {
    for path in cases() {
        let inside = |folder| path.parent().is_some_and(|f| f.ends_with(folder));
        let prefix = if inside("forms") {
            "form_"
        } else if inside("odd") {
            "odd_"
        } else {
            ""
        };
        let name = format!("{prefix}{}", stem(&path));
        let found = annulus::find_attentions(&graph(&path), &FindOptions::default()).unwrap();
        reviewed("find", &name, &std::fs::read_to_string(&path).unwrap(), &text(&found));
    }
}

/// The forms in which attention is written, by the names of the literature's list, and 30 patterns of another compiler.
const FORMS: &str = "a1 a2 a3 a4 b1 b2 b3 b4 c1 c2 c3 c4 c5 c6 c7 c8 d1 d2 d3 d4 d5 d6 e1 e2 e3 f1 f2 f3 f4 f5 g1 g2 h1 h2 h3 \
    h4 h5 h6 h7";
/// Those that no ring computes: dropout by noise, scores that are put out or read, other axes, other functions.
const REFUSED: [&str; 5] = ["e2", "h3", "h4", "h5", "h6"];

/// Each form has its case file, and what its first line says is what happens: found, refused with a reason, or no attention.
#[test]
fn every_form_has_its_case() {
    let paths = files("inside/find/forms");
    let patterns = (1..=30).map(|n| format!("pattern_{n:02}"));
    for form in FORMS.split_whitespace().map(|f| format!("{f}_")).chain(patterns) {
        assert!(paths.iter().any(|p| stem(p).starts_with(&form)), "{form} has no case");
    }
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = find(&graph(&path), &FindOptions::default());
        let (first, name) = (text.lines().next().unwrap(), stem(&path));
        let (count, missed) = if first.contains("no attention") {
            (0, 0)
        } else if first.contains(": refused") {
            (0, 1)
        } else {
            (1, 0)
        };
        assert_eq!(
            (found.attentions.len(), found.missed.len()),
            (count, missed),
            "{name}: {:?}",
            found.missed
        );
        assert!(count == 0 || !REFUSED.iter().any(|r| name.starts_with(r)), "{name} is found");
    }
}

/// A graph in halves rounds scores and probabilities, which an attention keeps in f32: a few units in the last place of 1.
fn tolerance(graph: &Graph) -> f64 {
    let types: Vec<DType> = graph.ops().iter().map(|&id| graph.ty(graph.result(id)).dtype).collect();
    match () {
        () if types.contains(&DType::BF16) => 4.0 / 256.0,
        () if types.contains(&DType::F16) => 4e-3,
        () => 0.0,
    }
}

#[test]
fn every_case_computes_what_it_did() {
    for path in cases() {
        let before = graph(&path);
        let found = find(&before, &FindOptions::default());
        if found.attentions.is_empty() {
            assert_eq!(found.graph, before, "{}", path.display());
            assert_eq!(found.graph.to_string(), before.to_string());
        }
        let tolerance = tolerance(&before).max(2e-6);
        for seed in 1..6 {
            same(&before, &found.graph, seed, tolerance)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

/// Cases whose sums of exponentials leave the numbers of their type where scores are very far apart, and which then make a finite number
/// that is no softmax: by how much their inputs may be larger, and how it comes. An attention gives what a softmax would, and its
/// explanation says so ("as long as their exponentials neither over- nor underflow").
const VANISHING: [(&str, f64, &str); 4] = [
    (
        "masked_after_and_the_least",
        2.5,
        "the least number of f32 is beside what the mask keeps, which f64 has numbers for far below it",
    ),
    (
        "masked_after",
        6.0,
        "what a mask keeps has probabilities of 0 beside what it drops, and zeros stand for a sum of 0",
    ),
    (
        "merged_around_a_ring",
        6.0,
        "a sigmoid is 0 or 1, and the logarithm of 0 leaves out all parts but the last",
    ),
    (
        "merged_by_plain_logarithms",
        6.0,
        "exponentials of logarithms overflow, and those of −∞ leave parts out",
    ),
];
/// By how much the inputs of others are.
const LARGER: f64 = 64.0;

/// With logits far beyond where exp overflows, in f64 so that no rounding hides a mistake: whatever was finite stays what it was.
#[test]
fn every_case_keeps_finite_results_of_extreme_inputs() {
    for path in cases() {
        let before = graph(&path);
        // Scores that were rounded to halves are not any more.
        if before.to_string().contains("f16") {
            continue;
        }
        let vanishing = VANISHING.iter().find(|(n, ..)| stem(&path).starts_with(n));
        let larger = vanishing.map_or(LARGER, |of| of.1);
        let after = find(&before, &FindOptions::default()).graph;
        for seed in 1..4 {
            let large = |t: &Tensor| {
                let values: Vec<f64> = t.to_f64().iter().map(|x| x * larger).collect();
                if t.dtype().is_float() {
                    Tensor::from_f64(t.dtype(), t.shape(), &values).unwrap()
                } else {
                    t.clone()
                }
            };
            let inputs: Vec<Tensor> = inputs(&before, seed).iter().map(large).collect();
            let [want, got] = [&before, &after].map(|g| eval(g, &inputs, Precision::F64).unwrap());
            for (want, got) in want.iter().zip(&got) {
                for (w, g) in want.to_f64().into_iter().zip(got.to_f64()) {
                    let near = (w - g).abs() <= 1e-6 * (1.0 + w.abs());
                    assert!(near || !w.is_finite(), "{}: {g}, not {w} (seed {seed})", path.display());
                }
            }
        }
    }
}

#[test]
fn a_second_look_finds_the_same_operators_in_normal_form() {
    for path in cases() {
        let first = find(&graph(&path), &FindOptions::default());
        let second = find(&first.graph, &FindOptions::default());
        assert_eq!(first.attentions.len(), second.attentions.len(), "{}", path.display());
        assert_eq!(first.graph, second.graph, "{}", path.display());
    }
}

#[test]
fn classes_that_are_not_admitted_are_not_used() {
    for path in cases() {
        let before = graph(&path);
        for class in Numerics::ALL {
            let numerics: Vec<Numerics> = Numerics::ALL.into_iter().filter(|c| *c != class).collect();
            let found = find(&before, &FindOptions::default().numerics(numerics));
            for a in &found.attentions {
                assert!(a.applied.iter().all(|s| s.numerics != class), "{}: {}", path.display(), a.name);
            }
            same(&before, &found.graph, 7, tolerance(&before).max(4e-3))
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}
