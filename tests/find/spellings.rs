//! Random spellings of one attention: each is found, with the figures it was made from, and computes what it did.

use super::cases::same;
use annulus::find::report::record;
use annulus::find::{FindOptions, find};
use annulus::ir::{Binary, Contract, DType, Graph, Op, Tensor, Type, Unary, ValueId};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum MaskSpelling {
    None,
    /// where(keep, s, −∞), or the other way round.
    Where {
        inverted: bool,
    },
    /// where(keep, s, f).
    Fill(f64),
    /// s + where(keep, 0, f), f −∞ or finite.
    Add(f64),
    /// s + b for an input.
    Bias,
    /// where(keep, s, −∞) for an input.
    Input,
    /// exp is 0 where keep is not, by a product or a choice.
    AfterExp {
        multiplied: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum SoftmaxSpelling {
    Operator,
    /// exp(x − max) over its sum.
    Quotient,
    /// exp(x − (max + ln Σ exp(x − max))).
    LogSumExp,
    /// exp((x − max) − ln Σ exp(x − max)).
    LogSoftmax,
}

/// How the quotient of exp and its sum is written.
#[derive(Clone, Copy, Debug)]
struct Quotient {
    /// Powers of two, with log₂e in the scale.
    base_two: bool,
    /// The sum divides the product with V.
    after: bool,
    /// By a product with its reciprocal.
    reciprocal: bool,
    /// What keeps the sum from 0.
    sum: Sum,
}

#[derive(Clone, Copy, Debug)]
enum Sum {
    Plain,
    /// At least a number.
    Bounded,
    /// With a number added that is lost in rounding.
    AndALittle,
    /// The maximum and the sum of a row without a key are replaced: zeros come of it.
    Replaced,
}

/// A column beside the scores.
#[derive(Clone, Copy, Debug)]
struct Sinks {
    /// Before the keys, not after them.
    first: bool,
    /// One number a head, repeated, not one for each row.
    by_head: bool,
    /// The maximum is subtracted before the softmax too.
    shifted: bool,
    /// A guard against NaN stands before the column is dropped, not after.
    guarded_first: bool,
}

#[derive(Clone, Copy, Debug)]
struct Spelling {
    batch: usize,
    kv_heads: usize,
    repeat: usize,
    q_len: usize,
    kv_len: usize,
    depth: usize,
    depth_v: usize,
    /// Rows before heads in the inputs, as a projection leaves them.
    rows_first: bool,
    /// Batch and heads in one axis for the products.
    flat: bool,
    /// K transposed before the product.
    transposed: bool,
    /// Factors on Q and K and the scores, and a divisor of the scores.
    scales: [Option<f64>; 4],
    mask: MaskSpelling,
    offset: i64,
    guarded: bool,
    softmax: SoftmaxSpelling,
    /// A factor on scores that are masked already.
    late: bool,
    sinks: Option<Sinks>,
    dtype: DType,
    quotient: Quotient,
    /// Key heads are repeated by a look-up.
    looked_up: bool,
    /// A factor for each row, on the scores before they are masked.
    row_factor: bool,
    /// A factor for each row, on the probabilities.
    row_factor_after: bool,
    /// Keys before this one are stored apart, and products with them are joined to those with the others.
    past: usize,
}

impl Spelling {
    /// Whether the mask acts on exp.
    fn masks_exp(&self) -> bool {
        matches!(self.mask, MaskSpelling::AfterExp { .. })
    }

    /// Whether the sum divides the product with V.
    fn divides_after(&self) -> bool {
        let plain = self.sinks.is_none() && !self.guarded && !self.row_factor_after && self.past == 0;
        matches!(self.softmax, SoftmaxSpelling::Quotient) && self.quotient.after && plain
    }
}

fn spelling() -> impl Strategy<Value = Spelling> {
    let sizes = (1usize..3, 1usize..4, 1usize..4, 1usize..6, 1usize..7, 1usize..4, 1usize..4);
    let factor = || proptest::option::of(prop_oneof![Just(0.5), Just(0.3), Just(2.0), Just(-1.0)]);
    let mask = prop_oneof![
        Just(MaskSpelling::None),
        any::<bool>().prop_map(|inverted| MaskSpelling::Where { inverted }),
        prop_oneof![Just(-1e4), Just(f64::from(f32::MIN))].prop_map(MaskSpelling::Fill),
        prop_oneof![Just(-1e4), Just(f64::from(f32::MIN)), Just(f64::NEG_INFINITY)]
            .prop_map(MaskSpelling::Add),
        Just(MaskSpelling::Bias),
        Just(MaskSpelling::Input),
        any::<bool>().prop_map(|multiplied| MaskSpelling::AfterExp { multiplied }),
    ];
    let softmax = prop_oneof![
        2 => Just(SoftmaxSpelling::Operator),
        3 => Just(SoftmaxSpelling::Quotient),
        1 => Just(SoftmaxSpelling::LogSumExp),
        1 => Just(SoftmaxSpelling::LogSoftmax),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), softmax);
    let dtype = prop_oneof![Just(DType::F32), Just(DType::F64)];
    let sinks = any::<[bool; 4]>().prop_map(|[first, by_head, shifted, guarded_first]| Sinks {
        first,
        by_head,
        shifted,
        guarded_first,
    });
    let sum = prop_oneof![Just(Sum::Plain), Just(Sum::Bounded), Just(Sum::AndALittle), Just(Sum::Replaced)];
    let quotient = (any::<[bool; 3]>(), sum).prop_map(|([base_two, after, reciprocal], sum)| Quotient {
        base_two,
        after,
        reciprocal,
        sum,
    });
    let more = (any::<[bool; 3]>(), proptest::option::weighted(0.3, 1usize..6));
    let rest = (-3i64..4, dtype, proptest::option::weighted(0.3, sinks), quotient, more);
    (sizes, flags, [factor(), factor(), factor(), factor()], mask, rest).prop_map(
        |((batch, kv_heads, repeat, q_len, kv_len, depth, depth_v), f, scales, mask, rest)| {
            let (offset, dtype, sinks, quotient, ([looked_up, row_factor, row_factor_after], past)) = rest;
            let mut s = Spelling {
                batch,
                kv_heads,
                repeat,
                q_len,
                kv_len,
                depth,
                depth_v,
                rows_first: f.0,
                flat: f.1,
                transposed: f.2,
                scales,
                mask,
                offset,
                guarded: f.3,
                late: f.4,
                softmax: f.5,
                sinks,
                dtype,
                quotient,
                looked_up,
                row_factor,
                row_factor_after,
                past: past.filter(|&p| p < kv_len && !f.1).unwrap_or(0),
            };
            // What is masked after exp has its sum there, of no other keys, which may be any number above 0.
            if s.masks_exp() {
                (s.softmax, s.sinks, s.quotient.sum) = (SoftmaxSpelling::Quotient, None, Sum::Plain);
                // Zeros everywhere are no mask.
                s.offset = s.offset.max(1 - s.q_len as i64);
            }
            // A multiple of the least number is −∞.
            let least = |f: f64| f == f64::from(f32::MIN);
            s.quotient.base_two &=
                !matches!(s.mask, MaskSpelling::Fill(f) | MaskSpelling::Add(f) if least(f));
            // −∞ less −∞ is NaN, of which nothing makes zeros any more.
            if let (Sum::Replaced, Some(sinks)) = (s.quotient.sum, &mut s.sinks) {
                sinks.shifted = false;
            }
            s
        },
    )
}

/// Writes a graph down, an operation a line.
struct Writer {
    graph: Graph,
    dtype: DType,
}

impl Writer {
    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.named(op, x, "")
    }

    fn named(&mut self, op: Op, x: &[ValueId], source: &str) -> ValueId {
        self.graph.add1(op, x, "v", source).unwrap()
    }

    fn shape(&self, v: ValueId) -> Vec<usize> {
        self.graph.ty(v).shape.clone()
    }

    fn number(&mut self, x: f64) -> ValueId {
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

    /// Whether key ≤ row + offset, as a constant subgraph.
    fn causal(&mut self, q: usize, k: usize, offset: i64) -> ValueId {
        let ty = Type::new(DType::I64, [q, k]);
        let i = self.op(Op::Iota { ty: ty.clone(), axis: 0 }, &[]);
        let j = self.op(Op::Iota { ty, axis: 1 }, &[]);
        let o = self.graph.constant("o", Tensor::scalar(DType::I64, offset as f64));
        let row = self.op(Op::Binary(Binary::Add), &[i, o]);
        self.op(Op::Binary(Binary::Le), &[j, row])
    }
}

fn write(s: Spelling) -> Graph {
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
        x = w.op(Op::Binary(Binary::Mul), &[x, f]);
    }
    x = masked(&mut w, s, x);
    if s.late {
        x = w.times(x, Some(0.5));
    }
    if let Some(sinks) = s.sinks {
        x = with_sinks(&mut w, s, sinks, x);
    }
    let axis = 3;
    // ln Σ is lost beside a large finite number, so that this is no softmax then.
    let lossy = matches!(s.mask, MaskSpelling::Fill(_) | MaskSpelling::Bias)
        || matches!(s.mask, MaskSpelling::Add(f) if f.is_finite());
    let softmax = match s.softmax {
        SoftmaxSpelling::LogSumExp if lossy => SoftmaxSpelling::LogSoftmax,
        other => other,
    };
    let mut divisor = None;
    let p = if let SoftmaxSpelling::Quotient = softmax {
        let (e, sum) = quotient(&mut w, s, x);
        if s.divides_after() {
            divisor = Some(sum);
            e
        } else {
            divided(&mut w, s, e, sum)
        }
    } else if let SoftmaxSpelling::Operator = softmax {
        w.named(Op::Softmax { axis }, &[x], "softmax")
    } else {
        use annulus::ir::Reduction::{Max, Sum};
        let sub = Op::Binary(Binary::Sub);
        let max = w.op(Op::Reduce { kind: Max, axes: vec![axis], keep: true }, &[x]);
        let d = w.op(sub.clone(), &[x, max]);
        let e = w.op(Op::Unary(Unary::Exp), &[d]);
        let sum = w.op(Op::Reduce { kind: Sum, axes: vec![axis], keep: true }, &[e]);
        match softmax {
            SoftmaxSpelling::LogSumExp => {
                let log = w.op(Op::Unary(Unary::Log), &[sum]);
                let lse = w.op(Op::Binary(Binary::Add), &[max, log]);
                let log_p = w.op(sub, &[x, lse]);
                w.named(Op::Unary(Unary::Exp), &[log_p], "softmax")
            }
            SoftmaxSpelling::LogSoftmax => {
                let log = w.op(Op::Unary(Unary::Log), &[sum]);
                let log_p = w.op(sub, &[d, log]);
                w.named(Op::Unary(Unary::Exp), &[log_p], "softmax")
            }
            _ => unreachable!("written before"),
        }
    };
    let mut p = p;
    let early = s.sinks.is_some_and(|x| x.guarded_first);
    if s.guarded && early {
        p = w.guarded(p);
    }
    if let Some(sinks) = s.sinks {
        let start = usize::from(sinks.first);
        p = w.op(Op::Slice { axis, start, len: s.kv_len, step: 1 }, &[p]);
    }
    if s.guarded && !early {
        p = w.guarded(p);
    }
    if s.row_factor_after {
        let f = w.graph.input("row_factor_after", Type::new(s.dtype, rows));
        p = w.op(Op::Binary(Binary::Mul), &[p, f]);
    }
    if s.flat {
        p = w.flattened(p);
    }
    let mut products = vec![];
    let mut start = 0;
    for (&len, &v) in parts.iter().zip(&values) {
        let p = if parts.len() > 1 { w.op(Op::Slice { axis, start, len, step: 1 }, &[p]) } else { p };
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

/// exp of scores and its sum.
fn quotient(w: &mut Writer, s: Spelling, x: ValueId) -> (ValueId, ValueId) {
    use annulus::ir::Reduction::{Max, Sum as Total};
    let reduce = |kind| Op::Reduce { kind, axes: vec![3], keep: true };
    let mut x = x;
    if s.quotient.base_two {
        x = w.times(x, Some(std::f64::consts::LOG2_E));
    }
    let mut max = w.op(reduce(Max), &[x]);
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
    if let MaskSpelling::AfterExp { multiplied } = s.mask {
        let keep = w.causal(s.q_len, s.kv_len, s.offset);
        e = if multiplied {
            let m = w.op(Op::Cast(s.dtype), &[keep]);
            w.op(Op::Binary(Binary::Mul), &[m, e])
        } else {
            w.op(Op::Select, &[keep, e, zero])
        };
    }
    let sum = w.op(reduce(Total), &[e]);
    let sum = match s.quotient.sum {
        Sum::Plain => sum,
        Sum::Bounded => {
            let least = w.number(1e-6);
            w.op(Op::Binary(Binary::Max), &[sum, least])
        }
        Sum::AndALittle => {
            let little = w.number(1e-20);
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
fn divided(w: &mut Writer, s: Spelling, x: ValueId, sum: ValueId) -> ValueId {
    if s.quotient.reciprocal {
        let inverse = w.op(Op::Unary(Unary::Reciprocal), &[sum]);
        return w.named(Op::Binary(Binary::Mul), &[inverse, x], "softmax");
    }
    w.named(Op::Binary(Binary::Div), &[x, sum], "softmax")
}

fn with_sinks(w: &mut Writer, s: Spelling, sinks: Sinks, x: ValueId) -> ValueId {
    let heads = s.kv_heads * s.repeat;
    let column = if sinks.by_head {
        let c = w.graph.input("sinks", Type::new(s.dtype, [heads]));
        let c = w.op(Op::Reshape(vec![1, heads, 1, 1]), &[c]);
        w.op(Op::Broadcast(vec![s.batch, heads, s.q_len, 1]), &[c])
    } else {
        w.graph.input("sinks", Type::new(s.dtype, [s.batch, heads, s.q_len, 1]))
    };
    let order = if sinks.first { [column, x] } else { [x, column] };
    let x = w.op(Op::Concat { axis: 3 }, &order);
    if !sinks.shifted {
        return x;
    }
    let max = w.op(Op::Reduce { kind: annulus::ir::Reduction::Max, axes: vec![3], keep: true }, &[x]);
    w.op(Op::Binary(Binary::Sub), &[x, max])
}

fn masked(w: &mut Writer, s: Spelling, x: ValueId) -> ValueId {
    let keep = |w: &mut Writer| w.causal(s.q_len, s.kv_len, s.offset);
    match s.mask {
        MaskSpelling::None | MaskSpelling::AfterExp { .. } => x,
        MaskSpelling::Where { inverted: false } => {
            let (keep, inf) = (keep(w), w.number(f64::NEG_INFINITY));
            w.op(Op::Select, &[keep, x, inf])
        }
        MaskSpelling::Where { inverted: true } => {
            let (keep, inf) = (keep(w), w.number(f64::NEG_INFINITY));
            let drop = w.op(Op::Unary(Unary::Not), &[keep]);
            w.op(Op::Select, &[drop, inf, x])
        }
        MaskSpelling::Fill(f) => {
            let (keep, f) = (keep(w), w.number(f));
            w.op(Op::Select, &[keep, x, f])
        }
        MaskSpelling::Add(f) => {
            let (keep, zero, f) = (keep(w), w.number(0.0), w.number(f));
            let m = w.op(Op::Select, &[keep, zero, f]);
            w.op(Op::Binary(Binary::Add), &[m, x])
        }
        MaskSpelling::Bias => {
            let b = w.graph.input("bias", Type::new(s.dtype, [s.q_len, s.kv_len]));
            w.op(Op::Binary(Binary::Add), &[x, b])
        }
        MaskSpelling::Input => {
            let keep = w.graph.input("keep", Type::new(DType::Bool, [s.batch, 1, 1, s.kv_len]));
            let inf = w.number(f64::NEG_INFINITY);
            w.op(Op::Select, &[keep, x, inf])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_spelling_is_found(s in spelling(), seed in 1u64..1000) {
        let before = write(s);
        let found = find(&before, &FindOptions::default());
        prop_assert_eq!(found.attentions.len(), 1, "{:?}\n{}", found.missed, before);
        let r = record(&found.graph, &found.attentions[0]);
        // Of one key head that several query heads share, and of one head, nothing but names tells them apart.
        prop_assert_eq!(
            (r.q_len, r.kv_len, r.head_dim, r.v_head_dim),
            (s.q_len, s.kv_len, s.depth, s.depth_v)
        );
        let batch = found.graph.ty(found.graph.operands(found.attentions[0].op)[0]).shape[0];
        prop_assert_eq!(batch * r.q_heads, s.batch * s.kv_heads * s.repeat);
        if !s.flat {
            prop_assert_eq!((r.q_heads, r.kv_heads), (s.kv_heads * s.repeat, s.kv_heads));
        }
        prop_assert_eq!(batch * r.kv_heads, s.batch * s.kv_heads);
        let factor = |i: usize| s.scales[i].unwrap_or(1.0);
        let late = if s.late { 0.5 } else { 1.0 };
        let want = late * factor(0) * factor(1) * factor(2) / factor(3);
        prop_assert!((r.scale - want).abs() <= 1e-6 * want.abs(), "{} for {}", r.scale, want);
        prop_assert_eq!(r.sinks, s.sinks.is_some());
        if s.sinks.is_some_and(|x| x.by_head) {
            let sinks = *found.graph.operands(found.attentions[0].op).last().unwrap();
            prop_assert_eq!(found.graph.ty(sinks).elements(), s.kv_heads * s.repeat, "stays one a head");
        }
        if s.past == 0 {
            prop_assert_eq!(r.nodes, ["qk", "softmax", "pv"]);
        }
        let tolerance = match (s.dtype, s.mask) {
            (DType::F64, _) => 1e-12,
            // Of a row without a key: a score beside −10⁴ is a multiple of 10⁻³, whatever was rounded before.
            (_, MaskSpelling::Add(-1e4)) => 2e-3,
            _ => 1e-5,
        };
        if let Err(e) = same(&before, &found.graph, seed, tolerance) {
            return Err(TestCaseError::fail(format!("{e}\n{before}\n{}", found.graph)));
        }
    }
}
