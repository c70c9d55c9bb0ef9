//! The table of operators: for each its arity and the function that lowers it.

use super::super::flat::PART;
use super::super::node::Cx;
use super::super::outcome::LoweredNode;
use super::{
    activation, attention, contraction, contrib, conv, einsum, elementwise, flex, index, reduce, rotary,
    shape,
};
use crate::ir::{Binary, Reduction, Unary};
use std::ops::RangeInclusive;

/// How many operands and results an operator has, and what lowers it.
pub(in crate::import) struct Schema {
    /// Operands, those left out at the end excepted.
    pub(in crate::import) inputs: RangeInclusive<usize>,
    /// Results.
    pub(in crate::import) outputs: RangeInclusive<usize>,
    /// Lowers a node.
    pub(in crate::import) lower: fn(&mut Cx<'_>) -> LoweredNode,
}

fn row(
    inputs: RangeInclusive<usize>,
    outputs: RangeInclusive<usize>,
    lower: fn(&mut Cx<'_>) -> LoweredNode,
) -> Option<Schema> {
    Some(Schema { inputs, outputs, lower })
}

/// An operator with one result.
fn to_one(inputs: RangeInclusive<usize>, lower: fn(&mut Cx<'_>) -> LoweredNode) -> Option<Schema> {
    row(inputs, 1..=1, lower)
}

const MANY: usize = usize::MAX;

/// The operator's row, if it is known. An empty domain is `ai.onnx`.
pub(in crate::import) fn schema(domain: &str, op: &str) -> Option<Schema> {
    match domain {
        "" => core(op),
        "com.microsoft" => microsoft(op),
        "ai.onnx.preview" => preview(op),
        PART => part(op),
        _ => None,
    }
}

fn core(op: &str) -> Option<Schema> {
    match op {
        // elementwise
        "Neg" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Neg)),
        "Abs" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Abs)),
        "Sign" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Sign)),
        "Exp" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Exp)),
        "Log" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Log)),
        "Sqrt" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Sqrt)),
        "Reciprocal" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Reciprocal)),
        "Sin" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Sin)),
        "Cos" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Cos)),
        "Tanh" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Tanh)),
        "Sigmoid" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Sigmoid)),
        "Erf" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Erf)),
        "Floor" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Floor)),
        "Ceil" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Ceil)),
        "Round" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Round)),
        "Not" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::Not)),
        "IsNaN" => to_one(1..=1, |cx| elementwise::unary(cx, Unary::IsNan)),
        "IsInf" => to_one(1..=1, elementwise::is_inf),
        "Add" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Add)),
        "Sub" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Sub)),
        "Mul" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Mul)),
        "Div" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Div)),
        "And" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::And)),
        "Or" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Or)),
        "Xor" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Xor)),
        "Equal" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Eq)),
        "Less" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Lt)),
        "LessOrEqual" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Le)),
        "Greater" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Gt)),
        "GreaterOrEqual" => to_one(2..=2, |cx| elementwise::binary(cx, Binary::Ge)),
        "Pow" => to_one(2..=2, elementwise::pow),
        "Mod" => to_one(2..=2, elementwise::modulo),
        "Min" => to_one(1..=MANY, |cx| elementwise::fold(cx, Binary::Min)),
        "Max" => to_one(1..=MANY, |cx| elementwise::fold(cx, Binary::Max)),
        "Sum" => to_one(1..=MANY, |cx| elementwise::fold(cx, Binary::Add)),
        "Clip" => to_one(1..=3, elementwise::clip),
        "Where" => to_one(3..=3, elementwise::select),
        "Cast" => to_one(1..=1, elementwise::cast),
        "CastLike" => to_one(2..=2, elementwise::cast_like),
        "Identity" => to_one(1..=1, elementwise::identity),
        "Dropout" => row(1..=3, 1..=2, elementwise::dropout),
        // activation
        "Relu" => to_one(1..=1, activation::relu),
        "LeakyRelu" => to_one(1..=1, activation::leaky_relu),
        "Gelu" => to_one(1..=1, activation::gelu),
        "Swish" => to_one(1..=1, activation::swish),
        "Softmax" => to_one(1..=1, activation::softmax),
        "Softplus" => to_one(1..=1, activation::softplus),
        "LogSoftmax" => to_one(1..=1, activation::log_softmax),
        // shape
        "Constant" => to_one(0..=0, shape::constant),
        "ConstantOfShape" => to_one(1..=1, shape::constant_of_shape),
        "Shape" => to_one(1..=1, shape::shape),
        "Size" => to_one(1..=1, shape::size),
        "Range" => to_one(3..=3, shape::range),
        "Reshape" => to_one(2..=2, shape::reshape),
        "Flatten" => to_one(1..=1, shape::flatten),
        "Squeeze" => to_one(1..=2, shape::squeeze),
        "Unsqueeze" => to_one(2..=2, shape::unsqueeze),
        "Expand" => to_one(2..=2, shape::expand),
        "Tile" => to_one(2..=2, shape::tile),
        "Transpose" => to_one(1..=1, shape::transpose),
        "Concat" => to_one(1..=MANY, shape::concat),
        "Slice" => to_one(3..=5, index::slice),
        "Split" => row(1..=2, 1..=MANY, index::split),
        "SplitToSequence" => to_one(1..=2, index::split_to_sequence),
        "SequenceConstruct" => to_one(1..=MANY, index::sequence_construct),
        "SequenceLength" => to_one(1..=1, index::sequence_length),
        "SequenceAt" => to_one(2..=2, index::sequence_at),
        "ConcatFromSequence" => to_one(1..=1, index::concat_from_sequence),
        "Pad" => to_one(2..=4, shape::pad),
        // index
        "Gather" => to_one(2..=2, index::gather),
        "GatherElements" => to_one(2..=2, index::gather_elements),
        "GatherND" => to_one(2..=2, index::gather_nd),
        "ScatterND" => to_one(3..=3, index::scatter_nd),
        "ScatterElements" => to_one(3..=3, index::scatter_elements),
        "CumSum" => to_one(2..=2, index::cumsum),
        "TopK" => row(2..=2, 2..=2, index::top_k),
        "Trilu" => to_one(1..=2, index::trilu),
        // reduce
        "ReduceSum" => to_one(1..=2, |cx| reduce::reduce(cx, Reduction::Sum)),
        "ReduceMean" => to_one(1..=2, |cx| reduce::reduce(cx, Reduction::Mean)),
        "ReduceMax" => to_one(1..=2, |cx| reduce::reduce(cx, Reduction::Max)),
        "ReduceMin" => to_one(1..=2, |cx| reduce::reduce(cx, Reduction::Min)),
        "ReduceProd" => to_one(1..=2, |cx| reduce::reduce(cx, Reduction::Prod)),
        "ReduceSumSquare" => to_one(1..=2, reduce::sum_square),
        "ReduceL2" => to_one(1..=2, reduce::l2),
        "ReduceLogSumExp" => to_one(1..=2, reduce::log_sum_exp),
        "LayerNormalization" => row(2..=3, 1..=3, reduce::layer_norm),
        // ONNX Runtime puts it into the default domain.
        "SimplifiedLayerNormalization" => row(2..=2, 1..=2, reduce::simplified),
        "RMSNormalization" => to_one(2..=2, reduce::rms_norm),
        // contraction
        "Einsum" => to_one(1..=MANY, einsum::einsum),
        "MatMul" => to_one(2..=2, contraction::matmul),
        "Gemm" => to_one(2..=3, contraction::gemm),
        // windows
        "Conv" => to_one(2..=3, conv::conv),
        "AveragePool" => to_one(1..=1, |cx| conv::pool(cx, Reduction::Mean)),
        "MaxPool" => row(1..=1, 1..=2, |cx| conv::pool(cx, Reduction::Max)),
        "GlobalAveragePool" => to_one(1..=1, |cx| conv::global(cx, Reduction::Mean)),
        "GlobalMaxPool" => to_one(1..=1, |cx| conv::global(cx, Reduction::Max)),
        "InstanceNormalization" => to_one(3..=3, conv::instance_norm),
        // attention
        "Attention" => row(3..=7, 1..=4, attention::attention),
        "RotaryEmbedding" => to_one(3..=4, rotary::rotary),
        _ => None,
    }
}

