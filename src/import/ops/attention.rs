//! ONNX Attention, and FlexAttention without subgraphs, become [`Op::Attention`] with everything explicit.
//!
//! Rules of the operator, versions 23 to 25: softcap, then bias and mask, then softmax. The causal frontier and the window
//! stand at `row + offset`; the offset is the number of past keys, or per batch entry `nonpad_kv_seqlen − rows`, or 0. A
//! mask shorter than the keys is padded with −∞. A row without a live key gives zeros. Query heads share a key head with
//! their neighbours.

use super::super::departure::Differs;
use super::super::node::Cx;
use super::super::outcome::{Lowered, LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::infer::attention_sizes;
use crate::ir::{
    Attention, AttentionSizes, Binary, Contract, DType, Factor, Op, Reduction, ScoreStep, Tensor, Type,
    Unary, ValueId, WayOut,
};
use crate::mask::{Fill, Mask, Term};

/// Which stage of the scores the fourth result shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ScoreOutput {
    Scaled,
    Capped,
    Masked,
    Softmax,
}

/// Attention.
pub(super) fn attention(cx: &mut Cx<'_>) -> LoweredNode {
    let heads = [cx.int("q_num_heads")?, cx.int("kv_num_heads")?];
    let scale = cx.float("scale")?;
    let softcap = cx.float("softcap")?.unwrap_or(0.0);
    let causal = cx.flag("is_causal", false)?;
    let precision = cx.int("softmax_precision")?;
    let bounds = window(cx)?;
    let stage = match cx.int("qk_matmul_output_mode")?.unwrap_or(0) {
        0 => ScoreOutput::Scaled,
        1 => ScoreOutput::Capped,
        2 => ScoreOutput::Masked,
        3 => ScoreOutput::Softmax,
        other => return malformed(format!("qk_matmul_output_mode is {other}")),
    };

    let flat = cx.arg(0).map(|q| cx.ty(q).rank() == 3)?;
    let q = apart(cx, 0, "q", heads[0])?;
    let mut k = apart(cx, 1, "k", heads[1])?;
    let mut v = apart(cx, 2, "v", heads[1])?;
    let past = match (cx.opt(4)?, cx.opt(5)?) {
        (None, None) => None,
        (Some(pk), Some(pv)) => {
            k = behind(cx, 1, pk, k)?;
            v = behind(cx, 2, pv, v)?;
            Some(cx.shape(pk)[2])
        }
        _ => return malformed("past_key and past_value do not come together"),
    };
    // V may be of another type than Q and K; the result is of theirs.
    let own = cx.dtype(q);
    let common = common(own, cx.dtype(v));
    let mut operands = vec![];
    for (what, x) in [("q.wide", q), ("k.wide", k), ("v.wide", v)] {
        // What is no number is refused below, by its type.
        operands.push(if cx.dtype(x).is_float() { cx.cast(what, x, common)? } else { x });
    }
    let sizes = match attention_sizes(&cx.ty(operands[0]), &cx.ty(operands[1]), &cx.ty(operands[2])) {
        Ok(s) => s,
        Err(why) => return malformed(why),
    };

    let mut node = bare(cx, &sizes, common, scale, precision)?;
    let (mut bias, mut terms) = (None, vec![]);
    if let Some(mask) = cx.opt(3)? {
        if cx.dtype(mask).is_float() && may_hold_least_rows(cx, mask) {
            cx.departs.push(Differs::LeastRow);
        }
        let mask = padded(cx, mask, sizes.kv_len)?;
        match cx.dtype(mask) {
            DType::Bool => terms.push(Term::Tensor { operand: operands.len() }),
            t if t.is_float() => bias = Some(operands.len()),
            t => return malformed(format!("its mask holds {t}")),
        }
        operands.push(mask);
    }
    match (cx.opt(6)?, past) {
        (Some(_), Some(_)) => return malformed("nonpad_kv_seqlen and past_key exclude each other"),
        (Some(lengths), None) => {
            let live = live(cx, lengths, &sizes, causal, bounds)?;
            terms.push(Term::Tensor { operand: operands.len() });
            operands.push(live);
        }
        (None, past) => {
            let offset = past.unwrap_or(0) as i64;
            if causal {
                terms.push(Term::Causal { offset });
            }
            if let (left, right) = bounds
                && (left.is_some() || right.is_some())
            {
                terms.push(Term::Window { left, right, offset });
            }
        }
    }

    if softcap != 0.0 {
        node = node.then(ScoreStep::Softcap(softcap));
    }
    if let Some(bias) = bias {
        node = node.biased(bias);
    }
    node = node.masked(Mask { terms, fill: Fill::NegInf });

    let qk = match cx.wants(3) {
        true => {
            let qk = scores(cx, &node, &operands, &sizes, stage)?;
            Some(cx.cast("qk.own", qk, own)?)
        }
        false => None,
    };
    let op = Op::Attention(Box::new(node));
    let y = if flat || own != common {
        let y = cx.sub("heads", op, &operands)?;
        if !flat {
            let y = cx.out(Op::Cast(own), &[y])?;
            return Ok([y, k, v].into_iter().chain(qk).map(Lowered::Value).collect());
        }
        let y = cx.cast("narrow", y, own)?;
        let rows = cx.permute("rows", y, &[0, 2, 1, 3])?;
        let Some(hidden) = sizes.q_heads.checked_mul(sizes.v_head_dim) else {
            return malformed("its result is too large");
        };
        cx.out(Op::Reshape(vec![sizes.batch, sizes.q_len, hidden]), &[rows])?
    } else {
        cx.out(op, &operands)?
    };
    let mut results = vec![y, k, v];
    results.extend(qk);
    Ok(results.into_iter().map(Lowered::Value).collect())
}

