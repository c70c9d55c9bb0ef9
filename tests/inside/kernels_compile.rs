//! Every listed kernel, compiled without a GPU: no remark of the assembler, no spill, no stack, the instructions that it is
//! made for, and its size in a snapshot per architecture.
//!
//! `ANNULUS_REQUIRE_NVRTC` says that NVRTC and nvdisasm are there; without it the tests are ignored.

#![cfg(all(feature = "cuda", target_os = "linux"))]
use crate::inside::support::alone::alone;
use crate::inside::support::cases::snapshot;
use crate::inside::support::scratch;
use annulus::exec::cuda::{compile, nvrtc_version};
use annulus::exec::libraries::{self, NVRTC};
use annulus::lower::{Arch, Element, Helper, KernelKey, Tiling, listed, listed_with_steps, options, text};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler whose figures are in the snapshots.
const SNAPSHOTS_BY: (i32, i32) = (13, 0);

/// Kernels with steps for an architecture, in parts.
macro_rules! gates_of_steps {
    ($($name:ident: $arch:ident $part:literal / $parts:literal;)*) => {
        $(#[test]
        #[cfg_attr(not(test_nvrtc), ignore = "set ANNULUS_REQUIRE_NVRTC where NVRTC and nvdisasm are")]
        fn $name() {
            if alone!($name) {
                let keys = listed_with_steps(Arch::$arch);
                assert!(keys.iter().all(|key| key.exists() && !key.steps.is_empty()));
                let keys: Vec<KernelKey> = keys.into_iter().skip($part - 1).step_by($parts).collect();
                compile_all(stringify!($name), Arch::$arch, &keys, &[]);
            }
        })*
    };
}

/// An architecture's kernels in parts, so that no test takes long: its name, and which part of how many.
macro_rules! gates {
    ($($name:ident: $arch:ident $part:literal / $parts:literal;)*) => {
        $(#[test]
        #[cfg_attr(not(test_nvrtc), ignore = "set ANNULUS_REQUIRE_NVRTC where NVRTC and nvdisasm are")]
        fn $name() {
            // NVRTC works on one text at a time in a process.
            if alone!($name) {
                gate(stringify!($name), Arch::$arch, $part - 1, $parts);
            }
        })*
    };
}

fn gate(name: &str, arch: Arch, part: usize, parts: usize) {
    let mut keys = listed(arch);
    // And those that do the rows which they leave, unless they are listed.
    let behind: BTreeSet<KernelKey> = keys.iter().filter_map(|key| key.redo(arch)).collect();
    keys.extend(behind.into_iter().filter(|key| !listed(arch).contains(key)));
    // Neighbours in the list are alike: each part gets some of every kind.
    let keys: Vec<KernelKey> = keys.into_iter().skip(part).step_by(parts).collect();
    let helpers: Vec<Helper> = Helper::all().into_iter().skip(part).step_by(parts).collect();
    compile_all(name, arch, &keys, &helpers);
}

fn compile_all(name: &str, arch: Arch, keys: &[KernelKey], helpers: &[Helper]) {
    let (version, disassembler) = tools();
    let mut table = String::new();
    let mut faults = String::new();
    for key in keys {
        let code = Code::of(&key.to_string(), &text(key), arch, version, &disassembler);
        for fault in code.faults(Some(key), arch) {
            writeln!(faults, "{key}: {fault}").unwrap();
        }
        writeln!(table, "{key}\n    {}", code.figures(key.shared_bytes())).unwrap();
    }
    for helper in helpers {
        let name = format!("{helper:?}");
        let code = Code::of(&name, &helper.text(), arch, version, &disassembler);
        for fault in code.faults(None, arch) {
            writeln!(faults, "{name}: {fault}").unwrap();
        }
        writeln!(table, "{name}\n    {}", code.figures(0)).unwrap();
    }
    assert!(faults.is_empty(), "{}:\n{faults}", arch.name());
    if version != SNAPSHOTS_BY {
        eprintln!("snapshot skipped: it is of NVRTC {SNAPSHOTS_BY:?}, this is {version:?}");
        return;
    }
    snapshot("kernels", name, &table);
}

