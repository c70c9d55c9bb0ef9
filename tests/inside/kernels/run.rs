//! Runs a problem chunk by chunk, as a schedule would, and holds it against the reference.

use super::build::Compiler;
use super::faults::Fault;
use super::problem::{FAR, Leaf, Problem, Rows};
use super::reference;
use annulus::ir::{DType, Factor, ScoreStep};
use annulus::lower::{Arch, Element, KernelKey, KernelScores, Operand, Sight, Tiling, sight};
use annulus::mask::{Fill, Mask, Tile};
use half::{bf16, f16};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a wrong kernel does: the machine's fault, or the place and size of a wrong number. The last launch is by this kernel,
/// those before by the same kernel where it hands on a carry. Faults: in its text, and in that of the kernel behind it.
pub(crate) fn check(
    compiler: &Compiler,
    key: &KernelKey,
    p: &Problem,
    [fault, behind]: [Option<&Fault>; 2],
    seeds: &[u64],
) -> Result<(), String> {
    let mut output = Vec::new();
    for i in 0..p.chunks.len() {
        let last = i + 1 == p.chunks.len();
        let key = KernelKey {
            carry_in: i > 0,
            cast_out: key.cast_out && last,
            sinks: if last { key.sinks } else { Operand::None },
            ..*key
        };
        let before = split(p, &output);
        let fresh = Played { output: Vec::new(), odd: vec![0; sixteens(p)] };
        let mut done = play((compiler, &key, fault), p, i, &before, fresh, seeds)?;
        // The kernel behind it does what it left; where all values are finite, nothing.
        if let Some(redo) = key.redo(Arch::Sm90a).filter(|_| done.odd.contains(&1)) {
            if finite(p) {
                return Err("rows are left, though all values are finite".into());
            }
            let before = if key.cast_out { before } else { split(p, &done.output) };
            done = play((compiler, &redo, behind), p, i, &before, done, seeds)?;
        }
        if done.odd.contains(&1) {
            return Err("rows are left".into());
        }
        output = done.output;
    }
    if key.cast_out { compare_out(p, &output) } else { compare_carry(p, &split(p, &output)) }
}

/// What a launch hands on: the output and lse, or the carries; and a byte for sixteen rows each that are left to the next.
struct Played {
    output: Vec<u8>,
    odd: Vec<u8>,
}

fn sixteens(p: &Problem) -> usize {
    p.batch * p.q_heads * p.pieces.iter().map(|r| r.len.div_ceil(16)).sum::<usize>()
}

fn finite(p: &Problem) -> bool {
    p.chunks.iter().flatten().all(|piece| piece.v.iter().all(|x| x.is_finite()))
}

/// Bytes of a piece's carry: o, m, l.
fn carry_bytes(p: &Problem, piece: &Rows) -> usize {
    4 * p.batch * p.q_heads * piece.len * (p.dv + 2)
}

/// The carries of the pieces; none before the first launch.
fn split(p: &Problem, mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    if bytes.is_empty() {
        return parts;
    }
    for piece in &p.pieces {
        let (part, rest) = bytes.split_at(carry_bytes(p, piece));
        parts.push(part.to_vec());
        bytes = rest;
    }
    parts
}

