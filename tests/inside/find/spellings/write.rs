//! A spelling as a graph.

use super::masks::{How, Layer, keep, masked};
use super::spelling::{Extra, Over, Rows, Sinks, Softmax, Spelling, Sum, Widened};
use annulus::ir::Reduction::{Max, Sum as Total};
use annulus::ir::{Binary, Contract, DType, Graph, Op, Reduction, Tensor, Type, Unary, ValueId};

/// Writes a graph down, an operation a line.
pub(super) struct Writer {
    pub(super) graph: Graph,
    /// Type of numbers.
    pub(super) dtype: DType,
}

impl Writer {
    pub(super) fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.named(op, x, "")
    }

    fn named(&mut self, op: Op, x: &[ValueId], source: &str) -> ValueId {
        self.graph.add1(op, x, "v", source).unwrap()
    }

    fn shape(&self, v: ValueId) -> Vec<usize> {
        self.graph.ty(v).shape.clone()
    }

    pub(super) fn number(&mut self, x: f64) -> ValueId {
        self.graph.constant("c", Tensor::scalar(self.dtype, x))
    }

    fn times(&mut self, v: ValueId, factor: Option<f64>) -> ValueId {
        match factor {
            Some(f) => {
                let c = self.number(f);
                self.op(Op::Binary(Binary::Mul), &[v, c])
            }
            None => v,
        }
    }

    /// In another type from here on.
    fn cast(&mut self, v: ValueId, dtype: DType) -> ValueId {
        self.dtype = dtype;
        self.op(Op::Cast(dtype), &[v])
    }

    /// An input of (batch, heads, rows, size), perhaps stored as (batch, rows, heads · size).
    fn operand(&mut self, name: &str, [b, h, s, d]: [usize; 4], rows_first: bool) -> ValueId {
        if !rows_first {
            return self.graph.input(name, Type::new(self.dtype, [b, h, s, d]));
        }
        let x = self.graph.input(name, Type::new(self.dtype, [b, s, h * d]));
        let x = self.op(Op::Reshape(vec![b, s, h, d]), &[x]);
        self.op(Op::Permute(vec![0, 2, 1, 3]), &[x])
    }

    fn repeated(&mut self, v: ValueId, n: usize, looked_up: bool) -> ValueId {
        let [b, h, s, d] = self.shape(v)[..] else { unreachable!() };
        if n == 1 {
            return v;
        }
        if looked_up {
            let at: Vec<f64> = (0..h * n).map(|i| (i / n) as f64).collect();
            let at = self.graph.constant("at", Tensor::from_f64(DType::I64, [h * n], &at).unwrap());
            return self.op(Op::Gather { axis: 1 }, &[v, at]);
        }
        let v = self.op(Op::Reshape(vec![b, h, 1, s, d]), &[v]);
        let v = self.op(Op::Broadcast(vec![b, h, n, s, d]), &[v]);
        self.op(Op::Reshape(vec![b, h * n, s, d]), &[v])
    }

    fn flattened(&mut self, v: ValueId) -> ValueId {
        let [b, h, s, d] = self.shape(v)[..] else { unreachable!() };
        self.op(Op::Reshape(vec![b * h, s, d]), &[v])
    }

    fn product(&mut self, a: ValueId, b: ValueId, axes: [&str; 3], source: &str) -> ValueId {
        let flat = self.shape(a).len() == 3;
        let [lhs, rhs, out] = axes.map(|x| if flat { format!("n{x}") } else { format!("bh{x}") });
        self.named(Op::Contract(Contract { lhs, rhs, out }), &[a, b], source)
    }

    fn guarded(&mut self, p: ValueId) -> ValueId {
        let nan = self.op(Op::Unary(Unary::IsNan), &[p]);
        let zero = self.number(0.0);
        self.op(Op::Select, &[nan, zero, p])
    }

    /// Of each row of keys, as (batch, heads, rows, 1) or as it is laid out.
    fn reduced(&mut self, kind: Reduction, x: ValueId, rows: Rows) -> ValueId {
        let keep = rows != Rows::Squeezed;
        let r = self.op(Op::Reduce { kind, axes: vec![3], keep }, &[x]);
        self.laid_out(r, rows)
    }

    fn laid_out(&mut self, v: ValueId, rows: Rows) -> ValueId {
        let shape = self.shape(v);
        let [b, h, n] = shape[..3] else { unreachable!() };
        let last = |w: &mut Writer, v| w.op(Op::Permute(vec![0, 1, 3, 2]), &[v]);
        match rows {
            Rows::AsIs => v,
            Rows::Squeezed => {
                let flat = if shape.len() == 3 { v } else { self.op(Op::Reshape(vec![b, h, n]), &[v]) };
                self.op(Op::Reshape(vec![b, h, n, 1]), &[flat])
            }
            Rows::BeforeHeads => {
                let flat = self.op(Op::Reshape(vec![b, h, n]), &[v]);
                let first = self.op(Op::Permute(vec![0, 2, 1]), &[flat]);
                let back = self.op(Op::Permute(vec![0, 2, 1]), &[first]);
                self.op(Op::Reshape(vec![b, h, n, 1]), &[back])
            }
            Rows::Back => {
                let across = last(self, v);
                last(self, across)
            }
            Rows::Across => last(self, v),
        }
    }
}

