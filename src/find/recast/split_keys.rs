//! Products in parts: one over some keys and one over others, put together by hand, as a cache that is kept apart is read.
//!
//! A slice of q·kᵀ is q·(a slice of k)ᵀ, q·k₁ᵀ beside q·k₂ᵀ is q·(k₁ beside k₂)ᵀ, also where each was masked or scaled by itself,
//! and p₁·v₁ + p₂·v₂ is (p₁ beside p₂)·(v₁ beside v₂), as Σp₁ + Σp₂ is Σ(p₁ beside p₂).

use super::operands::concat;
use crate::eval::Constants;
use crate::find::axes::trace::splat;
use crate::find::region::types::passes_or_multiplies;
use crate::find::same::{DEEPEST as SAME, same};
use crate::ir::axes::maps_of;
use crate::ir::{Binary, Contract, Graph, Op, OpId, Reduction, Tensor, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Most operations between products and where they are put together.
const DEEPEST: usize = 8;
/// Most layout operations that are put together behind a product.
const LAYOUTS: usize = 64;

/// A graph with such products put together.
pub(crate) struct Joined {
    pub(crate) graph: Graph,
    /// The products that were put together.
    pub(crate) products: BTreeSet<OpId>,
}

/// The graph with parts put together that lie around near misses; `None` if there are none.
pub(crate) fn joined(graph: &Graph, missed: &[OpId]) -> Option<Joined> {
    let near = around(graph, missed);
    let candidates =
        |op: &Op| matches!(op, Op::Concat { .. } | Op::Binary(Binary::Add | Binary::Max) | Op::Slice { .. });
    if !graph.ops().iter().any(|&id| candidates(graph.op(id))) {
        return None;
    }
    let mut parts = Parts {
        graph: graph.clone(),
        constants: Constants::default(),
        known: HashMap::new(),
        products: BTreeSet::new(),
    };
    for id in graph.ops().into_iter().filter(|id| near.contains(id)) {
        let new = match parts.graph.op(id).clone() {
            Op::Concat { axis } => {
                let name = parts.graph.value(graph.result(id)).name.clone();
                parts.together(&parts.graph.operands(id), axis, &name, 0)
            }
            Op::Binary(Binary::Add) => parts.sum(id).or_else(|| parts.of_rows(id, Reduction::Sum)),
            Op::Binary(Binary::Max) => parts.of_rows(id, Reduction::Max),
            Op::Slice { axis, .. } => parts.slice(id, axis),
            _ => None,
        };
        if let Some(v) = new {
            parts.graph.replace(graph.result(id), v).ok()?;
        }
    }
    let Parts { graph, products, .. } = parts;
    // What is dead stays, so that no operation gets the number of another.
    (!products.is_empty()).then_some(Joined { graph, products })
}

/// Operations before near misses as far as products, and behind them as far as what is made of the next products.
pub(crate) fn around(graph: &Graph, missed: &[OpId]) -> HashSet<OpId> {
    let product = |id: OpId| matches!(graph.op(id), Op::Contract(_));
    let mut near: HashSet<OpId> = HashSet::new();
    let mut stack = missed.to_vec();
    while let Some(id) = stack.pop() {
        if near.insert(id) && (!product(id) || missed.contains(&id)) {
            stack.extend(graph.operands(id).iter().map(|v| v.op));
        }
    }
    // Behind each how many products were met.
    let mut behind: HashSet<(OpId, bool)> = HashSet::new();
    let mut stack: Vec<(OpId, bool)> =
        near.iter().filter(|&&id| product(id)).map(|&id| (id, missed.contains(&id))).collect();
    stack.sort_unstable();
    while let Some((id, past)) = stack.pop() {
        if !behind.insert((id, past)) {
            continue;
        }
        for (user, _) in graph.results(id).into_iter().flat_map(|v| graph.uses(v)) {
            if !(past && product(user)) && passes_or_multiplies(graph.op(user)) {
                stack.push((user, past || product(user)));
            }
        }
    }
    near.extend(behind.into_iter().map(|(id, _)| id));
    near
}

/// The work on one graph.
struct Parts {
    graph: Graph,
    constants: Constants,
    /// What was put together, by its pieces and the axis along which they stand: sums and products read the same.
    known: HashMap<(Vec<ValueId>, usize), ValueId>,
    products: BTreeSet<OpId>,
}

/// Scores over some keys and over others beside each other along an axis, and the products that were made for it.
pub(crate) fn keys_beside(
    graph: &mut Graph,
    pieces: &[ValueId],
    axis: usize,
    name: &str,
) -> Option<(ValueId, Vec<OpId>)> {
    let mut parts = Parts {
        graph: std::mem::take(graph),
        constants: Constants::default(),
        known: HashMap::new(),
        products: BTreeSet::new(),
    };
    let v = parts.together(pieces, axis, name, 0);
    // What failed is read by nothing.
    *graph = parts.graph;
    let products: Vec<OpId> = parts.products.into_iter().collect();
    Some((v?, products))
}

fn contract(g: &Graph, v: ValueId) -> Option<(Contract, [ValueId; 2])> {
    let Op::Contract(c) = g.op(v.op) else { return None };
    let x = g.operands(v.op);
    Some((c.clone(), [*x.first()?, *x.get(1)?]))
}

/// The operand of a product that alone has axis `axis` of the result, and which axis of it that is.
fn of_one(g: &Graph, product: ValueId, axis: usize) -> Option<(usize, usize)> {
    let maps = maps_of(g, product.op);
    match [maps.first()?.kept(axis), maps.get(1)?.kept(axis)] {
        [Some(along), None] => Some((0, along)),
        [None, Some(along)] => Some((1, along)),
        _ => None,
    }
}

/// Pieces beside each other along an axis. Where they were laid out or repeated alike, what they were made of is put together
/// first, so that heads which each part repeats are repeated once.
pub(crate) fn beside(g: &mut Graph, pieces: &[ValueId], axis: usize, name: &str) -> Option<ValueId> {
    // From the pieces back to what they were made of, with the operation that all of them are.
    let mut levels: Vec<(Op, Vec<ValueId>)> = vec![];
    let (mut at, mut along) = (pieces.to_vec(), axis);
    while levels.len() < LAYOUTS
        && let Some((op, inner)) = below(g, &at, along)
    {
        let behind: Vec<ValueId> = at.iter().map(|v| g.operands(v.op)[0]).collect();
        if !fit(g, &behind, inner) {
            break;
        }
        levels.push((op, g.operands(at[0].op)[1..].to_vec()));
        (at, along) = (behind, inner);
    }
    let mut v = concat(g, &at, along, name).ok()?;
    for (op, others) in levels.into_iter().rev() {
        v = g.add1(op, &[vec![v], others].concat(), name, "").ok()?;
    }
    Some(v)
}

/// Whether values can stand beside each other: they differ along that axis alone.
fn fit(g: &Graph, pieces: &[ValueId], axis: usize) -> bool {
    let but_axis = |v: ValueId| {
        let mut t = g.ty(v).clone();
        t.shape.get_mut(axis).map(|e| std::mem::replace(e, 0))?;
        Some(t)
    };
    let first = pieces.first().and_then(|&v| but_axis(v));
    first.is_some() && pieces.iter().all(|&v| but_axis(v) == first)
}

/// The operation that each piece is, as it is for all of them together, and the axis along which what it reads stands beside
/// the others; `None` if it is not the same for each.
fn below(g: &Graph, pieces: &[ValueId], axis: usize) -> Option<(Op, usize)> {
    let first = *pieces.first()?;
    let kind = |v: ValueId| std::mem::discriminant(g.op(v.op));
    if !pieces.iter().all(|&v| kind(v) == kind(first)) {
        return None;
    }
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
        pieces.iter().all(|v| f(*v) == Some(inner)).then_some(inner)
    };
    // The axis of what a piece reads that is this one.
    let kept = |v: ValueId| maps_of(g, v.op).first()?.kept(axis);
    match g.op(first.op) {
        Op::Permute(perm) => {
            let same = |v: ValueId| if g.op(v.op) == g.op(first.op) { kept(v) } else { None };
            Some((Op::Permute(perm.clone()), alike(&same)?))
        }
        Op::Gather { axis: along } => {
            let indices = g.operands(first.op)[1];
            let same = |v: ValueId| {
                let own = g.operands(v.op).get(1).copied()?;
                let equal = || g.as_constant(own).is_some_and(|t| g.as_constant(indices) == Some(t));
                let alike = g.op(v.op) == g.op(first.op) && (own == indices || equal());
                if alike && g.ty(indices).rank() == 1 { kept(v) } else { None }
            };
            Some((Op::Gather { axis: *along }, alike(&same)?))
        }
        Op::Broadcast(shape) => Some((Op::Broadcast(whole(shape)), alike(&kept)?)),
        Op::Reshape(shape) => {
            // Where the axis may stand in what each is of: of neighbours of extent 1 any will do.
            let fits = |v: ValueId, at: usize| {
                let (Op::Reshape(to), x) = (g.op(v.op), of(v)) else { return false };
                let before: usize = to[..axis].iter().product();
                x.get(at) == Some(&to[axis]) && x[..at].iter().product::<usize>() == before
            };
            let at = (0..of(first).len()).rev().find(|&at| pieces.iter().all(|v| fits(*v, at)))?;
            Some((Op::Reshape(whole(shape)), at))
        }
        _ => None,
    }
}

