//! Stored references: attention of many kinds in float64 from the rounded inputs, and merges of partial results.

use super::backward::backward;
use annulus::eval::{Precision, compare, eval};
use annulus::ir::{Attention, DType, Data, EmptyRow, Graph, Op, Scores, Tensor};
use annulus::layout::Progression;
use annulus::mask::{Fill, Mask, Term};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

struct Golden {
    config: Value,
    tensors: BTreeMap<String, Tensor>,
}

impl Golden {
    fn number(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap()
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.config[key] == value
    }
}

/// Reads a safetensors file: the length of a JSON header, the header, the bytes.
fn read(path: &std::path::Path) -> Golden {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let body = &bytes[8 + length..];
    let mut tensors = BTreeMap::new();
    for (name, t) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let dtype = match t["dtype"].as_str().unwrap() {
            "F64" => DType::F64,
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I32" => DType::I32,
            "U8" => DType::Bool,
            other => panic!("{other}"),
        };
        let shape: Vec<usize> = serde_json::from_value(t["shape"].clone()).unwrap();
        let at: [usize; 2] = serde_json::from_value(t["data_offsets"].clone()).unwrap();
        let data = Data::from_le_bytes(dtype, &body[at[0]..at[1]]).unwrap();
        tensors.insert(name.clone(), Tensor::new(shape, data).unwrap());
    }
    let config = header["__metadata__"]["config"].as_str().unwrap();
    Golden { config: serde_json::from_str(config).unwrap(), tensors }
}

/// Every case of a kind by name.
fn goldens(kind: &str) -> Vec<(String, Golden)> {
    let folder = crate::inside::support::data::folder("goldens");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    let all = paths.iter().map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), read(p)));
    all.filter(|(_, g)| g.is("kind", kind)).collect()
}

