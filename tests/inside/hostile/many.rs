//! A million operations.

use super::build::{Dim, model, node, value};
use super::on_a_plain_stack;
use annulus::eval::{Precision, eval};
use annulus::import::proto::GraphProto;
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{Binary, DType, Form, Graph, Op, Tensor, Type, Unary, parse, print, verify};
use prost::Message;
use std::time::{Duration, Instant};

const COUNT: usize = 1_000_000;

/// Processor time; of a build that is not optimised more.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });

/// What operation `i` reads: the last value, and every third a far one beside it.
fn far(i: usize) -> Option<usize> {
    i.is_multiple_of(3).then_some(i * 7 / 11)
}

/// Names are long and alike.
fn many() -> Graph {
    let mut g = Graph::new("many");
    let x = g.input("x", Type::new(DType::F32, [2]));
    let mut values = vec![x];
    for i in 0..COUNT {
        let (op, operands) = match far(i) {
            Some(far) => (Op::Binary(Binary::Add), vec![values[i], values[far]]),
            None => (Op::Unary(Unary::Neg), vec![values[i]]),
        };
        values.push(g.add1(op, &operands, "model.layers.0.output", "node").unwrap());
    }
    g.output("y", values[COUNT]);
    g
}

fn stage(what: &str, start: Instant) {
    eprintln!("{COUNT} operations: {what} {:.2} s", start.elapsed().as_secs_f64());
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    fn through_print_parse_and_verify() {
        let ((), time) = on_a_plain_stack(|| {
            let g = many();
            let start = Instant::now();
            assert_eq!(verify(&g), Ok(()));
            stage("verify", start);
            let start = Instant::now();
            let text = print(&g, Form::People);
            stage(&format!("print {} MiB", text.len() >> 20), start);
            let start = Instant::now();
            let again = parse(&text).unwrap();
            stage("parse", start);
            assert_eq!(again.len(), COUNT + 1);
            assert!(print(&again, Form::People) == text);
        });
        assert!(time < LIMIT, "{time:?}");
    }

    #[test]
    fn evaluated() {
        let ((), time) = on_a_plain_stack(|| {
            let g = many();
            let start = Instant::now();
            let x = Tensor::from_f64(DType::F32, [2], &[0.0, 0.0]).unwrap();
            assert_eq!(eval(&g, &[x], Precision::Declared).unwrap()[0].to_f64(), [0.0, 0.0]);
            stage("eval", start);
        });
        assert!(time < LIMIT, "{time:?}");
    }

    /// From ONNX, the last node first, so that they must be sorted; every third reads the input besides.
    #[test]
    fn imported() {
        let ((), time) = on_a_plain_stack(|| {
            let name = |i: usize| format!("model.layers.0.output_{i}");
            let mut g = GraphProto { name: "many".to_owned(), ..GraphProto::default() };
            g.input.push(value(&name(0), DType::F32, &[Dim::N(2)]));
            let made = |i: usize| match far(i) {
                Some(far) => node("Add", &[&name(i), &name(far)], &[&name(i + 1)], vec![]),
                None => node("Neg", &[&name(i)], &[&name(i + 1)], vec![]),
            };
            g.node = (0..COUNT).rev().map(made).collect();
            g.output.push(value(&name(COUNT), DType::F32, &[Dim::N(2)]));
            let bytes = model(23, g).encode_to_vec();
            let start = Instant::now();
            let graph = onnx(&bytes, &ImportOptions::default()).unwrap();
            stage(&format!("import {} MiB", bytes.len() >> 20), start);
            assert_eq!(graph.len(), COUNT + 1);
            assert_eq!(graph.source(graph.outputs()[0].value.op), "Add_0");
        });
        assert!(time < LIMIT, "{time:?}");
    }
}
