//! How outputs are judged, and what is said where they differ: on cases that ONNX Runtime computed.

use super::{annulus, data, refused, stdout};

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