impl Parts {
    /// A slice of a product along an axis that one operand alone has: the product of a slice of that.
    fn slice(&mut self, id: OpId, axis: usize) -> Option<ValueId> {
        let g = &mut self.graph;
        let (c, mut operands) = contract(g, *g.operands(id).first()?)?;
        let (own, along) = of_one(g, g.operands(id)[0], axis)?;
        let Op::Slice { start, len, step, .. } = *g.op(id) else { return None };
        let name = g.value(g.result(id)).name.clone();
        let source = g.source(g.operands(id)[0].op).to_owned();
        let slice = Op::Slice { axis: along, start, len, step };
        operands[own] = g.add1(slice, &[operands[own]], &format!("{name}.part"), "").ok()?;
        self.product(c, &operands, &name, &source)
    }

    fn product(&mut self, c: Contract, x: &[ValueId; 2], name: &str, source: &str) -> Option<ValueId> {
        let v = self.graph.add1(Op::Contract(c), x, name, source).ok()?;
        self.products.insert(v.op);
        Some(v)
    }

    /// Pieces that stand beside each other along an axis as one value: products that share an operand, and what masks, scales and
    /// exponentials make of them.
    fn together(&mut self, pieces: &[ValueId], axis: usize, name: &str, depth: usize) -> Option<ValueId> {
        let key = (pieces.to_vec(), axis);
        if let Some(&v) = self.known.get(&key) {
            return Some(v);
        }
        if depth > DEEPEST || pieces.len() < 2 {
            return None;
        }
        let v = match self.side_by_side(pieces, axis, name) {
            Some(v) => v,
            None => self.alike(pieces, axis, name, depth)?,
        };
        self.known.insert(key, v);
        Some(v)
    }

