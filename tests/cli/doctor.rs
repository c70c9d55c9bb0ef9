//! `annulus doctor` in places that a test made.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An empty folder of this test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("doctor").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// What it says with an environment that has these variables and no others.
fn doctor(args: &[&str], variables: &[(&str, &Path)]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_annulus"))
        .arg("doctor")
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs");
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty());
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn library(json: &str, name: &str) -> Value {
    let all: Value = serde_json::from_str(json).expect("one JSON object");
    let found = all["libraries"].as_array().expect("a list").iter().find(|l| l["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is missing")).clone()
}

#[test]
fn a_library_where_the_loader_looks_needs_nothing() {
    let here = folder("loader");
    for name in ["libnccl.so.2", "libnccl.so.2.28.9", "libnccl.so.txt", "libnccl-net.so", "libnvrtc.so.12"] {
        fs::write(here.join(name), "").expect("a file");
    }
    let json = doctor(&["--json"], &[("LD_LIBRARY_PATH", &here)]);
    let nccl = library(&json, "libnccl");
    let at = |name: &str| Value::from(here.join(name).to_str().expect("UTF-8"));
    let found = nccl["found"].as_array().expect("a list");
    assert_eq!(found[..2], [at("libnccl.so.2"), at("libnccl.so.2.28.9")]);
    assert!(!found.contains(&at("libnccl.so.txt")) && !found.contains(&at("libnccl-net.so")));
    assert_eq!(nccl["loads"], Value::from(true));
    // The loader looks there and finds an empty file.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    {
        let fault = nccl["fault"].as_str().expect("a fault");
        assert!(fault.contains("libnccl.so.2") && nccl["version"].is_null(), "{fault}");
        assert!(nccl["remedy"].as_str().is_some_and(|r| r.contains("install")));
    }
    assert_eq!(library(&json, "libnvrtc")["found"][0], at("libnvrtc.so.12"));
    let text = doctor(&[], &[("LD_LIBRARY_PATH", &here)]);
    assert!(text.contains(here.join("libnccl.so.2").to_str().expect("UTF-8")), "{text}");
}

#[test]
fn a_library_of_a_python_package_is_found_and_the_way_to_it_told() {
    let root = folder("packages");
    let here = root.join("lib/python3.12/site-packages/nvidia/nccl/lib");
    fs::create_dir_all(&here).expect("a folder");
    fs::write(here.join("libnccl.so.2"), "").expect("a file");
    let nccl = library(&doctor(&["--json"], &[("VIRTUAL_ENV", &root)]), "libnccl");
    let path = Value::from(here.join("libnccl.so.2").to_str().expect("UTF-8"));
    assert!(nccl["found"].as_array().expect("a list").contains(&path), "{nccl}");
    if nccl["loads"] == false {
        let remedy = nccl["remedy"].as_str().expect("a remedy");
        assert!(remedy.contains("LD_LIBRARY_PATH="), "{remedy}");
    }
}

#[test]
fn whatever_is_missing_has_a_remedy_and_the_cpu_is_always_there() {
    // Places that are none, and a link to nothing.
    let here = folder("broken");
    #[cfg(unix)]
    std::os::unix::fs::symlink(here.join("gone"), here.join("libnvrtc.so")).expect("a link");
    let no = here.join("no such folder");
    let variables: [(&str, &Path); 4] =
        [("LD_LIBRARY_PATH", &here), ("HOME", &no), ("CUDA_HOME", &no), ("CONDA_PREFIX", &no)];
    let json = doctor(&["--json"], &variables);
    let all: Value = serde_json::from_str(&json).expect("one JSON object");
    assert!(all["cpu"]["cores"].as_u64().is_some_and(|n| n > 0));
    assert_eq!(all["backends"]["cpu"], true);
    assert!(all["devices"].is_array());
    for name in ["libcuda", "libnvrtc", "libnccl"] {
        let l = library(&json, name);
        let found = l["found"].as_array().expect("a list");
        assert!(
            found.iter().all(|f| !f.as_str().expect("a path").starts_with(here.to_str().expect("UTF-8")))
        );
        assert_eq!(l["remedy"].is_null(), l["loads"] == true, "{l}");
    }
    let text = doctor(&["-v"], &variables);
    assert!(text.starts_with("cpu       ready: "), "{text}");
    assert!(text.contains(here.to_str().expect("UTF-8")), "it does not say where it looked: {text}");
}
