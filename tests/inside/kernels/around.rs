//! The kernels around attn_partial: merges, packing, casts and the end of a carry.
//!
//! `shim/launch.cpp` hands over what attention has; here each kernel's `enter` makes its own arguments of that.

use super::build::compiler;
use super::run::{Script, near};
use annulus::lower::{CONTRACT, Element, Helper, Operand};
use half::{bf16, f16};

/// Runs the script by the kernel under several orders of threads, which must agree.
fn run(helper: Helper, enter: &str, script: &Script) -> Vec<u8> {
    play(helper, helper.body(), enter, script).unwrap()
}

fn play(helper: Helper, body: &str, enter: &str, script: &Script) -> Result<Vec<u8>, String> {
    let bf16 = matches!(helper, Helper::Cast { element: Element::Bf16, .. });
    let text = format!(
        "#include \"cuda.h\"
#include \"kernel.h\"
#undef INFINITY
{}{CONTRACT}{body}
__attribute__((no_sanitize(\"thread\"))) static void enter(const void* params, const void*) {{
    const Params& p = *(const Params*)params;
    {enter}
}}
const Kernel kernel{{1, 1, 64, 16, {bf16}, false, enter}};
",
        helper.prelude(),
    );
    script.run(&compiler().link(&text), &[1, 2, 3])
}

fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(x: &[u8]) -> Vec<f32> {
    x.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn sets(script: &mut Script, fields: &[(&str, usize)]) {
    fields.iter().for_each(|(field, value)| script.line(format!("set {field} {value}")));
}

/// Numbers around zero, the same in every run.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
}

/// o, m, l of rows; every third has seen no key, and references are far apart.
fn carry(rows: usize, dv: usize, seed: usize) -> Vec<f32> {
    let dead = |row: usize| (row + seed).is_multiple_of(3);
    let mut o = numbers(rows * dv, seed);
    o.iter_mut().enumerate().filter(|(i, _)| dead(i / dv)).for_each(|(_, x)| *x = 0.0);
    let m = (0..rows).map(|r| if dead(r) { f32::NEG_INFINITY } else { (r * 37 % 11 * seed) as f32 - 9.0 });
    let l = (0..rows).map(|r| if dead(r) { 0.0 } else { 1.0 + (r % 5) as f32 });
    o.into_iter().chain(m).chain(l).collect()
}

/// Merges two carries, the result in the place of one of them or in its own.
const MERGE: &str = "merge(Merge{p.q_piece[0].carry, (const float*)p.kv_piece[0].k, (float*)whole.out,
    (i64)p.batch * p.q_heads * p.q_piece[0].rows.len, p.dv});";

