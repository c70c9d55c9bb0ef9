//! Extents whose product no machine could count, let alone hold: an error that names the place, or a graph of types alone.

use super::build::{Dim, float, int, int_list, ints, model, node, tensor, value};
use super::on_a_plain_stack;
use annulus::eval::{Precision, eval};
use annulus::find::{FindOptions, find};
use annulus::import::proto::{AttributeProto, GraphProto};
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{Contract, DType, Form, Graph, Op, Type, parse, print, verify};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Options, compile};
use prost::Message;
use std::time::Duration;

const FEW_SECONDS: Duration = Duration::from_secs(20);

/// The text of a graph with one operation.
fn text(inputs: &[&str], line: &str) -> String {
    let inputs: String = inputs.iter().map(|i| format!("  input {i}\n")).collect();
    format!("graph \"g\" {{\n{inputs}  {line}\n}}\n")
}

#[test]
fn a_text_with_too_many_elements_is_refused_where_it_says_so() {
    let ((), time) = on_a_plain_stack(|| {
        let n = 1usize << 56;
        let half = 1usize << 28;
        for (inputs, line) in [
            (vec![format!("%x: f32[{n},2]")], "%y: f32[] = neg %x".to_owned()),
            (vec![format!("%x: f32[{n},{n},{n},{n}]")], String::new()),
            (vec![format!("%x: f32[0,{n},{n},{n}]")], String::new()),
            (vec![format!("%x: f32[{}]", usize::MAX)], String::new()),
            (vec!["%x: f32[1]".into()], format!("%y: f32[{n},2] = broadcast %x")),
            (vec![format!("%x: f32[{n}]")], format!("%y: f32[{}] = concat %x, %x {{axis=0}}", 2 * n)),
            (vec![format!("%x: f32[{n}]")], format!("%y: f32[{n},{n}] = contract %x, %x {{a,b->ab}}")),
            (
                vec!["%x: f32[2]".into(), "%p: f32[]".into()],
                format!("%y: f32[{}] = pad %x, %p {{low=[{}], high=[{}]}}", 1, usize::MAX, usize::MAX),
            ),
            (
                vec![format!("%x: f32[{half}]"), format!("%i: i64[{half},2]")],
                format!("%y: f32[{half},2] = gather %i, %x {{axis=0}}"),
            ),
            (
                vec!["%x: f32[2]".into()],
                format!("%y: f32[1] = slice %x {{axis=0, start={}, len=1, step=1}}", usize::MAX),
            ),
            (
                vec!["%x: f32[2]".into()],
                format!("%y: f32[2] = slice %x {{axis=0, start=0, len=2, step={}}}", i64::MIN),
            ),
            (vec!["%x: f32[2]".into()], format!("%y: f32[2] = reshape %x {{shape=[{n},{n}]}}")),
            (
                vec!["%x: f32[2]".into()],
                format!("%y, %i: f32[2], i64[2] = topk %x {{axis=0, k={}, largest}}", usize::MAX),
            ),
            (vec![], format!("%y: i64[{n},2] = iota {{axis=0}}")),
            (vec![], format!("const %y: f32[{n},2] = #0123456789abcdef")),
            // Data is bounded by 2^40.
            (vec![], format!("const %y: f32[{},2] = #0123456789abcdef", 1usize << 40)),
        ] {
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let error = parse(&text(&inputs, &line)).expect_err(&line).to_string();
            assert!(error.starts_with("error: ") && error.contains("\n  |\n"), "{line}: {error}");
        }
    });
    assert!(time < FEW_SECONDS, "{time:?}");
}

/// An operator, the extents of its first operand, its constants and its attributes.
type Case = (&'static str, Vec<i64>, Vec<&'static [i64]>, Vec<AttributeProto>);

