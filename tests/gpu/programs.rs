//! Score programs that kernels run step by step, against the program as it is written, read pair by pair.

use super::Only;
use super::case::{Random, bytes, numbers, round};
use super::kernels::Kernels;
use super::scores::{Reading, Score};
use annulus::exec::cuda::{
    AttentionStep, Buffer, BufferRange, CudaError, DeviceTensor, Gpu, KvRows, QRows, StepInput,
};
use annulus::ir::{AttentionSizes, DType, EmptyRow, Factor, ScoreStep, Scores};
use annulus::lower::{Arch, Element, KernelKey, KernelScores, Launch, Rows, kernel, sight};
use annulus::mask::{Fill, Mask, Tile};
use annulus::schedule::{AttentionFacts, Leaf};
use rayon::prelude::*;

const BATCH: usize = 2;
const HEADS: [usize; 2] = [4, 2];
const QUERIES: usize = 190;
/// The last keys first: a launch each.
const KEYS: [(usize, usize); 2] = [(77, 154), (0, 77)];
const ALL_KEYS: usize = 231;

struct Program {
    scores: Scores,
    element: Element,
    dk: usize,
    dv: usize,
}

fn programs() -> Vec<Program> {
    let texts = [
        // On Hopper, with the kernel that does what it leaves.
        "factor -0.1 | softcap 7.0 | round f16 | factor 1.7 | round bf16 | fill -inf unless window(90,3,0)",
        "softcap 20.0 | factor 0.3 | round bf16",
        // On the portable kernel.
        "factor 0.1 | round f16 | add 3 | round f16 | fill replace(-65504.0) unless causal(0) | round f16",
        "round bf16 | add 3 | factor -0.25 | factor leaf 4 | fill add(-1.5) unless causal(2) & tensor(5) & tensor(6) | softcap 3.0 \
         | fill replace(0.5) unless segments(7,123;0) & tensor(7) | fill -inf unless window(130,9,0) & tensor(8)",
        "factor 0.1 | fill -inf unless tensor(3) & causal(30) | softcap 4.0 | add 4 | add 5 | fill -inf unless causal(-20)",
        "add 3 | factor -0.1 | add 4 | factor leaf 5 | fill add(-10000.0) unless causal(0) | add 6 | add 7 | add 8",
    ];
    let heads = [(128, 128), (64, 64), (192, 128), (36, 20), (256, 256), (96, 80)];
    let mut all = vec![];
    for (i, text) in texts.iter().enumerate() {
        for (j, element) in [Element::F16, Element::Bf16, Element::F32].into_iter().enumerate() {
            let scores = text.parse().expect("a score program");
            let (dk, dv) = heads[(2 * i + j) % heads.len()];
            all.push(Program { scores, element, dk, dv });
        }
    }
    all
}

/// A tensor over batch entries, heads, rows and keys, as numbers that its type holds.
struct Tensor {
    dtype: DType,
    strides: [usize; 4],
    numbers: Vec<f32>,
}

impl Program {
    fn name(&self) -> String {
        format!("program {} {:?} d{}/{}", self.scores, self.element, self.dk, self.dv)
    }

    /// One for each operand from 3 on, in turn along other axes and in another type.
    fn tensors(&self, random: &mut Random) -> Vec<Tensor> {
        let one = |(i, (_, truth)): (usize, (usize, bool))| {
            let [b, h, q, k] = [BATCH, HEADS[0], QUERIES, ALL_KEYS];
            let (strides, count) = match i % 3 {
                0 => ([h * q * k, q * k, k, 1], b * h * q * k),
                1 => ([k, 0, 0, 1], b * k),
                _ => ([0, k, 0, 1], h * k),
            };
            let element = if i % 2 == 0 { Element::F32 } else { self.element };
            let number = |x: f32| match truth {
                true => f32::from(u8::from(x > -0.7)),
                false if x > 2.2 => f32::NEG_INFINITY,
                false => round(element, x),
            };
            let numbers = (0..count).map(|_| number(random.normal())).collect();
            let dtype = if truth { DType::Bool } else { dtype(element) };
            Tensor { dtype, strides, numbers }
        };
        self.scores.leaves().enumerate().map(one).collect()
    }

