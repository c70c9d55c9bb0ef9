//! Reading a model and its test data from what the user names.

use super::args::{Admit, Data, Model};
use super::progress::Progress;
use super::stop::Stop;
use annulus::eval::{EvalError, Precision, eval_watched, lacking};
use annulus::find::{Bound, FindOptions};
use annulus::import::ImportOptions;
use annulus::import::case::{self, Case, CaseError, Stored};
use annulus::ir::{Graph, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Reads the model, and the test data that stand beside it or where `data` says. `-` is a text graph on standard input.
pub(crate) fn load(model: &Model, data: Option<&Data>) -> Result<Case, Stop> {
    let options = ImportOptions::default().dims(dims(model)?).opaque(!model.no_opaque);
    let stored = data.map_or_else(Stored::default, |d| Stored {
        inputs: d.inputs.clone(),
        expected: d.expect.clone(),
        ..Stored::default()
    });
    let stored = Stored { external: model.external_data.clone(), ..stored };
    if let Some(dir) = &stored.inputs {
        named_folder(dir, "--inputs", "input")?;
    }
    if let Some(dir) = &stored.expected {
        named_folder(dir, "--expect", "output")?;
    }
    let start = Instant::now();
    let _progress =
        Progress::begin(model.verbose, &format!("reading {}", super::text_file::name(&model.model)));
    let case = if model.model.as_os_str() == "-" {
        let source = super::text_file::read_text(&model.model)?;
        case::from_text(&source, Path::new("standard input"), &stored)
    } else {
        case::load(&model.model, &stored, &options)
    };
    let case = case.map_err(Stop::from)?;
    strict(model, &case.graph)?;
    note(model.verbose, "read the model", start);
    Ok(case)
}

/// With `--no-opaque`: refuses what a text says of operators that annulus does not compute, as the importer does those of a model.
pub(crate) fn strict(model: &Model, graph: &Graph) -> Result<(), Stop> {
    let lacking = if model.no_opaque { lacking(graph) } else { vec![] };
    if lacking.is_empty() { Ok(()) } else { Err(Stop::Failed(EvalError::Lacks(lacking).to_string())) }
}

/// The sizes of symbolic dimensions, each given once. A text graph has none.
pub(crate) fn dims(model: &Model) -> Result<BTreeMap<String, usize>, Stop> {
    let mut dims = BTreeMap::new();
    for (name, size) in &model.dims {
        if dims.insert(name.clone(), *size).is_some_and(|old| old != *size) {
            return Err(Stop::Usage(format!("--dim {name} is given twice, with different sizes")));
        }
    }
    match dims.keys().next() {
        Some(name) if is_text(&model.model) => {
            Err(Stop::Usage(format!("--dim {name}: a text graph has no symbolic dimensions")))
        }
        _ => Ok(dims),
    }
}

/// Whether a path is taken for a graph in text form: neither a folder nor an `.onnx` file.
pub(crate) fn is_text(path: &Path) -> bool {
    !path.is_dir() && path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("onnx"))
}

/// A folder that the user names must hold `prefix_0.pb`, …, without a gap: a slip of the pen must not compare nothing.
fn named_folder(dir: &Path, flag: &str, prefix: &str) -> Result<(), Stop> {
    let usage = |why: String| Stop::Usage(format!("{flag} {}: {why}", dir.display()));
    let entries = std::fs::read_dir(dir).map_err(|e| usage(e.to_string()))?;
    let number = |name: String| -> Option<usize> {
        name.strip_prefix(prefix)?.strip_prefix('_')?.strip_suffix(".pb")?.parse().ok()
    };
    let mut numbers: Vec<usize> =
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter_map(number).collect();
    numbers.sort_unstable();
    match numbers.iter().enumerate().find(|&(i, &n)| i != n) {
        Some((i, n)) => Err(usage(format!("there is {prefix}_{n}.pb and no {prefix}_{i}.pb"))),
        None if numbers.is_empty() => Err(usage(format!("there is no {prefix}_0.pb"))),
        None => Ok(()),
    }
}

