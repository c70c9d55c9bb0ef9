//! Where the rows of an axis come from, one operation back: through every operation that keeps its rows or puts rows
//! together.
//!
//! Of what is put together elementwise only those operands are followed that hold most: a factor or a mask of each row says
//! nothing of where the row comes from, and truth values never do.

use crate::ir::Topology;
use crate::ir::types::strides;
use crate::ir::{Binary, DType, Graph, Op, ValueId};

/// A row axis of a value: row i is the elements at flat places p for which p / distance % extent = i. Of a single row
/// the distance is 0: it is all of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) value: ValueId,
    pub(crate) extent: usize,
    pub(crate) distance: usize,
}

/// Rows that others come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) row: Row,
    /// Row i of these is row i + shift of the others; `None` if it may be any.
    pub(crate) shift: Option<isize>,
}

/// An axis of a value.
pub(crate) fn row(graph: &Graph, value: ValueId, axis: usize) -> Row {
    let shape = &graph.ty(value).shape;
    rows(value, shape[axis], strides(shape)[axis])
}

fn rows(value: ValueId, extent: usize, distance: usize) -> Row {
    if extent < 2 { whole(value) } else { Row { value, extent, distance } }
}

/// All of a value as a single row.
fn whole(value: ValueId) -> Row {
    Row { value, extent: 1, distance: 0 }
}

/// The rows of operands from which rows come; none if the operation makes them.
pub(crate) fn back(graph: &Graph, order: &Topology, at: Row) -> Vec<Source> {
    let op = graph.op(at.value.op);
    let single = at.extent == 1;
    let mut all = if single { one_back(graph, at) } else { several_back(graph, at).unwrap_or_default() };
    let is_dynamic = |s: &Source| order.may_depend_on_input(s.row.value.op);
    // What is constant is where rows come from if it stands among others; a factor does not, nor do weights.
    let among = match op {
        Op::Binary(b) => !single && !matches!(b, Binary::Mul | Binary::Div | Binary::Pow),
        Op::Select | Op::Concat { .. } | Op::ScatterNd { .. } => !single,
        _ => false,
    };
    if let Op::Binary(_) | Op::Select = op {
        all.retain(|s| graph.ty(s.row.value).dtype != DType::Bool);
        // One row that stands for all counts as so many; beside rows of their own it is a factor or an addend, but for a choice.
        let one = |s: &Source| !single && s.row.extent == 1;
        let size = |s: &Source| graph.ty(s.row.value).elements() * if one(s) { at.extent } else { 1 };
        let most = all.iter().filter(|s| is_dynamic(s)).map(size).max();
        let largest = |s: &Source| is_dynamic(s) && Some(size(s)) == most;
        let own = all.iter().any(|s| largest(s) && !one(s));
        let spread = !own || matches!(op, Op::Select);
        all.retain(|s| match most {
            None => true,
            Some(_) if is_dynamic(s) => largest(s) && (spread || !one(s)),
            Some(_) => among && !one(s),
        });
    } else if !among {
        all.retain(is_dynamic);
    }
    all
}

/// The same rows.
fn same_rows(row: Row) -> Source {
    Source { row, shift: Some(0) }
}

/// Rows of which each may be any of the others.
fn any_rows(row: Row) -> Source {
    Source { row, shift: None }
}

