//! Inputs that are bound: their values shape what is found, and are guarded when it runs.

use annulus::find::report::record;
use annulus::find::{Bound, FindOptions, find};
use annulus::ir::{DType, Graph, Tensor, parse};
use annulus::{Error, Options, compile, run};

fn masked() -> Graph {
    parse(
        "graph \"masked\" {
  input %q: f32[1,2,6,4]
  input %ids: i64[1,6]
  %a: i64[1,1,6,1] = reshape %ids
  %b: i64[1,1,1,6] = reshape %ids
  %same: bool[1,1,6,6] = eq %a, %b
  const %inf: f32[] = -inf
  %s: f32[1,2,6,6] = contract %q, %q {bhid,bhjd->bhij}
  %s1: f32[1,2,6,6] = select %same, %s, %inf
  %p: f32[1,2,6,6] = softmax %s1 {axis=3}
  %o: f32[1,2,6,4] = contract %p, %q {bhij,bhje->bhie}
  output \"o\" = %o
}",
    )
    .unwrap_or_else(|e| panic!("{e}"))
}

fn ids(values: [f64; 6]) -> Tensor {
    Tensor::from_f64(DType::I64, [1, 6], &values).unwrap()
}

fn options(input: &str, value: Tensor) -> FindOptions {
    FindOptions::default().bind(Bound::new(input, value))
}

#[test]
fn a_bound_value_names_the_mask_and_is_guarded() {
    let graph = masked();
    let mask = |found: &annulus::find::Found| record(&found.graph, &found.attentions[0]).mask;
    let free = find(&graph, &FindOptions::default());
    assert_eq!((mask(&free).as_str(), free.guards.len()), ("tensor(same)", 0));
    let value = ids([3.0, 3.0, 7.0, 7.0, 7.0, 9.0]);
    let bound = find(&graph, &options("ids", value.clone()));
    assert_eq!((mask(&bound).as_str(), bound.guards.len()), ("segments(2,5)", 1));

    let find = options("ids", value.clone());
    let compiled = compile(&graph, &Options::new(3).find(find)).unwrap();
    let q = super::cases::inputs(&graph, 5).remove(0);
    let want =
        annulus::eval::eval(&graph, &[q.clone(), value.clone()], annulus::eval::Precision::F64).unwrap();
    let got = run(&compiled, &[q.clone(), value], 0).unwrap().outputs;
    let c = annulus::eval::compare(
        &Tensor::from_f64(DType::F64, got[0].shape(), &got[0].to_f64()).unwrap(),
        &want[0],
        1e-5,
        1e-5,
        false,
    );
    assert!(c.unwrap().within);
    let other = run(&compiled, &[q, ids([3.0, 3.0, 7.0, 7.0, 9.0, 9.0])], 0);
    assert!(matches!(other, Err(Error::Guard { ref input }) if input == "ids"), "{other:?}");
}

#[test]
fn what_is_no_input_cannot_be_bound() {
    let graph = masked();
    let refused = |input: &str, value| compile(&graph, &Options::new(2).find(options(input, value)));
    for (input, value) in [("mask", ids([0.0; 6])), ("q", ids([0.0; 6]))] {
        let e = refused(input, value).unwrap_err();
        assert!(matches!(e, Error::Bind { .. }) && e.to_string().contains(input), "{e}");
    }
}

/// A value that says nothing about any mask leaves what was found as it is, but for the guard.
#[test]
fn what_is_bound_beside_the_mask_changes_nothing() {
    let graph = masked();
    let q = super::cases::inputs(&graph, 5).remove(0);
    let (free, bound) = (find(&graph, &FindOptions::default()), find(&graph, &options("q", q)));
    assert_eq!(free.graph, bound.graph);
    assert_eq!(bound.guards.len(), 1);
}
