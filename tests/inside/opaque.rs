//! Operators that annulus does not compute, around attentions: what is found is what is found without them, and what is handed
//! back computes what the model does, once the host computes them.

use super::hand_back::drive_with;
use annulus::eval::{EvalError, Precision, apply, compare, eval};
use annulus::find::{FindOptions, find};
use annulus::ir::{
    Attention, Attribute, Binary, Contract, DType, Form, Graph, Op, Opaque, Reduction, Tensor, Type, Unary,
    ValueId, parse, print, verify,
};
use annulus::layout::LayoutKind;
use annulus::mask::{Mask, Term};
use annulus::shard::{Rowwise, Segment};
use annulus::{Compiled, Error, Options, compile};
use proptest::prelude::*;

/// The operators, each with its meaning as operations.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Own {
    /// tanh x.
    Tanh,
    /// x less its mean over all rows: it needs all of them.
    Centre,
    /// tanh x and −x, of which the sum is taken.
    Both,
    /// Running sums within each row, which may be promised.
    Rows,
}

/// The meaning of one operation after another, from x to the results.
fn meaning(name: &str, axis: usize) -> (Vec<(Op, Vec<usize>)>, Vec<usize>) {
    let tanh = Op::Unary(Unary::Tanh);
    match name {
        "Tanh" => (vec![(tanh, vec![0])], vec![1]),
        "Centre" => {
            let mean = Op::Reduce { kind: Reduction::Mean, axes: vec![axis], keep: true };
            (vec![(mean, vec![0]), (Op::Binary(Binary::Sub), vec![0, 1])], vec![2])
        }
        "Both" => (vec![(tanh, vec![0]), (Op::Unary(Unary::Neg), vec![0])], vec![1, 2]),
        _ => {
            let sums = Op::CumSum { axis: axis + 1, exclusive: false, reverse: true };
            (vec![(sums, vec![0])], vec![1])
        }
    }
}

/// What the host makes of them.
fn host(o: &Opaque, x: &[Tensor]) -> Vec<Tensor> {
    assert_eq!((o.domain.as_str(), o.version, x.len()), ("test", 3, 1));
    let axis = match o.attributes.as_slice() {
        [(name, Attribute::Int(axis))] if name == "rows" => *axis as usize,
        other => panic!("{other:?}"),
    };
    let (steps, results) = meaning(o.name.trim_end_matches(|c: char| c.is_ascii_digit()), axis);
    let mut values = x.to_vec();
    for (op, from) in steps {
        let operands: Vec<Tensor> = from.iter().map(|&i| values[i].clone()).collect();
        values.extend(apply(&op, &operands, Precision::Declared).unwrap());
    }
    results.into_iter().map(|i| values[i].clone()).collect()
}

/// A graph under construction, with the operators as they are or as what they mean.
struct Build {
    g: Graph,
    opaque: bool,
    seed: u64,
}

impl Build {
    fn op(&mut self, op: Op, x: &[ValueId], name: &str) -> ValueId {
        self.g.add1(op, x, name, name).unwrap()
    }

