//! Every variant of the kernels against the reference.

use super::Only;
use super::around;
use super::case::{Case, Inputs, Random, Run, bytes, numbers, run as rows};
use super::kernels::Kernels;
use super::programs;
use super::reference::{Reference, reference};
use super::refused;
use annulus::exec::cuda::{AttentionStep, Buffer, BufferRange, CudaError, DeviceTensor, Gpu, KvRows, QRows};
use annulus::lower::{Arch, Element, KernelKey, MaskedScore, Operand};
use std::process::ExitCode;

/// Bytes behind every result that no kernel may touch.
const GUARD: usize = 256;

/// The key of one launch of a case; `None` if the case is not for this GPU.
fn key(case: &Case, launch: usize, arch: Arch) -> Option<KernelKey> {
    let last = launch + 1 == case.launches.len();
    let keys = if case.long { usize::MAX } else { 0 };
    let plain = if case.portable {
        KernelKey::portable(case.element, case.dk, case.dv, case.positions(), arch)?
    } else if arch == Arch::Sm90a {
        KernelKey::hopper(case.element, case.dk, case.dv, case.positions())?.for_keys(keys)
    } else {
        return None;
    };
    Some(KernelKey {
        softcap: case.softcap > 0.0,
        carry_in: launch > 0,
        cast_out: last,
        sinks: if last { case.sinks } else { Operand::None },
        bias: case.bias,
        mask: case.mask,
        fill: case.fill,
        ..plain
    })
}

/// Every key that the cases use.
pub(crate) fn keys(arch: Arch) -> Vec<KernelKey> {
    let of = |case: &Case| (0..case.launches.len()).filter_map(|i| key(case, i, arch)).collect::<Vec<_>>();
    cases().iter().flat_map(of).collect()
}

