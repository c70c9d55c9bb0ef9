//! Operators that make shapes, or give elements another shape.

use super::super::node::{Cx, MAX_RANK};
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Binary, DType, Data, Op, Tensor, Type, ValueId, WayOut};
use std::sync::Arc;

/// Constant, from any of its attributes but strings and sparse tensors.
pub(super) fn constant(cx: &mut Cx<'_>) -> LoweredNode {
    let vector = |data: Data| Tensor::new(vec![data.len()], data);
    let value = if let Some(t) = cx.tensor("value")? {
        Some(t)
    } else if let Some(i) = cx.int("value_int")? {
        Tensor::new(vec![], Data::I64(Arc::new(vec![i])))
    } else if let Some(i) = cx.int_list("value_ints")? {
        vector(Data::I64(Arc::new(i)))
    } else if let Some(f) = cx.float("value_float")? {
        Some(Tensor::scalar(DType::F32, f))
    } else if let Some(f) = cx.float_list("value_floats")? {
        vector(Data::F32(Arc::new(f)))
    } else {
        return unsupported("its value is no dense tensor of numbers", WayOut::TensorConstant);
    };
    let Some(value) = value else { return malformed("its value has more elements than fit") };
    known(cx, value)
}

/// ConstantOfShape: a scalar, broadcast.
pub(super) fn constant_of_shape(cx: &mut Cx<'_>) -> LoweredNode {
    let value = cx.tensor("value")?.unwrap_or_else(|| Tensor::scalar(DType::F32, 0.0));
    let Some(value) = value.reshaped(vec![]) else { return malformed("attribute value has not one element") };
    let shape = cx.ints(0, "shape")?;
    let shape = extents(&shape)?;
    let scalar = cx.constant("value", value);
    if shape.is_empty() { one(scalar) } else { one(cx.out(Op::Broadcast(shape), &[scalar])?) }
}

/// Shape, or a run of it: a constant, for shapes are known.
pub(super) fn shape(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let shape = cx.shape(x);
    let rank = shape.len() as i64;
    let (start, end) = (cx.int("start")?.unwrap_or(0), cx.int("end")?.unwrap_or(rank));
    let clamp = |i: i64| if i < 0 { i.saturating_add(rank) } else { i }.clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end));
    let part: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&d| d as i64).collect();
    known(cx, Tensor::vector_i64(&part))
}

/// Size: the number of elements.
pub(super) fn size(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let n = cx.ty(x).elements() as i64;
    match Tensor::vector_i64(&[n]).reshaped(vec![]) {
        Some(t) => known(cx, t),
        None => malformed("no size"),
    }
}

fn known(cx: &mut Cx<'_>, value: Tensor) -> LoweredNode {
    let name = cx.output_name(0);
    one(cx.graph.constant(&name, value))
}

/// Range: a count, times the distance, plus the start.
pub(super) fn range(cx: &mut Cx<'_>) -> LoweredNode {
    let bounds = cx.args()?;
    let dtype = cx.dtype(bounds[0]);
    let mut numbers = [None; 3];
    for (number, &v) in numbers.iter_mut().zip(&bounds) {
        if cx.ty(v) != Type::new(dtype, vec![]) {
            return malformed("its bounds are not three scalars of one type");
        }
        *number = match cx.known(v).as_ref().map(Tensor::data) {
            Some(Data::I64(x)) => x.first().map(|&x| Bound::Int(x)),
            Some(Data::I32(x)) => x.first().map(|&x| Bound::Int(x.into())),
            Some(data) => data.to_f64().first().map(|&x| Bound::Float(x)),
            None => {
                let name = &cx.graph.value(v).name;
                let why = format!("its bound {name} depends on the values of the inputs");
                return unsupported(why, WayOut::FixSizes);
            }
        };
    }
    let (len, start, step) = match numbers {
        [Some(Bound::Int(a)), Some(Bound::Int(b)), Some(Bound::Int(d))] if d != 0 => {
            let (a, b, d) = (i128::from(a), i128::from(b), i128::from(d));
            let span = b - a;
            let len = if (span > 0) == (d > 0) { (span.abs() + d.abs() - 1) / d.abs() } else { 0 };
            (usize::try_from(len).ok(), a != 0, d != 1)
        }
        [Some(Bound::Float(a)), Some(Bound::Float(b)), Some(Bound::Float(d))] if d != 0.0 => {
            let len = ((b - a) / d).ceil().max(0.0);
            // The cast is exact: larger counts are no value's size.
            let len = (len <= crate::ir::MAX_DATA as f64).then_some(len as usize);
            (len, a != 0.0, d != 1.0)
        }
        _ => return malformed("its distance is 0"),
    };
    let Some(len) = len else { return malformed("it has too many elements") };
    let count = Op::Iota { ty: Type::new(dtype, vec![len]), axis: 0 };
    let (mul, add) = (Op::Binary(Binary::Mul), Op::Binary(Binary::Add));
    one(match (step, start) {
        (false, false) => cx.out(count, &[])?,
        (true, false) => {
            let n = cx.sub("count", count, &[])?;
            cx.out(mul, &[n, bounds[2]])?
        }
        (false, true) => {
            let n = cx.sub("count", count, &[])?;
            cx.out(add, &[n, bounds[0]])?
        }
        (true, true) => {
            let n = cx.sub("count", count, &[])?;
            let n = cx.sub("steps", mul, &[n, bounds[2]])?;
            cx.out(add, &[n, bounds[0]])?
        }
    })
}

