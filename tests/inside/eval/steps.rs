//! Each step of a score program by hand: one query row and one key, whose log-sum-exp is the score itself.

use super::util::*;
use annulus::eval::{Precision, eval};
use annulus::ir::{Attention, DType, Graph, Op, Tensor};
use annulus::{Options, compile, run};

const NONE: f64 = f64::NEG_INFINITY;

/// The steps over tensors 3 and 4, what they read there, the product q·k, and the score that comes out.
const STEPS: &[(&str, [f64; 2], f64, f64)] = &[
    ("none", [0.0, 0.0], 3.0, 3.0),
    ("factor 0.5", [0.0, 0.0], 3.0, 1.5),
    ("factor leaf 3", [-2.0, 0.0], 3.0, -6.0),
    ("factor leaf 3 | factor leaf 4", [-2.0, 0.25], 3.0, -1.5),
    ("add 3", [0.5, 0.0], 3.0, 3.5),
    ("add 3", [NONE, 0.0], 3.0, NONE),
    ("add 3 | add 4 | add 3", [0.5, 1.0], 3.0, 5.0),
    ("add 3 | factor 2.0", [0.5, 0.0], 3.0, 7.0),
    ("factor 2.0 | add 3", [0.5, 0.0], 3.0, 6.5),
    ("factor 2.0 | add 3 | factor 2.0 | add 3", [0.5, 0.0], 3.0, 13.5),
    ("fill -inf unless keys(1,2)", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(0,1)", [0.0, 0.0], 3.0, 3.0),
    ("fill replace(7.0) unless keys(1,2)", [0.0, 0.0], 3.0, 7.0),
    ("fill add(-1.0) unless keys(1,2)", [0.0, 0.0], 3.0, 2.0),
    ("fill add(-1.0) unless keys(1,2) | factor 2.0 | fill add(-1.0) unless keys(1,2)", [0.0, 0.0], 3.0, 3.0),
    // What is −∞ stays so, but where a number replaces it or a softcap bends it.
    ("fill -inf unless keys(1,2) | add 3", [0.5, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | factor -1.0", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | factor 0.0", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | factor leaf 3", [-1.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | factor leaf 3", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | round f16", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | fill add(9.0) unless keys(1,2)", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | fill replace(1.0) unless keys(0,1)", [0.0, 0.0], 3.0, NONE),
    ("fill -inf unless keys(1,2) | fill replace(1.0) unless keys(1,2)", [0.0, 0.0], 3.0, 1.0),
    ("fill -inf unless keys(1,2) | softcap 2.0", [0.0, 0.0], 3.0, -2.0),
    ("add 3 | softcap 2.0 | add 4", [NONE, 0.5], 3.0, -1.5),
    ("fill replace(1.0) unless keys(1,2) | fill -inf unless keys(1,2)", [0.0, 0.0], 3.0, NONE),
    // Ties go to the even one; beyond the largest number there is infinity.
    ("round f16", [0.0, 0.0], 2049.0, 2048.0),
    ("round f16", [0.0, 0.0], 2051.0, 2052.0),
    ("round bf16", [0.0, 0.0], 257.0, 256.0),
    ("round bf16", [0.0, 0.0], 259.0, 260.0),
    ("round f32", [0.0, 0.0], 1.0 + 1e-9, 1.0),
    ("round f64", [0.0, 0.0], 1.5, 1.5),
    ("round f16", [0.0, 0.0], -65519.0, -65504.0),
    ("round f16", [0.0, 0.0], -65520.0, NONE),
    // As a model in halves adds: rounded after each addition.
    ("round f16 | add 3 | round f16 | add 4 | round f16", [0.5, 0.5], 2047.0, 2048.0),
    ("round f16 | add 3 | add 4 | round f16", [0.5, 0.5], 2047.0, 2048.0),
    ("add 3 | round f16 | add 4 | round f16", [-10000.0, 10000.0], 3.0, 0.0),
];

fn graph(steps: &str) -> Graph {
    let mut graph = Graph::new("steps");
    let scores = steps.parse().unwrap();
    let a = Attention { scores, lse: true, ..Attention::plain(1.0, DType::F64) };
    let ty = |shape: &[usize]| annulus::ir::Type::new(DType::F64, shape);
    let mut operands: Vec<_> = ["q", "k", "v"].map(|n| graph.input(n, ty(&[1, 1, 1, 1]))).into();
    for (leaf, name) in [(3, "x"), (4, "y")] {
        if a.scores.leaves().any(|l| l.0 == leaf) {
            operands.push(graph.input(name, ty(&[1, 1])));
        }
    }
    let op = graph.add(Op::Attention(Box::new(a)), &operands, "o", "").unwrap();
    let results = graph.results(op);
    graph.output("o", results[0]);
    graph.output("score", results[1]);
    graph
}

#[test]
fn each_step_is_what_it_says() {
    for &(steps, leaves, product, want) in STEPS {
        let graph = graph(steps);
        let one = |x: f64| tensor(DType::F64, &[1, 1, 1, 1], &[x]);
        let mut x = vec![one(product), one(1.0), one(8.0)];
        for v in graph.inputs().into_iter().skip(3) {
            let leaf = leaves[usize::from(graph.value(v).name == "y")];
            x.push(tensor(DType::F64, &[1, 1], &[leaf]));
        }
        let right = |got: &[Tensor], by: &str| {
            let (out, score) = (got[0].to_f64()[0], got[1].to_f64()[0]);
            assert!((score - want).abs() < 1e-9 || score == want, "{steps} by {by}: {score}, not {want}");
            assert_eq!(out, if want == NONE { 0.0 } else { 8.0 }, "{steps} by {by}");
        };
        right(&eval(&graph, &x, Precision::F64).unwrap(), "eval");
        right(&eval(&graph, &x, Precision::Declared).unwrap(), "eval");
        for ranks in [1, 2] {
            let compiled = compile(&graph, &Options::new(ranks)).unwrap();
            right(&run(&compiled, &x, 1).unwrap().outputs, &format!("{ranks} ranks"));
        }
    }
}
