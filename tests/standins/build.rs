//! Builds the stand-ins of CUDA's driver and of NVRTC, once for what they are made of, and says how a program is run on them.

use super::cxx;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

macro_rules! files {
    ($($name:literal in $folder:literal,)*) => { [$(($name, include_str!(concat!($folder, "/", $name)))),*] };
}

/// What the libraries are compiled from, and what they need to compile kernels.
const FILES: [(&str, &str); 27] = files! {
    "types.cuh" in "../../kernels",
    "ptx.cuh" in "../../kernels",
    "ptx_steps.cuh" in "../../kernels",
    "ptx_hopper.cuh" in "../../kernels",
    "contract.cuh" in "../../kernels",
    "calls.h" in "../inside/kernels/shim",
    "cuda.h" in "../inside/kernels/shim",
    "machine.h" in "../inside/kernels/shim",
    "fibers.cpp" in "../inside/kernels/shim",
    "barriers.cpp" in "../inside/kernels/shim",
    "shared_memory.cpp" in "../inside/kernels/shim",
    "copies.cpp" in "../inside/kernels/shim",
    "products.cpp" in "../inside/kernels/shim",
    "standin.h" in "driver",
    "module.h" in "driver",
    "text.h" in "driver",
    "names.inc" in "driver",
    "findings.cpp" in "driver",
    "order.cpp" in "driver",
    "memory.cpp" in "driver",
    "streams.cpp" in "driver",
    "graphs.cpp" in "driver",
    "modules.cpp" in "driver",
    "calls.cpp" in "driver",
    "stubs.cpp" in "driver",
    "text.cpp" in "driver",
    "nvrtc.cpp" in "driver",
};

/// The folder with `libcuda.so.1` and `libnvrtc.so.13`. Tests that ask for it are ignored where there is no C++ compiler
/// (`build.rs` of the package).
pub(crate) fn standins() -> &'static Path {
    static ONE: LazyLock<PathBuf> = LazyLock::new(build);
    &ONE
}

fn build() -> PathBuf {
    let all: String = FILES.iter().map(|f| f.1).collect();
    let folder = cxx::folder().join("standins").join(cxx::hash(&(all + &cxx::name())));
    std::fs::create_dir_all(&folder).expect("a place in the build folder");
    for (name, text) in FILES {
        cxx::write(&folder.join(name), text.as_bytes());
    }
    let sources = || FILES.iter().map(|f| f.0).filter(|name| name.ends_with(".cpp"));
    let path = |name: &str| folder.join(name).display().to_string();
    let object = |name: &str| path(&name.replace(".cpp", ".o"));
    let compiled = |name: &str| {
        let flags = ["-c", "-O2", "-fPIC", "-fno-semantic-interposition", "-fno-gnu-unique"];
        let arguments: Vec<String> = std::iter::once(path(name)).chain(flags.map(String::from)).collect();
        cxx::compile(&arguments, Path::new(&object(name)));
    };
    std::thread::scope(|scope| {
        for name in sources() {
            let compiled = &compiled;
            scope.spawn(move || compiled(name));
        }
    });
    let link = |library: &str, objects: Vec<String>| {
        let flags = ["-shared", "-Wl,-Bsymbolic", &format!("-Wl,-soname,{library}")].map(String::from);
        let libraries = ["-lpthread", "-ldl"].map(String::from);
        let arguments: Vec<String> = flags.into_iter().chain(objects).chain(libraries).collect();
        cxx::compile(&arguments, &folder.join(library));
    };
    link("libcuda.so.1", sources().filter(|name| *name != "nvrtc.cpp").map(object).collect());
    link("libnvrtc.so.13", vec![object("nvrtc.cpp"), object("text.cpp")]);
    // Under the names that cudarc looks for first, so that none of another folder is taken.
    for (name, library) in [("libcuda.so", "libcuda.so.1"), ("libnvrtc.so", "libnvrtc.so.13")] {
        let (at, part) = (folder.join(name), cxx::private(&folder.join(name)));
        if !at.exists() {
            std::os::unix::fs::symlink(library, &part).expect("a place in the build folder");
            std::fs::rename(&part, &at).expect("a place in the build folder");
        }
    }
    folder
}

/// Makes a program find the stand-ins, and no other library of CUDA: the libraries, a cache of its own, the seed.
pub(crate) fn on_standins(program: &mut Command, seed: u64) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ANNULUS_STANDINS_") {
            program.env_remove(name);
        }
    }
    program
        .env("LD_LIBRARY_PATH", standins())
        .env("XDG_CACHE_HOME", standins().join("cache"))
        .env("ANNULUS_STANDINS_SEED", seed.to_string())
}
