//! Values that are known without inputs.

use super::util::*;
use annulus::eval::Constants;
use annulus::ir::*;

fn vector(g: &mut Graph, v: &[i64]) -> ValueId {
    g.constant("c", Tensor::vector_i64(v))
}

#[test]
fn what_depends_on_constants_alone_is_known() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::I64, [2]));
    let a = vector(&mut g, &[2, 3]);
    let b = vector(&mut g, &[5, 7]);
    let sum = g.add1(Op::Binary(Binary::Add), &[a, b], "sum", "").unwrap();
    let mixed = g.add1(Op::Binary(Binary::Add), &[sum, x], "mixed", "").unwrap();
    let best = g.add(Op::TopK { axis: 0, k: 1, largest: true }, &[sum], "best", "").unwrap();
    let w = g.weight("w", Constant { ty: Type::new(DType::I64, [2]), hash: 1, data: None });
    let mut known = Constants::default();
    assert_eq!(known.value(&g, sum, 10), Some(Tensor::vector_i64(&[7, 10])));
    assert_eq!(known.value(&g, g.results(best)[1], 10), Some(Tensor::vector_i64(&[1])));
    for unknown in [x, mixed, w] {
        assert_eq!(known.value(&g, unknown, 10), None);
    }
    // The memo holds while the graph grows.
    let more = g.add1(Op::Unary(Unary::Neg), &[sum], "more", "").unwrap();
    assert_eq!(known.value(&g, more, 10), Some(Tensor::vector_i64(&[-7, -10])));
}

#[test]
fn a_limit_counts_on_the_way_and_holds_for_its_call_alone() {
    let mut g = Graph::new("g");
    let one = g.constant("one", Tensor::scalar(DType::F32, 1.0));
    let wide = g.add1(Op::Broadcast(vec![100, 10]), &[one], "wide", "").unwrap();
    let sum = g
        .add1(Op::Reduce { kind: Reduction::Sum, axes: vec![0, 1], keep: false }, &[wide], "sum", "")
        .unwrap();
    let mut known = Constants::default();
    assert_eq!(known.value(&g, one, 1), Some(Tensor::scalar(DType::F32, 1.0)));
    assert_eq!(known.value(&g, sum, 999), None);
    assert_eq!(known.value(&g, sum, 1000), Some(Tensor::scalar(DType::F32, 1000.0)));
    assert_eq!(known.value(&g, sum, 999), None, "known, but over the limit of this call");
    // Far beyond what memory holds: refused by its type, never computed.
    let huge = g.add1(Op::Broadcast(vec![1 << 20, 1 << 20]), &[one], "huge", "").unwrap();
    assert_eq!(known.value(&g, huge, 1 << 30), None);
}

#[test]
fn the_scores_of_an_attention_count() {
    let mut g = Graph::new("g");
    let x = g.constant("x", random(DType::F32, &[1, 1, 64, 1], 1));
    let a = Op::Attention(Box::new(Attention::plain(1.0, DType::F32)));
    let y = g.add1(a, &[x, x, x], "y", "").unwrap();
    let mut known = Constants::default();
    assert_eq!(known.value(&g, y, 4095), None);
    assert!(known.value(&g, y, 4096).is_some());
}

#[test]
fn what_fails_is_unknown_and_so_is_what_needs_it() {
    let mut g = Graph::new("g");
    let (a, zero) = (vector(&mut g, &[1]), vector(&mut g, &[0]));
    let bad = g.add1(Op::Binary(Binary::Div), &[a, zero], "bad", "").unwrap();
    let after = g.add1(Op::Unary(Unary::Neg), &[bad], "after", "").unwrap();
    let mut known = Constants::default();
    for _ in 0..2 {
        assert_eq!(known.value(&g, after, 10), None);
        assert_eq!(known.value(&g, bad, 10), None);
        assert!(known.value(&g, a, 10).is_some());
    }
}

#[test]
fn a_changed_operation_empties_the_memo() {
    let mut g = Graph::new("g");
    let (a, b) = (vector(&mut g, &[1]), vector(&mut g, &[2]));
    let y = g.add1(Op::Unary(Unary::Neg), &[a], "y", "").unwrap();
    let mut known = Constants::default();
    assert_eq!(known.value(&g, y, 10), Some(Tensor::vector_i64(&[-1])));
    g.replace(a, b).unwrap();
    assert_eq!(known.value(&g, y, 10), Some(Tensor::vector_i64(&[-2])));
    let mut other = Graph::new("other");
    let c = vector(&mut other, &[9]);
    let d = vector(&mut other, &[8]);
    let z = other.add1(Op::Unary(Unary::Abs), &[d], "z", "").unwrap();
    let numbers = |c: ValueId, z: ValueId| (c.op.index(), z.op.index());
    assert_eq!(numbers(c, z), numbers(a, y), "the same numbers in another graph");
    assert_eq!(known.value(&g, z, 10), None, "a value of another graph");
    assert_eq!(known.value(&other, z, 10), Some(Tensor::vector_i64(&[8])));
}

#[test]
fn a_long_chain_is_no_recursion() {
    let mut g = Graph::new("g");
    let mut v = vector(&mut g, &[1]);
    for i in 0..20_000 {
        v = g.add1(Op::Unary(Unary::Neg), &[v], &format!("v{i}"), "").unwrap();
    }
    assert_eq!(Constants::default().value(&g, v, 1), Some(Tensor::vector_i64(&[1])));
    // Every value on the way in turn: each is evaluated once.
    let mut known = Constants::default();
    for id in g.ops() {
        assert!(known.value(&g, g.result(id), 1).is_some());
    }
}
