//! Cases: a model with, where there are any, stored inputs, expected outputs and their tolerances.
//!
//! In: the path of a folder in ONNX test-case layout, of an `.onnx` file, or of a file in annulus's text form. Out: a
//! [`Case`]. Tensors that a model keeps in other files are read from its own folder or one that is named, nowhere else. No
//! other part of the library touches the file system; every error names the file.

use super::departure::Departure;
use super::error::ImportError;
use super::external;
use super::inputs::{graph_of, inputs_of};
use super::narrowest::narrowest;
use super::options::ImportOptions;
use super::read::{decode, noted, tensor};
use crate::ir::text::{self, ParseError};
use crate::ir::{DType, Graph, Output, Tensor, Topology, Type};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How far a result may be from what is expected: |got − expected| ≤ atol + rtol·|expected|.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Absolute part.
    pub atol: f64,
    /// Part relative to the expected value.
    pub rtol: f64,
}

impl Tolerance {
    /// The tolerance of an output of this type for which none is stated.
    pub fn of(dtype: DType) -> Tolerance {
        match dtype {
            DType::F16 | DType::BF16 => Tolerance { atol: 4e-3, rtol: 1e-2 },
            _ => Tolerance { atol: 1e-5, rtol: 1e-3 },
        }
    }
}

/// A model and what is stored with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The model.
    pub graph: Graph,
    /// Stored inputs by name, in the order of the graph's inputs; those that are not stored are missing.
    pub inputs: Vec<(String, Tensor)>,
    /// Expected outputs by name, in the order of the graph's outputs; those that are not stored are missing.
    pub expected: Vec<(String, Tensor)>,
    /// For each output of the graph.
    pub tolerance: Vec<Tolerance>,
    /// For each output of the graph the type that decides its tolerance, where that is narrower than its own: the output is computed
    /// in it, or was stored in it.
    pub computed_in: Vec<Option<DType>>,
    /// Nodes of which ONNX Runtime gives something else than they mean: where stored outputs come from it, they may differ for that.
    pub departures: Vec<Departure>,
    /// `manifest.json` beside the model, unread but for the tolerances.
    pub manifest: Option<Value>,
}

impl Case {
    /// The departures of ONNX Runtime on which an output depends, by its place among the outputs of the graph.
    pub fn departures_of(&self, output: usize) -> Vec<&Departure> {
        if self.departures.is_empty() {
            return vec![];
        }
        let Some(output) = self.graph.outputs().get(output).map(|o| o.value) else { return vec![] };
        let mut seen = BTreeSet::from([output.op]);
        let mut stack = vec![output.op];
        while let Some(id) = stack.pop() {
            stack.extend(self.graph.operands(id).into_iter().map(|v| v.op).filter(|op| seen.insert(*op)));
        }
        let nodes: BTreeSet<&str> = seen.iter().map(|&id| self.graph.source(id)).collect();
        self.departures.iter().filter(|d| nodes.contains(d.node.as_str())).collect()
    }

    /// The stored inputs in the order in which [`crate::eval::eval`] takes them.
    ///
    /// # Errors
    /// The name of the first input that is not stored.
    pub fn ordered_inputs(&self) -> Result<Vec<Tensor>, String> {
        let wanted = self.graph.inputs().into_iter().map(|v| self.graph.value(v).name.clone());
        wanted
            .map(|name| match self.inputs.iter().find(|(n, _)| *n == name) {
                Some((_, t)) => Ok(t.clone()),
                None => Err(name),
            })
            .collect()
    }
}

/// Why a case could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no model or tensor that can be imported.
    #[error("{}: {source}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ImportError,
    },
    /// The file is no graph in text form.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: ParseError,
    },
    /// The file says something that cannot be.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What.
        why: String,
    },
}

/// Where what belongs to a model is, if not where its folder has it.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Folder with the files in which the model keeps tensors, instead of the model's own.
    pub external: Option<PathBuf>,
    /// Folder with `input_0.pb`, ….
    pub inputs: Option<PathBuf>,
    /// Folder with `output_0.pb`, ….
    pub expected: Option<PathBuf>,
}

/// Loads a case. The shapes of stored inputs bind symbolic dimensions that `options` leaves open.
///
/// # Errors
/// See [`CaseError`].
pub fn load(path: &Path, stored: &Stored, options: &ImportOptions) -> Result<Case, CaseError> {
    if path.is_dir() {
        let beside = || Some(path.join("test_data_set_0"));
        let stored = Stored {
            external: stored.external.clone(),
            inputs: stored.inputs.clone().or_else(beside),
            expected: stored.expected.clone().or_else(beside),
        };
        return load_model(&path.join("model.onnx"), &stored, options);
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
        return load_model(path, stored, options);
    }
    let source = String::from_utf8(read(path)?).map_err(|_| CaseError::Content {
        path: path.to_owned(),
        why: "neither an .onnx file nor text".to_owned(),
    })?;
    from_text(&source, path, stored)
}

