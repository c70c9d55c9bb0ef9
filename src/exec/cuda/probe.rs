//! Loads the libraries before cudarc looks for them, for it panics where one is missing.
//!
//! A library that was loaded by its absolute path satisfies a later search by name, so what lies where the loader does not look
//! (the packages of Python) is found as well.

use super::error::{self, CudaError};
use crate::exec::libraries::{self, CUDA, NCCL, NVRTC, Wanted};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::error::Error;
use std::ffi::c_int;
use std::path::Path;
use std::sync::OnceLock;

type Loaded = Result<Library, CudaError>;

/// The driver.
pub(super) fn driver() -> Result<(), CudaError> {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    once(&LOADED, &CUDA, &["libcuda.so.1", "libcuda.so"]).map(|_| ())
}

/// The newest CUDA that the driver runs: 13000 is 13.0.
pub(super) fn driver_version() -> Result<i32, CudaError> {
    driver()?;
    let mut version = 0;
    // SAFETY: the pointer is to an int that lives; the call needs no set-up.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    error::driver("asking for the version", status.result())?;
    Ok(version)
}

/// The compiler, with the library of its own that it opens at the first compilation.
pub(super) fn nvrtc() -> Result<(), CudaError> {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    once(&LOADED, &NVRTC, &NVRTC_NAMES).map(|_| ())
}

/// The names under which cudarc looks for the compiler.
const NVRTC_NAMES: [&str; 3] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];

/// Which file the compiler is, with its size and age: its version does not tell one build from the next. Empty if unknown.
pub(super) fn nvrtc_file() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = maps
        .lines()
        .filter_map(|l| l.find('/').map(|at| &l[at..]))
        .find(|p| Path::new(p).file_name().is_some_and(|n| n.to_string_lossy().starts_with(NVRTC.file)));
    let facts = path.and_then(|p| std::fs::metadata(p).ok().map(|m| (p, m.len(), m.modified().ok())));
    facts.map_or_else(String::new, |facts| format!("{facts:?}"))
}

/// The collectives. cudarc does not look for them under the names that they have: functions are looked up here.
pub(super) fn nccl_library() -> Result<&'static Library, CudaError> {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    once(&LOADED, &NCCL, &["libnccl.so.2", "libnccl.so"])
}

/// The version of the collectives, as `ncclGetVersion` counts: 22809 is 2.28.9.
pub(super) fn nccl() -> Result<i32, CudaError> {
    let library = nccl_library()?;
    let broken = |reason: String| unavailable(&NCCL, reason);
    // SAFETY: since its first release the function takes a pointer to an int and returns one.
    let get = unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0") };
    let get = get.map_err(|e| broken(e.to_string()))?;
    let mut version = 0;
    // SAFETY: the pointer is to an int that lives.
    match unsafe { get(&mut version) } {
        0 => Ok(version),
        status => Err(broken(format!("ncclGetVersion returns {status}"))),
    }
}

fn once(
    at: &'static OnceLock<Loaded>,
    wanted: &Wanted,
    names: &[&str],
) -> Result<&'static Library, CudaError> {
    at.get_or_init(|| load(wanted, names)).as_ref().map_err(Clone::clone)
}

fn unavailable(wanted: &Wanted, reason: String) -> CudaError {
    CudaError::Unavailable { library: wanted.name, reason, remedy: wanted.remedy.into() }
}

fn load(wanted: &Wanted, names: &[&str]) -> Loaded {
    let mut reasons = vec![];
    for name in names {
        match open(Path::new(name)) {
            Ok(library) => return Ok(library),
            // What is nowhere is told once, below.
            Err(reason) if reason.contains("No such file") => {}
            Err(reason) => reasons.push(reason),
        }
    }
    let found = libraries::find(wanted, &libraries::places());
    for (path, _) in &found {
        // Since CUDA 13 the compiler does not look for its builtins beside itself.
        for builtins in path.parent().map(libraries::entries).unwrap_or_default() {
            let name = builtins.file_name().unwrap_or_default().to_string_lossy();
            if wanted == &NVRTC && name.starts_with("libnvrtc-builtins.so.") {
                let _ = open(&builtins).map(std::mem::forget);
            }
        }
        match open(path) {
            // The search by name finds it only if it calls itself so.
            Ok(library) if names.iter().any(|name| open(Path::new(name)).map(std::mem::forget).is_ok()) => {
                return Ok(library);
            }
            Ok(_) => reasons.push(format!("{} is none of {}", path.display(), names.join(", "))),
            Err(reason) => reasons.push(reason),
        }
    }
    reasons.dedup();
    let nowhere = reasons.is_empty();
    Err(unavailable(wanted, if nowhere { "it was found nowhere".into() } else { reasons.join("; ") }))
}

fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: what runs when these libraries are loaded is NVIDIA's own set-up, which asks nothing of the process.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // The loader's own words are the source of the error.
    library.map_err(|e| e.source().map_or_else(|| e.to_string(), ToString::to_string))
}
