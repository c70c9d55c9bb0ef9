//! From a key to a program: the kernel's text between the machine's headers, compiled by the system's C++ compiler.

use crate::faults::Fault;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONTRACT: &str = include_str!("../../kernels/contract.cuh");
const HOPPER: &str = include_str!("../../kernels/hopper.cuh");
const SHIM: [(&str, &str); 8] = [
    ("machine.h", include_str!("shim/machine.h")),
    ("cuda.h", include_str!("shim/cuda.h")),
    ("launch.h", include_str!("shim/launch.h")),
    ("fibers.cpp", include_str!("shim/fibers.cpp")),
    ("barriers.cpp", include_str!("shim/barriers.cpp")),
    ("memory.cpp", include_str!("shim/memory.cpp")),
    ("copies.cpp", include_str!("shim/copies.cpp")),
    ("products.cpp", include_str!("shim/products.cpp")),
];

/// What makes a kernel.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) bf16: bool,
    pub(crate) dk: usize,
    pub(crate) dv: usize,
    pub(crate) warpgroups: usize,
    pub(crate) keys: usize,
    pub(crate) turns: bool,
    /// Of eight exponentials, how many are taken by a polynomial.
    pub(crate) exp2_by_fma: usize,
    pub(crate) q_slots: usize,
    pub(crate) positions: bool,
    pub(crate) softcap: bool,
    pub(crate) carry_in: bool,
    pub(crate) cast_out: bool,
    pub(crate) sinks: bool,
    pub(crate) fault: Option<&'static Fault>,
}

impl Default for Key {
    fn default() -> Self {
        Key {
            bf16: true,
            dk: 128,
            dv: 128,
            warpgroups: 2,
            keys: 128,
            turns: true,
            exp2_by_fma: 0,
            q_slots: 1,
            positions: true,
            softcap: false,
            carry_in: false,
            cast_out: true,
            sinks: false,
            fault: None,
        }
    }
}

impl Key {
    fn text(&self) -> String {
        let mut out = String::from(
            "#include \"cuda.h\"\n#undef INFINITY\n#define INFINITY __int_as_float(0x7f800000)\n",
        );
        out.push_str(
            "#define FILL_NEG_INF 0\n#define FILL_REPLACE 1\n#define FILL_ADD 2\n#define FILL FILL_NEG_INF\n",
        );
        let numbers = [
            ("ELEMENT_BF16", self.bf16.into()),
            ("DK", self.dk),
            ("DV", self.dv),
            ("WGS", self.warpgroups),
            ("BN", self.keys),
            ("Q_SLOTS", self.q_slots),
            ("EXP2_BY_FMA", self.exp2_by_fma),
            ("PINGPONG", self.turns.into()),
            ("POSITIONS", self.positions.into()),
            ("SOFTCAP", self.softcap.into()),
            ("CARRY_IN", self.carry_in.into()),
            ("CAST_OUT", self.cast_out.into()),
            ("SINKS", self.sinks.into()),
            ("PRODUCER_REGISTERS", 40),
            ("CONSUMER_REGISTERS", 232),
        ];
        for (name, value) in numbers {
            writeln!(out, "#define {name} {value}").unwrap();
        }
        for line in CONTRACT.lines().filter(|l| !l.starts_with("typedef")) {
            writeln!(out, "{line}").unwrap();
        }
        let mut body = HOPPER.to_string();
        for &(right, wrong) in self.fault.iter().flat_map(|f| f.edits) {
            assert!(body.contains(right), "a planted fault has no place in the text any more: {right}");
            body = body.replacen(right, wrong, 1);
        }
        out.push_str(&body);
        out.push_str("\n#define KERNEL_HOPPER 1\n#define THREADS ((WGS + 1) * 128)\n#include \"launch.h\"\n");
        out
    }
}

/// The system's C++ compiler, with the machine compiled.
pub(crate) struct Compiler {
    folder: PathBuf,
    objects: Vec<PathBuf>,
}

/// None, with a line that says so, where no compiler is. `ANNULUS_REQUIRE_CXX` makes that a failure.
pub(crate) fn compiler() -> Option<Compiler> {
    if Command::new(name()).arg("--version").output().is_err() {
        assert!(std::env::var_os("ANNULUS_REQUIRE_CXX").is_none(), "no C++ compiler `{}`", name());
        eprintln!("skipped: no C++ compiler `{}`; set CXX", name());
        return None;
    }
    let digest = hash(&SHIM.map(|(_, text)| text).concat());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels").join(digest);
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
    Some(Compiler { folder, objects })
}

impl Compiler {
    /// The program that runs this kernel.
    pub(crate) fn program(&self, key: &Key) -> PathBuf {
        let text = key.text();
        let source = self.folder.join(format!("kernel-{}.cpp", hash(&text)));
        write(&source, text.as_bytes());
        // The compiler reports every access to memory; memory.cpp listens.
        let object = compile(&source, &["-c", "-O1", "-fsanitize=thread", "-fno-exceptions"]);
        let mut arguments: Vec<String> = self.objects.iter().map(|o| o.display().to_string()).collect();
        arguments.push("-no-pie".into());
        compile(&object, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn name() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

/// Compiles beside the source, unless that is done. Sources are named after their content, so a result never grows old.
fn compile(source: &Path, arguments: &[&str]) -> PathBuf {
    let result =
        source.with_extension(if source.extension().is_some_and(|e| e == "cpp") { "o" } else { "run" });
    if !result.exists() {
        let part = private(&result);
        let output = Command::new(name())
            .args(["-std=c++17", "-w", "-ffp-contract=off"])
            .arg(source)
            .args(arguments)
            .arg("-o")
            .arg(&part)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(part, &result).unwrap();
    }
    result
}

/// A whole file or none, whoever else writes it.
fn write(path: &Path, bytes: &[u8]) {
    if !path.exists() {
        let part = private(path);
        std::fs::write(&part, bytes).unwrap();
        std::fs::rename(part, path).unwrap();
    }
}

fn private(path: &Path) -> PathBuf {
    let name = format!("{}.{}.{:?}", path.display(), std::process::id(), std::thread::current().id());
    PathBuf::from(name.replace(['(', ')'], ""))
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}