/// One launch, after which `before` was done; an empty output is a fresh one.
fn play(
    (compiler, key, fault): (&Compiler, &KernelKey, Option<&Fault>),
    p: &Problem,
    chunk: usize,
    carry: &[Vec<u8>],
    before: Played,
    seeds: &[u64],
) -> Result<Played, String> {
    let mut text = Script::default();
    let elements = |x: &[f32]| elements(p.element, x);
    let integers = |x: &[i32]| -> Vec<u8> { x.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let rows = p.batch * p.q_heads * p.q_rows();
    let hopper = matches!(key.tiling, Tiling::Hopper(_));
    let (q, q_at, [q_rows, q_heads]) = p.spread(&elements(&p.q), [p.q_heads, p.q_rows()], p.dk, hopper);
    text.pointer("q", &q, 0);
    text.pointer("counter", &[0; 8], 4);
    // A kernel without one before or behind it has no marks.
    if hopper || before.odd.contains(&1) {
        text.pointer("odd", &before.odd, 1);
    }
    if key.cast_out {
        // Not a number, wherever nobody writes.
        let out = rows * p.dv * p.element.bytes();
        let fresh = vec![0xff; out + rows * 4];
        let there = if before.output.is_empty() { &fresh } else { &before.output };
        text.pointer("out", &there[..out], p.element.bytes());
        text.pointer("lse", &there[out..], 4);
    }
    for (i, piece) in p.pieces.iter().enumerate() {
        let name = if key.carry_in || !key.cast_out {
            let fresh = vec![0xff; carry_bytes(p, piece)];
            let name = format!("carry{i}");
            text.buffer(&name, carry.get(i).unwrap_or(&fresh), 4);
            name
        } else {
            "-".into()
        };
        text.line(format!("q_piece {} {} {} {} {name}", piece.start, piece.step, piece.len, p.local(i)));
        if p.apart {
            let (local, element) = (p.local(i), p.element.bytes());
            let at = q_at + local * p.dk * element;
            let [out, lse] = if key.cast_out { ["out", "lse"] } else { ["-", "-"] };
            let results = format!("{out} {} {lse} {}", local * p.dv * element, local * 4);
            text.line(format!("q_place q {at} {q_rows} {q_heads} {results} {} {}", p.q_rows(), p.q_heads));
        }
    }
    for (i, piece) in p.chunks[chunk].iter().enumerate() {
        let (k, k_at, [rows, heads]) =
            p.spread(&elements(&piece.k), [p.kv_heads, piece.rows.len], p.dk, hopper);
        let (v, v_at, _) = p.spread(&elements(&piece.v), [p.kv_heads, piece.rows.len], p.dv, hopper);
        text.buffer(&format!("k{i}"), &k, 0);
        text.buffer(&format!("v{i}"), &v, 0);
        let r = piece.rows;
        text.line(format!("kv_piece {} {} {} 0 k{i} v{i}", r.start, r.step, r.len));
        if p.apart {
            text.line(format!("kv_place {k_at} {v_at} {rows} {heads}"));
        }
    }
    if let Some(shift) = &p.shift {
        text.pointer("shift", &integers(shift), 0);
    }
    if p.documents.is_some() {
        let rows = p.pieces.iter().map(|r| r.global(r.len.max(1) - 1)).max().unwrap_or(0);
        let documents: Vec<_> = (0..=rows).map(|r| p.document(r)).collect();
        text.pointer("first_key", &integers(&documents.iter().map(|d| d.0).collect::<Vec<_>>()), 0);
        text.pointer("end_key", &integers(&documents.iter().map(|d| d.1).collect::<Vec<_>>()), 0);
    }
    let operand = |leaf: &Leaf, given: Operand| match given {
        Operand::Element => elements(&leaf.numbers),
        _ => leaf.numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    if let Some(mask) = &p.mask {
        let bytes: Vec<u8> = mask.numbers.iter().map(|&x| x as u8).collect();
        text.leaf("mask", mask, &bytes);
    }
    if let Some(bias) = &p.bias {
        text.leaf("bias", bias, &operand(bias, p.bias_in));
    }
    if let Some(sinks) = p.sinks.as_ref().filter(|_| key.sinks != Operand::None) {
        text.leaf("sinks", sinks, &operand(sinks, p.sinks_in));
    }
    let (mut scale, mut softcap, mut fill) = (p.scale, p.softcap.unwrap_or(0.0), p.fill.1);
    let (mut low, mut high) = (p.low, p.high);
    if let Some(program) = &p.program {
        let handed = KernelScores::of(&program.scores, Tile::Partial);
        let end = p.pieces.iter().map(|r| r.global(r.len.max(1) - 1) as usize + 1).max().unwrap_or(0);
        let documents = |text: &mut Script, name: &str, mask: &Mask| {
            let Sight { window, documents, entry_rows } = sight(mask, end, p.batch);
            let band = [window[0].unwrap_or(-FAR), window[1].unwrap_or(FAR)];
            let Some(documents) = documents else { return (band, None, 0) };
            let names = ["first", "end"].map(|side| format!("{name}.{side}"));
            for (side, name) in names.iter().enumerate() {
                let each: Vec<i32> = documents.iter().map(|d| d[side]).collect();
                text.buffer(name, &integers(&each), 0);
            }
            (band, Some(names), entry_rows)
        };
        let (band, names, entry_rows) = documents(&mut text, "seen", handed.seen());
        text.line(format!("set entry_rows {entry_rows}"));
        [low, high] = band;
        for (field, name) in ["first_key", "end_key"].iter().zip(names.iter().flatten()) {
            text.line(format!("at {field} {name}"));
        }
        let read = |text: &mut Script, field: &str, operand: usize| {
            let (leaf, dtype) = &program.leaves[operand - 3];
            let bytes = match dtype {
                DType::Bool => leaf.numbers.iter().map(|&x| x as u8).collect(),
                DType::F32 => leaf.numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
                _ => elements(&leaf.numbers),
            };
            text.leaf(field, leaf, &bytes);
        };
        match &handed {
            KernelScores::Usual { scale: factor, softcap: cap, bias, mask } => {
                (scale, softcap) = (*factor as f32, *cap as f32);
                fill = number(&ScoreStep::Fill(mask.clone()));
                bias.iter().for_each(|n| read(&mut text, "bias", *n));
                let step = ScoreStep::Fill(mask.clone());
                step.leaves().for_each(|(n, _)| read(&mut text, "mask", n));
            }
            KernelScores::Steps { steps, .. } => {
                scale = 1.0;
                let mut leaves = 0;
                for (i, step) in steps.iter().enumerate() {
                    let ([low, high], names, entry_rows) = match step.mask() {
                        Some(mask) => documents(&mut text, &format!("band{i}"), mask),
                        None => ([-FAR, FAR], None, 0),
                    };
                    let [first, end] = names.unwrap_or(["-".into(), "-".into()]);
                    let bits = number(step).to_bits() as i32;
                    text.line(format!("step {i} {bits} {low} {high} {first} {end} {entry_rows}"));
                    for (operand, _) in step.leaves() {
                        read(&mut text, &format!("step{leaves}"), operand);
                        leaves += 1;
                    }
                }
            }
        }
    }
    let integers = [
        ("batch", p.batch as i32),
        ("q_heads", p.q_heads as i32),
        ("kv_heads", p.kv_heads as i32),
        ("group", p.group() as i32),
        ("head_shift", p.head_shift as i32),
        ("q_rows", p.q_rows() as i32),
        ("element", p.element.bytes() as i32),
        ("dk", p.dk as i32),
        ("dv", p.dv as i32),
        ("head_group", p.head_group as i32),
        ("low", low),
        ("high", high),
        ("scale", scale.to_bits() as i32),
        ("softcap", softcap.to_bits() as i32),
        ("fill", fill.to_bits() as i32),
        ("empty_row", p.empty_row.to_bits() as i32),
    ];
    for (name, value) in integers {
        text.line(format!("set {name} {value}"));
    }
    // Portable kernels have no counter: a block takes one tile.
    let blocks = if hopper { p.blocks } else { 0 };
    text.line(format!("launch {blocks}"));
    if key.cast_out {
        text.line("dump out".into());
        text.line("dump lse".into());
    } else {
        (0..p.pieces.len()).for_each(|i| text.line(format!("dump carry{i}")));
    }
    text.line("dump counter".into());
    let marks = if hopper || before.odd.contains(&1) { before.odd.len() } else { 0 };
    if marks > 0 {
        text.line("dump odd".into());
    }
    let mut output = text.run(&compiler.program(key, fault), seeds)?;
    let odd = output.split_off(output.len() - marks);
    let counter = output.split_off(output.len() - 8);
    if counter.iter().any(|&b| b != 0) {
        return Err(format!("the counter is left at {counter:?}"));
    }
    Ok(Played { output, odd })
}

/// The number that a step is handed.
fn number(step: &ScoreStep) -> f32 {
    match *step {
        ScoreStep::Factor(Factor::Number(x)) | ScoreStep::Softcap(x) => x as f32,
        ScoreStep::Fill(Mask { fill: Fill::Replace(x) | Fill::Add(x), .. }) => x as f32,
        _ => 0.0,
    }
}

/// What `shim/launch.cpp` reads.
#[derive(Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    pub(crate) fn line(&mut self, line: String) {
        self.0.extend_from_slice(line.as_bytes());
        self.0.push(b'\n');
    }

    /// A buffer that is written `unit` bytes at a time; 0 if it is only read.
    pub(crate) fn buffer(&mut self, name: &str, bytes: &[u8], unit: usize) {
        self.line(format!("buffer {name} {} {unit}", bytes.len()));
        self.0.extend_from_slice(bytes);
        self.0.push(b'\n');
    }

    pub(crate) fn pointer(&mut self, field: &str, bytes: &[u8], unit: usize) {
        self.buffer(field, bytes, unit);
        self.line(format!("at {field} {field}"));
    }

    /// A launch of so many blocks with this argument.
    pub(crate) fn raw(&mut self, bytes: &[u8], blocks: usize) {
        self.line(format!("raw {} {blocks}", bytes.len()));
        self.0.extend_from_slice(bytes);
        self.0.push(b'\n');
    }

    fn leaf(&mut self, name: &str, leaf: &Leaf, bytes: &[u8]) {
        self.buffer(name, bytes, 0);
        let [batch, head, row, key] = leaf.strides;
        self.line(format!("leaf {name} {name} {batch} {head} {row} {key} {}", u8::from(leaf.local_rows)));
    }

    pub(crate) fn run(&self, program: &Path, seeds: &[u64]) -> Result<Vec<u8>, String> {
        let mut child = Command::new(program)
            .args(seeds.iter().map(u64::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // A program that faults at once does not read all.
            scope.spawn(move || input.write_all(&self.0));
            child.wait_with_output().unwrap()
        });
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Err(format!(
            "{}{}",
            said.trim(),
            if said.is_empty() { output.status.to_string() } else { String::new() }
        ))
    }
}

