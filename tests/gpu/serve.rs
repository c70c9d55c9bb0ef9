//! Times on request: a line in, a line out.
//!
//! `time B HQ HKV SQ SK DK DV causal|full bf16|f16|f32 [NAME=n]…` times one whole launch;
//! `step …` the same with a carry in and out, as a step in the middle of a ring. NAME is REPEAT, PORTABLE,
//! or of the tile: BN, WGS, QS, AHEAD, TURNS; portable BN, WARPS, TILES, BLOCKS. Causal: the last query row sees the last key.
//! The answer: `ms MEDIAN min MIN iqr IQR tflops T`, or `error WHY`.

use super::case::Random;
use super::kernels::Kernels;
use annulus::exec::cuda::{Buffer, CudaError, Gpu, KvRows, Place, QRows, Step};
use annulus::lower::{Arch, Element, KernelKey, Rows, Tiling};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::BufRead;
use std::process::ExitCode;

struct Request {
    carry: bool,
    portable: bool,
    sizes: [usize; 7],
    causal: bool,
    element: Element,
    /// In the place of the table's.
    tiling: BTreeMap<String, u16>,
    repeat: usize,
}

/// Inputs that are rotated, so that no launch finds its own in the cache.
const SETS: usize = 4;
const WARM_UP: usize = 5;

pub(crate) fn run(gpu: &Gpu, arch: Arch) -> ExitCode {
    let kernels = Kernels::new(gpu, arch);
    let mut pools: BTreeMap<Element, Buffer> = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        let answer = parse(&line).and_then(|request| {
            let pool = match pools.entry(request.element) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(empty) => empty.insert(pool(gpu, request.element).map_err(|e| e.to_string())?),
            };
            let key = key(&request, arch)?;
            answer(gpu, &kernels, &key, &request, pool).map_err(|e| e.to_string())
        });
        match answer {
            Ok(text) => println!("{text}"),
            Err(why) => println!("error {}", why.replace('\n', " | ")),
        }
    }
    ExitCode::SUCCESS
}

fn parse(line: &str) -> Result<Request, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, b, hq, hkv, sq, sk, dk, dv, mask, element, more @ ..] = words.as_slice() else {
        return Err("expected: time|step B HQ HKV SQ SK DK DV causal|full bf16|f16|f32 [NAME=n]…".into());
    };
    let mut sizes = [0; 7];
    for (to, word) in sizes.iter_mut().zip([b, hq, hkv, sq, sk, dk, dv]) {
        *to = word.parse().map_err(|_| format!("{word} is not a number"))?;
    }
    let mut request = Request {
        carry: *verb == "step",
        portable: false,
        sizes,
        causal: *mask == "causal",
        element: match *element {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "f32" => Element::F32,
            other => return Err(format!("{other}: expected bf16, f16 or f32")),
        },
        tiling: BTreeMap::new(),
        repeat: 30,
    };
    for word in more {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: expected NAME=n"))?;
        let value: usize = value.parse().map_err(|_| format!("{word} has no number"))?;
        match name {
            "BN" | "WGS" | "QS" | "AHEAD" | "TURNS" | "WARPS" | "TILES" | "BLOCKS" => {
                request.tiling.insert(name.into(), value as u16);
            }
            "PORTABLE" => request.portable = value > 0,
            "REPEAT" => request.repeat = value.max(1),
            _ => return Err(format!("{name} is not known")),
        }
    }
    Ok(request)
}

fn key(r: &Request, arch: Arch) -> Result<KernelKey, String> {
    let [.., dk, dv] = r.sizes;
    let portable = r.portable || arch != Arch::Sm90a || r.element == Element::F32;
    let plain = if portable {
        KernelKey::portable(r.element, dk, dv, r.causal, arch)
    } else {
        KernelKey::hopper(r.element, dk, dv, r.causal).map(|key| key.for_keys(r.sizes[4]))
    };
    let mut key = plain.ok_or("there is no kernel for these head sizes")?;
    let given = |name: &str| r.tiling.get(name).copied();
    match &mut key.tiling {
        Tiling::Hopper(t) => {
            t.keys = given("BN").unwrap_or(t.keys);
            t.warpgroups = given("WGS").map_or(t.warpgroups, |n| n as u8);
            t.q_slots = given("QS").map_or(t.q_slots, |n| n as u8);
            t.values_ahead = given("AHEAD").map_or(t.values_ahead, |n| n as u8);
            t.turns = given("TURNS").map_or(t.turns, |n| n > 0);
        }
        Tiling::Portable(t) => {
            t.keys = given("BN").unwrap_or(t.keys);
            t.warps = given("WARPS").map_or(t.warps, |n| n as u8);
            t.row_tiles = given("TILES").map_or(t.row_tiles, |n| n as u8);
            t.blocks = given("BLOCKS").map_or(t.blocks, |n| n as u8);
        }
    }
    key.carry_in = r.carry;
    key.cast_out = !r.carry;
    Ok(key)
}

