//! FlexAttention whose scores or probabilities are changed by graphs: three parts around them, as primitives.
//!
//! The graphs see scores and probabilities in `softmax_precision`, by default f32, of f64 operands f64. What they spell,
//! a mask, a softcap, may be recognised later like any other attention that is written out.

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one};
use crate::ir::{Binary, Contract, DType, Op, ValueId};

/// A value (batch, heads, rows, size) whose heads are grouped by the key head that they share.
fn grouped(cx: &mut Cx<'_>, what: &str, x: ValueId, heads: usize) -> Result<ValueId, Refusal> {
    match *cx.shape(x).as_slice() {
        [b, h, s, d] if heads > 0 && h % heads == 0 => cx.reshape(what, x, &[b, heads, h / heads, s, d]),
        _ => malformed(format!("{what} is {} with {heads} key heads", cx.ty(x))),
    }
}

/// scale · q·k.
pub(super) fn scores(cx: &mut Cx<'_>) -> LoweredNode {
    let (scale, precision) = (cx.float("scale")?, cx.int("softmax_precision")?);
    let (q, k) = (cx.arg(0)?, cx.arg(1)?);
    let dtype = match precision {
        Some(code) => cx.dtype_of(code)?,
        None => cx.dtype(q).accumulator(),
    };
    let (&[b, h, rows, size], &[_, heads, keys, _]) = (cx.shape(q).as_slice(), cx.shape(k).as_slice()) else {
        return malformed("q or k has not four axes");
    };
    if !dtype.is_float() || cx.dtype(q) != cx.dtype(k) {
        return malformed(format!("scores of {} and {} in {dtype}", cx.ty(q), cx.ty(k)));
    }
    let q = cx.cast("q", q, dtype)?;
    let k = cx.cast("k", k, dtype)?;
    let q = grouped(cx, "q.groups", q, heads)?;
    let axes = Contract { lhs: "bhgqd".into(), rhs: "bhkd".into(), out: "bhgqk".into() };
    let product = cx.sub("product", Op::Contract(axes), &[q, k])?;
    let product = cx.reshape("scores", product, &[b, h, rows, keys])?;
    let scale = scale.unwrap_or_else(|| 1.0 / (size as f64).sqrt());
    let scale = cx.scalar("scale", dtype, scale);
    one(cx.out(Op::Binary(Binary::Mul), &[product, scale])?)
}

/// What a graph made of a value must still have its type.
fn unchanged(cx: &Cx<'_>, new: ValueId, old: ValueId) -> Result<(), Refusal> {
    if cx.ty(new) == cx.ty(old) {
        return Ok(());
    }
    malformed(format!("a graph inside it makes {} of {}", cx.ty(new), cx.ty(old)))
}

/// Softmax over the keys. A row of nothing but −∞ gives NaN.
pub(super) fn weights(cx: &mut Cx<'_>) -> LoweredNode {
    let (changed, scores) = (cx.arg(0)?, cx.arg(1)?);
    unchanged(cx, changed, scores)?;
    one(cx.out(Op::Softmax { axis: 3 }, &[changed])?)
}

/// Probabilities · v.
pub(super) fn result(cx: &mut Cx<'_>) -> LoweredNode {
    let (changed, v, weights) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    unchanged(cx, changed, weights)?;
    let (made, dtype): (_, DType) = (cx.dtype(v), cx.dtype(changed));
    let (&[b, h, rows, _], &[_, heads, _, size]) = (cx.shape(weights).as_slice(), cx.shape(v).as_slice())
    else {
        return malformed(format!("v is {}", cx.ty(v)));
    };
    let v = cx.cast("v", v, dtype)?;
    let p = grouped(cx, "weights.groups", changed, heads)?;
    let axes = Contract { lhs: "bhgqk".into(), rhs: "bhkd".into(), out: "bhgqd".into() };
    let product = cx.sub("sum", Op::Contract(axes), &[p, v])?;
    let shape = vec![b, h, rows, size];
    if dtype == made {
        return one(cx.out(Op::Reshape(shape), &[product])?);
    }
    let wide = cx.reshape("wide", product, &shape)?;
    one(cx.out(Op::Cast(made), &[wide])?)
}
