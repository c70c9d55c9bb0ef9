//! Slices of probabilities along another axis than their keys, as of pairs of heads: the softmax of slices of the scores, and
//! these the products of slices of the queries and keys.

use super::types::{Recasting, Site};
use crate::find::region::anchor::is_anchor;
use crate::find::types::{Applied, Numerics};
use crate::ir::axes::maps_of;
use crate::ir::{Graph, Op, OpId, ValueId};
use std::collections::{HashMap, HashSet};

/// The name by which `--explain` tells it.
const RULE: &str = "slices-of-heads";
/// Most operations between a slice and the product of which it is one.
const LIMIT: usize = 64;

/// Elements start, start + step, … of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cut {
    axis: usize,
    start: usize,
    len: usize,
    step: i64,
}

impl Cut {
    fn op(self) -> Op {
        let Cut { axis, start, len, step } = self;
        Op::Slice { axis, start, len, step }
    }
}

/// Moves every slice of probabilities before its product.
pub(crate) fn slices(work: &mut Recasting<'_>, near: &HashSet<OpId>) {
    for id in work.graph.ops() {
        let Op::Slice { axis, start, len, step } = *work.graph.op(id) else { continue };
        let of = work.graph.operands(id)[0];
        if len == work.graph.ty(of).shape[axis]
            || !work.may((RULE, id), Numerics::Exact)
            || !of_softmax(&work.graph, of, near)
        {
            continue;
        }
        let graph = std::mem::take(&mut work.graph);
        let mut moving =
            Moving { graph, known: HashMap::new(), products: vec![], gone: vec![], softmax: false };
        let new = moving.cut(of, Cut { axis, start, len, step });
        work.graph = std::mem::take(&mut moving.graph);
        let old = work.graph.result(id);
        let useful = !moving.products.is_empty() && moving.softmax;
        // What failed is read by nothing.
        if !useful || new.is_none_or(|v| work.graph.replace(old, v).is_err()) {
            continue;
        }
        let what =
            "a slice of the probabilities is the softmax of the scores of a slice of the queries and keys";
        let applied = Applied::new(RULE, what.into(), Numerics::Exact);
        let (products, gone) = (moving.products, moving.gone);
        work.sites.push(Site { key: (RULE, id), products, gone, applied, log: None, keyed: None });
    }
}

/// Whether a value comes of a softmax by layout alone.
fn of_softmax(g: &Graph, v: ValueId, near: &HashSet<OpId>) -> bool {
    let mut at = v;
    for _ in 0..LIMIT {
        if is_anchor(g, at.op) {
            return near.contains(&at.op);
        }
        match g.op(at.op) {
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Cast(_) => at = g.operands(at.op)[0],
            _ => return false,
        }
    }
    false
}

/// One slice on its way.
struct Moving {
    graph: Graph,
    known: HashMap<(ValueId, Cut), ValueId>,
    products: Vec<OpId>,
    gone: Vec<OpId>,
    /// Whether it passed a softmax, or what spells one.
    softmax: bool,
}

impl Moving {
    /// The slice of a value, made of slices of what the value is made of, as far as the product.
    fn cut(&mut self, v: ValueId, cut: Cut) -> Option<ValueId> {
        if cut.len == self.graph.ty(v).shape[cut.axis] && cut.start == 0 && cut.step == 1 {
            return Some(v);
        }
        if let Some(&known) = self.known.get(&(v, cut)) {
            return Some(known);
        }
        if self.known.len() > LIMIT {
            return None;
        }
        let new = self.made(v, cut)?;
        self.known.insert((v, cut), new);
        Some(new)
    }

