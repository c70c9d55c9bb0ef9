//! Launches on request, one at a time: a line in, a line out.
//!
//! `hold NAME VERB B HQ HKV SQ SK DK DV causal|full bf16|f16|f32 [NAME=n]…` makes a kernel and its inputs; the answer is `held`.
//! VERB is `time`, a whole attention; `step`, with a carry in and out as in the middle of a ring; `part`, with a carry out alone;
//! `apart`, the same and then a merge into another carry. NAME is PORTABLE; REDO, 0 for no launch behind a kernel that leaves rows;
//! or of the tile: BN, WGS, QS, AHEAD, TURNS; portable BN, WARPS, TILES, BLOCKS. Causal: the last query row sees the last key.
//! `go NAME` launches once, on the next of its inputs, and answers `ms N`. `beside NAME MIB` does so while as many MiB are copied on
//! another stream: `ms N copy N`. `copy MIB` copies alone. `write NAME DIR` launches on the first inputs and writes q, k, v, and out and
//! lse or the carry, as raw files: `written`. `drop NAME` frees: `dropped`. Or `error WHY`.

use super::case::Random;
use super::kernels::Kernels;
use annulus::exec::cuda::{
    AttentionStep, Buffer, BufferRange, CudaError, Gpu, HelperKernel, Kernel, KvRows, QRows,
};
use annulus::lower::{Arch, Element, Helper, KernelKey, Rows, Tiling};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Time,
    AttentionStep,
    Part,
    Apart,
}

struct Request {
    verb: Verb,
    portable: bool,
    /// Whether a kernel that leaves rows is followed by the one that does them.
    redo: bool,
    sizes: [usize; 7],
    causal: bool,
    element: Element,
    /// In the place of the table's.
    tiling: BTreeMap<String, u16>,
}

/// Inputs that are rotated, so that no launch finds its own in the cache.
const SETS: usize = 4;
const WARM_UP: usize = 2;
/// What is copied before each launch: more than any cache holds, and long enough that the launch is queued when it ends, so that
/// no time is counted in which the device waits for this program.
const BEFORE: usize = 256 << 20;

pub(crate) fn run(gpu: &Gpu, arch: Arch) -> ExitCode {
    let mut server = match Server::new(gpu, arch) {
        Ok(server) => server,
        Err(why) => {
            println!("error {why}");
            return ExitCode::FAILURE;
        }
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        match server.answer(&line) {
            Ok(text) => println!("{text}"),
            Err(why) => println!("error {}", why.replace('\n', " | ")),
        }
    }
    ExitCode::SUCCESS
}

fn parse(words: &[&str]) -> Result<Request, String> {
    let [verb, b, hq, hkv, sq, sk, dk, dv, mask, element, more @ ..] = words else {
        return Err("expected: VERB B HQ HKV SQ SK DK DV causal|full bf16|f16|f32 [NAME=n]…".into());
    };
    let mut sizes = [0; 7];
    for (to, word) in sizes.iter_mut().zip([b, hq, hkv, sq, sk, dk, dv]) {
        *to = number(word)?;
    }
    let mut request = Request {
        verb: match *verb {
            "time" => Verb::Time,
            "step" => Verb::AttentionStep,
            "part" => Verb::Part,
            "apart" => Verb::Apart,
            other => return Err(format!("{other}: expected time, step, part or apart")),
        },
        portable: false,
        redo: true,
        sizes,
        causal: *mask == "causal",
        element: match *element {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "f32" => Element::F32,
            other => return Err(format!("{other}: expected bf16, f16 or f32")),
        },
        tiling: BTreeMap::new(),
    };
    for word in more {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: expected NAME=n"))?;
        let value = number(value)?;
        match name {
            "BN" | "WGS" | "QS" | "AHEAD" | "TURNS" | "WARPS" | "TILES" | "BLOCKS" => {
                request.tiling.insert(name.into(), value as u16);
            }
            "PORTABLE" => request.portable = value > 0,
            "REDO" => request.redo = value > 0,
            _ => return Err(format!("{name} is not known")),
        }
    }
    Ok(request)
}

fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
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
    key.carry_in = r.verb == Verb::AttentionStep;
    key.cast_out = r.verb == Verb::Time;
    Ok(key)
}

