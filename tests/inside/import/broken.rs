//! Files that are broken, contradict themselves, or are awkward: an error or a graph, never a panic.

use super::build::*;
use annulus::eval::{Precision, eval};
use annulus::import::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, data_type};
use annulus::import::{ImportError, ImportOptions, graph, onnx, tensor as read_tensor};
use annulus::ir::{DType, Graph};
use proptest::prelude::*;
use prost::Message;

/// y = Softmax(x · w) reshaped, with a Shape, a Slice and a Constant on the way.
fn small() -> ModelProto {
    let mut g = GraphProto { name: "small".to_owned(), ..GraphProto::default() };
    g.input.push(value("x", DType::F32, &[Dim::Named("s"), Dim::N(4)]));
    g.initializer.push(tensor("w", &count(&[4, 4])));
    g.initializer.push(tensor("two", &ints(&[2])));
    g.node = vec![
        node("MatMul", &["x", "w"], &["xw"], vec![]),
        node("Softmax", &["xw"], &["p"], vec![int("axis", -1)]),
        node("Shape", &["p"], &["dims"], vec![int("end", 1)]),
        node("Constant", &[], &["minus"], vec![int_list("value_ints", &[-1])]),
        node("Concat", &["dims", "two", "minus"], &["shape"], vec![int("axis", 0)]),
        node("Reshape", &["p", "shape"], &["r"], vec![]),
        node("Split", &["r", "halves"], &["a", "b"], vec![int("axis", 1)]),
        node("Attention", &["q", "q", "q"], &["y"], vec![int("q_num_heads", 1), int("kv_num_heads", 1)]),
        node("Add", &["a", "b"], &["q"], vec![]),
    ];
    g.initializer.push(tensor("halves", &ints(&[1, 1])));
    g.output.push(value("y", DType::F32, &[Dim::Named("s"), Dim::N(1), Dim::N(2)]));
    model(23, g)
}

fn with_s(s: usize) -> ImportOptions {
    ImportOptions::default().dims([("s".to_owned(), s)])
}

fn import(m: &ModelProto) -> Result<Graph, ImportError> {
    onnx(&m.encode_to_vec(), &with_s(3))
}

/// The message that importing gives after a change.
fn broken(change: impl FnOnce(&mut GraphProto)) -> String {
    let mut m = small();
    change(m.graph.as_mut().unwrap());
    import(&m).expect_err("should be refused").to_string()
}

#[test]
fn a_size_of_no_dimension_is_refused_with_the_names_that_there_are() {
    let mut options = with_s(3);
    options.dims.insert("sequence".to_owned(), 4);
    let why = onnx(&small().encode_to_vec(), &options).unwrap_err().to_string();
    assert_eq!(why, "--dim sequence: no input has a dimension of that name; there is s");
    let mut m = small();
    m.graph.as_mut().unwrap().input[0] = value("x", DType::F32, &[Dim::N(3), Dim::N(4)]);
    let why = onnx(&m.encode_to_vec(), &with_s(3)).unwrap_err().to_string();
    assert_eq!(
        why,
        "--dim s: no input has a dimension of that name; every dimension of the inputs has a fixed size"
    );
    // One without a name goes by that of its input.
    m.graph.as_mut().unwrap().input[0] = value("x", DType::F32, &[Dim::Named(""), Dim::N(4)]);
    let why = onnx(&m.encode_to_vec(), &with_s(3)).unwrap_err().to_string();
    assert!(why.ends_with("there is x.0"), "{why}");
    let options = ImportOptions::default().dims([("x.0".to_owned(), 3)]);
    assert!(onnx(&m.encode_to_vec(), &options).is_ok());
}

#[test]
fn nodes_in_any_order_are_sorted() {
    // The Add of small() stands behind the Attention that reads it.
    let g = import(&small()).unwrap();
    let y = eval(&g, &[count(&[3, 4])], Precision::Declared).unwrap();
    assert_eq!(y[0].shape(), [3, 1, 2]);
    let mut reversed = small();
    reversed.graph.as_mut().unwrap().node.reverse();
    let r = import(&reversed).unwrap();
    assert_eq!(eval(&r, &[count(&[3, 4])], Precision::Declared).unwrap(), y);
}

/// Two nodes may have one name, as far as other readers care: the first keeps it, and no name of the file goes to another node.
#[test]
fn nodes_of_one_name_are_numbered() {
    let sources = |names: [&str; 9]| {
        let mut m = small();
        for (n, name) in m.graph.as_mut().unwrap().node.iter_mut().zip(names) {
            n.name = name.to_owned();
        }
        let g = import(&m).unwrap();
        let of = |name: &str| {
            let op = g.ops().into_iter().find(|&op| g.value(g.result(op)).name == name).unwrap();
            g.source(op).to_owned()
        };
        ["xw", "p", "r", "a", "q"].map(of)
    };
    let twice = sources(["n", "n", "", "", "", "n", "n_1", "", "n"]);
    assert_eq!(twice, ["n", "n_2", "n_3", "n_1", "n_4"]);
    // A number that a name has already is passed over, for nodes without a name too.
    let taken = sources(["Softmax_1", "", "", "", "", "Split_6", "", "", "Softmax_1"]);
    assert_eq!(taken, ["Softmax_1", "Softmax_2", "Split_6", "Split_7", "Softmax_1_1"]);
}

