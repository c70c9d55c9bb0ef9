//! Reductions, and the normalisations built from them.

use super::super::node::Cx;
use super::super::outcome::{Lowered, LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Binary, DType, Op, Reduction, Unary, ValueId};

/// What a reduction works on.
struct Fold {
    x: ValueId,
    axes: Vec<usize>,
    keep: bool,
    /// No axis is folded at all, because none is named and the node says so.
    nothing: bool,
}

/// Axes come as an operand from version 18 (of ReduceSum from 13), before as an attribute.
fn fold(cx: &mut Cx<'_>) -> Result<Fold, Refusal> {
    let x = cx.arg(0)?;
    let rank = cx.ty(x).rank();
    let keep = cx.flag("keepdims", true)?;
    let nothing = cx.flag("noop_with_empty_axes", false)?;
    let attribute = cx.int_list("axes")?;
    let by_operand = cx.version >= 18 || cx.node.op_type == "ReduceSum";
    if by_operand && attribute.is_some() || !by_operand && cx.has(1) {
        return malformed(format!("its axes do not come that way at version {}", cx.version));
    }
    let axes = match attribute {
        Some(axes) => axes,
        None => cx.opt_ints(1, "axes")?.unwrap_or_default(),
    };
    let none = axes.is_empty();
    let axes = if none { (0..rank).collect() } else { cx.axes(&axes, rank)? };
    Ok(Fold { x, axes, keep, nothing: none && nothing })
}

/// A plain reduction.
pub(super) fn reduce(cx: &mut Cx<'_>, kind: Reduction) -> LoweredNode {
    let Fold { x, axes, keep, nothing } = fold(cx)?;
    if kind == Reduction::Mean && !cx.dtype(x).is_float() {
        return unsupported("a mean of integers");
    }
    if nothing {
        return one(x);
    }
    one(cx.out(Op::Reduce { kind, axes, keep }, &[x])?)
}

/// Σ x².
pub(super) fn sum_square(cx: &mut Cx<'_>) -> LoweredNode {
    let Fold { x, axes, keep, nothing } = fold(cx)?;
    if nothing {
        return one(cx.out(Op::Binary(Binary::Mul), &[x, x])?);
    }
    let square = cx.binary("square", Binary::Mul, x, x)?;
    one(cx.out(Op::Reduce { kind: Reduction::Sum, axes, keep }, &[square])?)
}

/// √Σ x².
pub(super) fn l2(cx: &mut Cx<'_>) -> LoweredNode {
    let Fold { x, axes, keep, nothing } = fold(cx)?;
    if nothing {
        return one(cx.out(Op::Unary(Unary::Abs), &[x])?);
    }
    let square = cx.binary("square", Binary::Mul, x, x)?;
    let sum = cx.sub("sum", Op::Reduce { kind: Reduction::Sum, axes, keep }, &[square])?;
    one(cx.out(Op::Unary(Unary::Sqrt), &[sum])?)
}

/// ln Σ exp x, the maximum taken out first. A maximum of −∞ or +∞ is not: it would make NaN of it.
pub(super) fn log_sum_exp(cx: &mut Cx<'_>) -> LoweredNode {
    let Fold { x, axes, keep, nothing } = fold(cx)?;
    if nothing {
        return one(x);
    }
    let dtype = cx.dtype(x);
    let max = cx.reduce("max", Reduction::Max, x, &axes)?;
    let endless = cx.unary("endless", Unary::IsInf, max)?;
    let zero = cx.scalar("zero", dtype, 0.0);
    let max = cx.sub("shift", Op::Select, &[endless, zero, max])?;
    let shifted = cx.binary("shifted", Binary::Sub, x, max)?;
    let exp = cx.unary("exp", Unary::Exp, shifted)?;
    let sum = cx.reduce("sum", Reduction::Sum, exp, &axes)?;
    let log = cx.unary("log", Unary::Log, sum)?;
    if keep {
        return one(cx.out(Op::Binary(Binary::Add), &[log, max])?);
    }
    let kept = cx.binary("kept", Binary::Add, log, max)?;
    let shape = cx.shape(x);
    let left = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect();
    one(cx.out(Op::Reshape(left), &[kept])?)
}

