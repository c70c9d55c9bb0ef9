//! Where the sequence lies in an operation's operands, given where it lies in its result: one map per operation.
//!
//! A sequence is followed as a [`Factor`] of an axis, never by its size. The map is written once, from the result to the
//! operands; the other direction is looked up in it, so that the two cannot disagree. An operation that has no map for a
//! factor *mixes rows*: no rank can compute its rows of the result from its rows of the operands.

pub(crate) use super::factor::Factor;

use super::factor::product;
use crate::ir::{Op, Type, Windows};

/// Which factor of each operand `op` needs for the rows `f` of its results: `None` for an operand that it needs whole.
/// `held` tells which factor each operand is known to carry; it decides only where a reshape leaves a choice.
///
/// # Errors
/// Why the rows of the result cannot be computed from rows of the operands.
pub(crate) fn operands(
    op: &Op,
    f: Factor,
    x: &[&Type],
    out: &Type,
    held: &[Option<Factor>],
) -> Result<Vec<Option<Factor>>, String> {
    let a = f.axis;
    if a >= out.rank() || out.shape[a] != f.extent(f.length) {
        return Err(format!("{out} has no such rows"));
    }
    let same = |axis: usize| Some(f.at(axis));
    Ok(match op {
        Op::Iota { .. } => vec![],
        Op::Unary(_) | Op::Cast(_) => vec![Some(f)],
        Op::Binary(_) | Op::Select | Op::Broadcast(_) => x.iter().map(|t| aligned(f, t, out)).collect(),
        Op::Contract(c) => {
            let letter = c.out.chars().nth(a);
            let find = |axes: &str| axes.chars().position(|l| Some(l) == letter).and_then(same);
            vec![find(&c.lhs), find(&c.rhs)]
        }
        Op::Reduce { axes, keep, .. } => {
            let mut kept = (0..x[0].rank()).filter(|i| *keep || !axes.contains(i));
            match kept.nth(a) {
                Some(i) if !axes.contains(&i) => vec![same(i)],
                _ => return Err("it reduces over the rows".into()),
            }
        }
        // A kernel belongs to one channel of the result; in groups, which channels of x it reads depends on that one.
        Op::Conv { groups, .. } if a == 1 => {
            refuse(*groups != 1, "its groups split the rows")?;
            vec![None, same(0)]
        }
        Op::Conv { windows, .. } => {
            refuse(
                a > 1 && !is_pointwise(windows, &x[1].shape[2..], a - 2),
                "its windows lie over the rows",
            )?;
            vec![Some(f), None]
        }
        Op::Pool { kernel, windows, .. } => {
            refuse(a > 1 && !is_pointwise(windows, kernel, a - 2), "its windows lie over the rows")?;
            vec![Some(f)]
        }
        Op::Softmax { axis } | Op::CumSum { axis, .. } | Op::TopK { axis, .. } => {
            if *axis == a {
                return Err(format!("{} runs along the rows", op.name()));
            }
            vec![Some(f)]
        }
        Op::Reshape(_) => vec![Some(reshaped(f, &out.shape, &x[0].shape, held.first().copied().flatten())?)],
        Op::Permute(perm) => vec![same(perm[a])],
        Op::Slice { axis, start, len, step } => {
            let all = *start == 0 && *step == 1 && *len == x[0].shape[*axis];
            refuse(*axis == a && !all, "it slices along the rows")?;
            vec![Some(f)]
        }
        Op::Concat { axis } => {
            refuse(*axis == a && x.len() != 1, "it joins along the rows")?;
            vec![Some(f); x.len()]
        }
        Op::Pad { low, high } => {
            refuse(low[a] != 0 || high[a] != 0, "it pads along the rows")?;
            vec![Some(f), None]
        }
        Op::Gather { axis } => gathered(f, *axis, x[1].rank()),
        Op::GatherNd { batch } => gathered_by_tuples(f, *batch, x[1]),
        Op::ScatterNd { .. } => {
            let d = depth(x[1]);
            refuse(a < d, "its indices name rows")?;
            vec![same(a), None, same(x[1].rank() - 1 + a - d)]
        }
        Op::Attention(_) => {
            refuse(a != 0, "attention reads every row")?;
            let batch = |t: &&Type| (t.rank() == 4 && t.shape[0] == out.shape[0]).then_some(f);
            x.iter().map(batch).collect()
        }
        Op::Input(_) | Op::Constant(_) => return Err("it is given whole".into()),
        Op::Rows { .. }
        | Op::Chunk { .. }
        | Op::Start(..)
        | Op::Wait
        | Op::Partial(_)
        | Op::Merge { .. }
        | Op::Finish { .. }
        | Op::Region(..)
        | Op::Unshard { .. }
        | Op::Call { .. } => return Err("it is split already".into()),
    })
}

