//! A number on Q anywhere before it meets K, with slices, look-ups, caches, rotations and projections behind it: it is named where all of
//! them leave it one factor of every element, and whatever is named, the same is computed.

use super::cases::inputs;
use annulus::eval::{Precision, compare, eval};
use annulus::find::report::record;
use annulus::find::{FindOptions, find};
use annulus::ir::{Binary, Contract, DType, Graph, Op, Tensor, Type, Unary, ValueId};
use proptest::prelude::*;

/// What is done to Q of (batch, heads, rows, size).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Rows but the first.
    Slice,
    /// Rows in another order.
    LookUp,
    Turn,
    Neg,
    /// One row more, with the number too or without it.
    Join(bool),
    /// x·cos + turned(x)·sin, with the number on both parts or on the first.
    Rotate(bool),
    /// x·W, and a bias: none, or with the number on it or without.
    Project(Option<bool>),
}

use Step::{Join, LookUp, Neg, Project, Rotate, Slice, Turn};

#[derive(Clone, Debug)]
struct Case {
    steps: Vec<Step>,
    /// Before which step the number is applied.
    at: usize,
    number: f64,
    /// Divided by it, not multiplied.
    divided: bool,
    /// Behind which step something else reads Q, if that is one.
    reader: usize,
    dtype: DType,
    on_keys: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let step = prop_oneof![
        2 => Just(Slice),
        1 => Just(LookUp),
        2 => Just(Turn),
        1 => Just(Neg),
        2 => prop::bool::weighted(0.7).prop_map(Join),
        2 => prop::bool::weighted(0.8).prop_map(Rotate),
        2 => prop::option::of(any::<bool>()).prop_map(Project),
    ];
    let numbers = prop::sample::select(vec![0.5, 0.125, 0.3, 3.0, -1.5]);
    let dtype = prop::sample::select(vec![DType::F64, DType::F64, DType::F32, DType::F16]);
    let rest = (0usize..4, numbers, any::<bool>(), 0usize..12, dtype, any::<bool>());
    (prop::collection::vec(step, 1..5), rest).prop_map(
        |(steps, (at, number, divided, reader, dtype, on_keys))| {
            let at = at.min(steps.len());
            Case { steps, at, number, divided, reader, dtype, on_keys }
        },
    )
}

impl Case {
    /// Whether the number is one of every element of what meets K, and that can be told.
    fn named(&self) -> bool {
        let behind = &self.steps[self.at..];
        let sums = |s: &Step| matches!(s, Rotate(_) | Project(_));
        let moved = !behind.iter().any(sums);
        let all = !behind.iter().any(|s| matches!(s, Join(false) | Rotate(false) | Project(Some(false))));
        // Behind a projection what is projected is only moved.
        let projections = behind.iter().rposition(|s| matches!(s, Project(_)));
        let plain = projections.is_none_or(|p| !behind[..p].iter().any(sums));
        // A part that is put beside what is projected has the number itself.
        let wide = self.dtype == DType::F32 || self.dtype == DType::F64;
        all && (moved || (wide && plain && self.reader >= self.steps.len()))
    }
}

struct Write<'a> {
    g: Graph,
    case: &'a Case,
}

