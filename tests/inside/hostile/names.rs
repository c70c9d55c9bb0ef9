//! Names made to fool a terminal or a reader: whatever a model calls its parts, no control character and no mark that turns
//! text around reaches what is printed, in any form of it, and every name that a text holds reads back as it was.

use super::build::{Dim, code, model, node, value};
use annulus::dump::stages::{Pass, Request, text_after};
use annulus::dump::{dot, program, stages, timeline_svg};
use annulus::import::proto::{GraphProto, ModelProto};
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{DType, Form, parse};
use annulus::{Options, compile, schedule};
use proptest::prelude::*;
use prost::Message;
use std::path::Path;

/// Whether the character changes how what stands around it is shown.
fn fools(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn decent(what: &str, text: &str) {
    if let Some(at) = text.find(fools) {
        let around: String =
            text[..at].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("{what} holds {:?} after {around:?}", text[at..].chars().next());
    }
}

fn name() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        3 => "[a-z./:]{1,6}",
        1 => Just("\u{1b}[31mred\u{1b}[0m".to_owned()),
        1 => Just("\u{1b}]0;title\u{7}".to_owned()),
        1 => Just("line\nend \"quoted\" // comment".to_owned()),
        1 => Just("\u{202e}backwards\u{2066}".to_owned()),
        1 => Just("\r\0\u{8}\u{7f}\u{85}\u{9b}2J".to_owned()),
        1 => Just("<script>]]>&amp;-->".to_owned()),
        1 => Just("%x = neg %y {axis=0} @\"".to_owned()),
        1 => any::<String>(),
    ];
    proptest::collection::vec(pieces, 1..3).prop_map(|p| p.concat())
}

/// An attention and a few operations around it, all of these names made different by a number.
fn hostile(names: &[String]) -> ModelProto {
    let n = |i: usize| format!("{}{i}", names[i % names.len()]);
    let dims = || [Dim::N(1), Dim::N(2), Dim::N(6), Dim::N(4)];
    let mut g = GraphProto { name: n(0), ..GraphProto::default() };
    g.input.push(value(&n(1), DType::F32, &dims()));
    let mut made = n(1);
    for (i, (op, operands)) in
        [("Tanh", 1), ("Attention", 3), ("Softmax", 1), ("Attention", 3), ("CumSum", 0)]
            .into_iter()
            .enumerate()
    {
        let result = n(i + 2);
        let mut x: Vec<&str> = vec![&made; operands.max(1)];
        if op == "CumSum" {
            x.push("axis");
        }
        let mut written = node(op, &x, &[&result], vec![]);
        written.name = n(i + 10);
        g.node.push(written);
        made = result;
    }
    g.initializer.push(super::build::tensor("axis", &super::build::ints(&[3])));
    g.output.push(value(&made, DType::F32, &dims()));
    model(23, g)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 512 }))]

    #[test]
    fn nothing_that_is_printed_holds_one(names in proptest::collection::vec(name(), 1..6), ranks in 1usize..4) {
        let m = hostile(&names);
        let graph = onnx(&m.encode_to_vec(), &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let request = Request { options: Options::new(ranks), rank: ranks - 1 };
        for stage in [Pass::Import, Pass::Find, Pass::Shard, Pass::Ring, Pass::Schedule, Pass::Check] {
            for form in [Form::People, Form::Full] {
                let text = text_after(&graph, &request, stage, form).unwrap_or_else(|e| panic!("{e}"));
                decent(&format!("the text of stage {stage:?}"), &text);
                if stage == Pass::Import {
                    let read = parse(&text).unwrap_or_else(|e| panic!("{e}"));
                    prop_assert!(read == graph);
                }
            }
        }
        let compiled = compile(&graph, &request.options).unwrap_or_else(|e| panic!("{e}"));
        prop_assert_eq!(compiled.attentions.len(), 2);
        let text = stages::schedules(&compiled);
        let read = schedule::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        prop_assert!(read.iter().eq(compiled.islands.iter().map(|i| i.schedule.as_ref())));
        decent("the list of the program", &program::listing(&compiled.program));
        decent("the graph as DOT", &dot(&compiled.rank_graph(0).unwrap_or_else(|e| panic!("{e}"))));
        for island in &compiled.islands {
            decent("the timeline", &timeline_svg(&island.schedule, &annulus::device::Device::named("h200x8").unwrap()));
        }
    }

    /// What is wrong with a model is told in decent words, whichever of its names the message has.
    #[test]
    fn errors_hold_none(names in proptest::collection::vec(name(), 1..6), fault in 0usize..9, at in 0usize..5) {
        let mut m = hostile(&names);
        let g = m.graph.as_mut().unwrap();
        match fault {
            0 => g.node[at].op_type = names[0].clone(),
            1 => g.node[at].domain = names[0].clone(),
            2 => g.node[at].input[0] = format!("{}?", names[0]),
            3 => g.node[at].input[0] = g.output[0].name.clone(),
            4 => g.output[0].name = format!("{}!", names[0]),
            5 => g.node[at].attribute.push(super::build::int(&names[0], 1)),
            6 => g.input[0] = value(&g.input[0].name, DType::Bool, &[Dim::N(3)]),
            7 => {
                let t = g.input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
                t.shape.as_mut().unwrap().dim[2].dim_value = None;
                t.shape.as_mut().unwrap().dim[2].dim_param = Some(names[0].clone());
            }
            _ => {
                let mut t = super::build::tensor(&names[0], &super::build::ints(&[1, 2]));
                t.data_type = code(DType::F32);
                g.initializer.push(t);
            }
        }
        if let Err(e) = onnx(&m.encode_to_vec(), &ImportOptions::default()) {
            decent("the error", &e.to_string());
        }
    }
}

/// The files that the command line is tried on (`tests/cli/names.rs`) are these; `INSTA_UPDATE=always` writes them, as it does snapshots.
#[test]
fn the_files_of_the_command_line_have_the_worst_names() {
    let worst = ["\u{1b}[31m\u{202e}", "\r\0\u{9b}2J\n", "a\u{1b}]0;t\u{7}\u{2066}\u{85}"].map(str::to_owned);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/names");
    for fault in 0..4 {
        let mut m = hostile(&worst);
        let g = m.graph.as_mut().unwrap();
        match fault {
            1 => g.node[1].op_type = worst[0].clone(),
            2 => g.node[2].input[0] = worst[1].clone(),
            3 => {
                let t = g.input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
                t.shape.as_mut().unwrap().dim[2] = annulus::import::proto::DimensionProto {
                    dim_value: None,
                    dim_param: Some(worst[2].clone()),
                };
            }
            _ => {}
        }
        let path = folder.join(format!("fault{fault}.onnx"));
        if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
            std::fs::write(&path, m.encode_to_vec()).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == m.encode_to_vec(),
            "{} is stale: INSTA_UPDATE=always cargo test hostile",
            path.display()
        );
    }
}
