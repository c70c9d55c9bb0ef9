//! The importer: models with fields changed one by one, models of random operators, and bytes changed blindly.

use super::build::{Dim, code, float, floats, int, int_list, ints, model, node, string, tensor, value};
use super::driver::{Rng, Target, fuzz, kind};
use super::pass::through;
use super::text::bytes;
use crate::inside::support::alone::alone;
use crate::inside::support::data;
use annulus::dump::stages::Request;
use annulus::eval::{Precision, eval};
use annulus::import::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, TensorProto, attribute_type,
};
use annulus::import::{ImportError, ImportOptions, onnx};
use annulus::ir::{DType, Form, Graph, Op, Tensor, parse, print};
use prost::Message;
use std::fs;
use std::path::Path;

/// Every operator that the importer lists, and one that it does not know.
const OPERATORS: &str = "Neg Abs Sign Exp Log Sqrt Reciprocal Sin Cos Tanh Sigmoid Erf Floor Ceil Round Not IsNaN IsInf Add \
    Sub Mul Div And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Pow Mod Min Max Sum Mean Clip Where Cast CastLike \
    Identity Dropout Relu LeakyRelu Gelu Swish Softmax LogSoftmax Softplus Constant ConstantOfShape Shape Size Range \
    Reshape Flatten Squeeze Unsqueeze Expand Tile Transpose Concat Slice Split SplitToSequence SequenceConstruct \
    SequenceAt SequenceLength ConcatFromSequence Pad Gather GatherElements GatherND ScatterND ScatterElements CumSum TopK Trilu \
    OneHot Einsum MaxPool NonZero ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceSumSquare ReduceL2 \
    ReduceLogSumExp LayerNormalization RMSNormalization InstanceNormalization AveragePool GlobalAveragePool \
    GlobalMaxPool MatMul Gemm Conv Attention RotaryEmbedding If Loop \
    com.microsoft::Gelu com.microsoft::BiasGelu com.microsoft::FastGelu com.microsoft::QuickGelu \
    com.microsoft::FusedMatMul com.microsoft::SkipLayerNormalization com.microsoft::SkipSimplifiedLayerNormalization \
    com.microsoft::Attention com.microsoft::EmbedLayerNormalization com.microsoft::FusedGemm \
    com.microsoft::MultiHeadAttention com.microsoft::RotaryEmbedding com.microsoft::SimplifiedLayerNormalization \
    ai.onnx.preview::FlexAttention Nonsense";

/// Attributes that one operator or another asks for.
const ATTRIBUTES: &str = "axis axes keepdims perm to value value_int value_ints value_float value_floats alpha beta transA \
    transB transBatchA transBatchB epsilon kernel_shape pads strides dilations group auto_pad is_causal scale q_num_heads \
    kv_num_heads num_heads softcap qk_matmul_output_mode softmax_precision interleaved rotary_embedding_dim largest sorted \
    upper exclusive reverse mode num_outputs new_axis noop_with_empty_axes allowzero start end batch_dims reduction \
    approximate fmod detect_negative detect_positive saturate stash_type left_window_size right_window_size shape \
    batch_axis unidirectional mask_filter_value equation ceil_mode storage_order keepdims split \
    count_include_pad qkv_hidden_sizes activation activation_alpha mask_index_type do_rotary";

const NUMBERS: [i64; 23] = [
    0,
    0,
    1,
    1,
    2,
    2,
    3,
    4,
    7,
    -1,
    -1,
    -2,
    -3,
    63,
    65,
    1 << 31,
    1 << 40,
    1 << 56,
    (1 << 56) + 1,
    i64::MAX,
    i64::MIN,
    i64::MIN + 1,
    4096,
];

const TYPES: [DType; 7] =
    [DType::F32, DType::F32, DType::I64, DType::F16, DType::Bool, DType::F64, DType::I32];

