//! Functions of a model and graphs inside nodes are written out.

use super::build::*;
use annulus::eval::{Precision, eval};
use annulus::import::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto, attribute_type,
};
use annulus::import::{ImportError, ImportOptions, graph};
use annulus::ir::{DType, Graph, Tensor};
use prost::Message;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&n| n.to_owned()).collect()
}

fn function(
    name: &str,
    input: &[&str],
    output: &[&str],
    node: Vec<annulus::import::proto::NodeProto>,
) -> FunctionProto {
    FunctionProto {
        name: name.to_owned(),
        domain: "own".to_owned(),
        input: names(input),
        output: names(output),
        node,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 20 }],
        ..FunctionProto::default()
    }
}

/// A model of x: f32[2] and y: f32[2].
fn calls(nodes: Vec<annulus::import::proto::NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
    let g = GraphProto {
        name: "g".into(),
        node: nodes,
        input: vec![value("x", DType::F32, &[Dim::N(2)])],
        output: vec![ValueInfoProto { name: "y".into(), r#type: None }],
        ..GraphProto::default()
    };
    let mut m = model(20, g);
    m.opset_import.push(OperatorSetIdProto { domain: "own".into(), version: 1 });
    m.functions = functions;
    m
}

fn import(m: &ModelProto) -> Result<Graph, ImportError> {
    graph(m, &ImportOptions::default())
}

fn result(m: &ModelProto) -> Vec<f64> {
    let g = import(m).unwrap_or_else(|e| panic!("{e}"));
    eval(&g, &[floats(&[2], &[3.0, 5.0])], Precision::Declared).unwrap()[0].to_f64()
}

fn refusal(m: &ModelProto) -> String {
    import(m).expect_err("should be refused").to_string()
}

fn referring(name: &str, to: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: name.into(), ref_attr_name: to.into(), r#type: kind, ..AttributeProto::default() }
}

#[test]
fn calls_keep_their_values_and_names_apart() {
    // twice(a) = a + a, under names that the model uses as well; inner values get names of their own.
    let twice = function(
        "Twice",
        &["x"],
        &["y"],
        vec![node("Neg", &["x"], &["t"], vec![]), node("Sub", &["x", "t"], &["y"], vec![])],
    );
    let four = function(
        "Four",
        &["a"],
        &["b"],
        vec![node("own::Twice", &["a"], &["t"], vec![]), node("own::Twice", &["t"], &["b"], vec![])],
    );
    let m = calls(
        vec![node("own::Four", &["x"], &["t"], vec![]), node("own::Twice", &["t"], &["y"], vec![])],
        vec![four, twice],
    );
    assert_eq!(result(&m), [24.0, 40.0]);
    let g = import(&m).unwrap();
    let sources: Vec<&str> = g.ops().into_iter().map(|id| g.source(id)).filter(|s| !s.is_empty()).collect();
    assert_eq!(
        sources,
        [
            "Four_0/Twice_0/Neg_0",
            "Four_0/Twice_0/Sub_1",
            "Four_0/Twice_1/Neg_0",
            "Four_0/Twice_1/Sub_1",
            "Twice_1/Neg_0",
            "Twice_1/Sub_1"
        ]
    );
}

#[test]
fn attributes_come_from_the_call_or_from_their_default() {
    let mut leaky = function(
        "Leaky",
        &["x"],
        &["y"],
        vec![node("LeakyRelu", &["x"], &["y"], vec![referring("alpha", "slope", attribute_type::FLOAT)])],
    );
    let run = |f: &FunctionProto, given: Vec<AttributeProto>| {
        let m = calls(
            vec![node("Neg", &["x"], &["n"], vec![]), node("own::Leaky", &["n"], &["y"], given)],
            vec![f.clone()],
        );
        import(&m).map(|_| result(&m))
    };
    assert!(run(&leaky, vec![float("slope", 0.5)]).unwrap_err().to_string().contains("no attribute slope"));
    leaky.attribute = names(&["slope"]);
    assert_eq!(run(&leaky, vec![float("slope", 0.5)]).unwrap(), [-1.5, -2.5]);
    // Left out without a default: the operator's own.
    assert_eq!(run(&leaky, vec![]).unwrap(), [3.0f32, 5.0].map(|x| f64::from(-x * 0.01)));
    leaky.attribute = vec![];
    leaky.attribute_proto = vec![float("slope", 0.25)];
    assert_eq!(run(&leaky, vec![]).unwrap(), [-0.75, -1.25]);
    assert_eq!(run(&leaky, vec![float("slope", 2.0)]).unwrap(), [-6.0, -10.0]);
    let wrong = run(&leaky, vec![int("slope", 2)]).unwrap_err().to_string();
    assert!(wrong.contains("Leaky_1/LeakyRelu_0") && wrong.contains("attribute alpha has type 2"), "{wrong}");
}

#[test]
fn operands_may_be_left_out_and_inputs_handed_on() {
    // Both results are inputs of the function; the second call leaves one out that Clip may lack.
    let swap = function("Swap", &["a", "b"], &["b", "a"], vec![]);
    let clip = function("Low", &["a", "low"], &["c"], vec![node("Clip", &["a", "low"], &["c"], vec![])]);
    let m = calls(
        vec![
            node("Neg", &["x"], &["n"], vec![]),
            node("own::Swap", &["x", "n"], &["p", "q"], vec![]),
            node("own::Low", &["p"], &["y"], vec![]),
        ],
        vec![swap, clip],
    );
    assert_eq!(result(&m), [-3.0, -5.0]);
}

#[test]
fn what_cannot_be_written_out_is_refused() {
    let call = || vec![node("own::F", &["x"], &["y"], vec![])];
    let f = |nodes| vec![function("F", &["a"], &["b"], nodes)];
    let refused = |functions: Vec<FunctionProto>, why: &str| {
        let got = refusal(&calls(call(), functions));
        assert!(got.contains(why), "{got}\n{why}");
    };
    refused(f(vec![node("own::F", &["a"], &["b"], vec![])]), "nested more than 32 deep");
    refused(f(vec![node("Neg", &["x"], &["b"], vec![])]), "reads \"x\", which nothing makes");
    refused(f(vec![]), "makes no \"b\"");
    refused(f(vec![node("Neg", &["b"], &["b"], vec![])]), "cycle");
    refused(f(vec![node("Neg", &["a"], &["a"], vec![])]), "two values are named \"a\"");
    refused(f(vec![node("annulus.part::FlexScores", &["a", "a"], &["b"], vec![])]), "which is no model's");
    refused([f(vec![]), f(vec![])].concat(), "two functions");
    let top = calls(vec![node("annulus.part::FlexScores", &["x", "x"], &["y"], vec![])], vec![]);
    assert!(refusal(&top).contains("which is no model's"));
    let more = calls(vec![node("own::F", &["x", "x"], &["y"], vec![])], f(vec![]));
    assert!(refusal(&more).contains("2 operands and 1 results; it has 1 and 1"));
    // Each function calls the one before it four times: 4^30 nodes out of a small file.
    let level = |i: usize| {
        let inner = format!("own::F{}", i - 1);
        let nodes = (0..4).map(|j| node(&inner, &["a"], &[&format!("t{j}")], vec![])).collect();
        FunctionProto { name: format!("F{i}"), ..function("", &["a"], &["t3"], nodes) }
    };
    let mut levels: Vec<FunctionProto> = (1..=30).map(level).collect();
    levels.push(FunctionProto {
        name: "F0".into(),
        ..function("", &["a"], &["b"], vec![node("Neg", &["a"], &["b"], vec![])])
    });
    let m = calls(vec![node("own::F30", &["x"], &["y"], vec![])], levels);
    assert!(refusal(&m).contains("more of the model than it may become"));
}

/// FlexAttention of q, k, v with one graph inside.
fn flex(name: &str, inner: GraphProto, q: &Tensor, k: &Tensor) -> ModelProto {
    let mut single = Single::new("ai.onnx.preview::FlexAttention", &[q.clone(), k.clone(), k.clone()], &[]);
    single.attributes.push(AttributeProto {
        name: name.into(),
        r#type: attribute_type::GRAPH,
        g: Some(inner.encode_to_vec()),
        ..AttributeProto::default()
    });
    let mut m = single.opset(26).model();
    m.opset_import.push(OperatorSetIdProto { domain: "ai.onnx.preview".into(), version: 1 });
    m
}

fn inside(nodes: Vec<annulus::import::proto::NodeProto>, constants: &[(&str, Tensor)]) -> GraphProto {
    GraphProto {
        name: "inside".into(),
        node: nodes,
        initializer: constants.iter().map(|(n, t)| tensor(n, t)).collect(),
        input: vec![ValueInfoProto { name: "s".into(), r#type: None }],
        output: vec![ValueInfoProto { name: "r".into(), r#type: None }],
        ..GraphProto::default()
    }
}

#[test]
fn graphs_change_scores_and_probabilities() {
    let q = floats(&[1, 4, 1, 1], &[1.0, 2.0, 3.0, 4.0]);
    let k = floats(&[1, 2, 2, 1], &[1.0, 2.0, 10.0, 20.0]);
    let run = |m: &ModelProto| {
        let g = import(m).unwrap_or_else(|e| panic!("{e}"));
        eval(&g, &[q.clone(), k.clone(), k.clone()], Precision::Declared).unwrap()[0].to_f64()
    };
    // Scores times 0: every key alike; heads 0 and 1 share the first key head.
    let zero = inside(vec![node("Mul", &["s", "c"], &["r"], vec![])], &[("c", floats(&[], &[0.0]))]);
    assert_eq!(run(&flex("score_mod", zero, &q, &k)), [1.5, 1.5, 15.0, 15.0]);
    // Probabilities replaced by 2: twice the sum. The constant has the name of a value of the model.
    let two = inside(
        vec![node("Mul", &["s", "zero"], &["t"], vec![]), node("Add", &["t", "x0"], &["r"], vec![])],
        &[("x0", floats(&[], &[2.0])), ("zero", floats(&[], &[0.0]))],
    );
    assert_eq!(run(&flex("prob_mod", two, &q, &k)), [6.0, 6.0, 60.0, 60.0]);
    // It may use values of the model, and be nothing.
    let own = inside(vec![node("Mul", &["s", "x0"], &["r"], vec![])], &[]);
    let got = run(&flex("prob_mod", own, &q, &k));
    assert!((got[3] - 80.0).abs() < 1e-4, "{got:?}");
    let mut nothing = inside(vec![], &[]);
    nothing.output[0].name = "s".into();
    assert!(import(&flex("score_mod", nothing, &q, &k)).is_ok());
}

#[test]
fn graphs_that_do_not_fit_are_refused() {
    let x = count(&[1, 1, 2, 2]);
    let refused = |name: &str, g: GraphProto, why: &str| {
        let got = refusal(&flex(name, g, &x, &x));
        assert!(got.contains(why), "{got}\n{why}");
    };
    let sum = inside(vec![node("ReduceSum", &["s"], &["r"], vec![])], &[]);
    refused("score_mod", sum.clone(), "makes f32[1,1,1,1] of f32[1,1,2,2]");
    refused("prob_mod", sum, "makes f32[1,1,1,1] of f32[1,1,2,2]");
    refused("score_mod", inside(vec![], &[]), "makes no \"r\"");
    refused("score_mod", GraphProto::default(), "not one input and one output");
    let twice = node("Neg", &["s"], &["r"], vec![]);
    refused("score_mod", inside(vec![twice.clone(), twice], &[]), "two values are named \"r\"");
    refused(
        "score_mod",
        inside(vec![node("Neg", &["s"], &["s"], vec![])], &[]),
        "two values are named \"s\"",
    );
    refused("other_mod", inside(vec![], &[]), "attribute other_mod is unknown");
    let mut broken = flex("score_mod", inside(vec![], &[]), &x, &x);
    if let Some(g) = &mut broken.graph {
        g.node[0].attribute[0].g = Some(vec![0xff]);
    }
    assert!(refusal(&broken).contains("score_mod is no graph"));
}
