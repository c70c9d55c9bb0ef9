//! Chains as deep as a hundred thousand operations, of every kind of operation that a room looks through.

use super::build::{Dim, model, node, tensor, value};
use super::on_a_plain_stack;
use annulus::eval::{Precision, eval};
use annulus::find::{FindOptions, find};
use annulus::import::proto::GraphProto;
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{
    Attention, Binary, Contract, DType, Form, Graph, Op, Reduction, Tensor, Type, Unary, ValueId, parse,
    print, verify,
};
use annulus::shard::{ShardOptions, shard};
use annulus::{Options, compile};
use prost::Message;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How deep.
const DEPTH: usize = 100_000;

/// Processor time, of a build that is not optimised more: none of the rooms may need more than linear time.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 15 });

type Step = fn(&mut Graph, ValueId, usize) -> ValueId;

fn op(g: &mut Graph, op: Op, x: &[ValueId]) -> ValueId {
    g.add1(op, x, "v", "").unwrap_or_else(|e| panic!("{e}"))
}

/// A chain from `x` to `y` over a value of shape [1, 2, 4, 4].
fn chain(depth: usize, step: Step) -> Graph {
    let mut g = Graph::new("chain");
    let mut x = g.input("x", Type::new(DType::F32, [1, 2, 4, 4]));
    for i in 0..depth {
        x = step(&mut g, x, i);
    }
    g.output("y", x);
    g
}

/// The chain through every room: verified, printed and read back, evaluated, searched, split over three ranks, compiled.
fn through_every_room(name: &str, depth: usize, step: Step) {
    let named = name.to_owned();
    let ((), time) = on_a_plain_stack(move || {
        let g = chain(depth, step);
        assert!(g.len() > depth);
        let stage =
            |what: &str, start: Instant| eprintln!("{named}: {what} {:.2} s", start.elapsed().as_secs_f64());
        let start = Instant::now();
        assert_eq!(verify(&g), Ok(()));
        stage("verify", start);
        let start = Instant::now();
        let text = print(&g, Form::People);
        stage("print", start);
        let start = Instant::now();
        assert!(parse(&text).unwrap() == g);
        stage("parse and compare", start);
        let start = Instant::now();
        let x = Tensor::from_f64(DType::F32, [1, 2, 4, 4], &[0.5; 32]).unwrap();
        let y = eval(&g, std::slice::from_ref(&x), Precision::Declared).unwrap();
        assert_eq!(y[0].ty(), *g.ty(g.outputs()[0].value));
        stage("eval", start);
        let start = Instant::now();
        let found = find(&g, &FindOptions::default());
        stage("find", start);
        let start = Instant::now();
        let options = ShardOptions::new(3);
        shard(Arc::new(found.graph), &options).unwrap();
        stage("shard", start);
        let start = Instant::now();
        let compiled = compile(&g, &Options::new(3)).unwrap();
        stage("compile", start);
        let start = Instant::now();
        let rank = compiled.rank_graph(1).unwrap();
        assert_eq!(verify(&rank), Ok(()));
        stage("the graph of a rank", start);
    });
    assert!(time < LIMIT, "{name}: {time:?}");
}

fn binary(g: &mut Graph, b: Binary, x: ValueId, y: ValueId) -> ValueId {
    op(g, Op::Binary(b), &[x, y])
}

fn contract(lhs: &str, rhs: &str, out: &str) -> Op {
    Op::Contract(Contract { lhs: lhs.into(), rhs: rhs.into(), out: out.into() })
}

macro_rules! chains {
    ($($name:ident: $step:expr,)*) => {$(
        #[test]
        fn $name() {
            through_every_room(stringify!($name), DEPTH, $step);
        }
    )*};
}

/// Each may be the heart of an attention, and is looked at as one: fewer.
#[test]
fn normalised() {
    through_every_room("normalised", DEPTH / 20, |g, x, _| op(g, Op::Softmax { axis: 3 }, &[x]));
}

