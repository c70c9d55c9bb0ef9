//! One softmax that several products with values read: p·v₁ and p·v₂ are slices of p·(v₁ beside v₂).

use super::operands::{OWN, Part, concat, laid_out, letters, of_operand, runs};
use super::types::{Recasting, Site};
use crate::eval::Constants;
use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::relayout::emit;
use crate::find::axes::trace::trace;
use crate::find::region::anchor::is_anchor;
use crate::find::region::types::passes;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Contract, Graph, Op, OpId, Topology, ValueId};
use std::collections::{HashMap, HashSet};

/// The name by which `--explain` tells it.
const RULE: &str = "values-side-by-side";
/// Most products with values of one softmax.
const PRODUCTS: usize = 16;

/// Puts the values of every softmax side by side that several products read.
pub(crate) fn values(work: &mut Recasting<'_>, near: &HashSet<OpId>) {
    let order = Topology::new(&work.graph);
    // What comes of a softmax element by element, in the order of the graph.
    let mut weights: HashSet<ValueId> = HashSet::new();
    let mut readers: Vec<(ValueId, Vec<(OpId, usize)>)> = vec![];
    let mut places: HashMap<ValueId, usize> = HashMap::new();
    for &id in order.order().iter().filter(|id| order.is_live(**id)) {
        let g = &work.graph;
        let x = g.operands(id);
        if near.contains(&id) && is_anchor(g, id) || passes(g.op(id)) && x.iter().any(|v| weights.contains(v))
        {
            weights.insert(g.result(id));
        }
        if !matches!(g.op(id), Op::Contract(_)) {
            continue;
        }
        for (side, v) in x.iter().enumerate().filter(|(_, v)| weights.contains(v)) {
            let place = *places.entry(*v).or_insert_with(|| {
                readers.push((*v, vec![]));
                readers.len() - 1
            });
            readers[place].1.push((id, side));
        }
    }
    for (p, products) in readers {
        let Some(&(first, _)) = products.first() else { continue };
        if products.len() < 2 || products.len() > PRODUCTS || !work.may((RULE, first), Numerics::Exact) {
            continue;
        }
        // A value that is made of another of the products stands beside none of them.
        let behind = behind(&work.graph, p.op);
        let mut values = products.iter().map(|&(id, side)| work.graph.operands(id)[1 - side]);
        if values.any(|v| behind.contains(&v.op)) {
            continue;
        }
        let Ok(product) = beside(&mut work.graph, &mut work.constants, p, &products) else { continue };
        let what = format!(
            "{} products of one softmax with values are one with the values side by side",
            products.len()
        );
        work.sites.push(Site {
            key: (RULE, first),
            products: vec![product],
            gone: products.iter().map(|(id, _)| *id).collect(),
            applied: Applied::new(RULE, what, Numerics::Exact),
            log: None,
            keyed: None,
        });
    }
}

/// Operations that something comes to from this one.
fn behind(g: &Graph, id: OpId) -> HashSet<OpId> {
    let mut seen = HashSet::from([id]);
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        for (user, _) in g.results(id).into_iter().flat_map(|v| g.uses(v)) {
            if seen.insert(user) {
                stack.push(user);
            }
        }
    }
    seen
}

