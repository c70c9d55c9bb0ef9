//! The IR from outside: the text form.

mod hostile;
mod models;
mod random;
mod scores;

use super::support::cases::{files, reviewed, stem};
use annulus::ir::{Binary, Collective, Form, Graph, Op, RegionKind, Unary, parse, print};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    files("inside/ir")
}

fn parsed(text: &str) -> Graph {
    parse(text).unwrap_or_else(|e| panic!("{e}"))
}

/// A case without the comment at its head, and the form that it is written in.
fn body(path: &Path) -> (String, Form) {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split_inclusive('\n').skip_while(|line| line.starts_with("//")).collect();
    let full = path.file_name().unwrap().to_str().unwrap().starts_with("full_");
    (body, if full { Form::Full } else { Form::People })
}

#[test]
fn every_case_prints_as_it_is_written() {
    for path in cases() {
        let text = fs::read_to_string(&path).unwrap();
        let graph = parse(&text).unwrap_or_else(|e| panic!("{}\n{e}", path.display()));
        let (body, form) = body(&path);
        assert_eq!(print(&graph, form), body, "{}", path.display());
        for form in [Form::People, Form::Full] {
            assert_eq!(parsed(&print(&graph, form)), graph, "{}", path.display());
        }
    }
}

/// A number in text is rounded once, to the type that it is declared of.
#[test]
fn numbers_in_text_are_rounded_once() {
    let read = |ty: &str, numbers: &str| {
        let graph =
            parsed(&format!("graph \"g\" {{\n  const %c: {ty} = {numbers}\n  output \"c\" = %c\n}}\n"));
        graph.as_constant(graph.outputs()[0].value).and_then(|c| c.data.as_deref().cloned()).unwrap().to_f64()
    };
    // Beside a tie of the type; what lies beyond f32 is lost on the way through it, and beyond f64 through that.
    let above = "[1.000488281251, 1.00048828125000000000000000001, -1.000488281251, 1.00048828125]";
    assert_eq!(read("f16[4]", above), [1.0009765625, 1.0009765625, -1.0009765625, 1.0]);
    let above = "[1.00390625000001, 1.003906250000000000000000000001, -1.00390625000001, 1.00390625]";
    assert_eq!(read("bf16[4]", above), [1.0078125, 1.0078125, -1.0078125, 1.0]);
    assert_eq!(read("f16[]", "65519.9999999999999999"), [65504.0]);
    for too_large in ["65520.0", "1e400"] {
        let text = format!("graph \"g\" {{\n  const %c: f16[] = {too_large}\n}}\n");
        assert!(parse(&text).unwrap_err().to_string().contains("an element of type f16"));
    }
}

#[test]
fn what_is_no_graph_is_refused_at_its_place() {
    for path in files("inside/ir/parse_fail") {
        let text = fs::read_to_string(&path).unwrap();
        let name = stem(&path);
        let error = parse(&text).expect_err(&name);
        assert!(!error.rendered.contains('\x1b'), "{name}");
        reviewed("ir", &format!("refused_{name}"), &text, &error.rendered);
    }
}

/// The mnemonic of every operation. The match has no wildcard, so that a new operation must be added here, and is then
/// wanted of the case files and of the random graphs.
fn every_mnemonic() -> BTreeSet<&'static str> {
    let mut all: BTreeSet<&str> = Unary::ALL.iter().map(|u| u.name()).collect();
    all.extend(Binary::ALL.iter().map(|b| b.name()));
    // One of each, as the name alone.
    let listed = |op: &Op| match op {
        Op::Input(_) => "input",
        Op::Constant(_) => "const",
        Op::Iota { .. } => "iota",
        Op::Unary(u) => u.name(),
        Op::Binary(b) => b.name(),
        Op::Select => "select",
        Op::Cast(_) => "cast",
        Op::Contract(_) => "contract",
        Op::Conv { .. } => "conv",
        Op::Pool { .. } => "pool",
        Op::Reduce { .. } => "reduce",
        Op::Softmax { .. } => "softmax",
        Op::Reshape(_) => "reshape",
        Op::Permute(_) => "permute",
        Op::Broadcast(_) => "broadcast",
        Op::Slice { .. } => "slice",
        Op::Rows { .. } => "rows",
        Op::Concat { .. } => "concat",
        Op::Pad { .. } => "pad",
        Op::Gather { .. } => "gather",
        Op::GatherNd { .. } => "gather_nd",
        Op::ScatterNd { .. } => "scatter_nd",
        Op::CumSum { .. } => "cumsum",
        Op::TopK { .. } => "topk",
        Op::Opaque(_) => "opaque",
        Op::Attention(_) => "attention",
        Op::AttentionBackward(_) => "attention_backward",
        Op::Chunk { .. } => "chunk",
        Op::Start(c, _) => match **c {
            Collective::SendRecv { .. } => "sendrecv_start",
            Collective::AllGather { .. } => "all_gather_start",
            Collective::AllToAll { .. } => "all_to_all_start",
        },
        Op::Wait => "wait",
        Op::Partial(_) => "attn_partial",
        Op::Merge { .. } => "merge",
        Op::Finish { .. } => "finish",
        Op::Region(RegionKind::Segment, _) => "segment",
        Op::Region(RegionKind::Island { .. }, _) => "island",
        Op::Unshard { .. } => "unshard",
        Op::AllReduce { .. } => "all_reduce",
        Op::Call { .. } => "call",
    };
    for path in cases() {
        let mut open = vec![parsed(&fs::read_to_string(&path).unwrap())];
        while let Some(g) = open.pop() {
            for id in g.ops() {
                assert_eq!(listed(g.op(id)), g.op(id).name());
                all.insert(g.op(id).name());
                if let Op::Region(_, inner) = g.op(id) {
                    open.push(Graph::clone(inner));
                }
            }
        }
    }
    all
}

#[test]
fn the_cases_hold_every_operation() {
    // 18 unary and 16 binary functions, and 37 operations beside.
    let all = every_mnemonic();
    assert_eq!(all.len(), Unary::ALL.len() + Binary::ALL.len() + 37, "{all:?}");
}
