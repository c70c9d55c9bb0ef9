//! Scores that are sums of products: q₁·k₁ᵀ + q₂·k₂ᵀ is (q₁ beside q₂)·(k₁ beside k₂)ᵀ.
//!
//! In: a graph. Out: the same with such sums before a softmax as one product, whose operands have the parts of the head size next to
//! each other, as models with latent keys and rotary parts of their own write them apart. Keys that all heads share stay shared, unless
//! another part has them for each head.
//!
//! Nothing but contractions counts: what else is added to the scores, such as a bias that is shifted row by row, stays an addend.
//! A product whose keys differ from row to row, or whose queries differ from key to key, is none of those: its parts beside others
//! would have to be held for each pair.

use super::operands::{OWN, Part, cast, concat, laid_out, letters, of_operand, runs};
use super::types::{Key, Recasting, Site};
use crate::eval::Constants;
use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::relayout::emit;
use crate::find::axes::trace::{layout, splat, trace};
use crate::find::region::anchor::is_anchor;
use crate::find::region::types::passes;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Binary, Contract, DType, Graph, Op, OpId, Tensor, Topology, Unary, ValueId};
use std::collections::{HashSet, VecDeque};

/// The name by which `--explain` tells it.
const RULE: &str = "products-side-by-side";
/// Most operations between a product and the sum in which it stands.
const DEEPEST: usize = 8;
/// Most addends of one sum.
const TERMS: usize = 16;
/// Most operations that are looked at behind a sum in search of a softmax.
const AHEAD: usize = 64;
/// Below this a factor of half a type's numbers loses digits of queries to the smallest numbers of that type.
const LEAST_RATIO: f64 = 1.0 / 1024.0;

/// A product on its way to a sum.
#[derive(Clone)]
struct Product {
    contract: OpId,
    /// The number by which it is multiplied.
    number: f64,
    /// What else it is multiplied or divided by: values that are the same for all keys, or for all queries.
    factors: Vec<(Binary, ValueId)>,
    /// Values that lay it out, from the product on.
    chain: Vec<ValueId>,
    /// The addend as it stands, with what the sum multiplies it by.
    addend: Addend,
}

/// A value times a number, and times or divided by others.
#[derive(Clone)]
struct Addend {
    value: ValueId,
    number: f64,
    factors: Vec<(Binary, ValueId)>,
}

/// An addend.
#[derive(Clone)]
enum Term {
    Product(Product),
    Other(Addend),
}

impl Term {
    fn addend(&self) -> &Addend {
        match self {
            Term::Product(p) => &p.addend,
            Term::Other(a) => a,
        }
    }
}

/// A product with its sides told apart.
struct Sided {
    product: Product,
    q: Part,
    k: Part,
}

/// Puts products of every sum before a softmax side by side.
pub(crate) fn side_by_side(work: &mut Recasting<'_>) {
    let ops = work.graph.ops();
    let is_sum = |id: &&OpId| {
        matches!(work.graph.op(**id), Op::Binary(Binary::Add | Binary::Sub))
            && work.graph.ty(work.graph.result(**id)).dtype.is_float()
            && work.graph.ty(work.graph.result(**id)).rank() >= 2
    };
    let sums: Vec<OpId> = ops.iter().filter(is_sum).copied().collect();
    let mut order = None;
    let mut taken: HashSet<OpId> = HashSet::new();
    // The last sum of a tree first.
    for &id in sums.iter().rev() {
        if taken.contains(&id) || !work.may((RULE, id), Numerics::Reassociation) {
            continue;
        }
        let mut inner = vec![];
        let terms = terms(&work.graph, &mut work.constants, id, &mut inner);
        let products = terms.iter().filter(|t| matches!(t, Term::Product(_))).count();
        if products < 2 || !before_softmax(&work.graph, id) {
            continue;
        }
        let order = order.get_or_insert_with(|| Topology::new(&work.graph));
        if order.is_live(id) && joined(work, order, id, &terms).is_some() {
            taken.extend(inner);
        }
    }
}

