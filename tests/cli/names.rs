//! Files with names made to fool a terminal, in every command: neither stream holds anything that fools. The models are those
//! of `tests/inside/hostile/names.rs`, which sees that they stay what it makes.

use super::annulus;
use std::path::Path;

/// Whether the character changes how what stands around it is shown.
fn fools(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn decent(what: &str, text: &str) {
    if let Some(at) = text.find(fools) {
        let around: String =
            text[..at].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("{what} holds {:?} after {around:?}", text[at..].chars().next());
    }
}

#[test]
fn the_binary_prints_none() {
    let text = Path::new(env!("CARGO_TARGET_TMPDIR")).join("names.txt");
    std::fs::write(&text, "graph \"g\" {\n  \u{1b}[31m\u{202e}\u{9b}\n}\n").unwrap();
    let mut files: Vec<String> = (0..4).map(|fault| format!("tests/cli/names/fault{fault}.onnx")).collect();
    files.push(text.to_str().unwrap().to_owned());
    for file in &files {
        let file = file.as_str();
        let mut runs: Vec<Vec<&str>> = vec![
            vec!["find", file, "--explain"],
            vec!["find", file, "--json"],
            vec!["eval", file],
            vec!["run", file, "--ranks", "2"],
            vec!["check", file],
            vec!["opt", file, "--passes", "import,find,shard,ring,schedule,check"],
            vec!["compile", file, "--ranks", "2", "--json"],
            vec!["compile", file, "--ranks", "2", "-v"],
        ];
        runs.extend(
            ["graph", "schedule", "dot", "svg", "cuda"]
                .map(|w| vec!["compile", file, "--ranks", "2", "--emit", w]),
        );
        for args in runs {
            let out = annulus(&args);
            assert!(out.status.code().is_some_and(|c| c <= 2), "{args:?}: {:?}", out.status);
            for (stream, bytes) in [("standard output", &out.stdout), ("standard error", &out.stderr)] {
                let text = String::from_utf8(bytes.clone()).unwrap_or_else(|e| panic!("{args:?}: {e}"));
                decent(&format!("{stream} of {args:?}"), &text);
            }
            if args.contains(&"--json") && out.status.code() == Some(0) {
                let json: Result<serde_json::Value, _> = serde_json::from_slice(&out.stdout);
                assert!(json.is_ok(), "{args:?}: {json:?}");
            }
        }
    }
}