    fn numbers(&mut self, ty: &Type) -> Tensor {
        self.seed += 1;
        let mut s = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let values: Vec<f64> = (0..ty.elements()).map(|_| next()).collect();
        Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).unwrap()
    }

    fn product(&mut self, x: ValueId, shape: &[usize], axes: [&str; 3], name: &str) -> ValueId {
        let w = self.numbers(&Type::new(DType::F64, shape));
        let w = self.g.constant("w", w);
        let [lhs, rhs, out] = axes.map(str::to_owned);
        self.op(Op::Contract(Contract { lhs, rhs, out }), &[x, w], name)
    }

    /// The operator on x, whose rows lie along `axis`, if there is one here.
    fn own(&mut self, x: ValueId, axis: usize, own: Option<Own>) -> ValueId {
        let Some(own) = own else { return x };
        let ty = self.g.ty(x).clone();
        let results = if own == Own::Both {
            let (a, b) = self.results(x, axis, "Both", &[ty.clone(), ty]);
            return self.op(Op::Binary(Binary::Add), &[a, b.unwrap()], "both");
        } else {
            vec![ty]
        };
        // A promise is of an operator: one for each axis.
        let name = match own {
            Own::Rows => format!("Rows{axis}"),
            own => format!("{own:?}"),
        };
        self.results(x, axis, &name, &results).0
    }

    fn results(&mut self, x: ValueId, axis: usize, name: &str, types: &[Type]) -> (ValueId, Option<ValueId>) {
        let all = if self.opaque {
            let mut o = Opaque::new("test", name, types.to_vec());
            o.version = 3;
            o.attributes.push(("rows".into(), Attribute::Int(axis as i64)));
            let id = self.g.add(Op::Opaque(o.into()), &[x], name, name).unwrap();
            self.g.results(id)
        } else {
            let (steps, results) = meaning(name.trim_end_matches(|c: char| c.is_ascii_digit()), axis);
            let mut values = vec![x];
            for (op, from) in steps {
                let operands: Vec<ValueId> = from.iter().map(|&i| values[i]).collect();
                let v = self.op(op, &operands, name);
                values.push(v);
            }
            results.into_iter().map(|i| values[i]).collect()
        };
        (all[0], all.get(1).copied())
    }
}

/// What a model is like.
#[derive(Clone, Debug)]
struct Model {
    batch: usize,
    rows: usize,
    kv_heads: usize,
    group: usize,
    sizes: (usize, usize),
    /// 0 none, 1 causal, 2 a padding mask.
    mask: u8,
    written_out: bool,
    /// A factor on the scores.
    scale: f64,
    /// For each layer, operators before it, on q, on k, on v, on its result and behind it.
    layers: Vec<[Option<Own>; 6]>,
}

fn models() -> impl Strategy<Value = Model> {
    let own = || {
        prop_oneof![
            3 => Just(None),
            1 => Just(Some(Own::Tanh)),
            1 => Just(Some(Own::Centre)),
            1 => Just(Some(Own::Both)),
            1 => Just(Some(Own::Rows)),
        ]
    };
    let layer = [own(), own(), own(), own(), own(), own()];
    let shape = (1usize..3, 1usize..10, 1usize..3, 1usize..3, (1usize..4, 1usize..4));
    let rest = (0u8..3, any::<bool>(), prop_oneof![Just(0.5), Just(1e4)]);
    (shape, rest, prop::collection::vec(layer, 1..3)).prop_map(|(shape, rest, layers)| {
        let (batch, rows, kv_heads, group, sizes) = shape;
        let (mask, written_out, scale) = rest;
        Model { batch, rows, kv_heads, group, sizes, mask, written_out, scale, layers }
    })
}

const WIDTH: usize = 4;