pub(super) fn write(s: &Spelling) -> Graph {
    let mut w = Writer { graph: Graph::new("spelling"), dtype: s.dtype };
    let heads = s.kv_heads * s.repeat;
    let q = w.operand("q", [s.batch, heads, s.q_len, s.depth], s.rows_first);
    let mut q = w.times(q, s.scales[0]);
    // A factor on the keys of each part stays on them.
    let [on_q, on_k] = if s.past > 0 { [s.scales[1], None] } else { [None, s.scales[1]] };
    q = w.times(q, on_q);
    if s.flat {
        q = w.flattened(q);
    }
    // Past keys and new ones, or all of them.
    let parts: Vec<usize> = [s.past, s.kv_len - s.past].into_iter().filter(|&n| n > 0).collect();
    let mut values = vec![];
    let mut scores = vec![];
    for (i, &n) in parts.iter().enumerate() {
        let k = w.operand(&format!("k{i}"), [s.batch, s.kv_heads, n, s.depth], s.rows_first);
        let v = w.operand(&format!("v{i}"), [s.batch, s.kv_heads, n, s.depth_v], s.rows_first);
        let [mut k, mut v] = [k, v].map(|x| w.repeated(x, s.repeat, s.looked_up));
        if s.flat {
            [k, v] = [k, v].map(|x| w.flattened(x));
        }
        values.push(v);
        let mut key_axes = "jd";
        if s.transposed {
            let perm = if s.flat { vec![0, 2, 1] } else { vec![0, 1, 3, 2] };
            k = w.op(Op::Permute(perm), &[k]);
            key_axes = "dj";
        }
        let k = w.times(k, on_k);
        scores.push(w.product(q, k, ["id", key_axes, "ij"], "qk"));
    }
    let mut x = match scores[..] {
        [x] => x,
        _ => w.op(Op::Concat { axis: 3 }, &scores),
    };
    if s.flat {
        x = w.op(Op::Reshape(vec![s.batch, heads, s.q_len, s.kv_len]), &[x]);
    }
    x = w.times(x, s.scales[2]);
    if let Some(f) = s.scales[3] {
        let c = w.number(f);
        x = w.op(Op::Binary(Binary::Div), &[x, c]);
    }
    let rows = [s.batch, heads, s.q_len, 1];
    if s.row_factor {
        let f = w.graph.input("row_factor", Type::new(s.dtype, rows));
        let f = w.laid_out(f, s.rows[0]);
        x = w.op(Op::Binary(Binary::Mul), &[x, f]);
    }
    if s.widened == Widened::BeforeMasks {
        x = w.cast(x, DType::F32);
    }
    x = extra(&mut w, s, x, 0);
    x = masked(&mut w, s, x);
    x = extra(&mut w, s, x, 1);
    if s.late {
        x = w.times(x, Some(0.5));
    }
    if s.widened == Widened::BeforeSoftmax {
        x = w.cast(x, DType::F32);
    }
    if let Some(sinks) = s.sinks {
        x = with_sinks(&mut w, s, sinks, x);
    }
    let (mut p, divisor) = softmax(&mut w, s, x);
    let early = s.sinks.is_some_and(|x| x.guarded_first);
    if s.guarded && early {
        p = w.guarded(p);
    }
    if let Some(sinks) = s.sinks {
        let start = usize::from(sinks.first);
        p = w.op(Op::Slice { axis: 3, start, len: s.kv_len, step: 1 }, &[p]);
    }
    if s.guarded && !early {
        p = w.guarded(p);
    }
    if s.widened != Widened::Nowhere {
        p = w.cast(p, s.dtype);
    }
    if s.row_factor_after {
        let f = w.graph.input("row_factor_after", Type::new(s.dtype, rows));
        let f = w.laid_out(f, s.rows[0]);
        p = w.op(Op::Binary(Binary::Mul), &[p, f]);
    }
    if s.flat {
        p = w.flattened(p);
    }
    let mut products = vec![];
    let mut start = 0;
    for (&len, &v) in parts.iter().zip(&values) {
        let p = if parts.len() > 1 { w.op(Op::Slice { axis: 3, start, len, step: 1 }, &[p]) } else { p };
        products.push(w.product(p, v, ["ij", "je", "ie"], "pv"));
        start += len;
    }
    let mut o = match products[..] {
        [o] => o,
        _ => w.op(Op::Binary(Binary::Add), &products),
    };
    if s.flat {
        o = w.op(Op::Reshape(vec![s.batch, heads, s.q_len, s.depth_v]), &[o]);
    }
    if let Some(sum) = divisor {
        o = divided(&mut w, s, o, sum);
    }
    w.graph.output("o", o);
    w.graph
}

