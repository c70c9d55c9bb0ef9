//! Operators that pick, place or order elements by position.

use super::super::node::{Cx, MAX_PARTS};
use super::super::outcome::{Lowered, LoweredNode, Refusal, malformed, one, unsupported};
use super::shape::concatenate;
use crate::ir::{Binary, DType, Op, Tensor, Type, ValueId, WayOut};
use std::rc::Rc;

/// Slice: one operation for each axis that changes.
pub(super) fn slice(cx: &mut Cx<'_>) -> LoweredNode {
    let mut x = cx.arg(0)?;
    let rank = cx.ty(x).rank();
    let starts = cx.ints(1, "starts")?;
    let ends = cx.ints(2, "ends")?;
    let axes = match cx.opt_ints(3, "axes")? {
        Some(a) => a,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = cx.opt_ints(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return malformed("its starts, ends, axes and steps differ in number");
    }
    cx.axes(&axes, rank)?;
    let mut cuts = vec![];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, rank)?;
        if steps[i] == 0 {
            return malformed("a step is 0");
        }
        let extent = cx.shape(x)[axis];
        let cut = cut(extent, starts[i], ends[i], steps[i]);
        if cut != (0, extent, 1) {
            cuts.push((axis, cut));
        }
    }
    let last = cuts.len();
    for (i, (axis, (start, len, step))) in cuts.into_iter().enumerate() {
        let op = Op::Slice { axis, start, len, step };
        x = if i + 1 == last { cx.out(op, &[x])? } else { cx.sub(&format!("axis{axis}"), op, &[x])? };
    }
    one(x)
}

/// Start, length and step of a slice of an axis, its bounds clamped. Steps of one or no element are normal.
fn cut(extent: usize, start: i64, end: i64, step: i64) -> (usize, usize, i64) {
    if extent == 0 {
        return (0, 0, 1);
    }
    let n = extent as i128;
    let absolute = |i: i64| if i < 0 { i128::from(i) + n } else { i128::from(i) };
    let step = i128::from(step);
    let (first, last) = if step > 0 {
        (absolute(start).clamp(0, n), absolute(end).clamp(0, n))
    } else {
        (absolute(start).clamp(0, n - 1), absolute(end).clamp(-1, n - 1))
    };
    let span = if step > 0 { last - first } else { first - last };
    let len = if span > 0 { (span + step.abs() - 1) / step.abs() } else { 0 };
    match len {
        0 => (0, 0, 1),
        // Within the axis, so that the casts are exact; one element has no distance.
        1 => (first as usize, 1, 1),
        _ => (first as usize, len as usize, step as i64),
    }
}

/// Split: into the given lengths, or into as many parts as there are outputs.
pub(super) fn split(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let shape = cx.shape(x);
    let axis = cx.int("axis")?.unwrap_or(0);
    let axis = cx.axis(axis, shape.len())?;
    let parts = cx.node.output.len();
    let count = cx.int("num_outputs")?;
    if count.is_some_and(|n| usize::try_from(n) != Ok(parts)) {
        return malformed("num_outputs is not the number of outputs");
    }
    let lengths = match cx.opt_ints(1, "split")? {
        Some(l) => l.iter().map(|&l| usize::try_from(l).unwrap_or(usize::MAX)).collect(),
        None => {
            // Up to version 17 the parts are equal; later the last one may be smaller.
            if count.is_none() && !shape[axis].is_multiple_of(parts) {
                return malformed(format!("{} do not split into {parts} equal parts", shape[axis]));
            }
            equal_parts(shape[axis], shape[axis].div_ceil(parts), parts)
        }
    };
    let total = lengths.iter().fold(0usize, |a, &l| a.saturating_add(l));
    if lengths.len() != parts || total != shape[axis] {
        return malformed(format!("lengths {lengths:?} of {} for {parts} outputs", shape[axis]));
    }
    let mut start = 0;
    let mut results = vec![];
    for (i, &len) in lengths.iter().enumerate() {
        let from = if len == 0 { 0 } else { start };
        let part = if len == shape[axis] {
            x
        } else {
            cx.out_nth(i, Op::Slice { axis, start: from, len, step: 1 }, &[x])?
        };
        results.push(Lowered::Value(part));
        start += len;
    }
    Ok(results)
}

/// `parts` lengths of `each`, as far as they last.
fn equal_parts(total: usize, each: usize, parts: usize) -> Vec<usize> {
    (0..parts).map(|i| total.saturating_sub(i * each).min(each)).collect()
}

