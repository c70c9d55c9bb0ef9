//! Real models, and what the pass makes of them, as text and back.

use annulus::import::{ImportOptions, onnx};
use annulus::ir::{Form, Graph, parse, print, verify};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Options, compile};
use std::fs;
use std::path::Path;

#[track_caller]
fn round_trip(g: &Graph, form: Form) {
    assert_eq!(verify(g), Ok(()));
    let text = print(g, form);
    let back = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert!(back == *g, "{text}");
    assert!(print(&back, form) == text, "{text}");
}

#[test]
fn models_and_their_programs_print_and_parse_back() {
    for name in ["llama", "gpt2", "mistral"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name).join("model.onnx");
        let graph = onnx(&fs::read(path).unwrap(), &ImportOptions::default()).unwrap();
        round_trip(&graph, Form::Full);
        for (ranks, strategy, layout) in [
            (1, Strategy::Ring, LayoutKind::Contiguous),
            (2, Strategy::Ring, LayoutKind::Zigzag),
            (3, Strategy::AllGather, LayoutKind::Zigzag),
            (40, Strategy::Ring, LayoutKind::Contiguous),
        ] {
            let options = Options::new(ranks).strategy(strategy).layout(layout);
            let compiled = compile(&graph, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            for rank in [0, ranks - 1] {
                let g = compiled.rank_graph(rank).unwrap_or_else(|e| panic!("{name}: {e}"));
                round_trip(&g, Form::People);
            }
        }
    }
}
