//! Loads the libraries before cudarc looks for them, for it panics where one is missing.
//!
//! A library that was loaded by its absolute path satisfies a later search by name, so what lies where the loader does not look
//! (the packages of Python) is found as well.

use super::CudaError;
use crate::exec::libraries::{self, CUDA, NVRTC, Wanted};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::path::Path;
use std::sync::OnceLock;

/// The driver.
pub(super) fn driver() -> Result<(), CudaError> {
    static LOADED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    LOADED.get_or_init(|| load(&CUDA, &["libcuda.so.1", "libcuda.so"])).clone()
}

/// The compiler, with the library of its own that it opens at the first compilation.
pub(super) fn nvrtc() -> Result<(), CudaError> {
    static LOADED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    LOADED.get_or_init(|| load(&NVRTC, &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"])).clone()
}

fn load(wanted: &Wanted, names: &[&str]) -> Result<(), CudaError> {
    let mut reasons = vec![];
    for name in names {
        match keep(Path::new(name)) {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(reason),
        }
    }
    let found = libraries::find(wanted, &libraries::places());
    for (path, _) in &found {
        // Since CUDA 13 the compiler does not look for its builtins beside itself.
        for builtins in path.parent().map(libraries::entries).unwrap_or_default() {
            let name = builtins.file_name().unwrap_or_default().to_string_lossy();
            if wanted == &NVRTC && name.starts_with("libnvrtc-builtins.so.") {
                let _ = keep(&builtins);
            }
        }
        match keep(path) {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(reason),
        }
    }
    let reason = if found.is_empty() { "it was found nowhere".into() } else { reasons.join("; ") };
    Err(CudaError::Unavailable { library: wanted.name, reason, remedy: wanted.remedy.into() })
}

/// Loads a library for as long as the process lives.
fn keep(path: &Path) -> Result<(), String> {
    // SAFETY: what runs when these libraries are loaded is NVIDIA's own set-up, which asks nothing of the process.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map(std::mem::forget).map_err(|e| e.to_string())
}
