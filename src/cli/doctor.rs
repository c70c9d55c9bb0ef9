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
use annulus::exec::group::{Meeting, launched, variables};
use annulus::exec::libraries::{self, CUDA, Folder, MPI, NCCL, NVRTC, Wanted, entries};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Diagnosis {
    cpu: Cpu,
    devices: Vec<Device>,
    /// Why the driver lists none; null where it lists some.
    no_devices: Option<String>,
    libraries: Vec<Library>,
    searched: Vec<String>,
    cache: Kept,
    ranks: Ranks,
    backends: Backends,
}

/// What a launcher says that this process is. All are null where no launcher's variables are set.
#[derive(Default, Serialize)]
struct Ranks {
    launcher: Option<&'static str>,
    /// The variables that say so.
    variables: Vec<&'static str>,
    rank: Option<usize>,
    size: Option<usize>,
    local_rank: Option<usize>,
    local_size: Option<usize>,
    /// Where rank 0 listens: a host, a port, or the first and the last of several.
    meet: Option<String>,
    /// Whether there is a token.
    token: bool,
    /// Why what is set is refused.
    fault: Option<String>,
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
    /// `driver`, or the file or folder that tells of it where the driver does not.
    at: String,
    /// `9.0`; null where the driver does not tell.
    capability: Option<String>,
    /// Memory in bytes; null where the driver does not tell.
    bytes: Option<usize>,
    /// The architecture whose kernels it gets, `sm_90a`; null where there are none, or the driver does not tell.
    kernels: Option<&'static str>,
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
    let libraries = [CUDA, NVRTC, NCCL, MPI].iter().map(|w| library(w, &places, &loaded)).collect();
    let (devices, no_devices) = devices();
    let why = why_not_cuda();
    let diagnosis = Diagnosis {
        cpu: Cpu { cores: std::thread::available_parallelism().map_or(1, usize::from) },
        devices,
        no_devices,
        libraries,
        searched: places.iter().map(|p| p.folder.display().to_string()).collect(),
        cache: kept(),
        ranks: ranks(),
        backends: Backends { cpu: true, cuda: why.is_none(), why },
    };
    if args.json { print::json(&diagnosis) } else { print::text(&text(&diagnosis, args.verbose)) }
}

/// Per library its version, or why it does not load.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn loaded() -> BTreeMap<&'static str, Result<String, String>> {
    let cuda = cuda::versions().into_iter().map(|(name, version)| (name, version.map_err(|e| e.reason())));
    cuda.chain(mpi()).collect()
}

/// The version of MPI's library, or why it does not load.
#[cfg(all(feature = "mpi", target_os = "linux"))]
fn mpi() -> Option<(&'static str, Result<String, String>)> {
    Some((MPI.name, annulus::exec::mpi::World::version().map_err(|e| e.to_string())))
}

#[cfg(not(all(feature = "mpi", target_os = "linux")))]
fn mpi() -> Option<(&'static str, Result<String, String>)> {
    None
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn loaded() -> BTreeMap<&'static str, Result<String, String>> {
    mpi().into_iter().collect()
}

