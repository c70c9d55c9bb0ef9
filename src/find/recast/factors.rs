//! Numbers by which Q or K was multiplied before something else was done to it: (c·x)[a..b] is c·(x[a..b]), and rotated likewise.
//!
//! In: a graph. Out: the same with such numbers behind all of that, where the scale of the scores begins. What only moves elements leaves
//! each with its one product, and whoever else reads it reads the same bits. Sums and products are another order of operations: only those
//! are passed that nothing else reads, of which every addend has the same numbers, and not in a half type, whose range they may leave.

use super::side_by_side::before_softmax;
use super::types::{Recasting, Site};
use crate::eval::Constants;
use crate::find::axes::factors::Space;
use crate::find::axes::trace::{Scalar, step, trace};
use crate::find::types::{Applied, Numerics};
use crate::ir::{Binary, DType, Graph, Op, OpId, Tensor, Topology, Unary, ValueId};
use std::collections::HashMap;

/// The name by which `--explain` tells it.
const RULE: &str = "factor-behind";
/// Most operations between the number and the product of Q and K.
const DEEPEST: usize = 32;
/// Most values that are looked at.
const MOST: usize = 128;
/// Least and greatest number that sums and products are taken without.
const RANGE: std::ops::Range<f64> = 1e-6..1e6;

/// Takes numbers of Q and K behind what was done to both before they meet.
pub(crate) fn factors(work: &mut Recasting<'_>) {
    let mut order = None;
    for id in work.graph.ops() {
        if !matches!(work.graph.op(id), Op::Contract(_)) || !before_softmax(&work.graph, id) {
            continue;
        }
        let order = order.get_or_insert_with(|| Topology::new(&work.graph));
        let x = work.graph.operands(id);
        if !order.is_live(id) || !x.iter().all(|v| order.depends_on_input(v.op)) {
            continue;
        }
        let numerics: Vec<Numerics> = x.into_iter().filter_map(|v| behind(work, id, v)).collect();
        if let Some(&numerics) = numerics.iter().max() {
            let what =
                "a factor of Q or K before its elements are moved or rotated is one behind that".into();
            let applied = Applied::new(RULE, what, numerics);
            let key = (RULE, id);
            work.sites.push(Site { key, products: vec![id], gone: vec![], applied, log: None, keyed: None });
        }
    }
}

/// Takes the numbers of one operand of a product behind.
fn behind(work: &mut Recasting<'_>, product: OpId, operand: ValueId) -> Option<Numerics> {
    let g = &work.graph;
    // What is seen anyway is left.
    let base = trace(g, &mut work.constants, &mut Space::default(), operand, true).base;
    let mut search = Search { graph: g, constants: &mut work.constants, known: HashMap::new(), sums: false };
    let scalars = search.scalars(base, true, 0);
    let Search { known, sums, .. } = search;
    if scalars.is_empty() {
        return None;
    }
    let numerics = if sums { Numerics::Reassociation } else { Numerics::Exact };
    if !work.may((RULE, product), numerics) {
        return None;
    }
    if sums {
        let total: f64 = scalars.iter().map(|s| number(*s).0.abs()).product();
        let mut inside = vec![product];
        let mut at = operand;
        while at != base {
            inside.push(at.op);
            at = step(g, &mut work.constants, at)?.0;
        }
        let passed = |v: &ValueId| known.get(v).is_some_and(|s| !s.is_empty());
        inside.extend(known.keys().filter(|v| passed(v)).map(|v| v.op));
        let own = |id: &OpId| inside.contains(id);
        let alone = |v: ValueId| g.uses(v).iter().all(|(user, _)| own(user));
        let read = |v: ValueId| scaled(g, &mut work.constants, v).is_some() || alone(v);
        if !RANGE.contains(&total) || !inside[1..].iter().map(|&id| g.result(id)).all(read) {
            return None;
        }
    }
    let name = g.value(base).name.clone();
    let Recasting { graph, constants, .. } = work;
    let mut new = without(graph, constants, &known, base, &mut HashMap::new())?;
    for s in scalars {
        let (_, b, c) = number(s);
        let c = graph.constant(&format!("{name}.factor"), Tensor::scalar(graph.ty(new).dtype, c));
        new = graph.add1(Op::Binary(b), &[new, c], &name, "").ok()?;
    }
    graph.replace(base, new).ok()?;
    Some(numerics)
}

