//! Builds the stand-ins of CUDA's driver, of NVRTC and of NCCL, once for what they are made of, and says how a program is run on them.

use super::cxx;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

macro_rules! files {
    ($($name:literal in $folder:literal,)*) => { [$(($name, include_str!(concat!($folder, "/", $name)))),*] };
}

/// What the libraries are compiled from, and what they need to compile kernels.
const FILES: [(&str, &str); 34] = files! {
    "types.cuh" in "../../kernels",
    "ptx.cuh" in "../../kernels",
    "ptx_steps.cuh" in "../../kernels",
    "ptx_time.cuh" in "../../kernels",
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
    "trials.cpp" in "driver",
    "order.cpp" in "driver",
    "memory.cpp" in "driver",
    "streams.cpp" in "driver",
    "graphs.cpp" in "driver",
    "modules.cpp" in "driver",
    "calls.cpp" in "driver",
    "errors.cpp" in "driver",
    "stubs.cpp" in "driver",
    "text.cpp" in "driver",
    "nvrtc.cpp" in "driver",
    "nccl.h" in "nccl",
    "bootstrap.cpp" in "nccl",
    "comm.cpp" in "nccl",
    "operations.cpp" in "nccl",
};

/// What is compiled at once: most of the time goes into headers.
const UNITS: [(&str, &[&str]); 6] = [
    ("driver", &["findings", "trials", "order", "memory", "streams", "graphs", "modules", "calls", "errors"]),
    ("machine", &["fibers", "barriers", "shared_memory", "copies", "products"]),
    ("text", &["text"]),
    ("stubs", &["stubs"]),
    ("nvrtc", &["nvrtc"]),
    ("nccl", &["bootstrap", "comm", "operations"]),
];

/// The folder with `libcuda.so.1`, `libnvrtc.so.13` and `libnccl.so.2`. Tests that ask for it are ignored where there is no C++ compiler
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
    let path = |name: &str| folder.join(name).display().to_string();
    std::thread::scope(|scope| {
        for (unit, files) in UNITS {
            let path = &path;
            scope.spawn(move || {
                let text: String = files.iter().map(|file| format!("#include \"{file}.cpp\"\n")).collect();
                cxx::write(Path::new(&path(&format!("unit_{unit}.cpp"))), text.as_bytes());
                let flags = ["-c", "-O2", "-fPIC", "-fno-semantic-interposition", "-fno-gnu-unique"];
                let source = std::iter::once(path(&format!("unit_{unit}.cpp")));
                let arguments: Vec<String> = source.chain(flags.map(String::from)).collect();
                cxx::compile(&arguments, Path::new(&path(&format!("{unit}.o"))));
            });
        }
    });
    let link = |library: &str, units: &[&str]| {
        let flags = ["-shared", "-Wl,-Bsymbolic", &format!("-Wl,-soname,{library}")].map(String::from);
        let object = |unit: &&str| if unit.contains(".so") { path(unit) } else { path(&format!("{unit}.o")) };
        let objects = units.iter().map(object);
        let libraries = ["-lpthread", "-ldl"].map(String::from);
        let arguments: Vec<String> = flags.into_iter().chain(objects).chain(libraries).collect();
        cxx::compile(&arguments, &folder.join(library));
    };
    link("libcuda.so.1", &["machine", "driver", "stubs", "text"]);
    link("libnvrtc.so.13", &["nvrtc", "text"]);
    // It keeps its messages in the streams of the other.
    link("libnccl.so.2", &["nccl", "libcuda.so.1"]);
    // Under the names that cudarc looks for first, so that none of another folder is taken.
    for (name, library) in
        [("libcuda.so", "libcuda.so.1"), ("libnvrtc.so", "libnvrtc.so.13"), ("libnccl.so", "libnccl.so.2")]
    {
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

/// A folder with these libraries of the stand-ins, and files that are none. It stays, under this name.
#[allow(dead_code)] // the checks of a GPU ask for none
pub(crate) fn folder(name: &str, libraries: &[&str], broken: &[&str]) -> PathBuf {
    let folder = standins().join("folders").join(name);
    let part = cxx::private(&folder);
    if !folder.exists() {
        std::fs::create_dir_all(&part).expect("a place in the build folder");
        for library in libraries {
            std::os::unix::fs::symlink(standins().join(library), part.join(library))
                .expect("a place in the build folder");
        }
        for library in broken {
            std::fs::write(part.join(library), "no library").expect("a place in the build folder");
        }
        // Another process may have been faster.
        let _ = std::fs::rename(&part, &folder);
    }
    folder
}