/// Why `--backend cuda` will not do; nothing where it will.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn why_not_cuda() -> Option<String> {
    let ready = || {
        let gpu = cuda::Gpu::open(0)?;
        let capability = || cuda::devices().map(|all| all.first().map(|d| d.capability));
        let Some(arch) = gpu.arch() else {
            let (major, minor) = capability()?.unwrap_or_default();
            return Ok(Some(format!(
                "there are no kernels for this GPU, of compute capability {major}.{minor}"
            )));
        };
        cuda::matches_driver()?;
        Ok(arch.compiled_for(&cuda::nvrtc_knows()?).err().map(|why| format!("of libnvrtc: {why}")))
    };
    ready().unwrap_or_else(|e: CudaError| Some(e.to_string()))
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn why_not_cuda() -> Option<String> {
    Some("annulus was built without the feature `cuda`, or not for Linux".into())
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

fn ranks() -> Ranks {
    let variables = variables();
    let launched = match launched(&variables) {
        Ok(None) => return Ranks::default(),
        Ok(Some(launched)) => launched,
        Err(e) => return Ranks { fault: Some(e.to_string()), ..Ranks::default() },
    };
    let meeting = Meeting::of(&variables, &launched);
    let met = meeting.as_ref().ok();
    Ranks {
        launcher: Some(launched.launcher.name()),
        variables: launched.launcher.variables().into(),
        rank: Some(launched.rank),
        size: Some(launched.size),
        local_rank: Some(launched.local_rank),
        local_size: Some(launched.local_size),
        meet: met.map(|m| m.place.to_string()),
        token: met.is_some_and(|m| m.token.is_some()),
        fault: meeting.as_ref().err().map(ToString::to_string),
    }
}

/// The line `ranks`.
fn ranks_text(r: &Ranks) -> String {
    let told = match (r.launcher, r.rank, r.size, r.local_rank, r.local_size) {
        (Some(launcher), Some(rank), Some(size), Some(local_rank), Some(local_size)) => {
            let by = r.variables.join(", ");
            format!(
                "rank {rank} of {size}, rank {local_rank} of {local_size} on this host, as {launcher} says ({by})"
            )
        }
        _ if r.fault.is_some() => String::new(),
        _ => "one process: no launcher's variables are set".into(),
    };
    let token = if r.token { "a token is set" } else { "no token is set" };
    let meet = r.meet.as_ref().map(|meet| format!("; they meet at {meet}, and {token}"));
    let why =
        r.fault.as_ref().map(|why| format!("{}refused: {why}", if told.is_empty() { "" } else { "; " }));
    format!("ranks     {told}{}{}", meet.unwrap_or_default(), why.unwrap_or_default())
}

fn text(d: &Diagnosis, verbose: bool) -> String {
    let mut lines = vec![format!(
        "cpu       ready: {} cores, every rank in one process (a process each where MPI is)",
        d.cpu.cores
    )];
    lines.extend(d.devices.iter().map(|g| {
        let told = g.capability.as_ref().map_or_else(String::new, |capability| {
            let kernels = g.kernels.map_or("no kernels for it".into(), |arch| format!("kernels for {arch}"));
            let gib = g.bytes.unwrap_or(0) as f64 / (1u64 << 30) as f64;
            format!(", {gib:.1} GiB, compute capability {capability}, {kernels}")
        });
        format!("gpu       {}{told} ({})", g.name, g.at)
    }));
    let none = if d.devices.is_empty() { "none found" } else { "none in use" };
    lines.extend(d.no_devices.iter().map(|why| format!("gpu       {none}: {why}")));
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
    lines.push(ranks_text(&d.ranks));
    lines.push(match &d.backends.why {
        Some(why) => format!("cuda      not ready: {why}; run computes every rank on the CPU"),
        None => {
            "cuda      ready: run --backend cuda computes attentions on the first GPU, with all ranks on it"
                .into()
        }
    });
    if verbose {
        lines.push("searched".into());
        lines.extend(d.searched.iter().map(|s| format!("{:10}{s}", "")));
    }
    lines.join("\n")
}

fn library(
    wanted: &Wanted,
    places: &[Folder],
    loaded: &BTreeMap<&'static str, Result<String, String>>,
) -> Library {
    let found = libraries::find(wanted, places);
    let loads = found.iter().any(|(_, loader)| *loader);
    let (version, fault) = match loaded.get(wanted.name) {
        Some(Ok(version)) => (Some(version.clone()), None),
        Some(Err(fault)) => (None, Some(fault.clone())),
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

/// GPUs as the driver lists them; else as its folder or the device files tell of them, and why the driver lists none.
fn devices() -> (Vec<Device>, Option<String>) {
    match listed() {
        Ok(devices) => (devices, None),
        Err(why) => {
            let (files, absent) = (files(), "there are no device files /dev/nvidia*");
            let why = if files.is_empty() { format!("{why}; {absent}") } else { why };
            (files, Some(why))
        }
    }
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
fn listed() -> Result<Vec<Device>, String> {
    let device = |d: cuda::Device| Device {
        name: d.name,
        at: "driver".into(),
        capability: Some(format!("{}.{}", d.capability.0, d.capability.1)),
        bytes: Some(d.bytes),
        kernels: d.arch.map(|arch| arch.name()),
    };
    match cuda::devices() {
        Ok(all) if all.is_empty() => Err("the driver counts 0 GPUs".into()),
        Ok(all) => Ok(all.into_iter().map(device).collect()),
        Err(e @ CudaError::Unavailable { .. }) => Err(format!("the driver is not in use: {}", e.reason())),
        Err(e) => Err(format!("the driver is loaded and lists no GPU: {e}")),
    }
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn listed() -> Result<Vec<Device>, String> {
    Err("this build asks no driver".into())
}

/// GPUs of which the driver's folder or device files tell.
fn files() -> Vec<Device> {
    let of = |name: String, path: &Path| Device {
        name,
        at: path.display().to_string(),
        capability: None,
        bytes: None,
        kernels: None,
    };
    let model = |information: &str| {
        let line = information.lines().find_map(|l| l.strip_prefix("Model:"));
        line.map_or_else(|| "an NVIDIA GPU".to_owned(), |l| l.trim().to_owned())
    };
    let folders = entries(Path::new("/proc/driver/nvidia/gpus")).into_iter().map(|folder| {
        let name = model(&fs::read_to_string(folder.join("information")).unwrap_or_default());
        of(name, &folder)
    });
    let folders: Vec<Device> = folders.collect();
    if !folders.is_empty() {
        return folders;
    }
    let number = |p: &PathBuf| {
        let name = p.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.strip_prefix("nvidia").is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let nodes = entries(Path::new("/dev")).into_iter().filter(number);
    nodes.map(|p| of("an NVIDIA GPU".into(), &p)).collect()
}