/// ai.onnx.preview FlexAttention without graphs inside; one with them was taken apart before (see [`super::flex`]).
pub(super) fn flex(cx: &mut Cx<'_>) -> LoweredNode {
    let (scale, precision) = (cx.float("scale")?, cx.int("softmax_precision")?);
    let operands = cx.args()?;
    let [q, k, v] = operands.as_slice() else { return malformed("its operands are not q, k and v") };
    let sizes = match attention_sizes(&cx.ty(*q), &cx.ty(*k), &cx.ty(*v)) {
        Ok(s) => s,
        Err(why) => return malformed(why),
    };
    let dtype = cx.dtype(*q);
    let node = bare(cx, &sizes, dtype, scale, precision)?;
    one(cx.out(Op::Attention(Box::new(node)), &operands)?)
}

/// An attention without mask. A scale that is not given is 1/√(head size); sums are kept at least as wide as
/// `softmax_precision` says.
fn bare(
    cx: &mut Cx<'_>,
    sizes: &AttentionSizes,
    dtype: DType,
    scale: Option<f64>,
    precision: Option<i64>,
) -> Result<Attention, Refusal> {
    let scale = scale.unwrap_or_else(|| 1.0 / (sizes.head_dim as f64).sqrt());
    let mut node = Attention::plain(scale, dtype.accumulator());
    if let Some(code) = precision {
        let wide = cx.dtype_of(code)?;
        if !wide.is_float() {
            return malformed(format!("softmax_precision is {wide}"));
        }
        node.acc = if wide == DType::F64 { DType::F64 } else { node.acc };
        if dtype.is_float() && !dtype.is_exact_in(wide) {
            cx.departs.push(Differs::Precision);
        }
    }
    Ok(node)
}

/// Whether a row of a float mask may be the least number of its type for every key: always, unless its numbers are known.
fn may_hold_least_rows(cx: &mut Cx<'_>, mask: ValueId) -> bool {
    let ty = cx.ty(mask);
    let (Some(known), Some(&keys)) = (cx.known(mask), ty.shape.last()) else { return true };
    let least = match ty.dtype {
        DType::F64 => f64::MIN,
        DType::F32 => f64::from(f32::MIN),
        DType::F16 => half::f16::MIN.to_f64(),
        _ => half::bf16::MIN.to_f64(),
    };
    known.to_f64().chunks(keys.max(1)).any(|row| row.iter().all(|&x| x == least))
}

/// A type that holds the numbers of both.
fn common(a: DType, b: DType) -> DType {
    match (a.is_exact_in(b), b.is_exact_in(a)) {
        (_, true) => a,
        (true, _) => b,
        _ => DType::F32,
    }
}

type Bounds = (Option<u64>, Option<u64>);

/// The window's bounds; −1 is none.
fn window(cx: &mut Cx<'_>) -> Result<Bounds, Refusal> {
    let mut bound = |name: &str| match cx.int(name)?.unwrap_or(-1) {
        -1 => Ok(None),
        b => match u64::try_from(b) {
            Ok(b) => Ok(Some(b)),
            Err(_) => malformed(format!("{name} is {b}")),
        },
    };
    Ok((bound("left_window_size")?, bound("right_window_size")?))
}