/// A case from a graph in text form; `path` names it in errors.
///
/// # Errors
/// See [`CaseError`].
pub fn from_text(source: &str, path: &Path, stored: &Stored) -> Result<Case, CaseError> {
    let graph = text::parse(source).map_err(|source| CaseError::Text { path: path.to_owned(), source })?;
    let inputs: Vec<String> = graph.inputs().into_iter().map(|v| graph.value(v).name.clone()).collect();
    let outputs: Vec<String> = graph.outputs().iter().map(|o| o.name.clone()).collect();
    let (tolerance, computed_in) = tolerances(&graph, |_| None, &BTreeMap::new());
    Ok(Case {
        inputs: stored_tensors(stored.inputs.as_deref(), "input", &inputs)?,
        expected: stored_tensors(stored.expected.as_deref(), "output", &outputs)?,
        tolerance,
        computed_in,
        departures: vec![],
        manifest: None,
        graph,
    })
}

fn stored_tensors(
    dir: Option<&Path>,
    prefix: &str,
    values: &[String],
) -> Result<Vec<(String, Tensor)>, CaseError> {
    dir.map_or(Ok(vec![]), |dir| tensors(dir, prefix, values))
}

/// Loads `prefix_0.pb`, `prefix_1.pb`, … of a folder. `values` are the model's inputs or outputs in their order: a tensor
/// belongs to the one of its name, or where no value has its name to the one of its number.
///
/// # Errors
/// See [`CaseError`]; a tensor that belongs to no value is one, as are two of the same value.
pub fn tensors(dir: &Path, prefix: &str, values: &[String]) -> Result<Vec<(String, Tensor)>, CaseError> {
    let mut found: Vec<Option<Tensor>> = vec![None; values.len()];
    for n in 0.. {
        let path = dir.join(format!("{prefix}_{n}.pb"));
        if !path.exists() {
            break;
        }
        let bytes = read(&path)?;
        let (name, tensor) =
            tensor(&bytes).map_err(|source| CaseError::Import { path: path.clone(), source })?;
        let place = values.iter().position(|v| *v == name).or((n < values.len()).then_some(n));
        match place.and_then(|i| found.get_mut(i)) {
            Some(slot @ None) => *slot = Some(tensor),
            Some(Some(_)) => {
                return Err(CaseError::Content { path, why: format!("a second tensor for {name:?}") });
            }
            None => {
                let why = format!("{name:?} is number {n} of {} {prefix}s", values.len());
                return Err(CaseError::Content { path, why });
            }
        }
    }
    Ok(values.iter().cloned().zip(found).filter_map(|(name, t)| t.map(|t| (name, t))).collect())
}

fn load_model(path: &Path, data: &Stored, options: &ImportOptions) -> Result<Case, CaseError> {
    let import = |source| CaseError::Import { path: path.to_owned(), source };
    let mut model = decode(&read(path)?).map_err(import)?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let external = data.external.as_deref().unwrap_or(&folder);
    external::load(&mut model, external).map_err(import)?;
    let proto = graph_of(&model).map_err(import)?;
    let input_names: Vec<String> = inputs_of(proto).iter().map(|i| i.name.clone()).collect();
    let output_names: Vec<String> = proto.output.iter().map(|o| o.name.clone()).collect();
    let inputs = stored_tensors(data.inputs.as_deref(), "input", &input_names)?;
    let mut expected = stored_tensors(data.expected.as_deref(), "output", &output_names)?;
    let mut options = options.clone();
    for (name, tensor) in &inputs {
        options.input_shapes.entry(name.clone()).or_insert_with(|| tensor.shape().to_vec());
    }
    for (name, tensor) in &expected {
        options.output_shapes.entry(name.clone()).or_insert_with(|| tensor.shape().to_vec());
    }
    let (graph, departures) = noted(&model, &options).map_err(import)?;
    let in_graph = graph.inputs().into_iter().map(|v| (graph.value(v).name.as_str(), graph.ty(v)));
    let out_graph = graph.outputs().iter().map(|o| (o.name.as_str(), graph.ty(o.value)));
    let types: [Vec<(&str, &Type)>; 2] = [in_graph.collect(), out_graph.collect()];
    let narrow = widened(&mut expected, &types[1]);
    let places = [(&inputs, &data.inputs), (&expected, &data.expected)];
    for ((stored, dir), types) in places.into_iter().zip(types) {
        for (name, tensor) in stored {
            if let Some((_, ty)) = types.iter().find(|(n, _)| n == name)
                && **ty != tensor.ty()
            {
                let why = format!("{name} is {ty} in the model and {} in its stored value", tensor.ty());
                return Err(CaseError::Content { path: dir.as_deref().unwrap_or(path).to_owned(), why });
            }
        }
    }
    let manifest = json(&folder.join("manifest.json"))?;
    let stated = stated(&folder, manifest.as_ref())?;
    let (tolerance, computed_in) = tolerances(&graph, stated, &narrow);
    Ok(Case { graph, inputs, expected, tolerance, computed_in, departures, manifest })
}