/// Where a single row comes from: no axis needs to hold it.
fn one_back(graph: &Graph, at: Row) -> Vec<Source> {
    let x = graph.operands(at.value.op);
    let shape = |v: ValueId| &graph.ty(v).shape;
    let all = |v: ValueId| same_rows(whole(v));
    match graph.op(at.value.op) {
        Op::Binary(_) | Op::Select | Op::Concat { .. } => x.into_iter().map(all).collect(),
        // Perhaps it is picked out of an axis of others.
        Op::Slice { axis, start, len: 1, .. } if shape(x[0])[*axis] > 1 => {
            vec![all(x[0]), Source { row: row(graph, x[0], *axis), shift: Some(-(*start as isize)) }]
        }
        Op::Gather { axis } if graph.ty(x[1]).elements() == 1 => {
            vec![all(x[0]), all(x[1]), any_rows(row(graph, x[0], *axis))]
        }
        Op::Gather { .. } | Op::GatherNd { .. } => vec![all(x[0]), all(x[1])],
        Op::ScatterNd { .. } => vec![all(x[0]), all(x[2])],
        Op::Contract(c) => {
            let has_row = |axes: &str, other: &str, v: ValueId| {
                let row = |(l, &n): (char, &usize)| n < 2 && c.out.contains(l) && !other.contains(l);
                axes.chars().zip(shape(v)).any(row)
            };
            match (has_row(&c.lhs, &c.rhs, x[0]), has_row(&c.rhs, &c.lhs, x[1])) {
                (true, false) => vec![all(x[0])],
                (false, true) => vec![all(x[1])],
                _ => vec![all(x[0]), all(x[1])],
            }
        }
        Op::Unary(_)
        | Op::Cast(_)
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Broadcast(_)
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Reduce { .. }
        | Op::Softmax { .. }
        | Op::CumSum { .. }
        | Op::Conv { .. }
        | Op::Pool { .. }
        | Op::Attention(_) => vec![all(x[0])],
        _ => vec![],
    }
}

/// Where several rows come from; `None` if the operation makes them.
fn several_back(graph: &Graph, at: Row) -> Option<Vec<Source>> {
    let x = graph.operands(at.value.op);
    let shape = |v: ValueId| &graph.ty(v).shape;
    let out = shape(at.value);
    let rank = out.len();
    let axis = axis_of(out, at);
    // Axis `to(a)` of the operand is axis a of the result.
    let through =
        |v: ValueId, to: &dyn Fn(usize) -> Option<usize>| carried(out, at, v, shape(v), to).map(same_rows);
    // An operand of the same rank, whose row 0 is row `shift`, may be longer or shorter along the rows.
    let moved = |v: ValueId, along: usize, shift: Option<isize>| match axis {
        Some(a) if a == along => Some(Source { row: row(graph, v, a), shift }),
        _ => through(v, &Some),
    };
    Some(match graph.op(at.value.op) {
        Op::Reshape(_) => vec![same_rows(Row { value: x[0], ..at })],
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Broadcast(_) => {
            let aligned = |&v: &ValueId| {
                let to = |a: usize| (a + shape(v).len()).checked_sub(rank);
                // One row that is spread over all.
                let one = axis.is_some_and(|a| to(a).is_none_or(|a| shape(v)[a] == 1));
                let spread = one && graph.ty(v).elements() > 1;
                through(v, &to).or_else(|| spread.then(|| any_rows(whole(v))))
            };
            x.iter().filter_map(aligned).collect()
        }
        Op::Softmax { .. } | Op::CumSum { .. } => vec![through(x[0], &Some)?],
        Op::Slice { axis: along, start, step, .. } => {
            vec![moved(x[0], *along, (*step == 1).then_some(-(*start as isize)))?]
        }
        Op::Pad { low, .. } => {
            let along = axis.unwrap_or(rank);
            vec![moved(x[0], along, low.get(along).map(|&n| n as isize))?]
        }
        Op::Concat { axis: along } => {
            let mut before = 0;
            let part = |&v: &ValueId| {
                let shift = before;
                before += shape(v)[*along] as isize;
                moved(v, *along, Some(shift))
            };
            x.iter().filter_map(part).collect()
        }
        Op::Permute(perm) => vec![through(x[0], &|a| Some(perm[a]))?],
        Op::Contract(c) => {
            let names: Vec<char> = c.out.chars().collect();
            let of = |v, axes: &str| through(v, &|a| axes.chars().position(|l| l == names[a]));
            [of(x[0], &c.lhs), of(x[1], &c.rhs)].into_iter().flatten().collect()
        }
        Op::Reduce { axes, keep, .. } => {
            let left: Vec<usize> = (0..shape(x[0]).len()).filter(|a| *keep || !axes.contains(a)).collect();
            vec![through(x[0], &|a| left.get(a).copied().filter(|a| !axes.contains(a)))?]
        }
        Op::TopK { axis: over, .. } => vec![same_rows(row(graph, x[0], axis.filter(|a| a != over)?))],
        Op::Gather { axis: over } => {
            let n = shape(x[1]).len();
            let indices = |a: usize| a.checked_sub(*over).filter(|&a| a < n);
            let data = |a: usize| match indices(a) {
                Some(_) => None,
                None if a < *over => Some(a),
                None => Some(a + 1 - n),
            };
            let picked = axis.and_then(indices).map(|_| any_rows(row(graph, x[0], *over)));
            [through(x[0], &data), through(x[1], &indices), picked].into_iter().flatten().collect()
        }
        Op::GatherNd { batch } => {
            let (tuples, depth) = tuples(shape(x[1]));
            let indices = |a: usize| Some(a).filter(|&a| a < tuples);
            let data = |a: usize| match a {
                _ if a < *batch => Some(a),
                _ if a < tuples => None,
                _ => Some(a - tuples + batch + depth),
            };
            // An index for every element: rows of one axis are picked within it.
            let picked = axis.filter(|_| tuples == depth && depth == shape(x[0]).len());
            let picked = picked.map(|a| any_rows(row(graph, x[0], a)));
            [through(x[0], &data), through(x[1], &indices), picked].into_iter().flatten().collect()
        }
        Op::ScatterNd { .. } => {
            let (tuples, depth) = tuples(shape(x[1]));
            let updates = match axis {
                Some(a) if a < depth && tuples == depth => Some(any_rows(row(graph, x[2], a))),
                Some(a) if a < depth && tuples == 1 => Some(any_rows(row(graph, x[2], 0))),
                _ => through(x[2], &|a| a.checked_sub(depth).map(|a| a + tuples)),
            };
            [through(x[0], &Some), updates].into_iter().flatten().collect()
        }
        Op::Conv { .. } | Op::Pool { .. } => match axis {
            Some(0) => vec![same_rows(row(graph, x[0], 0))],
            Some(1) => return None,
            Some(a) => vec![any_rows(row(graph, x[0], a))],
            // All places of a picture as rows.
            None if at.distance == 1 && at.extent == places(out) => {
                vec![any_rows(rows(x[0], places(shape(x[0])), 1))]
            }
            None => return None,
        },
        Op::Attention(_) => vec![same_rows(match axis? {
            3 => row(graph, x[2], 3),
            a => row(graph, x[0], a),
        })],
        _ => return None,
    })
}