#[derive(Clone, Copy)]
enum Bound {
    Int(i64),
    Float(f64),
}

/// Reshape, with 0 for an extent that stays (unless `allowzero`) and one −1 for what is left.
pub(super) fn reshape(cx: &mut Cx<'_>) -> LoweredNode {
    let zero_is_zero = cx.flag("allowzero", false)?;
    let x = cx.arg(0)?;
    let want = cx.ints(1, "shape")?;
    let ty = cx.ty(x);
    let mut shape = Vec::with_capacity(want.len());
    let mut open = None;
    for (i, &d) in want.iter().enumerate() {
        shape.push(match d {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !zero_is_zero => match ty.shape.get(i) {
                Some(&d) => d,
                None => return malformed(format!("shape {want:?} keeps axis {i}, which is not there")),
            },
            d => match usize::try_from(d) {
                Ok(d) => d,
                Err(_) => return malformed(format!("shape {want:?}")),
            },
        });
    }
    if let Some(i) = open {
        let rest = Type::new(ty.dtype, shape.clone()).checked_elements();
        shape[i] = match rest {
            Some(rest) if rest > 0 && ty.elements().is_multiple_of(rest) => ty.elements() / rest,
            _ => return malformed(format!("shape {want:?} does not fit {ty}")),
        };
    }
    to_shape(cx, x, shape)
}

/// The operand under another shape, as the node's output; nothing if the shape is that already.
fn to_shape(cx: &mut Cx<'_>, x: ValueId, shape: Vec<usize>) -> LoweredNode {
    if cx.shape(x) == shape { one(x) } else { one(cx.out(Op::Reshape(shape), &[x])?) }
}

/// Flatten to a matrix.
pub(super) fn flatten(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let shape = cx.shape(x);
    let axis = cx.int("axis")?.unwrap_or(1);
    // One past the last axis is allowed.
    let axis = if axis == shape.len() as i64 { shape.len() } else { cx.axis(axis, shape.len())? };
    let matrix = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    to_shape(cx, x, matrix)
}

/// Squeeze: the named axes, or every one of extent 1.
pub(super) fn squeeze(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let shape = cx.shape(x);
    let gone = match cx.opt_ints(1, "axes")? {
        Some(axes) => cx.axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
    };
    if let Some(&i) = gone.iter().find(|&&i| shape[i] != 1) {
        return malformed(format!("axis {i} of extent {} cannot be squeezed", shape[i]));
    }
    let left = (0..shape.len()).filter(|i| !gone.contains(i)).map(|i| shape[i]).collect();
    to_shape(cx, x, left)
}

/// Unsqueeze: the axes count in the result.
pub(super) fn unsqueeze(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let axes = cx.ints(1, "axes")?;
    let shape = cx.shape(x);
    let rank = shape.len().saturating_add(axes.len());
    if rank > MAX_RANK {
        return unsupported(format!("its result has {rank} axes, more than {MAX_RANK}"), WayOut::FewerAxes);
    }
    let new = cx.axes(&axes, rank)?;
    let mut old = shape.into_iter();
    let shape = (0..rank).map(|i| if new.contains(&i) { 1 } else { old.next().unwrap_or(1) }).collect();
    to_shape(cx, x, shape)
}