/// What a benchmark asks for.
pub(crate) fn keys(arch: Arch) -> Vec<KernelKey> {
    let mut all = vec![];
    for (d, dv, verb) in [
        (64, 64, "time"),
        (192, 128, "time"),
        (256, 256, "time"),
        (128, 128, "time"),
        (128, 128, "step"),
        (128, 128, "part"),
    ] {
        for mask in ["causal", "full"] {
            for (keys, more) in [(1, ""), (8192, ""), (1, "PORTABLE=1")] {
                let line = format!("{verb} 1 1 1 1 {keys} {d} {dv} {mask} bf16 {more}");
                let words: Vec<&str> = line.split_whitespace().collect();
                all.extend(parse(&words).and_then(|r| key(&r, arch)));
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

fn at(buffer: &Buffer) -> BufferRange<'_> {
    BufferRange { buffer, offset: 0 }
}

/// One set of inputs, and what is written.
struct Set {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Option<Buffer>,
    carry: Option<Buffer>,
    /// That the carry is merged into.
    into: Option<Buffer>,
}

/// A kernel with its inputs, ready to be launched.
struct Held {
    request: Request,
    kernel: Rc<Kernel>,
    redo: Option<Rc<Kernel>>,
    merge: Option<HelperKernel>,
    sets: Vec<Set>,
    lse: Option<Buffer>,
    launches: usize,
}

impl Held {
    fn new(
        gpu: &Gpu,
        kernels: &Kernels,
        key: &KernelKey,
        request: Request,
        pool: &Buffer,
    ) -> Result<Held, CudaError> {
        let [batch, hq, hkv, sq, sk, dk, dv] = request.sizes;
        let size = request.element.bytes();
        let whole = request.verb == Verb::Time;
        let apart = request.verb == Verb::Apart;
        // A carry of zeros: reading and writing cost the same whatever it holds, and it adds nothing.
        let carry = || gpu.filled(batch * hq * sq * (dv + 2) * 4, 0);
        let sets = (0..SETS).map(|i| {
            Ok(Set {
                q: input(gpu, pool, batch * hq * sq * dk * size, i * 37_511)?,
                k: input(gpu, pool, batch * hkv * sk * dk * size, i * 51_287 + 11)?,
                v: input(gpu, pool, batch * hkv * sk * dv * size, i * 92_821 + 23)?,
                out: whole.then(|| gpu.filled(batch * hq * sq * dv * size, 0xff)).transpose()?,
                carry: (!whole).then(carry).transpose()?,
                into: apart.then(carry).transpose()?,
            })
        });
        let sets = sets.collect::<Result<_, CudaError>>()?;
        let lse = whole.then(|| gpu.filled(batch * hq * sq * 4, 0xff)).transpose()?;
        let mut held = Held {
            kernel: kernels.get(key)?,
            redo: if request.redo { kernels.redo(key)? } else { None },
            merge: apart.then(|| kernels.helper(Helper::Merge)).transpose()?,
            request,
            sets,
            lse,
            launches: 0,
        };
        for _ in 0..WARM_UP {
            held.launch(gpu)?;
        }
        gpu.finish()?;
        Ok(held)
    }

    /// On the next set.
    fn launch(&mut self, gpu: &Gpu) -> Result<(), CudaError> {
        self.launches += 1;
        self.launch_on(gpu, &self.sets[self.launches % self.sets.len()])
    }

    fn launch_on(&self, gpu: &Gpu, set: &Set) -> Result<(), CudaError> {
        let r = &self.request;
        let [batch, q_heads, kv_heads, sq, sk, dk, dv] = r.sizes;
        let rows = |len: usize| Rows { start: 0, step: 1, len: len as i32, local: 0 };
        let step = AttentionStep {
            batch,
            q_heads,
            kv_heads,
            q_rows: sq,
            head_dims: [dk, dv],
            q: at(&set.q),
            out: set.out.as_ref().map(at),
            lse: self.lse.as_ref().map(at),
            q_pieces: vec![QRows { rows: rows(sq), carry: set.carry.as_ref().map(at) }],
            kv_pieces: vec![KvRows { rows: rows(sk), k: at(&set.k), v: at(&set.v) }],
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
            steps: vec![],
        };
        gpu.attn_partial(&self.kernel, self.redo.as_deref(), &step)?;
        if let (Some(merge), Some(carry), Some(into)) = (&self.merge, &set.carry, &set.into) {
            gpu.merge(merge, [at(into), at(carry)], at(into), batch * q_heads * sq, dv)?;
        }
        Ok(())
    }

    /// Launches on the first inputs, and writes them and what came of them.
    fn write(&self, gpu: &Gpu, dir: &Path) -> Result<(), String> {
        let set = &self.sets[0];
        self.launch_on(gpu, set).map_err(|e| e.to_string())?;
        let carry = set.into.as_ref().or(set.carry.as_ref());
        let files = [
            ("q", Some(&set.q)),
            ("k", Some(&set.k)),
            ("v", Some(&set.v)),
            ("out", set.out.as_ref()),
            ("lse", self.lse.as_ref()),
            ("carry", carry),
        ];
        for (name, buffer) in files {
            let Some(buffer) = buffer else { continue };
            let bytes = gpu.download(buffer).map_err(|e| e.to_string())?;
            std::fs::write(dir.join(name), bytes).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        Ok(())
    }
}

/// Copies on a stream of their own.
struct Copies {
    stream: Arc<CudaStream>,
    from: CudaSlice<u8>,
    to: CudaSlice<u8>,
}

impl Copies {
    fn new() -> Result<Copies, DriverError> {
        let stream = CudaContext::new(0)?.new_stream()?;
        let (from, to) = (stream.alloc_zeros(MOST_COPIED)?, stream.alloc_zeros(MOST_COPIED)?);
        stream.synchronize()?;
        Ok(Copies { stream, from, to })
    }

    /// Begins to copy; the events around it.
    fn begin(&mut self, bytes: usize) -> Result<[CudaEvent; 2], DriverError> {
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let bytes = bytes.min(MOST_COPIED);
        let begin = self.stream.record_event(flags)?;
        self.stream.memcpy_dtod(&self.from.slice(..bytes), &mut self.to.slice_mut(..bytes))?;
        Ok([begin, self.stream.record_event(flags)?])
    }

    /// Milliseconds between them, when the second has come.
    fn end([begin, end]: [CudaEvent; 2]) -> Result<f32, DriverError> {
        end.synchronize()?;
        begin.elapsed_ms(&end)
    }
}

const MOST_COPIED: usize = 4 << 30;

struct Server<'a> {
    gpu: &'a Gpu,
    arch: Arch,
    kernels: Kernels<'a>,
    pools: BTreeMap<Element, Buffer>,
    held: BTreeMap<String, Held>,
    before: [Buffer; 2],
    copies: Option<Copies>,
}

impl<'a> Server<'a> {
    fn new(gpu: &'a Gpu, arch: Arch) -> Result<Self, CudaError> {
        let before = [gpu.filled(BEFORE, 1)?, gpu.filled(BEFORE, 2)?];
        Ok(Server {
            gpu,
            arch,
            kernels: Kernels::new(gpu, arch),
            pools: BTreeMap::new(),
            held: BTreeMap::new(),
            before,
            copies: None,
        })
    }

    fn answer(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["hold", name, request @ ..] => {
                self.held.remove(*name);
                let held = self.hold(parse(request)?)?;
                self.held.insert((*name).into(), held);
                Ok("held".into())
            }
            ["go", name] => Ok(format!("ms {:.5}", self.go(name)?)),
            ["beside", name, mib] => {
                let (ms, copy) = self.beside(name, number(mib)? << 20)?;
                Ok(format!("ms {ms:.5} copy {copy:.5}"))
            }
            ["copy", mib] => {
                let bytes = number(mib)? << 20;
                let copied = self.copies()?.begin(bytes).and_then(Copies::end);
                Ok(format!("ms {:.5}", copied.map_err(|e| e.to_string())?))
            }
            ["write", name, dir] => {
                let held = self.held.get(*name).ok_or_else(|| format!("{name} is not held"))?;
                held.write(self.gpu, Path::new(dir))?;
                Ok("written".into())
            }
            ["drop", name] => {
                self.held.remove(*name).ok_or_else(|| format!("{name} is not held"))?;
                Ok("dropped".into())
            }
            _ => Err("expected hold, go, beside, copy, write or drop".into()),
        }
    }

    fn hold(&mut self, request: Request) -> Result<Held, String> {
        let told = |e: CudaError| e.to_string();
        if !self.pools.contains_key(&request.element) {
            self.pools.insert(request.element, pool(self.gpu, request.element).map_err(told)?);
        }
        let key = key(&request, self.arch)?;
        let pool = &self.pools[&request.element];
        Held::new(self.gpu, &self.kernels, &key, request, pool).map_err(told)
    }

    /// Lets the device work while the next launch is made ready.
    fn lead(&mut self) -> Result<(), CudaError> {
        let [from, to] = &mut self.before;
        self.gpu.copy((from, 0), (to, 0), BEFORE)
    }

    fn go(&mut self, name: &str) -> Result<f32, String> {
        self.lead().map_err(|e| e.to_string())?;
        let held = self.held.get_mut(name).ok_or_else(|| format!("{name} is not held"))?;
        self.gpu.time(|| held.launch(self.gpu)).map_err(|e| e.to_string())
    }

    /// Milliseconds of the launch and of a copy that begins when it has begun.
    fn beside(&mut self, name: &str, bytes: usize) -> Result<(f32, f32), String> {
        self.copies()?;
        let held = self.held.get_mut(name).ok_or_else(|| format!("{name} is not held"))?;
        let copies = self.copies.as_mut().ok_or("no stream for copies")?;
        let mut copy = None;
        let ms = self.gpu.time(|| {
            held.launch(self.gpu)?;
            copy = Some(copies.begin(bytes));
            Ok(())
        });
        let ms = ms.map_err(|e| e.to_string())?;
        let copy = copy.ok_or("no copy")?.and_then(Copies::end);
        Ok((ms, copy.map_err(|e| e.to_string())?))
    }

    fn copies(&mut self) -> Result<&mut Copies, String> {
        if self.copies.is_none() {
            self.copies = Some(Copies::new().map_err(|e| e.to_string())?);
        }
        self.copies.as_mut().ok_or_else(|| "no stream for copies".into())
    }
}
