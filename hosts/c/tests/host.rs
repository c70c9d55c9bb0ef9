//! A host in C, on the stand-ins of CUDA's libraries: it is built against the header, linked with the library, and run. What it shows is no
//! result of a GPU.

#![cfg(target_os = "linux")]
// Helpers of tests are none that the lint knows as such.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/standins/mod.rs"]
mod standins;

use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What `variable` names, else `usual`.
fn compiler(variable: &str, usual: &str) -> Command {
    let named = std::env::var(variable).ok().filter(|name| !name.is_empty());
    let mut command = Command::new(named.unwrap_or_else(|| usual.into()));
    command.arg("-Wall").arg("-Wextra").arg("-Werror").arg(format!("-I{ROOT}/include"));
    command
}

fn succeeds(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(done.status.success(), "{command:?}: {}\n{}{}", done.status, said[0], said[1]);
    said[0].clone()
}

/// The folder with the library that cargo built for these tests.
fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folders = program.ancestors().skip(1).take(2).map(Path::to_path_buf);
    folders
        .into_iter()
        .find(|f| f.join("libannulus_c.so").is_file())
        .expect("cargo builds libannulus_c.so for tests")
}

/// A file of this process in the build folder.
fn own(name: &str) -> PathBuf {
    let folder = standins::cxx::folder().join("c");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{}.{name}", std::process::id()))
}

#[test]
#[cfg_attr(not(test_cc), ignore = "there are no compilers `cc` and `c++`: set CC and CXX")]
fn a_host_in_c_gets_what_attention_written_out_gives() {
    let (standins, library, program) = (standins::build::standins(), library(), own("attention"));
    let folder = |f: &Path| format!("-L{}", f.display());
    let mut cc = compiler("CC", "cc");
    cc.args(["-std=c11", "-O1", "-pthread"]).arg(format!("{ROOT}/tests/attention.c")).arg("-o").arg(&program);
    cc.args([folder(&library), folder(standins)]).args(["-lannulus_c", "-l:libcuda.so.1", "-lm"]);
    succeeds(&mut cc);
    for seed in 1..=4 {
        let mut host = Command::new(&program);
        standins::build::on_standins(&mut host, seed);
        host.env("LD_LIBRARY_PATH", std::env::join_paths([standins, &*library]).unwrap());
        host.env("ANNULUS_STANDINS_QUICK", "1").env("ANNULUS_STANDINS_LEAKS", "1");
        let said = succeeds(&mut host);
        assert!(said.starts_with("right, by annulus 0."), "{said}");
    }
    std::fs::remove_file(program).unwrap();
}

#[test]
#[cfg_attr(not(test_cc), ignore = "there are no compilers `cc` and `c++`: set CC and CXX")]
fn the_header_is_c_and_c_plus_plus_and_so_is_the_readme() {
    let readme = std::fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    let code: Vec<&str> =
        readme.split("```c\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(code.len(), 1, "the README has one example in C");
    let file = own("readme.c");
    std::fs::write(&file, code[0]).unwrap();
    for (variable, usual, standard, language) in
        [("CC", "cc", "-std=c99", "c"), ("CXX", "c++", "-std=c++17", "c++")]
    {
        let mut checks = compiler(variable, usual);
        succeeds(checks.args([standard, "-fsyntax-only", "-x", language]).arg(&file));
    }
    std::fs::remove_file(file).unwrap();
}
