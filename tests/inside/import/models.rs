//! Real models: every folder imported, evaluated, and compared with its stored outputs.

use crate::inside::support::cases::snapshot;
use annulus::eval::{Precision, compare, eval};
use annulus::import::{ImportOptions, case};
use annulus::ir::{Form, Graph, Tensor, parse, print, verify};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Loads and evaluates a case; what it came to, in a line.
fn judge(folder: &Path) -> Result<String, String> {
    let case =
        case::load(folder, &Default::default(), &ImportOptions::default()).map_err(|e| e.to_string())?;
    round_trip(&case.graph, folder);
    let inputs = case.ordered_inputs().map_err(|name| format!("input {name} is not stored"))?;
    let outputs = eval(&case.graph, &inputs, Precision::Declared).map_err(|e| e.to_string())?;
    assert_eq!(outputs.len(), case.expected.len(), "{}: every output is stored", folder.display());
    for ((got, (name, expected)), t) in outputs.iter().zip(&case.expected).zip(&case.tolerance) {
        assert_eq!(got.ty(), expected.ty());
        let c = compare(got, expected, t.atol, t.rtol, false)?;
        if !c.within {
            return Err(format!("output {name} is off by {:e}, tolerance {t:?}", c.max_abs_error));
        }
    }
    Ok(format!("{} operations", case.graph.len()))
}

/// Printed and parsed the graph is the same, its data too where the form holds them; printed again, the bytes are.
fn round_trip(g: &Graph, folder: &Path) {
    assert_eq!(verify(g), Ok(()));
    for form in [Form::People, Form::Full] {
        let text = print(g, form);
        let back = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        assert!(back == *g, "{}", folder.display());
        assert!(print(&back, form) == text, "{}", folder.display());
        if form == Form::Full {
            let data = |g: &Graph| -> Vec<Option<Arc<Tensor>>> {
                let values = g.ops().into_iter().flat_map(|id| g.results(id));
                values.filter_map(|v| g.as_constant(v)).map(|c| c.data.clone()).collect()
            };
            assert!(data(&back) == data(g), "{}", folder.display());
        }
    }
}

fn folders(at: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    all
}

fn report(folders: &[PathBuf]) -> String {
    let mut text = String::new();
    for f in folders {
        let name = f.file_name().unwrap().to_str().unwrap();
        let place = format!("{}/", f.display());
        let verdict = match judge(f) {
            Ok(ok) => format!("ok: {ok}"),
            Err(why) => format!("REFUSED: {}", why.replace(&place, "")),
        };
        writeln!(text, "{name}: {verdict}").unwrap();
    }
    text
}

#[test]
fn bundled_models_give_their_stored_outputs() {
    let all = folders(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models")));
    assert_eq!(all.len(), 3);
    for f in all {
        judge(&f).unwrap_or_else(|why| panic!("{}: {why}", f.display()));
    }
}

/// How many lines of a report say that all is well.
fn passed(report: &str) -> usize {
    report.lines().filter(|l| l.contains(": ok: ")).count()
}

/// Every model: one that fails says why in the snapshot.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn all_models_give_their_stored_outputs() {
    let data = crate::inside::support::data::folder("models");
    let all = folders(&data);
    assert_eq!(all.len(), 69);
    let report = report(&all);
    snapshot("import", "models", &report);
    assert_eq!(passed(&report), 69);
}

/// ONNX's own cases of the Attention operator, as one node and as its function body.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn attention_cases_of_onnx() {
    let data = crate::inside::support::data::folder("onnx-attention");
    let all = folders(&data);
    assert_eq!(all.len(), 126);
    let report = report(&all);
    snapshot("import", "onnx_attention", &report);
    assert_eq!(passed(&report), 126);
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn decoder_models_give_their_stored_outputs() {
    let data = crate::inside::support::data::folder("models");
    let wanted = |p: &PathBuf| {
        let name = p.file_name().unwrap().to_str().unwrap().to_owned();
        ["llama", "gpt2", "mistral"].iter().any(|a| name.starts_with(a))
    };
    let decoders: Vec<PathBuf> = folders(&data).into_iter().filter(wanted).collect();
    assert_eq!(decoders.len(), 25);
    snapshot("import", "decoders", &report(&decoders));
}