/// The axes of a normalisation, from `axis` on, and the type in which it is computed.
struct Norm {
    axes: Vec<usize>,
    epsilon: f64,
    stage: DType,
}

/// Reads the attributes of LayerNormalization and RMSNormalization. The first stage is computed in `stash_type`, and in f64
/// where the operand is f64.
fn norm(cx: &mut Cx<'_>, x: ValueId) -> Result<Norm, Refusal> {
    let rank = cx.ty(x).rank();
    let axis = cx.int("axis")?.unwrap_or(-1);
    let axis = cx.axis(axis, rank)?;
    let epsilon = cx.float("epsilon")?.unwrap_or(1e-5f32.into());
    let stash = cx.int("stash_type")?.unwrap_or(1);
    let stash = cx.dtype_of(stash)?;
    if !stash.is_float() || !cx.dtype(x).is_float() {
        return malformed("it normalises no floating numbers");
    }
    let stage = if cx.dtype(x) == DType::F64 { DType::F64 } else { stash };
    Ok(Norm { axes: (axis..rank).collect(), epsilon, stage })
}

/// (x − mean) / √(variance + epsilon) in the type of x, then mean and 1/√(…).
fn standardise(cx: &mut Cx<'_>, x: ValueId, n: &Norm) -> Result<[ValueId; 3], Refusal> {
    let dtype = n.stage;
    let mean = cx.reduce("mean", Reduction::Mean, x, &n.axes)?;
    let centred = cx.binary("centred", Binary::Sub, x, mean)?;
    let square = cx.binary("square", Binary::Mul, centred, centred)?;
    let variance = cx.reduce("variance", Reduction::Mean, square, &n.axes)?;
    let epsilon = cx.scalar("epsilon", dtype, n.epsilon);
    let safe = cx.binary("safe", Binary::Add, variance, epsilon)?;
    let deviation = cx.unary("deviation", Unary::Sqrt, safe)?;
    let inverse = cx.unary("inverse", Unary::Reciprocal, deviation)?;
    let normal = cx.binary("normal", Binary::Div, centred, deviation)?;
    Ok([normal, mean, inverse])
}

/// x / √(mean of squares + epsilon) in the type of x, and 1/√(…).
fn rms(cx: &mut Cx<'_>, x: ValueId, n: &Norm) -> Result<[ValueId; 2], Refusal> {
    let square = cx.binary("square", Binary::Mul, x, x)?;
    let mean = cx.reduce("mean", Reduction::Mean, square, &n.axes)?;
    let epsilon = cx.scalar("epsilon", n.stage, n.epsilon);
    let safe = cx.binary("safe", Binary::Add, mean, epsilon)?;
    let root = cx.unary("root", Unary::Sqrt, safe)?;
    let inverse = cx.unary("inverse", Unary::Reciprocal, root)?;
    let normal = cx.binary("normal", Binary::Div, x, root)?;
    Ok([normal, inverse])
}

/// x · scale + bias as the node's output; neither may widen x.
fn affine(cx: &mut Cx<'_>, x: ValueId, scale: ValueId, bias: Option<ValueId>) -> Result<ValueId, Refusal> {
    let shape = cx.shape(x);
    for v in [Some(scale), bias].into_iter().flatten() {
        if !cx.fits(v, &shape) {
            return malformed("scale or bias do not broadcast to the operand");
        }
    }
    let mul = Op::Binary(Binary::Mul);
    let Some(bias) = bias else { return cx.out(mul, &[x, scale]) };
    let scaled = cx.sub("scaled", mul, &[x, scale])?;
    cx.out(Op::Binary(Binary::Add), &[scaled, bias])
}

