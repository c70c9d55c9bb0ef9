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

#[test]
fn what_a_launcher_says_is_told_or_why_it_is_refused() {
    let told = |variables: &str| {
        let set = variables.split_whitespace().filter_map(|word| word.split_once('='));
        let set: Vec<(&str, &Path)> = set.map(|(name, value)| (name, Path::new(value))).collect();
        let text = doctor(&[], &set);
        let line = text.lines().find(|l| l.starts_with("ranks     ")).expect("a line").to_owned();
        let json: Value = serde_json::from_str(&doctor(&["--json"], &set)).expect("one JSON object");
        (line, json["ranks"].clone())
    };
    let (line, json) = told("");
    assert_eq!(line, "ranks     one process: no launcher's variables are set");
    assert!(json["launcher"].is_null() && json["rank"].is_null() && json["fault"].is_null(), "{json}");
    let torchrun = "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node03 MASTER_PORT=29500";
    let (line, json) = told(torchrun);
    assert_eq!(
        line,
        "ranks     rank 1 of 4, rank 1 of 4 on this host, as torchrun says (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); \
         they meet at node03:29501-29508, and no token is set"
    );
    assert_eq!((&json["launcher"], &json["rank"], &json["size"]), (&"torchrun".into(), &1.into(), &4.into()));
    assert_eq!((&json["meet"], &json["token"]), (&"node03:29501-29508".into(), &false.into()));
    let (line, json) = told("RANK=4 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4");
    let why = "RANK is 4 and WORLD_SIZE is 4: ranks count from 0 and are fewer than the size";
    assert_eq!(line, format!("ranks     refused: {why}"));
    assert_eq!(json["fault"], why);
    let (line, json) = told(&format!("{torchrun} ANNULUS_TOKEN=short"));
    assert!(
        line.contains("rank 1 of 4") && line.contains("; refused: ANNULUS_TOKEN: it has 5 bytes"),
        "{line}"
    );
    assert_eq!((&json["rank"], &json["meet"]), (&1.into(), &Value::Null));
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod on_standins {
    use super::library;
    use crate::standins::build::on_standins;
    use serde_json::Value;
    use std::process::Command;

    /// What it says beside a driver and a compiler, which are none (`tests/standins`): as text and as JSON.
    fn doctor(more: &[(&str, &str)]) -> (String, Value) {
        let [text, json] = [&[][..], &["--json"]].map(|args| {
            let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
            on_standins(program.arg("doctor").args(args), 1);
            let out = program.envs(more.iter().copied()).output().expect("the binary runs");
            assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).expect("UTF-8")
        });
        (text, serde_json::from_str(&json).expect("one JSON object"))
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn a_device_is_named_as_the_driver_names_it() {
        let (text, json) = doctor(&[]);
        for line in [
            "gpu       stand-in of a GPU, sm_90a, 4.0 GiB, compute capability 9.0, kernels for sm_90a (driver)",
            "cuda      ready: run --backend cuda computes attentions on the first GPU, with all ranks on it",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        assert_eq!(json["devices"][0]["kernels"], "sm_90a");
        assert_eq!(json["devices"][0]["bytes"], 4u64 << 30);
        assert_eq!(json["backends"]["cuda"], true);
        assert!(json["backends"]["why"].is_null() && json["no_devices"].is_null(), "{json}");
        assert_eq!(library(&json.to_string(), "libcuda")["version"], "13.0");
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn what_stands_in_the_way_is_told() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("DEVICES", "0")], "the driver is loaded and lists no GPU: starting the driver: "),
            (&[("VERSION", "12000")], "it runs CUDA 12.0, and 12.8 is needed"),
            (
                &[("VERSION", "12080")],
                "it is of CUDA 13.0, whose code the driver, of CUDA 12.8, does not load",
            ),
            (&[("ARCH", "sm_75")], "there are no kernels for this GPU, of compute capability 7.5"),
            (
                &[("ARCH", "sm_110"), ("NVRTC", "12080")],
                "it makes no code for sm_110: NVRTC 13.0 and later do",
            ),
            (
                &[("FAIL", "cuInit:1:999,cuInit:2:999")],
                "the driver is loaded and lists no GPU: starting the driver: ",
            ),
        ];
        for (more, why) in cases {
            let more: Vec<(String, &str)> =
                more.iter().map(|(name, value)| (format!("ANNULUS_STANDINS_{name}"), *value)).collect();
            let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            let (text, json) = doctor(&more);
            assert!(text.contains(why) && text.contains("\ncuda      not ready: "), "{more:?}: {text}");
            assert_eq!(json["backends"]["cuda"], false, "{more:?}");
        }
    }
}
