//! Text case files, one idea each: the text after each stage is a snapshot in `snapshots/<stage>/`, and the program that
//! comes out computes what the graph computes.

use super::support::cases::{files, reviewed, snapshot, stem};
use annulus::dump::stages::{Pass, Request, text_after};
use annulus::eval::compare;
use annulus::eval::{Precision, eval};
use annulus::ir::text::{self, Form};
use annulus::ir::{DType, Graph, Tensor};

const STAGES: [(Pass, &str); 6] = [
    (Pass::Import, "import"),
    (Pass::Find, "find"),
    (Pass::Shard, "shard"),
    (Pass::Ring, "ring"),
    (Pass::Schedule, "schedule"),
    (Pass::Check, "check"),
];

#[test]
fn the_text_of_every_stage_is_as_reviewed() {
    for path in files("cases") {
        let source = std::fs::read_to_string(&path).expect("a case");
        let request = Request::from_header(&source).expect("a header");
        let graph = text::parse(&source).unwrap_or_else(|e| panic!("{e}"));
        for (stage, folder) in STAGES {
            let out = text_after(&graph, &request, stage, Form::People).unwrap_or_else(|e| panic!("{e}"));
            reviewed(folder, &format!("case_{}", stem(&path)), &source, &out);
        }
    }
}

/// Numbers between −1 and 1 that look random and are the same everywhere.
fn noise(graph: &Graph) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    let make = |v| {
        let ty = graph.ty(v);
        let values: Vec<f64> = (0..ty.elements())
            .map(|_| if ty.dtype.is_float() { next() } else { (next().abs() * 3.0).floor() })
            .collect();
        Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).expect("as many as the shape")
    };
    graph.inputs().into_iter().map(make).collect()
}

#[test]
fn every_case_computes_what_its_graph_computes() {
    for path in files("cases") {
        let source = std::fs::read_to_string(&path).expect("a case");
        let mut request = Request::from_header(&source).expect("a header");
        let graph = text::parse(&source).unwrap_or_else(|e| panic!("{e}"));
        let inputs = noise(&graph);
        let want = eval(&graph, &inputs, Precision::F64).expect("evaluates");
        for ranks in 1..=9 {
            request.options.ranks = ranks;
            let compiled = annulus::compile(&graph, &request.options).unwrap_or_else(|e| panic!("{e}"));
            let got = annulus::run(&compiled, &inputs, ranks as u64).expect("runs").outputs;
            for (got, want) in got.iter().zip(&want) {
                let tolerance = if got.dtype() == DType::F64 { 1e-12 } else { 1e-4 };
                let got = Tensor::from_f64(DType::F64, got.shape(), &got.to_f64()).expect("the same shape");
                let c = compare(&got, want, tolerance, tolerance, true).expect("comparable");
                assert!(c.within, "{} on {ranks} ranks: {c:?}", path.display());
            }
        }
    }
}

/// The first block and the rest of a bundled Llama, as a reviewer sees it at two and four ranks.
#[test]
fn the_text_of_a_llama_is_as_reviewed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama");
    let case = annulus::import::case::load(&folder, &Default::default(), &Default::default()).expect("loads");
    for (ranks, rank) in [(2, 0), (4, 1)] {
        let request =
            Request::from_header(&format!("// opt ranks={ranks} rank={rank} strategy=ring layout=zigzag"))
                .expect("a header");
        for (stage, folder) in STAGES {
            let out =
                text_after(&case.graph, &request, stage, Form::People).unwrap_or_else(|e| panic!("{e}"));
            // What a stage prints does not depend on the rank count before the graph is split.
            let whole = matches!(stage, Pass::Import | Pass::Find);
            let name = if whole { "llama".into() } else { format!("llama_p{ranks}") };
            snapshot(folder, &name, &out);
        }
    }
}
