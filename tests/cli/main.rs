//! The command line as a user meets it: what it prints, where, and its exit status.

#![allow(clippy::unwrap_used)] // helpers of tests, which no lint knows as such

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cuda;
mod doctor;
mod inputs;
mod judged;
#[cfg(target_os = "linux")]
mod launch;
mod lengths;
mod names;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod nccl;
mod opaque;
#[cfg(all(feature = "mpi", target_os = "linux"))]
mod processes;
mod readme;

#[path = "../inside/support/data.rs"]
mod data;
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[path = "../standins/mod.rs"]
mod standins;

use std::path::Path;
use std::process::{Command, Output};

fn annulus(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_annulus"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs")
}

fn stdout(args: &[&str]) -> String {
    let out = annulus(args);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty(), "{args:?} wrote to standard error");
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// The exit status and the message of a command that must not succeed.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let out = annulus(args);
    assert_ne!(out.status.code(), Some(0), "{args:?}");
    (out.status.code(), String::from_utf8(out.stderr).expect("UTF-8"))
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/cli"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Without the figures that depend on the order of floating-point sums of this machine.
fn without_errors(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        match line.split_once("max error ") {
            Some((before, after)) => {
                let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
                out += &format!("{before}max error _ {rest}\n");
            }
            None => out += &format!("{line}\n"),
        }
    }
    out
}

#[test]
fn run_says_what_was_done_and_how_near_it_came() {
    let mut all = String::new();
    for args in [
        ["run", "tests/models/llama", "--ranks", "4"],
        ["run", "tests/models/gpt2", "--ranks", "3"],
        ["run", "tests/models/mistral", "--ranks", "8"],
    ] {
        all += &format!("$ annulus {}\n{}\n", args.join(" "), without_errors(&stdout(&args)));
    }
    snapshot("run", &all);
}

#[test]
fn find_lists_attentions() {
    let mut all = String::new();
    for model in ["llama", "gpt2", "mistral"] {
        let path = format!("tests/models/{model}");
        all += &format!("$ annulus find {path} --explain\n{}\n", stdout(&["find", &path, "--explain"]));
    }
    snapshot("find", &all);
}

#[test]
fn json_has_the_fields_that_are_promised() {
    let parse = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stdout(args)).expect("one JSON object")
    };
    let run = parse(&["run", "tests/models/llama", "--ranks", "4", "--json"]);
    for field in [
        "ranks",
        "attention",
        "islands",
        "gathered",
        "values",
        "local_flops",
        "whole_flops",
        "traffic",
        "schedule",
        "checks",
        "compile_ms",
        "outputs",
        "ok",
    ] {
        assert!(run.get(field).is_some(), "{field} is missing");
    }
    assert_eq!(run["attention"]["found"], 2);
    assert_eq!(run["attention"]["rewritten"], 2);
    assert_eq!(run["ok"], true);
    assert_eq!(run["outputs"][0]["within"], true);
    assert_eq!(run["islands"][0]["at"].as_array().map(Vec::len), Some(2));
    let find = parse(&["find", "tests/models/mistral", "--json"]);
    let attention = &find["attention"][0];
    assert_eq!(attention["window"], serde_json::json!([11, 0]));
    assert_eq!(attention["causal"], true);
    assert_eq!(attention["kv_heads"], 2);
    assert_eq!(parse(&["eval", "tests/models/gpt2", "--json"])["ok"], true);
}

#[test]
fn the_emitted_schedule_is_proved_by_check_and_a_fault_in_it_is_named() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emit");
    let folder = dir.to_str().expect("UTF-8");
    let emit = ["schedule", "graph", "dot", "svg", "report"].map(|w| ["--emit", w]).concat();
    let mut args = vec!["compile", "tests/models/llama", "--ranks", "4", "--rank", "1", "-o", folder];
    args.extend(emit);
    assert_eq!(stdout(&args), "");
    for file in ["schedule.txt", "graph.1.txt", "graph.1.dot", "timeline.svg", "report.txt"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    let path = dir.join("schedule.txt");
    let text = std::fs::read_to_string(&path).expect("a schedule");
    assert_eq!(text, stdout(&["compile", "tests/models/llama", "--ranks", "4", "--emit", "schedule"]));
    assert!(stdout(&["check", path.to_str().expect("UTF-8")]).contains("proved"));

    // Without the wait of one step, somebody reads what has not come.
    let at = text.find("wait e").expect("a wait");
    let end = text[at..].find(|c: char| c.is_whitespace() && c != ' ').map_or(text.len(), |n| at + n);
    let word = text[at..end].split("  ").next().expect("a word").trim_end();
    let faulty = format!("{}{}", &text[..at], &text[at + word.len()..]);
    let wrong = dir.join("wrong.txt");
    std::fs::write(&wrong, faulty).expect("writes");
    let out = annulus(&["check", wrong.to_str().expect("UTF-8")]);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(String::from_utf8_lossy(&out.stdout).contains("NOT proved"));
}