    fn made(&mut self, v: ValueId, cut: Cut) -> Option<ValueId> {
        let (op, x) = (self.graph.op(v.op).clone(), self.graph.operands(v.op));
        let name = self.graph.value(v).name.clone();
        let source = self.graph.source(v.op).to_owned();
        self.softmax |= is_anchor(&self.graph, v.op);
        let shape = self.graph.ty(v).shape.clone();
        let new = match op {
            Op::Reshape(_) => {
                let inner = through(&self.graph.ty(x[0]).shape.clone(), &shape, cut)?;
                let of = self.cut(x[0], inner)?;
                let mut shape = shape;
                shape[cut.axis] = cut.len;
                self.graph.add1(Op::Reshape(shape), &[of], &name, "").ok()?
            }
            Op::Permute(ref perm) => {
                let of = self.cut(x[0], Cut { axis: *perm.get(cut.axis)?, ..cut })?;
                self.graph.add1(op, &[of], &name, "").ok()?
            }
            Op::Contract(_) => {
                let maps = maps_of(&self.graph, v.op);
                let mut operands = x;
                for (operand, map) in operands.iter_mut().zip(&maps) {
                    if let Some(axis) = map.kept(cut.axis) {
                        *operand = self.operand(*operand, Cut { axis, ..cut }, &name, LIMIT)?;
                    }
                }
                let new = self.graph.add(op, &operands, &name, &source).ok()?;
                self.products.push(new);
                self.gone.push(v.op);
                self.graph.result(new)
            }
            Op::Softmax { axis } if axis == cut.axis => return None,
            Op::Reduce { ref axes, keep, .. } => {
                let mut axis = cut.axis;
                if keep {
                    if axes.contains(&axis) {
                        return None;
                    }
                } else {
                    // Folded axes before it are gone.
                    for a in axes {
                        axis += usize::from(*a <= axis);
                    }
                }
                let of = self.cut(x[0], Cut { axis, ..cut })?;
                self.graph.add1(op, &[of], &name, &source).ok()?
            }
            Op::Broadcast(mut to) => {
                let mut of = x[0];
                if let Some(axis) = own_axis(&self.graph, v, of, cut.axis) {
                    of = self.cut(of, Cut { axis, ..cut })?;
                }
                to[cut.axis] = cut.len;
                self.graph.add1(Op::Broadcast(to), &[of], &name, "").ok()?
            }
            Op::Softmax { .. } | Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) => {
                let mut operands = x;
                for operand in &mut operands {
                    if let Some(axis) = own_axis(&self.graph, v, *operand, cut.axis) {
                        *operand = self.cut(*operand, Cut { axis, ..cut })?;
                    }
                }
                self.graph.add1(op, &operands, &name, &source).ok()?
            }
            // A leaf of the scores.
            _ => self.sliced(v, cut, &name)?,
        };
        Some(new)
    }

    /// The slice of an operand of a product, before it was laid out or repeated where that can be.
    fn operand(&mut self, v: ValueId, cut: Cut, name: &str, limit: usize) -> Option<ValueId> {
        let (op, shape) = (self.graph.op(v.op).clone(), self.graph.ty(v).shape.clone());
        let of = self.graph.operands(v.op).first().copied();
        let moved = match (&op, of) {
            _ if limit == 0 => None,
            (Op::Permute(perm), Some(_)) => perm.get(cut.axis).map(|&axis| Cut { axis, ..cut }),
            (Op::Reshape(_), Some(of)) => {
                let from = self.graph.ty(of).shape.clone();
                through(&from, &shape, cut).or_else(|| merged(&from, &shape, cut))
            }
            (Op::Broadcast(_), Some(of)) => match own_axis(&self.graph, v, of, cut.axis) {
                Some(axis) => Some(Cut { axis, ..cut }),
                None => {
                    let mut shape = shape;
                    shape[cut.axis] = cut.len;
                    return self.graph.add1(Op::Broadcast(shape), &[of], name, "").ok();
                }
            },
            _ => None,
        };
        let (Some(moved), Some(of)) = (moved, of) else { return self.sliced(v, cut, name) };
        let of = self.operand(of, moved, name, limit - 1)?;
        let mut shape = shape;
        shape[cut.axis] = cut.len;
        let op = match op {
            Op::Reshape(_) => Op::Reshape(shape),
            Op::Broadcast(_) => Op::Broadcast(shape),
            other => other,
        };
        self.graph.add1(op, &[of], name, "").ok()
    }

    fn sliced(&mut self, v: ValueId, cut: Cut, name: &str) -> Option<ValueId> {
        self.graph.add1(cut.op(), &[v], &format!("{name}.part"), "").ok()
    }
}

/// The same elements before a reshape: of an axis that it keeps, or that it split.
fn through(from: &[usize], to: &[usize], cut: Cut) -> Option<Cut> {
    let before: usize = to[..cut.axis].iter().product();
    let extent = to[cut.axis];
    let mut outer = 1;
    for (axis, &e) in from.iter().enumerate() {
        let next = outer * e;
        // The axis lies within this one: (before / outer) × extent × what is behind it.
        if e > 0
            && outer > 0
            && before.is_multiple_of(outer)
            && (before * extent) > outer
            && next.is_multiple_of(before * extent)
        {
            let (lead, behind) = (before / outer, next / (before * extent));
            return match (lead, behind) {
                (1, 1) => Some(Cut { axis, ..cut }),
                // Whole runs of one piece.
                (1, _) if cut.step == 1 => {
                    Some(Cut { axis, start: cut.start * behind, len: cut.len * behind, step: 1 })
                }
                // One of each run.
                (_, 1) if cut.len == 1 => {
                    Some(Cut { axis, start: cut.start, len: lead, step: i64::try_from(extent).ok()? })
                }
                _ => None,
            };
        }
        outer = next;
    }
    None
}
/// The same elements before a reshape that makes one axis of several: whole runs, or the same of each innermost run.
fn merged(from: &[usize], to: &[usize], cut: Cut) -> Option<Cut> {
    let (before, extent): (usize, usize) = (to[..cut.axis].iter().product(), to[cut.axis]);
    let first = (0..from.len()).find(|&a| from[..a].iter().product::<usize>() == before && from[a] > 1)?;
    let last = (first..from.len()).find(|&a| from[first..=a].iter().product::<usize>() == extent)?;
    let behind: usize = from[first + 1..=last].iter().product();
    let step = usize::try_from(cut.step).ok()?;
    if step == 1 && cut.start.is_multiple_of(behind) && cut.len.is_multiple_of(behind) {
        return Some(Cut { axis: first, start: cut.start / behind, len: cut.len / behind, step: 1 });
    }
    let inner = from[last];
    let each = inner.is_multiple_of(step) && cut.start < step && cut.len * step == extent;
    each.then_some(Cut { axis: last, start: cut.start, len: inner / step, step: cut.step })
}

/// The axis of an operand that broadcasts to axis `axis` of a value, if it has more than one element.
fn own_axis(g: &Graph, v: ValueId, operand: ValueId, axis: usize) -> Option<usize> {
    let (rank, shape) = (g.ty(v).rank(), &g.ty(operand).shape);
    let own = (axis + shape.len()).checked_sub(rank)?;
    (shape[own] > 1 || g.ty(v).shape[axis] == 1).then_some(own)
}