/// Expand: broadcasting in both directions.
pub(super) fn expand(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let want = cx.ints(1, "shape")?;
    let want = extents(&want)?;
    let have = cx.shape(x);
    let Some(shape) = crate::ir::types::broadcast(&have, &want) else {
        return malformed(format!("{} does not broadcast to {want:?}", cx.ty(x)));
    };
    if shape == have { one(x) } else { one(cx.out(Op::Broadcast(shape), &[x])?) }
}

/// Tile: each axis repeated as a whole; a new axis of the repeats, broadcast and merged.
pub(super) fn tile(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let shape = cx.shape(x);
    let repeats = cx.ints(1, "repeats")?;
    let repeats = extents(&repeats)?;
    if repeats.len() != shape.len() {
        return malformed(format!("repeats {repeats:?} do not fit {}", cx.ty(x)));
    }
    if repeats.iter().all(|&r| r == 1) {
        return one(x);
    }
    let mut split = vec![];
    let mut wide = vec![];
    let mut tiled = vec![];
    for (&d, &r) in shape.iter().zip(&repeats) {
        if r != 1 {
            split.push(1);
            wide.push(r);
        }
        split.push(d);
        wide.push(d);
        tiled.push(d.saturating_mul(r));
    }
    let parts = cx.reshape("split", x, &split)?;
    let wide = cx.expand("wide", parts, &wide)?;
    to_shape(cx, wide, tiled)
}

/// Transpose; the axes are reversed unless `perm` says otherwise.
pub(super) fn transpose(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let rank = cx.ty(x).rank();
    let perm = match cx.int_list("perm")? {
        Some(p) => p.iter().map(|&a| cx.axis(a, rank)).collect::<Result<Vec<usize>, Refusal>>()?,
        None => (0..rank).rev().collect(),
    };
    if perm.len() == rank && perm.is_sorted_by(|a, b| a < b) {
        return one(x);
    }
    one(cx.out(Op::Permute(perm), &[x])?)
}

/// Concat; operands without extent along the axis are left out.
pub(super) fn concat(cx: &mut Cx<'_>) -> LoweredNode {
    let operands = cx.args()?;
    let Some(axis) = cx.int("axis")? else { return malformed("attribute axis is missing") };
    concatenate(cx, &operands, axis)
}

/// Joins values as the node's output; nothing if only one has any extent along the axis.
pub(super) fn concatenate(cx: &mut Cx<'_>, operands: &[ValueId], axis: i64) -> LoweredNode {
    concatenate_nth(cx, 0, operands, axis)
}

/// [`concatenate`] that makes the node's output `i`.
pub(super) fn concatenate_nth(cx: &mut Cx<'_>, i: usize, operands: &[ValueId], axis: i64) -> LoweredNode {
    let Some(&first) = operands.first() else { return malformed("no operand") };
    let axis = cx.axis(axis, cx.ty(first).rank())?;
    let op = Op::Concat { axis };
    let types: Vec<Type> = operands.iter().map(|&v| cx.ty(v)).collect();
    // The rule looks at every operand, also at those left out below.
    crate::ir::infer::infer(&op, &types.iter().collect::<Vec<_>>())?;
    let mut parts: Vec<ValueId> = operands.iter().copied().filter(|&v| cx.shape(v)[axis] > 0).collect();
    if parts.is_empty() {
        parts.push(first);
    }
    if let [x] = parts.as_slice() { one(*x) } else { one(cx.out_nth(i, op, &parts)?) }
}

