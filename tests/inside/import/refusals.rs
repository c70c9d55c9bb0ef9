//! Every refusal of the importer, one beside the other: each says what, where, of which types, and what can be done about it.

use super::build::*;
use super::opaque::{branch, changed, declared, foo, inner};
use super::proto::{AttributeProto, FunctionProto, ModelProto, TensorProto, ValueInfoProto, attribute_type};
use crate::inside::support::cases::snapshot;
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{DType, Tensor, WayOut};
use prost::Message;
use std::collections::BTreeSet;
use std::path::Path;

/// The refusal of a model, as a user reads it.
fn refusal(m: &ModelProto, options: &ImportOptions) -> String {
    let e = onnx(&m.encode_to_vec(), options).expect_err("should be refused");
    assert!(e.is_refusal(), "is an error, not a refusal: {e}");
    e.to_string()
}

fn some(values: &[i64]) -> Option<Tensor> {
    Some(ints(values))
}

/// Forms of operators that are known, and not lowered.
fn forms() -> Vec<Single> {
    let x = || count(&[2, 3]);
    let heads = || count(&[1, 3, 8]);
    let mha = |rest: &[Option<Tensor>]| {
        Single::new("com.microsoft::MultiHeadAttention", &[heads(), heads(), heads()], rest)
            .with(int("num_heads", 2))
    };
    let contrib = |mask: Option<Tensor>| {
        let weights = [count(&[8, 24]), count(&[24])].map(Some);
        Single::new("com.microsoft::Attention", &[heads()], &[&weights[..], &[mask]].concat())
            .with(int("num_heads", 2))
    };
    let apart = count(&[1, 2, 3, 4]);
    let mut split_keys = mha(&[Some(count(&[24]))]);
    split_keys.inputs[1..].fill(apart);
    let q = count(&[1, 1, 3, 4]);
    let mut training = Single::new("Dropout", &[x()], &[Some(Tensor::scalar(DType::F32, 0.5)), None]);
    training.constants[1] = Some(Tensor::scalar(DType::Bool, 1.0));
    let strings = AttributeProto {
        name: "value_strings".into(),
        strings: vec![b"x".to_vec()],
        r#type: attribute_type::STRINGS,
        ..AttributeProto::default()
    };
    vec![
        Single::new("Elu", &[x()], &[]),
        Single::new("com.microsoft::GroupQueryAttention", &[heads()], &[]),
        Single::new("Softmax", &[x()], &[]).with(int("axes", 1)),
        Single::new("MaxPool", &[count(&[1, 1, 4])], &[]).with(int_list("kernel_shape", &[2])).outputs(2),
        Single::new("Cast", &[x()], &[]).with(int("to", 8)),
        Single::new("ReduceMean", &[ints(&[1, 2])], &[]),
        Single::new("Reshape", &[x(), ints(&[3, 2])], &[]),
        Single::new("Range", &[0.0, 3.0, 1.0].map(|x| Tensor::scalar(DType::I64, x)), &[]),
        Single::new("SplitToSequence", &[count(&[5000])], &[]),
        Single::new("Pad", &[count(&[3])], &[some(&[4, 0])]).with(string("mode", "reflect")),
        Single::new("Unsqueeze", &[count(&[1])], &[some(&(0..40).collect::<Vec<_>>())]),
        Single::new("Conv", &[count(&[1, 1, 4]), count(&[1, 1, 2])], &[]).with(string("auto_pad", "SAME")),
        Single::new("Constant", &[], &[]).with(strings),
        training,
        Single::new("Attention", &[q.clone(), q.clone(), q], &[Some(floats(&[3, 1], &[0.0; 3]))]),
        contrib(None).with(int("do_rotary", 1)),
        contrib(Some(Tensor::from_f64(DType::I32, [5], &[1.0; 5]).unwrap())),
        split_keys,
        mha(&[None, Some(Tensor::from_f64(DType::I32, [1, 3], &[1.0; 3]).unwrap())]).outputs(4),
        Single::new(
            "com.microsoft::RotaryEmbedding",
            &[heads(), ints(&[0]), count(&[3, 4]), count(&[3, 4])],
            &[],
        )
        .with(float("scale", 2.0)),
        Single::new("com.microsoft::FusedMatMul", &[x(), x()], &[]).with(int("transBatchA", 1)),
        Single::new("com.microsoft::FusedGemm", &[x(), count(&[3, 2]), count(&[2])], &[])
            .with(string("activation", "Swish")),
        Single::new(
            "Gemm",
            &[ints(&[1, 2]).reshaped(vec![1, 2]).unwrap(), ints(&[1, 2]).reshaped(vec![2, 1]).unwrap()],
            &[],
        )
        .with(float("alpha", 2.0)),
    ]
}

