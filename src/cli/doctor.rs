//! `annulus doctor`: which libraries and devices there are, where, and what to do about those that are not.
//!
//! Files are looked for, nothing is loaded: a broken driver cannot take the command down, and it says where it looked.

use super::args::Doctor;
use super::{Stop, print};
use serde::Serialize;
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A library of the CUDA backend.
struct Wanted {
    name: &'static str,
    purpose: &'static str,
    /// The start of its file names; a version may follow.
    file: &'static str,
    /// What to do if it is nowhere.
    remedy: &'static str,
}

const WANTED: [Wanted; 3] = [
    Wanted {
        name: "libcuda",
        purpose: "talks to the GPUs",
        file: "libcuda.so",
        remedy: "it comes with NVIDIA's driver, not with the CUDA toolkit: install the driver, or start the container with access to the GPUs (--gpus all)",
    },
    Wanted {
        name: "libnvrtc",
        purpose: "compiles the kernels",
        file: "libnvrtc.so",
        remedy: "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc-cu12`",
    },
    Wanted {
        name: "libnccl",
        purpose: "moves data between the GPUs",
        file: "libnccl.so",
        remedy: "install libnccl2, or `pip install nvidia-nccl-cu12`",
    },
];

/// Folders, and whether the loader looks into them by itself.
struct Place {
    folder: PathBuf,
    loader: bool,
}

#[derive(Serialize)]
struct Diagnosis {
    cpu: Cpu,
    devices: Vec<Device>,
    libraries: Vec<Library>,
    searched: Vec<String>,
    backends: Backends,
}

#[derive(Serialize)]
struct Cpu {
    cores: usize,
}

#[derive(Serialize)]
struct Device {
    name: String,
    at: String,
}

#[derive(Serialize)]
struct Library {
    name: &'static str,
    purpose: &'static str,
    /// Every file of it, in the order of the search.
    found: Vec<String>,
    /// Whether the loader finds one of them without help.
    loads: bool,
    /// What to do; null if nothing.
    remedy: Option<String>,
}

#[derive(Serialize)]
struct Backends {
    cpu: bool,
    cuda: bool,
    /// Why not CUDA.
    why: Option<String>,
}

pub(crate) fn run(args: &Doctor) -> Result<(), Stop> {
    let places = places();
    let diagnosis = Diagnosis {
        cpu: Cpu { cores: std::thread::available_parallelism().map_or(1, usize::from) },
        devices: devices(),
        libraries: WANTED.iter().map(|w| library(w, &places)).collect(),
        searched: places.iter().map(|p| p.folder.display().to_string()).collect(),
        backends: Backends {
            cpu: true,
            cuda: false,
            why: Some("the backend is not written yet; run computes every rank on the CPU".into()),
        },
    };
    if args.json { print::json(&diagnosis) } else { print::text(&text(&diagnosis, args.verbose)) }
}

fn text(d: &Diagnosis, verbose: bool) -> String {
    let mut lines = vec![format!("cpu       ready: {} cores, every rank in one process", d.cpu.cores)];
    if d.devices.is_empty() {
        lines.push("gpu       none found: the driver lists no device".into());
    }
    lines.extend(d.devices.iter().map(|g| format!("gpu       {} ({})", g.name, g.at)));
    for l in &d.libraries {
        let what = match l.found.as_slice() {
            [] => format!("not found ({})", l.purpose),
            [first, ..] => format!("{first} ({})", l.purpose),
        };
        lines.push(format!("{:10}{what}", l.name));
        if verbose {
            lines.extend(l.found.iter().skip(1).map(|f| format!("{:10}also {f}", "")));
        }
        lines.extend(l.remedy.iter().map(|r| format!("{:10}what to do: {r}", "")));
    }
    lines.extend(d.backends.why.iter().map(|why| format!("cuda      not used: {why}")));
    if verbose {
        lines.push("searched".into());
        lines.extend(d.searched.iter().map(|s| format!("{:10}{s}", "")));
    }
    lines.join("\n")
}

/// The entries of a folder in order; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        Err(_) => vec![],
    };
    all.sort();
    all
}

/// `libcuda.so`, `libcuda.so.1`, `libcuda.so.550.54`.
fn is_named(path: &Path, file: &str) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.strip_prefix(file).is_some_and(|rest| {
        rest.is_empty() || (rest.starts_with('.') && rest.bytes().all(|b| b == b'.' || b.is_ascii_digit()))
    })
}

