//! Folders and files: what belongs to what, which tolerance holds, and errors that name the file.

use super::build::*;
use crate::inside::support::scratch;
use annulus::import::ImportOptions;
use annulus::import::case::{Case, CaseError, Stored, Tolerance, load};
use annulus::ir::{DType, Form, Tensor, print};
use prost::Message;
use std::fs;
use std::path::{Path, PathBuf};

/// A new folder of that name with a model y = −x of `x: f32[2]`.
fn folder(name: &str) -> PathBuf {
    let at = scratch().join("cases").join(name);
    let _ = fs::remove_dir_all(&at);
    fs::create_dir_all(at.join("test_data_set_0")).unwrap();
    let model = Single::new("Neg", &[count(&[2])], &[]).model();
    fs::write(at.join("model.onnx"), model.encode_to_vec()).unwrap();
    at
}

fn store(at: &Path, file: &str, name: &str, t: &Tensor) {
    fs::write(at.join("test_data_set_0").join(file), tensor(name, t).encode_to_vec()).unwrap();
}

fn read(at: &Path) -> Result<Case, CaseError> {
    load(at, &Stored::default(), &ImportOptions::default())
}

#[test]
fn tensors_belong_by_name_and_else_by_number() {
    let at = folder("names");
    store(&at, "input_0.pb", "x0", &count(&[2]));
    store(&at, "output_0.pb", "", &count(&[2]));
    let case = read(&at).unwrap();
    assert_eq!(case.inputs, [("x0".to_owned(), count(&[2]))]);
    assert_eq!(case.expected, [("y0".to_owned(), count(&[2]))]);
    assert_eq!(case.ordered_inputs().unwrap(), [count(&[2])]);
    assert_eq!(case.tolerance, [Tolerance { atol: 1e-5, rtol: 1e-3 }]);
    // The model alone brings no data.
    let alone = read(&at.join("model.onnx")).unwrap();
    assert_eq!((alone.inputs.len(), alone.ordered_inputs()), (0, Err("x0".to_owned())));
}

#[test]
fn tolerances_come_from_the_nearest_word() {
    let at = folder("nearest/tolerance");
    fs::write(
        at.with_file_name("cases.json"),
        r#"{"cases": [{"case": "tolerance", "atol": 0.5, "rtol": 0.25}]}"#,
    )
    .unwrap();
    assert_eq!(read(&at).unwrap().tolerance, [Tolerance { atol: 0.5, rtol: 0.25 }]);
    let manifest = r#"{"outputs": [{"name": "y0", "atol": 0.125, "rtol": 0.0}]}"#;
    fs::write(at.join("manifest.json"), manifest).unwrap();
    assert_eq!(read(&at).unwrap().tolerance, [Tolerance { atol: 0.125, rtol: 0.0 }]);
    assert_eq!(read(&at.join("model.onnx")).unwrap().tolerance[0].atol, 0.125);
    assert!(read(&at).unwrap().manifest.is_some());
}

/// What a tool stored in a narrower type than the model gives is compared as closely as that type deserves.
#[test]
fn outputs_stored_in_a_narrower_type_are_widened() {
    let at = folder("narrow");
    store(&at, "input_0.pb", "x0", &count(&[2]));
    let half = Tensor::from_f64(DType::F16, [2], &[-0.0, -1.0]).unwrap();
    store(&at, "output_0.pb", "y0", &half);
    let case = read(&at).unwrap();
    assert_eq!(case.expected, [("y0".to_owned(), floats(&[2], &[-0.0, -1.0]))]);
    assert_eq!(case.tolerance, [Tolerance::of(DType::F16)]);
    store(&at, "output_0.pb", "y0", &Tensor::from_f64(DType::F64, [2], &[0.0, -1.0]).unwrap());
    let why = read(&at).unwrap_err().to_string();
    assert!(why.contains("y0 is f32[2] in the model and f64[2] in its stored value"), "{why}");
}

#[test]
fn errors_name_the_file() {
    let says = |r: Result<Case, CaseError>, parts: &[&str]| {
        let message = r.expect_err("should fail").to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    };
    let at = folder("errors");
    says(read(&at.join("nothing")), &["nothing: "]);
    says(read(&at.join("nothing.onnx")), &["nothing.onnx: "]);
    says(read(at.parent().unwrap()), &["model.onnx: "]);
    store(&at, "input_0.pb", "x0", &count(&[3]));
    says(read(&at), &["model.onnx: axis 0 of input x0 is 2, and 3 in its value"]);
    store(&at, "input_0.pb", "x0", &ints(&[1, 2]));
    says(read(&at), &["test_data_set_0: x0 is f32[2] in the model and i64[2] in its stored value"]);
    store(&at, "input_0.pb", "x0", &count(&[2]));
    store(&at, "input_1.pb", "z", &count(&[2]));
    says(read(&at), &["input_1.pb: \"z\" is number 1 of 1 inputs"]);
    store(&at, "input_1.pb", "x0", &count(&[2]));
    says(read(&at), &["input_1.pb: a second tensor for \"x0\""]);
    fs::write(at.join("test_data_set_0/input_1.pb"), [0xff]).unwrap();
    says(read(&at), &["input_1.pb: not an ONNX tensor"]);
    fs::remove_file(at.join("test_data_set_0/input_1.pb")).unwrap();
    fs::write(at.join("manifest.json"), "{").unwrap();
    says(read(&at), &["manifest.json: not JSON"]);
    fs::write(at.join("model.onnx"), [0xff]).unwrap();
    says(read(&at), &["model.onnx: not an ONNX model"]);
    fs::write(at.join("graph.txt"), [0xff]).unwrap();
    says(read(&at.join("graph.txt")), &["graph.txt: neither an .onnx file nor text"]);
    fs::write(at.join("graph.txt"), "graph").unwrap();
    says(read(&at.join("graph.txt")), &["graph.txt: "]);
}

#[test]
fn a_graph_in_text_form_is_a_case() {
    let at = folder("text");
    let graph = read(&at).unwrap().graph;
    fs::write(at.join("graph.txt"), print(&graph, Form::Full)).unwrap();
    let case = read(&at.join("graph.txt")).unwrap();
    assert_eq!(case.graph, graph);
    assert_eq!((case.inputs.len(), case.expected.len(), case.tolerance.len()), (0, 0, 1));
}