/// Whether a softmax is made of what comes of it.
pub(super) fn before_softmax(g: &Graph, id: OpId) -> bool {
    let mut seen = HashSet::from([id]);
    let mut queue = VecDeque::from([id]);
    while let Some(id) = queue.pop_front() {
        for (user, _) in g.results(id).into_iter().flat_map(|v| g.uses(v)) {
            // A softmax, or a part of one.
            if matches!(g.op(user), Op::Softmax { .. } | Op::Unary(Unary::Exp)) || is_anchor(g, user) {
                return true;
            }
            if passes(g.op(user)) && seen.len() < AHEAD && seen.insert(user) {
                queue.push_back(user);
            }
        }
    }
    false
}

/// The addends of a sum, and the sums that it is made of.
fn terms(g: &Graph, constants: &mut Constants, id: OpId, inner: &mut Vec<OpId>) -> Vec<Term> {
    let mut out = vec![];
    flatten(g, constants, g.result(id), (1.0, &[]), (&mut out, inner));
    out
}

fn flatten(
    g: &Graph,
    constants: &mut Constants,
    v: ValueId,
    (number, factors): (f64, &[(Binary, ValueId)]),
    (out, inner): (&mut Vec<Term>, &mut Vec<OpId>),
) {
    let x = g.operands(v.op);
    let whole = |o: ValueId| g.ty(o) == g.ty(v);
    let room = out.len() < TERMS && inner.len() < TERMS;
    match *g.op(v.op) {
        Op::Binary(b @ (Binary::Add | Binary::Sub)) if room && x.iter().any(|&o| whole(o)) => {
            inner.push(v.op);
            let sign = if b == Binary::Sub { -number } else { number };
            flatten(g, constants, x[0], (number, factors), (out, inner));
            flatten(g, constants, x[1], (sign, factors), (out, inner));
            return;
        }
        // A factor on a sum is one on each of its addends.
        Op::Binary(b @ (Binary::Mul | Binary::Div)) if room => {
            let sum = |o: ValueId| {
                let (mut at, mut steps) = (o, 0);
                while let Op::Binary(Binary::Mul | Binary::Div) = g.op(at.op)
                    && steps < DEEPEST
                    && let Some(&next) = g.operands(at.op).iter().find(|&&o| whole(o))
                {
                    (at, steps) = (next, steps + 1);
                }
                matches!(g.op(at.op), Op::Binary(Binary::Add | Binary::Sub))
            };
            let sides = if b == Binary::Mul { vec![0, 1] } else { vec![0] };
            for side in sides {
                let (of, by) = (x[side], x[1 - side]);
                if !whole(of) || !sum(of) {
                    continue;
                }
                let c = splat(g, constants, by).filter(|&c| useful(c));
                let c = if b == Binary::Mul { c } else { c.map(f64::recip) };
                if let Some(c) = c {
                    return flatten(g, constants, of, (number * c, factors), (out, inner));
                }
                if thin(g, v, by) {
                    let more = [factors, &[(b, by)]].concat();
                    return flatten(g, constants, of, (number, &more), (out, inner));
                }
            }
        }
        Op::Unary(Unary::Neg) if room => {
            return flatten(g, constants, x[0], (-number, factors), (out, inner));
        }
        _ => {}
    }
    let addend = Addend { value: v, number, factors: factors.to_vec() };
    out.push(match product(g, constants, &addend) {
        Some(p) => Term::Product(p),
        None => Term::Other(addend),
    });
}

/// A number by which something may be multiplied or divided.
fn useful(c: f64) -> bool {
    c.is_normal() && c.recip().is_normal()
}

/// Whether a factor changes an exponent alone.
fn exact(c: f64) -> bool {
    c.to_bits() & ((1 << 52) - 1) == 0
}

/// Whether a factor of scores is the same for all keys, or for all queries.
fn thin(g: &Graph, scores: ValueId, factor: ValueId) -> bool {
    let (rank, shape) = (g.ty(scores).rank(), &g.ty(factor).shape);
    let extent = |a: usize| (a + shape.len()).checked_sub(rank).map_or(1, |a| shape[a]);
    shape.len() <= rank && (extent(rank - 1) == 1 || extent(rank - 2) == 1)
}

