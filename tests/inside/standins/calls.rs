//! annulus's own calls of CUDA on the stand-ins, each program in a process of its own: right under several seeds, to the same
//! bits; and whatever is missing or fails is an error, never a panic.

use super::builder::build::{folder, on_standins};
use super::told;
use annulus::exec::cuda::{
    AttentionStep, Buffer, BufferRange, CudaError, Gpu, KvRows, QRows, Runs, code, versions,
};
use annulus::lower::{Arch, Element, Helper, KernelKey, Rows};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

/// Says that this process is there to run the calls.
const INSIDE: &str = "ANNULUS_TEST_CALLS";

fn again() -> Command {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::standins::calls::the_calls", "--ignored", "--nocapture"]);
    program.env(INSIDE, "1");
    program
}

#[test]
#[ignore = "other tests run it, in a process where the loader finds the stand-ins"]
fn the_calls() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    match calls() {
        Ok(bits) => println!("right {bits}"),
        Err(e) => println!("refused: {e}"),
    }
    for (name, version) in versions() {
        println!("{name} {version:?}");
    }
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn at(buffer: &Buffer) -> BufferRange<'_> {
    BufferRange { buffer, offset: 0 }
}

const HEADS: usize = 2;
const QUERIES: usize = 9;
const KEYS: [usize; 2] = [13, 4];
const HEAD_DIM: usize = 8;

/// Numbers around zero, the same in every run.
fn made(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
}