/// One product of `p` with all values, and what each product gave as a slice of it.
fn beside(
    g: &mut Graph,
    constants: &mut Constants,
    p: ValueId,
    products: &[(OpId, usize)],
) -> Result<OpId, String> {
    let none = |_: ()| "the values do not line up".to_owned();
    let mut space = Space::default();
    let axes = space.axes(&g.ty(p).shape.clone());
    let mut summed_axes = vec![];
    // Which factors each sums over, what each value is made of, and the axes of each result.
    let (mut traces, mut results, mut summed): (Vec<_>, Vec<Axes>, Vec<Vec<Dim>>) = (vec![], vec![], vec![]);
    for &(id, side) in products {
        let Op::Contract(c) = g.op(id).clone() else { return Err(none(())) };
        let v = g.operands(id)[1 - side];
        let t = trace(g, constants, &mut space, v, false);
        let (pl, vl) = if side == 0 { (&c.lhs, &c.rhs) } else { (&c.rhs, &c.lhs) };
        let of = |letters: &str, axes: &Axes, l: char| {
            letters.chars().position(|x| x == l).and_then(|i| axes.get(i).cloned())
        };
        let mut own = vec![];
        for l in vl.chars() {
            let axis = of(vl, &t.axes, l).unwrap_or_default();
            match of(pl, &axes, l) {
                Some(a) if !space.unify(&a, &axis) => return Err(none(())),
                Some(_) => {}
                None => own.extend(axis),
            }
        }
        let result =
            c.out.chars().map(|l| of(pl, &axes, l).or_else(|| of(vl, &t.axes, l)).unwrap_or_default());
        results.push(result.collect());
        let over: Vec<usize> =
            pl.chars().enumerate().filter(|(_, l)| !c.out.contains(*l)).map(|(i, _)| i).collect();
        summed.push(over.iter().filter_map(|&i| axes.get(i)).flatten().copied().collect());
        summed_axes = over;
        traces.push((t, own));
    }
    let sorted = |list: &[Dim]| {
        let mut list = space.resolve(list);
        list.sort_unstable();
        list
    };
    let keys = sorted(&summed[0]);
    let dtype = g.ty(traces[0].0.base).dtype;
    let parts: Option<Vec<Part>> = traces.iter().map(|(t, own)| Part::of(&space, t, own)).collect();
    let parts = parts.ok_or_else(|| none(()))?;
    if summed.iter().any(|s| sorted(s) != keys) || parts.iter().any(|p| g.ty(p.value).dtype != dtype) {
        return Err(none(()));
    }
    let p_set = space.resolve(&axes.concat());
    let mut v_set: Vec<Dim> = parts.iter().flat_map(Part::shared).collect();
    v_set.sort_unstable();
    v_set.dedup();
    if !keys.iter().all(|d| v_set.contains(d)) || !v_set.iter().all(|d| p_set.contains(d)) {
        return Err(none(()));
    }
    let (first, source) = (products[0].0, g.source(products[0].0).to_owned());
    let name = g.value(g.result(first)).name.clone();
    let kept: Vec<Dim> = p_set.iter().filter(|d| !keys.contains(d)).copied().collect();
    // Of an axis of extent 1 what is summed over is one of both, and rows are the last that is left.
    let rows = (0..axes.len()).rev().find(|a| !summed_axes.contains(a));
    let alone = |axis: usize| [!summed_axes.contains(&axis), Some(axis) != rows];
    let all = runs(&space, &axes, [&kept, &v_set], alone);
    let [out_runs, v_runs] = [0, 1].map(|which| of_operand(&all, which));
    let values: Vec<ValueId> =
        parts.iter().map(|p| laid_out(g, &space, p, &v_runs, &name)).collect::<Result<_, _>>()?;
    let sizes: Vec<usize> = values.iter().map(|&v| g.ty(v).shape.last().copied().unwrap_or(1)).collect();
    let v = concat(g, &values, v_runs.len(), &format!("{name}.values"))?;
    let e = |e: crate::ir::InferError| e.to_string();
    let shape: Vec<usize> = all.iter().map(|run| space.product(&run.dims)).collect();
    let weights =
        if g.ty(p).shape == shape { p } else { g.add1(Op::Reshape(shape), &[p], &name, "").map_err(e)? };
    let lettered = |which: &dyn Fn(usize) -> bool| {
        letters(&all, |run| which(0) && run.of[0] || which(1) && run.of[1]).ok_or_else(|| none(()))
    };
    let c = Contract {
        lhs: lettered(&|_| true)?,
        rhs: format!("{}{OWN}", lettered(&|which| which == 1)?),
        out: format!("{}{OWN}", lettered(&|which| which == 0)?),
    };
    let product = g.add(Op::Contract(c), &[weights, v], &name, &source).map_err(e)?;
    let (mut start, whole) = (0, g.result(product));
    let mut slices = vec![];
    for (((&(id, _), part), len), target) in products.iter().zip(&parts).zip(sizes).zip(&results) {
        let old = g.result(id);
        let name = g.value(old).name.clone();
        let slice = Op::Slice { axis: out_runs.len(), start, len, step: 1 };
        let mine = g.add1(slice, &[whole], &name, "").map_err(e)?;
        let own = [out_runs.clone(), vec![part.own.clone()]].concat();
        let mine = emit(g, &space, mine, &own, target, &name)?;
        slices.push((old, mine));
        start += len;
    }
    if slices.iter().any(|&(old, new)| g.ty(old) != g.ty(new)) {
        return Err(none(()));
    }
    for (old, new) in slices {
        g.replace(old, new).map_err(|e| e.to_string())?;
    }
    Ok(product)
}
