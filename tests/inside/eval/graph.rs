//! Whole graphs: inputs, weights, what is evaluated, regions, and what is refused.

use super::util::*;
use annulus::eval::{EvalError, Precision, eval};
use annulus::ir::*;
use annulus::layout::LayoutKind;
use std::sync::Arc;

#[test]
fn a_value_used_twice_and_an_input_given_back() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::F32, [3]));
    let unused = g.input("unused", Type::new(DType::I64, [2]));
    let y = g.add1(Op::Binary(Binary::Mul), &[x, x], "y", "").unwrap();
    let z = g.add1(Op::Binary(Binary::Add), &[y, x], "z", "").unwrap();
    for (name, v) in [("z", z), ("y", y), ("x", x), ("again", y)] {
        g.output(name, v);
    }
    let inputs = [tensor(DType::F32, &[3], &[1.0, 2.0, 3.0]), tensor(DType::I64, &[2], &[0.0, 0.0])];
    let out = eval(&g, &inputs, Precision::Declared).unwrap();
    let got: Vec<Vec<f64>> = out.iter().map(Tensor::to_f64).collect();
    assert_eq!(got, [vec![2.0, 6.0, 12.0], vec![1.0, 4.0, 9.0], vec![1.0, 2.0, 3.0], vec![1.0, 4.0, 9.0]]);
    assert_eq!(g.ty(unused).dtype, DType::I64);
}

#[test]
fn inputs_must_be_those_of_the_graph() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::F32, [3]));
    g.output("x", x);
    for precision in [Precision::Declared, Precision::F64] {
        let error = |inputs: &[Tensor]| eval(&g, inputs, precision).unwrap_err().to_string();
        assert_eq!(error(&[]), "graph g has 1 inputs, got 0");
        assert_eq!(error(&[random(DType::F32, &[4], 1)]), "input x is f32[3], got f32[4]");
        assert_eq!(error(&[random(DType::F64, &[3], 1)]), "input x is f32[3], got f64[3]");
    }
}

#[test]
fn an_error_names_the_operation_and_its_node() {
    let mut g = Graph::new("g");
    let ty = Type::new(DType::F32, [2]);
    let w = g.weight("w", Constant { ty, hash: 7, data: None });
    let y = g.add1(Op::Unary(Unary::Exp), &[w], "y", "node_Exp").unwrap();
    g.output("y", y);
    let error = eval(&g, &[], Precision::Declared).unwrap_err();
    assert_eq!(error.to_string(), "const w: the weight has no data");
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::I64, []));
    let y = g.add1(Op::Binary(Binary::Div), &[x, x], "y", "node_Div").unwrap();
    g.output("y", y);
    let error = eval(&g, &[Tensor::scalar(DType::I64, 0.0)], Precision::Declared).unwrap_err();
    assert_eq!(error.to_string(), "div y (node node_Div): division by zero");
}

#[test]
fn what_no_output_needs_is_not_evaluated() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::I64, []));
    g.add1(Op::Binary(Binary::Div), &[x, x], "bad", "").unwrap();
    g.weight("missing", Constant { ty: Type::new(DType::F32, [2]), hash: 7, data: None });
    let y = g.add1(Op::Unary(Unary::Neg), &[x], "y", "").unwrap();
    g.output("y", y);
    assert_eq!(eval(&g, &[Tensor::scalar(DType::I64, 0.0)], Precision::Declared).unwrap()[0].to_f64(), [0.0]);
}

#[test]
fn casts_that_lose_nothing_leave_the_digits_of_f64() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::F32, []));
    let third = g.constant("three", Tensor::scalar(DType::F32, 3.0));
    let y = g.add1(Op::Binary(Binary::Div), &[x, third], "y", "").unwrap();
    let same = g.add1(Op::Cast(DType::F32), &[y], "same", "").unwrap();
    let narrow = g.add1(Op::Cast(DType::F16), &[y], "narrow", "").unwrap();
    let back = g.add1(Op::Cast(DType::F32), &[narrow], "back", "").unwrap();
    let crossed = g.add1(Op::Cast(DType::BF16), &[narrow], "crossed", "").unwrap();
    for (name, v) in [("same", same), ("back", back), ("crossed", crossed)] {
        g.output(name, v);
    }
    let out = eval(&g, &[Tensor::scalar(DType::F32, 1.0)], Precision::F64).unwrap();
    assert!(out.iter().all(|t| t.dtype() == DType::F64));
    assert_eq!(out[0].to_f64()[0], 1.0 / 3.0);
    assert_eq!(out[1].to_f64()[0], half::f16::from_f32(1.0 / 3.0).to_f64());
    assert_eq!(out[2].to_f64()[0], half::bf16::from_f32(1.0 / 3.0).to_f64());
}