/// The product that an addend is, but for factors, layout and a wider type.
fn product(g: &Graph, constants: &mut Constants, addend: &Addend) -> Option<Product> {
    let Addend { value: mut at, mut number, mut factors } = addend.clone();
    let mut chain = vec![];
    for _ in 0..=DEEPEST {
        let x = g.operands(at.op);
        let whole = |i: usize| g.ty(x[i]).shape == g.ty(at).shape;
        match *g.op(at.op) {
            Op::Contract(_) => {
                chain.reverse();
                let addend = addend.clone();
                return useful(number).then_some(Product { contract: at.op, number, factors, chain, addend });
            }
            Op::Reshape(_) | Op::Permute(_) => {
                chain.push(at);
                at = x[0];
            }
            Op::Cast(to) if g.ty(x[0]).dtype.widens_to(to) => at = x[0],
            Op::Unary(Unary::Neg) => (at, number) = (x[0], -number),
            Op::Binary(b @ (Binary::Mul | Binary::Div)) => {
                let mut of = |i: usize| whole(i).then(|| splat(g, constants, x[1 - i])).flatten();
                let found = match b {
                    Binary::Div => of(0).map(|c| (0, c.recip())),
                    _ => of(0).map(|c| (0, c)).or_else(|| of(1).map(|c| (1, c))),
                };
                match found.filter(|&(_, c)| useful(c)) {
                    Some((i, c)) => (at, number) = (x[i], number * c),
                    // By a value, where nothing was laid out anew: its axes are those of the sum.
                    None if chain.is_empty() => {
                        let is = |i: usize| whole(i) && thin(g, at, x[1 - i]);
                        let i = if is(0) { 0 } else { usize::from(b == Binary::Mul) };
                        if !is(i) {
                            return None;
                        }
                        factors.push((b, x[1 - i]));
                        at = x[i];
                    }
                    None => return None,
                }
            }
            _ => return None,
        }
    }
    None
}

/// Puts the products of one sum side by side.
fn joined(work: &mut Recasting<'_>, order: &Topology, id: OpId, terms: &[Term]) -> Option<()> {
    let g = &work.graph;
    let sum = g.result(id);
    let ty = g.ty(sum).clone();
    let half = matches!(ty.dtype, DType::F16 | DType::BF16);
    let mut space = Space::default();
    let axes = space.axes(&ty.shape);
    let mut all = vec![];
    for term in terms {
        let sides = match term {
            Term::Product(p) => sides(g, &mut work.constants, &mut space, &axes, p),
            Term::Other(_) => None,
        };
        all.push(sides);
    }
    // Factors are split while products are looked at.
    let axes = space.resolve_all(&axes);
    let all: Vec<Option<Sided>> =
        all.into_iter().map(|s| s.and_then(|s| told_apart(&space, &axes, s))).collect();
    let of_inputs = |s: &Sided| [&s.q, &s.k].iter().all(|p| order.depends_on_input(p.value.op));
    let members = fitting(&space, &axes, axes_of_values(g, sum), &all)?;
    if !members.iter().any(|&i| all[i].as_ref().is_some_and(of_inputs)) {
        return None;
    }
    // Halves round each sum: a large addend rounds what is added later otherwise than what was added before.
    if half && members.len() < terms.len() {
        return None;
    }
    let parts: Vec<&Sided> = members.iter().filter_map(|&i| all[i].as_ref()).collect();
    let name = g.value(sum).name.clone();
    let source = g.source(parts[0].product.contract).to_owned();
    let gone: Vec<OpId> = parts.iter().map(|s| s.product.contract).collect();
    let count = parts.len();
    // What fails is read by nothing.
    let graph = &mut work.graph;
    let built = build(graph, &space, &axes, &parts, (sum, &name, &source));
    let (product, mut at, mut numerics) = built.ok()?;
    if half {
        numerics = numerics.max(Numerics::Rounding);
    }
    if !work.admitted.contains(&numerics) {
        return None;
    }
    for (_, term) in terms.iter().enumerate().filter(|(i, _)| !members.contains(i)) {
        let value = times(graph, term.addend(), &name).ok()?;
        at = graph.add1(Op::Binary(Binary::Add), &[at, value], &name, "").ok()?;
    }
    graph.replace(sum, at).ok()?;
    let key: Key = (RULE, id);
    let what = format!("{count} products over the same rows and keys are one over their parts side by side");
    let applied = Applied::new(RULE, what, numerics);
    work.sites.push(Site { key, products: vec![product], gone, applied, log: None, keyed: None });
    Some(())
}