fn library(wanted: &Wanted, places: &[Place]) -> Library {
    let mut found: Vec<(String, bool)> = vec![];
    for place in places {
        // A link whose target is gone is no library.
        let here = entries(&place.folder).into_iter().filter(|p| is_named(p, wanted.file) && p.is_file());
        found.extend(here.map(|p| (p.display().to_string(), place.loader)));
    }
    let loads = found.iter().any(|(_, loader)| *loader);
    let remedy = match found.first() {
        None => Some(wanted.remedy.to_owned()),
        Some((path, _)) if !loads => {
            let folder = Path::new(path).parent().unwrap_or(Path::new("")).display();
            Some(format!("the loader does not look there: export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"))
        }
        Some(_) => None,
    };
    // What the loader takes comes first.
    found.sort_by_key(|(_, loader)| !loader);
    let found = found.into_iter().map(|(path, _)| path).collect();
    Library { name: wanted.name, purpose: wanted.purpose, found, loads, remedy }
}

/// GPUs as NVIDIA's driver lists them, else their device files.
fn devices() -> Vec<Device> {
    let model = |information: &str| {
        let line = information.lines().find_map(|l| l.strip_prefix("Model:"));
        line.map_or_else(|| "an NVIDIA GPU".to_owned(), |l| l.trim().to_owned())
    };
    let listed = entries(Path::new("/proc/driver/nvidia/gpus")).into_iter().map(|folder| {
        let name = model(&fs::read_to_string(folder.join("information")).unwrap_or_default());
        Device { name, at: folder.display().to_string() }
    });
    let listed: Vec<Device> = listed.collect();
    if !listed.is_empty() {
        return listed;
    }
    let number = |p: &PathBuf| {
        let name = p.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.strip_prefix("nvidia").is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let files = entries(Path::new("/dev")).into_iter().filter(number);
    files.map(|p| Device { name: "an NVIDIA GPU".into(), at: p.display().to_string() }).collect()
}

/// Where a library may be: first what the loader searches, then toolkits, then the packages of Python.
fn places() -> Vec<Place> {
    let mut folders: Vec<(PathBuf, bool)> = vec![];
    let list = |name: &str| env::var_os(name).map(|v| env::split_paths(&v).collect::<Vec<_>>());
    folders.extend(list("LD_LIBRARY_PATH").unwrap_or_default().into_iter().map(|p| (p, true)));
    let mut configured = BTreeSet::new();
    read_conf(Path::new("/etc/ld.so.conf"), 0, &mut configured);
    folders.extend(configured.into_iter().map(|p| (p, true)));
    for root in ["/lib", "/usr/lib", "/lib64", "/usr/lib64"] {
        folders.push((root.into(), true));
        let triple = |p: &PathBuf| p.to_string_lossy().ends_with("-linux-gnu");
        folders.extend(entries(Path::new(root)).into_iter().filter(triple).map(|p| (p, true)));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(env::var_os(name).map(|home| (PathBuf::from(home).join("lib64"), false)));
    }
    for root in ["/usr/local", "/opt"] {
        let toolkit =
            |p: &PathBuf| p.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with("cuda"));
        folders
            .extend(entries(Path::new(root)).into_iter().filter(toolkit).map(|p| (p.join("lib64"), false)));
    }
    folders.extend(python(&list("PATH").unwrap_or_default()).into_iter().map(|p| (p, false)));
    let mut seen = BTreeSet::new();
    let folders = folders.into_iter().filter(|(p, _)| p.is_absolute() && p.is_dir());
    // `/lib` is often a link to `/usr/lib`.
    let once = folders.filter(|(p, _)| seen.insert(p.canonicalize().unwrap_or_else(|_| p.clone())));
    once.map(|(folder, loader)| Place { folder, loader }).collect()
}

/// Adds the folders of the loader's configuration; includes are followed to a depth that no real one has.
fn read_conf(path: &Path, depth: usize, out: &mut BTreeSet<PathBuf>) {
    if depth > 4 {
        return;
    }
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ") {
            // Only the form that is used: every file of a folder with one ending.
            let pattern = Path::new(pattern.trim());
            let ending = pattern.extension();
            let folder = pattern.parent().unwrap_or(Path::new(""));
            for file in entries(folder).into_iter().filter(|p| p.extension() == ending) {
                read_conf(&file, depth + 1, out);
            }
        } else if line.starts_with('/') {
            out.insert(line.into());
        }
    }
}

/// `nvidia/*/lib` of the packages of every Python that is named by the environment or stands on the path.
fn python(path: &[PathBuf]) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> = vec![];
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        prefixes.extend(env::var_os(name).map(PathBuf::from));
    }
    prefixes.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".local")));
    let has_python = |p: &&PathBuf| p.join("python3").is_file();
    prefixes.extend(path.iter().filter(has_python).filter_map(|p| p.parent()).map(PathBuf::from));
    let mut out = vec![];
    for lib in prefixes.iter().map(|p| p.join("lib")) {
        let versions = entries(&lib)
            .into_iter()
            .filter(|p| p.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with("python3")));
        for packages in versions.flat_map(|v| [v.join("site-packages"), v.join("dist-packages")]) {
            out.extend(entries(&packages.join("nvidia")).into_iter().map(|p| p.join("lib")));
        }
    }
    out
}