fn words(list: &'static str) -> Vec<&'static str> {
    list.split_whitespace().collect()
}

fn number(rng: &mut Rng) -> i64 {
    *rng.pick(&NUMBERS)
}

/// A small extent, now and then none or one that is too large.
fn extent(rng: &mut Rng) -> i64 {
    if rng.below(40) == 0 { number(rng) } else { *rng.pick(&[1, 1, 2, 2, 3, 4, 4, 6, 0]) }
}

fn attribute(rng: &mut Rng) -> AttributeProto {
    let name = *rng.pick(&words(ATTRIBUTES));
    match rng.below(8) {
        0 => float(name, *rng.pick(&[0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, 1e-5, 1e38])),
        1 | 2 => int_list(name, &(0..rng.below(5)).map(|_| number(rng)).collect::<Vec<_>>()),
        3 => string(
            name,
            rng.pick::<&str>(&[
                "none",
                "SAME_UPPER",
                "tanh",
                "add",
                "bij,bjk->bik",
                "\u{1b}[31m",
                "NOTSET",
                "constant",
                "edge",
                "reflect",
                "wrap",
                "max",
            ]),
        ),
        4 => {
            let t = some_tensor(rng, "");
            AttributeProto {
                name: name.into(),
                t: Some(t),
                r#type: attribute_type::TENSOR,
                ..Default::default()
            }
        }
        _ => int(name, number(rng)),
    }
}

/// A constant: a few integers, as shapes and axes are, or a small tensor.
fn some_tensor(rng: &mut Rng, name: &str) -> TensorProto {
    if rng.below(2) == 0 {
        let values: Vec<i64> = (0..rng.below(5)).map(|_| number(rng)).collect();
        let mut t = tensor(name, &ints(&values));
        if values.len() == 1 && rng.below(2) == 0 {
            t.dims.clear();
        }
        return t;
    }
    let shape: Vec<usize> = (0..rng.below(5)).map(|_| rng.below(5)).collect();
    let values: Vec<f64> = (0..shape.iter().product()).map(|i| i as f64 - 2.0).collect();
    let mut t = tensor(name, &floats(&shape, &values));
    if rng.below(8) == 0 {
        t.data_type = code(*rng.pick(&TYPES));
    }
    t
}

fn dims(shape: &[i64]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::N(n)).collect()
}

