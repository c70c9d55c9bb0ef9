//! Products in parts: one over some keys and one over others, put together by hand, as a cache that is kept apart is read.
//!
//! A slice of q·kᵀ is q·(a slice of k)ᵀ, q·k₁ᵀ beside q·k₂ᵀ is q·(k₁ beside k₂)ᵀ, and p₁·v₁ + p₂·v₂ with p₁ and p₂ neighbouring slices of p is p·(v₁ beside v₂).

use crate::ir::{Binary, Contract, Graph, Op, OpId, ValueId};
use std::collections::HashSet;

/// A graph with such products put together.
pub(super) struct Joined {
    pub(super) graph: Graph,
    /// The products that were put together.
    pub(super) products: HashSet<OpId>,
}

/// The graph with parts put together; `None` if it has none.
pub(super) fn joined(graph: &Graph) -> Option<Joined> {
    let candidates = |op: &Op| matches!(op, Op::Concat { .. } | Op::Binary(Binary::Add) | Op::Slice { .. });
    if !graph.ops().iter().any(|&id| candidates(graph.op(id))) {
        return None;
    }
    let mut g = graph.clone();
    let mut products = HashSet::new();
    for id in graph.ops() {
        let new = match g.op(id).clone() {
            Op::Concat { axis } => side_by_side(&mut g, id, axis),
            Op::Binary(Binary::Add) => sum(&mut g, id),
            Op::Slice { axis, .. } => part(&mut g, id, axis),
            _ => None,
        };
        if let Some(v) = new {
            g.replace(graph.result(id), v);
            products.insert(v.op);
        }
    }
    if products.is_empty() {
        return None;
    }
    g.remove_dead();
    Some(Joined { graph: g, products })
}

fn contract(g: &Graph, v: ValueId) -> Option<(Contract, [ValueId; 2])> {
    let Op::Contract(c) = g.op(v.op) else { return None };
    let x = g.operands(v.op);
    Some((c.clone(), [*x.first()?, *x.get(1)?]))
}

/// Pieces beside each other along an axis. Where they were laid out or repeated alike, what they were made of is put together
/// first, so that heads which each part repeats are repeated once.
fn beside(g: &mut Graph, pieces: &[ValueId], axis: usize, name: &str) -> Option<ValueId> {
    let (op, inner) = below(g, pieces, axis).unwrap_or((Op::Concat { axis }, None));
    let Some(inner) = inner else { return g.add1(op, pieces, name, "").ok() };
    let behind: Vec<ValueId> = pieces.iter().map(|v| g.operands(v.op)[0]).collect();
    let mut operands = vec![beside(g, &behind, inner, name)?];
    operands.extend(&g.operands(pieces[0].op)[1..]);
    g.add1(op, &operands, name, "").ok()
}

/// The operation that each piece is, as it is for all of them together, and the axis along which what it reads stands beside
/// the others; `None` if it is not the same for each.
fn below(g: &Graph, pieces: &[ValueId], axis: usize) -> Option<(Op, Option<usize>)> {
    let first = *pieces.first()?;
    let of = |v: ValueId| g.ty(g.operands(v.op)[0]).shape.clone();
    let total = pieces.iter().map(|v| g.ty(*v).shape[axis]).sum();
    let whole = |shape: &[usize]| {
        let mut shape = shape.to_vec();
        shape[axis] = total;
        shape
    };
    // What each is, but for its extent along the axis.
    let alike = |f: &dyn Fn(ValueId) -> Option<usize>| {
        let inner = f(first)?;
        pieces.iter().all(|v| f(*v) == Some(inner)).then_some(Some(inner))
    };
    match g.op(first.op) {
        Op::Permute(perm) => {
            let same = |v: ValueId| (g.op(v.op) == g.op(first.op)).then_some(perm[axis]);
            Some((Op::Permute(perm.clone()), alike(&same)?))
        }
        Op::Gather { axis: along } if *along != axis => {
            let indices = g.operands(first.op)[1];
            let same = |v: ValueId| {
                let own = g.operands(v.op).get(1).copied()?;
                let equal = || g.as_constant(own).is_some_and(|t| g.as_constant(indices) == Some(t));
                let alike = g.op(v.op) == g.op(first.op) && (own == indices || equal());
                (alike && g.ty(indices).rank() == 1).then_some(axis)
            };
            Some((Op::Gather { axis: *along }, alike(&same)?))
        }
        Op::Broadcast(shape) => {
            let kept = |v: ValueId| {
                let Op::Broadcast(to) = g.op(v.op) else { return None };
                let inner = (axis + of(v).len()).checked_sub(to.len())?;
                (of(v)[inner] == to[axis]).then_some(inner)
            };
            Some((Op::Broadcast(whole(shape)), alike(&kept)?))
        }
        Op::Reshape(shape) => {
            // Where the axis may stand in what each is of: of neighbours of extent 1 any will do.
            let fits = |v: ValueId, at: usize| {
                let (Op::Reshape(to), x) = (g.op(v.op), of(v)) else { return false };
                let before: usize = to[..axis].iter().product();
                x.get(at) == Some(&to[axis]) && x[..at].iter().product::<usize>() == before
            };
            let at = (0..of(first).len()).rev().find(|&at| pieces.iter().all(|v| fits(*v, at)))?;
            Some((Op::Reshape(whole(shape)), Some(at)))
        }
        _ => None,
    }
}