/// SplitToSequence: into parts of one length, of given lengths, or of length 1.
pub(super) fn split_to_sequence(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let shape = cx.shape(x);
    let axis = cx.int("axis")?.unwrap_or(0);
    let axis = cx.axis(axis, shape.len())?;
    let keep = cx.flag("keepdims", true)?;
    let scalar = cx.opt(1)?.is_none_or(|v| cx.ty(v).rank() == 0);
    let given = cx.opt_ints(1, "split")?;
    let squeeze = given.is_none() && !keep;
    let extent = shape[axis];
    let lengths = match given.as_deref() {
        Some(lengths) if !scalar => {
            lengths.iter().map(|&l| usize::try_from(l).unwrap_or(usize::MAX)).collect::<Vec<_>>()
        }
        each => {
            let each = each.and_then(|e| e.first()).copied().unwrap_or(1);
            let Some(each) = usize::try_from(each).ok().filter(|&e| e > 0) else {
                return malformed(format!("parts of length {each}"));
            };
            let parts = extent.div_ceil(each);
            if parts > MAX_PARTS {
                return unsupported(
                    format!("it makes {parts} parts, more than {MAX_PARTS}"),
                    WayOut::SplitInSteps,
                );
            }
            equal_parts(extent, each, parts)
        }
    };
    if lengths.iter().fold(0usize, |a, &l| a.saturating_add(l)) != extent || lengths.len() > MAX_PARTS {
        return malformed(format!("{} lengths do not sum to {extent}", lengths.len()));
    }
    let mut start = 0;
    let mut parts = vec![];
    for (i, &len) in lengths.iter().enumerate() {
        let what = format!("part{i}");
        let mut part = cx.slice(&what, x, axis, if len == 0 { 0 } else { start }, len)?;
        if squeeze {
            let mut flat = shape.clone();
            flat.remove(axis);
            part = cx.reshape(&format!("{what}.flat"), part, &flat)?;
        }
        parts.push(part);
        start += len;
    }
    Ok(vec![Lowered::Sequence(parts.into())])
}

/// SequenceConstruct.
pub(super) fn sequence_construct(cx: &mut Cx<'_>) -> LoweredNode {
    Ok(vec![Lowered::Sequence(cx.args()?.into())])
}

/// SequenceLength: a constant, for lengths are known.
pub(super) fn sequence_length(cx: &mut Cx<'_>) -> LoweredNode {
    let length = Tensor::scalar(DType::I64, sequence(cx)?.len() as f64);
    let name = cx.output_name(0);
    one(cx.graph.constant(&name, length))
}

/// SequenceAt, at a known position.
pub(super) fn sequence_at(cx: &mut Cx<'_>) -> LoweredNode {
    let parts = sequence(cx)?;
    let Some(at) = cx.opt_scalar_int(1, "position")? else { return malformed("its position is missing") };
    let i = super::super::node::normal_axis(at, parts.len());
    match i.ok().and_then(|i| parts.get(i)) {
        Some(&v) => one(v),
        None => malformed(format!("position {at} of {}", parts.len())),
    }
}

/// ConcatFromSequence along an axis that is there, or along a new one.
pub(super) fn concat_from_sequence(cx: &mut Cx<'_>) -> LoweredNode {
    let mut parts = sequence(cx)?.to_vec();
    let Some(axis) = cx.int("axis")? else { return malformed("attribute axis is missing") };
    if cx.flag("new_axis", false)? {
        let Some(rank) = parts.first().map(|&v| cx.ty(v).rank()) else { return malformed("no operand") };
        let axis = cx.axis(axis, rank + 1)?;
        for (i, part) in parts.iter_mut().enumerate() {
            let mut shape = cx.shape(*part);
            if shape.len() != rank {
                return malformed("its parts differ in their number of axes");
            }
            shape.insert(axis, 1);
            *part = cx.reshape(&format!("part{i}"), *part, &shape)?;
        }
    }
    concatenate(cx, &parts, axis)
}

fn sequence(cx: &Cx<'_>) -> Result<Rc<[ValueId]>, Refusal> {
    match cx.inputs.first() {
        Some(Some(Lowered::Sequence(parts))) => Ok(parts.clone()),
        _ => malformed("operand 0 is no sequence"),
    }
}

/// Gather. One known position is a slice whose axis goes away.
pub(super) fn gather(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, indices) = (cx.arg(0)?, cx.arg(1)?);
    let axis = cx.int("axis")?.unwrap_or(0);
    let shape = cx.shape(x);
    let axis = cx.axis(axis, shape.len())?;
    if cx.ty(indices).rank() == 0
        && matches!(cx.dtype(indices), DType::I64 | DType::I32)
        && cx.known(indices).is_some()
        && let Some(at) = cx.opt_scalar_int(1, "position")?
    {
        let start = cx.axis(at, shape[axis])?;
        let part = cx.slice("at", x, axis, start, 1)?;
        let mut flat = shape;
        flat.remove(axis);
        return one(cx.out(Op::Reshape(flat), &[part])?);
    }
    one(cx.out(Op::Gather { axis }, &[x, indices])?)
}

/// GatherND.
pub(super) fn gather_nd(cx: &mut Cx<'_>) -> LoweredNode {
    let batch = cx.int("batch_dims")?.unwrap_or(0);
    let Ok(batch) = usize::try_from(batch) else { return malformed(format!("batch_dims is {batch}")) };
    let operands = cx.args()?;
    one(cx.out(Op::GatherNd { batch }, &operands)?)
}

/// ScatterND.
pub(super) fn scatter_nd(cx: &mut Cx<'_>) -> LoweredNode {
    let how = reduction(cx)?;
    let operands = cx.args()?;
    one(cx.out(Op::ScatterNd { how }, &operands)?)
}