fn microsoft(op: &str) -> Option<Schema> {
    match op {
        "Attention" => row(2..=7, 1..=2, contrib::attention),
        "MultiHeadAttention" => row(1..=10, 1..=4, contrib::multi_head),
        "Gelu" => to_one(1..=1, activation::bias_gelu),
        "BiasGelu" => to_one(2..=2, activation::bias_gelu),
        "FastGelu" => to_one(1..=2, activation::fast_gelu),
        "QuickGelu" => to_one(1..=1, activation::quick_gelu),
        "EmbedLayerNormalization" => row(7..=9, 1..=3, reduce::embed_layer_norm),
        "SimplifiedLayerNormalization" => row(2..=2, 1..=2, reduce::simplified),
        "RotaryEmbedding" => to_one(4..=4, rotary::contrib),
        "FusedGemm" => to_one(2..=3, contraction::fused_gemm),
        "FusedMatMul" => to_one(2..=2, contraction::fused_matmul),
        "SkipLayerNormalization" => row(3..=5, 1..=4, reduce::skip_layer_norm),
        "SkipSimplifiedLayerNormalization" => row(3..=4, 1..=4, reduce::skip_rms_norm),
        _ => None,
    }
}

fn preview(op: &str) -> Option<Schema> {
    match op {
        "FlexAttention" => to_one(3..=3, attention::flex),
        _ => None,
    }
}

fn part(op: &str) -> Option<Schema> {
    match op {
        "FlexScores" => to_one(2..=2, flex::scores),
        "FlexWeights" => to_one(2..=2, flex::weights),
        "FlexResult" => to_one(3..=3, flex::result),
        _ => None,
    }
}