/// A slice of a product along an axis that one operand alone has: the product of a slice of that.
fn part(g: &mut Graph, id: OpId, axis: usize) -> Option<ValueId> {
    let (c, mut operands) = contract(g, *g.operands(id).first()?)?;
    let letter = c.out.chars().nth(axis)?;
    let (own, letters) = match (c.lhs.contains(letter), c.rhs.contains(letter)) {
        (true, false) => (0, &c.lhs),
        (false, true) => (1, &c.rhs),
        _ => return None,
    };
    let along = letters.chars().position(|l| l == letter)?;
    let Op::Slice { start, len, step, .. } = *g.op(id) else { return None };
    let name = g.value(g.result(id)).name.clone();
    let source = g.source(g.operands(id)[0].op).to_owned();
    let slice = Op::Slice { axis: along, start, len, step };
    operands[own] = g.add1(slice, &[operands[own]], &format!("{name}.part"), "").ok()?;
    g.add1(Op::Contract(c), &operands, &name, &source).ok()
}

/// A concatenation of products that share one operand, along an axis that only the other has.
fn side_by_side(g: &mut Graph, id: OpId, axis: usize) -> Option<ValueId> {
    let x = g.operands(id);
    let parts: Vec<(Contract, [ValueId; 2])> = x.iter().map(|&v| contract(g, v)).collect::<Option<_>>()?;
    let (c, first) = parts.first()?.clone();
    let letter = c.out.chars().nth(axis)?;
    let (mine, other) = match (c.lhs.contains(letter), c.rhs.contains(letter)) {
        (false, true) => (0, 1),
        (true, false) => (1, 0),
        _ => return None,
    };
    if parts.len() < 2 || !parts.iter().all(|(d, x)| *d == c && x[mine] == first[mine]) {
        return None;
    }
    let along = if other == 0 { &c.lhs } else { &c.rhs }.chars().position(|l| l == letter)?;
    let pieces: Vec<ValueId> = parts.iter().map(|(_, x)| x[other]).collect();
    let name = g.value(g.result(id)).name.clone();
    let source = g.source(x[0].op).to_owned();
    let whole = beside(g, &pieces, along, &format!("{name}.parts"))?;
    let mut operands = first;
    operands[other] = whole;
    g.add1(Op::Contract(c), &operands, &name, &source).ok()
}

/// A sum of two products whose one operands are neighbouring slices of one value along an axis that is summed over.
fn sum(g: &mut Graph, id: OpId) -> Option<ValueId> {
    let x = g.operands(id);
    let mut parts = [contract(g, *x.first()?)?, contract(g, *x.get(1)?)?];
    if parts[0].0 != parts[1].0 {
        return None;
    }
    let c = parts[0].0.clone();
    for side in [0, 1] {
        let slice = |v: ValueId| match *g.op(v.op) {
            Op::Slice { axis, start, len, step: 1 } => Some((g.operands(v.op)[0], axis, start, len)),
            _ => None,
        };
        let (Some(mut a), Some(mut b)) = (slice(parts[0].1[side]), slice(parts[1].1[side])) else { continue };
        if b.2 < a.2 {
            std::mem::swap(&mut a, &mut b);
            parts.swap(0, 1);
        }
        let letters = [&c.lhs, &c.rhs];
        let letter = letters[side].chars().nth(a.1)?;
        let along = letters[1 - side].chars().position(|l| l == letter)?;
        if (a.0, a.1, a.2 + a.3) != (b.0, b.1, b.2) || c.out.contains(letter) {
            continue;
        }
        let name = g.value(g.result(id)).name.clone();
        let source = g.source(id).to_owned();
        let pieces = [parts[0].1[1 - side], parts[1].1[1 - side]];
        let whole = beside(g, &pieces, along, &format!("{name}.parts"))?;
        let (len, all) = (a.3 + b.3, g.ty(a.0).shape[a.1]);
        let p = if len == all {
            a.0
        } else {
            let slice = Op::Slice { axis: a.1, start: a.2, len, step: 1 };
            g.add1(slice, &[a.0], &format!("{name}.rest"), "").ok()?
        };
        let operands = if side == 0 { [p, whole] } else { [whole, p] };
        return g.add1(Op::Contract(c), &operands, &name, &source).ok();
    }
    None
}
