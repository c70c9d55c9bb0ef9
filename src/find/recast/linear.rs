//! Sums of probabilities times values: (p₁ − λ·p₂)·v is p₁·v − λ·(p₂·v), as differential attention is published.

use super::types::{Recasting, Site};
use crate::eval::Constants;
use crate::find::axes::trace::splat;
use crate::find::region::anchor::is_anchor;
use crate::find::region::types::passes;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Binary, Contract, DType, Graph, Op, OpId, Tensor, Unary, ValueId};
use std::collections::HashSet;

/// The name by which `--explain` tells it.
const RULE: &str = "products-apart";
/// Most probabilities of one sum.
const TERMS: usize = 8;
/// Most operations between a sum and probabilities, and between those and their softmax.
const DEEPEST: usize = 16;

/// What is done to a product on its way to the sum, from the sum inwards.
#[derive(Clone, Copy)]
enum Step {
    Neg,
    /// Converted to another type.
    Cast,
    /// Multiplied by a value, or divided by it, that is the same for all keys.
    By(Binary, ValueId),
}

/// Takes every product of a sum of probabilities with values apart.
pub(crate) fn linear(work: &mut Recasting<'_>, near: &HashSet<OpId>) {
    for id in work.graph.ops() {
        let Op::Contract(c) = work.graph.op(id).clone() else { continue };
        for side in [0, 1] {
            let p = work.graph.operands(id)[side];
            if !matches!(work.graph.op(inner(&work.graph, p).op), Op::Binary(Binary::Add | Binary::Sub)) {
                continue;
            }
            let letters = if side == 0 { &c.lhs } else { &c.rhs };
            let summed: Vec<usize> = letters
                .chars()
                .enumerate()
                .filter(|(_, l)| !c.out.contains(*l))
                .map(|(axis, _)| axis)
                .collect();
            let mut terms = vec![];
            let read = read(&work.graph, &mut work.constants, (p, &summed), &[], &mut terms);
            let of_softmax = |(v, _): &(ValueId, Vec<Step>)| softmax_behind(&work.graph, *v, near);
            if read.is_none() || terms.len() < 2 || !terms.iter().all(of_softmax) {
                continue;
            }
            let half = matches!(work.graph.ty(p).dtype, DType::F16 | DType::BF16);
            let numerics = if half { Numerics::Rounding } else { Numerics::Reassociation };
            if !work.may((RULE, id), numerics) {
                continue;
            }
            let Some(products) = apart(&mut work.graph, (id, &c, side), &terms) else { continue };
            let what = format!(
                "the product of a sum of {} probabilities with V is the sum of their products with it",
                terms.len()
            );
            let applied = Applied::new(RULE, what, numerics);
            work.sites.push(Site {
                key: (RULE, id),
                products,
                gone: vec![id],
                applied,
                log: None,
                keyed: None,
            });
            break;
        }
    }
}

/// What a value is but for conversions and factors.
fn inner(g: &Graph, v: ValueId) -> ValueId {
    let mut at = v;
    for _ in 0..DEEPEST {
        let x = g.operands(at.op);
        at = match g.op(at.op) {
            Op::Cast(_) | Op::Unary(Unary::Neg) => x[0],
            Op::Binary(Binary::Mul | Binary::Div) => {
                let Some(&whole) = x.iter().find(|&&o| g.ty(o) == g.ty(at)) else { return at };
                whole
            }
            _ => return at,
        };
    }
    at
}

/// Whether a value comes of a softmax by layout and slices, or element by element.
fn softmax_behind(g: &Graph, v: ValueId, near: &HashSet<OpId>) -> bool {
    let mut at = v;
    for _ in 0..DEEPEST {
        if is_anchor(g, at.op) {
            return near.contains(&at.op);
        }
        if !passes(g.op(at.op)) {
            return false;
        }
        let x = g.operands(at.op);
        let Some(&next) = x.first() else { return false };
        at = next;
    }
    false
}

/// The addends of a sum of probabilities; `None` if they are too many. `summed` are its axes over which the product sums.
fn read(
    g: &Graph,
    constants: &mut Constants,
    (v, summed): (ValueId, &[usize]),
    steps: &[Step],
    out: &mut Vec<(ValueId, Vec<Step>)>,
) -> Option<()> {
    if steps.len() > DEEPEST || out.len() >= TERMS {
        return None;
    }
    let x = g.operands(v.op);
    let with = |s: Step| [steps, &[s]].concat();
    let whole = |o: ValueId| g.ty(o).shape == g.ty(v).shape;
    match *g.op(v.op) {
        Op::Binary(b @ (Binary::Add | Binary::Sub)) if whole(x[0]) && whole(x[1]) => {
            read(g, constants, (x[0], summed), steps, out)?;
            let second = if b == Binary::Sub { with(Step::Neg) } else { steps.to_vec() };
            return read(g, constants, (x[1], summed), &second, out);
        }
        Op::Unary(Unary::Neg) => return read(g, constants, (x[0], summed), &with(Step::Neg), out),
        Op::Cast(to) if to.is_float() && g.ty(x[0]).dtype.is_float() => {
            return read(g, constants, (x[0], summed), &with(Step::Cast), out);
        }
        Op::Binary(b @ (Binary::Mul | Binary::Div)) if !is_anchor(g, v.op) => {
            let sides: &[usize] = if b == Binary::Mul { &[0, 1] } else { &[0] };
            for &side in sides {
                let (of, by) = (x[side], x[1 - side]);
                let (rank, shape) = (g.ty(v).rank(), &g.ty(by).shape);
                let thin = |a: &usize| (a + shape.len()).checked_sub(rank).is_none_or(|a| shape[a] == 1);
                if whole(of) && (summed.iter().all(thin) || splat(g, constants, by).is_some()) {
                    return read(g, constants, (of, summed), &with(Step::By(b, by)), out);
                }
            }
        }
        _ => {}
    }
    out.push((v, steps.to_vec()));
    Some(())
}

