//! `run` where each rank is a process that MPI's launcher starts (`ANNULUS_MPIEXEC`, tests/README.md).

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const LLAMA: &[&str] = &["run", "tests/models/llama"];

/// The program as many times as there are lists of arguments, one each.
fn processes(each: &[&[&str]]) -> Output {
    let launcher =
        PathBuf::from(std::env::var_os("ANNULUS_MPIEXEC").expect("ANNULUS_MPIEXEC names a launcher"));
    let library =
        launcher.parent().and_then(|bin| bin.parent()).expect("it stands in a folder bin").join("lib");
    let mut program = Command::new(launcher);
    for (i, args) in each.iter().enumerate() {
        program.args(if i > 0 { &[":", "-n", "1"][..] } else { &["-n", "1"] });
        program.arg(env!("CARGO_BIN_EXE_annulus")).args(*args);
    }
    program.env("LD_LIBRARY_PATH", library).current_dir(env!("CARGO_MANIFEST_DIR"));
    program.output().expect("the launcher runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[cfg_attr(not(test_mpi), ignore = "set ANNULUS_MPIEXEC where MPI with the standard's binary interface is")]
fn the_first_rank_prints() {
    let args = [LLAMA, &["--ranks", "3", "--strategy", "ring"]].concat();
    let done = processes(&[&args[..]; 3]);
    let said = text(&done.stdout);
    assert!(done.status.success(), "{said}{}", text(&done.stderr));
    assert_eq!(said.matches("   ok").count(), 1, "{said}");
    assert!(said.contains("3 processes, a rank each, over "), "{said}");
    // As all of them in one process.
    let alone = Command::new(env!("CARGO_BIN_EXE_annulus"))
        .args(&args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program runs");
    let alone = text(&alone.stdout);
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains("processes, a rank each")).collect();
    assert_eq!(lines, alone.lines().collect::<Vec<_>>());
}

/// Whatever a rank fails of, also before it meets the others: they hear of it at once.
#[test]
#[cfg_attr(not(test_mpi), ignore = "set ANNULUS_MPIEXEC where MPI with the standard's binary interface is")]
fn a_rank_that_fails_tells_the_others() {
    let right = [LLAMA, &["--ranks", "2"]].concat();
    for (wrong, words) in [
        (vec!["run", "no such model", "--ranks", "2"], "rank 1 failed: no such model"),
        ([LLAMA, &["--ranks", "3"]].concat(), "rank 1 failed: --ranks 3: 2 processes were started"),
    ] {
        let begin = Instant::now();
        let done = processes(&[&right, &wrong]);
        let said = text(&done.stderr);
        assert!(!done.status.success() && said.contains(words), "{said}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    }
}