    /// The kernel of a launch.
    fn key(&self, tensors: &[DType], launch: usize, arch: Arch) -> KernelKey {
        let leaf = |dtype: &DType| Leaf { dtype: *dtype, shape: [1; 4], by_query_rows: false };
        let facts = AttentionFacts {
            sizes: AttentionSizes {
                batch: BATCH,
                q_heads: HEADS[0],
                kv_heads: HEADS[1],
                q_len: QUERIES,
                kv_len: ALL_KEYS,
                head_dim: self.dk,
                v_head_dim: self.dv,
            },
            dtype: dtype(self.element),
            acc: DType::F32,
            scores: self.scores.clone(),
            sinks: None,
            dropout: None,
            empty_row: EmptyRow::Zero,
            lse: true,
            leaves: tensors.iter().map(leaf).collect(),
        };
        let step = Launch {
            carry_in: launch > 0,
            cast_out: launch + 1 == KEYS.len(),
            ..Launch::whole(Tile::Partial, KEYS[launch].1)
        };
        kernel(&facts, step, arch).expect("a kernel")
    }
}

fn dtype(element: Element) -> DType {
    match element {
        Element::F16 => DType::F16,
        Element::Bf16 => DType::BF16,
        Element::F32 => DType::F32,
    }
}

/// Every key that the programs use.
pub(crate) fn keys(arch: Arch) -> Vec<KernelKey> {
    let of = |program: &Program| {
        let types: Vec<DType> = program.tensors(&mut Random(1)).iter().map(|t| t.dtype).collect();
        (0..KEYS.len()).map(|launch| program.key(&types, launch, arch)).collect::<Vec<_>>()
    };
    programs().iter().flat_map(of).collect()
}

pub(crate) fn run(
    gpu: &Gpu,
    kernels: &Kernels,
    arch: Arch,
    only: &Only,
) -> Vec<(String, Result<String, String>)> {
    let named = programs().into_iter().map(|p| (p.name(), p));
    let chosen = named.filter(|(name, _)| only.takes(name));
    chosen.map(|(name, program)| (name, one(gpu, kernels, arch, &program))).collect()
}

/// q (B, Hq, rows, Dk), k and v (B, Hkv, keys, D).
struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    tensors: Vec<Tensor>,
}

fn one(gpu: &Gpu, kernels: &Kernels, arch: Arch, program: &Program) -> Result<String, String> {
    let mut random = Random(program.dk as u64);
    let mut take =
        |n: usize| -> Vec<f32> { (0..n).map(|_| round(program.element, random.normal())).collect() };
    let (q, k) =
        (take(BATCH * HEADS[0] * QUERIES * program.dk), take(BATCH * HEADS[1] * ALL_KEYS * program.dk));
    let v = take(BATCH * HEADS[1] * ALL_KEYS * program.dv);
    let inputs = Inputs { q, k, v, tensors: program.tensors(&mut random) };
    let launch = || launch(gpu, kernels, arch, program, &inputs).map_err(|e| e.to_string());
    let (out, lse) = launch()?;
    if launch()? != (out.clone(), lse.clone()) {
        return Err("a second run gives other bits".into());
    }
    compare(program, &inputs, &numbers(program.element, &out), &numbers(Element::F32, &lse))
}

fn at(buffer: &Buffer) -> BufferRange<'_> {
    BufferRange { buffer, offset: 0 }
}

