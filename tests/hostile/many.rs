//! A million operations.

use crate::on_a_plain_stack;
use annulus::ir::{Binary, DType, Form, Graph, Op, Type, Unary, parse, print, verify};
use std::time::{Duration, Instant};

/// A tenth of them in a build that is not optimised; `ANNULUS_FULL_SIZE` asks for all.
fn count() -> usize {
    let all = std::env::var_os("ANNULUS_FULL_SIZE").is_some() || !cfg!(debug_assertions);
    if all { 1_000_000 } else { 100_000 }
}

/// Every third operation reads one far above it; names are long and alike.
#[test]
fn through_print_parse_and_verify() {
    let ((), time) = on_a_plain_stack(|| {
        let n = count();
        let mut g = Graph::new("many");
        let x = g.input("x", Type::new(DType::F32, [2]));
        let mut values = vec![x];
        for i in 0..n {
            let (last, far) = (values[i], values[i * 7 / 11]);
            let made = match i % 3 {
                0 => g.add1(Op::Binary(Binary::Add), &[last, far], "model.layers.0.output", "node"),
                _ => g.add1(Op::Unary(Unary::Neg), &[last], "model.layers.0.output", "node"),
            };
            values.push(made.unwrap());
        }
        g.output("y", values[n]);
        let stage = |what: &str, start: Instant| {
            eprintln!("{n} operations: {what} {:.2} s", start.elapsed().as_secs_f64())
        };
        let start = Instant::now();
        assert_eq!(verify(&g), Ok(()));
        stage("verify", start);
        let start = Instant::now();
        let text = print(&g, Form::People);
        stage(&format!("print {} MiB", text.len() >> 20), start);
        let start = Instant::now();
        let again = parse(&text).unwrap();
        stage("parse", start);
        assert_eq!(again.len(), n + 1);
        assert!(print(&again, Form::People) == text);
    });
    assert!(time < Duration::from_secs(60), "{time:?}");
}