/// The case as a graph of one attention.
fn graph(g: &Golden) -> (Graph, Vec<Tensor>) {
    let offset = g.config["query_offset"].as_i64().unwrap();
    let mut mask = Mask { terms: vec![], fill: Fill::NegInf };
    if g.config["causal"] == true {
        mask.terms.push(Term::Causal { offset });
    }
    if let Some(w) = g.config["window"].as_array() {
        let bound = |v: &Value| u64::try_from(v.as_i64().unwrap()).ok();
        mask.terms.push(Term::Window { left: bound(&w[0]), right: bound(&w[1]), offset });
    }
    let mut x: Vec<Tensor> = ["q", "k", "v"].iter().map(|n| g.tensors[*n].clone()).collect();
    if let (Some(q), Some(k)) = (g.tensors.get("doc_q"), g.tensors.get("doc_k")) {
        let (b, sq, sk) = (q.shape()[0], q.shape()[1], k.shape()[1]);
        let (q, k) = (q.to_f64(), k.to_f64());
        let same =
            (0..b * sq * sk).map(|n| q[n / sk] == k[n / (sq * sk) * sk + n % sk]).collect::<Vec<bool>>();
        mask.terms.push(Term::Tensor { operand: x.len() });
        x.push(Tensor::new([b, 1, sq, sk], Data::Bool(same.into())).unwrap());
    }
    if let Some(allow) = g.tensors.get("allow") {
        mask.terms.push(Term::Tensor { operand: x.len() });
        x.push(allow.clone());
    }
    let bias = g.tensors.get("bias").map(|b| {
        x.push(b.clone());
        x.len() - 1
    });
    let a = Attention {
        scores: Scores::usual(g.number("scale"), g.number("softcap"), bias, mask),
        sinks: None,
        dropout: None,
        acc: DType::F32,
        empty_row: EmptyRow::Zero,
        lse: true,
        stats: false,
    };
    let mut graph = Graph::new("golden");
    let operands: Vec<_> = x.iter().enumerate().map(|(i, t)| graph.input(&format!("x{i}"), t.ty())).collect();
    let op = graph.add(Op::Attention(Box::new(a)), &operands, "out", "").unwrap();
    let results = graph.results(op);
    graph.output("out", results[0]);
    graph.output("lse", results[1]);
    (graph, x)
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn attention() {
    let cases = goldens("attention");
    let mut seen = [0, 0];
    for (name, g) in &cases {
        let (graph, x) = graph(g);
        let dtype = x[0].dtype();
        seen[usize::from(dtype != DType::F32)] += 1;
        let declared = eval(&graph, &x, Precision::Declared).unwrap();
        let wide = eval(&graph, &x, Precision::F64).unwrap();
        for (i, tensor) in ["out", "lse"].into_iter().enumerate() {
            let want = &g.tensors[tensor];
            let tolerance = g.config["tolerance_f32"][tensor].as_f64().unwrap();
            // A result in a half type is rounded once more.
            let rounding = if i == 0 { [2f64.powi(-11), 2f64.powi(-8), 0.0] } else { [0.0; 3] };
            let rtol = match dtype {
                DType::F16 => rounding[0],
                DType::BF16 => rounding[1],
                _ => rounding[2],
            };
            let c = compare(&declared[i], want, tolerance, rtol, false).unwrap();
            assert!(c.within, "{name} {tensor}: {c:?}, tolerance {tolerance}");
            // References stored in f32 carry its rounding.
            let stored = if want.dtype() == DType::F64 { 1e-11 } else { 1.2e-7 };
            let c = compare(&wide[i], want, stored, stored, false).unwrap();
            assert!(c.within, "{name} {tensor} in f64: {c:?}");
        }
        let dead = g.tensors["lse"].to_f64().iter().filter(|x| x.is_infinite()).count();
        assert_eq!(g.config["dead_rows"].as_u64().unwrap() > 0, dead > 0, "{name}");
    }
    assert_eq!(seen, [33, 8], "f32 and half cases");
}

/// dq, dk and dv of each case, of the numbers that out is made of, within its tolerances.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn gradients() {
    for (name, g) in &goldens("attention") {
        let (graph, x) = graph(g);
        let op = graph.ops().into_iter().find_map(|id| match graph.op(id) {
            Op::Attention(a) => Some((**a).clone()),
            _ => None,
        });
        let a = Attention { lse: false, ..op.unwrap() };
        let half = match x[0].dtype() {
            DType::F16 => 2f64.powi(-11),
            DType::BF16 => 2f64.powi(-8),
            _ => 0.0,
        };
        for precision in [Precision::Declared, Precision::F64] {
            let got = backward(&a, &x, &g.tensors["dout"], None, precision);
            for (tensor, got) in ["dq", "dk", "dv"].into_iter().zip(&got) {
                let want = &g.tensors[tensor];
                let most = want.to_f64().iter().map(|w| w.abs()).fold(0.0, f64::max);
                // Two computations in f64 with logits of 1e4, or a reference that was rounded.
                let stored = if want.dtype() == DType::F64 { 1e-9 } else { 1.2e-7 };
                let within = |key: &str| g.config[key][tensor].as_f64().unwrap();
                let (atol, rtol) = match precision {
                    // δ is made of an out that was rounded to a half type: the tolerance is that of such kernels.
                    Precision::Declared if half > 0.0 => (within("tolerance_lowp"), half),
                    Precision::Declared => (within("tolerance_f32"), 0.0),
                    Precision::F64 => (stored * (1.0 + most), stored),
                };
                let c = compare(got, want, atol, rtol, false).unwrap();
                assert!(c.within, "{name} {tensor} {precision:?}: {c:?}, tolerance {atol}");
            }
        }
    }
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn merges() {
    let cases = goldens("merge");
    for (name, g) in &cases {
        let (o, lse) = (&g.tensors["out_parts"], &g.tensors["lse_parts"]);
        let &[parts, b, h, s, _] = o.shape() else { panic!("{name}") };
        let rows = vec![Progression::range(0, s)];
        let mut graph = Graph::new("merges");
        // A normalised part is a partial result whose sum is 1 and whose maximum is its lse; of no key, 0.
        let l: Vec<f64> =
            lse.to_f64().iter().map(|&x| if x == f64::NEG_INFINITY { 0.0 } else { 1.0 }).collect();
        let l = Tensor::from_f64(DType::F32, lse.shape(), &l).unwrap();
        let whole = [o, lse, &l].map(|t| graph.constant("parts", t.clone()));
        let mut all = vec![];
        for p in 0..parts {
            let part = whole.map(|v| {
                let slice = Op::Slice { axis: 0, start: p, len: 1, step: 1 };
                let one = graph.add1(slice, &[v], "part", "").unwrap();
                let shape = graph.ty(one).shape[1..].to_vec();
                graph.add1(Op::Reshape(shape), &[one], "part", "").unwrap()
            });
            all = if p == 0 {
                part.to_vec()
            } else {
                let op = Op::Merge { a: rows.clone(), b: rows.clone() };
                let operands: Vec<_> = all.iter().chain(&part).copied().collect();
                let id = graph.add(op, &operands, "merged", "").unwrap();
                graph.results(id)
            };
        }
        let empty_row = EmptyRow::Zero;
        let op = Op::Finish { of: rows.clone(), rows, dtype: DType::F32, empty_row, lse: true };
        let id = graph.add(op, &all, "out", "").unwrap();
        for (name, v) in ["out", "lse"].into_iter().zip(graph.results(id)) {
            graph.output(name, v);
        }
        for (precision, tolerance) in [(Precision::F64, 1e-12), (Precision::Declared, 2e-6)] {
            let got = eval(&graph, &[], precision).unwrap();
            assert_eq!(got[1].shape(), [b, h, s]);
            for (got, want) in got.iter().zip(["out", "lse"]) {
                let c = compare(got, &g.tensors[want], tolerance, tolerance, false).unwrap();
                assert!(c.within, "{name} {want} {precision:?}: {c:?}");
            }
        }
    }
    assert_eq!(cases.len(), 3);
}