/// An addend with its factors.
fn times(g: &mut Graph, addend: &Addend, name: &str) -> Result<ValueId, String> {
    let mut at = addend.value;
    for &(b, by) in &addend.factors {
        at = g.add1(Op::Binary(b), &[at, by], name, "").map_err(|e| e.to_string())?;
    }
    by_number(g, at, addend.number, name)
}

fn by_number(g: &mut Graph, v: ValueId, number: f64, name: &str) -> Result<ValueId, String> {
    if number == 1.0 {
        return Ok(v);
    }
    let n = Tensor::scalar(g.ty(v).dtype, number);
    let n = g.constant(&format!("{name}.factor"), n);
    g.add1(Op::Binary(Binary::Mul), &[v, n], name, "").map_err(|e| e.to_string())
}

/// The operands of a product with their axes as factors of those of the sum: not yet told apart.
struct Untold {
    product: Product,
    sides: [Part; 2],
}

fn sides(g: &Graph, constants: &mut Constants, space: &mut Space, sum: &Axes, p: &Product) -> Option<Untold> {
    let Op::Contract(c) = g.op(p.contract) else { return None };
    let x = g.operands(p.contract);
    let (a, b) = (trace(g, constants, space, x[0], false), trace(g, constants, space, x[1], false));
    let of =
        |letters: &str, axes: &Axes, l: char| letters.chars().position(|x| x == l).map(|i| axes[i].clone());
    for l in c.lhs.chars() {
        if let Some((left, right)) = of(&c.lhs, &a.axes, l).zip(of(&c.rhs, &b.axes, l))
            && !space.unify(&left, &right)
        {
            return None;
        }
    }
    let mut axes: Axes = c
        .out
        .chars()
        .map(|l| of(&c.lhs, &a.axes, l).or_else(|| of(&c.rhs, &b.axes, l)))
        .collect::<Option<_>>()?;
    for &v in &p.chain {
        let (next, new) = layout(g, constants, space, v, &axes)?;
        if !new.is_empty() {
            return None;
        }
        axes = next;
    }
    if axes.len() > sum.len() {
        return None;
    }
    let lead = sum.len() - axes.len();
    for (own, all) in axes.iter().zip(&sum[lead..]) {
        if !space.resolve(own).is_empty() && !space.unify(all, own) {
            return None;
        }
    }
    let depth: Vec<Dim> = c
        .lhs
        .chars()
        .filter(|l| !c.out.contains(*l))
        .filter_map(|l| of(&c.lhs, &a.axes, l))
        .flatten()
        .collect();
    let sides = [Part::of(space, &a, &depth)?, Part::of(space, &b, &depth)?];
    Some(Untold { product: p.clone(), sides })
}

/// Says which side has the queries: the one with the rows of the sum's last axis but one, where the other has the last. `None` if a
/// side has both.
fn told_apart(space: &Space, axes: &Axes, untold: Untold) -> Option<Sided> {
    let fresh = |p: Part| Part { axes: space.resolve_all(&p.axes), own: space.resolve(&p.own), ..p };
    let [a, b] = untold.sides.map(fresh);
    let all = axes.concat();
    let known = |p: &Part| p.shared().iter().all(|d| all.contains(d));
    if !known(&a) || !known(&b) {
        return None;
    }
    let keys = axes.last()?;
    let has = |p: &Part| keys.iter().any(|d| p.shared().contains(d));
    let rows = axes.get(axes.len() - 2)?;
    let rowed = |p: &Part| rows.iter().any(|d| p.shared().contains(d));
    let (q, k) = match (has(&a), has(&b)) {
        (true, true) => return None,
        (false, true) => (a, b),
        (true, false) => (b, a),
        (false, false) if keys.is_empty() => {
            if rowed(&b) {
                (b, a)
            } else {
                (a, b)
            }
        }
        (false, false) => return None,
    };
    Some(Sided { product: untold.product, q, k })
}