/// An attribute with a graph that reads values from around it, and may hold another one.
fn inner(rng: &mut Rng, pool: &[String], depth: usize) -> AttributeProto {
    let mut g = GraphProto::default();
    let mut names = pool.to_vec();
    for i in 0..1 + rng.below(3) {
        let (x, y) = (rng.pick(&names).clone(), format!("in{depth}_{i}"));
        let mut n = node(rng.pick::<&str>(&words(OPERATORS)), &[&x], &[&y], vec![]);
        if depth > 0 && rng.below(3) == 0 {
            n.attribute.push(inner(rng, &names, depth - 1));
        }
        g.node.push(n);
        names.push(y);
    }
    let last = annulus::import::proto::ValueInfoProto { name: rng.pick(&names).clone(), r#type: None };
    g.output.push(last);
    let mut bytes = g.encode_to_vec();
    if rng.below(10) == 0 {
        bytes.truncate(rng.below(bytes.len() + 1));
    }
    AttributeProto {
        name: "body".into(),
        g: Some(bytes),
        r#type: attribute_type::GRAPH,
        ..Default::default()
    }
}

/// A few operators at random, each on what the inputs, constants and operators before it give.
fn fresh(rng: &mut Rng) -> ModelProto {
    let mut g = GraphProto { name: "fresh".to_owned(), ..GraphProto::default() };
    let mut pool: Vec<String> = vec![];
    let rank = rng.below(5);
    let shape: Vec<i64> = (0..rank).map(|_| extent(rng)).collect();
    for i in 0..1 + rng.below(4) {
        let shape =
            if rng.below(3) == 0 { (0..rng.below(5)).map(|_| extent(rng)).collect() } else { shape.clone() };
        pool.push(format!("x{i}"));
        g.input.push(value(&pool[pool.len() - 1], *rng.pick(&TYPES), &dims(&shape)));
    }
    for i in 0..rng.below(5) {
        pool.push(format!("c{i}"));
        let t = some_tensor(rng, &pool[pool.len() - 1]);
        g.initializer.push(t);
    }
    let operators = words(OPERATORS);
    for i in 0..1 + rng.below(4) {
        let inputs: Vec<String> = (0..rng.below(5))
            .map(|_| if rng.below(12) == 0 { String::new() } else { rng.pick(&pool).clone() })
            .collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let outputs: Vec<String> = (0..1 + rng.below(4) / 2).map(|j| format!("y{i}_{j}")).collect();
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let attributes = (0..rng.below(3)).map(|_| attribute(rng)).collect();
        g.node.push(node(rng.pick::<&str>(&operators), &inputs, &names, attributes));
        for o in &outputs {
            if rng.below(2) == 0 {
                continue;
            }
            // What is not known is carried where the file declares its type.
            let declared = value(o, *rng.pick(&TYPES), &dims(&shape));
            g.value_info.push(declared);
        }
        if rng.below(6) == 0 {
            let graph = inner(rng, &pool, 3);
            g.node.last_mut().expect("one was added").attribute.push(graph);
        }
        pool.extend(outputs.iter().cloned());
        g.output.extend(
            outputs
                .iter()
                .take(1)
                .map(|o| annulus::import::proto::ValueInfoProto { name: o.clone(), r#type: None }),
        );
    }
    model(*rng.pick(&[13, 18, 21, 23, 24, 26]), g)
}

/// A field is changed; now and then a new model, or bytes that know no fields.
fn mutate(rng: &mut Rng, input: &[u8], corpus: &[Vec<u8>]) -> Vec<u8> {
    if rng.below(4) == 0 {
        return fresh(rng).encode_to_vec();
    }
    if rng.below(10) == 0 {
        return bytes(rng, input);
    }
    let Ok(mut m) = ModelProto::decode(input) else { return bytes(rng, input) };
    let other =
        ModelProto::decode(rng.pick(corpus).as_slice()).ok().and_then(|m| m.graph).unwrap_or_default();
    let g = m.graph.get_or_insert_default();
    match rng.below(16) {
        0 if !m.opset_import.is_empty() => {
            let i = rng.below(m.opset_import.len());
            m.opset_import[i].version = *rng.pick(&[1, 13, 14, 17, 18, 20, 21, 22, 23, 24, 25, 26, i64::MAX]);
        }
        1 if !g.input.is_empty() => {
            let i = rng.below(g.input.len());
            let Some(t) = g.input[i].r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) else {
                return m.encode_to_vec();
            };
            let dims = &mut t.shape.get_or_insert_default().dim;
            match rng.below(4) {
                0 => t.elem_type = code(*rng.pick(&TYPES)),
                1 => drop(dims.pop()),
                2 => dims.push(DimensionProto { dim_value: Some(extent(rng)), dim_param: None }),
                _ if dims.is_empty() => {}
                _ => {
                    let d = rng.below(dims.len());
                    let n = if rng.below(2) == 0 { number(rng) } else { extent(rng) };
                    dims[d] = DimensionProto { dim_value: Some(n), dim_param: None };
                }
            }
        }
        2..=4 if !g.initializer.is_empty() => {
            let i = rng.below(g.initializer.len());
            constant(rng, &mut g.initializer[i]);
        }
        5 => g.node.extend(other.node.into_iter().skip(rng.below(8)).take(1 + rng.below(8))),
        _ if g.node.is_empty() => {}
        6 => drop(g.node.remove(rng.below(g.node.len()))),
        7 => {
            let (a, b) = (rng.below(g.node.len()), rng.below(g.node.len()));
            g.node.swap(a, b);
        }
        8 => {
            let i = rng.below(g.node.len());
            let from = rng.below(g.node.len());
            let names = [
                g.node[from].output.clone(),
                g.node[from].input.clone(),
                vec![String::new(), "\u{1b}[2J".into()],
            ];
            let names = names.concat();
            let name = rng.pick(&names).clone();
            let n = &mut g.node[i];
            let list = if rng.below(3) == 0 { &mut n.output } else { &mut n.input };
            match rng.below(3) {
                0 => drop(list.pop()),
                1 => list.push(name),
                _ if list.is_empty() => {}
                _ => {
                    let at = rng.below(list.len());
                    list[at] = name;
                }
            }
        }
        9 => {
            let i = rng.below(g.node.len());
            let (domain, op) = (*rng.pick(&words(OPERATORS))).split_once("::").unwrap_or(("", ""));
            let plain = *rng.pick(&words(OPERATORS));
            (g.node[i].domain, g.node[i].op_type) =
                if op.is_empty() { (String::new(), plain.to_owned()) } else { (domain.into(), op.into()) };
        }
        _ => {
            // Where there are attributes, the first draw that hits some.
            let with: Vec<usize> = (0..g.node.len()).filter(|&i| !g.node[i].attribute.is_empty()).collect();
            let i =
                if with.is_empty() || rng.below(4) == 0 { rng.below(g.node.len()) } else { *rng.pick(&with) };
            let list = &mut g.node[i].attribute;
            match rng.below(4) {
                0 => list.push(attribute(rng)),
                1 => drop(list.pop()),
                _ if list.is_empty() => {}
                _ => {
                    let at = rng.below(list.len());
                    let a = &mut list[at];
                    match rng.below(4) {
                        0 => a.f = *rng.pick(&[0.0, -1.0, f32::NAN, f32::INFINITY]),
                        1 => a.ints.push(number(rng)),
                        2 if a.t.is_some() => constant(rng, a.t.as_mut().unwrap()),
                        _ if a.ints.is_empty() => a.i = number(rng),
                        _ => {
                            let at = rng.below(a.ints.len());
                            a.ints[at] = number(rng);
                        }
                    }
                }
            }
        }
    }
    m.encode_to_vec()
}

/// Elements, extents or the type of a constant are changed.
fn constant(rng: &mut Rng, t: &mut TensorProto) {
    match rng.below(6) {
        0 => t.data_type = code(*rng.pick(&TYPES)),
        1 => t.dims.push(extent(rng)),
        2 => drop(t.dims.pop()),
        3 if !t.dims.is_empty() => {
            let at = rng.below(t.dims.len());
            t.dims[at] = number(rng);
        }
        _ => match t.raw_data.as_mut() {
            Some(raw) if raw.len() >= 8 => {
                let at = 8 * rng.below(raw.len() / 8);
                raw[at..at + 8].copy_from_slice(&number(rng).to_le_bytes());
            }
            _ => *t = some_tensor(rng, &t.name),
        },
    }
}

/// Small models of all kinds: chains of random operators, and what is bundled or named by `ANNULUS_TEST_DATA`.
fn seeds() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    let mut out: Vec<Vec<u8>> = (0..200).map(|_| fresh(&mut rng).encode_to_vec()).collect();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![here.join("tests/models")];
    folders.extend(data::given("onnx-attention"));
    for folder in folders {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<_> = entries.map(|e| e.unwrap().path().join("model.onnx")).collect();
        paths.retain(|p| p.is_file());
        paths.sort();
        assert!(!paths.is_empty(), "no models in {}", folder.display());
        out.extend(paths.iter().map(|p| fs::read(p).unwrap()));
    }
    out
}

/// A model is refused in few words, or is a graph that prints, parses back and, if it is small, evaluates or says why not.
fn import(input: &[u8]) -> String {
    let mut options = ImportOptions::default().dims([("s", 3), ("batch", 2), ("sequence", 5)]);
    let imported = loop {
        match onnx(input, &options) {
            Err(ImportError::UnknownDimension { dim, .. }) => assert!(options.dims.remove(&dim).is_some()),
            imported => break imported,
        }
    };
    match imported {
        Err(e) => {
            let message = e.to_string();
            assert!(message.len() < input.len() + (1 << 14), "{} bytes of message", message.len());
            kind(&message)
        }
        Ok(g) => {
            let printed = print(&g, Form::People);
            let again = parse(&printed).unwrap_or_else(|e| panic!("what it prints does not parse: {e}"));
            assert!(again == g, "it prints as another graph");
            assert!(printed.chars().all(|c| c == '\n' || !c.is_control()), "a control character is printed");
            let mut names: Vec<&str> = g.ops().into_iter().map(|id| g.op(id).name()).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|n| *n != "input" && *n != "const");
            // Some go through the whole pass.
            if input.len().is_multiple_of(8) {
                let ranks = 1 + names.len() % 4;
                let request = Request::from_header(&format!("// opt ranks={ranks}")).expect("a header");
                through(&g, &request);
            }
            format!("{}: {}", evaluated(&g), names.join(" "))
        }
    }
}

