//! Operators that annulus does not compute: carried with all that the model says of them, or refused by name.

use super::build::*;
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, attribute_type, data_type,
};
use annulus::eval::{EvalError, Precision, eval, lacking};
use annulus::import::{ImportError, ImportOptions, onnx};
use annulus::ir::{Attribute, DType, Form, Graph, MessageKind, Op, Opaque, parse, print};
use prost::Message;

const ROWS: [Dim; 2] = [Dim::N(4), Dim::N(3)];

/// y = Relu(Foo(x, w)), and what is declared of Foo's result `h`.
fn foo(declared: Option<ValueInfoProto>) -> ModelProto {
    let mut g = GraphProto { name: "foo".into(), ..GraphProto::default() };
    g.input.push(value("x", DType::F32, &ROWS));
    g.initializer.push(tensor("w", &count(&[3])));
    g.node.push(NodeProto { name: "first".into(), ..node("com.example::Foo", &["x", "w"], &["h"], vec![]) });
    g.node.push(node("Relu", &["h"], &["y"], vec![]));
    g.output.push(value("y", DType::F32, &ROWS));
    g.value_info.extend(declared);
    let mut m = model(21, g);
    m.opset_import.push(OperatorSetIdProto { domain: "com.example".into(), version: 7 });
    m
}

fn declared() -> ModelProto {
    foo(Some(value("h", DType::F32, &ROWS)))
}

fn import(m: &ModelProto) -> Result<Graph, ImportError> {
    onnx(&m.encode_to_vec(), &ImportOptions::default())
}

fn changed(mut m: ModelProto, change: impl FnOnce(&mut GraphProto)) -> ModelProto {
    change(m.graph.as_mut().unwrap());
    m
}

fn refusal(m: &ModelProto) -> String {
    let e = import(m).expect_err("should be refused");
    assert!(e.is_refusal(), "{e}");
    e.to_string()
}

/// The opaque operators of a graph.
fn opaque(g: &Graph) -> Vec<Opaque> {
    let all = g.ops().into_iter().filter_map(|id| match g.op(id) {
        Op::Opaque(o) => Some((**o).clone()),
        _ => None,
    });
    all.collect()
}