/// NVRTC's version, and where nvdisasm is.
fn tools() -> ((i32, i32), PathBuf) {
    let tools = nvrtc_version().map_err(|e| e.to_string()).and_then(|v| disassembler().map(|d| (v, d)));
    tools.unwrap_or_else(|why| panic!("{why}"))
}

/// nvdisasm beside NVRTC, in the toolkit or in the package of Python; else the one on the path.
fn disassembler() -> Result<PathBuf, String> {
    let beside = libraries::find(&NVRTC, &libraries::places()).into_iter().filter_map(|(library, _)| {
        let root = library.parent()?.parent()?;
        Some(root.join("bin/nvdisasm"))
    });
    let mut all = beside.filter(|p| p.is_file()).chain(["nvdisasm".into()]);
    let works = |p: &PathBuf| Command::new(p).arg("--version").output().is_ok_and(|o| o.status.success());
    all.find(works).ok_or_else(|| "nvdisasm was found neither beside NVRTC nor on the path".into())
}

/// What the compiler and the disassembler say.
struct Code {
    log: String,
    /// The disassembly, without what is no instruction.
    lines: Vec<String>,
}

impl Code {
    /// Kept under a hash of all that it depends on: only what changed is compiled again.
    fn of(key: &str, text: &str, arch: Arch, version: (i32, i32), disassembler: &Path) -> Code {
        let options = options(arch);
        let mut hash = Sha256::new();
        hash.update(format!("{version:?} {options:?} {}", disassembler.display()));
        hash.update(text);
        let name: String = hash.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
        let folder = scratch().join("kernels_compile");
        std::fs::create_dir_all(&folder).unwrap();
        let kept = folder.join(format!("{name}.sass"));
        let all = std::fs::read_to_string(&kept).unwrap_or_else(|_| {
            let compiled = compile(text, &options, key, arch.name());
            let compiled = compiled.unwrap_or_else(|e| panic!("{e}"));
            let cubin = folder.join(format!("{name}.cubin"));
            std::fs::write(&cubin, compiled.cubin).unwrap();
            let out = Command::new(disassembler).arg("-c").arg(&cubin).output().unwrap();
            std::fs::remove_file(&cubin).unwrap();
            assert!(out.status.success(), "{key}: {}", String::from_utf8_lossy(&out.stderr));
            let all = format!("{}\n\u{1}\n{}", compiled.log, String::from_utf8_lossy(&out.stdout));
            let part = folder.join(format!("{name}.{}", std::process::id()));
            std::fs::write(&part, &all).unwrap();
            std::fs::rename(part, &kept).unwrap();
            all
        });
        let (log, code) = all.split_once('\u{1}').unwrap();
        // An instruction: its address between `/*` and `*/`, then its text.
        let lines = code.lines().filter_map(|l| l.trim_start().strip_prefix("/*")?.split_once("*/"));
        let lines = lines.map(|(_, instruction)| instruction.trim().to_owned()).filter(|l| !l.is_empty());
        Code { log: log.into(), lines: lines.collect() }
    }

    /// How many instructions have this name.
    fn count(&self, name: &str) -> usize {
        let named = |l: &&String| {
            let words = l.split_whitespace().find(|w| !w.starts_with('@'));
            words.is_some_and(|w| w.trim_end_matches(';').split('.').next() == Some(name))
        };
        self.lines.iter().filter(named).count()
    }

    /// One more than the greatest number of a register.
    fn registers(&self) -> usize {
        let words = self.lines.iter().flat_map(|l| l.split(|c: char| !c.is_ascii_alphanumeric()));
        words.filter_map(|w| w.strip_prefix('R')?.parse::<usize>().ok()).max().map_or(0, |r| r + 1)
    }

