//! Memory over as many rows as long contexts have, of the whole program.

use super::data;
use std::process::Command;
use std::time::{Duration, Instant};

const ROWS: usize = 131_072;

/// Seconds; a value of rows × keys would take minutes.
const MOST: Duration = Duration::from_secs(50);

/// Real exports whose sequence has no size: one operator with a mask, and written out. Neither needs memory for a byte of
/// each row and key, which would be 16 GiB.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
#[cfg(unix)]
fn exports_of_any_length_at_this_one() {
    let root = data::folder("models");
    for (folder, dims, form) in [
        ("llama-dynamic.dyn-sdpa-op23-dynamic", &["seq"][..], "explicit"),
        ("llama-dynamic.tsold-eager-op17-dynamic", &["batch", "seq"], "decomposed"),
    ] {
        let model = root.join(folder).join("model.onnx");
        let start = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 4194304 && exec \"$0\" find \"$@\"", env!("CARGO_BIN_EXE_annulus")]);
        command.arg(model).arg("--json");
        for &dim in dims {
            let size = if dim == "seq" { ROWS } else { 1 };
            command.args(["--dim".to_owned(), format!("{dim}={size}")]);
        }
        let out = command.output().unwrap();
        assert!(start.elapsed() < MOST, "{folder}: {:?}", start.elapsed());
        assert!(out.status.success(), "{folder}: {}", String::from_utf8_lossy(&out.stderr));
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(
            (told["attention"].as_array().unwrap().len(), &told["missed"]),
            (2, &serde_json::json!([]))
        );
        for a in told["attention"].as_array().unwrap() {
            let got = [&a["q_len"], &a["kv_len"], &a["query_offset"]].map(|n| n.as_u64().unwrap() as usize);
            assert_eq!(got, [ROWS, ROWS, 0], "{folder}");
            assert_eq!((&a["causal"], &a["mask"]), (&true.into(), &"causal(0)".into()), "{folder}");
            assert_eq!((&a["form"], &a["bias"]), (&form.into(), &serde_json::Value::Null), "{folder}");
        }
    }
}

/// Scores of 2^41 elements pass through `find` and `compile`; `eval` and a `run` that compares with it say what they would need,
/// before they ask for inputs.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn a_million_rows_written_out() {
    let model = data::folder("faults").join("limit-1M-rows").join("model.onnx");
    let model = model.to_str().unwrap();
    let found = super::stdout(&["find", model]);
    assert!(found.starts_with("1 attention, no near misses"), "{found}");
    assert!(super::stdout(&["compile", model, "--ranks", "8"]).contains("found 1 attention, 1 distinct"));
    for arguments in [vec!["eval", model], vec!["run", model, "--ranks", "8"]] {
        let (status, message) = super::refused(&arguments);
        assert_eq!(status, Some(1), "{message}");
        let says = "contract s (node MatMul_1) would make f32[1,2,1048576,1048576], 8.0 TiB";
        assert!(message.contains(says) && message.contains("--dim"), "{message}");
    }
}