    /// Products that share one operand, along an axis that only the other has.
    fn side_by_side(&mut self, pieces: &[ValueId], axis: usize, name: &str) -> Option<ValueId> {
        let g = &self.graph;
        let parts: Vec<(Contract, [ValueId; 2])> =
            pieces.iter().map(|&v| contract(g, v)).collect::<Option<_>>()?;
        let (c, first) = parts.first()?.clone();
        let (other, along) = of_one(g, pieces[0], axis)?;
        let mine = 1 - other;
        if !parts.iter().all(|(d, x)| *d == c && same(g, x[mine], first[mine], SAME)) {
            return None;
        }
        let source = g.source(pieces[0].op).to_owned();
        let pieces: Vec<ValueId> = parts.iter().map(|(_, x)| x[other]).collect();
        let whole = beside(&mut self.graph, &pieces, along, &format!("{name}.parts"))?;
        let mut operands = first;
        operands[other] = whole;
        self.product(c, &operands, name, &source)
    }

    /// Pieces of which the last operation is put together from what each did: one that all did, or a mask or an addend that some
    /// did, and that changes nothing of the others.
    fn alike(&mut self, pieces: &[ValueId], axis: usize, name: &str, depth: usize) -> Option<ValueId> {
        let g = &self.graph;
        // What only some did first.
        let some = pieces.iter().find(|v| matches!(g.op(v.op), Op::Select | Op::Binary(Binary::Add)));
        let op = g.op(some.unwrap_or(&pieces[0]).op).clone();
        match op {
            Op::Unary(_) | Op::Cast(_) => {
                if !pieces.iter().all(|v| *g.op(v.op) == op) {
                    return None;
                }
                let behind: Vec<ValueId> = pieces.iter().map(|v| g.operands(v.op)[0]).collect();
                let x = self.together(&behind, axis, name, depth + 1)?;
                self.graph.add1(op, &[x], name, "").ok()
            }
            Op::Binary(Binary::Add) => self.added(pieces, axis, name, depth),
            Op::Binary(_) => self.by_one(pieces, axis, name, depth),
            Op::Select => self.masked(pieces, axis, name, depth),
            _ => None,
        }
    }

