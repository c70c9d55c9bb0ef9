//! From a key to a program: the kernel's text between the machine's headers, compiled by the system's C++ compiler.

use super::faults::Fault;
use crate::inside::standins::builder::cxx::{self, hash, write};
use crate::inside::support::scratch;
use annulus::lower::{self, Element, KernelKey, Tiling};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const SHIM: [(&str, &str); 13] = [
    ("contract.cuh", lower::CONTRACT),
    ("step_params.cuh", lower::STEP_PARAMS),
    ("calls.h", include_str!("shim/calls.h")),
    ("machine.h", include_str!("shim/machine.h")),
    ("cuda.h", include_str!("shim/cuda.h")),
    ("kernel.h", include_str!("shim/kernel.h")),
    ("launch.cpp", include_str!("shim/launch.cpp")),
    ("fibers.cpp", include_str!("shim/fibers.cpp")),
    ("barriers.cpp", include_str!("shim/barriers.cpp")),
    ("shared_memory.cpp", include_str!("shim/shared_memory.cpp")),
    ("buffers.cpp", include_str!("shim/buffers.cpp")),
    ("copies.cpp", include_str!("shim/copies.cpp")),
    ("products.cpp", include_str!("shim/products.cpp")),
];

/// The kernel's text with a fault planted, between what it stands on here.
fn source(key: &KernelKey, fault: Option<&Fault>) -> String {
    let mut body = lower::body(key);
    for &(right, wrong) in fault.iter().flat_map(|f| f.edits) {
        assert!(body.contains(right), "a planted fault has no place in the text any more: {right}");
        body = body.replacen(right, wrong, 1);
    }
    let (rows, keys, threads) = (key.rows(), key.keys(), key.threads());
    let (bf16, shared) = (key.element == Element::Bf16, key.shared_bytes());
    let has_maps = matches!(key.tiling, Tiling::Hopper(_));
    let maps = if has_maps { ", *(const Maps*)maps" } else { "" };
    format!(
        "#include \"cuda.h\"
#include \"kernel.h\"
#undef INFINITY
#undef NAN
{}{}{body}
__attribute__((no_sanitize(\"thread\"))) static void enter(const void* params, const void* maps) {{
    attn_partial(*(const Params*)params{maps});
}}
const Kernel kernel{{{rows}, {keys}, {threads}, {shared}, {bf16}, {has_maps}, enter}};
",
        lower::prelude(key),
        lower::CONTRACT,
    )
}

/// The system's C++ compiler, with the machine compiled.
pub(crate) struct Compiler {
    folder: PathBuf,
    objects: Vec<PathBuf>,
}

/// The compiler, once the machine is compiled. Tests that ask for it are ignored where there is none (`build.rs`);
/// `ANNULUS_REQUIRE_CXX` makes that a failure.
pub(crate) fn compiler() -> &'static Compiler {
    static ONE: LazyLock<Compiler> = LazyLock::new(machine);
    &ONE
}

/// Compiles the machine.
fn machine() -> Compiler {
    let digest = hash(&SHIM.map(|(_, text)| text).concat());
    let folder = scratch().join("kernels").join(digest);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in SHIM {
        write(&folder.join(name), text.as_bytes());
    }
    let place = |name: &str| folder.join(name);
    let place = &place;
    let objects = std::thread::scope(|scope| {
        let work: Vec<_> = SHIM
            .iter()
            .filter(|(name, _)| name.ends_with(".cpp"))
            .map(|(name, _)| scope.spawn(move || compile(&place(name), &["-c", "-O2"])))
            .collect();
        work.into_iter().map(|w| w.join().unwrap()).collect()
    });
    Compiler { folder, objects }
}

impl Compiler {
    /// The program that runs this kernel.
    pub(crate) fn program(&self, key: &KernelKey, fault: Option<&Fault>) -> PathBuf {
        self.link(&source(key, fault))
    }

    /// The program of a text that defines `kernel`.
    pub(crate) fn link(&self, text: &str) -> PathBuf {
        let source = self.folder.join(format!("kernel-{}.cpp", hash(text)));
        write(&source, text.as_bytes());
        // The compiler reports every access to memory; shared_memory.cpp listens.
        let object = compile(&source, &["-c", "-O1", "-fsanitize=thread", "-fno-exceptions"]);
        let mut arguments: Vec<String> = self.objects.iter().map(|o| o.display().to_string()).collect();
        arguments.push("-no-pie".into());
        compile(&object, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Compiles beside the source, unless that is done. Sources are named after their content, so a result never grows old.
fn compile(source: &Path, arguments: &[&str]) -> PathBuf {
    let result =
        source.with_extension(if source.extension().is_some_and(|e| e == "cpp") { "o" } else { "run" });
    let whole: Vec<String> = std::iter::once(source.display().to_string())
        .chain(arguments.iter().map(ToString::to_string))
        .collect();
    cxx::compile(&whole, &result);
    result
}
