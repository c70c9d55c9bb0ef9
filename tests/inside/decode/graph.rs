//! Decode graphs at random: some layers, each with keys and values that are old rows with new ones behind them, in every relation of
//! the old to the new; and what is asked of the pass. A graph is told by its seed alone.

use crate::inside::fuzz::driver::Rng;
use annulus::ir::{
    Attention, Binary, Contract, DType, EmptyRow, Graph, Op, Reduction, ScoreStep, Scores, Tensor, Type,
    Unary, ValueId,
};
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::mask::{Fill, Mask, Term};
use annulus::ring::Strategy;
use annulus::shard::Handed;
use std::collections::BTreeSet;

/// A graph, what goes in, and what is asked.
pub(crate) struct Decode {
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) ranks: usize,
    pub(crate) layout: Option<LayoutKind>,
    pub(crate) strategy: Option<Strategy>,
    pub(crate) handed: Vec<Handed>,
    /// What it is an example of.
    pub(crate) kinds: BTreeSet<&'static str>,
}

/// How far the old rows of the layers are alike.
#[derive(Clone, Copy)]
enum Pasts {
    /// As many in each layer.
    Equal(usize),
    /// As many as there are new ones.
    New,
    /// Of each layer its own number.
    Each,
    /// None in the first layer, or in all of them.
    Empty,
}

/// Where keys or values come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Old rows, new ones behind them.
    Cached,
    /// New rows, old ones behind them.
    Front,
    /// Old rows of two inputs, new ones behind them.
    Twice,
    /// The same, put together two by two.
    Nested,
    /// An input, whole.
    Whole,
    /// Old rows, and another number of rows of an input behind them.
    Chunk,
    /// Rows of an encoder.
    Encoder,
}

/// A graph in the making.
struct Draw {
    rng: Rng,
    g: Graph,
    dtype: DType,
    batch: usize,
    rows: usize,
    size: usize,
    /// How large scores are.
    magnitude: f64,
    kinds: BTreeSet<&'static str>,
    /// Inputs of old rows, by what they hold.
    pasts: Vec<ValueId>,
    /// Keys and values whose rows were put together.
    presents: Vec<ValueId>,
    encoders: Vec<ValueId>,
}

/// The graph of a seed.
pub(crate) fn decode(seed: u64) -> Decode {
    made(seed, false)
}

/// The same with every number in f64.
pub(crate) fn decode_in_f64(seed: u64) -> Decode {
    made(seed, true)
}

fn made(seed: u64, wide: bool) -> Decode {
    let mut rng = Rng::new(seed);
    let dtype = *rng.pick(&[
        DType::F32,
        DType::F32,
        DType::F32,
        DType::F32,
        DType::F32,
        DType::F64,
        DType::F64,
        DType::F16,
        DType::BF16,
    ]);
    let rows = if rng.below(5) < 2 { 1 } else { 1 + rng.below(6) };
    let batch = match rng.below(12) {
        0 | 1 => rows.min(3),
        2 => 4 + rng.below(2),
        _ => 1 + rng.below(3),
    };
    let magnitude = if dtype == DType::F64 && rng.below(3) == 0 { 1e4 } else { 1.0 };
    let mut d = Draw {
        rng,
        g: Graph::new(format!("decode{seed}")),
        dtype: if wide { DType::F64 } else { dtype },
        batch,
        rows,
        size: 4,
        magnitude,
        kinds: BTreeSet::new(),
        pasts: vec![],
        presents: vec![],
        encoders: vec![],
    };
    d.fill();
    let inputs = d.values();
    let ranks = 1 + d.rng.below(8);
    let layout = if d.rng.below(3) == 0 { None } else { Some(*d.rng.pick(&LayoutKind::ALL)) };
    let strategy = if d.rng.below(3) == 0 { None } else { Some(*d.rng.pick(&Strategy::ALL)) };
    let handed = d.handed(ranks);
    if ranks > rows {
        d.kinds.insert("fewer rows than ranks");
    }
    if ranks == 1 {
        d.kinds.insert("one rank");
    }
    Decode { graph: d.g, inputs, ranks, layout, strategy, handed, kinds: d.kinds }
}