/// The graph of a model.
fn graph(m: &Model, opaque: bool) -> Graph {
    let mut b = Build { g: Graph::new("model"), opaque, seed: 0 };
    let Model { batch, rows: s, kv_heads, group, sizes: (d, dv), .. } = *m;
    let input = b.g.input("x", Type::new(DType::F64, [batch, s, WIDTH]));
    // The first key stays: a row without a key would be NaN, and what is not known behind it might make a number of that.
    let given = b.g.input("keep", Type::new(DType::Bool, [batch, 1, 1, s]));
    let first: Vec<f64> = (0..s).map(|i| f64::from(u8::from(i == 0))).collect();
    let first = b.g.constant("first", Tensor::from_f64(DType::Bool, [1, 1, 1, s], &first).unwrap());
    let keep = b.op(Op::Binary(Binary::Or), &[given, first], "kept");
    let mut x = input;
    for own in &m.layers {
        let h = b.own(x, 1, own[0]);
        let mut project = |heads: usize, size: usize, own: Option<Own>, name: &str| {
            let v = b.product(h, &[WIDTH, heads, size], ["bse", "ehd", "bhsd"], name);
            b.own(v, 2, own)
        };
        // Written out, every query head has keys of its own.
        let group = if m.written_out { 1 } else { group };
        let q = project(kv_heads * group, d, own[1], "q");
        let k = project(kv_heads, d, own[2], "k");
        let v = project(kv_heads, dv, own[3], "v");
        let a = if m.written_out {
            let c = |lhs: &str, rhs: &str, out: &str| {
                let [lhs, rhs, out] = [lhs, rhs, out].map(str::to_owned);
                Op::Contract(Contract { lhs, rhs, out })
            };
            let scores = b.op(c("bhid", "bhjd", "bhij"), &[q, k], "scores");
            let scale = b.g.constant("scale", Tensor::scalar(DType::F64, m.scale));
            let mut scores = b.op(Op::Binary(Binary::Mul), &[scores, scale], "scaled");
            let least = b.g.constant("least", Tensor::scalar(DType::F64, f64::NEG_INFINITY));
            let mask = match m.mask {
                0 => None,
                1 => {
                    let i = b.op(Op::Iota { ty: Type::new(DType::I64, [s, 1]), axis: 0 }, &[], "i");
                    let j = b.op(Op::Iota { ty: Type::new(DType::I64, [1, s]), axis: 1 }, &[], "j");
                    Some(b.op(Op::Binary(Binary::Le), &[j, i], "causal"))
                }
                _ => Some(keep),
            };
            if let Some(mask) = mask {
                scores = b.op(Op::Select, &[mask, scores, least], "masked");
            }
            let p = b.op(Op::Softmax { axis: 3 }, &[scores], "softmax");
            b.op(c("bhij", "bhjd", "bhid"), &[p, v], "attention")
        } else {
            let mut a = Attention::plain(m.scale, DType::F64);
            let mut operands = vec![q, k, v];
            match m.mask {
                0 => {}
                1 => a = a.masked(Mask::causal(0)),
                _ => {
                    a = a.masked(Mask { terms: vec![Term::Tensor { operand: 3 }], ..Mask::none() });
                    operands.push(keep);
                }
            }
            b.op(Op::Attention(Box::new(a)), &operands, "attention")
        };
        let a = b.own(a, 2, own[4]);
        let o = b.product(a, &[kv_heads * group, dv, WIDTH], ["bhsd", "hde", "bse"], "out");
        let sum = b.op(Op::Binary(Binary::Add), &[o, x], "residual");
        x = b.own(sum, 1, own[5]);
    }
    b.g.output("y", x);
    b.g
}

fn inputs(g: &Graph, masked: u64) -> Vec<Tensor> {
    let mut b = Build { g: Graph::new(""), opaque: false, seed: masked };
    let x = b.numbers(g.ty(g.inputs()[0]));
    let ty = g.ty(g.inputs()[1]);
    let keep: Vec<f64> =
        (0..ty.elements()).map(|i| f64::from(u8::from(masked >> (i % 64) & 1 == 1))).collect();
    vec![x, Tensor::from_f64(DType::Bool, ty.shape.clone(), &keep).unwrap()]
}

/// What of an attention must be the same with and without operators that are not known.
fn found(g: &Graph) -> Vec<(String, String)> {
    let found = find(g, &FindOptions::default());
    let record = |a| annulus::find::report::record(&found.graph, a);
    found.attentions.iter().map(record).map(|r| (r.name, r.mask)).collect()
}

