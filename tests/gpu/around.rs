//! The kernels around `attn_partial` against sums written out here.

use super::Only;
use super::case::{Random, bytes, numbers};
use super::kernels::Kernels;
use annulus::exec::cuda::{Buffer, BufferRange, CudaError, DeviceTensor, FinishStep, Gpu, QRows, Runs};
use annulus::lower::{Element, Helper, Operand, Rows};

/// One check by name, and what it says.
pub(crate) type Told = (String, Result<String, String>);

pub(crate) fn run(gpu: &Gpu, kernels: &Kernels, only: &Only) -> Vec<Told> {
    let mut told = vec![];
    for helper in Helper::all() {
        let name = format!("{helper:?}");
        if !only.takes(&name) {
            continue;
        }
        let result = match helper {
            Helper::Merge => merges(gpu, kernels),
            Helper::Pack { copy } => packs(gpu, kernels, copy.into()),
            Helper::Cast { element, sinks } => casts(gpu, kernels, element, sinks),
            Helper::Paced => paces(gpu, kernels),
        };
        told.push((name, result.unwrap_or_else(|e| Err(e.to_string()))));
    }
    told
}

/// Bytes behind every result that no kernel may touch.
const GUARD: usize = 256;

fn guarded(gpu: &Gpu, mut bytes: Vec<u8>) -> Result<Buffer, CudaError> {
    bytes.extend([0xff; GUARD]);
    gpu.upload(&bytes)
}

fn taken(gpu: &Gpu, buffer: &Buffer) -> Result<Result<Vec<u8>, String>, CudaError> {
    let mut all = gpu.download(buffer)?;
    let guard = all.split_off(all.len() - GUARD);
    Ok(if guard.iter().all(|b| *b == 0xff) { Ok(all) } else { Err("bytes behind it were written".into()) })
}

fn at(buffer: &Buffer) -> BufferRange<'_> {
    BufferRange { buffer, offset: 0 }
}

/// o, m, l of rows; every third has seen no key, and references are far apart.
fn carry(random: &mut Random, rows: usize, dv: usize) -> Vec<f32> {
    let dead: Vec<bool> = (0..rows).map(|_| random.next().is_multiple_of(3)).collect();
    let mut all: Vec<f32> =
        (0..rows * dv).map(|i| if dead[i / dv] { 0.0 } else { random.normal() }).collect();
    all.extend(dead.iter().map(|d| if *d { f32::NEG_INFINITY } else { 5.0 * random.normal() }));
    all.extend(dead.iter().map(|d| if *d { 0.0 } else { 1.0 + random.normal().abs() }));
    all
}

fn near(what: &str, got: f32, want: f64, within: f64) -> Result<(), String> {
    let got = f64::from(got);
    if got == want || (got - want).abs() <= within || (got.is_nan() && want.is_nan()) {
        return Ok(());
    }
    Err(format!("{what} is {got}, not {want}"))
}

fn merges(gpu: &Gpu, kernels: &Kernels) -> Result<Result<String, String>, CudaError> {
    let kernel = kernels.helper(Helper::Merge)?;
    let mut random = Random(3);
    for (rows, dv) in [(1000, 128), (77, 64), (513, 5), (1, 256)] {
        let (a, b) = (carry(&mut random, rows, dv), carry(&mut random, rows, dv));
        let of = |x: &[f32]| guarded(gpu, bytes(Element::F32, x));
        for to in 0..3 {
            let all = [of(&a)?, of(&b)?, of(&vec![f32::NAN; a.len()])?];
            gpu.merge(&kernel, [at(&all[0]), at(&all[1])], at(&all[to]), rows, dv)?;
            let got = match taken(gpu, &all[to])? {
                Ok(got) => numbers(Element::F32, &got),
                Err(why) => return Ok(Err(why)),
            };
            for row in 0..rows {
                let [m_a, m_b, l_a, l_b] =
                    [(&a, rows * dv), (&b, rows * dv), (&a, rows * (dv + 1)), (&b, rows * (dv + 1))]
                        .map(|(c, at)| f64::from(c[at + row]));
                let m = m_a.max(m_b);
                let [of_a, of_b] =
                    [m_a, m_b].map(|x| if x == f64::NEG_INFINITY { 0.0 } else { (x - m).exp() });
                let l = l_a * of_a + l_b * of_b;
                let each = || {
                    near("m", got[rows * dv + row], m, 0.0)?;
                    near("l", got[rows * (dv + 1) + row], l, 1e-5 * l)?;
                    (row * dv..(row + 1) * dv).try_for_each(|i| {
                        near("o", got[i], f64::from(a[i]) * of_a + f64::from(b[i]) * of_b, 1e-5)
                    })
                };
                if let Err(why) = each() {
                    return Ok(Err(format!("{rows} rows of {dv}, row {row}: {why}")));
                }
            }
        }
        let half = of(&[a.clone(), b.clone()].concat())?;
        let inside = BufferRange { buffer: &half, offset: 16 };
        if gpu.merge(&kernel, [at(&half), at(&half)], inside, rows.min(16), dv).is_ok() {
            return Ok(Err("a result over a part of a carry is not refused".into()));
        }
    }
    Ok(Ok("12 merges".into()))
}