pub(crate) fn run(gpu: &Gpu, arch: Arch, only: &Only) -> ExitCode {
    let kernels = Kernels::new(gpu, arch);
    let (mut passed, mut failed) = (0, 0);
    for case in cases().iter().filter(|c| key(c, 0, arch).is_some() && only.takes_case(c)) {
        match one(gpu, &kernels, arch, case) {
            Ok(told) => {
                passed += 1;
                println!("ok    {}: {told}", case.name);
            }
            Err(why) => {
                failed += 1;
                println!("WRONG {}: {why}", case.name);
            }
        }
    }
    let others = around::run(gpu, &kernels, only);
    for (name, result) in others.into_iter().chain(programs::run(gpu, &kernels, arch, only)) {
        match result {
            Ok(told) => {
                passed += 1;
                println!("ok    {name}: {told}");
            }
            Err(why) => {
                failed += 1;
                println!("WRONG {name}: {why}");
            }
        }
    }
    if only.takes("refused") {
        let wrong = refused::run(gpu, &kernels, arch).unwrap_or_else(|e| vec![e.to_string()]);
        wrong.iter().for_each(|why| println!("WRONG launches to refuse: {why}"));
        failed += wrong.len();
        passed += usize::from(wrong.is_empty());
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn one(gpu: &Gpu, kernels: &Kernels, arch: Arch, case: &Case) -> Result<String, String> {
    let inputs = case.inputs(case.name.bytes().fold(7, |n, b| n.wrapping_mul(31).wrapping_add(u64::from(b))));
    let expected = reference(case, &inputs);
    let first = launch(gpu, kernels, arch, case, &inputs).map_err(|e| e.to_string())?;
    let told = compare(case, &expected, &first)?;
    let again = launch(gpu, kernels, arch, case, &inputs).map_err(|e| e.to_string())?;
    if again != first {
        return Err(format!("{told}, but a second run gives other bits"));
    }
    Ok(told)
}

fn at(buffer: &Buffer) -> BufferRange<'_> {
    BufferRange { buffer, offset: 0 }
}

/// Bytes of out and lse.
type Results = (Vec<u8>, Vec<u8>);

fn launch(
    gpu: &Gpu,
    kernels: &Kernels,
    arch: Arch,
    case: &Case,
    inputs: &Inputs,
) -> Result<Results, CudaError> {
    let upload = |x: &[f32]| gpu.upload(&bytes(case.element, x));
    let operand = |kind: Operand, x: &[f32]| match kind {
        Operand::None => gpu.upload(&[0]),
        Operand::F32 => gpu.upload(&bytes(Element::F32, x)),
        Operand::Element => upload(x),
    };
    let words = |x: &[i32]| gpu.upload(&x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let heads = case.batch * case.q_heads;
    let (q_rows, dv) = (case.q_rows(), case.dv);
    let q = upload(&inputs.q)?;
    let sinks = operand(case.sinks, &inputs.sinks)?;
    let bias = operand(case.bias, &inputs.bias)?;
    let mask = gpu.upload(if case.mask { &inputs.mask } else { &[0] })?;
    let pairs = case.last_q_row() * case.keys();
    let tensor = |buffer, strides| DeviceTensor { at: at(buffer), strides, local_rows: false };
    let out_bytes = heads * q_rows * dv * case.element.bytes();
    let lse_bytes = heads * q_rows * 4;
    let out = gpu.filled(out_bytes + GUARD, 0xff)?;
    let lse = gpu.filled(lse_bytes + GUARD, 0xff)?;
    let carries: Vec<Buffer> = case
        .q
        .iter()
        .map(|r| gpu.filled(heads * r.len as usize * (dv + 2) * 4 + GUARD, 0xff))
        .collect::<Result<_, _>>()?;
    let shift = case.shift.as_ref().map(|s| words(s)).transpose()?;
    let documents = match &case.documents {
        None => None,
        Some(_) => {
            let all: Vec<(i32, i32)> =
                (0..case.last_q_row() as i32).filter_map(|r| case.document(r)).collect();
            let (first, end): (Vec<i32>, Vec<i32>) = all.into_iter().unzip();
            Some([words(&first)?, words(&end)?])
        }
    };
    let mut locals = 0;
    let q_pieces: Vec<QRows> = case
        .q
        .iter()
        .zip(&carries)
        .map(|(r, carry)| {
            let rows = r.rows(locals);
            locals += r.len;
            QRows { rows, carry: Some(at(carry)) }
        })
        .collect();
    for (i, pieces) in case.launches.iter().enumerate() {
        let Some(key) = key(case, i, arch) else { return Err(CudaError::Launch("no such kernel".into())) };
        let gather = |x: &[f32], d: usize, r: &Run| {
            let heads = 0..case.batch * case.kv_heads;
            let taken = heads.flat_map(|h| r.globals().map(move |row| (h * case.keys() + row as usize) * d));
            upload(&taken.flat_map(|at| x[at..][..d].iter().copied()).collect::<Vec<f32>>())
        };
        let buffers: Vec<(Buffer, Buffer)> = pieces
            .iter()
            .map(|r| Ok((gather(&inputs.k, case.dk, r)?, gather(&inputs.v, case.dv, r)?)))
            .collect::<Result<_, CudaError>>()?;
        let kv_pieces =
            pieces.iter().zip(&buffers).map(|(r, (k, v))| KvRows { rows: r.rows(0), k: at(k), v: at(v) });
        let step = AttentionStep {
            batch: case.batch,
            q_heads: case.q_heads,
            kv_heads: case.kv_heads,
            q_rows,
            head_dims: [case.dk, case.dv],
            q: at(&q),
            out: key.cast_out.then_some(at(&out)),
            lse: key.cast_out.then_some(at(&lse)),
            q_pieces: q_pieces.clone(),
            kv_pieces: kv_pieces.collect(),
            scale: case.scale,
            softcap: case.softcap,
            empty_row: case.empty_row,
            window: case.window,
            shift: shift.as_ref().map(at),
            documents: documents.as_ref().map(|[a, b]| [at(a), at(b)]),
            fill: case.fill_value(),
            sinks: (key.sinks != Operand::None).then(|| tensor(&sinks, [0, 1, 0, 0])),
            bias: (key.bias != Operand::None).then(|| tensor(&bias, [0, pairs, case.keys(), 1])),
            mask: key.mask.then(|| tensor(&mask, [pairs, 0, case.keys(), 1])),
            steps: vec![],
        };
        gpu.attn_partial(&*kernels.get(&key)?, kernels.redo(&key)?.as_deref(), &step)?;
        gpu.finish()?;
    }
    let out = gpu.download(&out)?;
    let lse = gpu.download(&lse)?;
    let carries = carries.iter().map(|c| gpu.download(c)).collect::<Result<Vec<_>, _>>()?;
    let guarded = carries.iter().map(|c| ("a carry", c, c.len() - GUARD));
    for (what, bytes, used) in [("out", &out, out_bytes), ("lse", &lse, lse_bytes)].into_iter().chain(guarded)
    {
        if bytes[used..].iter().any(|b| *b != 0xff) {
            return Err(CudaError::Launch(format!("bytes behind {what} were written")));
        }
    }
    Ok((out[..out_bytes].to_vec(), lse[..lse_bytes].to_vec()))
}

fn compare(case: &Case, expected: &Reference, (out, lse): &Results) -> Result<String, String> {
    let (mut wrong, mut size) = (0.0f64, 0.0f64);
    let (out, lse) = (numbers(case.element, out), numbers(Element::F32, lse));
    for (i, (got, want)) in out.iter().zip(&expected.out).enumerate() {
        let got = f64::from(*got);
        if !got.is_finite() || !want.is_finite() {
            if got != *want && !(got.is_nan() && want.is_nan()) {
                let (row, column) = (i / case.dv, i % case.dv);
                return Err(format!("out row {row} column {column} is {got}, not {want}"));
            }
            continue;
        }
        wrong += (got - want).powi(2);
        size += want.powi(2);
    }
    let error = (wrong / size.max(1e-30)).sqrt();
    // One wrong row among many good ones: by itself, against its own size or, where that is small, a typical one.
    let typical = (size / (out.len() / case.dv).max(1) as f64).sqrt();
    let row_error = |row: usize| {
        let at = row * case.dv..(row + 1) * case.dv;
        let pairs = out[at.clone()].iter().zip(&expected.out[at]);
        let finite = pairs.filter(|(got, want)| got.is_finite() && want.is_finite());
        let (wrong, size) = finite.fold((0.0f64, 0.0f64), |(w, s), (got, want)| {
            (w + (f64::from(*got) - want).powi(2), s + want.powi(2))
        });
        wrong.sqrt() / size.sqrt().max(typical / 4.0).max(1e-15)
    };
    let worst = (0..out.len() / case.dv).map(row_error).fold(0.0f64, f64::max);
    let mut lse_error = 0.0f64;
    for (row, (got, want)) in lse.iter().zip(&expected.lse).enumerate() {
        let got = f64::from(*got);
        if got == *want {
            continue;
        }
        // Logits of 1e4 carry the rounding of f32 scores.
        let difference = (got - want).abs() / (1.0 + want.abs() * 1e-3);
        if !difference.is_finite() {
            return Err(format!("lse of row {row} is {got}, not {want}"));
        }
        lse_error = lse_error.max(difference);
    }
    let told = format!("out {error:.1e} worst row {worst:.1e} lse {lse_error:.1e}");
    let bound: f64 = match case.element {
        Element::Bf16 => 5e-3,
        Element::F16 => 1e-3,
        Element::F32 => 2e-6,
    };
    // Scores of 1e4 in f32 are known to 1e-3, and weights with them.
    let bound = if case.gain > 10.0 { bound.max(1e-3) * 2.0 } else { bound };
    if error > bound || worst > 6.0 * bound || lse_error > 1e-3 { Err(told) } else { Ok(told) }
}

/// The cases of the fastest kernels, then all of them again on the portable one, then what only that has.
fn cases() -> Vec<Case> {
    let mut all = common_cases();
    let portable = |mut case: Case| {
        case.portable = true;
        case.name.push_str(" portable");
        case
    };
    let common: Vec<Case> = all.clone();
    let long = common.iter().filter(|c| (65..=128).contains(&c.dk.max(c.dv)) && c.softcap == 0.0);
    all.extend(long.cloned().map(|mut case| {
        case.long = true;
        case.name.push_str(" long");
        case
    }));
    all.extend(common.iter().cloned().map(portable));
    let f32_too = |case: &&Case| case.element == Element::Bf16 && case.gain < 10.0;
    all.extend(common.iter().filter(f32_too).cloned().map(|mut case| {
        case.element = Element::F32;
        case.name.push_str(" f32");
        portable(case)
    }));
    all.extend(masked_cases().into_iter().map(portable));
    all
}

/// Bias, boolean mask, finite fills, head sizes that are no multiple of eight.
fn masked_cases() -> Vec<Case> {
    let mut all = vec![];
    let elements = [Element::Bf16, Element::F16, Element::F32];
    let fills = [MaskedScore::NegInf, MaskedScore::Replace, MaskedScore::Add];
    let operands = [Operand::None, Operand::F32, Operand::Element];
    for (i, element) in elements.into_iter().enumerate() {
        for (j, fill) in fills.into_iter().enumerate() {
            for (k, bias) in operands.into_iter().enumerate() {
                for mask in [false, true] {
                    let turn = i + j + k;
                    let (dk, dv) =
                        [(64, 64), (128, 128), (33, 17), (96, 80), (192, 128), (36, 256)][turn % 6];
                    let mut case =
                        base(&format!("{element:?} {fill:?} bias {bias:?} mask {mask}"), dk, dv, 190, 231);
                    (case.element, case.fill, case.bias, case.mask, case.batch) =
                        (element, fill, bias, mask, 2);
                    if !mask || turn % 2 == 0 {
                        case.window = [Some(-90), Some(1)];
                    }
                    if element == Element::F32 && bias == Operand::Element {
                        case.bias = Operand::F32;
                    }
                    case.sinks = if element == Element::F32 { Operand::F32 } else { operands[turn % 3] };
                    case.launches = vec![vec![rows(77, 1, 154)], vec![rows(0, 1, 77)]];
                    all.push(case);
                }
            }
        }
    }
    all
}

/// One attention without anything special.
fn base(name: &str, dk: usize, dv: usize, sq: i32, sk: i32) -> Case {
    Case {
        name: format!("{name} d{dk}/{dv} {sq}x{sk}"),
        portable: false,
        long: false,
        element: Element::Bf16,
        batch: 1,
        q_heads: 4,
        kv_heads: 2,
        dk,
        dv,
        q: vec![rows(0, 1, sq)],
        launches: vec![vec![rows(0, 1, sk)]],
        window: [None, None],
        shift: None,
        documents: None,
        softcap: 0.0,
        sinks: Operand::None,
        bias: Operand::None,
        mask: false,
        fill: MaskedScore::NegInf,
        scale: 1.0 / (dk as f32).sqrt(),
        gain: 1.0,
        empty_row: 0.0,
        odd: false,
    }
}

fn common_cases() -> Vec<Case> {
    let causal = [None, Some(1)];
    let mut all = vec![];
    // Every pair of head sizes with a tile of its own, in both types, with and without positions, at odd lengths.
    let dims = [
        (64, 64),
        (128, 128),
        (192, 128),
        (256, 256),
        (192, 192),
        (256, 128),
        (64, 128),
        (128, 64),
        (40, 72),
        (8, 8),
    ];
    for (dk, dv) in dims {
        for element in [Element::Bf16, Element::F16] {
            for window in [[None, None], causal] {
                let kind = if window == causal { "causal" } else { "full" };
                let mut case = base(&format!("{kind} {element:?}"), dk, dv, 333, 517);
                if window == causal {
                    case = base(&format!("{kind} {element:?}"), dk, dv, 517, 517);
                }
                case.element = element;
                case.window = window;
                all.push(case);
            }
        }
    }
    // Lengths around the tiles.
    for (sq, sk) in
        [(1, 1), (1, 1000), (63, 64), (128, 128), (129, 127), (1024, 1024), (191, 193), (7, 176), (300, 177)]
    {
        let mut case = base("length", 128, 128, sq, sk);
        case.name.push_str(" full");
        all.push(case);
        let mut case = base("length", 128, 128, sq, sk);
        case.window = [None, Some(1 + sk - sq)];
        case.name.push_str(" causal from the end");
        all.push(case);
    }
    for (hq, hkv, batch) in [(8, 1, 1), (3, 3, 2), (12, 4, 1), (6, 2, 3)] {
        let mut case = base(&format!("heads {hq}/{hkv} batch {batch}"), 128, 128, 200, 300);
        (case.q_heads, case.kv_heads, case.batch) = (hq, hkv, batch);
        case.window = [None, Some(101)];
        all.push(case);
    }
    // Windows, offsets and rows that see nothing.
    for (window, empty) in [
        ([Some(-100), Some(1)], 0.0),
        ([Some(-3), Some(4)], 0.0),
        ([None, Some(-200)], 0.0),
        ([Some(900), None], f32::NAN),
    ] {
        let mut case = base(&format!("window {window:?} empty {empty}"), 64, 64, 700, 700);
        case.window = window;
        case.empty_row = empty;
        all.push(case);
    }
    let mut case = base("shift per batch", 128, 128, 300, 400);
    (case.batch, case.window, case.shift) = (3, [Some(-150), Some(1)], Some(vec![100, -120, 0]));
    all.push(case);
    let mut case = base("documents", 128, 128, 640, 640);
    (case.window, case.documents) = (causal, Some(vec![0, 1, 200, 333, 334, 600]));
    all.push(case);
    // Rings: chunks of keys in any order, carries between the launches, the zigzag layout.
    let mut random = Random(11);
    for (dk, dv, element) in [
        (64, 64, Element::F16),
        (128, 128, Element::Bf16),
        (192, 128, Element::Bf16),
        (256, 256, Element::F16),
    ] {
        for chunks in [2, 3, 8] {
            for window in [[None, None], causal] {
                let kind = if window == causal { "causal" } else { "full" };
                let len = 840 / chunks;
                let mut case = base(&format!("ring of {chunks} {kind}"), dk, dv, 840, 840);
                case.element = element;
                case.window = window;
                case.q = vec![rows(0, 1, 300), rows(300, 1, 540)];
                case.launches = (0..chunks).map(|c| vec![rows(c * len, 1, len)]).collect();
                for i in (1..case.launches.len()).rev() {
                    case.launches.swap(i, (random.next() % (i as u64 + 1)) as usize);
                }
                all.push(case);
            }
        }
    }
    let mut case = base("zigzag", 128, 128, 256, 1024);
    case.window = causal;
    case.q = vec![rows(128, 1, 128), rows(768, 1, 128)];
    case.launches = (0..4).map(|r| vec![rows(r * 128, 1, 128), rows((7 - r) * 128, 1, 128)]).collect();
    all.push(case);
    let mut case = base("stripe", 128, 128, 250, 1000);
    case.window = causal;
    case.q = vec![rows(2, 4, 250)];
    case.launches = [2, 0, 3, 1].map(|r| vec![rows(r, 4, 250)]).into();
    all.push(case);
    let mut case = base("eight pieces", 64, 64, 800, 800);
    case.window = causal;
    case.q = (0..8).map(|i| rows(i * 100, 1, 100)).collect();
    case.launches = vec![(0..8).map(|i| rows(i * 100, 1, 100)).collect()];
    all.push(case);
    let mut case = base("no keys at all", 128, 128, 200, 0);
    (case.launches, case.empty_row) = (vec![vec![]], 0.0);
    all.push(case);
    // Values that are not finite: hidden from most rows, seen by some; also where a launch before hands on a carry.
    for (dk, dv, chunks) in [(128, 128, 1), (64, 64, 2), (192, 128, 3), (256, 256, 1)] {
        let mut case = base(&format!("odd values in {chunks}"), dk, dv, 900, 900);
        (case.window, case.odd) = (causal, true);
        case.launches = (0..chunks).map(|c| vec![rows(c * (900 / chunks), 1, 900 / chunks)]).rev().collect();
        all.push(case);
    }
    // Softcap at heads of 64, which have fewer warpgroups then, sinks, and logits of 1e4.
    let mut case = base("softcap 30 of heads of 64", 64, 64, 300, 300);
    (case.softcap, case.gain, case.window) = (30.0, 4.0, causal);
    all.push(case);
    for (softcap, sinks, gain) in
        [(30.0, false, 4.0), (0.0, true, 1.0), (5.0, true, 4.0), (0.0, false, 1e3), (0.0, true, 1e3)]
    {
        for window in [[None, None], causal] {
            for chunks in [1, 3] {
                let kind = if window == causal { "causal" } else { "full" };
                let mut case = base(
                    &format!("softcap {softcap} sinks {sinks} gain {gain} {kind} in {chunks}"),
                    128,
                    128,
                    300,
                    300,
                );
                (case.softcap, case.gain, case.window) = (softcap, gain, window);
                case.sinks = if sinks { Operand::F32 } else { Operand::None };
                case.launches =
                    (0..chunks).map(|c| vec![rows(c * (300 / chunks), 1, 300 / chunks)]).collect();
                if gain > 100.0 {
                    case.scale = 1.0;
                    case.gain = gain / (128f32).sqrt();
                }
                all.push(case);
            }
        }
    }
    all
}