fn launch(
    gpu: &Gpu,
    kernels: &Kernels,
    arch: Arch,
    program: &Program,
    inputs: &Inputs,
) -> Result<(Vec<u8>, Vec<u8>), CudaError> {
    let heads = BATCH * HEADS[0];
    let upload = |x: &[f32]| gpu.upload(&bytes(program.element, x));
    let (q, out) =
        (upload(&inputs.q)?, gpu.filled(heads * QUERIES * program.dv * program.element.bytes(), 0xff)?);
    let (lse, carry) =
        (gpu.filled(heads * QUERIES * 4, 0xff)?, gpu.filled(heads * QUERIES * (program.dv + 2) * 4, 0xff)?);
    let tensor = |t: &Tensor| match t.dtype {
        DType::Bool => gpu.upload(&t.numbers.iter().map(|x| *x as u8).collect::<Vec<u8>>()),
        DType::F32 => gpu.upload(&bytes(Element::F32, &t.numbers)),
        _ => upload(&t.numbers),
    };
    let tensors = inputs.tensors.iter().map(tensor).collect::<Result<Vec<Buffer>, _>>()?;
    let KernelScores::Steps { steps, seen } = KernelScores::of(&program.scores, Tile::Partial) else {
        return Err(CudaError::Launch("the program is of the usual order".into()));
    };
    // A window, and the documents where there are any.
    let positions = |mask: &Mask| {
        let sight = sight(mask, QUERIES, BATCH);
        let side = |documents: &[[i32; 2]], i: usize| {
            gpu.upload(&documents.iter().flat_map(|d| d[i].to_le_bytes()).collect::<Vec<u8>>())
        };
        let documents =
            sight.documents.map(|d| Ok::<_, CudaError>([side(&d, 0)?, side(&d, 1)?])).transpose()?;
        Ok::<_, CudaError>((sight.window, documents))
    };
    let seen = positions(&seen)?;
    let bands = steps.iter().map(|s| s.mask().map(&positions).transpose()).collect::<Result<Vec<_>, _>>()?;
    let mut inputs_of_steps = vec![];
    for (step, band) in steps.iter().zip(&bands) {
        let tensor = |(n, _): (usize, bool)| DeviceTensor {
            at: at(&tensors[n - 3]),
            strides: inputs.tensors[n - 3].strides,
            local_rows: n % 2 == 0,
        };
        let number = match *step {
            ScoreStep::Factor(Factor::Number(x)) | ScoreStep::Softcap(x) => x as f32,
            ScoreStep::Fill(Mask { fill: Fill::Replace(x) | Fill::Add(x), .. }) => x as f32,
            _ => 0.0,
        };
        let (window, documents) = band.as_ref().map_or(([None; 2], None), |(w, d)| (*w, d.as_ref()));
        inputs_of_steps.push(StepInput {
            number,
            window,
            documents: documents.map(|[a, b]: &[Buffer; 2]| [at(a), at(b)]),
            leaves: step.leaves().map(tensor).collect(),
        });
    }
    let types: Vec<DType> = inputs.tensors.iter().map(|t| t.dtype).collect();
    let q_rows = Rows { start: 0, step: 1, len: QUERIES as i32, local: 0 };
    for (i, (first, len)) in KEYS.into_iter().enumerate() {
        let key = program.key(&types, i, arch);
        let gather = |x: &[f32], d: usize| {
            let heads = 0..BATCH * HEADS[1];
            upload(
                &heads
                    .flat_map(|h| &x[(h * ALL_KEYS + first) * d..][..len * d])
                    .copied()
                    .collect::<Vec<f32>>(),
            )
        };
        let (k, v) = (gather(&inputs.k, program.dk)?, gather(&inputs.v, program.dv)?);
        let rows = Rows { start: first as i32, step: 1, len: len as i32, local: 0 };
        let step = AttentionStep {
            batch: BATCH,
            q_heads: HEADS[0],
            kv_heads: HEADS[1],
            q_rows: QUERIES,
            head_dims: [program.dk, program.dv],
            q: at(&q),
            out: key.cast_out.then_some(at(&out)),
            lse: key.cast_out.then_some(at(&lse)),
            q_pieces: vec![QRows { rows: q_rows, carry: Some(at(&carry)) }],
            kv_pieces: vec![KvRows { rows, k: at(&k), v: at(&v) }],
            scale: 1.0,
            softcap: 0.0,
            empty_row: 0.0,
            window: seen.0,
            shift: None,
            documents: seen.1.as_ref().map(|[a, b]| [at(a), at(b)]),
            fill: 0.0,
            bias: None,
            mask: None,
            sinks: None,
            steps: inputs_of_steps.clone(),
        };
        gpu.attn_partial(&*kernels.get(&key)?, kernels.redo(&key)?.as_deref(), &step)?;
        gpu.finish()?;
    }
    Ok((gpu.download(&out)?, gpu.download(&lse)?))
}

