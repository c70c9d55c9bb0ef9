//! Activations: composites of elementwise functions, and softmax.

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Binary, Op, Reduction, Unary, ValueId, WayOut};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// max(x, 0).
pub(super) fn relu(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let dtype = cx.dtype(x);
    let zero = cx.scalar("zero", dtype, 0.0);
    one(cx.out(Op::Binary(Binary::Max), &[x, zero])?)
}

/// x, or alpha·x where x is negative.
pub(super) fn leaky_relu(cx: &mut Cx<'_>) -> LoweredNode {
    let alpha = cx.float("alpha")?.unwrap_or(0.01f32.into());
    let x = cx.arg(0)?;
    let small = cx.with_scalar("small", Binary::Mul, x, alpha)?;
    let negative = cx.with_scalar("negative", Binary::Lt, x, 0.0)?;
    one(cx.out(Op::Select, &[negative, small, x])?)
}

/// Gelu, exact or with tanh.
pub(super) fn gelu(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    match cx.string("approximate", "none")?.as_str() {
        "none" => one(erf_gelu(cx, x)?),
        "tanh" => one(tanh_gelu(cx, x)?),
        other => malformed(format!("approximate is {other:?}")),
    }
}

/// com.microsoft Gelu and BiasGelu: exact Gelu of x, or of x + bias.
pub(super) fn bias_gelu(cx: &mut Cx<'_>) -> LoweredNode {
    let x = biased(cx)?;
    one(erf_gelu(cx, x)?)
}

/// com.microsoft FastGelu: Gelu with tanh of x, or of x + bias.
pub(super) fn fast_gelu(cx: &mut Cx<'_>) -> LoweredNode {
    let x = biased(cx)?;
    one(tanh_gelu(cx, x)?)
}

fn biased(cx: &mut Cx<'_>) -> Result<ValueId, Refusal> {
    let x = cx.arg(0)?;
    let Some(bias) = cx.opt(1)? else { return Ok(x) };
    let shape = cx.shape(x);
    if cx.shape(bias).len() != 1 || cx.shape(bias).last() != shape.last() {
        return malformed("the bias is no vector over the last axis");
    }
    cx.binary("biased", Binary::Add, x, bias)
}

/// x/2 · (1 + erf(x/√2)).
fn erf_gelu(cx: &mut Cx<'_>, x: ValueId) -> Result<ValueId, Refusal> {
    let scaled = cx.with_scalar("scaled", Binary::Mul, x, FRAC_1_SQRT_2)?;
    let gate = cx.unary("erf", Unary::Erf, scaled)?;
    gated(cx, x, gate)
}

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))).
fn tanh_gelu(cx: &mut Cx<'_>, x: ValueId) -> Result<ValueId, Refusal> {
    let square = cx.binary("square", Binary::Mul, x, x)?;
    let cube = cx.binary("cube", Binary::Mul, square, x)?;
    let bent = cx.with_scalar("bent", Binary::Mul, cube, 0.044715)?;
    let sum = cx.binary("sum", Binary::Add, x, bent)?;
    let scaled = cx.with_scalar("scaled", Binary::Mul, sum, FRAC_2_PI.sqrt())?;
    let gate = cx.unary("tanh", Unary::Tanh, scaled)?;
    gated(cx, x, gate)
}

fn gated(cx: &mut Cx<'_>, x: ValueId, gate: ValueId) -> Result<ValueId, Refusal> {
    let gate = cx.with_scalar("gate", Binary::Add, gate, 1.0)?;
    let half = cx.with_scalar("half", Binary::Mul, x, 0.5)?;
    cx.out(Op::Binary(Binary::Mul), &[half, gate])
}

/// com.microsoft QuickGelu: x·sigmoid(alpha·x).
pub(super) fn quick_gelu(cx: &mut Cx<'_>) -> LoweredNode {
    let alpha = cx.float("alpha")?.unwrap_or(1.702f32.into());
    sigmoid_gated(cx, alpha)
}