/// Operand `i` with its heads as an axis of their own: (batch, head, row, size).
fn apart(cx: &mut Cx<'_>, i: usize, what: &str, heads: Option<i64>) -> Result<ValueId, Refusal> {
    let x = cx.arg(i)?;
    match (cx.shape(x).as_slice(), heads.map(usize::try_from)) {
        (&[_, h, _, _], given) => match given {
            Some(n) if n != Ok(h) => malformed(format!("{what} has {h} heads, not as the attribute says")),
            _ => Ok(x),
        },
        (&[b, s, hidden], Some(Ok(h))) if h > 0 && hidden % h == 0 => {
            let x = cx.reshape(&format!("{what}.heads"), x, &[b, s, h, hidden / h])?;
            cx.permute(what, x, &[0, 2, 1, 3])
        }
        _ => malformed(format!("{what} is {} with {heads:?} heads", cx.ty(x))),
    }
}

/// New rows behind past ones; the result is output `i`, where it is wanted.
fn behind(cx: &mut Cx<'_>, i: usize, past: ValueId, new: ValueId) -> Result<ValueId, Refusal> {
    if cx.ty(past).rank() != 4 {
        return malformed(format!("past rows are {}", cx.ty(past)));
    }
    match super::shape::concatenate_nth(cx, i, &[past, new], 2)?.as_slice() {
        [Lowered::Value(v)] => Ok(*v),
        _ => malformed("past rows are no value"),
    }
}

/// The mask, padded where it is shorter than the keys: a key it does not speak of takes no part. From version 24 on this
/// holds for a mask of one key too, which does not broadcast over the keys.
fn padded(cx: &mut Cx<'_>, mask: ValueId, keys: usize) -> Result<ValueId, Refusal> {
    let ty = cx.ty(mask);
    let Some(&last) = ty.shape.last() else { return Ok(mask) };
    if last >= keys {
        return Ok(mask);
    }
    if last == 1 && cx.version < 24 {
        // The operator's function body at 23 broadcasts it; its reference implementation pads it.
        return unsupported(
            "at version 23 a mask of one key over more keys may be meant for every key or for the first",
            WayOut::ExpandMask,
        );
    }
    let value = if ty.dtype == DType::Bool { 0.0 } else { f64::NEG_INFINITY };
    let value = cx.scalar("mask.fill", ty.dtype, value);
    let low = vec![0; ty.rank()];
    let mut high = low.clone();
    high[ty.rank() - 1] = keys - last;
    cx.sub("mask", Op::Pad { low, high }, &[mask, value])
}

/// Which keys are live when each batch entry has its own number of them: a truth value for each pair, or each key.
fn live(
    cx: &mut Cx<'_>,
    lengths: ValueId,
    sizes: &AttentionSizes,
    causal: bool,
    (left, right): Bounds,
) -> Result<ValueId, Refusal> {
    if cx.dtype(lengths) != DType::I64 || cx.shape(lengths) != [sizes.batch] {
        return malformed("nonpad_kv_seqlen is no vector of i64 with one entry a batch entry");
    }
    let length = cx.reshape("length", lengths, &[sizes.batch, 1, 1, 1])?;
    let count = |n, axis| Op::Iota { ty: Type::new(DType::I64, n), axis };
    let key = cx.sub("key", count(vec![sizes.kv_len], 0), &[])?;
    // The last row stands at the last key that is no padding, so that a causal row sees no padding.
    let mut conditions = vec![];
    if !causal {
        conditions.push(cx.binary("unpadded", Binary::Lt, key, length)?);
    }
    if causal || left.is_some() || right.is_some() {
        let row = cx.sub("row", count(vec![sizes.q_len, 1], 0), &[])?;
        let offset = cx.with_scalar("offset", Binary::Sub, length, sizes.q_len as f64)?;
        let at = cx.binary("at", Binary::Add, row, offset)?;
        if causal {
            conditions.push(cx.binary("causal", Binary::Le, key, at)?);
        }
        // No window reaches further than there are rows and keys.
        let far = |bound: u64| bound.min((sizes.q_len + sizes.kv_len) as u64) as f64;
        if let Some(left) = left {
            let first = cx.with_scalar("first", Binary::Sub, at, far(left))?;
            conditions.push(cx.binary("left", Binary::Ge, key, first)?);
        }
        if let Some(right) = right {
            let last = cx.with_scalar("last", Binary::Add, at, far(right))?;
            conditions.push(cx.binary("right", Binary::Le, key, last)?);
        }
    }
    let Some((&first, rest)) = conditions.split_first() else { return malformed("no condition") };
    rest.iter().try_fold(first, |all, &c| cx.binary("live", Binary::And, all, c))
}

