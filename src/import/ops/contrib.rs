//! Attention operators of com.microsoft, Attention and MultiHeadAttention, become [`Op::Attention`].
//!
//! Rules of the operators: softmax(scale·q·k + mask + bias). A key that the mask leaves out is *lowered by*
//! `mask_filter_value`, a finite number, and so still takes part; a key after the row of a unidirectional operator takes no
//! part. All heads have keys of their own. Past rows come before new ones.

use super::super::departure::Differs;
use super::super::node::Cx;
use super::super::outcome::{Lowered, LoweredNode, Refusal, malformed, unsupported};
use super::attention::{ScoreOutput, scores};
use crate::ir::infer::attention_sizes;
use crate::ir::{Attention, AttentionSizes, Binary, Contract, DType, EmptyRow, Op, Type, ValueId, WayOut};
use crate::mask::{Fill, Mask, Term};

/// What the two operators have in common.
struct Attributes {
    heads: usize,
    scale: Option<f64>,
    filter: f64,
    causal: bool,
}

fn attributes(cx: &mut Cx<'_>) -> Result<Attributes, Refusal> {
    let heads = match cx.int("num_heads")?.map(usize::try_from) {
        Some(Ok(heads)) if heads > 0 => heads,
        _ => return malformed("attribute num_heads is missing, or not positive"),
    };
    let filter = cx.float("mask_filter_value")?.unwrap_or(-10000.0);
    if !(filter.is_finite() || filter == f64::NEG_INFINITY) {
        return malformed(format!("mask_filter_value is {filter}"));
    }
    // A scale of 0 stands for one that is not given.
    let scale = cx.float("scale")?.filter(|&s| s != 0.0);
    Ok(Attributes { heads, scale, filter, causal: cx.flag("unidirectional", false)? })
}

/// Attention: q, k and v are one projection of the input, their weights side by side.
pub(super) fn attention(cx: &mut Cx<'_>) -> LoweredNode {
    let a = attributes(cx)?;
    if cx.flag("do_rotary", false)? || cx.flag("past_present_share_buffer", false)? || cx.has(6) {
        return unsupported(
            "it turns rotary positions, or keeps past and present in one buffer",
            WayOut::AttentionOperator,
        );
    }
    // Without do_rotary it says nothing.
    cx.int("rotary_embedding_dim")?;
    let (x, w) = (cx.arg(0)?, cx.arg(1)?);
    let (xs, ws) = (cx.shape(x), cx.shape(w));
    let (&[batch, rows, inner], &[depth, width]) = (xs.as_slice(), ws.as_slice()) else {
        return malformed("its input has not 3 axes, or its weights not 2");
    };
    if inner != depth {
        return malformed(format!("an input of size {inner} and weights of {depth}"));
    }
    let parts: Vec<usize> = match cx.int_list("qkv_hidden_sizes")? {
        None => vec![width / 3; 3],
        Some(sizes) => sizes.iter().map(|&s| usize::try_from(s).unwrap_or(usize::MAX)).collect(),
    };
    let total = parts.iter().try_fold(0usize, |n, &p| n.checked_add(p));
    if parts.len() != 3 || total != Some(width) || parts.iter().any(|p| p % a.heads != 0) {
        return malformed(format!("projections of size {parts:?} in {width}, {} heads", a.heads));
    }
    let axes = Contract { lhs: "bsi".into(), rhs: "in".into(), out: "bsn".into() };
    let mut qkv = cx.sub("projected", Op::Contract(axes), &[x, w])?;
    if let Some(bias) = cx.opt(2)? {
        if cx.shape(bias) != [width] {
            return malformed(format!("its bias is {}", cx.ty(bias)));
        }
        qkv = cx.binary("biased", Binary::Add, qkv, bias)?;
    }
    let part = |cx: &mut Cx<'_>, what: &str, start: usize, size: usize| {
        let part = cx.slice(&format!("{what}.part"), qkv, 2, start, size)?;
        let part = cx.reshape(&format!("{what}.heads"), part, &[batch, rows, a.heads, size / a.heads])?;
        cx.permute(what, part, &[0, 2, 1, 3])
    };
    let q = part(cx, "q", 0, parts[0])?;
    let k = part(cx, "k", parts[0], parts[1])?;
    let v = part(cx, "v", parts[0] + parts[1], parts[2])?;
    let (mut k, mut v, mut past) = (k, v, 0);
    if let Some(both) = cx.opt(4)? {
        let shape = cx.shape(both);
        let &[2, b, h, rows, size] = shape.as_slice() else {
            return malformed(format!("past is {}", cx.ty(both)));
        };
        let half = |cx: &mut Cx<'_>, what: &str, i: usize| {
            let half = cx.slice(&format!("{what}.half"), both, 0, i, 1)?;
            cx.reshape(what, half, &[b, h, rows, size])
        };
        let old = [half(cx, "past.k", 0)?, half(cx, "past.v", 1)?];
        k = behind(cx, "present.k", old[0], k)?;
        v = behind(cx, "present.v", old[1], v)?;
        past = rows;
    }
    let mask = cx.opt(3)?;
    let y = attend(cx, [q, k, v], mask, cx.opt(5)?, past, &a)?;
    let mut results = vec![Lowered::Value(y)];
    if cx.wants(1) {
        let mut shape = cx.shape(k);
        if shape != cx.shape(v) {
            return malformed("present keys and values differ in size");
        }
        shape.insert(0, 1);
        let halves = [cx.reshape("present.k.half", k, &shape)?, cx.reshape("present.v.half", v, &shape)?];
        results.push(Lowered::Value(cx.out_nth(1, Op::Concat { axis: 0 }, &halves)?));
    }
    Ok(results)
}