/// Rows of two pieces out of tensors into one buffer, per head a run.
fn packs(gpu: &Gpu, kernels: &Kernels, unit: usize) -> Result<Result<String, String>, CudaError> {
    let kernel = kernels.helper(Helper::Pack { copy: unit as u8 })?;
    let mut random = Random(5);
    let (heads, from_head) = (6, unit * 700);
    let source: Vec<u8> = (0..heads * from_head).map(|_| random.next() as u8).collect();
    let from = gpu.upload(&source)?;
    // Per piece where in a head it begins, and its bytes.
    let pieces = [(unit * 3, unit * 401), (unit * 500, unit * 77)];
    let size: usize = pieces.iter().map(|p| p.1).sum();
    let to = guarded(gpu, vec![0; heads * size])?;
    let mut runs = vec![];
    let (mut expected, mut before) = (vec![0u8; heads * size], 0);
    for (begin, bytes) in pieces {
        runs.push(Runs {
            from: BufferRange { buffer: &from, offset: begin },
            to: BufferRange { buffer: &to, offset: before * heads },
            from_head,
            to_head: bytes,
            bytes,
        });
        for head in 0..heads {
            let source = &source[head * from_head + begin..][..bytes];
            expected[before * heads + head * bytes..][..bytes].copy_from_slice(source);
        }
        before += bytes;
    }
    gpu.pack(&kernel, &runs, heads)?;
    let told = taken(gpu, &to)?.and_then(|got| {
        if got == expected { Ok(format!("{size} bytes of {heads} heads")) } else { Err("other bytes".into()) }
    });
    let over = Runs { to: BufferRange { buffer: &from, offset: 0 }, ..runs[0] };
    if told.is_ok() && gpu.pack(&kernel, &[over], heads).is_ok() {
        return Ok(Err("a run over itself is not refused".into()));
    }
    Ok(told)
}

