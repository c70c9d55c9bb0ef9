//! Conditions as values: which value says where a score is kept, and which two values are each other's opposite.

use super::types::MaskSource;
use super::types::{Context, Item};
use crate::find::axes::trace::{CONSTANT_LIMIT, splat};
use crate::find::magnitude::{MASKING, huge_bound};
use crate::ir::{Binary, DType, Op, Tensor, Unary, ValueId};

/// The number f for which `a` is (1 − m)·f, whatever 0 or 1 each element of `m` is.
pub(crate) fn inverse(cx: &mut Context<'_>, m: ValueId, a: ValueId) -> Option<f64> {
    // Not only as numbers: laid out alike.
    if cx.graph.ty(a).shape != cx.graph.ty(m).shape {
        return None;
    }
    if complements(cx, m, a) {
        return Some(1.0);
    }
    let x = cx.graph.operands(a.op);
    if !matches!(cx.graph.op(a.op), Op::Binary(Binary::Mul)) {
        return None;
    }
    let number = |cx: &mut Context<'_>, v| splat(cx.graph, cx.constants, v).filter(|f| f.is_finite());
    let (of, f) = match (number(cx, x[0]), number(cx, x[1])) {
        (None, Some(f)) => (x[0], f),
        (Some(f), None) => (x[1], f),
        _ => return None,
    };
    (cx.graph.ty(of).shape == cx.graph.ty(m).shape && complements(cx, m, of)).then_some(f)
}

/// Whether one is 1 less the other, and both are 0 or 1: spelled so, or as the two truths of one condition.
pub(crate) fn complements(cx: &mut Context<'_>, m: ValueId, of: ValueId) -> bool {
    // A condition behind casts, and how often it is negated.
    let condition = |v: ValueId| {
        let (mut at, mut negated) = (v, false);
        while let Op::Cast(_) | Op::Unary(Unary::Not) = cx.graph.op(at.op) {
            negated ^= matches!(cx.graph.op(at.op), Op::Unary(Unary::Not));
            let inner = cx.graph.operands(at.op)[0];
            // A cast to a truth value is a comparison with 0.
            if matches!(cx.graph.op(at.op), Op::Cast(DType::Bool)) && cx.graph.ty(inner).dtype != DType::Bool
            {
                break;
            }
            at = inner;
        }
        (at, negated)
    };
    let ((a, a_negated), (b, b_negated)) = (condition(m), condition(of));
    if a == b && a_negated != b_negated && cx.graph.ty(a).dtype == DType::Bool {
        return true;
    }
    let less = cx.graph.operands(of.op);
    let one_less_m = matches!(cx.graph.op(of.op), Op::Binary(Binary::Sub))
        && less[1] == m
        && splat(cx.graph, cx.constants, less[0]) == Some(1.0);
    one_less_m && {
        let p = cx.values.get(cx.graph, cx.constants, m);
        p.is_some_and(|p| cx.values.all(&p, &[(0.0, 0.0), (1.0, 1.0)]))
    }
}

/// The boolean value that says where an item keeps a score.
///
/// # Errors
/// If there is none: what positions say is no tensor.
pub(crate) fn condition(cx: &mut Context<'_>, item: &Item) -> Result<ValueId, String> {
    let v = match item.source {
        MaskSource::Condition(v) => v,
        MaskSource::Positions(ref term) => return Err(fault(&format!("{term} is asked for as a tensor"))),
        MaskSource::Added(v) => {
            let dtype = cx.graph.ty(v).dtype;
            // Fills are at or below MASKING and the rest is at or above it, or they are huge and the rest is not.
            above(cx, v, if item.and_bias { huge_bound(dtype) } else { MASKING / 2.0 })?
        }
    };
    Ok(match cx.constants.value(cx.graph, v, CONSTANT_LIMIT) {
        Some(t) if cx.graph.as_constant(v).is_none() => {
            let n = cx.graph.value(v).name.clone();
            cx.graph.constant(&n, t)
        }
        _ => v,
    })
}

/// Where a value is above a number.
///
/// # Errors
/// If it is no number.
pub(crate) fn above(cx: &mut Context<'_>, v: ValueId, bound: f64) -> Result<ValueId, String> {
    let n = format!("{}.keep", cx.graph.value(v).name);
    let c = cx.graph.constant(&n, Tensor::scalar(cx.graph.ty(v).dtype, bound));
    cx.graph.add1(Op::Binary(Binary::Gt), &[v, c], &n, "").map_err(|e| fault(&e.to_string()))
}

/// A reason why an attention is missed that is none of the graph's.
pub(crate) fn fault(why: &str) -> String {
    format!("internal fault: {why}; annulus is at fault, not the graph: please report it with the graph")
}