/// Each row in f64, and what its scores' own errors and the types of weights and result may put it off.
fn compare(program: &Program, inputs: &Inputs, out: &[f32], lse: &[f32]) -> Result<String, String> {
    let (dk, dv) = (program.dk, program.dv);
    let unit = match program.element {
        Element::Bf16 => 2f64.powi(-8),
        Element::F16 => 2f64.powi(-11),
        Element::F32 => 2f64.powi(-20),
    };
    let row = |index: usize| -> Result<f64, String> {
        let (head, row) = (index / QUERIES, index % QUERIES);
        let (batch, q_head) = (head / HEADS[0], head % HEADS[0]);
        let kv = batch * HEADS[1] + q_head / (HEADS[0] / HEADS[1]);
        let reading = Reading { steps: program.scores.steps(), acc: DType::F32 };
        let score = |key: usize| {
            let pairs =
                inputs.q[index * dk..][..dk].iter().zip(&inputs.k[(kv * ALL_KEYS + key) * dk..][..dk]);
            let products = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (sum, size) = products.fold((0.0, 0.0), |(s, t): (f64, f64), x| (s + x, t + x.abs()));
            let leaf = |n: usize| {
                let t = &inputs.tensors[n - 3];
                let at = [batch, q_head, row, key].iter().zip(t.strides).map(|(x, s)| x * s).sum::<usize>();
                f64::from(t.numbers[at])
            };
            reading.score([batch, row, key], sum, size * 2f64.powi(-21), &leaf)
        };
        let scores: Vec<Score> = (0..ALL_KEYS).map(score).collect();
        let most = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
        let empty = most == f64::NEG_INFINITY;
        let (mut sum, mut blur) = (0.0, 0.0);
        let mut columns = vec![[0.0; 3]; dv];
        for (key, s) in scores.iter().enumerate().filter(|(_, s)| s.value != f64::NEG_INFINITY) {
            let weight = (s.value - most).exp();
            let off = weight * (s.error.exp() - 1.0);
            (sum, blur) = (sum + weight, blur + off);
            for (column, v) in columns.iter_mut().zip(&inputs.v[(kv * ALL_KEYS + key) * dv..][..dv]) {
                let v = f64::from(*v);
                *column = [column[0] + weight * v, column[1] + weight * v.abs(), column[2] + off * v.abs()];
            }
        }
        let want = if empty { f64::NEG_INFINITY } else { most + sum.ln() };
        let got = f64::from(lse[index]);
        let within = blur / sum + want.abs() * 2f64.powi(-21) + 1e-4;
        if got != want && ((got - want).abs() > within || (got - want).is_nan()) {
            return Err(format!("lse of row {index} is {got}, not {want} ± {within:.1e}"));
        }
        let mut worst = 0.0f64;
        for (d, [o, size, off]) in columns.into_iter().enumerate() {
            let want = if empty { 0.0 } else { o / sum };
            let within =
                if empty { 0.0 } else { (off + size * unit + o.abs() * (blur / sum + unit)) / sum + 1e-6 };
            let got = f64::from(out[index * dv + d]);
            if (got - want).abs() > within || (got - want).is_nan() {
                return Err(format!("row {index} column {d} is {got}, not {want} ± {within:.1e}"));
            }
            worst = worst.max((got - want).abs());
        }
        Ok(worst)
    };
    let worst = (0..BATCH * HEADS[0] * QUERIES).into_par_iter().map(row).collect::<Result<Vec<f64>, _>>()?;
    Ok(format!("worst number {:.1e}", worst.into_iter().fold(0.0, f64::max)))
}
