//! Every operator that the importer is to know, each in one plain form, at every version of the default domain from 14 to 26:
//! it imports, and what it becomes evaluates.

use super::build::*;
use annulus::eval::{Precision, eval};
use annulus::import::proto::OperatorSetIdProto;
use annulus::import::{ImportOptions, graph};
use annulus::ir::{DType, Tensor};

const CORE: &str = "Abs Add And Attention Cast CastLike Ceil Clip Concat Constant ConstantOfShape Cos CumSum Div Equal Erf \
    Expand Flatten Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity IsNaN LayerNormalization Less \
    LessOrEqual Log MatMul Max Min Mod Mul Neg Not Or Pad Pow RMSNormalization Range Reciprocal ReduceLogSumExp ReduceMax \
    ReduceMean ReduceSum Relu Reshape RotaryEmbedding ScatterElements ScatterND SequenceAt Shape Sigmoid Sign Sin Slice Softmax \
    Split SplitToSequence Sqrt Squeeze Sub Tanh Tile TopK Transpose Trilu Unsqueeze Where AveragePool Conv \
    InstanceNormalization Einsum Exp Floor IsInf LogSoftmax MaxPool ReduceMin ReduceProd Round Size Softplus Sum Xor";
const MICROSOFT: &str = "Attention BiasGelu EmbedLayerNormalization FastGelu FusedGemm FusedMatMul Gelu QuickGelu \
    SkipLayerNormalization MultiHeadAttention RotaryEmbedding SimplifiedLayerNormalization";
const PREVIEW: &str = "FlexAttention";

fn bools(shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>();
    Tensor::from_f64(DType::Bool, shape, &(0..n).map(|i| (i % 2) as f64).collect::<Vec<_>>()).unwrap()
}

fn i32s(values: &[i64]) -> Tensor {
    Tensor::from_f64(DType::I32, [values.len()], &values.iter().map(|&i| i as f64).collect::<Vec<_>>())
        .unwrap()
}

fn scalar(dtype: DType, value: f64) -> Option<Tensor> {
    Some(Tensor::scalar(dtype, value))
}

