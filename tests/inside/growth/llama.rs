//! Llama blocks as an exporter writes them: normalisation by its parts, rotary embedding by slices, grouped keys repeated
//! before the product, a causal mask that is added, a gated feed-forward part.

use super::build::{Dim, int, int_list, ints, model, node, tensor, value};
use super::proto::{AttributeProto, GraphProto};
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{DType, Form, Graph, Tensor, parse, print};
use prost::Message;
use std::fmt;

/// Sizes of a model.
pub(crate) struct Llama {
    layers: usize,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    inner: usize,
    dtype: DType,
}

impl fmt::Display for Llama {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Llama { rows, heads, kv_heads, head, dtype, .. } = self;
        write!(f, "{dtype}, {rows} rows, {heads} heads over {kv_heads} of {head}")
    }
}

/// What is being written.
struct Writer<'a> {
    of: &'a Llama,
    graph: GraphProto,
    /// Whether weights have data; else they are inputs.
    data: bool,
    named: usize,
}

impl Llama {
    /// One that evaluates in milliseconds.
    pub(crate) fn small(layers: usize) -> Llama {
        Llama { layers, rows: 64, heads: 4, kv_heads: 2, head: 16, inner: 128, dtype: DType::F32 }
    }

    /// The sizes of the 70-billion model at 128 Ki rows.
    pub(crate) fn large(layers: usize) -> Llama {
        let dtype = DType::F32;
        Llama { layers, rows: 1 << 17, heads: 64, kv_heads: 8, head: 128, inner: 28672, dtype }
    }

    /// The ONNX model, weights included.
    pub(crate) fn model(&self) -> Vec<u8> {
        self.write(true)
    }