/// Which of the products go together: as many as may, all of whose queries have the rows and none of whose keys have. Rows are what
/// the values that the softmax is multiplied by do not have, or the last axis but one where those are not seen.
fn fitting(
    space: &Space,
    axes: &Axes,
    values: Option<Vec<bool>>,
    all: &[Option<Sided>],
) -> Option<Vec<usize>> {
    let (keys, last) = (axes.last()?, axes.len() - 1);
    let of_rows = |axis: usize| match &values {
        Some(has) => axis != last && !has[axis],
        None => axis + 1 == last,
    };
    let rows: Vec<Dim> =
        (0..axes.len()).filter(|&a| of_rows(a)).flat_map(|a| space.resolve(&axes[a])).collect();
    let every = |set: &[Dim], of: &[Dim]| of.iter().all(|d| set.contains(d));
    let fits = |s: &Sided| {
        let (q, k) = (s.q.shared(), s.k.shared());
        every(&q, &rows) && !rows.iter().any(|d| k.contains(d)) && every(&k, keys)
    };
    let members: Vec<usize> = (0..all.len()).filter(|&i| all[i].as_ref().is_some_and(fits)).collect();
    (members.len() >= 2).then_some(members)
}

/// Which axes of scores the values have by which what comes of them is multiplied.
fn axes_of_values(g: &Graph, scores: ValueId) -> Option<Vec<bool>> {
    let shape = &g.ty(scores).shape;
    let mut seen = HashSet::from([scores.op]);
    let mut queue = VecDeque::from([scores]);
    while let Some(v) = queue.pop_front() {
        for (user, place) in g.uses(v) {
            let next = g.result(user);
            if let Op::Contract(c) = g.op(user) {
                let (own, other) = if place == 0 { (&c.lhs, &c.rhs) } else { (&c.rhs, &c.lhs) };
                return Some(own.chars().map(|l| other.contains(l)).collect());
            }
            let elementwise = passes(g.op(user)) && !matches!(g.op(user), Op::Reshape(_) | Op::Permute(_));
            if elementwise && g.ty(next).shape == *shape && seen.len() < AHEAD && seen.insert(user) {
                queue.push_back(next);
            }
        }
    }
    None
}

