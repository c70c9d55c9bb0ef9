//! Real exports: what is found is what their manifests say, and the graph afterwards computes the same.

use crate::inside::support::cases::snapshot;
use crate::inside::support::data;
use annulus::eval::{Precision, compare, eval};
use annulus::find::report::{AttentionRecord, record};
use annulus::find::{Bound, FindOptions, Found, Work, find};
use annulus::import::ImportOptions;
use annulus::import::case::{Case, Stored, load};
use annulus::ir::Tensor;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// Every folder whose name begins with one of these, in order.
pub(crate) fn folders(root: &Path, prefixes: &[&str]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| {
        let name = p.file_name().unwrap().to_str().unwrap();
        p.is_dir() && prefixes.iter().any(|x| name.starts_with(x))
    });
    all.sort();
    all
}

fn found(case: &Case) -> (Found, Vec<AttentionRecord>) {
    let found = find(&case.graph, &FindOptions::default());
    let records = found.attentions.iter().map(|a| record(&found.graph, a)).collect();
    (found, records)
}

/// The figures in which a record differs from the manifest.
fn differences(records: &[AttentionRecord], manifest: &Value) -> Vec<String> {
    let want = manifest["attentions"].as_array().unwrap();
    if want.len() != records.len() {
        return vec![format!("found {} of {}", records.len(), want.len())];
    }
    let mut out = vec![];
    for (w, r) in want.iter().zip(records) {
        let got = serde_json::to_value(r).unwrap();
        for key in [
            "kind",
            "form",
            "q_heads",
            "kv_heads",
            "head_dim",
            "v_head_dim",
            "q_len",
            "kv_len",
            "causal",
            "query_offset",
            "window",
            "softcap",
            "sinks",
            "bias",
        ] {
            let same = match (got[key].as_f64(), w[key].as_f64()) {
                (Some(a), Some(b)) => a == b,
                _ => got[key] == w[key],
            };
            if !same {
                out.push(format!("{}: {key} is {}, not {}", r.name, got[key], w[key]));
            }
        }
        let scale = w["scale"].as_f64().unwrap();
        if r.scale.is_none_or(|x| (x - scale).abs() > 1e-5 * scale) {
            out.push(format!("{}: scale is {:?}, not {scale}", r.name, r.scale));
        }
        let nodes: Vec<&str> = ["attention", "qk", "softmax", "pv"]
            .iter()
            .filter_map(|n| w["nodes"].get(n).and_then(Value::as_str))
            .collect();
        if !nodes.is_empty() && nodes != r.nodes {
            out.push(format!("{}: nodes are {:?}, not {nodes:?}", r.name, r.nodes));
        }
    }
    out
}

/// Where the graph after `find` is beyond tolerance of the stored outputs.
fn errors(case: &Case, found: &Found) -> Vec<String> {
    let inputs = case.ordered_inputs().unwrap();
    let got = match eval(&found.graph, &inputs, Precision::Declared) {
        Ok(got) => got,
        Err(e) => return vec![e.to_string()],
    };
    let mut out = vec![];
    for ((o, got), t) in found.graph.outputs().iter().zip(&got).zip(&case.tolerance) {
        let (_, want) = case.expected.iter().find(|(n, _)| *n == o.name).unwrap();
        let c = compare(got, want, t.atol, t.rtol, false).unwrap();
        if !c.within {
            out.push(format!("{}: max error {}, {} outside", o.name, c.max_abs_error, c.outside));
        }
    }
    out
}

/// What is wrong with a folder: figures, results, misses.
fn judge(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let case = match load(folder, &Stored::default(), &ImportOptions::default()) {
        Ok(case) => case,
        Err(e) => return vec![format!("{name}: not read: {e}")],
    };
    let (found, records) = found(&case);
    let mut wrong = differences(&records, &manifest(folder));
    wrong.extend(errors(&case, &found).into_iter().map(|e| format!("computes something else: {e}")));
    wrong.extend(found.missed.iter().map(|m| format!("missed {}: {}", m.at, m.reason)));
    wrong.into_iter().map(|w| format!("{name}: {w}")).collect()
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn llama_gpt2_and_mistral_are_found_as_their_manifests_say() {
    let root = data::folder("models");
    let folders = folders(&root, &["llama", "gpt2", "mistral"]);
    assert_eq!(folders.len(), 25);
    let wrong: Vec<String> = folders.iter().flat_map(|f| judge(f)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Architectures that nothing here was written for: what is found is right, and what is not is missed with a reason.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn no_model_computes_anything_else_afterwards() {
    let root = data::folder("models");
    let mut read = 0;
    for folder in folders(&root, &[""]) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let Ok(case) = load(&folder, &Stored::default(), &ImportOptions::default()) else { continue };
        read += 1;
        let (found, records) = found(&case);
        assert!(errors(&case, &found).is_empty(), "{name}: {:?}", errors(&case, &found));
        let (work, limit) = (found.work, Work::LIMIT);
        assert!(work.nodes * 4 < limit.nodes && work.rounds * 2 < limit.rounds, "{name}: {work:?}");
        let want = manifest(&folder)["attentions"].as_array().unwrap().len();
        assert_eq!(records.len() + found.missed.len(), want, "{name}: {:?}", found.missed);
        let wrong = differences(&records, &manifest(&folder));
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
    assert!(read >= 60, "only {read} models are read");
}

/// ONNX's own cases, as one operator and written out: each is found and computes its stored outputs, but for those that the
/// snapshot lists with their reasons.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn attention_cases_of_onnx_are_found_but_for_a_list() {
    let root = data::folder("onnx-attention");
    let (mut lines, mut in_full) = (String::new(), 0);
    let all = folders(&root, &["test_"]);
    for folder in &all {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let case = match load(folder, &Stored::default(), &ImportOptions::default()) {
            Ok(case) => case,
            Err(_) => {
                lines.push_str(&format!("{name}\n    not read\n"));
                continue;
            }
        };
        let (found, records) = found(&case);
        assert!(errors(&case, &found).is_empty(), "{name}: {:?}", errors(&case, &found));
        assert_eq!(records.len() + found.missed.len(), 1, "{name}");
        in_full += records.len();
        for m in &found.missed {
            lines.push_str(&format!("{name}\n    {}\n", m.reason));
            // The way out that the reason names is one.
            if m.reason.contains("bind the inputs") {
                let masks = case.inputs.iter().filter(|(n, _)| n == "attn_mask");
                let bound = |options: FindOptions, (n, v): &(String, _)| {
                    options.bind(Bound::new(n, Tensor::clone(v)))
                };
                let found = find(&case.graph, &masks.fold(FindOptions::default(), bound));
                assert_eq!((found.attentions.len(), found.guards.len()), (1, 1), "{name}");
                assert!(errors(&case, &found).is_empty(), "{name}: {:?}", errors(&case, &found));
            }
        }
    }
    lines.push_str(&format!("{in_full} of {} found\n", all.len()));
    snapshot("find", "onnx_attention_not_found", &lines);
}