/// A product for each addend, and their sum in the place of the product of the sum.
fn apart(
    g: &mut Graph,
    (id, c, side): (OpId, &Contract, usize),
    terms: &[(ValueId, Vec<Step>)],
) -> Option<Vec<OpId>> {
    let (old, values, source) = (g.result(id), g.operands(id)[1 - side], g.source(id).to_owned());
    let name = g.value(old).name.clone();
    let (ty, p_rank) = (g.ty(old).clone(), g.ty(g.operands(id)[side]).rank());
    let p_type = g.ty(values).dtype;
    let letters = if side == 0 { &c.lhs } else { &c.rhs };
    let (mut products, mut total) = (vec![], None);
    for (p, steps) in terms {
        let p =
            if g.ty(*p).dtype == p_type { *p } else { g.add1(Op::Cast(p_type), &[*p], &name, "").ok()? };
        let operands = if side == 0 { [p, values] } else { [values, p] };
        let product = g.add(Op::Contract(c.clone()), &operands, &name, &source).ok()?;
        products.push(product);
        let (mut at, mut minus) = (g.result(product), false);
        for step in steps.iter().rev() {
            match *step {
                Step::Neg => minus = !minus,
                // It is rounded once, where the product is.
                Step::Cast => {}
                Step::By(b, by) => {
                    let by = on_result(g, by, letters, &c.out, p_rank, &name)?;
                    let by = if g.ty(by).dtype == ty.dtype {
                        by
                    } else {
                        g.add1(Op::Cast(ty.dtype), &[by], &name, "").ok()?
                    };
                    at = g.add1(Op::Binary(b), &[at, by], &name, "").ok()?;
                }
            }
        }
        total = Some(match (total, minus) {
            (None, false) => at,
            (None, true) => g.add1(Op::Unary(Unary::Neg), &[at], &name, "").ok()?,
            (Some(sum), false) => g.add1(Op::Binary(Binary::Add), &[sum, at], &name, "").ok()?,
            (Some(sum), true) => g.add1(Op::Binary(Binary::Sub), &[sum, at], &name, "").ok()?,
        });
    }
    let total = total.filter(|&t| *g.ty(t) == ty)?;
    g.replace(old, total).ok()?;
    Some(products)
}

/// A factor of probabilities laid out as one of their product with values.
fn on_result(
    g: &mut Graph,
    by: ValueId,
    letters: &str,
    out: &str,
    rank: usize,
    name: &str,
) -> Option<ValueId> {
    let ty = g.ty(by).clone();
    if let Some(c) = g.as_constant(by).and_then(|c| c.data.as_deref()).map(Tensor::to_f64)
        && let Some(&first) = c.first()
        && c.iter().all(|x| x.to_bits() == first.to_bits())
    {
        let scalar = Tensor::scalar(ty.dtype, first);
        return Some(g.constant(&format!("{name}.factor"), scalar));
    }
    let mut full = vec![1; rank - ty.rank()];
    full.extend(&ty.shape);
    let laid: Vec<(usize, char)> =
        full.iter().copied().zip(letters.chars()).filter(|(_, l)| out.contains(*l)).collect();
    // What is summed over has an extent of 1 here.
    let shape: Vec<usize> = laid.iter().map(|(e, _)| *e).collect();
    let mut at = if shape == ty.shape { by } else { g.add1(Op::Reshape(shape), &[by], name, "").ok()? };
    let places: Vec<Option<usize>> = out.chars().map(|l| laid.iter().position(|(_, x)| *x == l)).collect();
    let perm: Vec<usize> = places.iter().flatten().copied().collect();
    if !perm.iter().copied().eq(0..perm.len()) {
        at = g.add1(Op::Permute(perm), &[at], name, "").ok()?;
    }
    let target: Vec<usize> = places.iter().map(|p| p.map_or(1, |p| laid[p].0)).collect();
    if g.ty(at).shape != target {
        at = g.add1(Op::Reshape(target), &[at], name, "").ok()?;
    }
    Some(at)
}