impl Write<'_> {
    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.g.add1(op, x, "v", "").unwrap()
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.g.input(name, Type::new(self.case.dtype, shape.to_vec()))
    }

    fn times(&mut self, v: ValueId) -> ValueId {
        let (number, op) = (self.case.number, if self.case.divided { Binary::Div } else { Binary::Mul });
        let number = self.g.constant("number", Tensor::scalar(self.case.dtype, number));
        self.op(Op::Binary(op), &[v, number])
    }

    fn contract(&mut self, x: [ValueId; 2], letters: [&str; 3], name: &str) -> ValueId {
        let [lhs, rhs, out] = letters.map(str::to_owned);
        self.g.add1(Op::Contract(Contract { lhs, rhs, out }), &x, name, name).unwrap()
    }

    fn step(&mut self, v: ValueId, n: usize, step: Step) -> ValueId {
        // Before the number there is none to carry.
        let carries = |wanted: bool| wanted && n >= self.case.at;
        let rows = self.g.ty(v).shape[2];
        match step {
            Slice if rows < 2 => v,
            Slice => self.op(Op::Slice { axis: 2, start: 1, len: rows - 1, step: 1 }, &[v]),
            LookUp => {
                let order: Vec<i64> = (0..rows as i64).rev().collect();
                let order = self.g.constant("order", Tensor::vector_i64(&order));
                self.op(Op::Gather { axis: 2 }, &[v, order])
            }
            Turn => {
                let v = self.op(Op::Permute(vec![0, 2, 1, 3]), &[v]);
                self.op(Op::Permute(vec![0, 2, 1, 3]), &[v])
            }
            Neg => self.op(Op::Unary(Unary::Neg), &[v]),
            Join(with) => {
                let mut more = self.input(&format!("more{n}"), &[2, 2, 1, 4]);
                if carries(with) {
                    more = self.times(more);
                }
                self.op(Op::Concat { axis: 2 }, &[more, v])
            }
            Rotate(both) => {
                let [cos, sin] = ["cos", "sin"].map(|name| self.input(&format!("{name}{n}"), &[rows, 4]));
                let [low, high] =
                    [0, 2].map(|start| self.op(Op::Slice { axis: 3, start, len: 2, step: 1 }, &[v]));
                let high = self.op(Op::Unary(Unary::Neg), &[high]);
                let turned = self.op(Op::Concat { axis: 3 }, &[high, low]);
                let first = self.op(Op::Binary(Binary::Mul), &[v, cos]);
                let second = match both {
                    true => self.op(Op::Binary(Binary::Mul), &[turned, sin]),
                    false => sin,
                };
                self.op(Op::Binary(Binary::Add), &[first, second])
            }
            Project(bias) => {
                let weights = self.input(&format!("w{n}"), &[4, 4]);
                let v = self.contract([v, weights], ["bhsd", "de", "bhse"], "projected");
                let Some(with) = bias else { return v };
                let mut bias = self.input(&format!("bias{n}"), &[4]);
                if carries(with) {
                    bias = self.times(bias);
                }
                self.op(Op::Binary(Binary::Add), &[v, bias])
            }
        }
    }

    fn attention(&mut self) {
        let case = self.case;
        let mut x = self.input("x", &[2, 2, 5, 4]);
        for (n, &step) in case.steps.iter().enumerate() {
            if n == case.at {
                x = self.times(x);
            }
            x = self.step(x, n, step);
            if n == case.reader {
                let read = self.op(Op::Unary(Unary::Tanh), &[x]);
                self.g.output("read", read);
            }
        }
        if case.at == case.steps.len() {
            x = self.times(x);
        }
        let y = self.input("y", &[2, 2, 6, 4]);
        let (q, k) = if case.on_keys { (y, x) } else { (x, y) };
        let keys = self.g.ty(k).shape[2];
        let v = self.input("values", &[2, 2, keys, 3]);
        let s = self.contract([q, k], ["bhid", "bhjd", "bhij"], "qk");
        let p = self.g.add1(Op::Softmax { axis: 3 }, &[s], "p", "softmax").unwrap();
        let o = self.contract([p, v], ["bhij", "bhje", "bhie"], "pv");
        self.g.output("o", o);
    }
}

fn right(case: &Case) -> Result<(), TestCaseError> {
    let mut w = Write { g: Graph::new("factors"), case };
    w.attention();
    let graph = w.g;
    let found = find(&graph, &FindOptions::default());
    prop_assert_eq!(found.attentions.len(), 1, "{:?}\n{}", found.missed, graph);
    let scale = record(&found.graph, &found.attentions[0]).scale.unwrap();
    let held = Tensor::scalar(case.dtype, case.number).to_f64()[0];
    let wanted = if case.divided { held.recip() } else { held };
    let near = |x: f64| (scale - x).abs() <= 1e-6 * x.abs();
    prop_assert!(near(wanted) || (!case.named() && near(1.0)), "{} {:?}\n{}", scale, case, graph);
    let inputs = inputs(&graph, 11);
    let run = |graph: &Graph, precision| eval(graph, &inputs, precision).unwrap();
    // What an attention yields is compared beyond rounding: in f16 large scores alone are off by more than any tolerance.
    for (precision, result, tolerance) in [(Precision::F64, "o", 1e-11), (Precision::Declared, "read", 0.0)] {
        let (want, got) = (run(&graph, precision), run(&found.graph, precision));
        for (output, (want, got)) in graph.outputs().iter().zip(want.iter().zip(&got)) {
            // Whoever else reads Q reads the same bits.
            if output.name == result {
                let c = compare(got, want, tolerance, tolerance, true).unwrap();
                prop_assert!(c.within, "{}: {:?} {:?}\n{}\n{}", output.name, c, case, graph, found.graph);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_factor_is_named_wherever_it_stands(case in cases()) {
        right(&case)?;
    }
}