/// What a rank's GPU is told: an operation a line, kernels by their keys, and their texts; or why there is none.
#[test]
fn the_device_program_names_operations_and_kernels() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emit cuda");
    let folder = dir.to_str().expect("UTF-8");
    let model = ["compile", "tests/models/llama", "--ranks", "4", "--emit", "cuda", "--strategy", "ring"];
    let text = stdout(&[&model[..], &["--rank", "1"]].concat());
    assert!(text.starts_with("program \""), "{text}");
    assert!(text.contains(" rank 1 of 4 for sm_90a {"));
    assert!(
        text.contains("  kernel k0 attn_partial portable ")
            && text.contains("\n// ---- kernel attn_partial portable ")
    );
    assert!(text.contains("extern \"C\" __global__ void"));
    let lines = text.lines().take_while(|l| *l != "}").filter_map(|l| l.trim_start().strip_prefix('#'));
    let words: Vec<&str> = lines.filter_map(|l| l.split_whitespace().nth(2)).collect();
    for word in &words {
        assert!(["launch", "copy", "record", "wait", "group"].contains(word), "{word}");
    }
    for word in ["launch", "record", "wait", "group"] {
        assert!(words.contains(&word), "{word}");
    }
    let launch = text.lines().find(|l| l.contains(" launch ")).expect("a launch");
    assert!(launch.contains(" k0 ") && launch.contains(" grid "), "{launch}");

    assert_eq!(stdout(&[&model[..], &["--rank", "2", "--arch", "sm_80", "-o", folder]].concat()), "");
    let written = std::fs::read_to_string(dir.join("cuda.2.txt")).expect("a program");
    assert!(written.contains(" rank 2 of 4 for sm_80 {"), "{written}");
    let unknown = annulus(&[&model[..], &["--arch", "sm_70"]].concat());
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("there are kernels for sm_80, sm_86, sm_87, sm_88, sm_89, sm_90a, sm_100, sm_103, sm_110, sm_120, sm_121"), "{said}");
}