/// Which rewritings are admitted, with the values that a case stores of the inputs that are bound.
pub(crate) fn admitted(admit: &Admit, case: &Case) -> Result<FindOptions, Stop> {
    let mut options = FindOptions::default();
    if !admit.numerics.is_empty() {
        options.numerics.clone_from(&admit.numerics);
    }
    for name in &admit.bind {
        options.bound.push(Bound::new(name, stored(case, name, "--bind")?));
    }
    Ok(match admit.dropout {
        Some(ratio) => options.drop_weights(ratio, admit.dropout_seed),
        None => options,
    })
}

/// The stored value of one input that an argument names.
fn stored(case: &Case, name: &str, flag: &str) -> Result<Tensor, Stop> {
    if let Some((_, value)) = case.inputs.iter().find(|(n, _)| n == name) {
        return Ok(value.clone());
    }
    let names: Vec<String> =
        case.graph.inputs().into_iter().map(|v| case.graph.value(v).name.clone()).collect();
    Err(Stop::Usage(match names.iter().position(|n| n == name) {
        Some(i) => format!(
            "{flag} {name}: no value is stored: put it into test_data_set_0/input_{i}.pb beside the model"
        ),
        None => format!("{flag} {name}: there is no such input; there are {}", names.join(", ")),
    }))
}

/// The inputs of the graph, from `--inputs` or the case, each of the type that the graph declares.
pub(crate) fn inputs(case: &Case) -> Result<Vec<Tensor>, Stop> {
    let graph = &case.graph;
    let inputs = case.ordered_inputs().map_err(|name| {
        let number = graph.inputs().into_iter().position(|v| graph.value(v).name == name).unwrap_or(0);
        Stop::Usage(format!(
            "input {name} has no value: put input_{number}.pb into a folder and name it with --inputs"
        ))
    })?;
    for (v, x) in graph.inputs().into_iter().zip(&inputs) {
        let value = graph.value(v);
        if x.ty() != value.ty {
            return Err(Stop::Usage(format!("input {} is {}, got {}", value.name, value.ty, x.ty())));
        }
    }
    Ok(inputs)
}

/// The expected outputs in the order of the graph's, from `--expect` or the case; `None` if there are none.
pub(crate) fn expected(case: &Case) -> Result<Option<Vec<Tensor>>, Stop> {
    if case.expected.is_empty() {
        return Ok(None);
    }
    let given = |name: &str| case.expected.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
    let all = case.graph.outputs().iter().map(|o| {
        given(&o.name).ok_or_else(|| {
            Stop::Usage(format!("some outputs have an expected value, and output {} has none", o.name))
        })
    });
    all.collect::<Result<Vec<_>, _>>().map(Some)
}

/// [`eval`](annulus::eval::eval) in the declared types, its progress said.
pub(crate) fn evaluate(graph: &Graph, inputs: &[Tensor], verbose: bool) -> Result<Vec<Tensor>, Stop> {
    let progress = Progress::begin(verbose, "evaluating");
    let outputs = eval_watched(graph, inputs, Precision::Declared, &mut |at| {
        progress.set(|| {
            let name = graph.results(at.op).first().map_or("", |&v| graph.value(v).name.as_str());
            format!("evaluating operation {} of {}: {} {name}", at.done + 1, at.of, graph.op(at.op).name())
        });
    });
    Ok(outputs.map_err(annulus::Error::from)?)
}

/// The tolerance of output number `i`: the arguments', else the case's.
pub(crate) fn tolerance(case: &Case, data: &Data, i: usize) -> (f64, f64) {
    let stored = case.tolerance[i];
    (data.atol.unwrap_or(stored.atol), data.rtol.unwrap_or(stored.rtol))
}

/// With `-v`: what was done and how long it took, on standard error.
pub(crate) fn note(verbose: bool, what: &str, start: Instant) {
    if verbose {
        super::print::error(&format!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3));
    }
}

impl From<CaseError> for Stop {
    fn from(error: CaseError) -> Stop {
        match error {
            CaseError::Import { ref source, .. } if source.is_refusal() => Stop::Failed(error.to_string()),
            _ => Stop::Usage(error.to_string()),
        }
    }
}
