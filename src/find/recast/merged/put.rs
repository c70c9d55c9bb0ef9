//! A softmax over all keys, and one product with all values, in the place of what was merged.

use super::candidate::Candidate;
use super::walk::{Kind, Product, Walk};
use crate::find::axes::factors::Dim;
use crate::find::axes::relayout::emit;
use crate::find::recast::operands::cast;
use crate::find::recast::split_keys;
use crate::find::recast::types::Log;
use crate::ir::{Binary, DType, Graph, Op, OpId, Opaque, Reduction, Tensor, Type, Unary, ValueId};
use std::sync::Arc;

/// What was made.
pub(super) struct Put {
    pub(super) products: Vec<OpId>,
    pub(super) log: Option<Log>,
    /// The softmax over all keys.
    pub(super) softmax: OpId,
}

/// Replaces a result, and what is read of its logarithm.
pub(super) fn put(g: &mut Graph, walk: &Walk<'_>, candidate: &Candidate) -> Option<Put> {
    let value = &walk.known[&candidate.v];
    let mut products: Vec<&Product> = value.of.products.iter().map(|&p| &walk.products[p]).collect();
    in_order(g, walk, &mut products);
    let first = *products.first()?;
    let part = &walk.parts[first.part];
    let axis = part.axis;
    let resolved = |p: &Product| {
        let own = &walk.parts[p.part];
        let mut axes = walk.space.resolve_all(&own.axes);
        axes.get_mut(own.axis).map(std::mem::take)?;
        Some((own.axis, axes, walk.space.resolve_all(&p.axes), g.op(p.op).clone(), p.side))
    };
    // All parts are laid out alike, and their weights as their scores.
    let alike = products.iter().all(|p| resolved(p) == resolved(first) && as_scores(g, walk, p));
    if !alike {
        return None;
    }
    let name = walk.g.value(candidate.v).name.clone();
    let mut pieces = vec![];
    for p in &products {
        pieces.push(masked(g, walk, value.of.masks.iter().copied(), p.part, &name)?);
    }
    let (scores, mut made) = match pieces[..] {
        [one] => (one, vec![]),
        _ => split_keys::keys_beside(g, &pieces, axis, &name)?,
    };
    let anchor = candidate.inside.iter().rev().find(|id| {
        matches!(walk.g.op(**id), Op::Softmax { .. } | Op::Unary(Unary::Exp))
            && matches!(walk.known.get(&walk.g.result(**id)).map(|v| v.kind), Some(Kind::Keys(..)))
    })?;
    let source = walk.g.source(*anchor).to_owned();
    let softmax = g.add1(Op::Softmax { axis }, &[scores], &format!("{name}.softmax"), &source).ok()?;
    let mut weights = softmax;
    if candidate.verdict.zero {
        weights = zeros(g, scores, softmax, axis, &name)?;
    }
    let operands = |g: &Graph, p: &Product| g.operands(p.op);
    let weights = cast(g, weights, g.ty(operands(g, first)[first.side]).dtype, &name).ok()?;
    let values: Vec<ValueId> = products.iter().map(|p| operands(g, p)[1 - p.side]).collect();
    let values = match values[..] {
        [one] => one,
        _ => {
            let Op::Contract(c) = g.op(first.op) else { return None };
            let (pl, vl) = if first.side == 0 { (&c.lhs, &c.rhs) } else { (&c.rhs, &c.lhs) };
            let letter = pl.chars().nth(axis)?;
            let along = vl.chars().position(|l| l == letter)?;
            split_keys::beside(g, &values, along, &format!("{name}.values"))?
        }
    };
    let operands = if first.side == 0 { [weights, values] } else { [values, weights] };
    let source = g.source(first.op).to_owned();
    let product = g.add(g.op(first.op).clone(), &operands, &name, &source).ok()?;
    made.push(product);
    let new = emit(g, &walk.space, g.result(product), &first.axes, &value.axes, &name).ok()?;
    let new = cast(g, new, g.ty(candidate.v).dtype, &name).ok()?;
    let mut replaced = vec![(candidate.v, new)];
    let log = if candidate.logs.is_empty() {
        None
    } else {
        let (log, of) = log(g, walk, candidate, (scores, softmax, axis), values, &name)?;
        replaced.extend(of);
        Some(log)
    };
    if replaced.iter().any(|&(old, new)| g.ty(old) != g.ty(new)) {
        return None;
    }
    for (old, new) in replaced {
        g.replace(old, new).ok()?;
    }
    Some(Put { products: made, log, softmax: softmax.op })
}