fn casts(
    gpu: &Gpu,
    kernels: &Kernels,
    element: Element,
    sinks: Operand,
) -> Result<Result<String, String>, CudaError> {
    let kernel = kernels.helper(Helper::Cast { element, sinks })?;
    let mut random = Random(9);
    let mut source: Vec<f32> = (0..10_007).map(|_| random.normal()).collect();
    source[..4].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, 1e30, -0.0]);
    let there = gpu.upload(&bytes(Element::F32, &source))?;
    let small = guarded(gpu, vec![0; source.len() * element.bytes()])?;
    let back = guarded(gpu, vec![0; source.len() * 4])?;
    gpu.cast_from_f32(&kernel, at(&there), at(&small), source.len())?;
    gpu.cast_to_f32(&kernel, at(&small), at(&back), source.len())?;
    let (small, back) = match (taken(gpu, &small)?, taken(gpu, &back)?) {
        (Ok(a), Ok(b)) => (a, numbers(Element::F32, &b)),
        (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
    };
    let rounded = bytes(element, &source);
    if small != rounded || back != numbers(element, &rounded) {
        return Ok(Err("a cast gives other bits than rounding to nearest".into()));
    }
    let (batch, q_heads, len, gap, dv) = (2, 3, 101, 7, 72);
    let (heads, q_rows) = (batch * q_heads, len + gap);
    let rows = heads * len;
    let whole = carry(&mut random, rows, dv);
    let per_head: Vec<f32> = (0..q_heads).map(|_| random.normal()).collect();
    let sink_type = if sinks == Operand::Element { element } else { Element::F32 };
    let per_head = numbers(sink_type, &bytes(sink_type, &per_head));
    let sink_buffer = gpu.upload(&bytes(sink_type, &per_head))?;
    let carry_buffer = guarded(gpu, bytes(Element::F32, &whole))?;
    let out = guarded(gpu, bytes(element, &vec![7.0; heads * q_rows * dv]))?;
    let lse = guarded(gpu, bytes(Element::F32, &vec![7.0; heads * q_rows]))?;
    let step = FinishStep {
        batch,
        q_heads,
        q_rows,
        dv,
        rows: QRows {
            rows: Rows { start: 0, step: 1, len: len as i32, local: gap as i32 },
            carry: Some(at(&carry_buffer)),
        },
        out: at(&out),
        lse: Some(at(&lse)),
        sinks: (sinks != Operand::None).then(|| DeviceTensor {
            at: at(&sink_buffer),
            strides: [0, 1, 0, 0],
            local_rows: false,
        }),
        empty_row: -3.0,
    };
    gpu.finish_carry(&kernel, &step)?;
    let (out, lse) = match (taken(gpu, &out)?, taken(gpu, &lse)?) {
        (Ok(a), Ok(b)) => (numbers(element, &a), numbers(Element::F32, &b)),
        (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
    };
    let within = match element {
        Element::Bf16 => 4e-3,
        Element::F16 => 5e-4,
        Element::F32 => 2e-6,
    };
    for (head, row) in (0..heads).flat_map(|h| (0..q_rows).map(move |r| (h, r))) {
        let place = head * q_rows + row;
        let columns = &out[place * dv..][..dv];
        let each = || {
            let Some(row) = row.checked_sub(gap) else {
                near("lse in front", lse[place], 7.0, 0.0)?;
                return columns.iter().try_for_each(|x| near("out in front", *x, 7.0, 0.0));
            };
            let from = head * len + row;
            let (m, l) = (f64::from(whole[rows * dv + from]), f64::from(whole[rows * (dv + 1) + from]));
            let sink =
                if sinks == Operand::None { f64::NEG_INFINITY } else { per_head[head % q_heads].into() };
            let top = m.max(sink);
            if top == f64::NEG_INFINITY {
                near("lse", lse[place], top, 0.0)?;
                return columns.iter().try_for_each(|x| near("an empty row", *x, -3.0, 0.0));
            }
            let sum = l * (m - top).exp() + (sink - top).exp();
            near("lse", lse[place], top + sum.ln(), 1e-5)?;
            columns.iter().zip(&whole[from * dv..]).try_for_each(|(x, o)| {
                let want = f64::from(*o) * (m - top).exp() / sum;
                near("out", *x, want, within * want.abs() + 1e-6)
            })
        };
        if let Err(why) = each() {
            return Ok(Err(format!("head {head} row {row}: {why}")));
        }
    }
    Ok(Ok(format!("{} numbers, {rows} rows", source.len())))
}

/// Bytes arrive, those behind them stay, and it takes its time where there is one.
fn paces(gpu: &Gpu, kernels: &Kernels) -> Result<Result<String, String>, CudaError> {
    const TIME: std::time::Duration = std::time::Duration::from_micros(700);
    let kernel = kernels.helper(Helper::Paced)?;
    let from: Vec<u8> = (0..100_005u32).map(|i| (i * 31 % 251) as u8).collect();
    let source = gpu.upload(&from)?;
    let mut told = vec![];
    for (bytes, time) in [(from.len(), TIME), (16, std::time::Duration::ZERO), (0, TIME)] {
        let target = guarded(gpu, vec![7; from.len()])?;
        // Stand-ins have no time.
        let launch = || gpu.paced(&kernel, [at(&source), at(&target)], bytes, time, 5);
        let ms = if gpu.name()?.contains("stand-in") {
            launch().map(|()| None)
        } else {
            gpu.time(launch).map(Some)
        }?;
        let got = match taken(gpu, &target)? {
            Ok(got) => got,
            Err(why) => return Ok(Err(why)),
        };
        if got[..bytes] != from[..bytes] || got[bytes..].iter().any(|b| *b != 7) {
            return Ok(Err(format!("{bytes} bytes did not arrive as they are")));
        }
        if ms.is_some_and(|ms| f64::from(ms) < time.as_secs_f64() * 1e3) {
            return Ok(Err(format!("it is over after {ms:?} ms, and not after {time:?}")));
        }
        told.extend(ms.map(|ms| format!("{ms:.3} ms")));
    }
    Ok(Ok(told.join(", ")))
}