    /// The graph with weights that have a shape and a hash and no data.
    pub(crate) fn shapes(&self) -> Graph {
        let graph = onnx(&self.write(false), &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let mut weights = 0u64;
        let line = |line: &str| match line.strip_prefix("  input %w") {
            Some(rest) => {
                weights += 1;
                format!("  const %w{rest} = #{:016x}\n", weights.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            }
            None => format!("{line}\n"),
        };
        let text: String = print(&graph, Form::People).lines().map(line).collect();
        parse(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn write(&self, data: bool) -> Vec<u8> {
        let graph = GraphProto { name: "llama".into(), ..GraphProto::default() };
        let mut w = Writer { of: self, graph, data, named: 0 };
        let width = self.heads * self.head;
        let extents = [1, self.rows, width].map(|d| Dim::N(d as i64));
        w.graph.input.push(value("x", self.dtype, &extents));
        w.start();
        let mut x = "x".to_owned();
        for _ in 0..self.layers {
            x = w.layer(&x);
        }
        w.graph.output.push(value(&x, self.dtype, &extents));
        model(21, w.graph).encode_to_vec()
    }
}

impl Writer<'_> {
    fn op(&mut self, op: &str, x: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.named += 1;
        let name = format!("v{}", self.named);
        self.graph.node.push(node(op, x, &[&name], attributes));
        name
    }

    fn weight(&mut self, shape: &[usize]) -> String {
        self.named += 1;
        let name = format!("w{}", self.named);
        if self.data {
            let n: usize = shape.iter().product();
            let seed = self.named * 31;
            let values: Vec<f64> = (0..n).map(|i| ((i * 7 + seed) % 97) as f64 / 970.0 - 0.05).collect();
            let t = Tensor::from_f64(self.of.dtype, shape, &values).unwrap();
            self.graph.initializer.push(tensor(&name, &t));
        } else {
            let extents: Vec<Dim> = shape.iter().map(|&d| Dim::N(d as i64)).collect();
            self.graph.input.push(value(&name, self.of.dtype, &extents));
        }
        name
    }

    /// A named constant.
    fn known(&mut self, name: &str, t: &Tensor) {
        self.graph.initializer.push(tensor(name, t));
    }

    /// What all layers share: shapes, rotary tables, and the mask.
    fn start(&mut self) {
        let Llama { rows, heads, kv_heads, head, dtype, .. } = *self.of;
        let list = |x: &[usize]| ints(&x.iter().map(|&d| d as i64).collect::<Vec<_>>());
        self.known("q_shape", &list(&[1, rows, heads, head]));
        self.known("kv_shape", &list(&[1, rows, kv_heads, head]));
        self.known("groups", &list(&[1, kv_heads, heads / kv_heads, rows, head]));
        self.known("all_heads", &list(&[1, heads, rows, head]));
        self.known("flat", &list(&[1, rows, heads * head]));
        for (name, n) in
            [("zero", 0), ("one", 1), ("two", 2), ("three", 3), ("half", head / 2), ("end", head)]
        {
            self.known(name, &list(&[n]));
        }
        self.known("minus_one", &ints(&[-1]));
        for (name, n) in [("first", 0), ("rows", rows), ("by", 1)] {
            self.known(name, &Tensor::scalar(DType::I64, n as f64));
        }
        for (name, x) in [
            ("scale", 1.0 / (head as f64).sqrt()),
            ("eps", 1e-5),
            ("seen", 0.0),
            ("unseen", f64::NEG_INFINITY),
        ] {
            self.known(name, &Tensor::scalar(dtype, x));
        }
        for name in ["cos", "sin"] {
            let table = self.weight(&[1, 1, rows, head]);
            self.graph.node.push(node("Identity", &[&table], &[name], vec![]));
        }
        let places = self.op("Range", &["first", "rows", "by"], vec![]);
        let down = self.op("Unsqueeze", &[&places, "one"], vec![]);
        let across = self.op("Unsqueeze", &[&places, "zero"], vec![]);
        let sees = self.op("LessOrEqual", &[&across, &down], vec![]);
        self.graph.node.push(node("Where", &[&sees, "seen", "unseen"], &["mask"], vec![]));
    }

    fn norm(&mut self, x: &str) -> String {
        let gain = self.weight(&[self.of.heads * self.of.head]);
        let square = self.op("Mul", &[x, x], vec![]);
        let mean = self.op("ReduceMean", &[&square, "minus_one"], vec![int("keepdims", 1)]);
        let mean = self.op("Add", &[&mean, "eps"], vec![]);
        let root = self.op("Sqrt", &[&mean], vec![]);
        let over = self.op("Reciprocal", &[&root], vec![]);
        let x = self.op("Mul", &[x, &over], vec![]);
        self.op("Mul", &[&gain, &x], vec![])
    }

    fn linear(&mut self, x: &str, from: usize, to: usize) -> String {
        let w = self.weight(&[from, to]);
        self.op("MatMul", &[x, &w], vec![])
    }

    /// Heads before rows.
    fn heads(&mut self, x: &str, n: usize, shape: &str) -> String {
        let x = self.linear(x, self.of.heads * self.of.head, n * self.of.head);
        let x = self.op("Reshape", &[&x, shape], vec![]);
        self.op("Transpose", &[&x], vec![int_list("perm", &[0, 2, 1, 3])])
    }

    fn rotated(&mut self, x: &str) -> String {
        let low = self.op("Slice", &[x, "zero", "half", "three"], vec![]);
        let high = self.op("Slice", &[x, "half", "end", "three"], vec![]);
        let high = self.op("Neg", &[&high], vec![]);
        let turned = self.op("Concat", &[&high, &low], vec![int("axis", 3)]);
        let a = self.op("Mul", &[x, "cos"], vec![]);
        let b = self.op("Mul", &[&turned, "sin"], vec![]);
        self.op("Add", &[&a, &b], vec![])
    }

    fn repeated(&mut self, x: &str) -> String {
        let x = self.op("Unsqueeze", &[x, "two"], vec![]);
        let x = self.op("Expand", &[&x, "groups"], vec![]);
        self.op("Reshape", &[&x, "all_heads"], vec![])
    }

    fn layer(&mut self, x: &str) -> String {
        let Llama { heads, kv_heads, head, inner, .. } = *self.of;
        let width = heads * head;
        let n = self.norm(x);
        let q = self.heads(&n, heads, "q_shape");
        let k = self.heads(&n, kv_heads, "kv_shape");
        let v = self.heads(&n, kv_heads, "kv_shape");
        let (q, k) = (self.rotated(&q), self.rotated(&k));
        let (k, v) = (self.repeated(&k), self.repeated(&v));
        let k = self.op("Transpose", &[&k], vec![int_list("perm", &[0, 1, 3, 2])]);
        let s = self.op("MatMul", &[&q, &k], vec![]);
        let s = self.op("Mul", &[&s, "scale"], vec![]);
        let s = self.op("Add", &[&s, "mask"], vec![]);
        let p = self.op("Softmax", &[&s], vec![int("axis", -1)]);
        let o = self.op("MatMul", &[&p, &v], vec![]);
        let o = self.op("Transpose", &[&o], vec![int_list("perm", &[0, 2, 1, 3])]);
        let o = self.op("Reshape", &[&o, "flat"], vec![]);
        let o = self.linear(&o, width, width);
        let x = self.op("Add", &[x, &o], vec![]);
        let n = self.norm(&x);
        let gate = self.linear(&n, width, inner);
        let open = self.op("Sigmoid", &[&gate], vec![]);
        let gate = self.op("Mul", &[&gate, &open], vec![]);
        let up = self.linear(&n, width, inner);
        let y = self.op("Mul", &[&gate, &up], vec![]);
        let y = self.linear(&y, inner, width);
        self.op("Add", &[&x, &y], vec![])
    }
}