fn merge_script([a, b]: [&[f32]; 2], to: &str, [batch, heads, len, dv]: [usize; 4]) -> Script {
    let mut script = Script::default();
    script.buffer("a", &bytes(a), if to == "a" { 4 } else { 0 });
    script.buffer("b", &bytes(b), if to == "b" { 4 } else { 0 });
    script.buffer("c", &vec![0xff; a.len() * 4], 4);
    script.line(format!("q_piece 0 1 {len} 0 a"));
    script.line(format!("kv_piece 0 1 {len} 0 b -"));
    script.line(format!("at out {to}"));
    sets(&mut script, &[("batch", batch), ("q_heads", heads), ("dv", dv)]);
    script.line("launch 3".into());
    script.line(format!("dump {to}"));
    script
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn merges() {
    for dv in [128, 64, 5] {
        for to in ["a", "b", "c"] {
            let (batch, heads, len) = (2, 3, 17);
            let rows = batch * heads * len;
            let (a, b) = (carry(rows, dv, 1), carry(rows, dv, 2));
            let script = merge_script([&a, &b], to, [batch, heads, len, dv]);
            let got = run(Helper::Merge, MERGE, &script);
            let got = floats(&got);
            for row in 0..rows {
                let [[m_a, m_b], [l_a, l_b]] =
                    [rows * dv, rows * (dv + 1)].map(|at| [&a, &b].map(|c| f64::from(c[at + row])));
                let m = m_a.max(m_b);
                let [of_a, of_b] =
                    [m_a, m_b].map(|x| if x == f64::NEG_INFINITY { 0.0 } else { (x - m).exp() });
                near("m", got[rows * dv + row].into(), m, 0.0).unwrap();
                let l = l_a * of_a + l_b * of_b;
                near("l", got[rows * (dv + 1) + row].into(), l, 1e-6 * l).unwrap();
                for i in row * dv..(row + 1) * dv {
                    let o = f64::from(a[i]) * of_a + f64::from(b[i]) * of_b;
                    near("o", got[i].into(), o, 2e-6).unwrap();
                }
            }
        }
    }
}

/// The result of no key changes nothing, on either side and on both; a carry that is not aligned is read number by number.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn merges_with_nothing() {
    const ENTER: &str = "const float* carry = (const float*)((const u8*)p.q_piece[0].carry + p.low);
    merge(Merge{p.high & 1 ? carry : nullptr, p.high & 2 ? carry : nullptr, (float*)whole.out,
        (i64)p.batch * p.q_piece[0].rows.len, p.dv});";
    let (rows, dv) = (21, 8);
    let a = carry(rows, dv, 1);
    let empty: Vec<f32> = [vec![0.0; rows * dv], vec![f32::NEG_INFINITY; rows], vec![0.0; rows]].concat();
    for (sides, shift) in [(0, 0), (1, 0), (2, 0), (1, 8)] {
        let mut script = Script::default();
        script.buffer("a", &[vec![0xff; shift], bytes(&a)].concat(), 0);
        script.buffer("c", &vec![0xff; a.len() * 4], 4);
        script.line(format!("q_piece 0 1 {rows} 0 a"));
        script.line("at out c".into());
        sets(&mut script, &[("batch", 1), ("q_heads", 1), ("dv", dv), ("low", shift), ("high", sides)]);
        script.line("launch 2".into());
        script.line("dump c".into());
        let got = floats(&run(Helper::Merge, ENTER, &script));
        let want = if sides == 0 { &empty } else { &a };
        assert!(got == *want, "sides {sides}, shifted by {shift}");
    }
}

/// Who writes m before the others have read it is found.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_race_in_a_merge() {
    let (a, b) = (carry(34, 64, 1), carry(34, 64, 2));
    let script = merge_script([&a, &b], "a", [1, 2, 17, 64]);
    let body = Helper::Merge.body().replace("warp_sync();", "");
    assert_ne!(body, Helper::Merge.body());
    let said = play(Helper::Merge, &body, MERGE, &script);
    assert!(said.unwrap_err().contains("race"));
}

