//! `run --backend cuda` where each rank is a process with a GPU, over the stand-in of NCCL; all of them on the stand-in of one GPU.

use crate::standins::build::{folder, on_standins};
use std::process::{Command, Output};

/// Ranks that `annulus launch` starts.
fn launched(ranks: &str, args: &[&str], more: &[(&str, &str)]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
    program.args(["launch", "-n", ranks, "--", "run"]).args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    on_standins(&mut program, 1).env("ANNULUS_STANDINS_QUICK", "1").env("NCCL_MULTI_RANK_GPU_ENABLE", "1");
    program.envs(more.iter().copied()).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const LLAMA: &str = "tests/models/llama";

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_rank_a_process() {
    let args = [LLAMA, "--ranks", "3", "--backend", "cuda"];
    let done = launched("3", &args, &[]);
    let said = text(&done.stdout);
    assert!(done.status.success(), "{said}{}", text(&done.stderr));
    // The first rank prints, and what the others found is what it says.
    assert_eq!((said.matches("   ok").count(), said.matches("[1]").count()), (1, 0), "{said}");
    assert!(
        said.contains("3 processes, a rank and a GPU each, over NCCL 2.32.3 · 2 attentions on the GPU"),
        "{said}"
    );
}

/// Who cannot take part says so, and so do the others.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_goes_wrong_is_said() {
    let cuda = ["--backend", "cuda"];
    for (ranks, args, more, code, says) in [
        (
            "2",
            [&[LLAMA, "--ranks", "3"], &cuda[..]].concat(),
            None,
            2,
            "2 processes were started, and each is a rank",
        ),
        ("2", [&["no such model", "--ranks", "2"], &cuda[..]].concat(), None, 2, "no such model"),
        (
            "2",
            [&[LLAMA, "--ranks", "2"], &cuda[..]].concat(),
            Some(("NCCL_MULTI_RANK_GPU_ENABLE", "0")),
            1,
            "joining a communicator: invalid usage, Duplicate GPU detected : rank 0 and rank 1",
        ),
        (
            "2",
            [&[LLAMA, "--ranks", "2"], &cuda[..]].concat(),
            Some(("ANNULUS_STANDINS_FAIL", "ncclSend:2:3")),
            1,
            "sending: internal error",
        ),
        (
            "2",
            [&[LLAMA, "--ranks", "2"], &cuda[..]].concat(),
            Some(("ANNULUS_STANDINS_FAIL", "async:12:6")),
            1,
            "remote process exited or there was a network error",
        ),
        (
            "2",
            [&[LLAMA, "--ranks", "2", "--patience", "1"], &cuda[..]].concat(),
            Some(("ANNULUS_STANDINS_STUCK", "9")),
            1,
            "1s",
        ),
        (
            "2",
            vec![LLAMA, "--ranks", "2"],
            None,
            2,
            "start them with mpiexec, say --backend cuda for a GPU each",
        ),
        ("2", vec![LLAMA, "--ranks", "2", "--transport", "nccl"], None, 2, "it moves data between GPUs"),
    ] {
        let done = launched(ranks, &args, more.as_slice());
        let errors = text(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{args:?} {more:?}: {errors}");
        assert!(errors.contains(says) && !errors.contains("panicked"), "{args:?} {more:?}: {errors}");
        assert!(!errors.contains("stand-in: "), "{args:?} {more:?}: {errors}");
    }
    // Without a launcher.
    let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
    program.args(["run", LLAMA, "--ranks", "2", "--backend", "cuda", "--transport", "nccl"]);
    let done =
        on_standins(&mut program, 1).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("it runs");
    assert!(text(&done.stderr).contains("no launcher started this process: annulus launch -n P"));
    assert_eq!(done.status.code(), Some(2));
}

/// A library that is not there, or too old, is named, by the run and by `doctor`.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_a_library_lacks_is_named() {
    let there = ["libcuda.so", "libcuda.so.1", "libnvrtc.so", "libnvrtc.so.13"];
    let broken = folder("broken nccl", &there, &["libnccl.so.2"]);
    // The driver's stand-in has none of NCCL's functions but calls itself so.
    let done = launched(
        "2",
        &[LLAMA, "--ranks", "2", "--backend", "cuda"],
        &[("LD_LIBRARY_PATH", broken.to_str().expect("UTF-8"))],
    );
    let errors = text(&done.stderr);
    assert!(done.status.code() == Some(1) && errors.contains("libnccl is not available"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

/// Every rank that fails leaves a record, and those of all of them say who is at fault.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn records_of_all_ranks_say_where_it_failed() {
    let folder = std::env::temp_dir().join(format!("annulus-flight-test-{}", std::process::id()));
    let at = folder.to_str().expect("UTF-8");
    let args = [LLAMA, "--ranks", "3", "--backend", "cuda", "--strategy", "ring", "--flight", at];
    // Kernels are compiled by this one, so that ranks are as fast as each other.
    assert!(launched("3", &args, &[]).status.success());
    // One rank alone is told to fail.
    let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
    let fails = r#"[ "$ANNULUS_RANK" = 1 ] && export ANNULUS_STANDINS_FAIL=ncclSend:2:3; exec "$0" run "$@""#;
    program.args(["launch", "-n", "3", "--", "sh", "-c", fails, env!("CARGO_BIN_EXE_annulus")]).args(args);
    on_standins(&mut program, 1).env("ANNULUS_STANDINS_QUICK", "1").env("NCCL_MULTI_RANK_GPU_ENABLE", "1");
    let done = program.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("it runs");
    let errors = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&format!("what the ranks did last: annulus check --flight {at}")), "{errors}");
    // What it could not tell the device is not through.
    let own = std::fs::read_to_string(folder.join("rank-1.flight")).expect("it left one");
    assert!(own.contains("\nissued some\n") && own.contains("\ngroup 1 step 0 waits to "), "{own}");
    let judged = super::stdout(&["check", "--flight", at]);
    let json = super::stdout(&["check", "--flight", at, "--json"]);
    std::fs::remove_dir_all(&folder).expect("the folder is there");
    assert!(
        judged.contains("rank 1 says: rank 1, step 0, group 1: sending: internal error"),
        "{judged}{errors}"
    );
    assert!(json.contains("\"without\": []") && json.matches("\"says\"").count() == 1, "{json}");
}

#[test]
fn a_folder_without_records_is_refused() {
    let empty = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");
    let done = super::annulus(&["check", "--flight", empty]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("there is no record of a rank"), "{}", text(&done.stderr));
    assert_eq!(super::annulus(&["check", "--flight", "no such folder"]).status.code(), Some(2));
    assert_eq!(super::annulus(&["check"]).status.code(), Some(2));
}