/// Models that are refused for what they hold, or cannot be carried.
fn models() -> Vec<ModelProto> {
    let typed = |elem_type: i32| {
        let mut v = value("x", DType::F32, &[Dim::N(4), Dim::N(3)]);
        v.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = elem_type;
        v
    };
    let far = TensorProto { name: "far".into(), data_type: 1, data_location: 1, ..TensorProto::default() };
    let constant = AttributeProto {
        name: "value".into(),
        t: Some(far.clone()),
        r#type: attribute_type::TENSOR,
        ..AttributeProto::default()
    };
    let within = |n| changed(branch(), |g| g.node[0].attribute = vec![inner(n, "t")]);
    let mut calls = within(node("com.example::G", &["x"], &["t"], vec![]));
    calls.functions.push(FunctionProto {
        name: "G".into(),
        domain: "com.example".into(),
        ..FunctionProto::default()
    });
    let first = |n| changed(declared(), |g| g.node[0] = n);
    let mut old = declared();
    old.opset_import[0].version = 11;
    let bytes = TensorProto {
        name: "w".into(),
        dims: vec![1],
        data_type: 3,
        raw_data: Some(vec![7]),
        ..TensorProto::default()
    };
    vec![
        old,
        changed(declared(), |g| g.sparse_initializer.push(vec![])),
        changed(declared(), |g| g.input[0] = typed(2)),
        changed(declared(), |g| g.initializer[0] = bytes),
        changed(declared(), |g| g.initializer[0] = TensorProto { name: "w".into(), ..far }),
        foo(None),
        foo(Some(ValueInfoProto { name: "h".into(), ..typed(2) })),
        foo(Some(value("h", DType::F32, &[Dim::Named("n"), Dim::N(3)]))),
        foo(Some(value("h", DType::F32, &[Dim::N(1 << 30), Dim::N(1 << 30)]))),
        calls,
        within(node("Constant", &[], &["t"], vec![constant])),
        within(node("RandomNormal", &[], &["t"], vec![])),
        first(node("RandomNormal", &[], &["h"], vec![])),
        first(node("com.example::Foo", &["x"], &["h"], vec![int("a", 1), int("a", 2)])),
        changed(declared(), |g| {
            g.node.insert(0, node("SequenceConstruct", &["x", "x"], &["s"], vec![]));
            g.node[1].input[0] = "s".into();
        }),
    ]
}

#[test]
fn each_names_operator_node_types_and_the_way_out() {
    let mut all = String::new();
    for s in forms() {
        // As they are where nothing is carried; what is would say besides why it cannot be.
        let why = refusal(&s.model(), &ImportOptions::default().opaque(false));
        assert!(
            why.starts_with("node ")
                && why.contains("is not supported: ")
                && why.contains("; its operands are ("),
            "{why}"
        );
        all += &format!("{why}\n");
        let carried = refusal(&s.model(), &ImportOptions::default());
        assert!(carried.contains(", and it cannot be carried as it is: "), "{carried}");
    }
    for m in models() {
        all += &format!("{}\n", refusal(&m, &ImportOptions::default()));
    }
    for line in all.lines() {
        assert!(WayOut::ALL.iter().any(|w| line.ends_with(w.text())), "there is no way out: {line}");
    }
    snapshot("import", "refusals", &all);
    // Every way out that the importer names is shown, but where a file has to be missing.
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import");
    let mut open = vec![src];
    let mut named = BTreeSet::new();
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let words = text.split("WayOut::").skip(1);
            named.extend(words.map(|w| w.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()));
        }
    }
    for way in WayOut::ALL.iter().filter(|w| named.contains(&format!("{w:?}")) && **w != WayOut::NameFolder) {
        assert!(all.contains(way.text()), "{way:?} is not shown");
    }
}