/// Expected outputs that were stored in a narrower floating type than the model gives are widened, which loses nothing; their
/// names, each with the type in which it was stored.
fn widened(expected: &mut [(String, Tensor)], types: &[(&str, &Type)]) -> BTreeMap<String, DType> {
    let mut narrow = BTreeMap::new();
    for (name, tensor) in expected {
        let Some((_, ty)) = types.iter().find(|(n, _)| n == name) else { continue };
        let stored = tensor.dtype();
        if stored.widens_to(ty.dtype)
            && let Some(wide) = Tensor::from_f64(ty.dtype, tensor.shape(), &tensor.to_f64())
        {
            *tensor = wide;
            narrow.insert(name.clone(), stored);
        }
    }
    narrow
}

/// What is stated of an output by its name: by the manifest, else of all outputs by `../cases.json`.
fn stated<'a>(
    folder: &Path,
    manifest: Option<&'a Value>,
) -> Result<impl Fn(&str) -> Option<Tolerance> + use<'a>, CaseError> {
    let stated = |v: &Value| -> Option<Tolerance> {
        Some(Tolerance { atol: v.get("atol")?.as_f64()?, rtol: v.get("rtol")?.as_f64()? })
    };
    let of_case = match manifest {
        Some(_) => None,
        None => case_entry(folder)?.as_ref().and_then(stated),
    };
    Ok(move |name: &str| {
        let entries =
            manifest.and_then(|m| m.get("outputs")?.as_array()).map_or(&[] as &[Value], Vec::as_slice);
        let entry = entries.iter().find(|e| e.get("name").and_then(Value::as_str) == Some(name));
        entry.and_then(stated).or(of_case)
    })
}

/// Of each output: what is stated, else what the narrowest type deserves in which it is computed or was stored, and that type where
/// it is not the output's own.
fn tolerances(
    graph: &Graph,
    stated: impl Fn(&str) -> Option<Tolerance>,
    narrow: &BTreeMap<String, DType>,
) -> (Vec<Tolerance>, Vec<Option<DType>>) {
    let topology = Topology::new(graph);
    let one = |o: &Output| {
        if let Some(tolerance) = stated(&o.name) {
            return (tolerance, None);
        }
        let own = graph.ty(o.value).dtype;
        let computed = narrowest(graph, &topology, o.value);
        let dtype = narrow.get(&o.name).copied().filter(|&stored| computed == own || stored == computed);
        let dtype = dtype.unwrap_or(computed);
        (Tolerance::of(dtype), (dtype != own).then_some(dtype))
    };
    graph.outputs().iter().map(one).unzip()
}

/// The entry of a folder in the `cases.json` beside it.
fn case_entry(folder: &Path) -> Result<Option<Value>, CaseError> {
    // A path like `.` has no name of its own.
    let Ok(folder) = folder.canonicalize() else { return Ok(None) };
    let (Some(name), Some(above)) = (folder.file_name(), folder.parent()) else { return Ok(None) };
    let Some(all) = json(&above.join("cases.json"))? else { return Ok(None) };
    let cases = all.get("cases").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    Ok(cases.iter().find(|c| c.get("case").and_then(Value::as_str) == name.to_str()).cloned())
}

/// A JSON file, if it exists.
fn json(path: &Path) -> Result<Option<Value>, CaseError> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&read(path)?)
        .map(Some)
        .map_err(|e| CaseError::Content { path: path.to_owned(), why: format!("not JSON: {e}") })
}

fn read(path: &Path) -> Result<Vec<u8>, CaseError> {
    fs::read(path).map_err(|source| CaseError::Io { path: path.to_owned(), source })
}