/// GatherElements: an index tuple for every element.
pub(super) fn gather_elements(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, indices) = (cx.arg(0)?, cx.arg(1)?);
    let tuples = element_tuples(cx, x, indices)?;
    one(cx.out(Op::GatherNd { batch: 0 }, &[x, tuples])?)
}

/// ScatterElements: an index tuple for every element.
pub(super) fn scatter_elements(cx: &mut Cx<'_>) -> LoweredNode {
    let how = reduction(cx)?;
    let (x, indices, updates) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let tuples = element_tuples(cx, x, indices)?;
    one(cx.out(Op::ScatterNd { how }, &[x, tuples, updates])?)
}

/// How a scatter combines what it writes with what stands there.
fn reduction(cx: &mut Cx<'_>) -> Result<Option<Binary>, Refusal> {
    Ok(Some(match cx.string("reduction", "none")?.as_str() {
        "none" => return Ok(None),
        "add" => Binary::Add,
        "mul" => Binary::Mul,
        "min" => Binary::Min,
        "max" => Binary::Max,
        other => return malformed(format!("reduction is {other:?}")),
    }))
}

/// For each element of `indices` its whole position in `x`: its own, but for the indexed axis.
fn element_tuples(cx: &mut Cx<'_>, x: ValueId, indices: ValueId) -> Result<ValueId, Refusal> {
    let axis = cx.int("axis")?.unwrap_or(0);
    let (ty, of) = (cx.ty(indices), cx.ty(x));
    let axis = cx.axis(axis, of.rank())?;
    let inside = ty.rank() == of.rank() && (0..of.rank()).all(|i| i == axis || ty.shape[i] <= of.shape[i]);
    if !inside {
        return malformed("the indices do not fit the data");
    }
    let mut column = ty.shape.clone();
    column.push(1);
    let counted = Type::new(ty.dtype, ty.shape.clone());
    let mut parts = vec![];
    for i in 0..of.rank() {
        let what = format!("index{i}");
        let part =
            if i == axis { indices } else { cx.sub(&what, Op::Iota { ty: counted.clone(), axis: i }, &[])? };
        parts.push(cx.reshape(&format!("{what}.column"), part, &column)?);
    }
    match parts.as_slice() {
        [one] => Ok(*one),
        _ => cx.sub("tuples", Op::Concat { axis: of.rank() }, &parts),
    }
}

/// CumSum along a known axis.
pub(super) fn cumsum(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let Some(axis) = cx.opt_scalar_int(1, "axis")? else { return malformed("its axis is missing") };
    let axis = cx.axis(axis, cx.ty(x).rank())?;
    let (exclusive, reverse) = (cx.flag("exclusive", false)?, cx.flag("reverse", false)?);
    one(cx.out(Op::CumSum { axis, exclusive, reverse }, &[x])?)
}

/// TopK of a known k.
pub(super) fn top_k(cx: &mut Cx<'_>) -> LoweredNode {
    let x = cx.arg(0)?;
    let axis = cx.int("axis")?.unwrap_or(-1);
    let axis = cx.axis(axis, cx.ty(x).rank())?;
    let largest = cx.flag("largest", true)?;
    // Unsorted results may stand in any order: best first is one.
    cx.flag("sorted", true)?;
    let k = cx.opt_scalar_int(1, "k")?.and_then(|k| usize::try_from(k).ok());
    let Some(k) = k else { return malformed("its k is missing or negative") };
    let results = cx.add_all(Op::TopK { axis, k, largest }, &[x])?;
    Ok(results.into_iter().map(Lowered::Value).collect())
}

/// Trilu: the triangle above (or below) a diagonal, zeros elsewhere.
pub(super) fn trilu(cx: &mut Cx<'_>) -> LoweredNode {
    let upper = cx.flag("upper", true)?;
    let k = cx.opt_scalar_int(1, "diagonal")?.unwrap_or(0);
    let x = cx.arg(0)?;
    let ty = cx.ty(x);
    let &[.., rows, columns] = ty.shape.as_slice() else { return malformed("it is no matrix") };
    let row = cx.sub("row", Op::Iota { ty: Type::new(DType::I64, vec![rows, 1]), axis: 0 }, &[])?;
    let column = cx.sub("column", Op::Iota { ty: Type::new(DType::I64, vec![columns]), axis: 0 }, &[])?;
    // Beyond any matrix the diagonal makes no further difference, and the sum does not overflow.
    let far = rows.max(columns) as i64;
    let diagonal = match k.clamp(-far, far) {
        0 => row,
        k => cx.with_scalar("diagonal", Binary::Add, row, k as f64)?,
    };
    let keep = cx.binary("keep", if upper { Binary::Ge } else { Binary::Le }, column, diagonal)?;
    if ty.dtype == DType::Bool {
        return one(cx.out(Op::Binary(Binary::And), &[keep, x])?);
    }
    let zero = cx.scalar("zero", ty.dtype, 0.0);
    one(cx.out(Op::Select, &[keep, x, zero])?)
}