/// Places of a picture of this shape.
fn places(shape: &[usize]) -> usize {
    shape[2..].iter().product()
}

/// Extents before the tuples' own, and how long a tuple is.
fn tuples(indices: &[usize]) -> (usize, usize) {
    (indices.len() - 1, indices[indices.len() - 1])
}

/// The axes that hold rows, first and last: together they hold nothing else, but for what lies within a row or repeats rows.
fn span(shape: &[usize], at: Row) -> Option<(usize, usize)> {
    let own = strides(shape);
    let (near, far) = (at.distance, at.distance * at.extent);
    let end = |a: usize| own[a] * shape[a];
    let last = (0..shape.len()).find(|&a| own[a] <= near && near < end(a))?;
    let first = (0..=last).rev().find(|&a| end(a) >= far)?;
    (near.is_multiple_of(own[last]) && end(first).is_multiple_of(far)).then_some((first, last))
}

/// The axis that is the rows.
fn axis_of(shape: &[usize], at: Row) -> Option<usize> {
    let (first, last) = span(shape, at)?;
    (first == last && shape[last] == at.extent).then_some(last)
}

/// The rows in an operand of this shape: the axes that hold them are next to each other in it as well.
fn carried(
    out: &[usize],
    at: Row,
    value: ValueId,
    shape: &[usize],
    to: &dyn Fn(usize) -> Option<usize>,
) -> Option<Row> {
    let (first, last) = span(out, at)?;
    let mut place: Option<usize> = None;
    for a in (first..=last).filter(|&a| out[a] != 1) {
        let b = to(a).filter(|&b| shape.get(b) == Some(&out[a]))?;
        let apart = |p: usize| b <= p || shape[p + 1..b].iter().any(|&n| n != 1);
        if place.is_some_and(apart) {
            return None;
        }
        place = Some(b);
    }
    let distance = at.distance / strides(out)[last] * strides(shape)[place?];
    Some(Row { value, extent: at.extent, distance })
}