/// MultiHeadAttention: q, k and v come apart, or packed along an axis of their own; their projection lies before it.
pub(super) fn multi_head(cx: &mut Cx<'_>) -> LoweredNode {
    let a = attributes(cx)?;
    if cx.has(8) || cx.has(9) {
        return unsupported("it keeps past and present in one buffer", WayOut::AttentionOperator);
    }
    let x = cx.arg(0)?;
    let (key, value) = (cx.opt(1)?, cx.opt(2)?);
    let unpacked = |cx: &mut Cx<'_>, packed: ValueId, i: usize| -> Result<ValueId, Refusal> {
        let shape = cx.shape(packed);
        let part = cx.slice(&format!("part{i}"), packed, 3, i, 1)?;
        let flat = [shape[0], shape[1], shape[2] * shape[4]];
        cx.reshape(&format!("flat{i}"), part, &flat)
    };
    let packs = |cx: &Cx<'_>, v: ValueId, n: usize| {
        let shape = cx.shape(v);
        shape.len() == 5 && shape[2] == a.heads && shape[3] == n
    };
    let mut past = 0;
    let flat = match (key, value) {
        (None, None) if packs(cx, x, 3) => [unpacked(cx, x, 0)?, unpacked(cx, x, 1)?, unpacked(cx, x, 2)?],
        (Some(kv), None) if packs(cx, kv, 2) => [x, unpacked(cx, kv, 0)?, unpacked(cx, kv, 1)?],
        (Some(k), Some(v)) => [x, k, v],
        _ => return malformed("its operands are neither q, k and v nor packed"),
    };
    let bias = cx.opt(3)?;
    let sizes = flat.map(|v| cx.shape(v).last().copied().unwrap_or(0));
    if let Some(b) = bias {
        if flat.iter().any(|&v| cx.ty(v).rank() != 3) {
            return unsupported("its bias is added to keys that have heads already", WayOut::BiasBeforeHeads);
        }
        if cx.shape(b) != [sizes.iter().sum::<usize>()] {
            return malformed(format!("its bias is {}", cx.ty(b)));
        }
    }
    let mut start = 0;
    let mut heads = flat;
    for (i, what) in ["q", "k", "v"].into_iter().enumerate() {
        let mut part = flat[i];
        if let Some(b) = bias {
            let b = cx.slice(&format!("{what}.bias"), b, 0, start, sizes[i])?;
            part = cx.binary(&format!("{what}.biased"), Binary::Add, part, b)?;
            start += sizes[i];
        }
        heads[i] = match *cx.shape(part).as_slice() {
            [b, s, hidden] if hidden % a.heads == 0 => {
                let apart = [b, s, a.heads, hidden / a.heads];
                let part = cx.reshape(&format!("{what}.heads"), part, &apart)?;
                cx.permute(what, part, &[0, 2, 1, 3])?
            }
            // Keys and values of a cross attention may come with their heads apart.
            [_, h, _, _] if h == a.heads && i > 0 => part,
            _ => return malformed(format!("{what} is {} with {} heads", cx.ty(part), a.heads)),
        };
    }
    let [q, mut k, mut v] = heads;
    match (cx.opt(6)?, cx.opt(7)?) {
        (None, None) => {}
        (Some(old_k), Some(old_v)) => {
            past = cx.shape(old_k).get(2).copied().unwrap_or(0);
            k = behind(cx, "present.k", old_k, k)?;
            v = behind(cx, "present.v", old_v, v)?;
        }
        _ => return malformed("past_key and past_value do not come together"),
    }
    let (mask, add) = (cx.opt(4)?, cx.opt(5)?);
    let y = attend(cx, [q, k, v], mask, add, past, &a)?;
    let mut results = vec![y, k, v];
    if cx.wants(3) {
        // What ONNX Runtime gives: the scaled scores, and what is added to them.
        if mask.is_some() || a.causal {
            return unsupported("its scores are asked for beside a mask", WayOut::MaskByHand);
        }
        let sizes = match attention_sizes(&cx.ty(q), &cx.ty(k), &cx.ty(v)) {
            Ok(s) => s,
            Err(why) => return malformed(why),
        };
        let scale = a.scale.unwrap_or_else(|| 1.0 / (sizes.head_dim as f64).sqrt());
        let mut node = Attention::plain(scale, cx.dtype(q).accumulator());
        if add.is_some() {
            node = node.biased(3);
        }
        let operands: Vec<ValueId> = [q, k, v].into_iter().chain(add).collect();
        results.push(scores(cx, &node, &operands, &sizes, ScoreOutput::Masked)?);
    }
    Ok(results.into_iter().map(Lowered::Value).collect())
}