impl Draw {
    fn chance(&mut self, of: usize) -> bool {
        self.rng.below(of) == 0
    }

    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        let name = op.name();
        self.g.add1(op, x, name, "").unwrap()
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.g.input(name, Type::new(self.dtype, shape))
    }

    fn shape(&self, v: ValueId) -> Vec<usize> {
        self.g.ty(v).shape.clone()
    }

    /// A number of −1 to 1.
    fn unit(&mut self) -> f64 {
        (self.rng.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn weight(&mut self, shape: &[usize], scale: f64) -> ValueId {
        let n: usize = shape.iter().product();
        let x: Vec<f64> = (0..n).map(|_| self.unit() * scale).collect();
        let x = Tensor::from_f64(self.dtype, shape, &x).unwrap();
        self.g.constant("w", x)
    }

    /// x · W over the last axis.
    fn linear(&mut self, x: ValueId, size: usize) -> ValueId {
        let last = *self.shape(x).last().unwrap();
        let w = self.weight(&[last, size], 0.8);
        let c = Contract { lhs: "bik".into(), rhs: "kn".into(), out: "bin".into() };
        self.op(Op::Contract(c), &[x, w])
    }

    /// (B, S, H·D) to (B, H, S, D).
    fn heads(&mut self, x: ValueId, heads: usize) -> ValueId {
        let s = self.shape(x);
        let d = s[2] / heads;
        if s[1] == 1 && self.chance(3) {
            self.kinds.insert("heads of one row by a reshape");
            return self.op(Op::Reshape(vec![s[0], heads, 1, d]), &[x]);
        }
        let x = self.op(Op::Reshape(vec![s[0], s[1], heads, d]), &[x]);
        self.op(Op::Permute(vec![0, 2, 1, 3]), &[x])
    }

    /// Heads (B, H, S, D) of the rows x (B, S, C).
    fn project(&mut self, x: ValueId, heads: usize, d: usize) -> ValueId {
        if self.chance(4) {
            let w = self.weight(&[self.size, heads, d], 0.8);
            let c = Contract { lhs: "bim".into(), rhs: "mhd".into(), out: "bhid".into() };
            return self.op(Op::Contract(c), &[x, w]);
        }
        let y = self.linear(x, heads * d);
        self.heads(y, heads)
    }

    fn concat(&mut self, parts: &[ValueId]) -> ValueId {
        self.op(Op::Concat { axis: 2 }, parts)
    }

    /// An input of old rows; now and then the one of another layer.
    fn past(&mut self, name: &str, shape: [usize; 4]) -> ValueId {
        let known: Vec<ValueId> = self.pasts.iter().copied().filter(|&v| self.shape(v) == shape).collect();
        if !known.is_empty() && self.chance(12) {
            self.kinds.insert("one cache of two layers");
            return *self.rng.pick(&known);
        }
        let v = self.input(name, &shape);
        self.pasts.push(v);
        v
    }

    /// Keys or values (B, H, `length`, D).
    fn side(&mut self, name: &str, side: Side, x: ValueId, length: usize, heads: usize, d: usize) -> ValueId {
        let (batch, rows) = (self.batch, self.rows);
        let old = length.saturating_sub(rows);
        let past = |s: &mut Draw, name: &str, rows| s.past(&format!("past_{name}"), [batch, heads, rows, d]);
        let y = match side {
            Side::Whole => return self.input(name, &[batch, heads, length, d]),
            Side::Encoder => {
                let known = self.encoders.iter().copied().find(|&e| self.shape(e)[1] == length);
                let e = known.unwrap_or_else(|| {
                    let e = self.input("encoded", &[batch, length, self.size]);
                    self.encoders.push(e);
                    e
                });
                return self.project(e, heads, d);
            }
            Side::Chunk => {
                let chunk = self.rng.below(length + 1);
                let old = past(self, name, length - chunk);
                let new = self.input(name, &[batch, heads, chunk, d]);
                self.concat(&[old, new])
            }
            Side::Cached | Side::Front => {
                let old = past(self, name, old);
                let new = self.project(x, heads, d);
                self.concat(&if side == Side::Front { [new, old] } else { [old, new] })
            }
            Side::Twice | Side::Nested => {
                let first = self.rng.below(old + 1);
                let a = past(self, name, first);
                let b = past(self, &format!("{name}_more"), old - first);
                let new = self.project(x, heads, d);
                if side == Side::Twice {
                    self.concat(&[a, b, new])
                } else {
                    let a = self.concat(&[a, b]);
                    self.concat(&[a, new])
                }
            }
        };
        self.presents.push(y);
        // A position, or a weight, for each row: behind the cache.
        match self.rng.below(8) {
            0 => {
                let w = self.weight(&[length, 1], 1.0);
                self.op(Op::Binary(Binary::Mul), &[y, w])
            }
            1 => {
                let at = self.op(Op::Iota { ty: Type::new(DType::I64, [length, 1]), axis: 0 }, &[]);
                let at = self.op(Op::Cast(self.dtype), &[at]);
                let at = self.op(Op::Unary(Unary::Cos), &[at]);
                self.op(Op::Binary(Binary::Mul), &[y, at])
            }
            _ => y,
        }
    }

    /// Terms of positions, for one batch entry or for all.
    fn terms(&mut self, rows: usize, length: usize) -> Vec<Term> {
        let behind = length as i64 - rows as i64;
        let offset = if self.chance(5) { self.rng.below(7) as i64 - 3 } else { behind };
        match self.rng.below(8) {
            0 | 1 => vec![Term::Causal { offset }],
            2 => {
                let right = if self.chance(2) { Some(0) } else { Some(self.rng.below(4) as u64) };
                vec![Term::Window { left: Some(self.rng.below(6) as u64), right, offset }]
            }
            3 => {
                let start = self.rng.below(length + 1);
                vec![Term::Keys { start, end: start + self.rng.below(length + 1 - start) }]
            }
            4 => vec![Term::Prefix { length: self.rng.below(length + 1), offset }],
            5 if length > 2 => {
                let starts: BTreeSet<usize> =
                    (0..1 + self.rng.below(3)).map(|_| 1 + self.rng.below(length - 1)).collect();
                vec![Term::Segments { starts: starts.into_iter().collect(), offset: offset.max(0) }]
            }
            _ => vec![],
        }
    }

    fn mask(&mut self, rows: usize, length: usize, heads: usize, leaves: &mut Vec<ValueId>) -> Mask {
        let mut mask = Mask::none();
        mask.terms = self.terms(rows, length);
        if self.chance(6) {
            self.kinds.insert("a mask of each batch entry");
            let entries: Vec<Vec<Term>> = (0..self.batch).map(|_| self.terms(rows, length)).collect();
            mask.terms.push(Term::Batch { entries: entries.into() });
        }
        if self.chance(3) {
            let full = [self.batch, heads, rows, length];
            let mut shape: Vec<usize> = full.iter().map(|&n| if self.chance(2) { n } else { 1 }).collect();
            shape.drain(..if shape[0] == 1 { self.rng.below(3) } else { 0 });
            let operand = if self.chance(3) && shape.last() == Some(&length) && length > rows {
                // What is known of the old keys, and of the new ones behind them.
                let (mut old, mut new) = (shape.clone(), shape.clone());
                *old.last_mut().unwrap() = length - rows;
                *new.last_mut().unwrap() = rows;
                let old = self.g.input("old_mask", Type::new(DType::Bool, old));
                let new = self.g.input("new_mask", Type::new(DType::Bool, new));
                self.op(Op::Concat { axis: shape.len() - 1 }, &[old, new])
            } else {
                self.g.input("mask", Type::new(DType::Bool, shape))
            };
            mask.terms.push(Term::Tensor { operand: 3 + leaves.len() });
            leaves.push(operand);
        }
        if !mask.terms.is_empty() && self.chance(4) {
            mask.fill = if self.chance(2) { Fill::Replace(-1e4) } else { Fill::Add(-1e4) };
            self.kinds.insert("a finite fill");
        }
        mask
    }

    /// Attention of heads, as one operation or written out.
    fn attention(&mut self, q: ValueId, k: ValueId, v: ValueId) -> ValueId {
        let (q_shape, k_shape) = (self.shape(q), self.shape(k));
        let (rows, length, heads) = (q_shape[2], k_shape[2], q_shape[1]);
        let acc = if self.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let scale = 0.5 * self.magnitude;
        if heads == k_shape[1] && self.chance(5) {
            self.kinds.insert("attention written out");
            let spell = |a: &str, b: &str, out: &str| {
                Op::Contract(Contract { lhs: a.into(), rhs: b.into(), out: out.into() })
            };
            let scores = self.op(spell("bhid", "bhjd", "bhij"), &[q, k]);
            let factor = self.g.constant("scale", Tensor::scalar(self.dtype, scale));
            let scores = self.op(Op::Binary(Binary::Mul), &[scores, factor]);
            let scores = if self.chance(2) {
                let keep = self.g.input("mask", Type::new(DType::Bool, [rows, length]));
                let low = self.g.constant("low", Tensor::scalar(self.dtype, -1e4));
                self.op(Op::Select, &[keep, scores, low])
            } else {
                scores
            };
            let p = self.op(Op::Softmax { axis: 3 }, &[scores]);
            return self.op(spell("bhij", "bhjd", "bhid"), &[p, v]);
        }
        let mut leaves = vec![];
        let mask = self.mask(rows, length, heads, &mut leaves);
        let mut bias = None;
        if self.chance(6) {
            let shape = [1, 1 + (heads - 1) * self.rng.below(2), rows, length];
            bias = Some(3 + leaves.len());
            leaves.push(self.input("bias", &shape));
        }
        let mut sinks = None;
        if self.chance(8) {
            sinks = Some(3 + leaves.len());
            leaves.push(self.weight(&[heads, 1, 1], 2.0));
        }
        let empty_row = if self.chance(4) { EmptyRow::Nan } else { EmptyRow::Zero };
        let a = Attention {
            scores: self.scores(scale, bias, mask),
            sinks,
            empty_row,
            ..Attention::plain(scale, acc)
        };
        self.op(Op::Attention(Box::new(a)), &[vec![q, k, v], leaves].concat())
    }

    /// A factor, a bias and a mask, now and then in another order and with a softcap.
    fn scores(&mut self, scale: f64, bias: Option<usize>, mask: Mask) -> Scores {
        let usual = Scores::usual(scale, 0.0, bias, mask);
        if !self.chance(3) {
            return usual;
        }
        let mut steps = usual.steps().to_vec();
        if self.chance(2) {
            steps.push(ScoreStep::Softcap(2.0 * self.magnitude));
        }
        for i in (1..steps.len()).rev() {
            steps.swap(i, self.rng.below(i + 1));
        }
        self.kinds.insert("steps in another order");
        Scores::new(steps)
    }

    /// The number of key rows of a layer, and where keys and values come from.
    fn sides(&mut self, layer: usize, pasts: Pasts) -> (usize, Side, Side) {
        let rows = self.rows;
        let past = match pasts {
            Pasts::Equal(n) => n,
            Pasts::New => rows,
            Pasts::Each => self.rng.below(10),
            Pasts::Empty if layer == 0 || self.chance(2) => 0,
            Pasts::Empty => self.rng.below(6),
        };
        let length = past + rows;
        let any =
            [Side::Cached, Side::Front, Side::Twice, Side::Nested, Side::Whole, Side::Chunk, Side::Encoder];
        let (k, v) = match self.rng.below(10) {
            0..5 => (Side::Cached, Side::Cached),
            5 => (Side::Cached, *self.rng.pick(&any)),
            6 => (*self.rng.pick(&any), Side::Cached),
            7 => (Side::Encoder, Side::Encoder),
            _ => (*self.rng.pick(&any), *self.rng.pick(&any)),
        };
        let cached = |s: Side| matches!(s, Side::Cached | Side::Front | Side::Twice | Side::Nested);
        let mut kind = |is: bool, what| {
            if is {
                self.kinds.insert(what);
            }
        };
        kind(cached(k) && cached(v) && past == rows, "as many old rows as new ones");
        kind(cached(k) != cached(v), "keys or values alone are cached");
        kind(cached(k) && past == 0, "an empty cache");
        kind(cached(k) && past > 0 && past != rows, "other old rows than new ones");
        kind(k == Side::Encoder && v == Side::Encoder, "cross-attention");
        kind(k == Side::Chunk || v == Side::Chunk, "another number of new keys");
        (length, k, v)
    }

    fn fill(&mut self) {
        let layers = 1 + self.rng.below(4);
        let (batch, mut rows, size) = (self.batch, self.rows, self.size);
        let pasts = match self.rng.below(8) {
            0..3 => Pasts::Equal(self.rng.below(10)),
            3..5 => Pasts::New,
            5..7 => Pasts::Each,
            _ => Pasts::Empty,
        };
        if layers > 1 {
            self.kinds.insert(match pasts {
                Pasts::Equal(_) => "layers of equal caches",
                Pasts::New => "layers of caches as long as the new rows",
                Pasts::Each | Pasts::Empty => "layers of unequal caches",
            });
        }
        if rows > 1 {
            self.kinds.insert("several new rows");
        }
        let mut x = self.input("x", &[batch, rows, size]);
        let (kv_heads, group) = (1 + self.rng.below(2), 1 + self.rng.below(3));
        let d = 1 + self.rng.below(5);
        let d_v = if self.chance(2) { d } else { 1 + self.rng.below(5) };
        if group > 1 {
            self.kinds.insert("grouped heads");
        }
        if d != d_v {
            self.kinds.insert("other sizes of keys and values");
        }
        for layer in 0..layers {
            if layer > 0 && self.chance(6) {
                self.kinds.insert("layers of rows of their own");
                self.g.output(&format!("y{layer}"), x);
                if self.chance(2) {
                    rows = 1 + self.rng.below(6);
                    self.rows = rows;
                }
                x = self.input("x_more", &[batch, rows, size]);
            }
            let (length, k_side, v_side) = self.sides(layer, pasts);
            let q = if self.chance(12) {
                self.input("q", &[batch, kv_heads * group, rows, d])
            } else {
                self.project(x, kv_heads * group, d)
            };
            let k = self.side(&format!("k{layer}"), k_side, x, length, kv_heads, d);
            let v = if d == d_v && self.chance(10) {
                self.kinds.insert("values that are the keys");
                k
            } else {
                self.side(&format!("v{layer}"), v_side, x, length, kv_heads, d_v)
            };
            let o = self.attention(q, k, v);
            let o =
                if rows == 1 && self.chance(3) { o } else { self.op(Op::Permute(vec![0, 2, 1, 3]), &[o]) };
            let o = self.op(Op::Reshape(vec![batch, rows, kv_heads * group * d_v]), &[o]);
            let o = self.linear(o, size);
            let sum = self.op(Op::Binary(Binary::Add), &[x, o]);
            // Bounded, so that errors do not grow from layer to layer.
            x = self.op(Op::Unary(Unary::Tanh), &[sum]);
        }
        if self.chance(12) {
            let mean = self.op(Op::Reduce { kind: Reduction::Mean, axes: vec![1], keep: true }, &[x]);
            x = self.op(Op::Binary(Binary::Sub), &[x, mean]);
        }
        self.g.output("y", x);
        let presents = self.presents.clone();
        for (i, &v) in presents.iter().enumerate() {
            if self.chance(2) {
                self.g.output(&format!("present{i}"), v);
            }
            let alike = presents[..i].iter().copied().find(|&w| self.shape(w) == self.shape(v));
            if let Some(w) = alike.filter(|_| self.chance(8)) {
                self.kinds.insert("caches that meet");
                let sum = self.op(Op::Binary(Binary::Add), &[v, w]);
                self.g.output(&format!("sum{i}"), sum);
            }
        }
    }

    fn values(&mut self) -> Vec<Tensor> {
        let types: Vec<Type> = self.g.inputs().into_iter().map(|v| self.g.ty(v).clone()).collect();
        let value = |d: &mut Draw, t: &Type| match t.dtype {
            DType::Bool => f64::from(u8::from(!d.chance(4))),
            _ => d.unit(),
        };
        let mut tensor = |t: Type| {
            let x: Vec<f64> = (0..t.elements()).map(|_| value(self, &t)).collect();
            Tensor::from_f64(t.dtype, t.shape, &x).unwrap()
        };
        types.into_iter().map(&mut tensor).collect()
    }

    /// Rows of an input on any ranks, in any order.
    fn given(&mut self, length: usize, ranks: usize) -> Vec<Vec<Progression>> {
        if self.chance(2) {
            return Layout::new(*self.rng.pick(&LayoutKind::ALL), length, ranks).rows;
        }
        let mut rows = vec![Vec::new(); ranks];
        let mut at = 0;
        while at < length {
            let len = 1 + self.rng.below((length - at).min(3));
            let own = &mut rows[self.rng.below(ranks)];
            own.insert(self.rng.below(own.len() + 1), Progression::range(at, len));
            at += len;
        }
        rows
    }

    /// Inputs that are handed over by rows: old rows mostly, along some axis.
    fn handed(&mut self, ranks: usize) -> Vec<Handed> {
        if !self.chance(3) {
            return vec![];
        }
        let inputs = self.g.inputs();
        let mut rows: Option<(usize, Vec<Vec<Progression>>)> = None;
        let mut handed = vec![];
        for v in inputs {
            let shape = self.shape(v);
            let old = self.pasts.contains(&v);
            if shape.is_empty() || !self.chance(if old { 2 } else { 6 }) {
                continue;
            }
            let usual = if old { 2 } else { shape.len().saturating_sub(2) };
            let axis = if self.chance(6) { self.rng.below(shape.len()) } else { usual };
            let mut one = Handed::new(self.g.value(v).name.clone(), axis);
            if old && axis == 2 && self.chance(2) {
                // Most caches of a length lie alike.
                let known = rows.clone().filter(|(n, _)| *n == shape[2]);
                let given = match known {
                    Some((_, given)) if !self.chance(6) => given,
                    _ => self.given(shape[2], ranks),
                };
                rows = Some((shape[2], given.clone()));
                one = one.rows(given);
                self.kinds.insert("given rows");
            }
            self.kinds.insert(if axis == usual { "an input by rows" } else { "an input along another axis" });
            handed.push(one);
        }
        handed
    }
}
