//! Where the sequence lies in an operation's operands, given where it lies in its result.
//!
//! A sequence is followed as a [`Factor`] of an axis, never by its size, through the map that `ir` states of each operation. An
//! operation that does not keep an axis whole *mixes rows*: no rank can compute its rows of the result from its rows of the
//! operands.

use super::factor::{Factor, product};
use crate::ir::axes::{Along, Map, maps};
use crate::ir::{Op, RowAxes, Type};

/// Which factor of each operand `op` needs for the rows `f` of its results: `None` for an operand that it needs whole; `None`
/// at all where the rows of the result cannot be computed from rows of the operands. `held` tells which factor each operand is
/// known to carry; it decides only where a reshape leaves a choice.
pub(super) fn operands(
    op: &Op,
    f: Factor,
    x: &[&Type],
    out: &Type,
    held: &[Option<Factor>],
) -> Option<Vec<Option<Factor>>> {
    if let Op::Opaque(o) = op {
        return opaque(o.rowwise.as_ref()?, f, x.len(), out);
    }
    let there = out.shape.get(f.axis) == Some(&f.extent(f.length));
    let made = match op {
        // What is given is whole; what counts can count rows.
        Op::Input(_) | Op::Constant(_) => false,
        // Its rows and heads are split by a strategy, with exchanges; only its batch runs along.
        // Where weights are dropped a batch entry has to know which one it is.
        Op::Attention(a) => f.axis == 0 && a.dropout.is_none_or(|d| d.same_batch),
        // A graph of its own, or an exchange between ranks, even without operands.
        Op::Region(..) | Op::Start(..) | Op::Call { .. } => false,
        _ => true,
    };
    let maps = if there && made { maps(op, x, out) } else { return None };
    let needed = |(slot, map): (usize, &Map)| match map {
        Map::Flat => reshaped(f, &out.shape, &x[slot].shape, held.get(slot).copied().flatten()).map(Some),
        Map::Opaque => None,
        Map::Axes(_) => match map.at(f.axis) {
            None | Some((_, Along::Repeated { .. })) => Some(None),
            Some((axis, Along::Kept { .. })) => Some(Some(f.at(axis))),
            Some(_) => None,
        },
    };
    maps.iter().enumerate().map(needed).collect()
}

/// The factor of the results of `op` where operand `slot` carries `f`; `prefer` is taken where a reshape leaves a choice.
///
/// # Errors
/// Why the operation mixes the rows of that operand.
pub(super) fn result(
    op: &Op,
    slot: usize,
    f: Factor,
    x: &[&Type],
    out: &Type,
    prefer: Option<Factor>,
) -> Result<Factor, String> {
    let mixes = || mixes(op, slot);
    if let Op::Opaque(o) = op {
        let carries = |r: &&RowAxes| r.operands.get(slot) == Some(&Some(f.axis));
        return o.rowwise.as_ref().filter(carries).map(|r| f.at(r.result)).ok_or_else(mixes);
    }
    // It may have very many operands, all alike.
    if let Op::Concat { axis } = op
        && x.len() > 1
    {
        return if *axis == f.axis { Err(mixes()) } else { Ok(f) };
    }
    match maps(op, x, out).get(slot) {
        Some(Map::Flat) => reshaped(f, &x[slot].shape, &out.shape, prefer).ok_or_else(mixes),
        Some(map) => {
            let carried = |g: &Factor| operands(op, *g, x, out, &[]).is_some();
            map.kept_as(f.axis).map(|axis| f.at(axis)).filter(carried).ok_or_else(mixes)
        }
        None => Err(mixes()),
    }
}

/// What an operator that annulus does not compute needs, by what is promised of it.
fn opaque(rows: &RowAxes, f: Factor, operands: usize, out: &Type) -> Option<Vec<Option<Factor>>> {
    let there = rows.result == f.axis && out.shape.get(f.axis) == Some(&f.extent(f.length));
    let needed = |slot: usize| rows.operands.get(slot).copied().flatten().map(|axis| f.at(axis));
    there.then(|| (0..operands).map(needed).collect())
}

/// Why no axis of the result carries the rows of operand `slot`.
fn mixes(op: &Op, slot: usize) -> String {
    match op {
        Op::Contract(_) => "it contracts over the rows".into(),
        Op::Reduce { .. } => "it reduces over the rows".into(),
        Op::Conv { .. } | Op::Pool { .. } => "its windows or sums lie over the rows".into(),
        Op::Softmax { .. } | Op::CumSum { .. } | Op::TopK { .. } => {
            format!("{} runs along the rows", op.name())
        }
        Op::Slice { .. } => "it slices along the rows".into(),
        Op::Concat { .. } => "it joins along the rows".into(),
        Op::Pad { .. } => "it pads along the rows".into(),
        Op::Gather { .. } | Op::GatherNd { .. } => {
            "it picks among the rows by their place in the whole sequence".into()
        }
        Op::ScatterNd { .. } => "its indices name rows of the whole sequence".into(),
        Op::Attention(_) => "an attention reads every row of its keys and values".into(),
        Op::AttentionBackward(_) => "the gradients of an attention are sums over its rows".into(),
        Op::Reshape(_) => "the reshape hides the rows in a longer axis".into(),
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Broadcast(_) => {
            "it broadcasts along the rows".into()
        }
        Op::Opaque(o) => {
            let operator = o.operator();
            format!(
                "annulus does not know what {operator} does with rows; if it treats them apart, promise that with --rowwise \
                 {operator}=AXES:AXIS"
            )
        }
        _ => format!("{} needs every row of operand {slot}", op.name()),
    }
}

/// The same rows of the same elements under another shape: as many elements lie before and after a row. A sequence of one row is
/// all there is: wherever it is taken to lie, a rank has all elements or none. `prefer` is taken if it is such a factor.
fn reshaped(f: Factor, from: &[usize], to: &[usize], prefer: Option<Factor>) -> Option<Factor> {
    let around = f.around(from);
    let one = f.length == 1;
    let fits = |g: &Factor| {
        g.length == f.length
            && to.get(g.axis) == Some(&g.extent(g.length))
            && (one || around.is_some() && g.around(to) == around)
    };
    if let Some(g) = prefer.filter(fits) {
        return Some(g);
    }
    let mut best: Option<(usize, usize, Factor)> = None;
    for axis in 0..to.len() {
        let alone = (one && to[axis] == 1).then(|| Factor::axis(axis, 1));
        for g in alone.into_iter().chain(around.and_then(|around| factor_at(axis, f.length, around, to))) {
            if fits(&g) {
                // Several axes fit only a sequence of one row: an axis of its own is best, then the nearest.
                let rank = (g.outer * g.inner, axis.abs_diff(f.axis));
                if best.is_none_or(|(a, b, _)| rank < (a, b)) {
                    best = Some((rank.0, rank.1, g));
                }
            }
        }
    }
    best.map(|(_, _, g)| g)
}

/// The factor of an axis with so many elements before and after a row, over all axes.
fn factor_at(axis: usize, length: usize, (before, after): (usize, usize), to: &[usize]) -> Option<Factor> {
    let (outside, inside) = (product(&to[..axis])?, product(&to[axis + 1..])?);
    match (before.checked_rem(outside), after.checked_rem(inside)) {
        (Some(0), Some(0)) => Some(Factor { axis, outer: before / outside, length, inner: after / inside }),
        _ => None,
    }
}
