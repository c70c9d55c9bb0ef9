//! How outputs are judged, and what is said where they differ: on cases that ONNX Runtime computed.

use super::{annulus, data, refused, stdout};
use std::path::Path;

fn case(name: &str) -> String {
    data::folder("exports").join(name).to_str().unwrap().to_owned()
}

/// A model that is f16 inside and f32 at its outputs.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn what_is_computed_in_halves_is_judged_as_halves() {
    let case = case("44-fp16-model-f32-outputs");
    for arguments in [vec!["eval", &case], vec!["run", &case, "--ranks", "3"]] {
        let text = stdout(&arguments);
        let line = text.lines().last().unwrap();
        assert!(line.contains("within 4.0e-3 + 1e-2·|expected| (computed in f16)   ok"), "{line}");
    }
    // What the user says is not the half's.
    let (status, _) = refused(&["eval", &case, "--atol", "1e-9", "--rtol", "1e-9"]);
    assert_eq!(status, Some(1));
    let out = annulus(&["eval", &case, "--atol", "1e-9", "--rtol", "1e-9"]);
    assert!(!String::from_utf8(out.stdout).unwrap().contains("computed in"));
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn a_difference_that_onnx_runtime_makes_is_named() {
    for (name, node, what) in [
        (
            "39-mha-unidirectional-cross",
            "MultiHeadAttention_0 (com.microsoft::MultiHeadAttention)",
            "leaves the last row unmasked",
        ),
        ("40-attention-lowest-mask-dead-row-ort", "Attention_0 (Attention)", "zeros for such a row"),
        ("55-softmax-precision-below-type", "Attention_0 (Attention)", "computes the whole softmax in it"),
    ] {
        for arguments in [vec!["eval", &case(name)], vec!["run", &case(name), "--ranks", "2"]] {
            let (status, message) = refused(&arguments);
            assert_eq!(status, Some(1), "{message}");
            assert!(message.contains("differs from the stored outputs"), "{message}");
            assert!(
                message.contains("this may be why: ") && message.contains(node) && message.contains(what),
                "{message}"
            );
        }
    }
    // Nothing is said of a model without such a node, nor where the outputs are not those of a file.
    let (_, message) = refused(&["eval", &case("44-fp16-model-f32-outputs"), "--atol", "0", "--rtol", "0"]);
    assert!(!message.contains("this may be why"), "{message}");
}

/// A tensor of f32 as a file of it, by the fields of a TensorProto: its extents, its type, its bytes.
fn tensor(shape: &[u8], values: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out: Vec<u8> = shape.iter().flat_map(|&extent| [0x08, extent]).collect();
    out.extend([0x10, 1, 0x4a, u8::try_from(bytes.len()).expect("few")]);
    out.extend(bytes);
    out
}

/// −∞ times −1 is +∞, and its row NaN, where an attention leaves the key out.
#[test]
fn numbers_in_the_place_of_nan_are_told() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not_numbers");
    std::fs::create_dir_all(&dir).expect("makes a folder");
    let text = r#"graph "turned" {
  input %q: f32[1,1,2,2]
  input %k: f32[1,1,2,2]
  input %v: f32[1,1,2,2]
  const %keep: bool[2,2] = [true,false,true,true]
  const %ninf: f32[] = -inf
  %s: f32[1,1,2,2] = contract %q, %k {bhid,bhjd->bhij} @"qk"
  %x: f32[1,1,2,2] = select %keep, %s, %ninf
  %n: f32[1,1,2,2] = neg %x
  %p: f32[1,1,2,2] = softmax %n {axis=3} @"softmax"
  %o: f32[1,1,2,2] = contract %p, %v {bhij,bhje->bhie} @"pv"
  output "o" = %o
}
"#;
    let graph = dir.join("turned.txt");
    std::fs::write(&graph, text).expect("writes");
    for n in 0..3 {
        let values = [0.5, -0.25, 1.0, 0.75];
        std::fs::write(dir.join(format!("input_{n}.pb")), tensor(&[1, 1, 2, 2], &values)).expect("writes");
    }
    let [graph, inputs] = [&graph, &dir].map(|path| path.to_str().expect("UTF-8"));
    let run = ["run", graph, "--inputs", inputs, "--ranks", "2"];
    let (status, message) = refused(&run);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("2 elements are NaN in eval and a number here"), "{message}");
    assert!(message.contains("class domain") && message.contains("pv"), "{message}");
    // As it says.
    stdout(&[&run[..], &["--numerics", "exact,reassociation,rounding,precision"]].concat());
}