/// Every row of every head, with its place in q.
fn each_row(
    p: &Problem,
    mut visit: impl FnMut(usize, usize, usize, usize) -> Result<(), String>,
) -> Result<(), String> {
    for batch in 0..p.batch {
        for head in 0..p.q_heads {
            for (piece, rows) in p.pieces.iter().enumerate() {
                for i in 0..rows.len {
                    visit(batch, head, piece, i)
                        .map_err(|e| format!("batch {batch} head {head} piece {piece} row {i}: {e}"))?;
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn near(what: &str, got: f64, want: f64, within: f64) -> Result<(), String> {
    if got == want || (got - want).abs() <= within || (got.is_nan() && want.is_nan()) {
        return Ok(());
    }
    Err(format!("{what} is {got}, not {want} ± {within:.1e}"))
}

fn elements(element: Element, x: &[f32]) -> Vec<u8> {
    match element {
        Element::Bf16 => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Element::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Element::F32 => x.iter().flat_map(|&x| x.to_le_bytes()).collect(),
    }
}

fn values(element: Element, bytes: &[u8]) -> Vec<f64> {
    let halves = bytes.as_chunks::<2>().0.iter();
    match element {
        Element::Bf16 => halves.map(|&b| bf16::from_le_bytes(b).into()).collect(),
        Element::F16 => halves.map(|&b| f16::from_le_bytes(b).into()).collect(),
        Element::F32 => floats(bytes),
    }
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
}

/// Half a unit in the last place of the element type.
fn rounding(p: &Problem) -> f64 {
    match p.element {
        Element::Bf16 => 2f64.powi(-8),
        Element::F16 => 2f64.powi(-11),
        Element::F32 => 2f64.powi(-24),
    }
}

/// Weights are rounded to the element type before they meet v; scores are sums in f32, and exponents as large as they are
/// lose what f32 cannot hold.
fn relative_error(p: &Problem, top: f64) -> f64 {
    rounding(p) + sum_error(top)
}

/// Of sums of weights, which are not rounded.
fn sum_error(top: f64) -> f64 {
    (top + 10.0) * 2f64.powi(-21)
}

/// Rows of which nothing can be said, at most one of four: scores are made so that few lie where rounding makes them infinite.
fn few(p: &Problem, unsure: usize) -> Result<(), String> {
    let all = p.batch * p.q_heads * p.pieces.iter().map(|r| r.len).sum::<usize>();
    if unsure * 4 <= all { Ok(()) } else { Err(format!("{unsure} of {all} rows cannot be judged")) }
}

fn compare_out(p: &Problem, bytes: &[u8]) -> Result<(), String> {
    let count = p.batch * p.q_heads * p.q_rows();
    let (out, lse) = bytes.split_at(count * p.dv * p.element.bytes());
    let (out, lse) = (values(p.element, out), floats(lse));
    let mut unsure = 0;
    each_row(p, |batch, head, piece, i| {
        let want = reference::row(p, batch, head, piece, i);
        if want.unsure {
            unsure += 1;
            return Ok(());
        }
        let at = (batch * p.q_heads + head) * p.q_rows() + p.local(piece) + i;
        let relative = relative_error(p, want.top);
        for d in 0..p.dv {
            let blur = want.blurs[d] + want.out[d].abs() * want.blur;
            let within = want.size[d] * relative + want.out[d].abs() * rounding(p) + blur + 1e-7;
            near(&format!("column {d}"), out[at * p.dv + d], want.out[d], within)?;
        }
        let within = sum_error(want.top) + want.blur + want.lse.abs().min(1e9) * 2f64.powi(-22);
        near("lse", lse[at], want.lse, within)
    })?;
    few(p, unsure)
}

fn compare_carry(p: &Problem, carry: &[Vec<u8>]) -> Result<(), String> {
    let carry: Vec<Vec<f64>> = carry.iter().map(|c| floats(c)).collect();
    let mut unsure = 0;
    each_row(p, |batch, head, piece, i| {
        let want = reference::row(p, batch, head, piece, i);
        if want.unsure {
            unsure += 1;
            return Ok(());
        }
        let rows = p.batch * p.q_heads * p.pieces[piece].len;
        let at = (batch * p.q_heads + head) * p.pieces[piece].len + i;
        let (o, m, l) = (
            &carry[piece][at * p.dv..][..p.dv],
            carry[piece][rows * p.dv + at],
            carry[piece][rows * (p.dv + 1) + at],
        );
        if want.m == f64::NEG_INFINITY {
            near("m", m, want.m, 0.0)?;
            near("l", l, 0.0, 0.0)?;
            return o.iter().try_for_each(|&x| near("o", x, 0.0, 0.0));
        }
        // m is a reference that may stay 8·ln 2 below the maximum.
        let slack = want.slack;
        if !(m <= want.m + slack + 1e-6 && m >= want.m - 5.6 - slack) {
            return Err(format!("m is {m}, and the maximum {}", want.m));
        }
        let factor = (want.m - m).exp();
        let relative = relative_error(p, want.top);
        near("l", l, want.l * factor, want.l * factor * (sum_error(want.top) + want.blur))?;
        for (d, &o) in o.iter().enumerate() {
            let size = want.size[d] * want.l;
            let blur = want.blurs[d] * want.l * factor;
            near(&format!("column {d} of o"), o, want.o[d] * factor, size * factor * relative + blur + 1e-7)?;
        }
        Ok(())
    })?;
    few(p, unsure)
}