/// Swish: x·sigmoid(alpha·x).
pub(super) fn swish(cx: &mut Cx<'_>) -> LoweredNode {
    let alpha = cx.float("alpha")?.unwrap_or(1.0);
    sigmoid_gated(cx, alpha)
}

fn sigmoid_gated(cx: &mut Cx<'_>, alpha: f64) -> LoweredNode {
    let x = cx.arg(0)?;
    let scaled = if alpha == 1.0 { x } else { cx.with_scalar("scaled", Binary::Mul, x, alpha)? };
    let gate = cx.unary("gate", Unary::Sigmoid, scaled)?;
    one(cx.out(Op::Binary(Binary::Mul), &[x, gate])?)
}

/// Softmax along one axis, as from version 13.
pub(super) fn softmax(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let axis = cx.int("axis")?.unwrap_or(-1);
    let axis = cx.axis(axis, cx.ty(x).rank())?;
    one(cx.out(Op::Softmax { axis }, &[x])?)
}

/// LogSoftmax: x − max − ln Σ exp(x − max), of half precision in f32.
pub(super) fn log_softmax(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let axis = cx.int("axis")?.unwrap_or(-1);
    let axis = cx.axis(axis, cx.ty(x).rank())?;
    let dtype = cx.dtype(x);
    if !dtype.is_float() {
        return malformed(format!("of {}", cx.ty(x)));
    }
    let wide = cx.cast("wide", x, dtype.accumulator())?;
    let max = cx.reduce("max", Reduction::Max, wide, &[axis])?;
    let shifted = cx.binary("shifted", Binary::Sub, wide, max)?;
    let exp = cx.unary("exp", Unary::Exp, shifted)?;
    let sum = cx.reduce("sum", Reduction::Sum, exp, &[axis])?;
    let log = cx.unary("log", Unary::Log, sum)?;
    let sub = Op::Binary(Binary::Sub);
    if wide == x {
        return one(cx.out(sub, &[shifted, log])?);
    }
    let wide = cx.sub("wide.result", sub, &[shifted, log])?;
    one(cx.out(Op::Cast(dtype), &[wide])?)
}

/// Softplus: ln(1 + e^x) = max(x, 0) + ln(1 + e^−|x|), which does not overflow.
pub(super) fn softplus(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let dtype = cx.dtype(x);
    let zero = cx.scalar("zero", dtype, 0.0);
    let most = cx.binary("most", Binary::Max, x, zero)?;
    let size = cx.unary("size", Unary::Abs, x)?;
    let minus = cx.unary("minus", Unary::Neg, size)?;
    let exp = cx.unary("exp", Unary::Exp, minus)?;
    let sum = cx.with_scalar("sum", Binary::Add, exp, 1.0)?;
    let log = cx.unary("log", Unary::Log, sum)?;
    one(cx.out(Op::Binary(Binary::Add), &[most, log])?)
}

/// The activation that a fused operator names, of a value.
pub(super) fn named(cx: &mut Cx<'_>, name: &str, x: ValueId, alpha: Option<f64>) -> LoweredNode {
    let dtype = cx.dtype(x);
    one(match name {
        "Relu" => {
            let zero = cx.scalar("zero", dtype, 0.0);
            cx.out(Op::Binary(Binary::Max), &[x, zero])?
        }
        "LeakyRelu" => {
            let small = cx.with_scalar("small", Binary::Mul, x, alpha.unwrap_or(0.01f32.into()))?;
            let negative = cx.with_scalar("negative", Binary::Lt, x, 0.0)?;
            cx.out(Op::Select, &[negative, small, x])?
        }
        "Tanh" => cx.out(Op::Unary(Unary::Tanh), &[x])?,
        "Sigmoid" => cx.out(Op::Unary(Unary::Sigmoid), &[x])?,
        other => return unsupported(format!("its activation is {other:?}"), WayOut::ApartActivation),
    })
}