/// With or without a promise of each operator that keeps rows apart.
fn options(m: &Model, ranks: usize, layout: Option<LayoutKind>, promise: bool) -> Options {
    let options = Options::new(ranks).layout(layout);
    let there = |axis: usize| {
        let places: &[usize] = if axis == 1 { &[0, 5] } else { &[1, 2, 3, 4] };
        promise && m.layers.iter().any(|own| places.iter().any(|&i| own[i] == Some(Own::Rows)))
    };
    let of = |axis: usize| Rowwise::new(format!("test::Rows{axis}"), [Some(axis)], axis);
    [1, 2].into_iter().filter(|&axis| there(axis)).map(of).fold(options, Options::rowwise)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn around_attentions_they_change_nothing_that_is_found_or_computed(
        m in models(),
        ranks in 1usize..5,
        layout in prop_oneof![Just(None), Just(Some(LayoutKind::Zigzag)), Just(Some(LayoutKind::Stripe))],
        masked in any::<u64>(),
        promise in any::<bool>(),
    ) {
        let (g, whole) = (graph(&m, true), graph(&m, false));
        prop_assert_eq!(verify(&g), Ok(()));
        for form in [Form::People, Form::Full] {
            let text = print(&g, form);
            let back = parse(&text).unwrap();
            prop_assert_eq!(&back, &g);
            prop_assert_eq!(print(&back, form), text);
        }
        let attentions = found(&g);
        prop_assert_eq!(attentions.len(), m.layers.len());
        prop_assert_eq!(&attentions, &found(&whole));

        let x = inputs(&g, masked);
        let want = eval(&whole, &x, Precision::Declared).unwrap();
        let compiled = compile(&g, &options(&m, ranks, layout, promise)).unwrap();
        let got = drive_with(&compiled, &x, &host);
        let c = compare(&got[0], &want[0], 1e-9, 1e-9, true).unwrap();
        prop_assert!(c.within, "{:?}", c);

        let lacks = m.layers.iter().flatten().any(Option::is_some);
        let run = annulus::run(&compiled, &x, 0);
        prop_assert_eq!(matches!(run, Err(Error::Eval(EvalError::Lacks(_)))), lacks);
    }
}

/// Attention, an operator that is not known, and a function of its result.
const AROUND: &str = r#"graph "around" {
  input %x: f64[1,2,9,4]
  const %w: f64[4] = [1.0, 2.0, 3.0, 4.0]
  %a: f64[1,2,9,4] = attention %x, %x, %x {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f64, empty=zero}
  %o: f64[1,2,9,4] = opaque %a, %w {domain="test", op="Op", version=1}  @"node"
  %y: f64[1,2,9,4] = tanh %o
  output "y" = %y
}"#;

