//! Operators that work element by element.

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Binary, DType, Op, Tensor, Unary};

/// A function of one element.
pub(super) fn unary(cx: &mut Cx<'_>, f: Unary) -> LoweredNode {
    let x = cx.arg(0)?;
    one(cx.out(Op::Unary(f), &[x])?)
}

/// A function of two elements.
pub(super) fn binary(cx: &mut Cx<'_>, f: Binary) -> LoweredNode {
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    one(cx.out(Op::Binary(f), &[a, b])?)
}

/// A function of two elements, folded over any number of operands from the left.
pub(super) fn fold(cx: &mut Cx<'_>, f: Binary) -> LoweredNode {
    let operands = cx.args()?;
    let Some((&first, rest)) = operands.split_first() else { return malformed("no operand") };
    let mut acc = first;
    for (i, &x) in rest.iter().enumerate() {
        let op = Op::Binary(f);
        acc = if i + 1 == rest.len() {
            cx.out(op, &[acc, x])?
        } else {
            cx.sub(&format!("part{i}"), op, &[acc, x])?
        };
    }
    one(acc)
}

/// Pow: the exponent may have another type than the base, which is that of the result. An integer to a floating power is
/// computed in f64 and cut off.
pub(super) fn pow(cx: &mut Cx<'_>) -> LoweredNode {
    let (base, exponent) = (cx.arg(0)?, cx.arg(1)?);
    let (b, e) = (cx.dtype(base), cx.dtype(exponent));
    if e.is_float() && !b.is_float() {
        let wide = cx.cast("base", base, DType::F64)?;
        let exponent = cx.cast("exponent", exponent, DType::F64)?;
        let power = cx.binary("power", Binary::Pow, wide, exponent)?;
        return one(cx.out(Op::Cast(b), &[power])?);
    }
    let exponent = cx.cast("exponent", exponent, b)?;
    one(cx.out(Op::Binary(Binary::Pow), &[base, exponent])?)
}

/// Mod with the sign of the divisor; with `fmod` that of the dividend: sign(a)·(|a| mod |b|).
pub(super) fn modulo(cx: &mut Cx<'_>) -> LoweredNode {
    if !cx.flag("fmod", false)? {
        return binary(cx, Binary::Mod);
    }
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    let (size, divisor) = (cx.unary("size", Unary::Abs, a)?, cx.unary("divisor", Unary::Abs, b)?);
    let rest = cx.binary("rest", Binary::Mod, size, divisor)?;
    let sign = cx.unary("sign", Unary::Sign, a)?;
    one(cx.out(Op::Binary(Binary::Mul), &[sign, rest])?)
}

/// IsInf, of both signs or of one.
pub(super) fn is_inf(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let dtype = cx.dtype(x);
    let endless = match [cx.flag("detect_positive", true)?, cx.flag("detect_negative", true)?] {
        [true, true] => return one(cx.out(Op::Unary(Unary::IsInf), &[x])?),
        [true, false] => f64::INFINITY,
        [false, true] => f64::NEG_INFINITY,
        // Nothing equals NaN.
        [false, false] => f64::NAN,
    };
    if !dtype.is_float() {
        return malformed(format!("of {}", cx.ty(x)));
    }
    let endless = cx.scalar("infinity", dtype, endless);
    one(cx.out(Op::Binary(Binary::Eq), &[x, endless])?)
}

/// Clip to bounds that may be left out.
pub(super) fn clip(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let bounds = [(Binary::Max, cx.opt(1)?), (Binary::Min, cx.opt(2)?)];
    for (_, b) in bounds {
        if b.is_some_and(|b| cx.ty(b).rank() != 0) {
            return malformed("a bound is no scalar");
        }
    }
    match (bounds[0].1, bounds[1].1) {
        (None, None) => one(x),
        (Some(low), None) => one(cx.out(Op::Binary(Binary::Max), &[x, low])?),
        (None, Some(high)) => one(cx.out(Op::Binary(Binary::Min), &[x, high])?),
        (Some(low), Some(high)) => {
            let x = cx.binary("low", Binary::Max, x, low)?;
            one(cx.out(Op::Binary(Binary::Min), &[x, high])?)
        }
    }
}

/// Where.
pub(super) fn select(cx: &mut Cx<'_>) -> LoweredNode {
    let operands = cx.args()?;
    one(cx.out(Op::Select, &operands)?)
}

/// Cast; nothing if the type is that already. `saturate` and `round_mode` speak of types that annulus lacks.
pub(super) fn cast(cx: &mut Cx<'_>) -> LoweredNode {
    cx.int("saturate")?;
    cx.string("round_mode", "up")?;
    let Some(to) = cx.int("to")? else { return malformed("attribute to is missing") };
    let (x, to) = (cx.arg(0)?, cx.dtype_of(to)?);
    if cx.dtype(x) == to { one(x) } else { one(cx.out(Op::Cast(to), &[x])?) }
}

/// CastLike.
pub(super) fn cast_like(cx: &mut Cx<'_>) -> LoweredNode {
    cx.int("saturate")?;
    cx.string("round_mode", "up")?;
    let (x, like) = (cx.arg(0)?, cx.arg(1)?);
    let to = cx.dtype(like);
    if cx.dtype(x) == to { one(x) } else { one(cx.out(Op::Cast(to), &[x])?) }
}

/// Identity, also of a sequence.
pub(super) fn identity(cx: &mut Cx<'_>) -> LoweredNode {
    match cx.inputs.first() {
        Some(Some(x)) => Ok(vec![x.clone()]),
        _ => malformed("operand 0 is missing"),
    }
}

/// Dropout outside training, or of ratio 0: the operand itself, and a mask that keeps everything.
pub(super) fn dropout(cx: &mut Cx<'_>) -> LoweredNode {
    cx.int("seed")?;
    let x = cx.arg(0)?;
    if let Some(why) = drops(cx)? {
        return unsupported(why);
    }
    let mut results = identity(cx)?;
    if cx.wants(1) {
        let yes = cx.scalar("keep", DType::Bool, 1.0);
        let shape = cx.shape(x);
        results.extend(one(cx.out_nth(1, Op::Broadcast(shape), &[yes])?)?);
    }
    Ok(results)
}

/// Why a Dropout is not the identity, if it is not: in training it drops what chance says, if anything.
fn drops(cx: &mut Cx<'_>) -> Result<Option<String>, Refusal> {
    let zero = |x: &Tensor| x.to_f64().iter().all(|&x| x == 0.0);
    let Some(mode) = cx.opt(2)? else { return Ok(None) };
    let training = cx.known(mode);
    if training.as_ref().is_some_and(|x| x.dtype() == DType::Bool && zero(x)) {
        return Ok(None);
    }
    let ratio = cx.opt(1)?;
    let known = ratio.and_then(|ratio| cx.known(ratio));
    if known.as_ref().is_some_and(|x| x.dtype().is_float() && x.len() == 1 && zero(x)) {
        return Ok(None);
    }
    let ratio = match (ratio, known.as_ref().map(Tensor::to_f64).as_deref()) {
        (None, _) => "its ratio is left out, and is 0.5".to_owned(),
        (Some(_), Some([x])) => format!("its ratio is {x}"),
        (Some(v), _) => format!("its ratio ({}) is no number that is known", cx.graph.value(v).name),
    };
    let mode = match training {
        Some(_) => "training mode".to_owned(),
        None => {
            format!("training mode ({}) that depends on the values of the inputs", cx.graph.value(mode).name)
        }
    };
    Ok(Some(format!(
        "{mode}, in which chance decides: {ratio}; export the model for inference, or with a ratio of 0"
    )))
}