    /// Pieces to each of which one thing is done with one number, or with one value that has nothing along the axis.
    fn by_one(&mut self, pieces: &[ValueId], axis: usize, name: &str, depth: usize) -> Option<ValueId> {
        let op = self.graph.op(pieces[0].op).clone();
        for scores in [0, 1] {
            let (mut behind, mut others) = (vec![], vec![]);
            for v in pieces {
                let x = self.graph.operands(v.op);
                if *self.graph.op(v.op) != op || self.graph.ty(x[scores]) != self.graph.ty(*v) {
                    break;
                }
                behind.push(x[scores]);
                others.push(x[1 - scores]);
            }
            if behind.len() < pieces.len() {
                continue;
            }
            let first = others[0];
            let number = splat(&self.graph, &mut self.constants, first);
            let alike = others.iter().all(|&o| splat(&self.graph, &mut self.constants, o) == number);
            let other = match number {
                Some(c) if alike => {
                    let scalar = Tensor::scalar(self.graph.ty(first).dtype, c);
                    self.graph.constant(name, scalar)
                }
                _ if others.iter().all(|&o| o == first) && self.thin(pieces[0], first, axis) => first,
                _ => continue,
            };
            let Some(x) = self.together(&behind, axis, name, depth + 1) else { continue };
            let operands = if scores == 0 { [x, other] } else { [other, x] };
            return self.graph.add1(op, &operands, name, "").ok();
        }
        None
    }

    /// Whether a value that meets a piece has an extent of 1 along its axis.
    fn thin(&self, piece: ValueId, v: ValueId, axis: usize) -> bool {
        let (rank, shape) = (self.graph.ty(piece).rank(), &self.graph.ty(v).shape);
        (axis + shape.len()).checked_sub(rank).is_none_or(|a| shape[a] == 1)
    }

