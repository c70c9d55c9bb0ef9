//! `annulus doctor`: which libraries and devices there are, where, and what to do about those that are not.
//!
//! Files are looked for, nothing is loaded: a broken driver cannot take the command down, and it says where it looked.

use super::args::Doctor;
use super::{Stop, print};
use annulus::exec::libraries::{self, CUDA, NCCL, NVRTC, Place, Wanted, entries};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

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
    let places = libraries::places();
    let diagnosis = Diagnosis {
        cpu: Cpu { cores: std::thread::available_parallelism().map_or(1, usize::from) },
        devices: devices(),
        libraries: [CUDA, NVRTC, NCCL].iter().map(|w| library(w, &places)).collect(),
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

fn library(wanted: &Wanted, places: &[Place]) -> Library {
    let found = libraries::find(wanted, places);
    let loads = found.iter().any(|(_, loader)| *loader);
    let remedy = match found.first() {
        None => Some(wanted.remedy.to_owned()),
        Some((path, _)) if !loads => {
            let folder = path.parent().unwrap_or(Path::new("")).display();
            Some(format!("the loader does not look there: export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"))
        }
        Some(_) => None,
    };
    let found = found.into_iter().map(|(path, _)| path.display().to_string()).collect();
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