/// An attention in two launches with a carry between them, whose keys are packed first: the digest of what came back.
fn calls() -> Result<String, CudaError> {
    let gpu = Gpu::open(0)?;
    let arch = gpu.arch().unwrap_or(Arch::Sm90a);
    let q = made(HEADS * QUERIES * HEAD_DIM, 1);
    let all: usize = KEYS.iter().sum();
    let (k, v) = (made(HEADS * all * HEAD_DIM, 2), made(HEADS * all * HEAD_DIM, 3));
    let [q_there, k_there, v_there] = [&q, &k, &v].map(|x| gpu.upload(&floats(x)));
    let (q_there, k_there, v_there) = (q_there?, k_there?, v_there?);
    let plain = KernelKey::portable(Element::F32, HEAD_DIM, HEAD_DIM, false, arch)
        .ok_or_else(|| CudaError::Launch("no such kernel".into()))?;
    let pack = gpu.load_helper(&code(&Helper::Pack { copy: 16 }, arch, None)?)?;
    let bytes = HEADS * QUERIES * HEAD_DIM * 4;
    let (out, lse) = (gpu.filled(bytes, 0xff)?, gpu.filled(HEADS * QUERIES * 4, 0xff)?);
    let carry = gpu.filled(HEADS * QUERIES * (HEAD_DIM + 2) * 4, 0xff)?;
    let row = HEAD_DIM * 4;
    let mut first = 0;
    for (i, len) in KEYS.into_iter().enumerate() {
        let pieces = [gpu.filled(HEADS * len * row, 0xff)?, gpu.filled(HEADS * len * row, 0xff)?];
        let run = |from: &'_ Buffer, to: &'_ Buffer| {
            let from = BufferRange { buffer: from, offset: first * row };
            gpu.pack(
                &pack,
                &[Runs { from, to: at(to), from_head: all * row, to_head: len * row, bytes: len * row }],
                HEADS,
            )
        };
        run(&k_there, &pieces[0])?;
        run(&v_there, &pieces[1])?;
        let last = i + 1 == KEYS.len();
        let key = KernelKey { carry_in: i > 0, cast_out: last, ..plain };
        let kernel = gpu.load(&code(&key, arch, None)?)?;
        let rows = |len: usize| Rows { start: 0, step: 1, len: len as i32, local: 0 };
        let step = AttentionStep {
            batch: 1,
            q_heads: HEADS,
            kv_heads: HEADS,
            q_rows: QUERIES,
            head_dims: [HEAD_DIM; 2],
            q: at(&q_there),
            out: last.then(|| at(&out)),
            lse: last.then(|| at(&lse)),
            q_pieces: vec![QRows { rows: rows(QUERIES), carry: Some(at(&carry)) }],
            kv_pieces: vec![KvRows { rows: rows(len), k: at(&pieces[0]), v: at(&pieces[1]) }],
            scale: 0.35,
            softcap: 0.0,
            empty_row: 0.0,
            window: [None, None],
            shift: None,
            documents: None,
            fill: 0.0,
            bias: None,
            mask: None,
            sinks: None,
            steps: vec![],
        };
        gpu.attn_partial(&kernel, None, &step)?;
        first += len;
    }
    let (out, lse) = (gpu.download(&out)?, gpu.download(&lse)?);
    for (row, got) in numbers(&out).chunks(HEAD_DIM).enumerate() {
        let head = row / QUERIES;
        let dot = |key: usize| -> f64 {
            let pairs = q[row * HEAD_DIM..][..HEAD_DIM].iter().zip(&k[(head * all + key) * HEAD_DIM..]);
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * 0.35
        };
        let weights: Vec<f64> = (0..all).map(|key| dot(key).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (d, got) in got.iter().enumerate() {
            let want = (0..all)
                .map(|key| weights[key] * f64::from(v[(head * all + key) * HEAD_DIM + d]))
                .sum::<f64>()
                / sum;
            assert!((f64::from(*got) - want).abs() < 2e-6, "row {row}: {got}, not {want}");
        }
        assert!((f64::from(numbers(&lse)[row]) - sum.ln()).abs() < 1e-5, "lse of row {row}");
    }
    Ok(format!("{:?}", Sha256::digest([out, lse].concat())))
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn the_same_bits_under_every_seed() {
    let bits = |seed| {
        let mut program = again();
        told(&on_standins(&mut program, seed).env("ANNULUS_STANDINS_LEAKS", "1").output().unwrap(), "right")
    };
    let first = bits(1);
    for seed in 2..=8 {
        assert_eq!(bits(seed), first, "seed {seed}");
    }
}

/// Whatever fails is told as an error.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_fails_is_an_error() {
    let fail = |what: &str| on_standins(&mut again(), 3).env("ANNULUS_STANDINS_FAIL", what).output().unwrap();
    for what in
        ["alloc:1", "alloc:2", "alloc:5", "alloc:9", "launch:1", "launch:4", "copy:1", "copy:3", "copy:9"]
    {
        told(&fail(what), "refused");
    }
    for n in [1, 3, 7, 12] {
        told(&fail(&format!("run:{n}")), "refused");
    }
    for call in [
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDevicePrimaryCtxRetain",
        "cuCtxGetCurrent",
        "cuCtxSetCurrent",
        "cuStreamCreate",
        "cuMemAllocAsync",
        "cuMemsetD8Async",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuLaunchKernel",
        "cuStreamSynchronize",
    ] {
        told(&fail(&format!("{call}:1")), "refused");
    }
    // What is given back at the end fails at the end, when nobody is there who could be told.
    for call in ["cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2", "cuModuleUnload"] {
        told(&fail(&format!("{call}:1")), "r");
    }
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn what_is_missing_is_an_error() {
    let within =
        |folder: &Path| on_standins(&mut again(), 1).env("LD_LIBRARY_PATH", folder).output().unwrap();
    let [cuda, nvrtc] = [["libcuda.so", "libcuda.so.1"], ["libnvrtc.so", "libnvrtc.so.13"]];
    told(&within(&folder("nothing", &[], &[])), "refused");
    told(&within(&folder("no driver", &nvrtc, &[])), "refused");
    told(&within(&folder("no compiler", &cuda, &[])), "refused");
    told(&within(&folder("broken driver", &nvrtc, &cuda)), "refused");
    told(&within(&folder("broken compiler", &cuda, &nvrtc)), "refused");
    let with = |name: &str, value: &str| {
        on_standins(&mut again(), 1).env(format!("ANNULUS_STANDINS_{name}"), value).output().unwrap()
    };
    assert!(told(&with("VERSION", "12000"), "refused").contains("it runs CUDA 12.0"));
    assert!(told(&with("DEVICES", "0"), "refused").contains("CUDA_ERROR_NO_DEVICE"));
    assert!(told(&with("MEMORY", "4096"), "refused").contains("CUDA_ERROR_OUT_OF_MEMORY"));
    assert!(told(&with("ARCH", "sm_80"), "right").len() > 10);
    assert!(told(&with("ARCH", "sm_75"), "refused").contains("compute capability"));
}