/// The product over all parts, what is left of the sum's products by it, and how far numbers change.
fn build(
    g: &mut Graph,
    space: &Space,
    axes: &Axes,
    parts: &[&Sided],
    (sum, name, source): (ValueId, &str, &str),
) -> Result<(OpId, ValueId, Numerics), String> {
    let ty = g.ty(sum).clone();
    let union = |of: &dyn Fn(&Sided) -> Vec<Dim>| {
        let mut set: Vec<Dim> = parts.iter().flat_map(|s| of(s)).collect();
        set.sort_unstable();
        set.dedup();
        set
    };
    let (q_set, k_set) = (union(&|s| s.q.shared()), union(&|s| s.k.shared()));
    // Of an axis of extent 1 the last is one of keys, the one before of rows.
    let last = axes.len() - 1;
    let runs = runs(space, axes, [&q_set, &k_set], |axis| [axis != last, axis + 1 != last]);
    if runs.iter().any(|run| run.of == [false; 2]) {
        return Err("an axis of the sum is one of neither side".into());
    }
    let [q_runs, k_runs] = [0, 1].map(|which| of_operand(&runs, which));
    // What all are multiplied by stays a factor of the whole; of numbers the largest does, without its sign.
    let first = &parts[0].product;
    let together = parts.iter().all(|s| s.product.factors == first.factors);
    let numbers = || parts.iter().map(|s| s.product.number);
    let one = numbers().all(|n| n == first.number);
    let number = if one { first.number } else { numbers().map(f64::abs).fold(0.0, f64::max) };
    let mut numerics = Numerics::Reassociation;
    let (mut qs, mut ks) = (vec![], vec![]);
    for s in parts {
        let mut q = laid_out(g, space, &s.q, &q_runs, name)?;
        let mut k = laid_out(g, space, &s.k, &k_runs, name)?;
        let ratio = s.product.number / number;
        if !exact(ratio) {
            numerics = numerics.max(Numerics::Rounding);
        }
        let dtype = g.ty(q).dtype;
        if dtype != ty.dtype {
            numerics = Numerics::MorePrecision;
        }
        if matches!(dtype, DType::F16 | DType::BF16) && ratio.abs() < LEAST_RATIO {
            return Err("a part is so much smaller than another that halves lose it".into());
        }
        q = by_number(g, q, ratio, name)?;
        if !together {
            for &(b, by) in &s.product.factors {
                numerics = numerics.max(Numerics::Rounding);
                let own = aligned(g, space, axes, by);
                let flat = own.concat();
                let (at, runs) = if flat.iter().all(|d| q_set.contains(d)) {
                    (&mut q, &q_runs)
                } else if flat.iter().all(|d| k_set.contains(d)) {
                    (&mut k, &k_runs)
                } else {
                    return Err("a factor belongs neither to the queries nor to the keys".into());
                };
                let target: Axes = runs
                    .iter()
                    .map(|run| if run.iter().any(|d| flat.contains(d)) { run.clone() } else { vec![] })
                    .chain([vec![]])
                    .collect();
                let by = emit(g, space, by, &own, &target, name)?;
                let by = cast(g, by, dtype, name)?;
                *at = g.add1(Op::Binary(b), &[*at, by], name, "").map_err(|e| e.to_string())?;
            }
        }
        qs.push(q);
        ks.push(k);
    }
    // Halves that were widened after their product stay halves until they are together.
    let widest = |g: &Graph, list: &[ValueId]| {
        let types: Vec<DType> = list.iter().map(|&v| g.ty(v).dtype).collect();
        if types.iter().all(|t| *t == types[0]) { types[0] } else { ty.dtype }
    };
    let mut operands = vec![];
    for (list, axis) in [(qs, q_runs.len()), (ks, k_runs.len())] {
        let dtype = widest(g, &list);
        let list = list.into_iter().map(|v| cast(g, v, dtype, name)).collect::<Result<Vec<_>, _>>()?;
        let all = concat(g, &list, axis, &format!("{name}.parts"))?;
        operands.push(cast(g, all, ty.dtype, name)?);
    }
    let none = || "the axes are too many".to_owned();
    let [lhs, rhs] = [0, 1].map(|which| letters(&runs, |run| run.of[which]));
    let (lhs, rhs) = (lhs.ok_or_else(none)?, rhs.ok_or_else(none)?);
    let out = letters(&runs, |_| true).ok_or_else(none)?;
    let c = Contract { lhs: format!("{lhs}{OWN}"), rhs: format!("{rhs}{OWN}"), out };
    let product = g.add(Op::Contract(c), &operands, name, source).map_err(|e| e.to_string())?;
    let mut at = g.result(product);
    if g.ty(at).shape != ty.shape {
        at = g.add1(Op::Reshape(ty.shape.clone()), &[at], name, "").map_err(|e| e.to_string())?;
    }
    if together {
        for &(b, by) in &first.factors {
            at = g.add1(Op::Binary(b), &[at, by], name, "").map_err(|e| e.to_string())?;
        }
    }
    at = by_number(g, at, number, name)?;
    if *g.ty(at) != ty {
        return Err(format!("the product would be {} where the sum is {ty}", g.ty(at)));
    }
    Ok((product, at, numerics))
}

/// The axes of a factor of the sum.
fn aligned(g: &Graph, space: &Space, sum: &Axes, v: ValueId) -> Axes {
    let shape = &g.ty(v).shape;
    let lead = sum.len() - shape.len();
    shape.iter().zip(&sum[lead..]).map(|(&e, a)| if e == 1 { vec![] } else { space.resolve(a) }).collect()
}