/// The operator between inputs and constants, in a form of this version.
fn form(domain: &str, op: &'static str, version: i64) -> Single {
    let one = |x: Tensor| Single::new(op, &[x], &[]);
    let two = |a: Tensor, b: Tensor| Single::new(op, &[a, b], &[]);
    let three = |a: Tensor, b: Tensor, c: Tensor| Single::new(op, &[a, b, c], &[]);
    let with = |x: Tensor, constants: &[Option<Tensor>]| Single::new(op, &[x], constants);
    let heads = || count(&[1, 2, 3, 4]);
    let rows = || count(&[1, 3, 8]);
    let name = op.rsplit("::").next().unwrap();
    match (domain, name) {
        ("ai.onnx.preview", _) => three(heads(), heads(), heads()),
        ("com.microsoft", "Attention") => {
            Single::new(op, &[rows(), count(&[8, 24]), count(&[24])], &[]).with(int("num_heads", 2))
        }
        ("com.microsoft", "MultiHeadAttention") => three(rows(), rows(), rows()).with(int("num_heads", 2)),
        ("com.microsoft", "BiasGelu" | "FastGelu") => two(rows(), count(&[8])),
        ("com.microsoft", "EmbedLayerNormalization") => {
            let ids = i32s(&[0, 1, 1]).reshaped(vec![1, 3]).unwrap();
            let tables = [count(&[2, 8]), count(&[4, 8]), count(&[2, 8]), count(&[8]), count(&[8])];
            let inputs: Vec<Tensor> = [ids.clone(), ids].into_iter().chain(tables).collect();
            Single::new(op, &inputs, &[]).outputs(2)
        }
        ("com.microsoft", "FusedGemm") => {
            three(count(&[2, 3]), count(&[3, 4]), count(&[4])).with(string("activation", "Relu"))
        }
        ("com.microsoft", "FusedMatMul") => two(count(&[2, 3]), count(&[4, 3])).with(int("transB", 1)),
        ("com.microsoft", "Gelu" | "QuickGelu") => one(rows()),
        ("com.microsoft", "SkipLayerNormalization") => three(rows(), rows(), count(&[8])),
        ("com.microsoft", "SimplifiedLayerNormalization") => two(rows(), count(&[8])),
        ("com.microsoft", "RotaryEmbedding") => {
            let positions = ints(&[0, 1, 2]).reshaped(vec![1, 3]).unwrap();
            Single::new(op, &[heads(), positions, count(&[3, 2]), count(&[3, 2])], &[])
        }
        (_, "Attention") => three(heads(), heads(), heads()),
        (_, "RotaryEmbedding") => three(heads(), count(&[1, 3, 2]), count(&[1, 3, 2])),
        (_, "And" | "Or" | "Xor") => two(bools(&[2, 3]), bools(&[3])),
        (_, "Not") => one(bools(&[2])),
        (
            _,
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
            | "LessOrEqual",
        ) => two(count(&[2, 3]), floats(&[3], &[1.0, 2.0, 3.0])),
        (_, "Mod") => two(ints(&[5, -5]), ints(&[3, 3])),
        (_, "Max" | "Min" | "Sum") => three(count(&[2, 3]), count(&[3]), count(&[])),
        (_, "Cast") => one(count(&[2])).with(int("to", code(DType::F16).into())),
        (_, "CastLike") => two(count(&[2]), ints(&[1])),
        (_, "Clip") => with(count(&[4]), &[scalar(DType::F32, 1.0), scalar(DType::F32, 2.0)]),
        (_, "Concat") => two(count(&[2, 3]), count(&[1, 3])).with(int("axis", 0)),
        (_, "Constant") => Single::new(op, &[], &[]).with(float("value_float", 0.5)),
        (_, "ConstantOfShape") => Single::new(op, &[], &[Some(ints(&[2, 3]))]),
        (_, "CumSum") => with(count(&[2, 3]), &[scalar(DType::I64, 1.0)]),
        (_, "Einsum") => two(count(&[2, 3]), count(&[3, 4])).with(string("equation", "ij,jk->ik")),
        (_, "Expand") => with(count(&[3, 1]), &[Some(ints(&[2, 1, 4]))]),
        (_, "Gather") => two(count(&[3, 2]), ints(&[2, 0])),
        (_, "GatherElements") => two(count(&[3]), ints(&[2, 0])),
        (_, "GatherND") => two(count(&[3, 2]), ints(&[2, 0]).reshaped(vec![1, 2]).unwrap()),
        (_, "Gemm") => three(count(&[2, 3]), count(&[3, 4]), count(&[4])),
        (_, "MatMul") => two(count(&[2, 3]), count(&[3, 4])),
        (_, "LayerNormalization") => three(rows(), count(&[8]), count(&[8])),
        (_, "RMSNormalization") => two(rows(), count(&[8])),
        (_, "InstanceNormalization") => three(heads(), count(&[2]), count(&[2])),
        (_, "Pad") => with(count(&[2]), &[Some(ints(&[1, 2]))]),
        (_, "Range") => {
            let bounds = [0.0, 5.0, 2.0].map(|x| scalar(DType::I64, x));
            Single::new(op, &[], &bounds)
        }
        (_, "ReduceSum") => with(count(&[2, 3]), &[Some(ints(&[1]))]),
        (_, reduce) if reduce.starts_with("Reduce") && version < 18 => {
            one(count(&[2, 3])).with(int_list("axes", &[1]))
        }
        (_, reduce) if reduce.starts_with("Reduce") => with(count(&[2, 3]), &[Some(ints(&[1]))]),
        (_, "Reshape") => with(count(&[2, 3]), &[Some(ints(&[3, -1]))]),
        (_, "ScatterElements") => three(count(&[3]), ints(&[2]), count(&[1])),
        (_, "ScatterND") => three(count(&[3]), ints(&[2]).reshaped(vec![1, 1]).unwrap(), count(&[1])),
        (_, "Slice") => with(count(&[4]), &[Some(ints(&[1])), Some(ints(&[3]))]),
        (_, "Split") => with(count(&[4]), &[Some(ints(&[1, 3]))]).outputs(2),
        (_, "Squeeze" | "Unsqueeze") => with(count(&[1, 2]), &[Some(ints(&[0]))]),
        (_, "Tile") => with(count(&[1, 2]), &[Some(ints(&[2, 2]))]),
        (_, "TopK") => with(count(&[4]), &[Some(ints(&[2]))]).outputs(2),
        (_, "Trilu") => one(count(&[3, 3])),
        (_, "Where") => three(bools(&[2]), count(&[2]), count(&[2])),
        (_, "AveragePool" | "MaxPool") => one(heads()).with(int_list("kernel_shape", &[2, 2])),
        (_, "Conv") => two(heads(), count(&[3, 2, 2, 2])),
        // The rest take one value and no word.
        _ => one(floats(&[2, 2], &[0.5, 0.25, 1.0, 2.0])),
    }
}

#[test]
fn every_operator_is_known_at_every_version() {
    let of = |domain: &'static str, list: &'static str| list.split_whitespace().map(move |op| (domain, op));
    let all: Vec<(&str, &'static str)> =
        of("", CORE).chain(of("com.microsoft", MICROSOFT)).chain(of("ai.onnx.preview", PREVIEW)).collect();
    assert_eq!(all.len(), 101);
    for (domain, op) in all {
        let full: &'static str = match domain {
            "" => op,
            _ => Box::leak(format!("{domain}::{op}").into_boxed_str()),
        };
        for version in 14..=26 {
            let single = form(domain, full, version).opset(version);
            let mut m = single.model();
            m.opset_import.push(OperatorSetIdProto { domain: "ai.onnx.preview".into(), version: 1 });
            let nodes = &mut m.graph.as_mut().unwrap().node;
            // A sequence is made, and taken apart, on the way.
            let made = match op {
                "SplitToSequence" => {
                    nodes[0].output = vec!["s".into()];
                    Some(node("SequenceAt", &["s", "at"], &["y0"], vec![]))
                }
                "SequenceAt" => {
                    nodes[0] = node("SequenceAt", &["s", "at"], &["y0"], vec![]);
                    Some(node("SplitToSequence", &["x0"], &["s"], vec![]))
                }
                _ => None,
            };
            if let Some(other) = made {
                nodes.push(other);
                nodes.push(node("Constant", &[], &["at"], vec![int("value_int", 1)]));
            }
            let g =
                graph(&m, &ImportOptions::default()).unwrap_or_else(|e| panic!("{full} at {version}: {e}"));
            let outputs = eval(&g, &single.inputs, Precision::Declared);
            let outputs = outputs.unwrap_or_else(|e| panic!("{full} at {version}: {e}"));
            assert_eq!(outputs.len(), single.outputs, "{full} at {version}");
        }
    }
}