    /// Pieces to some of which something was added, and to the others nothing.
    fn added(&mut self, pieces: &[ValueId], axis: usize, name: &str, depth: usize) -> Option<ValueId> {
        let (mut behind, mut addends) = (vec![], vec![]);
        for v in pieces {
            let x = self.graph.operands(v.op);
            if *self.graph.op(v.op) == Op::Binary(Binary::Add) {
                // What has all axes and comes of a product is the scores.
                let of = |i: usize| {
                    self.graph.ty(x[i]) == self.graph.ty(*v) && self.product_behind(x[i]).is_some()
                };
                let scores = (0..2).find(|&i| of(i))?;
                behind.push(x[scores]);
                addends.push(x[1 - scores]);
            } else {
                let zero = Tensor::scalar(self.graph.ty(*v).dtype, 0.0);
                behind.push(*v);
                addends.push(self.graph.constant(&format!("{name}.zero"), zero));
            }
        }
        let x = self.together(&behind, axis, name, depth + 1)?;
        let addend = self.laid_out(pieces, &addends, axis, name)?;
        self.graph.add1(Op::Binary(Binary::Add), &[x, addend], name, "").ok()
    }

    /// Pieces some of which were masked with one fill, and the others not.
    fn masked(&mut self, pieces: &[ValueId], axis: usize, name: &str, depth: usize) -> Option<ValueId> {
        // Where the fill stands, and what it is.
        let mut fill: Option<(usize, f64)> = None;
        let (mut behind, mut conditions) = (vec![], vec![]);
        for v in pieces {
            if *self.graph.op(v.op) == Op::Select {
                let x = self.graph.operands(v.op);
                let number = |p: &mut Parts, i: usize| Some((i, splat(&p.graph, &mut p.constants, x[i])?));
                let own = number(self, 2).or_else(|| number(self, 1))?;
                let scores = x[3 - own.0];
                if fill.is_some_and(|f| f != own) || self.graph.ty(scores) != self.graph.ty(*v) {
                    return None;
                }
                fill = Some(own);
                behind.push(Some(scores));
                conditions.push(Some(x[0]));
            } else {
                behind.push(Some(*v));
                conditions.push(None);
            }
        }
        let (at, f) = fill?;
        let behind: Vec<ValueId> = behind.into_iter().collect::<Option<_>>()?;
        // A score that no mask met is kept.
        let kept = Tensor::scalar(crate::ir::DType::Bool, f64::from(u8::from(at == 2)));
        let conditions: Vec<ValueId> = conditions
            .into_iter()
            .map(|c| c.unwrap_or_else(|| self.graph.constant(&format!("{name}.kept"), kept.clone())))
            .collect();
        let x = self.together(&behind, axis, name, depth + 1)?;
        let condition = self.laid_out(pieces, &conditions, axis, name)?;
        let f = self.graph.constant(&format!("{name}.fill"), Tensor::scalar(self.graph.ty(x).dtype, f));
        let operands = if at == 2 { [condition, x, f] } else { [condition, f, x] };
        self.graph.add1(Op::Select, &operands, name, "").ok()
    }

    /// The product that a value comes of, through what [`Parts::alike`] knows.
    fn product_behind(&self, v: ValueId) -> Option<ValueId> {
        let mut at = v;
        for _ in 0..=DEEPEST {
            let x = self.graph.operands(at.op);
            let whole = |o: &&ValueId| self.graph.ty(**o).shape == self.graph.ty(at).shape;
            at = match self.graph.op(at.op) {
                Op::Contract(_) => return Some(at),
                Op::Select => *x[1..].iter().find(whole)?,
                Op::Unary(_) | Op::Cast(_) | Op::Binary(_) => *x.iter().find(whole)?,
                _ => return None,
            };
        }
        None
    }

    /// What broadcasts to each of the pieces, beside each other: with all of their axes, of extent 1 where none needs more.
    fn laid_out(
        &mut self,
        pieces: &[ValueId],
        values: &[ValueId],
        axis: usize,
        name: &str,
    ) -> Option<ValueId> {
        let g = &mut self.graph;
        let rank = g.ty(pieces[0]).rank();
        let extent = |g: &Graph, v: ValueId, a: usize| {
            let shape = &g.ty(v).shape;
            (a + shape.len()).checked_sub(rank).map_or(1, |a| shape[a])
        };
        let common: Vec<usize> =
            (0..rank).map(|a| values.iter().map(|&v| extent(g, v, a)).max().unwrap_or(1)).collect();
        let mut out = vec![];
        for (&piece, &v) in pieces.iter().zip(values) {
            let mut shape = common.clone();
            shape[axis] = g.ty(piece).shape[axis];
            let broadcast = if g.ty(v).shape == shape {
                v
            } else {
                g.add1(Op::Broadcast(shape), &[v], &format!("{name}.laid"), "").ok()?
            };
            out.push(broadcast);
        }
        concat(g, &out, axis, &format!("{name}.laid")).ok()
    }

