//! `annulus doctor`: which libraries and devices there are, where, and what to do about those that are not.
//!
//! Files are looked for, then the libraries are loaded as a run would load them, and it says where it looked.

use super::args::Doctor;
use super::print;
use super::stop::Stop;
#[cfg(target_os = "linux")]
use annulus::exec::cache;
#[cfg(all(feature = "cuda", target_os = "linux"))]
use annulus::exec::cuda::{self, CudaError};
use annulus::exec::libraries::{self, CUDA, Folder, NCCL, NVRTC, Wanted, entries};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Diagnosis {
    cpu: Cpu,
    devices: Vec<Device>,
    libraries: Vec<Library>,
    searched: Vec<String>,
    cache: Kept,
    backends: Backends,
}

/// The cache of compiled kernels.
#[derive(Serialize)]
struct Kept {
    /// Null if neither XDG_CACHE_HOME nor HOME is set.
    folder: Option<String>,
    /// Why it is not used; null if it is.
    fault: Option<String>,
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
    /// Its version, if it could be loaded.
    version: Option<String>,
    /// Why it could not; null too where this build does not load it.
    fault: Option<String>,
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
    let places = libraries::places();
    let loaded = loaded();
    let libraries = [CUDA, NVRTC, NCCL].iter().map(|w| library(w, &places, &loaded)).collect();
    let diagnosis = Diagnosis {
        cpu: Cpu { cores: std::thread::available_parallelism().map_or(1, usize::from) },
        devices: devices(),
        libraries,
        searched: places.iter().map(|p| p.folder.display().to_string()).collect(),
        cache: kept(),
        backends: Backends { cpu: true, cuda: false, why: Some(why_not_cuda()) },
    };
    if args.json { print::json(&diagnosis) } else { print::text(&text(&diagnosis, args.verbose)) }
}

/// Per library its version, or why it does not load.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn loaded() -> BTreeMap<&'static str, Result<String, CudaError>> {
    cuda::versions().into_iter().collect()
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn loaded() -> BTreeMap<&'static str, Result<String, std::convert::Infallible>> {
    BTreeMap::new()
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
fn why_not_cuda() -> String {
    let ready = cuda::nvrtc_version().and_then(|_| cuda::Gpu::open(0));
    let what = match ready {
        Err(e) => format!("{e}; "),
        Ok(gpu) if gpu.arch().is_none() => "there are no kernels for this GPU; ".into(),
        Ok(_) => {
            "kernels compile and launch here, but running a schedule on GPUs is not written yet; ".into()
        }
    };
    what + "run computes every rank on the CPU"
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn why_not_cuda() -> String {
    "built without the feature `cuda`; run computes every rank on the CPU".into()
}

/// The cache as it stands: one that is not there is not made.
#[cfg(target_os = "linux")]
fn kept() -> Kept {
    let folder = cache::standard_folder();
    let there = folder.as_ref().filter(|f| f.symlink_metadata().is_ok());
    let fault = there.and_then(|f| cache::Cache::open(f).err()).map(|e| e.to_string());
    Kept { folder: folder.map(|f| f.display().to_string()), fault }
}

#[cfg(not(target_os = "linux"))]
fn kept() -> Kept {
    Kept { folder: None, fault: None }
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
        let version = l.version.as_ref().map(|v| format!(", version {v}")).unwrap_or_default();
        lines.push(format!("{:10}{what}{version}", l.name));
        lines.extend(
            l.fault.iter().filter(|_| !l.found.is_empty()).map(|f| format!("{:10}does not load: {f}", "")),
        );
        if verbose {
            lines.extend(l.found.iter().skip(1).map(|f| format!("{:10}also {f}", "")));
        }
        lines.extend(l.remedy.iter().map(|r| format!("{:10}what to do: {r}", "")));
    }
    let folder = d.cache.folder.as_deref().unwrap_or("none: neither XDG_CACHE_HOME nor HOME is set");
    lines.push(format!("cache     {folder} (of compiled kernels)"));
    lines.extend(d.cache.fault.iter().map(|f| format!("{:10}{f}", "")));
    lines.extend(d.backends.why.iter().map(|why| format!("cuda      not used: {why}")));
    if verbose {
        lines.push("searched".into());
        lines.extend(d.searched.iter().map(|s| format!("{:10}{s}", "")));
    }
    lines.join("\n")
}

fn library<E: Display>(
    wanted: &Wanted,
    places: &[Folder],
    loaded: &BTreeMap<&'static str, Result<String, E>>,
) -> Library {
    let found = libraries::find(wanted, places);
    let loads = found.iter().any(|(_, loader)| *loader);
    let (version, fault) = match loaded.get(wanted.name) {
        Some(Ok(version)) => (Some(version.clone()), None),
        Some(Err(fault)) => (None, Some(fault.to_string())),
        None => (None, None),
    };
    let remedy = match found.first() {
        _ if version.is_some() => None,
        None => Some(wanted.remedy.to_owned()),
        Some((path, _)) if !loads => {
            let folder = path.parent().unwrap_or(Path::new("")).display();
            Some(format!("the loader does not look there: export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"))
        }
        Some(_) if fault.is_some() => Some(wanted.remedy.to_owned()),
        Some(_) => None,
    };
    let found = found.into_iter().map(|(path, _)| path.display().to_string()).collect();
    Library { name: wanted.name, purpose: wanted.purpose, found, loads, version, fault, remedy }
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