/// Pad, with a constant or with elements of the operand; a negative width cuts off first.
pub(super) fn pad(cx: &mut Cx<'_>) -> LoweredNode {
    let mode = cx.string("mode", "constant")?;
    let mut x = cx.arg(0)?;
    let rank = cx.ty(x).rank();
    let widths = cx.ints(1, "pads")?;
    let axes = match cx.opt_ints(3, "axes")? {
        Some(axes) => {
            cx.axes(&axes, rank)?;
            axes.iter().map(|&a| cx.axis(a, rank)).collect::<Result<Vec<usize>, Refusal>>()?
        }
        None => (0..rank).collect(),
    };
    if widths.len() != 2 * axes.len() {
        return malformed(format!("pads {widths:?} for {} axes", axes.len()));
    }
    let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        let cut = |w: i64| usize::try_from(w.min(0).unsigned_abs()).unwrap_or(usize::MAX);
        let (before, after) = (widths[i], widths[axes.len() + i]);
        let extent = cx.shape(x)[axis];
        let gone = cut(before).saturating_add(cut(after));
        let Some(left) = extent.checked_sub(gone) else {
            return malformed(format!("pads {widths:?} cut more than axis {axis} has"));
        };
        x = cx.slice("cut", x, axis, if left == 0 { 0 } else { cut(before) }, left)?;
        low[axis] = usize::try_from(before.max(0)).unwrap_or(usize::MAX);
        high[axis] = usize::try_from(after.max(0)).unwrap_or(usize::MAX);
    }
    if low.iter().chain(&high).all(|&w| w == 0) {
        return one(x);
    }
    if mode != "constant" {
        return pad_with_itself(cx, x, &low, &high, &mode);
    }
    let dtype = cx.dtype(x);
    let value = match cx.opt(2)? {
        Some(v) if cx.ty(v).elements() == 1 => cx.reshape("value", v, &[])?,
        Some(_) => return malformed("the value to pad with is no scalar"),
        None => cx.scalar("value", dtype, 0.0),
    };
    one(cx.out(Op::Pad { low, high }, &[x, value])?)
}

/// Pad with the nearest element (`edge`), with what lies as far on the other side of it (`reflect`), or with what comes from
/// the other end (`wrap`): slices of the operand on both sides of it, an axis at a time.
fn pad_with_itself(
    cx: &mut Cx<'_>,
    mut x: ValueId,
    low: &[usize],
    high: &[usize],
    mode: &str,
) -> LoweredNode {
    let Some(last) = (0..low.len()).rev().find(|&i| low[i] > 0 || high[i] > 0) else { return one(x) };
    for axis in (0..=last).filter(|&i| low[i] > 0 || high[i] > 0) {
        let shape = cx.shape(x);
        let extent = shape[axis];
        let most = match mode {
            "edge" if extent > 0 => usize::MAX,
            "reflect" => extent.saturating_sub(1),
            "wrap" => extent,
            "edge" => 0,
            other => return malformed(format!("mode is {other:?}")),
        };
        if low[axis].max(high[axis]) > most {
            return unsupported(
                format!("{mode} by more than axis {axis} of {} has", cx.ty(x)),
                WayOut::PadInSteps,
            );
        }
        let mut side = |what: &str, width: usize, wrapped: usize, edge: usize, reflected: usize| {
            let mut part = |start: usize, len: usize, step: i64| {
                // One element has no distance.
                let step = if len == 1 { 1 } else { step };
                cx.sub(what, Op::Slice { axis, start, len, step }, &[x])
            };
            match mode {
                "edge" => {
                    let element = part(edge, 1, 1)?;
                    let mut wide = shape.clone();
                    wide[axis] = width;
                    cx.expand(&format!("{what}.wide"), element, &wide)
                }
                "reflect" => part(reflected, width, -1),
                _ => part(wrapped, width, 1),
            }
        };
        let mut parts = vec![];
        if low[axis] > 0 {
            parts.push(side("before", low[axis], extent.saturating_sub(low[axis]), 0, low[axis])?);
        }
        parts.push(x);
        if high[axis] > 0 {
            let end = extent.saturating_sub(1);
            parts.push(side("after", high[axis], 0, end, end.saturating_sub(1))?);
        }
        let join = Op::Concat { axis };
        x = if axis == last { cx.out(join, &parts)? } else { cx.sub("padded", join, &parts)? };
    }
    one(x)
}

/// Extents from integers that none is negative.
fn extents(dims: &[i64]) -> Result<Vec<usize>, Refusal> {
    if dims.len() > MAX_RANK {
        return unsupported(
            format!("its shape has {} axes, more than {MAX_RANK}", dims.len()),
            WayOut::FewerAxes,
        );
    }
    match super::super::data::shape(dims) {
        Some(shape) => Ok(shape),
        None => malformed(format!("{dims:?} is no shape")),
    }
}
