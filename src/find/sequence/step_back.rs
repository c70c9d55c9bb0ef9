//! Where the rows of an axis come from, one operation back: through every operation that keeps its rows or puts rows
//! together.
//!
//! Of what is put together elementwise only those operands are followed that hold most: a factor or a mask of each row says
//! nothing of where the row comes from, and truth values never do.

use crate::ir::Topology;
use crate::ir::axes::{Along, Map, maps_of};
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
pub(crate) struct RowSource {
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
pub(crate) fn back(graph: &Graph, order: &Topology, at: Row) -> Vec<RowSource> {
    let op = graph.op(at.value.op);
    let single = at.extent == 1;
    let mut all = if single { one_back(graph, at) } else { several_back(graph, at).unwrap_or_default() };
    let is_dynamic = |s: &RowSource| order.may_depend_on_input(s.row.value.op);
    // What is constant is where rows come from if it stands among others; a factor does not, nor do weights.
    let among = match op {
        Op::Binary(b) => !single && !matches!(b, Binary::Mul | Binary::Div | Binary::Pow),
        Op::Select | Op::Concat { .. } | Op::ScatterNd { .. } => !single,
        _ => false,
    };
    if let Op::Binary(_) | Op::Select = op {
        all.retain(|s| graph.ty(s.row.value).dtype != DType::Bool);
        // One row that stands for all counts as so many; beside rows of their own it is a factor or an addend, but for a choice.
        let one = |s: &RowSource| !single && s.row.extent == 1;
        let size = |s: &RowSource| {
            let elements = graph.ty(s.row.value).elements();
            elements.saturating_mul(if one(s) { at.extent } else { 1 })
        };
        let most = all.iter().filter(|s| is_dynamic(s)).map(size).max();
        let largest = |s: &RowSource| is_dynamic(s) && Some(size(s)) == most;
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
fn same_rows(row: Row) -> RowSource {
    RowSource { row, shift: Some(0) }
}

/// Rows of which each may be any of the others.
fn any_rows(row: Row) -> RowSource {
    RowSource { row, shift: None }
}

/// Where a single row comes from: no axis needs to hold it.
fn one_back(graph: &Graph, at: Row) -> Vec<RowSource> {
    let x = graph.operands(at.value.op);
    let shape = |v: ValueId| &graph.ty(v).shape;
    let all = |v: ValueId| same_rows(whole(v));
    match graph.op(at.value.op) {
        Op::Binary(_) | Op::Select | Op::Concat { .. } => x.into_iter().map(all).collect(),
        // Perhaps it is picked out of an axis of others.
        Op::Slice { axis, start, len: 1, .. } if shape(x[0])[*axis] > 1 => {
            vec![all(x[0]), RowSource { row: row(graph, x[0], *axis), shift: Some(-(*start as isize)) }]
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
fn several_back(graph: &Graph, at: Row) -> Option<Vec<RowSource>> {
    let op = graph.op(at.value.op);
    let x = graph.operands(at.value.op);
    let shape = |v: ValueId| &graph.ty(v).shape;
    let out = shape(at.value);
    let axis = axis_of(out, at);
    let maps = maps_of(graph, at.value.op);
    let kept = |i: usize| axis.and_then(|a| maps[i].kept(a));
    let from = |i: usize| match axis.and_then(|a| maps[i].at(a)) {
        // The operand may be longer or shorter along the rows.
        Some((b, Along::Sliced { start, step, .. })) => {
            Some(RowSource { row: row(graph, x[i], b), shift: (step == 1).then_some(-(start as isize)) })
        }
        Some((b, Along::Joined { offset, .. })) => {
            Some(RowSource { row: row(graph, x[i], b), shift: Some(offset as isize) })
        }
        _ => carried(out, at, x[i], shape(x[i]), &maps[i]).map(same_rows),
    };
    let every = || (0..x.len()).filter_map(from);
    Some(match op {
        Op::Binary(_) | Op::Select | Op::Broadcast(_) => {
            // One row that is spread over all.
            let spread = |i: usize| axis.is_some() && kept(i).is_none() && graph.ty(x[i]).elements() > 1;
            let aligned = |i: usize| from(i).or_else(|| spread(i).then(|| any_rows(whole(x[i]))));
            (0..x.len()).filter_map(aligned).collect()
        }
        Op::TopK { .. } => vec![axis.and_then(|_| from(0))?],
        Op::Gather { axis: over } => {
            let picked = kept(1).map(|_| any_rows(row(graph, x[0], *over)));
            every().chain(picked).collect()
        }
        Op::GatherNd { .. } => {
            // An index for every element: rows of one axis are picked within it.
            let (tuples, depth) = tuples(shape(x[1]));
            let picked = axis.filter(|_| tuples == depth && depth == shape(x[0]).len());
            every().chain(picked.map(|a| any_rows(row(graph, x[0], a)))).collect()
        }
        Op::ScatterNd { .. } => {
            let (tuples, depth) = tuples(shape(x[1]));
            // An index for every update, or one for each that is along the rows.
            let placed = axis.filter(|&a| a < depth && (tuples == depth || tuples == 1));
            let placed = placed.map(|a| if tuples == depth { a } else { 0 });
            every().chain(placed.map(|a| any_rows(row(graph, x[2], a)))).collect()
        }
        Op::Conv { .. } | Op::Pool { .. } => match axis {
            Some(0) => vec![from(0)?],
            Some(1) => return None,
            Some(a) => vec![any_rows(row(graph, x[0], a))],
            // All places of a picture as rows.
            None if at.distance == 1 && at.extent == places(out) => {
                vec![any_rows(rows(x[0], places(shape(x[0])), 1))]
            }
            None => return None,
        },
        // Its rows are those of the queries, not of what the queries meet; its columns are those of the values.
        Op::Attention(_) => vec![axis.and_then(|_| (0..x.len()).find_map(from))?],
        _ => every().collect(),
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
fn carried(out: &[usize], at: Row, value: ValueId, shape: &[usize], map: &Map) -> Option<Row> {
    if *map == Map::Flat {
        return Some(Row { value, ..at });
    }
    let (first, last) = span(out, at)?;
    let mut place: Option<usize> = None;
    for a in (first..=last).filter(|&a| out[a] != 1) {
        let (b, along) = map.at(a)?;
        let in_place = match along {
            Along::Kept { .. }
            | Along::Sliced { .. }
            | Along::Joined { .. }
            | Along::Repeated { .. }
            | Along::Written { .. }
            | Along::Mixed { .. } => shape[b] == out[a],
            Along::Ranked { .. } | Along::Windowed { .. } | Along::Grouped { .. } => false,
            Along::Folded { .. } | Along::LookedUp | Along::Scattered => false,
        };
        let apart = |p: usize| b <= p || shape[p + 1..b].iter().any(|&n| n != 1);
        if !in_place || place.is_some_and(apart) {
            return None;
        }
        place = Some(b);
    }
    let distance = at.distance / strides(out)[last] * strides(shape)[place?];
    Some(Row { value, extent: at.extent, distance })
}