#[test]
fn half_inputs_and_constants_keep_their_rounded_values() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::F16, []));
    let c = g.constant("c", Tensor::scalar(DType::BF16, 0.1));
    let c = g.add1(Op::Cast(DType::F32), &[c], "wide", "").unwrap();
    g.output("x", x);
    g.output("c", c);
    let out = eval(&g, &[Tensor::scalar(DType::F16, 0.1)], Precision::F64).unwrap();
    assert_eq!(out[0].to_f64()[0], half::f16::from_f32(0.1).to_f64());
    assert_eq!(out[1].to_f64()[0], half::bf16::from_f32(0.1).to_f64());
}

fn nested(depth: usize) -> Graph {
    let ty = Type::new(DType::F16, [2]);
    let mut g = Graph::new("inner");
    let x = g.input("x", ty.clone());
    let y = g.add1(Op::Unary(Unary::Neg), &[x], "y", "").unwrap();
    g.output("y", y);
    for _ in 0..depth {
        let mut outer = Graph::new("outer");
        let x = outer.input("x", ty.clone());
        let y = outer.add1(Op::Region(RegionKind::Segment, Arc::new(g)), &[x], "y", "").unwrap();
        outer.output("y", y);
        g = outer;
    }
    g
}

#[test]
fn segments_are_evaluated_and_their_nesting_is_bounded() {
    let x = [tensor(DType::F16, &[2], &[1.0, 2.0])];
    for precision in [Precision::Declared, Precision::F64] {
        for depth in [0, 1, 32] {
            assert_eq!(eval(&nested(depth), &x, precision).unwrap()[0].to_f64(), [-1.0, -2.0]);
        }
        let error = eval(&nested(33), &x, precision).unwrap_err();
        assert!(error.to_string().contains("nested more than 32 deep"), "{error}");
    }
}

#[test]
fn what_needs_other_ranks_is_refused() {
    let ty = Type::new(DType::F32, [1, 1, 2, 4]);
    let kind = RegionKind::Island { strategy: Strategy::Ring, layout: LayoutKind::Zigzag };
    let mut inner = Graph::new("island");
    let x = inner.input("x", ty.clone());
    inner.output("x", x);
    let rows = vec![annulus::layout::Progression::range(0, 2)];
    let hop = Collective::SendRecv { group: 1, to: Some(0), from: Some(0), rows: rows.clone() };
    let ops = [
        Op::Region(kind, Arc::new(inner)),
        Op::Unshard { axis: 2, outer: 1, inner: 1, rows: vec![rows] },
        Op::Start(Box::new(hop), ty.clone()),
        Op::Wait,
    ];
    for op in ops {
        let mut g = Graph::new("g");
        let x = g.input("x", ty.clone());
        let y = g.add1(op, &[x], "y", "").unwrap();
        g.output("y", y);
        let error = eval(&g, &[random(DType::F32, &[1, 1, 2, 4], 1)], Precision::Declared).unwrap_err();
        assert!(matches!(&error, EvalError::Op { why, .. } if why == "needs other ranks"), "{error}");
    }
}

#[test]
fn a_long_chain_neither_recurses_nor_keeps_its_values() {
    let mut g = Graph::new("chain");
    let mut v = g.input("x", Type::new(DType::F32, [1]));
    for i in 0..20_000 {
        v = g.add1(Op::Unary(Unary::Neg), &[v], &format!("v{i}"), "").unwrap();
    }
    g.output("y", v);
    assert_eq!(
        eval(&g, &[Tensor::scalar(DType::F32, 3.0).reshaped([1]).unwrap()], Precision::Declared).unwrap()[0]
            .to_f64(),
        [3.0]
    );
}

#[test]
fn a_value_too_large_to_compute_is_an_error() {
    let mut g = Graph::new("g");
    let x = g.constant("x", Tensor::scalar(DType::F32, 1.0));
    let y = g.add1(Op::Broadcast(vec![1 << 20, 1 << 20]), &[x], "y", "").unwrap();
    g.output("y", y);
    let error = eval(&g, &[], Precision::Declared).unwrap_err();
    let why = error.to_string();
    assert!(why.starts_with("broadcast y would make f32[1048576,1048576], 4.0 TiB"), "{why}");
    assert!(why.contains("at most 2^32 elements") && why.contains("--dim"), "{why}");
}
