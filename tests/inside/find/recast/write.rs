//! A shape as a graph.

use super::shape::{Guard, Inner, Kind, Product, Shape, Sum, Weight};
use annulus::ir::{Binary, Contract, DType, Graph, Op, Reduction, Tensor, Type, Unary, ValueId};

struct Writer<'a> {
    g: Graph,
    s: &'a Shape,
}

pub(super) fn write(s: &Shape) -> Graph {
    let mut w = Writer { g: Graph::new("shape"), s };
    w.shape();
    w.g
}

impl Writer<'_> {
    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.g.add1(op, x, "v", "").unwrap()
    }

    fn two(&mut self, b: Binary, x: ValueId, y: ValueId) -> ValueId {
        self.op(Op::Binary(b), &[x, y])
    }

    fn one(&mut self, u: Unary, x: ValueId) -> ValueId {
        self.op(Op::Unary(u), &[x])
    }

    fn number(&mut self, x: f64) -> ValueId {
        self.g.constant("c", Tensor::scalar(self.s.dtype, x))
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.g.input(name, Type::new(self.s.dtype, shape))
    }

    fn truths(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.g.input(name, Type::new(DType::Bool, shape))
    }

    fn times(&mut self, x: ValueId, by: Option<f64>) -> ValueId {
        let Some(by) = by else { return x };
        let by = self.number(by);
        self.two(Binary::Mul, x, by)
    }

    fn contract(&mut self, axes: &str, a: ValueId, b: ValueId, source: &str) -> ValueId {
        let (lhs, rest) = axes.split_once(',').unwrap();
        let (rhs, out) = rest.split_once("->").unwrap();
        let c = Contract { lhs: lhs.into(), rhs: rhs.into(), out: out.into() };
        self.g.add1(Op::Contract(c), &[a, b], "v", source).unwrap()
    }

    fn folded(&mut self, kind: Reduction, x: ValueId) -> ValueId {
        self.op(Op::Reduce { kind, axes: vec![3], keep: true }, &[x])
    }

    fn slice(&mut self, x: ValueId, axis: usize, start: usize, len: usize) -> ValueId {
        self.op(Op::Slice { axis, start, len, step: 1 }, &[x])
    }

    fn softmax(&mut self, x: ValueId) -> ValueId {
        self.g.add1(Op::Softmax { axis: 3 }, &[x], "v", "softmax").unwrap()
    }

    /// Scores times a half, masked or biased: keys `at..at + keys` of all.
    fn scores(&mut self, product: ValueId, at: usize, mask: &mut Option<ValueId>) -> ValueId {
        let (batch, heads, rows, all) = (self.s.batch, self.s.heads, self.s.rows, self.s.keys());
        let keys = self.g.ty(product).shape[3];
        let x = self.times(product, Some(0.5));
        let inner = self.s.inner;
        if inner == Inner::None {
            return x;
        }
        let whole = *mask.get_or_insert_with(|| match inner {
            Inner::Bias => self.g.input("bias", Type::new(self.s.dtype, [heads, rows, all])),
            _ => self.g.input("mask", Type::new(DType::Bool, [batch, 1, 1, all])),
        });
        let axis = self.g.ty(whole).rank() - 1;
        let own = if keys == all { whole } else { self.slice(whole, axis, at, keys) };
        match inner {
            Inner::Bias => self.two(Binary::Add, x, own),
            _ => {
                let fill = self.number(if inner == Inner::Fill { -1e9 } else { f64::NEG_INFINITY });
                self.op(Op::Select, &[own, x, fill])
            }
        }
    }

    /// Q, and K and V of each part.
    fn operands(&mut self, whole: bool) -> (ValueId, Vec<[ValueId; 2]>) {
        let Shape { batch, heads, rows, depth, depth_v, parts, .. } = self.s;
        let (b, h, d, e) = (*batch, *heads, *depth, *depth_v);
        let q = self.input("q", &[b, h, *rows, d]);
        if whole || parts.len() == 1 {
            let all = self.s.keys();
            let (k, v) = (self.input("k", &[b, h, all, d]), self.input("v", &[b, h, all, e]));
            if parts.len() == 1 {
                return (q, vec![[k, v]]);
            }
            let mut at = 0;
            let mut list = vec![];
            for &n in parts {
                list.push([k, v].map(|x| self.slice(x, 2, at, n)));
                at += n;
            }
            return (q, list);
        }
        let mut list = vec![];
        for (i, &n) in parts.iter().enumerate() {
            let k = self.input(&format!("k{i}"), &[b, h, n, d]);
            list.push([k, self.input(&format!("v{i}"), &[b, h, n, e])]);
        }
        (q, list)
    }

    /// The scores and values of each part.
    fn parts(&mut self, whole: bool) -> Vec<[ValueId; 2]> {
        let (q, operands) = self.operands(whole);
        let (mut mask, mut at, mut all) = (None, 0, vec![]);
        for [k, v] in operands {
            let s = self.contract("bhid,bhjd->bhij", q, k, "qk");
            let keys = self.g.ty(s).shape[3];
            all.push([self.scores(s, at, &mut mask), v]);
            at += keys;
        }
        all
    }

    fn pv(&mut self, p: ValueId, v: ValueId) -> ValueId {
        self.contract("bhij,bhje->bhie", p, v, "pv")
    }

    fn shape(&mut self) {
        match self.s.kind.clone() {
            Kind::Products { more, scale, cached, rows_first } => {
                self.products(&more, scale, cached, rows_first)
            }
            Kind::Values { more, shared } => self.values(&more, shared),
            Kind::Masks => self.masks(),
            Kind::Difference { pairs, by_head } => self.difference(pairs, by_head),
            Kind::Online { nothing, guarded, each, whole } => self.online(nothing, guarded, each, whole),
            Kind::Merged { sum, weight, tree, put_out } => self.merged(sum, weight, tree, put_out),
            Kind::Log { sink, written_out } => self.log(sink, written_out),
            Kind::Masked { guard, last, chosen } => self.masked(guard, last, chosen),
        }
    }

    fn products(&mut self, more: &[Product], scale: Option<f64>, cached: bool, rows_first: bool) {
        let s = self.s;
        let (b, h, i, n) = (s.batch, s.heads, s.rows, s.keys());
        let own = Product { depth: s.depth, shared: false, scale: None, by_row: false };
        let mut sum: Option<ValueId> = None;
        for (at, p) in [&own].into_iter().chain(more).enumerate() {
            let d = p.depth;
            let of = |rows: usize| if rows_first { [b, rows, h, d] } else { [b, h, rows, d] };
            let q = self.input(&format!("q{at}"), &of(i));
            let axis = usize::from(!(p.shared || rows_first)) + 1;
            let shape = |rows: usize| if p.shared { vec![b, rows, d] } else { of(rows).to_vec() };
            let k = if cached {
                let past = self.input(&format!("past{at}"), &shape(s.parts[0]));
                let new = self.input(&format!("k{at}"), &shape(n - s.parts[0]));
                self.op(Op::Concat { axis }, &[past, new])
            } else {
                self.input(&format!("k{at}"), &shape(n))
            };
            let axes = match (rows_first, p.shared) {
                (false, false) => "bhid,bhjd->bhij",
                (false, true) => "bhid,bjd->bhij",
                (true, false) => "bihd,bjhd->bihj",
                (true, true) => "bihd,bjd->bihj",
            };
            let mut x = self.contract(axes, q, k, "qk");
            x = self.times(x, p.scale);
            if p.by_row {
                let shape = if rows_first { [b, i, 1, 1] } else { [b, 1, i, 1] };
                let by = self.input(&format!("by{at}"), &shape);
                x = self.two(Binary::Mul, x, by);
            }
            sum = Some(match sum {
                None => x,
                // One of them is subtracted.
                Some(sum) if at == 2 => self.two(Binary::Sub, sum, x),
                Some(sum) => self.two(Binary::Add, x, sum),
            });
        }
        let x = sum.unwrap();
        let mut x = self.times(x, scale);
        if s.inner == Inner::Infinity {
            let mask = self.truths("mask", &[b, 1, 1, n]);
            let fill = self.number(f64::NEG_INFINITY);
            x = self.op(Op::Select, &[mask, x, fill]);
        }
        let p = self.softmax(x);
        let shape = if rows_first { [b, n, h, s.depth_v] } else { [b, h, n, s.depth_v] };
        let v = self.input("v", &shape);
        let axes = if rows_first { "bihj,bjhe->bihe" } else { "bhij,bhje->bhie" };
        let o = self.contract(axes, p, v, "pv");
        self.g.output("o", o);
    }

    fn values(&mut self, more: &[usize], shared: bool) {
        let s = self.s;
        let [x, v] = self.parts(false)[0];
        let p = self.softmax(x);
        let o = self.pv(p, v);
        self.g.output("o", o);
        for (i, &e) in more.iter().enumerate() {
            let name = format!("more{i}");
            let o = if shared && i + 1 == more.len() {
                let v = self.input(&name, &[s.batch, s.keys(), e]);
                self.contract("bje,bhij->ibeh", v, p, "pv")
            } else {
                let v = self.input(&name, &[s.batch, s.heads, s.keys(), e]);
                self.pv(p, v)
            };
            self.g.output(&name, o);
        }
    }

    fn masks(&mut self) {
        let s = self.s;
        let [x, v] = self.parts(false)[0];
        let mask = self.truths("other", &[s.batch, 1, s.rows, s.keys()]);
        let fill = self.number(f64::NEG_INFINITY);
        let y = self.op(Op::Select, &[mask, x, fill]);
        let [p, r] = [x, y].map(|x| self.softmax(x));
        let [o, u] = [p, r].map(|p| self.pv(p, v));
        let o = self.two(Binary::Add, o, u);
        self.g.output("o", o);
    }

    fn difference(&mut self, pairs: bool, by_head: bool) {
        let s = self.s;
        let (b, h, i, n) = (s.batch, s.heads, s.rows, s.keys());
        let each = if pairs { 2 * h } else { h };
        let probabilities = |w: &mut Self, at: &str| {
            let q = w.input(&format!("q{at}"), &[b, each, i, s.depth]);
            let k = w.input(&format!("k{at}"), &[b, each, n, s.depth]);
            let x = w.contract("bhid,bhjd->bhij", q, k, "qk");
            let x = w.times(x, Some(0.5));
            w.softmax(x)
        };
        let [first, second] = if pairs {
            let p = probabilities(self, "");
            let p = self.op(Op::Reshape(vec![b, h, 2, i, n]), &[p]);
            [0, 1].map(|at| {
                let one = self.slice(p, 2, at, 1);
                self.op(Op::Reshape(vec![b, h, i, n]), &[one])
            })
        } else {
            ["1", "2"].map(|at| probabilities(self, at))
        };
        let lambda = self.input("lambda", if by_head { &[1, 1, 1] } else { &[] });
        let second = self.two(Binary::Mul, lambda, second);
        let p = self.two(Binary::Sub, first, second);
        let v = self.input("v", &[b, h, n, s.depth_v]);
        let o = self.contract("bhij,bhje->bihe", p, v, "pv");
        self.g.output("o", o);
    }

    /// What is subtracted of scores: their maximum, or 0 where that is −∞.
    fn shift(&mut self, max: ValueId, guarded: bool) -> ValueId {
        if !guarded {
            return max;
        }
        let (none, zero) = (self.number(f64::NEG_INFINITY), self.number(0.0));
        let empty = self.two(Binary::Eq, max, none);
        self.op(Op::Select, &[empty, zero, max])
    }

    fn online(&mut self, nothing: bool, guarded: bool, each: bool, whole: bool) {
        let parts = self.parts(whole);
        let mut state = None;
        // Divided at each step there is no sum of 0 to begin with.
        if nothing && !each {
            state = Some([self.number(f64::NEG_INFINITY), self.number(0.0), self.number(0.0)]);
        }
        for [x, v] in parts {
            let max = self.folded(Reduction::Max, x);
            let max = match state {
                Some([before, ..]) => self.two(Binary::Max, before, max),
                None => max,
            };
            let shift = self.shift(max, guarded);
            let d = self.two(Binary::Sub, x, shift);
            let e = self.one(Unary::Exp, d);
            let (mut sum, mut out) = (self.folded(Reduction::Sum, e), self.pv(e, v));
            if let Some([before, total, result]) = state {
                let d = self.two(Binary::Sub, before, shift);
                let by = self.one(Unary::Exp, d);
                let total = self.two(Binary::Mul, total, by);
                sum = self.two(Binary::Add, total, sum);
                let result = self.two(Binary::Mul, result, if each { total } else { by });
                out = self.two(Binary::Add, result, out);
            }
            if each {
                out = self.two(Binary::Div, out, sum);
            }
            state = Some([max, sum, out]);
        }
        let [_, sum, out] = state.unwrap();
        let o = if each { out } else { self.two(Binary::Div, out, sum) };
        self.g.output("o", o);
    }

    /// The logarithm of each row's sum of exponentials.
    fn log_sum(&mut self, x: ValueId) -> ValueId {
        let max = self.folded(Reduction::Max, x);
        let endless = self.one(Unary::IsInf, max);
        let zero = self.number(0.0);
        let max = self.op(Op::Select, &[endless, zero, max]);
        let d = self.two(Binary::Sub, x, max);
        let e = self.one(Unary::Exp, d);
        let sum = self.folded(Reduction::Sum, e);
        let log = self.one(Unary::Log, sum);
        self.two(Binary::Add, log, max)
    }

    /// ln(eᵃ + eᵇ).
    fn added(&mut self, a: ValueId, b: ValueId, how: Sum) -> ValueId {
        let (less, plus) = (Binary::Sub, Binary::Add);
        let max = self.two(Binary::Max, a, b);
        let inner = match how {
            Sum::Plain => {
                let [a, b] = [a, b].map(|x| self.one(Unary::Exp, x));
                let sum = self.two(plus, a, b);
                return self.one(Unary::Log, sum);
            }
            Sum::Maximum => {
                let [a, b] = [a, b].map(|x| self.two(less, x, max)).map(|x| self.one(Unary::Exp, x));
                self.two(plus, a, b)
            }
            Sum::Distance => {
                let d = self.two(less, a, b);
                let d = self.one(Unary::Abs, d);
                let d = self.one(Unary::Neg, d);
                let (e, one) = (self.one(Unary::Exp, d), self.number(1.0));
                self.two(plus, one, e)
            }
        };
        let log = self.one(Unary::Log, inner);
        self.two(plus, max, log)
    }

    fn merged(&mut self, sum: Sum, weight: Weight, tree: bool, put_out: bool) {
        let mut items: Vec<[ValueId; 2]> = vec![];
        for [x, v] in self.parts(false) {
            let p = self.softmax(x);
            items.push([self.pv(p, v), self.log_sum(x)]);
        }
        while items.len() > 1 {
            let mut next = vec![];
            let mut list = items.into_iter();
            while let Some(a) = list.next() {
                let Some(b) = list.next() else {
                    next.push(a);
                    break;
                };
                next.push(self.merge(a, b, sum, weight));
                if !tree {
                    break;
                }
            }
            next.extend(list);
            items = next;
        }
        let [o, log] = items[0];
        self.g.output("o", o);
        if put_out {
            self.g.output("log", log);
        }
    }

    fn merge(&mut self, a: [ValueId; 2], b: [ValueId; 2], sum: Sum, weight: Weight) -> [ValueId; 2] {
        let ([o, l], [p, m]) = (a, b);
        let log = self.added(l, m, sum);
        let result = match weight {
            Weight::Exponentials => {
                let [x, y] = [(o, l), (p, m)].map(|(o, l)| {
                    let d = self.two(Binary::Sub, l, log);
                    let w = self.one(Unary::Exp, d);
                    self.two(Binary::Mul, o, w)
                });
                self.two(Binary::Add, x, y)
            }
            Weight::Sigmoid => {
                let d = self.two(Binary::Sub, m, l);
                let w = self.one(Unary::Sigmoid, d);
                let apart = self.two(Binary::Sub, o, p);
                let part = self.two(Binary::Mul, w, apart);
                self.two(Binary::Sub, o, part)
            }
            Weight::Complement => {
                let d = self.two(Binary::Sub, l, m);
                let (w, one) = (self.one(Unary::Sigmoid, d), self.number(1.0));
                let rest = self.two(Binary::Sub, one, w);
                let (x, y) = (self.two(Binary::Mul, o, w), self.two(Binary::Mul, p, rest));
                self.two(Binary::Add, x, y)
            }
        };
        [result, log]
    }

    fn log(&mut self, sink: bool, written_out: bool) {
        let s = self.s;
        let [x, v] = self.parts(false)[0];
        let log = self.log_sum(x);
        let p = if written_out {
            let d = self.two(Binary::Sub, x, log);
            self.one(Unary::Exp, d)
        } else {
            self.softmax(x)
        };
        let o = self.pv(p, v);
        if sink {
            let sink = self.input("sink", &[s.heads, 1, 1]);
            let d = self.two(Binary::Sub, log, sink);
            let w = self.one(Unary::Sigmoid, d);
            let o = self.two(Binary::Mul, o, w);
            self.g.output("o", o);
        } else {
            self.g.output("o", o);
            let log = self.op(Op::Reshape(vec![s.batch, s.heads, s.rows]), &[log]);
            let log = self.op(Op::Permute(vec![0, 2, 1]), &[log]);
            self.g.output("log", log);
        }
    }

    fn masked(&mut self, guard: Guard, last: bool, chosen: bool) {
        let s = self.s;
        let [x, v] = self.parts(false)[0];
        let p = self.softmax(x);
        let keep = self.truths("keep", &[s.rows, s.keys()]);
        let zero = self.number(0.0);
        let p = if chosen {
            self.op(Op::Select, &[keep, p, zero])
        } else {
            let keep = self.op(Op::Cast(s.dtype), &[keep]);
            self.two(Binary::Mul, p, keep)
        };
        let sum = self.folded(Reduction::Sum, p);
        let one = self.number(1.0);
        let sum = match guard {
            Guard::Added | Guard::Bounded => {
                let least = self.number(if s.dtype == DType::F64 { 1e-20 } else { 1e-9 });
                self.two(if guard == Guard::Added { Binary::Add } else { Binary::Max }, sum, least)
            }
            Guard::Above => {
                let above = self.two(Binary::Gt, sum, zero);
                self.op(Op::Select, &[above, sum, one])
            }
            Guard::Equal => {
                let none = self.two(Binary::Eq, sum, zero);
                self.op(Op::Select, &[none, one, sum])
            }
        };
        let o = if last {
            let o = self.pv(p, v);
            self.two(Binary::Div, o, sum)
        } else {
            let p = self.two(Binary::Div, p, sum);
            self.pv(p, v)
        };
        self.g.output("o", o);
    }
}