/// LayerNormalization.
pub(super) fn layer_norm(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, scale, bias) = (cx.arg(0)?, cx.arg(1)?, cx.opt(2)?);
    let n = norm(cx, x)?;
    let dtype = cx.dtype(x);
    let wide = cx.cast("wide", x, n.stage)?;
    let [normal, mean, inverse] = standardise(cx, wide, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    let y = affine(cx, normal, scale, bias)?;
    // Of f64 the statistics are computed in f64, and are results in the type that the node states.
    let stash = cx.int("stash_type")?.unwrap_or(1);
    let stash = cx.dtype_of(stash)?;
    let [mean, inverse] = [cx.cast("mean.stash", mean, stash)?, cx.cast("inverse.stash", inverse, stash)?];
    Ok([y, mean, inverse].map(Lowered::Value).to_vec())
}

/// InstanceNormalization, with scale and bias in the form in which they broadcast.
pub(super) fn instance(
    cx: &mut Cx<'_>,
    x: ValueId,
    scale: ValueId,
    bias: ValueId,
    axes: Vec<usize>,
) -> LoweredNode {
    let epsilon = cx.float("epsilon")?.unwrap_or(1e-5f32.into());
    let dtype = cx.dtype(x);
    let n = Norm { axes, epsilon, stage: dtype.accumulator() };
    let wide = cx.cast("wide", x, n.stage)?;
    let [normal, ..] = standardise(cx, wide, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    one(affine(cx, normal, scale, Some(bias))?)
}

/// RMSNormalization.
pub(super) fn rms_norm(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, scale) = (cx.arg(0)?, cx.arg(1)?);
    let n = norm(cx, x)?;
    let dtype = cx.dtype(x);
    let wide = cx.cast("wide", x, n.stage)?;
    let [normal, _] = rms(cx, wide, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    // The result is of the scale's type, which may be another one.
    let own = cx.dtype(scale);
    let normal = if own.is_float() { cx.cast("own", normal, own)? } else { normal };
    one(affine(cx, normal, scale, None)?)
}

/// SimplifiedLayerNormalization: RMSNormalization that also gives 1/√(…).
pub(super) fn simplified(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, scale) = (cx.arg(0)?, cx.arg(1)?);
    let n = norm(cx, x)?;
    let dtype = cx.dtype(x);
    let wide = cx.cast("wide", x, n.stage)?;
    let [normal, inverse] = rms(cx, wide, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    let y = affine(cx, normal, scale, None)?;
    Ok([y, inverse].map(Lowered::Value).to_vec())
}

/// com.microsoft EmbedLayerNormalization: LayerNormalization of word, position and segment embeddings, added. Its other
/// results: how many ones the mask has for each batch entry, and the sum of the embeddings.
pub(super) fn embed_layer_norm(cx: &mut Cx<'_>) -> LoweredNode {
    let (ids, words, positions) = (cx.arg(0)?, cx.arg(2)?, cx.arg(3)?);
    let (segments, segment_table) = (cx.opt(1)?, cx.opt(4)?);
    let (scale, bias, mask, position_ids) = (cx.arg(5)?, cx.arg(6)?, cx.opt(7)?, cx.opt(8)?);
    let epsilon = cx.float("epsilon")?.unwrap_or(1e-12f32.into());
    // The type of the second result, which its shape says already.
    cx.int("mask_index_type")?;
    let (&[batch, rows], &[_, hidden]) = (cx.shape(ids).as_slice(), cx.shape(words).as_slice()) else {
        return malformed("its ids or its word embeddings are no matrix");
    };
    let place = match position_ids {
        Some(p) if matches!(*cx.shape(p), [b, s] if (b == batch || b == 1) && s == rows) => p,
        Some(p) => return malformed(format!("its position ids are {}", cx.ty(p))),
        None => {
            cx.sub("position", Op::Iota { ty: crate::ir::Type::new(DType::I64, [rows]), axis: 0 }, &[])?
        }
    };
    let word = cx.sub("word", Op::Gather { axis: 0 }, &[words, ids])?;
    let position = cx.sub("position.embedded", Op::Gather { axis: 0 }, &[positions, place])?;
    let mut sum = cx.binary("embedded", Binary::Add, word, position)?;
    match (segments, segment_table) {
        (Some(s), Some(table)) => {
            let segment = cx.sub("segment", Op::Gather { axis: 0 }, &[table, s])?;
            sum = cx.binary("embedded.segment", Binary::Add, sum, segment)?;
        }
        (None, _) => {}
        (Some(_), None) => return malformed("segment ids without segment embeddings"),
    }
    if cx.shape(sum) != [batch, rows, hidden] {
        return malformed(format!("its embeddings add up to {}", cx.ty(sum)));
    }
    let dtype = cx.dtype(sum);
    let n = Norm { axes: vec![2], epsilon, stage: dtype.accumulator() };
    let wide = cx.cast("wide", sum, n.stage)?;
    let [normal, ..] = standardise(cx, wide, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    let y = affine(cx, normal, scale, Some(bias))?;
    let index = match mask {
        Some(m) if cx.shape(m) == [batch, rows] => {
            let ones = cx.with_scalar("mask.ones", Binary::Eq, m, 1.0)?;
            let ones = cx.cast("mask.count", ones, DType::I32)?;
            cx.sub("mask.index", Op::Reduce { kind: Reduction::Sum, axes: vec![1], keep: false }, &[ones])?
        }
        Some(m) => return malformed(format!("its mask is {}", cx.ty(m))),
        None => {
            let zero = cx.scalar("mask.none", DType::I32, 0.0);
            cx.expand("mask.index", zero, &[batch])?
        }
    };
    Ok([y, index, sum].map(Lowered::Value).to_vec())
}

/// The sum that the com.microsoft skip normalisations start from, in the type in which they compute, and their attributes.
fn skip(cx: &mut Cx<'_>, bias: Option<ValueId>) -> Result<(ValueId, Norm), Refusal> {
    let (x, skip) = (cx.arg(0)?, cx.arg(1)?);
    let shape = cx.shape(x);
    if shape.is_empty() || !cx.fits(skip, &shape) || bias.is_some_and(|b| !cx.fits(b, &shape)) {
        return malformed("skip or bias do not broadcast to the input");
    }
    // The schema's own default is far below that of LayerNormalization.
    let epsilon = cx.float("epsilon")?.unwrap_or(1e-12f32.into());
    let stage = cx.dtype(x).accumulator();
    let wide = cx.cast("wide", x, stage)?;
    let other = cx.cast("skip", skip, stage)?;
    let mut sum = cx.binary("residual", Binary::Add, wide, other)?;
    if let Some(b) = bias {
        let b = cx.cast("bias", b, stage)?;
        sum = cx.binary("residual.biased", Binary::Add, sum, b)?;
    }
    Ok((sum, Norm { axes: vec![shape.len() - 1], epsilon, stage }))
}

/// com.microsoft SkipLayerNormalization: LayerNormalization of input + skip + bias; the sum is the fourth result.
pub(super) fn skip_layer_norm(cx: &mut Cx<'_>) -> LoweredNode {
    let (scale, beta, bias) = (cx.arg(2)?, cx.opt(3)?, cx.opt(4)?);
    let (sum, n) = skip(cx, bias)?;
    let input = cx.arg(0)?;
    let dtype = cx.dtype(input);
    let [normal, mean, inverse] = standardise(cx, sum, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    let y = affine(cx, normal, scale, beta)?;
    let sum = cx.cast("residual.narrow", sum, dtype)?;
    Ok([y, mean, inverse, sum].map(Lowered::Value).to_vec())
}

/// com.microsoft SkipSimplifiedLayerNormalization: the same with RMSNormalization. The second result, a mean, is never made.
pub(super) fn skip_rms_norm(cx: &mut Cx<'_>) -> LoweredNode {
    let (scale, bias) = (cx.arg(2)?, cx.opt(3)?);
    if cx.wants(1) {
        return unsupported("its mean is asked for");
    }
    let (sum, n) = skip(cx, bias)?;
    let input = cx.arg(0)?;
    let dtype = cx.dtype(input);
    let [normal, inverse] = rms(cx, sum, &n)?;
    let normal = cx.cast("narrow", normal, dtype)?;
    let y = affine(cx, normal, scale, None)?;
    let sum = cx.cast("residual.narrow", sum, dtype)?;
    Ok([y, inverse, inverse, sum].map(Lowered::Value).to_vec())
}
