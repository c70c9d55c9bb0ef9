//! One attention that is written out: its region, the facts of its leaves, its normal form, and the attention in its place.

use super::hidden::Around;
use super::masks::types::Context;
use crate::eval::Constants;
use crate::find::algebra::saturate::Solver;
use crate::find::algebra::term::{Expr, Facts, LeafFacts, LeafId, Number, V};
use crate::find::axes::trace::CONSTANT_LIMIT;
use crate::find::magnitude::{SMALL_SHIFT, small_sum};
use crate::find::masks::conditions::inverse;
use crate::find::masks::size::size;
use crate::find::region::search::region;
use crate::find::region::types::{Fail, LeafValue, Region};
use crate::find::rewrite::{Rewritten, rewrite};
use crate::find::same::{DEEPEST, same};
use crate::ir::{DType, Op, OpId};

/// One attention that is written out.
pub(crate) fn written_out(
    cx: &mut Context<'_>,
    around: &mut Around<'_>,
    constants: &mut Constants,
    solver: &mut Solver,
    id: OpId,
) -> Result<(Rewritten, Region), Fail> {
    let region = region(cx.graph, around.order, constants, id)?;
    cx.scores = region.operands[..2].iter().map(|t| t.base).collect();
    // Half the distance from 1 to the next number.
    let swallowed = match region.sums {
        Some(DType::F64) => f64::EPSILON / 2.0,
        _ => f64::from(f32::EPSILON) / 2.0,
    };
    let small = region.narrow.map_or(SMALL_SHIFT, small_sum);
    let facts = Facts {
        leaves: leaf_facts(cx, &region),
        swallowed,
        small,
        f16: region.narrow == Some(DType::F16),
        conflict: None,
    };
    let normal = solver
        .solve((&region.term, &region.halves), &facts, cx.admitted)
        .map_err(|why| Fail::Miss(region.with_names(cx.graph, &why)))?;
    let done = rewrite(cx, around, &region, &normal).map_err(Fail::Miss)?;
    Ok((done, region))
}

/// What rules may ask of the leaves. Constants only where one is multiplied by or added to a product with one.
fn leaf_facts(cx: &mut Context<'_>, region: &Region) -> Vec<LeafFacts> {
    let mut facts = vec![LeafFacts::default(); region.leaves.len() + V.0 + 1];
    let terms = region.term.as_ref();
    let multiplied = |t: &Expr| match t {
        Expr::Mul([_, b]) => {
            if let Expr::Leaf(l) = region.term[*b] {
                Some(l)
            } else {
                None
            }
        }
        _ => None,
    };
    let masks: Vec<LeafId> = terms.iter().filter_map(multiplied).collect();
    let keys = region.space.resolve(&region.keys);
    let of_queries = region.space.resolve(&region.free.concat());
    for (leaf, fact) in region.leaves.iter().zip(&mut facts[V.0 + 1..]) {
        let axes = region.space.resolve_all(&leaf.axes);
        if let Op::Cast(to) = cx.graph.op(leaf.value.op)
            && to.is_float()
        {
            let of = cx.graph.operands(leaf.value.op)[0];
            let laid = |l: &LeafValue| {
                same(cx.graph, l.value, of, DEEPEST) && region.space.resolve_all(&l.axes) == axes
            };
            let place = region.leaves.iter().position(laid);
            fact.truth = place.filter(|_| cx.graph.ty(of).dtype == DType::Bool).map(|n| LeafId(V.0 + 1 + n));
        }
        if cx.graph.ty(leaf.value).dtype.is_float() {
            (fact.size, fact.finite) = size(cx, leaf.value);
        }
        fact.row = !axes.iter().flatten().any(|d| keys.contains(d));
        fact.column = !axes.iter().flatten().any(|d| of_queries.contains(d));
        if masks.is_empty() {
            continue;
        }
        let known = cx.values.get(cx.graph, cx.constants, leaf.value);
        if let Some(p) = known {
            fact.binary = cx.values.all(&p, &[(0.0, 0.0), (1.0, 1.0)]);
            let others = |all: Vec<f64>| -> Vec<f64> { all.into_iter().filter(|&x| x != 0.0).collect() };
            // Of many numbers it is none.
            if let Some([only]) = cx.values.numbers(&p, 2).map(others).as_deref() {
                fact.switch = only.is_finite().then(|| Number::new(*only));
            }
        }
        // Laid out on the axes of the scores as the mask is.
        let laid = |l: &LeafId| {
            let mask = region.leaves.get(l.0.checked_sub(V.0 + 1)?)?;
            (region.space.resolve_all(&mask.axes) == axes).then_some(mask.value)
        };
        let of = |l: &LeafId| Some((*l, inverse(cx, laid(l)?, leaf.value)?));
        fact.inverse = masks.iter().find_map(of);
        let constant = cx.constants.value(cx.graph, leaf.value, CONSTANT_LIMIT);
        fact.constant = constant.map(|t| (axes, t.to_f64()));
    }
    facts
}
