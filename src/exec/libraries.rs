//! Where the libraries of CUDA and of MPI may lie: what the loader searches, toolkits, the packages of Python.
//!
//! Files are looked for, nothing is loaded. `doctor` tells what it finds; the CUDA backend loads it.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A library that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `libcuda`.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The start of its file names; a version may follow.
    pub file: &'static str,
    /// What to do if it is nowhere.
    pub remedy: &'static str,
}

/// NVIDIA's driver.
pub const CUDA: Wanted = Wanted {
    name: "libcuda",
    purpose: "talks to the GPUs",
    file: "libcuda.so",
    remedy: "it comes with NVIDIA's driver, not with the CUDA toolkit: install the driver, or start the container with access to the GPUs (--gpus all)",
};

/// The compiler of kernels.
pub const NVRTC: Wanted = Wanted {
    name: "libnvrtc",
    purpose: "compiles the kernels",
    file: "libnvrtc.so",
    remedy: "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc`",
};

/// Collectives.
pub const NCCL: Wanted = Wanted {
    name: "libnccl",
    purpose: "moves data between the GPUs",
    file: "libnccl.so",
    remedy: "install libnccl2, or `pip install nvidia-nccl-cu13`",
};

/// The message passing interface, by its standard binary interface.
pub const MPI: Wanted = Wanted {
    name: "libmpi_abi",
    purpose: "moves data between processes without a GPU",
    file: "libmpi_abi.so",
    remedy: "install MPICH 5 or later, or `pip install mpich`, and start with its mpiexec",
};

/// A folder that may hold libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Absolute, and there.
    pub folder: PathBuf,
    /// Whether the loader looks into it by itself.
    pub loader: bool,
}

/// Every file of a library, what the loader takes first; and whether the loader looks there.
pub fn find(wanted: &Wanted, places: &[Folder]) -> Vec<(PathBuf, bool)> {
    let mut found: Vec<(PathBuf, bool)> = vec![];
    for place in places {
        // A link whose target is gone is no library.
        let here = entries(&place.folder).into_iter().filter(|p| is_named(p, wanted.file) && p.is_file());
        found.extend(here.map(|p| (p, place.loader)));
    }
    found.sort_by_key(|(_, loader)| !loader);
    found
}

/// The entries of a folder in order; none if it cannot be read.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
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

/// Where a library may be: first what the loader searches, then toolkits, then the packages of Python.
pub fn places() -> Vec<Folder> {
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
    once.map(|(folder, loader)| Folder { folder, loader }).collect()
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

/// `nvidia/*/lib` of the packages, and the libraries beside them, of every Python that is named by the environment or stands on the path.
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
        // Some packages put theirs beside Python's own.
        out.push(lib);
    }
    out
}
