use annulus::eval::{Precision, eval};
use annulus::ir::*;

#[test]
fn a_graph_runs() {
    let mut g = Graph::new("g");
    let x = g.input("x", Type::new(DType::F32, [2, 3]));
    let w = g.constant("w", Tensor::from_f64(DType::F32, [3, 2], &[1., 2., 3., 4., 5., 6.]).unwrap());
    let c = Contract { lhs: "ij".into(), rhs: "jk".into(), out: "ki".into() };
    let y = g.add1(Op::Contract(c), &[x, w], "y", "").unwrap();
    let s = g.add1(Op::Softmax { axis: 0 }, &[y], "s", "").unwrap();
    g.output("y", y);
    g.output("s", s);
    let x = Tensor::from_f64(DType::F32, [2, 3], &[1., 0., 0., 0., 1., 1.]).unwrap();
    let out = eval(&g, &[x], Precision::Declared).unwrap();
    assert_eq!(out[0].to_f64(), [1., 8., 2., 10.]);
    assert_eq!(out[1].shape(), [2, 2]);
}