/// Rows of a tensor to two pieces and back; what is not a piece's stays.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn packs() {
    const ENTER: &str = "Pack pack_of{};
    pack_of.copies = 2;
    pack_of.heads = p.batch;
    for (int i = 0; i < 2; ++i) {
        const Rows& rows = p.kv_piece[i].rows;
        const i64 row = p.dk, tensor_head = whole.q_rows * row, piece_head = rows.len * row;
        u8 *tensor = (u8*)whole.q + rows.local * row, *piece = (u8*)p.kv_piece[i].k;
        pack_of.copy[i] = p.dv ? Copy{piece, tensor, piece_head, tensor_head, piece_head}
                               : Copy{tensor, piece, tensor_head, piece_head, piece_head};
    }
    pack(pack_of);";
    let (heads, rows, row) = (6, 50, 48);
    let tensor: Vec<u8> = (0..heads * rows * row).map(|i| (i * 31 % 251) as u8).collect();
    let pieces = [(3, 10), (20, 13)];
    let piece_of = |(local, len): (usize, usize)| -> Vec<u8> {
        (0..heads).flat_map(|h| &tensor[(h * rows + local) * row..][..len * row]).copied().collect()
    };
    for copy in [16, 8, 4, 2, 1] {
        for back in [false, true] {
            let mut script = Script::default();
            let unit = usize::from(copy);
            if back {
                script.pointer("q", &vec![7; tensor.len()], unit);
            } else {
                script.pointer("q", &tensor, 0);
            }
            for (i, &(local, len)) in pieces.iter().enumerate() {
                let packed = piece_of((local, len));
                if back {
                    script.buffer(&format!("k{i}"), &packed, 0);
                } else {
                    script.buffer(&format!("k{i}"), &vec![7; packed.len()], unit);
                }
                script.line(format!("kv_piece 0 1 {len} {local} k{i} -"));
            }
            sets(&mut script, &[("batch", heads), ("q_rows", rows), ("dk", row), ("dv", back.into())]);
            script.line("launch 4".into());
            for name in if back { vec!["q"] } else { vec!["k0", "k1"] } {
                script.line(format!("dump {name}"));
            }
            let got = run(Helper::Pack { copy }, ENTER, &script);
            let want: Vec<u8> = if back {
                let ours = |r: usize| pieces.iter().any(|&(local, len)| (local..local + len).contains(&r));
                tensor.iter().enumerate().map(|(i, &x)| if ours(i / row % rows) { x } else { 7 }).collect()
            } else {
                pieces.iter().flat_map(|&piece| piece_of(piece)).collect()
            };
            assert!(got == want, "copies of {copy} bytes, back: {back}");
        }
    }
}

/// Bytes to another place, whatever time that takes; and time alone.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn paces() {
    const ENTER: &str = "paced(Paced{(const u8*)whole.q, (u8*)whole.out, (i64)p.dk, (i64)p.dv});";
    for (bytes, time) in [(1, 0), (48, 900_000), (16 * 1000 + 5, 1), (16 * 512 * 3, 70_000), (0, 50_000)] {
        let from: Vec<u8> = (0..bytes.max(1)).map(|i| (i * 31 % 251) as u8).collect();
        let mut script = Script::default();
        script.pointer("q", &from, 0);
        script.pointer("out", &vec![7; from.len()], 1);
        sets(&mut script, &[("dk", bytes), ("dv", time)]);
        script.line("launch 3".into());
        script.line("dump out".into());
        let got = run(Helper::Paced, ENTER, &script);
        assert_eq!(got, if bytes > 0 { from } else { vec![7] }, "{bytes} bytes");
    }
}

/// Bytes of numbers in the element type, and the numbers that they are.
fn encoded(element: Element, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    x.iter()
        .map(|&x| match element {
            Element::Bf16 => (bf16::from_f32(x).to_le_bytes().to_vec(), bf16::from_f32(x).to_f32()),
            Element::F16 => (f16::from_f32(x).to_le_bytes().to_vec(), f16::from_f32(x).to_f32()),
            Element::F32 => (x.to_le_bytes().to_vec(), x),
        })
        .fold((vec![], vec![]), |(mut bytes, mut numbers), (b, x)| {
            bytes.extend(b);
            numbers.push(x);
            (bytes, numbers)
        })
}

/// To the element type and back, to the bit, beyond what a grid has threads.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn casts() {
    const ENTER: &str = "if (p.dv)
        cast_to_f32((const Number*)whole.q, (float*)whole.out, whole.q_rows);
    else
        cast_from_f32((const float*)whole.q, (Number*)whole.out, whole.q_rows);";
    for element in [Element::Bf16, Element::F16, Element::F32] {
        let mut wide = numbers(500, 3);
        wide.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-30, 3e38, 1.0 / 3.0]);
        let (narrow, rounded) = encoded(element, &wide);
        for (back, from, want) in [(0, bytes(&wide), narrow.clone()), (1, narrow, bytes(&rounded))] {
            let mut script = Script::default();
            script.pointer("q", &from, 0);
            script.pointer("out", &vec![0xff; want.len()], if back == 1 { 4 } else { element.bytes() });
            sets(&mut script, &[("q_rows", wide.len()), ("dv", back)]);
            script.line("launch 3".into());
            script.line("dump out".into());
            let got = run(Helper::Cast { element, sinks: Operand::None }, ENTER, &script);
            assert!(got == want, "{element:?}, back: {back}");
        }
    }
}