/// Parts that are slices of one value in its order, others in that of the graph.
fn in_order(g: &Graph, walk: &Walk<'_>, products: &mut [&Product]) {
    products.sort_by_key(|p| (walk.order.place(walk.parts[p.part].scores.op), p.part));
    let slice = |p: &Product| {
        let mut at = g.operands(p.op)[1 - p.side];
        loop {
            let x = g.operands(at.op);
            match *g.op(at.op) {
                Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Cast(_) => at = x[0],
                Op::Slice { axis, start, step: 1, .. } => return Some((x[0], axis, start)),
                _ => return None,
            }
        }
    };
    let slices: Option<Vec<_>> = products.iter().map(|p| slice(p)).collect();
    if let Some(slices) = slices
        && slices.iter().all(|s| (s.0, s.1) == (slices[0].0, slices[0].1))
    {
        products.sort_by_key(|p| slice(p).map(|s| s.2));
    }
}

/// Whether the weights of a product are laid out as its scores.
fn as_scores(g: &Graph, walk: &Walk<'_>, p: &Product) -> bool {
    let own = &walk.parts[p.part];
    let weights = walk.g.operands(p.op)[p.side];
    let axes = |axes: &[Vec<Dim>]| walk.space.resolve_all(axes);
    let same_rank = g.ty(weights).shape == g.ty(own.scores).shape;
    walk.known.get(&weights).is_some_and(|w| {
        same_rank && w.kind == Kind::Keys(p.part, own.axis) && axes(&w.axes) == axes(&own.axes)
    })
}

/// The scores of a part with −∞ where masks behind their exponentials keep nothing.
fn masked(
    g: &mut Graph,
    walk: &Walk<'_>,
    masks: impl Iterator<Item = usize>,
    part: usize,
    name: &str,
) -> Option<ValueId> {
    let mut at = walk.parts[part].scores;
    for mask in masks.map(|m| walk.masks[m]).filter(|m| m.part == part) {
        let mut keep = mask.value;
        // Truth values that were made numbers.
        while let Op::Cast(_) = g.op(keep.op)
            && let of = g.operands(keep.op)[0]
            && matches!(g.ty(of).dtype, DType::Bool | DType::F16 | DType::BF16 | DType::F32 | DType::F64)
            && g.ty(keep).dtype != DType::Bool
        {
            keep = of;
        }
        if g.ty(keep).dtype != DType::Bool {
            keep = g.add1(Op::Cast(DType::Bool), &[keep], &format!("{name}.keep"), "").ok()?;
        }
        let none = Tensor::scalar(g.ty(at).dtype, f64::NEG_INFINITY);
        let none = g.constant(&format!("{name}.none"), none);
        let operands = if mask.drops { [keep, none, at] } else { [keep, at, none] };
        at = g.add1(Op::Select, &operands, &format!("{name}.masked"), "").ok()?;
    }
    Some(at)
}

/// Probabilities, but zeros in a row whose largest score is −∞.
fn zeros(g: &mut Graph, scores: ValueId, softmax: ValueId, axis: usize, name: &str) -> Option<ValueId> {
    let name = format!("{name}.empty");
    let dtype = g.ty(scores).dtype;
    let max = Op::Reduce { kind: Reduction::Max, axes: vec![axis], keep: true };
    let max = g.add1(max, &[scores], &name, "").ok()?;
    let none = g.constant(&name, Tensor::scalar(dtype, f64::NEG_INFINITY));
    let empty = g.add1(Op::Binary(Binary::Eq), &[max, none], &name, "").ok()?;
    let zero = g.constant(&name, Tensor::scalar(dtype, 0.0));
    g.add1(Op::Select, &[empty, zero, softmax], &name, "").ok()
}

/// Something in the place of the logarithms until the attention is there that gives them.
fn log(
    g: &mut Graph,
    walk: &Walk<'_>,
    candidate: &Candidate,
    (scores, softmax, axis): (ValueId, ValueId, usize),
    values: ValueId,
    name: &str,
) -> Option<(Log, Vec<(ValueId, ValueId)>)> {
    let ty = g.ty(scores);
    let dtype = if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut shape = ty.shape.clone();
    shape[axis] = 1;
    let stand_in = Opaque {
        domain: "annulus".into(),
        name: "LogSumExp".into(),
        overload: String::new(),
        version: 1,
        imports: vec![],
        attributes: vec![],
        left_out: vec![],
        unwanted: vec![],
        captured: vec![],
        results: vec![Type::new(dtype, shape)],
        rowwise: None,
        why: String::new(),
    };
    // What it reads makes it depend on what the scores depend on.
    let stand_in = g.add1(Op::Opaque(Arc::new(stand_in)), &[values], &format!("{name}.lse"), "").ok()?;
    let part = walk.known[&candidate.v].of.parts.iter().next()?;
    let mut axes = walk.parts[*part].axes.clone();
    axes[axis] = vec![];
    let mut replaced = vec![];
    for &old in &candidate.logs {
        let own = &walk.known[&old].axes;
        let new = emit(g, &walk.space, stand_in, &axes, own, name).ok()?;
        let new = cast(g, new, g.ty(old).dtype, name).ok()?;
        replaced.push((old, new));
    }
    Some((Log { anchor: softmax.op, stand_in }, replaced))
}
