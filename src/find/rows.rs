//! Whether the rows of Q, K and V come from one sequence axis.
//!
//! A row axis is followed backwards through operations that keep the order of its rows or put rows together: elementwise
//! ones, layout, contractions that carry it, slices, concatenations (past keys), look-ups by index. If the ways back from Q,
//! K and V meet in one axis of one value that depends on inputs, the attention is self-attention.

use super::region::Order;
use crate::ir::types::strides;
use crate::ir::{Graph, Op, ValueId};
use std::collections::{HashMap, HashSet};

/// A row axis of a value: its extent, and the distance of two rows in the flat value.
type Row = (ValueId, usize, usize);

/// Ways back, each row axis visited once: a way that comes to a row axis of another way joins it.
#[derive(Default)]
pub(super) struct Origins {
    found: HashMap<Row, usize>,
    /// Union-find: axes that were seen on one way back.
    parent: Vec<usize>,
}

impl Origins {
    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    /// Whether these axes come from one.
    pub(super) fn meet(&mut self, graph: &Graph, order: &Order, axes: &[(ValueId, usize)]) -> bool {
        let roots: Vec<usize> = axes.iter().map(|&(v, a)| self.class(graph, order, v, a)).collect();
        let roots: HashSet<usize> = roots.into_iter().map(|r| self.root(r)).collect();
        roots.len() <= 1
    }

    fn class(&mut self, graph: &Graph, order: &Order, v: ValueId, axis: usize) -> usize {
        let t = graph.ty(v);
        let start: Row = (v, t.shape[axis], strides(&t.shape)[axis]);
        if let Some(&c) = self.found.get(&start) {
            return c;
        }
        let class = self.parent.len();
        self.parent.push(class);
        let mut stack = vec![start];
        while let Some(row) = stack.pop() {
            if let Some(&other) = self.found.get(&row) {
                let (a, b) = (self.root(other), self.root(class));
                self.parent[a.max(b)] = a.min(b);
                continue;
            }
            self.found.insert(row, class);
            stack.extend(back(graph, row).into_iter().filter(|r| order.is_known_dynamic(r.0)));
        }
        class
    }
}

/// The first axis of `v` that has this extent and this distance of rows.
fn place(graph: &Graph, (v, extent, stride): Row) -> Option<usize> {
    let shape = &graph.ty(v).shape;
    let own = strides(shape);
    (0..shape.len()).find(|&a| shape[a] == extent && own[a] == stride)
}

fn row(graph: &Graph, v: ValueId, axis: usize) -> Row {
    let shape = &graph.ty(v).shape;
    (v, shape[axis], strides(shape)[axis])
}

/// The row axes of the operands from which the rows come.
fn back(graph: &Graph, at: Row) -> Vec<Row> {
    let (v, extent, stride) = at;
    let x = graph.operands(v.op);
    // Through a reshape rows are the same by their distance, even inside a longer axis.
    if let Op::Reshape(_) = graph.op(v.op) {
        return vec![(x[0], extent, stride)];
    }
    let Some(axis) = place(graph, at) else { return inside_axis(graph, at) };
    let rank = graph.ty(v).shape.len();
    let same = |o: ValueId| {
        let shape = &graph.ty(o).shape;
        let a = (axis + shape.len()).checked_sub(rank)?;
        (shape[a] == extent).then(|| row(graph, o, a))
    };
    match graph.op(v.op) {
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Broadcast(_) | Op::CumSum { .. } => {
            x.iter().filter_map(|&o| same(o)).collect()
        }
        Op::Softmax { axis: over } if *over != axis => vec![row(graph, x[0], axis)],
        Op::Permute(perm) => vec![row(graph, x[0], perm[axis])],
        Op::Contract(c) => {
            let Some(letter) = c.out.chars().nth(axis) else { return vec![] };
            let in_operand =
                |o: ValueId, axes: &str| axes.chars().position(|l| l == letter).map(|a| row(graph, o, a));
            [in_operand(x[0], &c.lhs), in_operand(x[1], &c.rhs)].into_iter().flatten().collect()
        }
        Op::Reduce { axes, keep, .. } => {
            let source = if *keep {
                axis
            } else {
                (0..graph.ty(x[0]).rank()).filter(|a| !axes.contains(a)).nth(axis).unwrap_or(axis)
            };
            if axes.contains(&source) { vec![] } else { vec![row(graph, x[0], source)] }
        }
        Op::Slice { .. } | Op::Pad { .. } => vec![row(graph, x[0], axis)],
        Op::Concat { axis: along } if *along == axis => x.iter().map(|&o| row(graph, o, axis)).collect(),
        Op::Concat { .. } | Op::ScatterNd { .. } => x.iter().filter_map(|&o| same(o)).collect(),
        Op::Gather { axis: along } => {
            let indices = graph.ty(x[1]).rank();
            if axis < *along {
                vec![row(graph, x[0], axis)]
            } else if axis < along + indices {
                vec![row(graph, x[1], axis - along)]
            } else {
                vec![row(graph, x[0], axis + 1 - indices)]
            }
        }
        Op::Attention(_) if axis == 2 => vec![row(graph, x[0], 2)],
        Op::Attention(_) if axis < 2 => vec![row(graph, x[0], axis)],
        _ => vec![],
    }
}

/// Rows that are a part of a longer axis: only operations that leave the shape alone let them through.
fn inside_axis(graph: &Graph, (v, extent, stride): Row) -> Vec<Row> {
    let shape = &graph.ty(v).shape;
    let x = graph.operands(v.op);
    // The axis that holds the rows, and its own distance.
    let own = strides(shape);
    let holder = (0..shape.len()).find(|&a| own[a] <= stride && stride * extent <= own[a] * shape[a]);
    let Some(axis) = holder else { return vec![] };
    let inner = stride / own[axis].max(1);
    let carry = |o: ValueId, a: usize| -> Option<Row> {
        let s = &graph.ty(o).shape;
        (s.get(a) == Some(&shape[axis])).then(|| (o, extent, inner * strides(s)[a]))
    };
    let same = |o: ValueId| {
        let a = (axis + graph.ty(o).rank()).checked_sub(shape.len())?;
        carry(o, a)
    };
    match graph.op(v.op) {
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Broadcast(_) => {
            x.iter().filter_map(|&o| same(o)).collect()
        }
        Op::Permute(perm) => carry(x[0], perm[axis]).into_iter().collect(),
        Op::Contract(c) => {
            let Some(letter) = c.out.chars().nth(axis) else { return vec![] };
            let at =
                |o: ValueId, axes: &str| axes.chars().position(|l| l == letter).and_then(|a| carry(o, a));
            [at(x[0], &c.lhs), at(x[1], &c.rhs)].into_iter().flatten().collect()
        }
        Op::Reduce { axes, keep: true, .. } if !axes.contains(&axis) => {
            carry(x[0], axis).into_iter().collect()
        }
        _ => vec![],
    }
}