/// The end of a carry: sinks, rows without keys, rows of out that are another piece's.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn finishes() {
    const ENTER: &str = "finish(Finish{p.q_piece[0], p.batch, p.q_heads, p.dv, p.empty_row, p.sinks});";
    for (element, sinks) in
        [(Element::Bf16, Operand::Element), (Element::F16, Operand::None), (Element::F32, Operand::F32)]
    {
        let (heads, len, local, q_rows, dv) = (6, 11, 4, 20, 5);
        let rows = heads * len;
        let carry = carry(rows, dv, 2);
        // Sinks per head; the first of them never.
        let sink = [f32::NEG_INFINITY, 0.5, 20.0];
        let mut script = Script::default();
        script.buffer("carry", &bytes(&carry), 0);
        script.line(format!("q_piece 7 2 {len} {local} carry"));
        script.pointer("out", &vec![0; heads * q_rows * dv * element.bytes()], element.bytes());
        script.pointer("lse", &vec![0; heads * q_rows * 4], 4);
        let kind = if sinks == Operand::F32 { Element::F32 } else { element };
        script.buffer("sinks", &encoded(kind, &sink).0, 0);
        script.line("leaf sinks sinks 0 1 0 0 0".into());
        sets(&mut script, &[("batch", 2), ("q_heads", 3), ("q_rows", q_rows), ("dv", dv)]);
        sets(&mut script, &[("element", element.bytes())]);
        sets(&mut script, &[("empty_row", f32::NAN.to_bits() as usize)]);
        script.line("launch 2".into());
        script.line("dump out".into());
        script.line("dump lse".into());
        let got = run(Helper::Cast { element, sinks }, ENTER, &script);
        let (out, lse) = got.split_at(heads * q_rows * dv * element.bytes());
        let out: Vec<f32> = match element {
            Element::F32 => floats(out),
            _ => out
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&b| match element {
                    Element::Bf16 => bf16::from_le_bytes(b).to_f32(),
                    _ => f16::from_le_bytes(b).to_f32(),
                })
                .collect(),
        };
        let lse = floats(lse);
        let within = match element {
            Element::Bf16 => 1.0 / 256.0,
            Element::F16 => 1.0 / 2048.0,
            Element::F32 => 1e-6,
        };
        for (head, row) in (0..heads).flat_map(|h| (0..q_rows).map(move |r| (h, r))) {
            let at = head * q_rows + row;
            if !(local..local + len).contains(&row) {
                assert!(out[at * dv..(at + 1) * dv].iter().chain([&lse[at]]).all(|&x| x == 0.0));
                continue;
            }
            let from = head * len + row - local;
            let (m, l) = (f64::from(carry[rows * dv + from]), f64::from(carry[rows * (dv + 1) + from]));
            let sink = if sinks == Operand::None { f64::NEG_INFINITY } else { f64::from(sink[head % 3]) };
            let top = m.max(sink);
            let exp = |x: f64| if x == f64::NEG_INFINITY { 0.0 } else { (x - top).exp() };
            let sum = l * exp(m) + exp(sink);
            let want = if sum == 0.0 { f64::NEG_INFINITY } else { top + sum.ln() };
            near("lse", lse[at].into(), want, 2e-6 * (1.0 + want.abs())).unwrap();
            for i in 0..dv {
                let o = f64::from(carry[from * dv + i]) * exp(m);
                let want = if sum == 0.0 { f64::NAN } else { o / sum };
                near("out", out[at * dv + i].into(), want, within * want.abs() + 1e-7).unwrap();
            }
        }
    }
}