/// Whether a small graph evaluates.
fn evaluated(g: &Graph) -> &'static str {
    let mut work = 0usize;
    for id in g.ops() {
        let elements = |v| g.ty(v).elements();
        let read: usize = g.operands(id).into_iter().map(elements).fold(1, usize::saturating_mul);
        let written = g.results(id).into_iter().map(elements).fold(0, usize::saturating_add);
        // A contraction may touch each pair of elements; anything else touches each once or a few times.
        let touched = if matches!(g.op(id), Op::Contract(_) | Op::Attention(_)) { read } else { 0 };
        work = work.saturating_add(touched).saturating_add(written);
    }
    // A tensor of no elements may have an axis that is too long for one.
    if work > 100_000 || g.inputs().into_iter().any(|v| g.ty(v).data_elements().is_none()) {
        return "large";
    }
    let of = |v| {
        let ty = g.ty(v);
        let values: Vec<f64> = (0..ty.elements()).map(|i| (i % 5) as f64 - 1.0).collect();
        Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).expect("as many as the type says")
    };
    let inputs: Vec<Tensor> = g.inputs().into_iter().map(of).collect();
    match eval(g, &inputs, Precision::Declared) {
        Ok(outputs) => {
            for (got, declared) in outputs.iter().zip(g.outputs()) {
                assert_eq!(got.ty(), *g.ty(declared.value), "output {} is of another type", declared.name);
            }
            "evaluates"
        }
        Err(_) => "does not evaluate",
    }
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    fn fuzz_onnx() {
        if !alone!(fuzz_onnx) {
            return;
        }
        fuzz(&Target { name: "fuzz_onnx", seeds: seeds(), inputs: 30_000, mutate, run: import });
    }
}
