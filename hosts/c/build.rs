//! Tells the tests whether there are compilers for C and C++, so that those that want them are counted as ignored. It starts nothing.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(test_cc)");
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["ANNULUS_REQUIRE_CXX", "CC", "CXX"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let folders = env::var_os("PATH").unwrap_or_default();
    let found = |program: &Path| env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    let both = [("CC", "cc"), ("CXX", "c++")]
        .into_iter()
        .all(|(name, usual)| found(Path::new(&given(name).unwrap_or_else(|| usual.into()))));
    if both || given("ANNULUS_REQUIRE_CXX").is_some() {
        println!("cargo::rustc-cfg=test_cc");
    }
}