/// The scores up to `stage`, for the fourth result: written out, for no attention shows them.
pub(super) fn scores(
    cx: &mut Cx<'_>,
    node: &Attention,
    operands: &[ValueId],
    s: &AttentionSizes,
    stage: ScoreOutput,
) -> Result<ValueId, Refusal> {
    let dtype = cx.dtype(operands[0]);
    let q = cx.cast("qk.q", operands[0], node.acc)?;
    let k = cx.cast("qk.k", operands[1], node.acc)?;
    let (group, full) = (s.q_heads / s.kv_heads, [s.batch, s.q_heads, s.q_len, s.kv_len]);
    let q = cx.reshape("qk.groups", q, &[s.batch, s.kv_heads, group, s.q_len, s.head_dim])?;
    let axes = Contract { lhs: "bhgqd".into(), rhs: "bhkd".into(), out: "bhgqk".into() };
    let product = cx.sub("qk.product", Op::Contract(axes), &[q, k])?;
    let product = cx.reshape("qk", product, &full)?;
    let mut x = product;
    let never = (stage >= ScoreOutput::Masked).then(|| cx.scalar("qk.never", node.acc, f64::NEG_INFINITY));
    for step in node.scores.steps() {
        x = match (step, never) {
            (ScoreStep::Factor(Factor::Number(c)), _) => cx.with_scalar("qk.scaled", Binary::Mul, x, *c)?,
            (ScoreStep::Softcap(c), _) if stage >= ScoreOutput::Capped => {
                let small = cx.with_scalar("qk.small", Binary::Div, x, *c)?;
                let bent = cx.unary("qk.tanh", Unary::Tanh, small)?;
                cx.with_scalar("qk.capped", Binary::Mul, bent, *c)?
            }
            (ScoreStep::Add(n), Some(_)) => {
                let bias = cx.cast("qk.bias", operands[*n], node.acc)?;
                cx.binary("qk.biased", Binary::Add, x, bias)?
            }
            (ScoreStep::Fill(mask), Some(never)) => {
                for term in &mask.terms {
                    let keep = match *term {
                        Term::Tensor { operand } => operands[operand],
                        _ => positions(cx, term, s)?,
                    };
                    x = cx.sub("qk.masked", Op::Select, &[keep, x, never])?;
                }
                x
            }
            // The operator has no others.
            _ => x,
        };
    }
    if let Some(never) = never.filter(|_| stage == ScoreOutput::Softmax) {
        let max = cx.reduce("qk.max", Reduction::Max, x, &[3])?;
        let empty = cx.binary("qk.empty", Binary::Eq, max, never)?;
        let softmax = cx.sub("qk.softmax", Op::Softmax { axis: 3 }, &[x])?;
        let zero = cx.scalar("qk.zero", node.acc, 0.0);
        x = cx.sub("qk.guarded", Op::Select, &[empty, zero, softmax])?;
    }
    cx.cast("qk.narrow", x, dtype)
}

/// Which pairs a term keeps that depends on positions alone: a truth value for each (row, key).
fn positions(cx: &mut Cx<'_>, term: &Term, s: &AttentionSizes) -> Result<ValueId, Refusal> {
    let far = (s.q_len + s.kv_len) as i64;
    let near = |x: i128| x.clamp(-i128::from(far), i128::from(far)) as f64;
    let (offset, low, high) = match *term {
        Term::Causal { offset } => (offset, None, Some(0)),
        Term::Window { left, right, offset } => (offset, left, right),
        _ => {
            return malformed("only a causal mask or a window is written out by positions");
        }
    };
    let count = |n, axis| Op::Iota { ty: Type::new(DType::I64, n), axis };
    let row = cx.sub("qk.row", count(vec![s.q_len, 1], 0), &[])?;
    let key = cx.sub("qk.key", count(vec![s.kv_len], 0), &[])?;
    let mut keep = None;
    for (bound, sign, compare) in [(low, -1, Binary::Ge), (high, 1, Binary::Le)] {
        let Some(bound) = bound else { continue };
        let edge = near(i128::from(offset) + sign * i128::from(bound));
        let edge = cx.with_scalar("qk.edge", Binary::Add, row, edge)?;
        let side = cx.binary("qk.side", compare, key, edge)?;
        keep = Some(match keep {
            None => side,
            Some(other) => cx.binary("qk.sides", Binary::And, other, side)?,
        });
    }
    match keep {
        Some(keep) => Ok(keep),
        None => Ok(cx.constant("qk.all", Tensor::scalar(DType::Bool, 1.0))),
    }
}