/// Of a file with several schedules a check has passed only if it was asked of every one and held.
#[test]
fn what_was_not_asked_of_every_schedule_has_not_passed() {
    let ring = ["compile", "tests/models/llama", "--ranks", "4", "--strategy", "ring", "--emit", "schedule"];
    let right = stdout(&ring);
    // Messages that do not match: then nobody asks about deadlocks.
    let wrong = right.replacen(" to 1 ", " to 3 ", 1);
    assert_ne!(right, wrong);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two_schedules.txt");
    for text in [format!("{right}{wrong}"), format!("{wrong}{right}")] {
        std::fs::write(&file, text).expect("writes");
        let out = annulus(&["check", file.to_str().expect("UTF-8"), "--json"]);
        assert_eq!(out.status.code(), Some(1));
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let passed = told["checks"]["passed"].as_array().expect("a list");
        let has = |name: &str| passed.iter().any(|p| p == name);
        assert!(has("form") && !has("matching") && !has("deadlock") && !has("filled"), "{passed:?}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_exit_status() {
    let (status, message) = refused(&["run", "tests/models/none", "--ranks", "4"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("tests/models/none"), "{message}");
    let (status, message) = refused(&["run", "tests/models/llama", "--ranks", "0"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("--ranks"), "{message}");
    let (status, message) = refused(&["compile", "tests/models/llama", "--ranks", "4", "--rank", "4"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("ranks 0 to 3"), "{message}");
    // A tolerance that cannot be met: the comparison fails.
    let (status, message) =
        refused(&["run", "tests/models/llama", "--ranks", "2", "--atol", "0", "--rtol", "0"]);
    assert_eq!(status, Some(1));
    assert!(message.contains("tolerance"), "{message}");
    let (status, message) = refused(&["eval", "tests/models/llama/model.onnx"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("input_ids"), "{message}");
    let (status, _) = refused(&["check", "README.md"]);
    assert_eq!(status, Some(2));
    for command in [&["find", "tests/models/llama"][..], &["opt", "tests/models/llama", "--passes", "find"]] {
        let (status, message) = refused(&[command, &["--bind", "mask"]].concat());
        assert_eq!(status, Some(2));
        assert!(message.contains("--bind mask") && message.contains("input_ids"), "{message}");
    }
    let (status, message) = refused(&["opt", "tests/cases/window.txt", "--passes", "find", "--bind", "q"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("--bind q: no value is stored"), "{message}");
    // A folder that is named and holds nothing must not compare nothing.
    let (status, message) = refused(&["eval", "tests/models/llama", "--expect", "nowhere"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("--expect nowhere"), "{message}");
    let (status, message) = refused(&["run", "tests/models/llama", "--ranks", "2", "--inputs", "src"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("there is no input_0.pb"), "{message}");
    // An input of another type than the graph's, alike from both.
    let graph = concat!(env!("CARGO_TARGET_TMPDIR"), "/one_input.txt");
    std::fs::write(graph, "graph \"one\" {\n  input %x: f32[2]\n  output \"y\" = %x\n}\n").expect("writes");
    for command in [&["eval", graph][..], &["run", graph, "--ranks", "2"]] {
        let (status, message) =
            refused(&[command, &["--inputs", "tests/models/llama/test_data_set_0"]].concat());
        assert_eq!(status, Some(2), "{message}");
        assert!(message.contains("input x is f32[2], got i64[1,32]"), "{message}");
    }
    let (status, message) = refused(&["compile", "tests/models/llama", "--ranks", "2", "-o", "README.md"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("-o README.md") && message.contains("name a folder"), "{message}");
}

#[test]
fn sizes_are_of_dimensions_that_there_are() {
    let (status, message) = refused(&["eval", "tests/models/llama", "--dim", "sequence=4"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("--dim sequence: no input has a dimension of that name"), "{message}");
    let (status, message) = refused(&["find", "tests/cases/sinks.txt", "--dim", "s=4"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("a text graph has no symbolic dimensions"), "{message}");
    let (status, message) = refused(&["opt", "tests/cases/sinks.txt", "--passes", "import", "--dim", "s=4"]);
    assert_eq!(status, Some(2));
    assert!(message.contains("a text graph has no symbolic dimensions"), "{message}");
    let twice = ["opt", "tests/models/llama", "--passes", "import", "--dim", "s=4", "--dim", "s=5"];
    assert!(refused(&twice).1.contains("--dim s is given twice"));
}

/// Without expected outputs eval says of each output what it is, and that nothing was compared.
#[test]
fn what_is_not_compared_is_not_called_right() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("test_data_set_0")).expect("makes a folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama");
    for file in ["model.onnx", "test_data_set_0/input_0.pb"] {
        std::fs::copy(from.join(file), dir.join(file)).expect("copies");
    }
    let path = dir.to_str().expect("UTF-8");
    let text = stdout(&["eval", path]);
    assert!(text.contains("not compared\nnothing was compared: no expected outputs are stored"), "{text}");
    assert!(!text.contains("ok"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&stdout(&["eval", path, "--json"])).expect("JSON");
    assert_eq!((&json["compared"], &json["ok"]), (&false.into(), &true.into()));
    let output = &json["outputs"][0];
    assert!(output["within"].is_null() && output["max_abs_error"].is_null(), "{json}");
    assert!(output["max_abs"].as_f64().is_some_and(|x| x > 0.0), "{json}");
    assert_eq!((&output["dtype"], &output["not_finite"]), (&"f32".into(), &0.into()));
    let compared: serde_json::Value =
        serde_json::from_str(&stdout(&["eval", "tests/models/llama", "--json"])).expect("JSON");
    assert_eq!(compared["compared"], true);
}

#[test]
fn help_teaches_every_command() {
    for command in ["find", "eval", "compile", "run", "check", "opt", "doctor", "launch"] {
        assert!(stdout(&[command, "--help"]).contains("Usage"), "{command}");
    }
    snapshot("help", &stdout(&["--help"]));
}

#[test]
fn a_text_graph_comes_from_standard_input() {
    use std::io::Write;
    use std::process::Stdio;
    let source = std::fs::read_to_string("tests/cases/causal_zigzag.txt").expect("a case");
    for (args, says) in [
        (vec!["find", "-"], "1 attention"),
        (vec!["compile", "-", "--ranks", "3"], "found 1 attention"),
        (vec!["opt", "-", "--passes", "ring"], "sendrecv_start"),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_annulus"))
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child.stdin.take().expect("a pipe").write_all(source.as_bytes()).expect("writes");
        let out = child.wait_with_output().expect("ends");
        assert_eq!(out.status.code(), Some(0), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains(says), "{args:?}");
    }
}

#[test]
fn a_graph_without_attention_says_that_nothing_is_split() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plain");
    std::fs::create_dir_all(&dir).expect("makes a folder");
    let path = dir.join("plain.txt");
    let text = "graph \"plain\" {\n  input %x: f32[4]\n  %y: f32[4] = exp %x\n  output \"y\" = %y\n}\n";
    std::fs::write(&path, text).expect("writes");
    let path = path.to_str().expect("UTF-8");
    assert!(stdout(&["compile", path, "--ranks", "2"]).contains("every rank computes the whole model"));
    let (status, message) = refused(&["compile", path, "--ranks", "2", "--emit", "schedule"]);
    assert_eq!(status, Some(1));
    assert!(message.contains("no attention is split"), "{message}");
}

/// Devices: bundled, from a file, and what is wrong with one, told by line and field.
#[test]
fn devices_are_named_or_described() {
    let llama = "tests/models/llama";
    let named = stdout(&["compile", llama, "--ranks", "4", "--device", "cpu"]);
    assert!(named.contains("schedule on cpu: "), "{named}");
    let file = stdout(&["compile", llama, "--ranks", "4", "--device", "src/device/h100x8.toml"]);
    assert!(file.contains("schedule on h100x8: "), "{file}");
    let more = refused(&["compile", llama, "--ranks", "9", "--device", "h200x8"]);
    assert_eq!(more.0, Some(1));
    assert!(more.1.contains("9 ranks, and h200x8 has 8"), "{}", more.1);
    let most = refused(&["compile", llama, "--ranks", "65"]);
    assert!(most.0 == Some(1) && most.1.contains("h200x8x8 has 64"), "{}", most.1);
    assert!(stdout(&["compile", llama, "--ranks", "65", "--device", "cpu"]).contains("schedule on cpu"));
    let none = refused(&["compile", llama, "--ranks", "2", "--device", "h300"]);
    assert_eq!(none.0, Some(2));
    assert!(none.1.contains("bundled are h100x8, h200x8, h200x8x8, cpu"), "{}", none.1);
    let wrong = refused(&["compile", llama, "--ranks", "2", "--device", "Cargo.toml"]);
    assert_eq!(wrong.0, Some(2));
    assert!(wrong.1.contains("Cargo.toml, line ") && wrong.1.contains("unknown field"), "{}", wrong.1);
}

/// A cap on memory holds, or is refused with the numbers.
#[test]
fn memory_is_capped() {
    let llama = "tests/models/llama";
    let report = |args: &[&str]| -> serde_json::Value {
        let all = [&["compile", llama, "--ranks", "8", "--json"], args].concat();
        serde_json::from_str(&stdout(&all)).expect("JSON")
    };
    let most = |r: &serde_json::Value| {
        let bytes = r["schedule"]["peak_bytes"].as_array().expect("bytes").iter().map(|b| b.as_u64());
        bytes.max().flatten().expect("a number")
    };
    let free = report(&[]);
    assert_eq!(free["islands"][0]["strategy"], "all-gather");
    // Too little for all keys on each rank: the ring it is.
    let capped = report(&["--memory", "5K"]);
    assert_eq!(capped["islands"][0]["strategy"], "ring");
    assert!(most(&free) > 5 << 10 && most(&capped) <= 5 << 10);
    let rejected = capped["islands"][0]["rejected"].as_array().expect("choices");
    let reason = |r: &serde_json::Value| r["reason"].as_str().expect("text").to_owned();
    assert!(
        rejected.iter().any(|r| reason(r).contains("bytes on a rank, and 5120 are allowed")),
        "{rejected:?}"
    );
    let (status, why) = refused(&["compile", llama, "--ranks", "8", "--memory", "1000"]);
    assert_eq!(status, Some(1));
    assert!(why.contains("bytes on a rank (ring, ") && why.contains("and 1000 are allowed"), "{why}");
    assert_eq!(refused(&["compile", llama, "--ranks", "8", "--memory", "much"]).0, Some(2));
    // More slots cost more, are said, and are refused where they do not fit.
    let ring = |slots| report(&["--strategy", "ring", "--layout", "contiguous", "--slots", slots]);
    let (two, four) = (ring("2"), ring("4"));
    assert_eq!((&two["islands"][0]["slots"], &four["islands"][0]["slots"]), (&2.into(), &4.into()));
    assert!(most(&four) > most(&two) && free["islands"][0]["slots"].is_null());
    let cap = most(&two).to_string();
    let capped =
        ["compile", llama, "--ranks", "8", "--strategy", "ring", "--layout", "contiguous", "--memory", &cap];
    let (status, why) = refused(&[&capped[..], &["--slots", "4"]].concat());
    assert_eq!(status, Some(1));
    assert!(why.contains(&most(&four).to_string()) && why.contains(&cap), "{why}");
    assert_eq!(refused(&["compile", llama, "--ranks", "8", "--slots", "1"]).0, Some(2));
}

/// Dropout that is asked for: each attention has a seed of its own, the numbers are those of one rank, and what cannot be is refused.
#[test]
fn weights_are_dropped_where_it_is_asked_for() {
    let llama = "tests/models/llama";
    let graph = stdout(&["opt", llama, "--passes", "find", "--dropout", "0.25", "--dropout-seed", "-1"]);
    assert_eq!(graph.matches("dropout=0.25, seed=").count(), 2, "{graph}");
    assert!(graph.contains("i64[] = -1") && graph.contains("i64[] = 0"), "{graph}");
    for ranks in ["1", "3"] {
        let run = stdout(&["run", llama, "--ranks", ranks, "--dropout", "0.25", "--dropout-seed", "7"]);
        assert!(
            run.contains("found 2 attentions, 1 distinct")
                && run.contains("weights are dropped: compared with eval on one rank"),
            "{run}"
        );
    }
    assert!(
        stdout(&["find", llama, "--dropout", "0.25", "--explain"])
            .contains("0.25 of its weights are dropped, as was asked for")
    );
    let (status, why) = refused(&["compile", llama, "--ranks", "2", "--dropout", "1"]);
    assert!(status == Some(2) && why.contains("dropout of 1: want a part from 0 up to but not 1"), "{why}");
    assert_eq!(refused(&["compile", llama, "--ranks", "2", "--dropout-seed", "1"]).0, Some(2));
}

/// What transfers hold is chosen, said, and taken as it is asked for; a device that says nothing of it has none.
#[test]
fn transfers_hold_what_is_asked() {
    let llama = "tests/models/llama";
    let schedule = |more: &[&str]| {
        stdout(
            &[&["compile", llama, "--ranks", "4", "--strategy", "ring", "--emit", "schedule"], more].concat(),
        )
    };
    assert!(schedule(&[]).contains("sendrecv g1 sms 16 to "));
    assert!(schedule(&["--comm-sms", "8"]).contains("sendrecv g1 sms 8 to "));
    assert!(!schedule(&["--device", "cpu"]).contains("sms"));
    let json = |more: &[&str]| -> serde_json::Value {
        let all = [&["compile", llama, "--ranks", "4", "--strategy", "ring", "--json"], more].concat();
        serde_json::from_str(&stdout(&all)).expect("one JSON object")
    };
    assert_eq!(json(&["--comm-sms", "2"])["islands"][0]["comm_sms"], serde_json::json!([2]));
    assert!(json(&["--device", "cpu"])["islands"][0].get("comm_sms").is_none());
    let cuda = stdout(&[
        "compile",
        llama,
        "--ranks",
        "4",
        "--strategy",
        "ring",
        "--emit",
        "cuda",
        "--comm-sms",
        "4",
    ]);
    assert!(cuda.contains("group  g1 sms 4 to "), "{cuda}");
    for (asked, device, why) in [
        ("3", "h200x8", "want a power of two"),
        ("132", "h200x8", "want fewer than the 132 of h200x8"),
        ("4", "cpu", "cpu does not say how many multiprocessors it has"),
    ] {
        let (status, said) =
            refused(&["compile", llama, "--ranks", "4", "--comm-sms", asked, "--device", device]);
        assert!(status == Some(2) && said.contains(why), "{status:?} {said}");
    }
}

/// What is bound is said, and the passes one by one take what the whole takes.
#[test]
fn what_is_bound_is_said() {
    let bound = stdout(&["find", "tests/models/llama", "--bind", "input_ids"]);
    assert!(bound.contains("for the stored value of input_ids alone"), "{bound}");
    let run = stdout(&["run", "tests/models/llama", "--ranks", "2", "--bind", "input_ids"]);
    assert!(run.contains("for the stored value of input_ids alone"), "{run}");
    let opt = |more: &[&str]| stdout(&[&["opt", "tests/models/llama", "--passes", "find"], more].concat());
    assert_eq!(opt(&["--bind", "input_ids"]), opt(&[]));
    assert!(opt(&[]).contains(" = attention ") && !opt(&["--numerics", "exact"]).contains(" = attention "));
}