    /// A sum of two sums over one axis, or a maximum of two maxima: one over both beside each other.
    fn of_rows(&mut self, id: OpId, kind: Reduction) -> Option<ValueId> {
        let g = &self.graph;
        let x = g.operands(id);
        let op = g.op(x.first()?.op).clone();
        let Op::Reduce { kind: own, axes, .. } = &op else { return None };
        let ([axis], true) = (&axes[..], *own == kind) else { return None };
        let axis = *axis;
        let same = |v: &ValueId| *g.op(v.op) == op && g.ty(*v) == g.ty(g.result(id));
        if !x.iter().all(same) {
            return None;
        }
        let mut pieces: Vec<ValueId> = x.iter().map(|v| g.operands(v.op)[0]).collect();
        // In one order here and in a sum of products, which need not be that of the graph.
        pieces.sort_by_key(|&v| self.product_behind(v));
        let name = g.value(g.result(id)).name.clone();
        let whole = self.together(&pieces, axis, &name, 0)?;
        self.graph.add1(op, &[whole], &name, "").ok()
    }

    /// A sum of two products over one axis: of neighbouring slices of one value, or of pieces that can be put together.
    fn sum(&mut self, id: OpId) -> Option<ValueId> {
        let g = &mut self.graph;
        let x = g.operands(id);
        let mut parts = [contract(g, *x.first()?)?, contract(g, *x.get(1)?)?];
        // A sum that repeats one of them is no sum of parts.
        if parts[0].0 != parts[1].0 || !x.iter().all(|&v| g.ty(v) == g.ty(g.result(id))) {
            return None;
        }
        let c = parts[0].0.clone();
        let name = g.value(g.result(id)).name.clone();
        let source = g.source(id).to_owned();
        for side in [0, 1] {
            let slice = |v: ValueId| match *g.op(v.op) {
                Op::Slice { axis, start, len, step: 1 } => Some((g.operands(v.op)[0], axis, start, len)),
                _ => None,
            };
            let (Some(mut a), Some(mut b)) = (slice(parts[0].1[side]), slice(parts[1].1[side])) else {
                continue;
            };
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
            return self.product(c, &operands, &name, &source);
        }
        // The one axis that is summed over, in both operands.
        let mut summed = c.lhs.chars().filter(|l| !c.out.contains(*l));
        let letter = summed.next().filter(|_| summed.next().is_none())?;
        let along = [&c.lhs, &c.rhs].map(|l| l.chars().position(|x| x == letter));
        let [Some(left), Some(right)] = along else { return None };
        for side in [0, 1] {
            let (own, other) = if side == 0 { (left, right) } else { (right, left) };
            parts.sort_by_key(|(_, x)| self.product_behind(x[side]));
            let scores = [parts[0].1[side], parts[1].1[side]];
            // Products of products are no parts of one.
            if scores.iter().any(|v| matches!(self.graph.op(v.op), Op::Contract(_))) {
                continue;
            }
            let Some(p) = self.together(&scores, own, &name, 0) else { continue };
            let values = [parts[0].1[1 - side], parts[1].1[1 - side]];
            let whole = beside(&mut self.graph, &values, other, &format!("{name}.parts"))?;
            let operands = if side == 0 { [p, whole] } else { [whole, p] };
            return self.product(c, &operands, &name, &source);
        }
        None
    }
}