/// One more step, if there is one at that place.
fn extra(w: &mut Writer, s: &Spelling, x: ValueId, place: usize) -> ValueId {
    let Some(extra) = s.extras[place] else { return x };
    let dtype = w.graph.ty(x).dtype;
    let [batch, heads, rows, keys] = w.shape(x)[..] else { unreachable!("the scores have four axes") };
    let input =
        |w: &mut Writer, shape: Vec<usize>| w.graph.input(&format!("extra{place}"), Type::new(dtype, shape));
    match extra {
        Extra::Factor(over) => {
            let shape = match over {
                Over::Batch => vec![batch, 1, 1, 1],
                Over::Heads => vec![heads, 1, 1],
                Over::Keys => vec![keys],
                Over::Pairs => vec![rows, keys],
            };
            let by = input(w, shape);
            w.op(Op::Binary(Binary::Mul), &[x, by])
        }
        Extra::Divisor => {
            let by = input(w, vec![batch, 1, 1, 1]);
            w.op(Op::Binary(Binary::Div), &[x, by])
        }
        Extra::Cap => {
            let cap = w.graph.constant("cap", Tensor::scalar(dtype, 4.0));
            let small = w.op(Op::Binary(Binary::Div), &[x, cap]);
            let bent = w.op(Op::Unary(Unary::Tanh), &[small]);
            w.op(Op::Binary(Binary::Mul), &[bent, cap])
        }
        Extra::Switch => {
            let at = |i: usize| if i % keys <= i / keys { 0.5 } else { 0.0 };
            let data: Vec<f64> = (0..rows * keys).map(at).collect();
            let by = Tensor::from_f64(dtype, [rows, keys], &data).expect("as many numbers as elements");
            let by = w.graph.constant("switch", by);
            w.op(Op::Binary(Binary::Mul), &[x, by])
        }
    }
}