/// What a benchmark asks for.
pub(crate) fn keys(arch: Arch) -> Vec<KernelKey> {
    let mut all = vec![];
    for d in [64, 128, 192, 256] {
        for causal in ["causal", "full"] {
            for verb in ["time", "step"] {
                for more in ["bf16", "f16", "bf16 PORTABLE=1"] {
                    let line =
                        format!("{verb} 1 1 1 1 1 {d} {} {causal} {more}", if d == 192 { 128 } else { d });
                    all.extend(parse(&line).and_then(|r| key(&r, arch)));
                }
            }
        }
    }
    all
}

/// Normal numbers that inputs are cut from: an odd number of them, so that copies do not line up.
const POOL: usize = (1 << 24) - 8 * 1009;

fn pool(gpu: &Gpu, element: Element) -> Result<Buffer, CudaError> {
    let chunks: Vec<Vec<u8>> = (0..POOL.div_ceil(1 << 16) as u64)
        .into_par_iter()
        .map(|i| {
            let mut random = Random(i << 32);
            let normal: Vec<f32> = (0..1 << 16).map(|_| random.normal()).collect();
            super::case::bytes(element, &normal)
        })
        .collect();
    gpu.upload(&chunks.concat()[..POOL * element.bytes()])
}

fn input(gpu: &Gpu, pool: &Buffer, bytes: usize, from: usize) -> Result<Buffer, CudaError> {
    let mut buffer = gpu.filled(bytes, 0)?;
    let (mut done, mut at) = (0, from * 16 % pool.bytes());
    while done < bytes {
        let length = (bytes - done).min(pool.bytes() - at);
        gpu.copy((pool, at), (&mut buffer, done), length)?;
        done += length;
        at = 0;
    }
    Ok(buffer)
}

fn at(buffer: &Buffer) -> Place<'_> {
    Place { buffer, offset: 0 }
}

fn answer(
    gpu: &Gpu,
    kernels: &Kernels,
    key: &KernelKey,
    r: &Request,
    pool: &Buffer,
) -> Result<String, CudaError> {
    let [batch, hq, hkv, sq, sk, dk, dv] = r.sizes;
    let kernel = kernels.get(key)?;
    let redo = kernels.redo(key)?;
    let size = r.element.bytes();
    let mut sets = vec![];
    for i in 0..SETS {
        let q = input(gpu, pool, batch * hq * sq * dk * size, i * 37_511)?;
        let k = input(gpu, pool, batch * hkv * sk * dk * size, i * 51_287 + 11)?;
        let v = input(gpu, pool, batch * hkv * sk * dv * size, i * 92_821 + 23)?;
        let out = gpu.filled(batch * hq * sq * dv * size, 0xff)?;
        // A carry of zeros: reading and writing cost the same whatever it holds.
        let carry = r.carry.then(|| gpu.filled(batch * hq * sq * (dv + 2) * 4, 0)).transpose()?;
        sets.push((q, k, v, out, carry));
    }
    let lse = gpu.filled(batch * hq * sq * 4, 0xff)?;
    let rows = |len: usize| Rows { start: 0, step: 1, len: len as i32, local: 0 };
    let mut times = vec![];
    for i in 0..WARM_UP + r.repeat {
        let (q, k, v, out, carry) = &sets[i % SETS];
        let step = Step {
            batch,
            q_heads: hq,
            kv_heads: hkv,
            q_rows: sq,
            head_dims: [dk, dv],
            q: at(q),
            out: (!r.carry).then_some(at(out)),
            lse: (!r.carry).then_some(at(&lse)),
            q_pieces: vec![QRows { rows: rows(sq), carry: carry.as_ref().map(at) }],
            kv_pieces: vec![KvRows { rows: rows(sk), k: at(k), v: at(v) }],
            scale: 1.0 / (dk as f32).sqrt(),
            softcap: 0.0,
            empty_row: 0.0,
            window: [None, r.causal.then_some(1 + sk as i32 - sq as i32)],
            shift: None,
            documents: None,
            fill: 0.0,
            bias: None,
            mask: None,
            sinks: None,
        };
        let ms = gpu.time(|| gpu.attn_partial(&kernel, redo.as_deref(), &step))?;
        if i >= WARM_UP {
            times.push(f64::from(ms));
        }
    }
    times.sort_by(f64::total_cmp);
    let rank = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let pairs: f64 = if r.causal {
        (0..sq).map(|row| (row + 1 + sk).saturating_sub(sq).min(sk) as f64).sum()
    } else {
        sq as f64 * sk as f64
    };
    let flop = 2.0 * (batch * hq) as f64 * pairs * (dk + dv) as f64;
    let median = rank(0.5);
    Ok(format!(
        "ms {median:.5} min {:.5} iqr {:.5} tflops {:.1}",
        times[0],
        rank(0.75) - rank(0.25),
        flop / median / 1e9
    ))
}
