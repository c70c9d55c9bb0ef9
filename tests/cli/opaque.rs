//! Operators that annulus does not compute, as a user meets them.

use super::{annulus, refused, snapshot, stdout};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const GRAPH: &str = r#"graph "opaque" {
  input %x: f32[1,2,9,4]
  input %expert: f32[4,4]
  %a: f32[1,2,9,4] = attention %x, %x, %x {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}  @"attention"
  %r: f32[18,4] = reshape %a  @"rows"
  %m: f32[18,4] = opaque %r, %expert {domain="com.microsoft", op="MoE", version=1, attributes=["k"=int 2]}  @"moe.0"
  %n: f32[18,4] = opaque %m, %expert {domain="com.microsoft", op="MoE", version=1, attributes=["k"=int 2]}  @"moe.1"
  %h: f32[1,2,9,4] = reshape %n  @"heads"
  %g: f32[1,2,9,4] = opaque %h, %h, %h {domain="com.microsoft", op="GroupQueryAttention", version=1, why="a smooth softmax"}  @"gqa"
  %t: i64[1,2,1,4] = opaque %g {op="ArgMax", version=13, attributes=["axis"=int 2]}  @"token"
  output "t" = %t
}
"#;

/// The graph in a file of its own.
fn graph() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("opaque.txt");
    std::fs::write(&path, GRAPH).expect("a file");
    path
}

#[test]
fn what_is_carried_is_said_and_worked_around() {
    let path = graph();
    let path = path.to_str().expect("UTF-8");
    let mut all = String::new();
    let commands: [&[&str]; 5] = [
        &["find"],
        &["compile", "--ranks", "3"],
        &["compile", "--ranks", "3", "--rowwise", "com.microsoft::MoE=0:0"],
        &["compile", "--ranks", "3", "--emit", "graph", "--rank", "2"],
        &["opt", "--passes", "import"],
    ];
    for args in commands {
        let text = stdout(&[args, &[path]].concat());
        all += &format!("$ annulus {} GRAPH\n{text}\n", args.join(" "));
    }
    for args in [&["find", "--no-opaque"][..], &["compile", "--ranks", "3", "--rowwise", "MoE=0:0"]] {
        let (code, why) = refused(&[args, &[path]].concat());
        all += &format!("$ annulus {} GRAPH\n{why}exit {}\n", args.join(" "), code.expect("a status"));
    }
    snapshot("opaque", &all);
}

#[test]
fn json_names_them() {
    let path = graph();
    let path = path.to_str().expect("UTF-8");
    let parse = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stdout(args)).expect("one JSON object")
    };
    let find = parse(&["find", path, "--json"]);
    assert_eq!(find["attention"].as_array().map(Vec::len), Some(1));
    assert_eq!(find["missed"][0]["at"], "gqa");
    let want = serde_json::json!([
        {"operator": "com.microsoft::MoE", "nodes": ["moe.0", "moe.1"], "reason": ""},
        {"operator": "com.microsoft::GroupQueryAttention", "nodes": ["gqa"], "reason": "a smooth softmax"},
        {"operator": "ArgMax", "nodes": ["token"], "reason": ""},
    ]);
    assert_eq!(find["opaque"], want);
    assert_eq!(parse(&["compile", path, "--ranks", "2", "--json"])["opaque"], want);
    // A model that is known has no such field.
    assert!(parse(&["find", "tests/models/llama", "--json"]).get("opaque").is_none());
}

/// `eval` and `run` name all that they lack at once, and compute nothing.
#[test]
fn eval_and_run_name_all_that_they_lack() {
    // Nothing is asked for but what is lacking: there is no input, and the weights have no data.
    let text = GRAPH.replace(
        "  input %x: f32[1,2,9,4]\n  input %expert: f32[4,4]\n",
        "  const %x: f32[1,2,9,4] = #0123456789abcdef\n  const %expert: f32[4,4] = #0123456789abcdef\n",
    );
    for command in [&["eval"][..], &["run", "--ranks", "2"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_annulus"))
            .args(command)
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
        let out = child.wait_with_output().expect("it ends");
        let why = String::from_utf8(out.stderr).expect("UTF-8");
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{why}");
        let said = "annulus does not compute 3 operators that the outputs need: com.microsoft::MoE (2 nodes, the first is moe.0), \
                    com.microsoft::GroupQueryAttention (node gqa: a smooth softmax), ArgMax (node token); ";
        assert!(why.contains(said), "{why}");
    }
    let help = annulus(&["compile", "--help"]);
    assert!(String::from_utf8(help.stdout).expect("UTF-8").contains("--rowwise <OPERATOR=AXES:AXIS>"));
}
