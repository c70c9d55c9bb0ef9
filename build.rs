//! Tells the tests what is there for them, so that those that cannot run are counted as ignored. It looks at the environment
//! and for the C++ compiler's file, starts nothing, and sets names that only tests ask for.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(test_data, test_cxx, test_nvrtc, test_mpi, test_nccl)");
    println!("cargo::rerun-if-changed=build.rs");
    for name in [
        "ANNULUS_TEST_DATA",
        "ANNULUS_REQUIRE_CXX",
        "ANNULUS_REQUIRE_NVRTC",
        "ANNULUS_MPIEXEC",
        "ANNULUS_NCCL",
        "CXX",
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let given = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let found = |program: &Path| {
        let folders = env::var_os("PATH").unwrap_or_default();
        // An absolute name stays as it is.
        env::split_paths(&folders).any(|folder| folder.join(program).is_file())
    };
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    for (name, is_there) in [
        ("test_data", given("ANNULUS_TEST_DATA")),
        ("test_cxx", given("ANNULUS_REQUIRE_CXX") || found(Path::new(&compiler))),
        ("test_nvrtc", given("ANNULUS_REQUIRE_NVRTC")),
        ("test_mpi", given("ANNULUS_MPIEXEC")),
        ("test_nccl", given("ANNULUS_NCCL")),
    ] {
        if is_there {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