/// The softmax, or exp and its sum if that divides later.
fn softmax(w: &mut Writer, s: &Spelling, x: ValueId) -> (ValueId, Option<ValueId>) {
    if let Softmax::Operator = s.softmax {
        return (w.named(Op::Softmax { axis: 3 }, &[x], "softmax"), None);
    }
    if let Softmax::Quotient = s.softmax {
        let (e, sum) = quotient(w, s, x);
        return if s.divides_after() { (e, Some(sum)) } else { (divided(w, s, e, sum), None) };
    }
    let sub = Op::Binary(Binary::Sub);
    let max = w.reduced(Max, x, s.rows[1]);
    let d = w.op(sub.clone(), &[x, max]);
    let e = w.op(Op::Unary(Unary::Exp), &[d]);
    let sum = w.reduced(Total, e, s.rows[1]);
    let log = w.op(Op::Unary(Unary::Log), &[sum]);
    let log_p = match s.softmax {
        Softmax::LogSumExp => {
            let lse = w.op(Op::Binary(Binary::Add), &[max, log]);
            w.op(sub, &[x, lse])
        }
        _ => w.op(sub, &[d, log]),
    };
    (w.named(Op::Unary(Unary::Exp), &[log_p], "softmax"), None)
}

/// exp of scores and its sum.
fn quotient(w: &mut Writer, s: &Spelling, x: ValueId) -> (ValueId, ValueId) {
    let mut x = x;
    if s.quotient.base_two {
        x = w.times(x, Some(std::f64::consts::LOG2_E));
    }
    let mut max = w.reduced(Max, x, s.rows[1]);
    let zero = w.number(0.0);
    if let Sum::Replaced = s.quotient.sum {
        let none = w.op(Op::Unary(Unary::IsInf), &[max]);
        max = w.op(Op::Select, &[none, zero, max]);
    }
    let d = w.op(Op::Binary(Binary::Sub), &[x, max]);
    let mut e = if s.quotient.base_two {
        let two = w.number(2.0);
        w.op(Op::Binary(Binary::Pow), &[two, d])
    } else {
        w.op(Op::Unary(Unary::Exp), &[d])
    };
    if let Some(layer @ Layer { how: How::AfterExp { multiplied }, .. }) = s.masks[0] {
        let keep = keep(w, s, 0, layer);
        e = if multiplied {
            let m = w.op(Op::Cast(w.dtype), &[keep]);
            w.op(Op::Binary(Binary::Mul), &[m, e])
        } else {
            w.op(Op::Select, &[keep, e, zero])
        };
    }
    let sum = w.reduced(Total, e, s.rows[1]);
    let sum = match s.quotient.sum {
        Sum::Plain => sum,
        Sum::Bounded => {
            let least = w.number(1e-6);
            w.op(Op::Binary(Binary::Max), &[sum, least])
        }
        Sum::AndALittle => {
            // The least that halves have.
            let little = w.number(if w.dtype == DType::F16 { 2f64.powi(-24) } else { 1e-20 });
            w.op(Op::Binary(Binary::Add), &[sum, little])
        }
        Sum::Replaced => {
            let (none, one) = (w.op(Op::Binary(Binary::Eq), &[sum, zero]), w.number(1.0));
            w.op(Op::Select, &[none, one, sum])
        }
    };
    (e, sum)
}

/// A quotient by the sum.
fn divided(w: &mut Writer, s: &Spelling, x: ValueId, sum: ValueId) -> ValueId {
    if s.quotient.reciprocal {
        let inverse = w.op(Op::Unary(Unary::Reciprocal), &[sum]);
        return w.named(Op::Binary(Binary::Mul), &[inverse, x], "softmax");
    }
    w.named(Op::Binary(Binary::Div), &[x, sum], "softmax")
}

fn with_sinks(w: &mut Writer, s: &Spelling, sinks: Sinks, x: ValueId) -> ValueId {
    let heads = s.kv_heads * s.repeat;
    let column = if sinks.by_head {
        let c = w.graph.input("sinks", Type::new(w.dtype, [heads]));
        let c = w.op(Op::Reshape(vec![1, heads, 1, 1]), &[c]);
        w.op(Op::Broadcast(vec![s.batch, heads, s.q_len, 1]), &[c])
    } else {
        w.graph.input("sinks", Type::new(w.dtype, [s.batch, heads, s.q_len, 1]))
    };
    let order = if sinks.first { [column, x] } else { [x, column] };
    let x = w.op(Op::Concat { axis: 3 }, &order);
    if !sinks.shifted {
        return x;
    }
    let max = w.op(Op::Reduce { kind: Max, axes: vec![3], keep: true }, &[x]);
    w.op(Op::Binary(Binary::Sub), &[x, max])
}