/// The factor of the results of `op` where operand `slot` carries `f`.
///
/// # Errors
/// Why the operation mixes the rows of that operand.
pub(crate) fn result(op: &Op, slot: usize, f: Factor, x: &[&Type], out: &Type) -> Result<Factor, String> {
    match op {
        Op::Reshape(_) => return reshaped(f, &x[slot].shape, &out.shape, None),
        // It may have very many operands, all alike.
        Op::Concat { axis } if *axis != f.axis => return Ok(f),
        _ => {}
    }
    // No map moves a factor within its axis, so that the result's axis is the one whose map leads here.
    let leads_here = |axis: &usize| {
        operands(op, f.at(*axis), x, out, &[]).is_ok_and(|maps| maps.get(slot) == Some(&Some(f)))
    };
    (0..out.rank()).find(leads_here).map(|axis| f.at(axis)).ok_or_else(|| mixes(op, slot))
}

/// Why an operation mixes the rows, if it does.
fn refuse(mixes: bool, why: &str) -> Result<(), String> {
    if mixes { Err(why.to_owned()) } else { Ok(()) }
}

/// A gather along `axis` by indices of so many axes: the data, then the indices.
fn gathered(f: Factor, axis: usize, picked: usize) -> Vec<Option<Factor>> {
    let a = f.axis;
    if a < axis {
        vec![Some(f), None]
    } else if a < axis + picked {
        vec![None, Some(f.at(a - axis))]
    } else {
        vec![Some(f.at(a - picked + 1)), None]
    }
}

/// A gather by tuples of indices behind `batch` axes that both have: the data, then the indices.
fn gathered_by_tuples(f: Factor, batch: usize, indices: &Type) -> Vec<Option<Factor>> {
    let (a, tuples) = (f.axis, indices.rank() - 1);
    if a < batch {
        vec![Some(f), Some(f)]
    } else if a < tuples {
        vec![None, Some(f)]
    } else {
        vec![Some(f.at(a - tuples + batch + depth(indices))), None]
    }
}

/// Whether each window along an axis is the element at its own place.
fn is_pointwise(w: &Windows, kernel: &[usize], axis: usize) -> bool {
    (kernel[axis], w.strides[axis], w.low[axis], w.high[axis]) == (1, 1, 0, 0)
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
        Op::Gather { .. } | Op::GatherNd { .. } => "it picks among the rows".into(),
        Op::ScatterNd { .. } => "its indices name rows".into(),
        Op::Attention(_) => "attention reads every row".into(),
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Broadcast(_) => {
            "it broadcasts along the rows".into()
        }
        _ => format!("{} needs every row of operand {slot}", op.name()),
    }
}

/// Elementwise with broadcasting, aligned at the last axis: an operand without the axis, or with extent 1 there, is whole.
fn aligned(f: Factor, t: &Type, out: &Type) -> Option<Factor> {
    let axis = (f.axis + t.rank()).checked_sub(out.rank())?;
    (t.shape[axis] == out.shape[f.axis]).then(|| f.at(axis))
}

/// The same rows of the same elements under another shape: as many elements lie before and after a row. `prefer` is taken
/// if it is such a factor.
fn reshaped(f: Factor, from: &[usize], to: &[usize], prefer: Option<Factor>) -> Result<Factor, String> {
    let hidden = || "the reshape hides the rows".to_owned();
    let around = f.around(from).ok_or_else(hidden)?;
    let fits = |g: &Factor| {
        g.length == f.length
            && to.get(g.axis) == Some(&g.extent(g.length))
            && g.around(to).is_some_and(|other| other == around)
    };
    if let Some(g) = prefer.filter(fits) {
        return Ok(g);
    }
    let (before, after) = around;
    let mut best: Option<(usize, usize, Factor)> = None;
    for axis in 0..to.len() {
        let (Some(outside), Some(inside)) = (product(&to[..axis]), product(&to[axis + 1..])) else {
            continue;
        };
        let (Some(0), Some(0)) = (before.checked_rem(outside), after.checked_rem(inside)) else { continue };
        let g = Factor { axis, outer: before / outside, length: f.length, inner: after / inside };
        if fits(&g) {
            // Several axes fit only a sequence of one row: an axis of its own is best, then the nearest.
            let rank = (g.outer * g.inner, axis.abs_diff(f.axis));
            if best.is_none_or(|(a, b, _)| rank < (a, b)) {
                best = Some((rank.0, rank.1, g));
            }
        }
    }
    best.map(|(_, _, g)| g).ok_or_else(hidden)
}

fn depth(indices: &Type) -> usize {
    indices.shape.last().copied().unwrap_or(0)
}