#[test]
fn contradictions_are_named() {
    let says = |message: String, part: &str| assert!(message.contains(part), "{message}");
    says(broken(|g| g.node[8].output[0] = "xw".into()), "two values are named \"xw\"");
    says(broken(|g| g.node[8].output[0] = "w".into()), "two values are named \"w\"");
    says(broken(|g| g.node[1].input[0] = "nowhere".into()), "node Softmax_1 reads \"nowhere\"");
    says(broken(|g| g.node[0].input[0] = "y".into()), "part of a cycle");
    says(broken(|g| g.node[1].input[0] = "p".into()), "node Softmax_1 is part of a cycle");
    says(broken(|g| g.output[0].name = "z".into()), "output z is made by no node");
    says(broken(|g| g.output.push(g.output[0].clone())), "two outputs are named \"y\"");
    says(
        broken(|g| g.initializer[0].dims = vec![4, 5]),
        "initializer w: 16 elements, and shape [4, 5] wants 20",
    );
    says(broken(|g| g.initializer[0].dims = vec![-4, -4]), "is no shape");
    says(broken(|g| g.initializer[0].dims = vec![i64::MAX, i64::MAX, 4]), "is no shape");
    says(broken(|g| g.initializer[0].dims = vec![1 << 40, 1 << 40, 0]), "is no shape");
    says(broken(|g| g.initializer[0].data_type = 2), "elements of type uint8");
    says(broken(|g| g.initializer[0].data_type = 99), "elements of type type 99");
    says(broken(|g| g.initializer[0].raw_data = Some(vec![0; 63])), "63 bytes are no f32 elements");
    says(broken(|g| g.initializer[0].int64_data = vec![1]), "f32 elements in int64_data");
    says(broken(|g| g.initializer[0].float_data = vec![1.0]), "in raw_data and in a typed field");
    says(broken(|g| g.initializer[0].data_location = 1), "in another file");
    says(broken(|g| g.input[0] = value("x", DType::F32, &[Dim::N(-3), Dim::N(4)])), "extent -3");
    says(broken(|g| g.input[0] = value("x", DType::F32, &[Dim::N(1 << 57), Dim::N(4)])), "too large");
    says(broken(|g| g.input[0].r#type = None), "no dense tensor");
    says(
        broken(|g| g.output[0] = value("y", DType::I64, &[])),
        "output y is declared as int64 and made as f32",
    );
    says(broken(|g| g.sparse_initializer.push(vec![])), "sparse");
    let mut headless = small();
    headless.graph = None;
    says(import(&headless).unwrap_err().to_string(), "no graph");
    says(onnx(&[], &with_s(3)).unwrap_err().to_string(), "empty");
    says(read_tensor(&[]).unwrap_err().to_string(), "empty");
}

#[test]
fn symbolic_dimensions_are_bound_or_named() {
    let m = small();
    let none = graph(&m, &ImportOptions::default()).unwrap_err();
    assert_eq!(none, ImportError::Symbolic { input: "x".into(), dim: "s".into(), others: vec![] });
    let stored = |shape: Vec<usize>| ImportOptions::default().input_shapes([("x".to_owned(), shape)]);
    let g = graph(&m, &stored(vec![5, 4])).unwrap();
    assert_eq!(g.ty(g.inputs()[0]).shape, [5, 4]);
    assert!(graph(&m, &stored(vec![5])).unwrap_err().to_string().contains("declared with 2 axes"));
    assert!(graph(&m, &stored(vec![5, 3])).unwrap_err().to_string().contains("axis 1 of input x is 4"));
    let both = with_s(3).input_shapes(stored(vec![5, 4]).input_shapes);
    assert!(graph(&m, &both).unwrap_err().to_string().contains("axis 0 of input x is 3, and 5"));
    // All that are open are named at once.
    let mut open = small();
    let extents = ["t", "s", "u"].map(Dim::Named);
    open.graph.as_mut().unwrap().input.push(value("z", DType::F32, &extents));
    let why = graph(&open, &ImportOptions::default()).unwrap_err().to_string();
    let first = "dimension s of input x is symbolic: give its size with --dim s=N";
    assert_eq!(why, format!("{first}; sizes are wanted besides: t, u"));
    // One name in two inputs.
    let mut two = small();
    let g = two.graph.as_mut().unwrap();
    g.input.push(value("z", DType::F32, &[Dim::Named("s")]));
    let mut options = stored(vec![5, 4]);
    assert_eq!(graph(&two, &options).unwrap().inputs().len(), 2);
    options.input_shapes.insert("z".into(), vec![6]);
    assert!(graph(&two, &options).unwrap_err().to_string().contains("dimension s is 5 in input x and 6"));
}

#[test]
fn an_input_with_an_initializer_is_a_constant() {
    let mut m = small();
    m.graph.as_mut().unwrap().input.push(value("w", DType::F32, &[Dim::N(4), Dim::N(4)]));
    let g = import(&m).unwrap();
    assert_eq!(g.inputs().len(), 1);
}

#[test]
fn typed_fields_are_read() {
    let read = |t: TensorProto| read_tensor(&t.encode_to_vec()).map(|(_, t)| t.to_f64());
    let with = |data_type, n: i64| TensorProto { dims: vec![n], data_type, ..TensorProto::default() };
    let f = TensorProto { float_data: vec![1.5, -2.0], ..with(data_type::FLOAT, 2) };
    assert_eq!(read(f).unwrap(), [1.5, -2.0]);
    let d = TensorProto { double_data: vec![0.1], ..with(data_type::DOUBLE, 1) };
    assert_eq!(read(d).unwrap(), [0.1]);
    let l = TensorProto { int64_data: vec![-1, i64::from(i32::MAX) + 1], ..with(data_type::INT64, 2) };
    assert_eq!(read(l).unwrap(), [-1.0, 2147483648.0]);
    let i = TensorProto { int32_data: vec![-7], ..with(data_type::INT32, 1) };
    assert_eq!(read(i).unwrap(), [-7.0]);
    let b = TensorProto { int32_data: vec![1, 0], ..with(data_type::BOOL, 2) };
    assert_eq!(read(b).unwrap(), [1.0, 0.0]);
    // Halves are their bits.
    let h = TensorProto { int32_data: vec![0x3c00, 0xc000], ..with(data_type::FLOAT16, 2) };
    assert_eq!(read(h).unwrap(), [1.0, -2.0]);
    let h = TensorProto { int32_data: vec![0x3f80, 0xc000], ..with(data_type::BFLOAT16, 2) };
    assert_eq!(read(h).unwrap(), [1.0, -2.0]);
    let wide = TensorProto { int32_data: vec![0x10000], ..with(data_type::FLOAT16, 1) };
    assert!(read(wide).unwrap_err().to_string().contains("not 16 bits"));
    let empty = TensorProto { raw_data: Some(vec![]), ..with(data_type::FLOAT, 0) };
    assert_eq!(read(empty).unwrap(), [0.0; 0]);
}

#[test]
fn a_chain_of_twenty_thousand_nodes_is_no_recursion() {
    let mut g = GraphProto { name: "chain".to_owned(), ..GraphProto::default() };
    g.input.push(value("v0", DType::F32, &[]));
    g.node = (0..20_000)
        .map(|i| node("Neg", &[&format!("v{i}")], &[&format!("v{}", i + 1)], vec![]))
        .collect::<Vec<NodeProto>>();
    g.output.push(value("v20000", DType::F32, &[]));
    let bytes = model(23, g).encode_to_vec();
    assert_eq!(onnx(&bytes, &ImportOptions::default()).unwrap().len(), 20_001);
}

#[test]
fn a_small_file_makes_no_large_graph() {
    let mut g = GraphProto { name: "wide".to_owned(), ..GraphProto::default() };
    g.input.push(value("x", DType::F32, &[Dim::N(4096)]));
    let join = |g: &mut GraphProto, i: usize, s: usize| {
        g.node.push(node(
            "ConcatFromSequence",
            &[&format!("s{s}")],
            &[&format!("y{i}")],
            vec![int("axis", 0)],
        ));
        g.output.push(ValueInfoProto { name: format!("y{i}"), r#type: None });
    };
    g.node = (0..100).map(|i| node("SplitToSequence", &["x"], &[&format!("s{i}")], vec![])).collect();
    (0..100).for_each(|i| join(&mut g, i, i));
    let refused = |g: &GraphProto| {
        let bytes = model(23, g.clone()).encode_to_vec();
        onnx(&bytes, &ImportOptions::default()).unwrap_err().to_string()
    };
    assert!(refused(&g).contains("too many operations"));
    // Few operations, but each of thousands of operands that the file names once.
    g.node.truncate(1);
    g.output.clear();
    (0..100).for_each(|i| join(&mut g, i, 0));
    assert!(refused(&g).contains("of too many operands"));
}

#[test]
fn every_truncation_is_an_error_or_a_graph() {
    let bytes = small().encode_to_vec();
    for n in 0..bytes.len() {
        let _ = onnx(&bytes[..n], &with_s(3));
    }
    let t = tensor("t", &count(&[3])).encode_to_vec();
    for n in 0..t.len() {
        assert!(read_tensor(&t[..n]).is_err() || n == t.len(), "{n} bytes of {}", t.len());
    }
}

#[test]
fn every_changed_byte_is_an_error_or_a_graph() {
    let bytes = small().encode_to_vec();
    for at in 0..bytes.len() {
        for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut b = bytes.clone();
            b[at] ^= flip;
            let _ = onnx(&b, &with_s(3));
        }
    }
}

proptest! {
    #[test]
    fn noise_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = onnx(&bytes, &ImportOptions::default());
        let _ = read_tensor(&bytes);
    }
}