    fn faults(&self, key: Option<&KernelKey>, arch: Arch) -> Vec<String> {
        let mut out = vec![];
        // C7508 setmaxnreg ignored, C7512 products serialised for registers, C7514 accumulator read in flight, C7517 wait injected.
        out.extend(self.log.lines().filter(|l| l.contains("C75")).map(String::from));
        let frame = self.log.lines().filter(|l| l.contains("bytes stack frame"));
        let clean = |l: &&str| {
            l.split_once("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")
                .is_some_and(|(before, _)| before.ends_with(' ') || before.is_empty())
        };
        out.extend(frame.filter(|l| !clean(l)).map(|l| l.trim().to_owned()));
        let mut expect = |what: &str, holds: bool| {
            if !holds {
                out.push(what.into());
            }
        };
        expect("loads or stores of local memory", self.count("LDL") + self.count("STL") == 0);
        let Some(key) = key else { return out };
        expect("more shared memory than a block may have", key.shared_bytes() <= arch.shared_limit());
        match key.tiling {
            Tiling::Hopper(t) => {
                expect("no HGMMA", self.count("HGMMA") > 0);
                expect("no UTMALDG", self.count("UTMALDG") > 0);
                expect("HMMA beside HGMMA", self.count("HMMA") == 0);
                expect("no USETMAXREG", self.count("USETMAXREG") == 2);
                expect("a register beyond those that are asked for", self.registers() <= t.registers().1);
            }
            Tiling::Portable(_) => {
                expect("no asynchronous copies", key.copy < 4 || self.count("LDGSTS") > 0);
                expect("no HMMA", key.element == Element::F32 || self.count("HMMA") > 0);
                expect("no LDSM", key.element == Element::F32 || self.count("LDSM") > 0);
            }
        }
        out
    }

    fn figures(&self, shared: usize) -> String {
        let names = ["HGMMA", "UTMALDG", "HMMA", "LDGSTS", "FFMA", "MUFU"];
        let counts = names.iter().filter_map(|n| match self.count(n) {
            0 => None,
            count => Some(format!(", {n} {count}")),
        });
        let (registers, all) = (self.registers(), self.lines.len());
        format!("registers {registers}, shared {shared}, instructions {all}{}", counts.collect::<String>())
    }
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    gates! {
        sm_90a_a: Sm90a 1 / 3;
        sm_90a_b: Sm90a 2 / 3;
        sm_90a_c: Sm90a 3 / 3;
        // These have the same texts: some of the kernels of each here, and all by hand below.
        sm_80: Sm80 1 / 2;
        sm_100: Sm100 2 / 4;
        sm_120: Sm120 4 / 4;
        sm_86: Sm86 1 / 15;
        sm_87: Sm87 1 / 15;
        sm_88: Sm88 1 / 15;
        sm_89: Sm89 1 / 15;
        sm_103: Sm103 1 / 15;
        sm_110: Sm110 1 / 15;
        sm_121: Sm121 1 / 15;
    }

    gates_of_steps! {
        steps_sm_80: Sm80 1 / 2;
        steps_sm_90a_a: Sm90a 1 / 3;
        steps_sm_90a_b: Sm90a 2 / 3;
        steps_sm_90a_c: Sm90a 3 / 3;
        steps_sm_100: Sm100 2 / 4;
        steps_sm_120: Sm120 4 / 4;
        steps_sm_86: Sm86 1 / 12;
        steps_sm_87: Sm87 1 / 12;
        steps_sm_88: Sm88 1 / 12;
        steps_sm_89: Sm89 1 / 12;
        steps_sm_103: Sm103 1 / 12;
        steps_sm_110: Sm110 1 / 12;
        steps_sm_121: Sm121 1 / 12;
    }

    #[test]
    #[ignore = "a sweep that is run by hand: minutes of compiling for every architecture"]
    fn every_listed_kernel_of_every_architecture() {
        let (version, disassembler) = tools();
        let mut faults = String::new();
        for arch in Arch::ALL {
            let keys: Vec<KernelKey> = listed(arch).into_iter().chain(listed_with_steps(arch)).collect();
            for key in &keys {
                let code = Code::of(&key.to_string(), &text(key), arch, version, &disassembler);
                for fault in code.faults(Some(key), arch) {
                    writeln!(faults, "{} {key}: {fault}", arch.name()).unwrap();
                }
            }
            println!("{}: {} kernels", arch.name(), keys.len());
        }
        assert!(faults.is_empty(), "{faults}");
    }
}