/// What importing one node over a large input and small constants gives.
fn import(
    op: &str,
    dims: &[i64],
    constants: &[&[i64]],
    attributes: Vec<AttributeProto>,
) -> Result<Graph, String> {
    let mut g = GraphProto { name: "g".to_owned(), ..GraphProto::default() };
    let mut operands = vec![];
    if !dims.is_empty() {
        let dims: Vec<Dim> = dims.iter().map(|&d| Dim::N(d)).collect();
        g.input.push(value("x", DType::F32, &dims));
        operands.push("x".to_owned());
    }
    for (i, c) in constants.iter().enumerate() {
        operands.push(format!("c{i}"));
        g.initializer.push(tensor(&operands[operands.len() - 1], &ints(c)));
    }
    let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
    g.node.push(node(op, &operands, &["y"], attributes));
    g.output.push(annulus::import::proto::ValueInfoProto { name: "y".into(), r#type: None });
    onnx(&model(23, g).encode_to_vec(), &ImportOptions::default()).map_err(|e| e.to_string())
}

#[test]
fn an_operator_that_would_make_too_much_is_refused_or_makes_a_type() {
    let ((), time) = on_a_plain_stack(|| {
        let big = 1i64 << 56;
        let refused: Vec<Case> = vec![
            ("Expand", vec![1], vec![&[1 << 56, 2]], vec![]),
            ("Expand", vec![1], vec![&[i64::MAX, i64::MAX, i64::MAX]], vec![]),
            ("Expand", vec![1], vec![&[-5]], vec![]),
            ("Tile", vec![3], vec![&[i64::MAX]], vec![]),
            ("ConstantOfShape", vec![], vec![&[1 << 57]], vec![]),
            ("ConstantOfShape", vec![], vec![&[i64::MAX, 3]], vec![]),
            ("ConstantOfShape", vec![], vec![&[-1]], vec![]),
            ("Pad", vec![2], vec![&[i64::MAX, i64::MAX]], vec![]),
            ("Reshape", vec![2], vec![&[1 << 40, 1 << 40]], vec![]),
            ("Reshape", vec![2], vec![&[i64::MAX, -1]], vec![]),
            ("Neg", vec![big, 2], vec![], vec![]),
            ("Neg", vec![i64::MAX], vec![], vec![]),
            ("Neg", vec![-1], vec![], vec![]),
            ("Split", vec![4], vec![], vec![int("num_outputs", i64::MAX)]),
            ("Unsqueeze", vec![4], vec![&[i64::MAX]], vec![]),
            ("Transpose", vec![4], vec![], vec![int_list("perm", &[i64::MAX])]),
            ("Concat", vec![big], vec![], vec![int("axis", i64::MIN)]),
        ];
        for (op, dims, constants, attributes) in refused {
            let error = import(op, &dims, &constants, attributes).expect_err(op);
            assert!(!error.is_empty() && error.len() < 500, "{op}: {error}");
        }
        // Large, and within what a type may have: neither computed nor held.
        for (op, dims, constants, attributes) in [
            ("Expand", vec![1], vec![&[1 << 41][..]], vec![]),
            ("ConstantOfShape", vec![], vec![&[1 << 41][..]], vec![]),
            ("Tile", vec![1], vec![&[1 << 41][..]], vec![]),
            ("Neg", vec![big], vec![], vec![]),
            ("LeakyRelu", vec![1 << 20, 1 << 20], vec![], vec![float("alpha", 0.5)]),
        ] {
            let graph = import(op, &dims, &constants, attributes).unwrap_or_else(|e| panic!("{op}: {e}"));
            assert_eq!(verify(&graph), Ok(()));
            let again = parse(&print(&graph, Form::People)).unwrap();
            assert!(again == graph);
            // No machine of today holds 8 TiB of results.
            if dims.is_empty() {
                assert!(eval(&graph, &[], Precision::Declared).is_err(), "{op}");
            }
        }
    });
    assert!(time < FEW_SECONDS, "{time:?}");
}

/// Attention over as many rows as a type may have, written out: it is found and split from its shapes.
#[test]
fn attention_of_absurd_lengths_is_compiled_or_refused() {
    let ((), time) = on_a_plain_stack(|| {
        for [rows, keys, head] in [
            [1usize << 20, 1 << 20, 1],
            [1 << 30, 1, 1 << 4],
            [1, 1 << 38, 2],
            [1 << 36, 1 << 2, 1 << 2],
            [(1 << 40) - 1, 1, 1],
            [1, (1 << 40) - 1, 1],
            [1 << 20, 0, 1 << 20],
            [1, 1, 1 << 40],
        ] {
            let mut g = Graph::new("long");
            let q = g.input("q", Type::new(DType::F32, [1, 1, rows, head]));
            let k = g.input("k", Type::new(DType::F32, [1, 1, keys, head]));
            let contract = |l: &str, r: &str, o: &str| {
                Op::Contract(Contract { lhs: l.into(), rhs: r.into(), out: o.into() })
            };
            let s = g.add1(contract("bhid", "bhjd", "bhij"), &[q, k], "s", "").unwrap();
            let p = g.add1(Op::Softmax { axis: 3 }, &[s], "p", "").unwrap();
            let o = g.add1(contract("bhij", "bhjd", "bhid"), &[p, k], "o", "").unwrap();
            g.output("o", o);
            assert_eq!(verify(&g), Ok(()));
            let found = find(&g, &FindOptions::default());
            assert_eq!(found.attentions.len() + found.missed.len(), 1);
            for ranks in [1, 64] {
                for layout in LayoutKind::ALL {
                    for strategy in Strategy::ALL {
                        let options = Options::new(ranks).strategy(strategy).layout(layout);
                        match compile(&g, &options) {
                            Ok(compiled) => {
                                annulus::dump::report::report(&compiled);
                                assert_eq!(verify(&compiled.rank_graph(ranks - 1).unwrap()), Ok(()));
                            }
                            Err(e) => assert!(e.to_string().len() < 10_000),
                        }
                    }
                }
            }
        }
    });
    assert!(time < FEW_SECONDS * 3, "{time:?}");
}