/// Each is an island of its own: fewer, for an attention is worth ten other operations.
#[test]
fn attended() {
    let plain = |g: &mut Graph, x: ValueId, _: usize| {
        op(g, Op::Attention(Box::new(Attention::plain(0.5, DType::F32))), &[x, x, x])
    };
    through_every_room("attended", DEPTH / 10, plain);
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    chains! {
        negated: |g, x, _| op(g, Op::Unary(Unary::Neg), &[x]),
        // 2^depth paths lead from the end to the start.
        doubled: |g, x, _| binary(g, Binary::Max, x, x),
        transposed: |g, x, _| op(g, Op::Permute(vec![0, 1, 3, 2]), &[x]),
        reshaped: |g, x, i| {
            let shape = if i % 2 == 0 { vec![1, 8, 4] } else { vec![1, 2, 4, 4] };
            op(g, Op::Reshape(shape), &[x])
        },
        broadcast: |g, x, _| op(g, Op::Broadcast(vec![1, 2, 4, 4]), &[x]),
        cast: |g, x, i| op(g, Op::Cast(if i % 2 == 0 { DType::F64 } else { DType::F32 }), &[x]),
        cut_and_joined: |g, x, _| {
            let a = op(g, Op::Slice { axis: 2, start: 0, len: 1, step: 1 }, &[x]);
            let b = op(g, Op::Slice { axis: 2, start: 1, len: 3, step: 1 }, &[x]);
            op(g, Op::Concat { axis: 2 }, &[b, a])
        },
        folded_and_spread: |g, x, _| {
            let s = op(g, Op::Reduce { kind: Reduction::Max, axes: vec![3], keep: true }, &[x]);
            op(g, Op::Broadcast(vec![1, 2, 4, 4]), &[s])
        },
        multiplied: |g, x, _| op(g, contract("bhij", "bhjk", "bhik"), &[x, x]),
        chosen: |g, x, _| {
            let c = binary(g, Binary::Lt, x, x);
            op(g, Op::Select, &[c, x, x])
        },
        counted: |g, x, _| op(g, Op::CumSum { axis: 2, exclusive: false, reverse: false }, &[x]),
    }

    /// A mask of a hundred thousand conditions before a softmax that is attention's.
    #[test]
    fn a_mask_of_many_conditions() {
        let ((), time) = on_a_plain_stack(|| {
            for kind in [Binary::And, Binary::Or] {
                let mut g = Graph::new("mask");
                let x = g.input("x", Type::new(DType::F32, [1, 2, 4, 4]));
                let pad = g.input("pad", Type::new(DType::Bool, [4, 4]));
                let unseen = g.constant("unseen", Tensor::scalar(DType::F32, f64::NEG_INFINITY));
                let mask = (0..DEPTH).fold(pad, |m, _| binary(&mut g, kind, m, pad));
                let s = op(&mut g, contract("bhid", "bhjd", "bhij"), &[x, x]);
                let s = op(&mut g, Op::Select, &[mask, s, unseen]);
                let p = op(&mut g, Op::Softmax { axis: 3 }, &[s]);
                let o = op(&mut g, contract("bhij", "bhjd", "bhid"), &[p, x]);
                g.output("o", o);
                let found = find(&g, &FindOptions::default());
                assert_eq!(found.attentions.len() + found.missed.len(), 1);
                assert_eq!(verify(&compile(&g, &Options::new(2)).unwrap().rank_graph(1).unwrap()), Ok(()));
            }
        });
        assert!(time < LIMIT, "{time:?}");
    }

    /// Chains in ONNX: plain nodes, and constants that fold one after the other into a shape.
    #[test]
    fn imported() {
        let ((), time) = on_a_plain_stack(|| {
            for operator in ["Neg", "Identity", "Softmax", "Relu"] {
                let mut g = GraphProto { name: "chain".to_owned(), ..GraphProto::default() };
                g.input.push(value("v0", DType::F32, &[Dim::N(2), Dim::N(3)]));
                let name = |i: usize| format!("v{i}");
                g.node = (0..DEPTH).map(|i| node(operator, &[&name(i)], &[&name(i + 1)], vec![])).collect();
                // From the end to the start: the importer sorts.
                g.node.reverse();
                g.output.push(value(&name(DEPTH), DType::F32, &[Dim::N(2), Dim::N(3)]));
                let bytes = model(23, g).encode_to_vec();
                let graph = onnx(&bytes, &ImportOptions::default()).unwrap();
                assert_eq!(verify(&graph), Ok(()));
            }
            let mut g = GraphProto { name: "folded".to_owned(), ..GraphProto::default() };
            g.input.push(value("x", DType::F32, &[Dim::N(2), Dim::N(3)]));
            g.initializer.push(tensor("n0", &Tensor::vector_i64(&[3, 2])));
            g.initializer.push(tensor("nothing", &Tensor::vector_i64(&[0])));
            let name = |i: usize| format!("n{i}");
            g.node =
                (0..DEPTH).map(|i| node("Add", &[&name(i), "nothing"], &[&name(i + 1)], vec![])).collect();
            g.node.push(node("Reshape", &["x", &name(DEPTH)], &["y"], vec![]));
            g.output.push(value("y", DType::F32, &[Dim::N(3), Dim::N(2)]));
            let bytes = model(23, g).encode_to_vec();
            let graph = onnx(&bytes, &ImportOptions::default()).unwrap();
            assert_eq!(graph.ty(graph.outputs()[0].value).shape, [3, 2]);
        });
        assert!(time < LIMIT, "{time:?}");
    }
}