/// What it multiplies by, and how.
fn number(s: Scalar) -> (f64, Binary, f64) {
    match s {
        Scalar::Mul(c) => (c, Binary::Mul, c),
        Scalar::Div(c) => (c.recip(), Binary::Div, c),
        Scalar::Widen(_) => (1.0, Binary::Mul, 1.0),
    }
}

/// What a value is a number times, and that number.
fn scaled(g: &Graph, constants: &mut Constants, v: ValueId) -> Option<(ValueId, Scalar)> {
    let (Op::Binary(Binary::Mul | Binary::Div), Some((of, Some(s)))) = (g.op(v.op), step(g, constants, v))
    else {
        return None;
    };
    number(s).0.is_normal().then_some((of, s))
}

/// A search for numbers.
struct Search<'a> {
    graph: &'a Graph,
    constants: &'a mut Constants,
    /// The numbers of each value that was looked at.
    known: HashMap<ValueId, Vec<Scalar>>,
    /// Whether a sum or a product was passed.
    sums: bool,
}

impl Search<'_> {
    /// The numbers by which every element of a value was multiplied, the innermost first; through sums and products only if `sums`.
    fn scalars(&mut self, v: ValueId, sums: bool, depth: usize) -> Vec<Scalar> {
        if let Some(known) = self.known.get(&v) {
            return known.clone();
        }
        // What is not looked at has none: each value is judged once.
        let far = depth > DEEPEST || self.known.len() > MOST;
        let found = if far { vec![] } else { self.of(v, sums, depth + 1) };
        self.known.insert(v, found.clone());
        found
    }

    fn of(&mut self, v: ValueId, sums: bool, depth: usize) -> Vec<Scalar> {
        let (g, x) = (self.graph, self.graph.operands(v.op));
        if let Some((of, s)) = scaled(g, self.constants, v) {
            let inner = self.scalars(of, sums, depth);
            return if number(s).0 == 1.0 { inner } else { [inner, vec![s]].concat() };
        }
        let half = matches!(g.ty(v).dtype, DType::F16 | DType::BF16);
        let sums = sums && !half && g.ty(v).dtype.is_float();
        match g.op(v.op) {
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Broadcast(_)
            | Op::Slice { .. }
            | Op::Gather { .. }
            | Op::Unary(Unary::Neg) => self.scalars(x[0], sums, depth),
            Op::Concat { .. } => self.same(&x, sums, depth),
            Op::Binary(Binary::Add | Binary::Sub) if sums => {
                let found = self.same(&x, sums, depth);
                self.sums |= !found.is_empty();
                found
            }
            Op::Binary(Binary::Mul) | Op::Contract(_) if sums => {
                // Behind a product with weights all that counts is a factor on them, or on what they multiply.
                let sums = !matches!(g.op(v.op), Op::Contract(_));
                let found: Vec<Scalar> = x.iter().flat_map(|&o| self.scalars(o, sums, depth)).collect();
                self.sums |= !found.is_empty();
                found
            }
            _ => vec![],
        }
    }

    /// The numbers that all have.
    fn same(&mut self, x: &[ValueId], sums: bool, depth: usize) -> Vec<Scalar> {
        let Some((&first, others)) = x.split_first() else { return vec![] };
        let found = self.scalars(first, sums, depth);
        let all = !found.is_empty() && others.iter().all(|&o| self.scalars(o, sums, depth) == found);
        if all { found } else { vec![] }
    }
}

/// A value without its numbers.
fn without(
    g: &mut Graph,
    constants: &mut Constants,
    known: &HashMap<ValueId, Vec<Scalar>>,
    v: ValueId,
    made: &mut HashMap<ValueId, ValueId>,
) -> Option<ValueId> {
    if known.get(&v).is_none_or(Vec::is_empty) {
        return Some(v);
    }
    if let Some(&new) = made.get(&v) {
        return Some(new);
    }
    let new = if let Some((of, _)) = scaled(g, constants, v) {
        without(g, constants, known, of, made)?
    } else {
        let (op, name) = (g.op(v.op).clone(), g.value(v).name.clone());
        let source = g.source(v.op).to_owned();
        let x = g.operands(v.op);
        let x: Option<Vec<ValueId>> = x.into_iter().map(|o| without(g, constants, known, o, made)).collect();
        g.add1(op, &x?, &name, &source).ok()?
    };
    made.insert(v, new);
    Some(new)
}