fn gathers(compiled: &Compiled) -> Vec<String> {
    let reason = |s: &Segment| match s {
        Segment::Gather { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    compiled.program.segments.iter().filter_map(reason).collect()
}

#[test]
fn what_it_reads_is_put_together_unless_its_rows_are_promised_to_be_apart() {
    let g = parse(AROUND).unwrap();
    let compiled = compile(&g, &Options::new(3)).unwrap();
    let said = "opaque o: annulus does not know what test::Op does with rows; if it treats them apart, promise that with --rowwise test::Op=AXES:AXIS";
    assert_eq!(gathers(&compiled), [said]);
    let promised = Options::new(3).layout(LayoutKind::Zigzag).rowwise(Rowwise::new("test::Op", [Some(2)], 2));
    let compiled = compile(&g, &promised).unwrap();
    assert!(gathers(&compiled).is_empty());
    // A rank's rows, of an operator that says so itself.
    let text = compiled.hand_back(0).unwrap().graph.to_string();
    let line =
        "%o: f64[1,2,3,4] = opaque %a, %w {domain=\"test\", op=\"Op\", version=1, rows_in=[2], rows_out=2}";
    assert!(text.contains(line), "{text}");
}

#[test]
fn promises_that_cannot_be_meant_are_refused() {
    let g = parse(AROUND).unwrap();
    let refused = |promise: Rowwise| {
        compile(&g, &Options::new(2).rowwise(promise)).expect_err("should be refused").to_string()
    };
    let node = |axes: &str, why: &str| format!("--rowwise test::Op={axes}: node node: {why}");
    assert_eq!(
        refused(Rowwise::new("test::Op", [Some(7)], 2)),
        node("7:2", "operand 0 is f64[1,2,9,4], which has no axis 7 to carry rows")
    );
    assert_eq!(
        refused(Rowwise::new("test::Op", [Some(2)], 3)),
        node("2:3", "result 0 has 4 rows along axis 3, and operand 0 has 9")
    );
    assert_eq!(
        refused(Rowwise::new("test::Op", [Some(2), Some(0)], 2)),
        node("2,0:2", "operand 1 has 4 rows along axis 0, and operand 0 has 9")
    );
    assert_eq!(refused(Rowwise::new("test::Op", [None], 2)), node("-:2", "no operand carries rows"));
    assert_eq!(
        refused(Rowwise::new("test::Op", [Some(2), None, None], 2)),
        node("2,-,-:2", "rows of 3 operands are named, and there are 2")
    );
    assert_eq!(
        refused(Rowwise::new("Op", [Some(2)], 2)),
        "--rowwise Op=2:2: no operator that is not known has this name; there are test::Op"
    );
    let twice = Rowwise::new("test::Op", [Some(2)], 2);
    let twice = Options::new(2).rowwise(twice.clone()).rowwise(twice);
    let why = compile(&g, &twice).unwrap_err().to_string();
    assert_eq!(why, "--rowwise test::Op=2:2: something was promised of this operator already");
    let none =
        parse(&AROUND.replace("opaque %a, %w {domain=\"test\", op=\"Op\", version=1}", "neg %a")).unwrap();
    let why =
        compile(&none, &Options::new(2).rowwise(Rowwise::new("Op", [Some(2)], 2))).unwrap_err().to_string();
    assert!(why.ends_with("annulus knows every operator that the outputs need"), "{why}");
}

/// Without operands it may still give other numbers each time: nothing folds it, and nothing counts it as rows.
#[test]
fn an_operator_without_operands_is_no_constant() {
    let text = r#"graph "source" {
  input %x: f64[1,2,9,4]
  %n: f64[1,2,9,4] = opaque {domain="test", op="Source", version=1}
  %k: f64[1,2,9,4] = add %x, %n
  %a: f64[1,2,9,4] = attention %x, %k, %k {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f64, empty=zero}
  output "a" = %a
}"#;
    let g = parse(text).unwrap();
    let n = g.ops().into_iter().find(|&id| matches!(g.op(id), Op::Opaque(_))).unwrap();
    let mut constants = annulus::eval::Constants::default();
    assert!(constants.value(&g, g.result(n), usize::MAX).is_none());
    let compiled = compile(&g, &Options::new(4)).unwrap();
    // Every rank computes it whole, and takes its rows.
    let text = compiled.hand_back(1).unwrap().graph.to_string();
    assert!(text.contains("%n: f64[1,2,9,4] = opaque {domain"), "{text}");
    let source = |_: &Opaque, _: &[Tensor]| {
        let values: Vec<f64> = (0..72).map(|i| f64::from(i * 37 % 19) / 7.0 - 1.0).collect();
        vec![Tensor::from_f64(DType::F64, [1, 2, 9, 4], &values).unwrap()]
    };
    let x = source(&Opaque::new("", "", []), &[]).remove(0);
    let sum =
        apply(&Op::Binary(Binary::Add), &[x.clone(), x.clone()], Precision::Declared).unwrap().remove(0);
    let Op::Attention(a) = g.op(g.outputs()[0].value.op) else { panic!("no attention") };
    let want = apply(&Op::Attention(a.clone()), &[x.clone(), sum.clone(), sum], Precision::Declared).unwrap();
    let got = drive_with(&compiled, &[x], &source);
    assert!(compare(&got[0], &want[0], 1e-12, 1e-12, false).unwrap().within);
}
