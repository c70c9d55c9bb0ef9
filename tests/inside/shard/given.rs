//! Rows that the host has already: a cache keeps the layout that a step left it in, or is refused.

use annulus::dump::report::report;
use annulus::eval::{Precision, eval};
use annulus::ir::text::parse;
use annulus::ir::{DType, Graph, Tensor};
use annulus::layout::{LayoutKind, Progression};
use annulus::ring::Strategy;
use annulus::shard::Handed;
use annulus::{Compiled, Options, compile, run};

/// New rows behind a cache.
fn step(past: usize, new: usize) -> Graph {
    let all = past + new;
    parse(&format!(
        "graph \"cache\" {{\n  input %q: f64[1,2,{new},4]\n  input %k: f64[1,1,{new},4]\n  input %v: f64[1,1,{new},4]\n  \
         input %past_k: f64[1,1,{past},4]\n  input %past_v: f64[1,1,{past},4]\n  \
         %present_k: f64[1,1,{all},4] = concat %past_k, %k {{axis=2}}\n  \
         %present_v: f64[1,1,{all},4] = concat %past_v, %v {{axis=2}}\n  \
         %out: f64[1,2,{new},4] = attention %q, %present_k, %present_v {{scores=[factor 0.5 | fill -inf unless causal({past})], acc=f64, empty=zero}}\n  \
         output \"out\" = %out\n  output \"present_k\" = %present_k\n  output \"present_v\" = %present_v\n}}\n"
    ))
    .unwrap()
}

/// The rows of each rank of an input or output, as the report says.
fn rows(c: &Compiled, name: &str) -> Vec<Vec<Progression>> {
    let values = report(c).values;
    let value = values.iter().find(|v| v.name == name).unwrap();
    assert_eq!(value.axis, 2);
    let progression = |&[start, len, step]: &[usize; 3]| Progression { start, len, step };
    value.rows.iter().map(|own| own.iter().map(progression).collect()).collect()
}

fn options(ranks: usize, handed: Vec<Handed>) -> Options {
    Options::new(ranks).inputs(handed)
}

fn given(name: &str, rows: Vec<Vec<Progression>>) -> Handed {
    Handed::new(name, 2).rows(rows)
}

fn noise(graph: &Graph) -> Vec<Tensor> {
    let make = |(i, v): (usize, annulus::ir::ValueId)| {
        let ty = graph.ty(v);
        let values: Vec<f64> =
            (0..ty.elements()).map(|e| ((e * 7919 + i * 104_729) % 2003) as f64 / 1001.0 - 1.0).collect();
        Tensor::from_f64(DType::F64, ty.shape.clone(), &values).unwrap()
    };
    graph.inputs().into_iter().enumerate().map(make).collect()
}

/// Three steps of one decode: the present of each is the past of the next, row by row, whatever is chosen besides.
#[test]
fn a_present_is_the_next_past() {
    for ranks in [1, 3, 4] {
        for strategy in [None, Some(Strategy::Ring), Some(Strategy::AllGather)] {
            let mut held: Option<[Vec<Vec<Progression>>; 2]> = None;
            for (past, new) in [(9, 3), (12, 1), (13, 5)] {
                let graph = step(past, new);
                let handed =
                    held.iter().flat_map(|[k, v]| [given("past_k", k.clone()), given("past_v", v.clone())]);
                let options = options(ranks, handed.collect()).strategy(strategy);
                let compiled = compile(&graph, &options).unwrap_or_else(|e| panic!("{e}"));
                if let Some([k, v]) = &held {
                    assert_eq!((&rows(&compiled, "past_k"), &rows(&compiled, "past_v")), (k, v));
                    assert!(compiled.program.layouts.iter().any(|l| l.kind == LayoutKind::Given));
                }
                let inputs = noise(&graph);
                let want = eval(&graph, &inputs, Precision::Declared).unwrap();
                for (got, want) in run(&compiled, &inputs, 1).unwrap().outputs.iter().zip(&want) {
                    let far = got.to_f64().iter().zip(want.to_f64()).any(|(a, b)| (a - b).abs() > 1e-12);
                    assert!(!far, "{past} and {new} on {ranks}");
                }
                held = Some([rows(&compiled, "present_k"), rows(&compiled, "present_v")]);
            }
        }
    }
}

/// Rows in an order of nobody's are honoured too.
#[test]
fn any_rows_are_honoured() {
    let p = |start, len, step| Progression { start, len, step };
    let odd = vec![vec![p(4, 1, 1), p(0, 2, 2)], vec![], vec![p(1, 2, 2), p(5, 4, 1)]];
    let graph = step(9, 3);
    for layout in [None, Some(LayoutKind::Contiguous), Some(LayoutKind::Stripe)] {
        let handed = vec![given("past_k", odd.clone()), given("past_v", odd.clone())];
        let compiled = compile(&graph, &options(3, handed).layout(layout)).unwrap();
        assert_eq!(rows(&compiled, "past_k"), odd);
        let (inputs, out) = (noise(&graph), eval(&graph, &noise(&graph), Precision::Declared).unwrap());
        let got = run(&compiled, &inputs, 0).unwrap().outputs;
        assert!(got[0].to_f64().iter().zip(out[0].to_f64()).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}

#[test]
fn rows_that_cannot_be_honoured_are_refused() {
    let range = Progression::range;
    let graph = step(9, 3);
    let refused = |handed: Vec<Handed>| compile(&graph, &options(2, handed)).unwrap_err().to_string();
    let halves = vec![vec![range(0, 4)], vec![range(4, 5)]];
    assert_eq!(
        refused(vec![given("past_k", vec![vec![range(0, 9)]])]),
        "input past_k cannot be handed out along axis 2: rows of 1 ranks are given, and there are 2"
    );
    let lost = refused(vec![given("past_k", vec![vec![range(0, 4)], vec![range(5, 4)]])]);
    assert!(lost.contains("there are 9 rows, and 8 are given"), "{lost}");
    let twice = refused(vec![given("past_k", vec![vec![range(0, 5)], vec![range(4, 4)]])]);
    assert!(twice.contains("rows 4:4 of rank 1 are rows of rank 0 too"), "{twice}");
    let axis = Handed::new("past_k", 1).rows(halves.clone());
    assert!(refused(vec![axis]).contains("input past_k cannot be handed out along axis 1"));
    // Keys and values of one cache are one sequence.
    let other = vec![vec![range(0, 5)], vec![range(5, 4)]];
    let tied = refused(vec![given("past_k", halves), given("past_v", other)]);
    assert!(tied.contains("tied to those of other values"), "{tied}");
}