/// New rows behind past ones.
fn behind(cx: &mut Cx<'_>, what: &str, past: ValueId, new: ValueId) -> Result<ValueId, Refusal> {
    if cx.shape(past).get(2) == Some(&0) {
        return Ok(new);
    }
    cx.sub(what, Op::Concat { axis: 2 }, &[past, new])
}

/// The attention itself, its heads joined again: the node's first result.
fn attend(
    cx: &mut Cx<'_>,
    [q, k, v]: [ValueId; 3],
    mask: Option<ValueId>,
    add: Option<ValueId>,
    past: usize,
    a: &Attributes,
) -> Result<ValueId, Refusal> {
    let s = match attention_sizes(&cx.ty(q), &cx.ty(k), &cx.ty(v)) {
        Ok(s) => s,
        Err(why) => return malformed(why),
    };
    let scale = a.scale.unwrap_or_else(|| 1.0 / (s.head_dim as f64).sqrt());
    let mut node = Attention::plain(scale, cx.dtype(q).accumulator());
    node.empty_row = EmptyRow::Nan;
    let mut operands = vec![q, k, v];
    if let Some(mask) = mask {
        let keep = kept(cx, mask, &s, past)?;
        let terms = vec![Term::Tensor { operand: operands.len() }];
        operands.push(keep);
        let fill = if a.filter.is_finite() { Fill::Add(a.filter) } else { Fill::NegInf };
        node = node.masked(Mask { terms, fill });
    }
    if let Some(b) = add {
        node = node.biased(operands.len());
        operands.push(b);
    }
    if a.causal {
        if past.saturating_add(s.q_len) < s.kv_len {
            cx.departs.push(Differs::LastRow);
        }
        node = node.masked(Mask::causal(past as i64));
    }
    let y = cx.sub("attention", Op::Attention(Box::new(node)), &operands)?;
    let rows = cx.permute("rows", y, &[0, 2, 1, 3])?;
    let Some(hidden) = s.q_heads.checked_mul(s.v_head_dim) else {
        return malformed("its result is too large");
    };
    cx.out(Op::Reshape(vec![s.batch, s.q_len, hidden]), &[rows])
}

/// Which keys a mask operand keeps, as truth values that broadcast to (batch, head, row, key). Its forms: one length a
/// batch entry; ends, then starts; 0 and 1 for each key, each row and key, or each pair of a longer square.
fn kept(cx: &mut Cx<'_>, mask: ValueId, s: &AttentionSizes, past: usize) -> Result<ValueId, Refusal> {
    let ty = cx.ty(mask);
    if !matches!(ty.dtype, DType::I32 | DType::I64) {
        return malformed(format!("its mask is {ty}"));
    }
    let (batch, rows, keys) = (s.batch, s.q_len, s.kv_len);
    let marks = |cx: &mut Cx<'_>, mask: ValueId, shape: &[usize]| {
        let mask = cx.reshape("mask.scores", mask, shape)?;
        cx.with_scalar("mask", Binary::Gt, mask, 0.0)
    };
    match *ty.shape.as_slice() {
        [n] if n == batch || n == batch.saturating_mul(2) => {
            let count = Op::Iota { ty: Type::new(ty.dtype, [keys]), axis: 0 };
            let key = cx.sub("mask.key", count, &[])?;
            let bound = |cx: &mut Cx<'_>, what: &str, i: usize| {
                let bound = cx.slice(&format!("mask.{what}.part"), mask, 0, i * batch, batch)?;
                cx.reshape(&format!("mask.{what}"), bound, &[batch, 1, 1, 1])
            };
            let end = bound(cx, "end", 0)?;
            let before_end = cx.binary("mask.before_end", Binary::Lt, key, end)?;
            if n == batch {
                return Ok(before_end);
            }
            let start = bound(cx, "start", 1)?;
            let from_start = cx.binary("mask.from_start", Binary::Ge, key, start)?;
            cx.binary("mask", Binary::And, before_end, from_start)
        }
        [b, t] if b == batch && t == keys => marks(cx, mask, &[b, 1, 1, t]),
        [b, r, t] if (b, r, t) == (batch, rows, keys) => marks(cx, mask, &[b, 1, r, t]),
        // A square over all positions, of which this block's rows follow the past ones.
        [b, 1, n, m] if b == batch && n == m && n >= keys && keys == past + rows => {
            let block = cx.slice("mask.rows", mask, 2, past, rows)?;
            let block = cx.slice("mask.keys", block, 3, 0, keys)?;
            marks(cx, block, &[b, 1, rows, keys])
        }
        _ => unsupported(
            format!("its mask is {ty}, a mask of no known form for {batch} × {rows} rows and {keys} keys"),
            WayOut::MaskOfKeys,
        ),
    }
}