fn body(g: &Graph) -> String {
    let text = print(g, Form::People);
    assert_eq!(print(&parse(&text).unwrap(), Form::People), text);
    text.lines().filter(|l| !l.contains(" input ") && !l.contains("const ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_unknown_operator_is_carried_and_named_by_whoever_would_compute_it() {
    let g = import(&declared()).unwrap();
    let line = "  %h: f32[4,3] = opaque %x, %w {domain=\"com.example\", op=\"Foo\", version=7}  @\"first\"";
    assert!(body(&g).contains(line), "{}", body(&g));
    let error = eval(&g, &[count(&[4, 3])], Precision::Declared).unwrap_err();
    let EvalError::Lacks(all) = &error else { panic!("{error}") };
    assert_eq!(
        (all[0].operator.as_str(), all[0].nodes.as_slice()),
        ("com.example::Foo", &["first".into()][..])
    );
    assert!(error.to_string().contains("1 operator that the outputs need: com.example::Foo (node first)"));
}

#[test]
fn every_operator_that_is_lacking_is_named_at_once() {
    let m = changed(declared(), |g| {
        g.node[1] = node("com.example::Bar", &["h"], &["b"], vec![]);
        g.node.push(node("com.example::Foo", &["b"], &["y"], vec![]));
        g.node.push(node("com.example::Dead", &["b"], &["dead"], vec![]));
        g.value_info.push(value("b", DType::F32, &ROWS));
    });
    let g = import(&m).unwrap();
    let names: Vec<(String, usize)> = lacking(&g).into_iter().map(|l| (l.operator, l.nodes.len())).collect();
    assert_eq!(names, [("com.example::Foo".to_owned(), 2), ("com.example::Bar".to_owned(), 1)]);
    let why = eval(&g, &[count(&[4, 3])], Precision::Declared).unwrap_err().to_string();
    let said = "2 operators that the outputs need: com.example::Foo (2 nodes, the first is first), com.example::Bar (node Bar_1)";
    assert!(why.contains(said), "{why}");
    // The strict way names them all as well.
    let strict = ImportOptions::default().opaque(false);
    let why = onnx(&m.encode_to_vec(), &strict).unwrap_err().to_string();
    assert!(
        why.starts_with("node first (com.example::Foo) is not supported: annulus does not know"),
        "{why}"
    );
    assert!(why.contains("annulus does not know com.example::Bar of the model either"), "{why}");
    assert!(!why.contains("Dead"), "{why}");
}

#[test]
fn what_is_not_declared_is_refused_by_operator_and_value() {
    let says = |m: &ModelProto, part: &str| {
        let why = refusal(m);
        assert!(why.starts_with("node first (com.example::Foo) is not supported"), "{why}");
        assert!(why.contains(part) && why.contains("x: f32[4,3], w: f32[3]"), "{why}");
    };
    says(&foo(None), "the file declares no type of its result h: infer the shapes");
    let bare = ValueInfoProto { name: "h".into(), r#type: None };
    says(&foo(Some(bare)), "the file declares no type of its result h");
    let mut shapeless = value("h", DType::F32, &[]);
    shapeless.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape = None;
    says(&foo(Some(shapeless.clone())), "the file declares no shape of its result h: infer the shapes");
    let unknown = value("h", DType::F32, &[Dim::N(4), Dim::Named("n")]);
    says(
        &foo(Some(unknown)),
        "the extent n of axis 1 of its result h is not known: give its size with --dim",
    );
    let unnamed = value("h", DType::F32, &[Dim::N(4), Dim::N(-1)]);
    says(&foo(Some(unnamed)), "the extent h.1 of axis 1");
    let mut bytes = value("h", DType::F32, &ROWS);
    bytes.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = 2;
    says(&foo(Some(bytes)), "its result h is declared with elements of type uint8, which annulus lacks");
    let mut sequence = value("h", DType::F32, &ROWS);
    sequence.r#type.as_mut().unwrap().tensor_type = None;
    says(&foo(Some(sequence)), "declared as no dense tensor");
    let large = value("h", DType::F32, &[Dim::N(1 << 30), Dim::N(1 << 30)]);
    says(&foo(Some(large)), "which is too large");
    // What a stored output tells.
    let last = changed(foo(None), |g| {
        g.node.truncate(1);
        g.output[0] = ValueInfoProto { r#type: shapeless.r#type.clone(), ..value("h", DType::F32, &[]) };
    });
    let mut options = ImportOptions::default();
    options.output_shapes.insert("h".into(), vec![4, 5]);
    let g = onnx(&last.encode_to_vec(), &options).unwrap();
    assert_eq!(g.ty(g.outputs()[0].value).shape, [4, 5]);
}

#[test]
fn dimensions_are_bound_by_inputs_by_the_user_and_by_values_that_are_known() {
    let with = |dims: &[(&str, usize)]| ImportOptions::default().dims(dims.iter().map(|&(n, s)| (n, s)));
    let shape = |m: &ModelProto, options: &ImportOptions| -> Result<Vec<usize>, String> {
        let g = onnx(&m.encode_to_vec(), options).map_err(|e| e.to_string())?;
        Ok(opaque(&g)[0].results[0].shape.clone())
    };
    let symbolic = |result: [Dim; 2]| {
        changed(foo(Some(value("h", DType::F32, &result))), |g| {
            g.input[0] = value("x", DType::F32, &[Dim::Named("s"), Dim::N(3)]);
            g.output[0] = value("y", DType::F32, &[]);
            g.output[0].r#type = None;
        })
    };
    let of_input = symbolic([Dim::Named("s"), Dim::N(3)]);
    assert_eq!(shape(&of_input, &with(&[("s", 9)])), Ok(vec![9, 3]));
    let own = symbolic([Dim::Named("s"), Dim::Named("t")]);
    assert_eq!(shape(&own, &with(&[("s", 9), ("t", 2)])), Ok(vec![9, 2]));
    assert!(shape(&own, &with(&[("s", 9)])).unwrap_err().contains("--dim"));
    assert!(shape(&own, &with(&[("s", 9), ("u", 2)])).unwrap_err().starts_with("--dim u: no input has"));
    // One that no type rests on is a slip of the pen, too.
    let idle =
        changed(of_input.clone(), |g| g.output[0] = value("y", DType::F32, &[Dim::Named("t"), Dim::N(3)]));
    assert!(shape(&idle, &with(&[("s", 9), ("t", 9)])).unwrap_err().starts_with("--dim t: no input has"));
    let unnamed = symbolic([Dim::Named("s"), Dim::N(-1)]);
    assert_eq!(shape(&unnamed, &with(&[("s", 9), ("h.1", 5)])), Ok(vec![9, 5]));
    // A value that annulus computes tells what a name of its declared type means.
    let known = |at: i64| {
        changed(symbolic([Dim::Named("s"), Dim::Named("t")]), |g| {
            g.node.insert(0, node("Transpose", &["x"], &["xt"], vec![int_list("perm", &[1, 0])]));
            g.value_info.push(value("xt", DType::F32, &[Dim::Named("t"), Dim::Named("s")]));
            g.node[1].input[0] = "xt".into();
            if at == 0 {
                // Another value gives t another meaning.
                g.node.insert(1, node("Unsqueeze", &["x", "zero"], &["xu"], vec![]));
                g.initializer.push(tensor("zero", &ints(&[0])));
                g.value_info.push(value("xu", DType::F32, &[Dim::Named("t"), Dim::Named("s"), Dim::N(3)]));
                g.node[2].input.push("xu".into());
            }
        })
    };
    assert_eq!(shape(&known(1), &with(&[("s", 9)])), Ok(vec![9, 3]));
    assert!(shape(&known(0), &with(&[("s", 9)])).unwrap_err().contains("the extent t of axis 1"));
    // What a type rests on already cannot change any more.
    let late = changed(known(1), |g| {
        g.node.push(node("Concat", &["xt", "xt"], &["two"], vec![int("axis", 0)]));
        g.value_info.push(value("two", DType::F32, &[Dim::Named("t"), Dim::Named("s")]));
        g.output.push(ValueInfoProto { name: "two".into(), r#type: None });
    });
    assert_eq!(shape(&late, &with(&[("s", 9)])), Err("dimension t is 3 in xt and 6 in two".into()));
}

/// An attribute of each kind.
fn attributes() -> Vec<AttributeProto> {
    let of = |name: &str, kind: i32| AttributeProto {
        name: name.into(),
        r#type: kind,
        ..AttributeProto::default()
    };
    let bytes = TensorProto {
        dims: vec![2],
        data_type: 2,
        raw_data: Some(vec![1, 255]),
        name: "q".into(),
        ..TensorProto::default()
    };
    let text = TensorProto {
        dims: vec![1],
        data_type: 8,
        string_data: vec![b"\xff".to_vec()],
        ..TensorProto::default()
    };
    let graph = GraphProto {
        name: "inner".into(),
        output: vec![ValueInfoProto { name: "x".into(), r#type: None }],
        ..GraphProto::default()
    };
    let graph = graph.encode_to_vec();
    vec![
        AttributeProto { f: f32::from_bits(0x7fc0_1234), ..of("nan", attribute_type::FLOAT) },
        int("least", i64::MIN),
        AttributeProto { s: b"\xff\"\n".to_vec(), ..of("bytes", attribute_type::STRING) },
        string("a \"name\"\u{202e}", "} , = ]"),
        AttributeProto { t: Some(tensor("t", &count(&[3, 4]))), ..of("t", attribute_type::TENSOR) },
        AttributeProto { t: Some(bytes.clone()), ..of("q", attribute_type::TENSOR) },
        AttributeProto { floats: vec![f32::NEG_INFINITY, -0.0], ..of("fs", attribute_type::FLOATS) },
        int_list("is", &(0..5000).collect::<Vec<_>>()),
        AttributeProto { strings: vec![vec![], b"x".to_vec()], ..of("ss", attribute_type::STRINGS) },
        AttributeProto { tensors: vec![tensor("", &ints(&[7]))], ..of("ts", attribute_type::TENSORS) },
        AttributeProto { tensors: vec![tensor("", &ints(&[7])), text], ..of("tq", attribute_type::TENSORS) },
        AttributeProto { g: Some(graph.clone()), ..of("g", attribute_type::GRAPH) },
        AttributeProto { graphs: vec![graph.clone(), graph], ..of("gs", attribute_type::GRAPHS) },
        AttributeProto { sparse_tensor: Some(vec![1, 2]), ..of("sp", attribute_type::SPARSE_TENSOR) },
        AttributeProto { sparse_tensors: vec![vec![3]], ..of("sps", attribute_type::SPARSE_TENSORS) },
        AttributeProto { tp: Some(vec![]), ..of("tp", attribute_type::TYPE_PROTO) },
        AttributeProto { type_protos: vec![vec![4]], ..of("tps", attribute_type::TYPE_PROTOS) },
    ]
}

#[test]
fn attributes_of_every_kind_are_carried_to_the_bit() {
    let given = attributes();
    let g = import(&changed(declared(), |g| g.node[0].attribute = attributes())).unwrap();
    let o = &opaque(&g)[0];
    assert_eq!(o.attributes.len(), given.len());
    assert_eq!(o.captured, ["x"]);
    for (a, (name, value)) in given.iter().zip(&o.attributes) {
        assert_eq!(a.name, *name);
        let tensor = |t: &Option<TensorProto>| t.as_ref().unwrap().encode_to_vec();
        let one = |b: &annulus::ir::Blob| b.bytes.as_deref().unwrap().to_vec();
        match value {
            Attribute::Int(i) => assert_eq!(*i, a.i),
            Attribute::Float(f) => assert_eq!(f.to_bits(), a.f.to_bits()),
            Attribute::String(s) => assert_eq!(*s, a.s),
            Attribute::Tensor(t) => assert_eq!(**t.data.as_ref().unwrap(), count(&[3, 4])),
            Attribute::Ints(all) => assert_eq!(*all, a.ints),
            Attribute::Floats(all) => {
                let bits = |all: &[f32]| all.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(all), bits(&a.floats));
            }
            Attribute::Strings(all) => assert_eq!(*all, a.strings),
            Attribute::Tensors(all) => assert_eq!(**all[0].data.as_ref().unwrap(), ints(&[7])),
            Attribute::Encoded(kind, all) => {
                let all: Vec<Vec<u8>> = all.iter().map(one).collect();
                match kind {
                    MessageKind::Graph => assert_eq!(all, [a.g.clone().unwrap()]),
                    MessageKind::Graphs => assert_eq!(all, a.graphs),
                    MessageKind::Tensor => assert_eq!(all, [tensor(&a.t)]),
                    MessageKind::Tensors => {
                        assert_eq!(all, a.tensors.iter().map(Message::encode_to_vec).collect::<Vec<_>>());
                    }
                    MessageKind::SparseTensor => assert_eq!(all, [a.sparse_tensor.clone().unwrap()]),
                    MessageKind::SparseTensors => assert_eq!(all, a.sparse_tensors),
                    MessageKind::Type => assert_eq!(all, [a.tp.clone().unwrap()]),
                    MessageKind::Types => assert_eq!(all, a.type_protos),
                }
            }
        }
    }
    let text = print(&g, Form::Full);
    assert_eq!(parse(&text).unwrap(), g);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn attributes_that_are_none_are_refused() {
    let with = |a: AttributeProto| refusal(&changed(declared(), |g| g.node[0].attribute = vec![a]));
    let empty = AttributeProto { name: "a".into(), ..AttributeProto::default() };
    assert!(with(empty.clone()).contains("attribute a: it is of kind 0, which is none"));
    let kinds = [attribute_type::TENSOR, attribute_type::GRAPH, attribute_type::TYPE_PROTO];
    for kind in kinds {
        assert!(with(AttributeProto { r#type: kind, ..empty.clone() }).contains("attribute a: it is empty"));
    }
    let outside = TensorProto { data_type: data_type::FLOAT, data_location: 1, ..TensorProto::default() };
    let outside = AttributeProto { t: Some(outside), r#type: attribute_type::TENSOR, ..empty };
    assert!(with(outside).contains("in another file"));
    let twice = refusal(&changed(declared(), |g| g.node[0].attribute = vec![int("a", 1), int("a", 2)]));
    assert!(twice.contains("two attributes named \"a\""), "{twice}");
    let broken = AttributeProto {
        name: "a".into(),
        g: Some(vec![0xff]),
        r#type: attribute_type::GRAPH,
        ..AttributeProto::default()
    };
    let broken = import(&changed(declared(), |g| g.node[0].attribute = vec![broken])).unwrap_err();
    assert!(broken.to_string().starts_with("node first (Foo): attribute a is no graph"), "{broken}");
}

#[test]
fn operands_and_results_keep_their_places() {
    let m = changed(declared(), |g| {
        g.node[0].input = ["", "x", "", "w", "", ""].map(str::to_owned).to_vec();
        g.node[0].output = ["", "unread", "h", "", "typed", "more"].map(str::to_owned).to_vec();
        g.value_info.push(value("typed", DType::I64, &[Dim::N(2)]));
    });
    let o = &opaque(&import(&m).unwrap())[0];
    assert_eq!((o.left_out.as_slice(), o.unwanted.as_slice()), (&[0, 2][..], &[0, 1, 3][..]));
    assert_eq!(o.results.len(), 2);
    let text = body(&import(&m).unwrap());
    assert!(text.contains("%h, %typed: f32[4,3], i64[2] = opaque %x, %w {"), "{text}");
    let nothing = changed(declared(), |g| g.node[0].input = vec![String::new(); 3]);
    let text = body(&import(&nothing).unwrap());
    assert!(text.contains("%h: f32[4,3] = opaque {domain"), "{text}");
}

#[test]
fn what_no_output_needs_is_not_read() {
    let m = changed(declared(), |g| {
        g.node.push(node("com.example::Bar", &["h", "q"], &["dead"], vec![]));
        g.node.push(node("Reshape", &["dead", "nowhere"], &["deader"], vec![]));
        g.node.push(node("Add", &["loop"], &["loop"], vec![]));
        g.node.push(node("com.absent::Op", &[], &["deadest"], vec![]));
        g.initializer.push(TensorProto {
            name: "q".into(),
            dims: vec![2],
            data_type: 2,
            raw_data: Some(vec![1]),
            ..TensorProto::default()
        });
    });
    assert_eq!(body(&import(&m).unwrap()), body(&import(&declared()).unwrap()));
    let read = changed(m, |g| g.node[0].input.push("q".into()));
    let why = refusal(&read);
    assert!(
        why.starts_with("node first (com.example::Foo) reads initializer q: elements of type uint8"),
        "{why}"
    );
}

#[test]
fn a_known_operator_in_a_form_that_is_not_lowered_is_carried_with_the_reason() {
    let heads = [Dim::N(1), Dim::N(3), Dim::N(8)];
    let mut g = GraphProto { name: "g".into(), ..GraphProto::default() };
    for name in ["q", "k", "v"] {
        g.input.push(value(name, DType::F32, &heads));
    }
    let flag = [int("num_heads", 2), int("unheard_of", 1)];
    g.node.push(node("com.microsoft::MultiHeadAttention", &["q", "k", "v"], &["y"], flag.to_vec()));
    g.output.push(value("y", DType::F32, &heads));
    let m = model(18, g);
    let g = import(&m).unwrap();
    let o = &opaque(&g)[0];
    assert_eq!(o.why, "attribute unheard_of is unknown at version 1");
    // Nothing is left of the way that was tried, the names of its values included.
    assert_eq!(g.ops().len(), 4);
    assert_eq!(g.value(g.outputs()[0].value).name, "y");
    let found = annulus::find_attentions(&g, &Default::default()).unwrap();
    assert_eq!((found.attentions.len(), found.missed.len()), (0, 1));
    let reason = &found.missed[0].reason;
    let said = "operator com.microsoft::MultiHeadAttention is carried as opaque: its attention is not split";
    assert!(reason.starts_with(said) && reason.contains(&o.why), "{reason}");
    // A faulty form of it is an error all the same.
    let broken = changed(m, |g| g.node[0].input = vec![]);
    assert!(!import(&broken).unwrap_err().is_refusal());
}

/// A graph of one node.
fn inner(n: NodeProto, output: &str) -> AttributeProto {
    let g = GraphProto {
        node: vec![n],
        output: vec![ValueInfoProto { name: output.into(), r#type: None }],
        ..GraphProto::default()
    };
    AttributeProto {
        name: "then_branch".into(),
        g: Some(g.encode_to_vec()),
        r#type: attribute_type::GRAPH,
        ..AttributeProto::default()
    }
}

/// y = If(p) with x, and w deeper within, read from around it.
fn branch() -> ModelProto {
    let deeper = inner(node("Add", &["t", "w"], &["u"], vec![]), "u");
    let deep = node("If", &["p"], &["t"], vec![deeper]);
    changed(declared(), |g| {
        g.input.push(value("p", DType::Bool, &[]));
        let mut then = inner(node("Mul", &["x", "x"], &["t"], vec![]), "t");
        let mut body = GraphProto::decode(then.g.as_deref().unwrap()).unwrap();
        body.node.push(NodeProto { output: vec!["v".into()], ..deep });
        body.node.push(node("com.microsoft::Gelu", &["v"], &["r"], vec![]));
        body.output[0].name = "r".into();
        then.g = Some(body.encode_to_vec());
        g.node[0] = NodeProto { name: "first".into(), ..node("If", &["p"], &["h"], vec![then]) };
    })
}

#[test]
fn what_graphs_read_from_around_them_are_operands() {
    let g = import(&branch()).unwrap();
    let o = &opaque(&g)[0];
    assert_eq!((o.name.as_str(), o.captured.as_slice()), ("If", &["x", "p", "w"].map(str::to_owned)[..]));
    assert_eq!(o.imports, [("com.microsoft".to_owned(), 1)]);
    let text = body(&g);
    assert!(text.contains("= opaque %p, %x, %p, %w {op=\"If\", version=21, imports="), "{text}");
    // The branch alone needs what makes w.
    let made = changed(branch(), |g| {
        g.initializer.remove(0);
        g.input.push(value("a", DType::F32, &[Dim::N(3)]));
        g.node.push(node("Neg", &["a"], &["w"], vec![]));
    });
    let text = body(&import(&made).unwrap());
    assert!(text.contains("%w: f32[3] = neg %a"), "{text}");
    let nowhere = changed(branch(), |g| g.initializer.clear());
    assert!(
        import(&nowhere).unwrap_err().to_string().contains("node first reads \"w\", which nothing makes")
    );
}

#[test]
fn graphs_inside_a_function_read_its_values() {
    let mut m = branch();
    let g = m.graph.as_mut().unwrap();
    let mut branch = g.node.remove(0);
    branch.input = vec!["c".into()];
    branch.output = vec!["r".into()];
    let before = node("Neg", &["a"], &["x"], vec![]);
    // Inside, p and w are of the function, and x is made there.
    m.functions.push(FunctionProto {
        name: "F".into(),
        domain: "com.example".into(),
        input: ["c", "a", "p", "w"].map(str::to_owned).to_vec(),
        output: vec!["r".into()],
        node: vec![before, branch.clone()],
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 20 }],
        ..FunctionProto::default()
    });
    g.node.insert(0, node("com.example::F", &["p", "x", "p", "w"], &["h"], vec![]));
    let g = import(&m).unwrap();
    let o = &opaque(&g)[0];
    assert_eq!((o.captured.as_slice(), o.version), (&["x", "p", "w"].map(str::to_owned)[..], 20));
    let text = body(&g);
    assert!(text.contains("opaque %p, %F_0/x, %p, %w {op=\"If\""), "{text}");
    // A graph that the caller gives would read the caller's values.
    let mut given = m.clone();
    let f = &mut given.functions[0];
    let attribute = f.node[1].attribute.remove(0);
    f.attribute.push("branch".into());
    f.node[1].attribute.push(AttributeProto {
        name: "then_branch".into(),
        ref_attr_name: "branch".into(),
        r#type: attribute_type::GRAPH,
        ..AttributeProto::default()
    });
    let caller = &mut given.graph.as_mut().unwrap().node[0];
    caller.attribute.push(AttributeProto { name: "branch".into(), ..attribute });
    assert!(refusal(&given).contains("is given a graph by the caller of its function"));
}

#[test]
fn what_cannot_be_carried_is_refused_with_a_way_out() {
    let says = |m: &ModelProto, parts: &[&str]| {
        let why = refusal(m);
        assert!(why.contains("node first") && parts.iter().all(|p| why.contains(p)), "{why}");
    };
    let within = |n: NodeProto| changed(branch(), |g| g.node[0].attribute = vec![inner(n, "t")]);
    let mut calls = within(node("com.example::G", &["x"], &["t"], vec![]));
    calls.functions.push(FunctionProto {
        name: "G".into(),
        domain: "com.example".into(),
        ..FunctionProto::default()
    });
    says(&calls, &["a graph of it calls function G of the model", "inline"]);
    let outside = TensorProto { name: "far".into(), data_location: 1, ..TensorProto::default() };
    let constant = AttributeProto {
        name: "value".into(),
        t: Some(outside),
        r#type: attribute_type::TENSOR,
        ..AttributeProto::default()
    };
    let far = within(node("Constant", &[], &["t"], vec![constant]));
    says(&far, &["a graph of it has tensor far, whose elements are in another file"]);
    let refers = AttributeProto { ref_attr_name: "f".into(), ..int("axis", 0) };
    says(
        &within(node("Softmax", &["x"], &["t"], vec![refers])),
        &["attribute axis that is one of a function"],
    );
    says(
        &within(node("RandomNormal", &[], &["t"], vec![])),
        &["draws numbers at random, other ones on every rank"],
    );
    let random = |attributes| {
        changed(declared(), |g| {
            g.node[0] = NodeProto { name: "first".into(), ..node("RandomUniform", &[], &["h"], attributes) };
        })
    };
    says(&random(vec![]), &["it draws numbers at random", "give the node a seed"]);
    assert_eq!(opaque(&import(&random(vec![float("seed", 1.0)])).unwrap()).len(), 1);
    let sequence = changed(declared(), |g| {
        g.node.insert(0, node("SequenceConstruct", &["x", "x"], &["s"], vec![]));
        g.node[1].input[0] = "s".into();
    });
    says(&sequence, &["its operand s is a sequence"]);
}

#[test]
fn graphs_nest_no_deeper_than_functions() {
    let nested = |depth: usize| {
        let mut a = inner(node("Neg", &["x"], &["t"], vec![]), "t");
        for _ in 0..depth {
            a = inner(node("If", &["p"], &["t"], vec![a]), "t");
        }
        changed(branch(), |g| g.node[0].attribute = vec![a])
    };
    assert_eq!(opaque(&import(&nested(32)).unwrap())[0].captured, ["p", "x"]);
    let why = import(&nested(33)).unwrap_err().to_string();
    assert_eq!(why, "node first (If): attribute then_branch holds graphs that nest more than 32 deep");
}

/// Names of a model never reach a terminal or a text as they are.
#[test]
fn hostile_names_are_escaped() {
    let m = changed(declared(), |g| {
        g.node[0].op_type = "F\u{1b}[31m\n\u{202e}".into();
        g.node[0].name = "n\u{7}\"".into();
    });
    let g = import(&m).unwrap();
    let text = print(&g, Form::Full);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'));
    assert_eq!(parse(&text).unwrap(), g);
    let mut missing = m;
    missing.graph.as_mut().unwrap().value_info.clear();
    let why = refusal(&missing);
    assert!(why.chars().all(|c| !c.is_control()), "{why:?}");
}
