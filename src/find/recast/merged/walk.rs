//! From scores to results: what a graph makes of rows of scores, computed in every trial at once.
//!
//! In: a graph, and operations to look at. Out: for each value that is made of scores what it is in the trials, and of which parts, masks
//! and products with values it is made.
//!
//! What is understood are functions of one element, folds over all keys of a part, products with values, and numbers that decide nothing:
//! a number with which something is compared is 0 or infinite, so that a few trials show everything that a function can do.

use super::trial::{self, Special, keys};
use crate::eval::{Constants, Precision, apply};
use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::trace::{layout, splat};
use crate::find::decimal::decimal;
use crate::find::elements::interpret::Values;
use crate::find::magnitude::{HUGE, MASKING, SMALL_GUARD, decides_only_below, huge};
use crate::find::region::types::passes;
use crate::find::same::Kept;
use crate::ir::{Binary, DType, Graph, Op, OpId, Reduction, Tensor, Topology, Unary, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Most operations between scores and their product.
const DEEPEST: usize = 32;
/// Most operations between exponentials and their sum.
const BEFORE_SUM: usize = 8;
/// Most values that are followed.
const VALUES: usize = 8192;

/// What scores may be that are left out by something unknown: −∞, a large number, the least number of f32.
const FILLS: [f64; 3] = [f64::NEG_INFINITY, -1e9, f32::MIN as f64];
/// Most numbers of a mask.
const FEW: usize = 8;

/// What a value has for each row of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One number.
    Row,
    /// A number for each key of a part; the axis of the keys.
    Keys(usize, usize),
    /// A row of a product with values.
    Result,
}

/// A value made of scores.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) kind: Kind,
    pub(super) axes: Axes,
    /// A row for each trial: in f64, and in the types of the graph.
    pub(super) data: [Tensor; 2],
    /// Of what it is made: parts, masks and products.
    pub(super) of: Made,
}

/// Of what a value is made: parts, masks and products by their numbers, and small numbers that guard sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) parts: BTreeSet<usize>,
    pub(super) masks: BTreeSet<usize>,
    pub(super) products: BTreeSet<usize>,
    pub(super) guards: BTreeMap<ValueId, String>,
}

impl Made {
    fn join(&mut self, o: &Made) {
        self.parts.extend(&o.parts);
        self.masks.extend(&o.masks);
        self.products.extend(&o.products);
        self.guards.extend(o.guards.iter().map(|(&v, c)| (v, c.clone())));
    }
}

/// Scores over some keys.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) scores: ValueId,
    pub(super) axes: Axes,
    /// The axis of its keys.
    pub(super) axis: usize,
    /// Scores of keys that a mask or a bias leaves out.
    pub(super) fills: Vec<f64>,
    /// The mask that has left keys out last, if masks behind the exponentials leave them out again.
    pub(super) before: Option<Before>,
}

/// A mask on scores that stands behind their exponentials as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// Its number among the masks.
    mask: usize,
    /// What it makes of scores: nothing is left of −∞, and of a number what is left of any score.
    fill: f64,
}

/// A mask on what was made of a part's scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    pub(super) part: usize,
    pub(super) value: ValueId,
    /// Whether it drops where it is true.
    pub(super) drops: bool,
}

/// A product of what was made of a part's scores with values.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) op: OpId,
    pub(super) part: usize,
    /// The operand that comes of scores.
    pub(super) side: usize,
    pub(super) axes: Axes,
    /// The number of its values.
    value: usize,
}

impl Product {
    /// The number by which its values are told from others.
    pub(super) fn value(&self) -> usize {
        self.value
    }
}

/// What is known of a graph.
pub(super) struct Walk<'a> {
    pub(super) g: &'a Graph,
    pub(super) order: &'a Topology,
    constants: &'a mut Constants,
    elements: Values,
    pub(super) space: Space,
    pub(super) trials: Vec<Special>,
    pub(super) parts: Vec<Part>,
    pub(super) masks: Vec<Mask>,
    pub(super) products: Vec<Product>,
    values: Vec<ValueId>,
    pub(super) known: HashMap<ValueId, Value>,
    /// Values in the order of the graph.
    pub(super) list: Vec<ValueId>,
    /// Exponentials of f16 that may overflow.
    pub(super) overflows: HashSet<ValueId>,
}

/// What an operand is to an operation between scores and results.
enum Operand {
    Known(Box<Value>),
    Number(f64),
    /// Its number, whether it drops where it is true, and whether it is a truth value.
    Mask(usize, bool, bool),
}

impl<'a> Walk<'a> {
    /// Looks at the graph.
    pub(super) fn new(
        g: &'a Graph,
        order: &'a Topology,
        constants: &'a mut Constants,
        near: &HashSet<OpId>,
    ) -> Walk<'a> {
        let mut walk = Walk {
            g,
            order,
            constants,
            elements: Values::default(),
            space: Space::default(),
            trials: trial::trials(),
            parts: vec![],
            masks: vec![],
            products: vec![],
            values: vec![],
            known: HashMap::new(),
            list: vec![],
            overflows: HashSet::new(),
        };
        for &id in order.order().iter().filter(|id| order.is_live(**id)) {
            if walk.known.len() >= VALUES {
                break;
            }
            let of_known = g.operands(id).iter().any(|v| walk.known.contains_key(v));
            let value = if of_known { walk.made(id) } else { None };
            let value = value.or_else(|| near.contains(&id).then(|| walk.part(id)).flatten());
            if let Some(value) = value {
                let v = g.result(id);
                walk.known.insert(v, value);
                walk.list.push(v);
            }
        }
        walk
    }

    /// Scores of which a maximum or exponentials are taken: a part of its own.
    fn part(&mut self, id: OpId) -> Option<Value> {
        let g = self.g;
        let [v] = g.results(id)[..] else { return None };
        if !g.ty(v).dtype.is_float() {
            return None;
        }
        let axis = g.uses(v).into_iter().find_map(|(user, _)| self.keys_of(user))?;
        let axes = self.space.axes(&g.ty(v).shape);
        let part = self.parts.len();
        let before = self.used_again(part, v);
        // What that mask makes of scores is no number of its own.
        let from = before.map_or(v, |(_, from)| from);
        let fills = self.product_behind(from)?;
        let before = before.map(|(before, _)| before);
        self.parts.push(Part { scores: v, axes: axes.clone(), axis, fills, before });
        let data = self.each(part, g.ty(v).dtype, |n, trial, key| self.score(n, trial, part, key));
        let of = Made { parts: BTreeSet::from([part]), ..Made::default() };
        Some(Value { kind: Kind::Keys(part, axis), axes, data, of })
    }

    /// The score of a key in a trial.
    pub(super) fn score(&self, n: usize, trial: Special, part: usize, key: usize) -> f64 {
        let of = &self.parts[part];
        match of.before {
            Some(Before { mask, fill })
                if huge(fill, self.g.ty(of.scores).dtype) && !trial::kept(n, trial, part, key, mask) =>
            {
                fill
            }
            _ => trial::score(n, trial, part, key, &of.fills),
        }
    }

    /// The mask by which scores were chosen last, if it stands again behind their exponentials, and the scores before it. It is noted
    /// as a mask of the part.
    fn used_again(&mut self, part: usize, v: ValueId) -> Option<(Before, ValueId)> {
        let g = self.g;
        if !matches!(g.op(v.op), Op::Select) {
            return None;
        }
        let x = g.operands(v.op);
        let (from, fill, drops) = match [1, 2].map(|i| splat(g, self.constants, x[i])) {
            [None, Some(fill)] => (x[1], fill, false),
            [Some(fill), None] => (x[2], fill, true),
            _ => return None,
        };
        if fill > MASKING || g.ty(from).shape != g.ty(v).shape {
            return None;
        }
        let kept = Kept::by(g, x[0], drops);
        let again = |user: OpId| {
            let y = g.operands(user);
            match g.op(user) {
                Op::Select => [false, true].iter().any(|&not| Kept::by(g, y[0], not).same(g, kept)),
                Op::Binary(Binary::Mul) => y.iter().any(|&m| Kept::by(g, m, false).same(g, kept)),
                _ => false,
            }
        };
        let (mut at, mut next) = (vec![v], 0);
        while let Some(&v) = at.get(next).filter(|_| next < DEEPEST) {
            next += 1;
            for (user, _) in g.uses(v) {
                if again(user) {
                    let mask = self.masks.len();
                    self.masks.push(Mask { part, value: x[0], drops });
                    return Some((Before { mask, fill }, from));
                }
                at.extend(g.results(user).into_iter().filter(|v| !at.contains(v)).collect::<Vec<_>>());
            }
        }
        None
    }

    /// The axis of keys, as a reader of scores tells it.
    fn keys_of(&self, reader: OpId) -> Option<usize> {
        let g = self.g;
        let one = |axes: &[usize]| if let [axis] = axes { Some(*axis) } else { None };
        match g.op(reader) {
            _ if !self.order.is_live(reader) => None,
            Op::Softmax { axis } => Some(*axis),
            Op::Reduce { kind: Reduction::Max, axes, .. } => one(axes),
            Op::Unary(Unary::Exp) => self.summed(reader),
            _ => None,
        }
    }

    /// The axis over which what comes of exponentials element by element is summed.
    fn summed(&self, exp: OpId) -> Option<usize> {
        let g = self.g;
        let shape = &g.ty(g.result(exp)).shape;
        let (mut at, mut next) = (vec![exp], 0);
        while let Some(&id) = at.get(next) {
            next += 1;
            for (user, _) in g.uses(g.result(id)) {
                match g.op(user) {
                    Op::Reduce { kind: Reduction::Sum, axes, .. } => {
                        if let [axis] = axes[..] {
                            return Some(axis);
                        }
                    }
                    Op::Binary(Binary::Mul) | Op::Select | Op::Cast(_)
                        if at.len() < BEFORE_SUM
                            && g.ty(g.result(user)).shape == *shape
                            && !at.contains(&user) =>
                    {
                        at.push(user);
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// What scores may be that a mask or a bias has left out, if they come of a product of values that depend on inputs.
    fn product_behind(&mut self, v: ValueId) -> Option<Vec<f64>> {
        let g = self.g;
        let (mut at, mut fills) = (v, vec![]);
        for _ in 0..DEEPEST {
            let x = g.operands(at.op);
            if let Op::Contract(_) = g.op(at.op) {
                return x.iter().all(|o| self.order.depends_on_input(o.op)).then_some(fills);
            }
            if !passes(g.op(at.op)) || matches!(g.op(at.op), Op::Reduce { .. } | Op::Softmax { .. }) {
                return None;
            }
            let from = usize::from(matches!(g.op(at.op), Op::Select));
            let whole = |o: &&ValueId| g.ty(**o).elements() == g.ty(at).elements() && of_product(g, **o);
            let next = *x[from..].iter().find(whole)?;
            let others = x[from..].iter().copied().filter(|&o| o != next);
            match g.op(at.op) {
                Op::Select | Op::Binary(Binary::Add | Binary::Sub | Binary::Max | Binary::Min) => {
                    for other in others {
                        fills.extend(self.fills(other));
                    }
                }
                Op::Binary(Binary::Mul | Binary::Div) | Op::Unary(_) | Op::Cast(_) => {}
                Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) => {}
                _ => fills.extend(FILLS),
            }
            at = next;
        }
        None
    }

    /// Numbers by which a value may leave keys out; any if they are not known.
    fn fills(&mut self, v: ValueId) -> Vec<f64> {
        let known = self.elements.get(self.g, self.constants, v);
        let numbers = known.and_then(|p| self.elements.numbers(&p, FEW));
        let Some(numbers) = numbers else { return FILLS.to_vec() };
        numbers.into_iter().map(|x| if x > 0.0 { -x } else { x }).filter(|&x| x <= MASKING).collect()
    }

    /// Numbers for each trial and key of a part, in f64 and in a type.
    fn each(&self, part: usize, dtype: DType, f: impl Fn(usize, Special, usize) -> f64) -> [Tensor; 2] {
        let (trials, width) = (self.trials.iter().enumerate(), keys(part));
        let all = trials.flat_map(|(n, &trial)| (0..width).map(move |key| (n, trial, key)));
        let data: Vec<f64> = all.map(|(n, t, k)| f(n, t, k)).collect();
        [DType::F64, dtype].map(|dtype| tensor(dtype, width, &data))
    }

    fn row(&self, dtype: DType, f: impl Fn(Special) -> f64) -> [Tensor; 2] {
        let data: Vec<f64> = self.trials.iter().map(|&trial| f(trial)).collect();
        [if dtype == DType::Bool { dtype } else { DType::F64 }, dtype].map(|dtype| tensor(dtype, 1, &data))
    }

    /// The result of an operation, if it is understood.
    fn made(&mut self, id: OpId) -> Option<Value> {
        let g = self.g;
        let v = g.result(id);
        let x = g.operands(id);
        let op = g.op(id).clone();
        match op {
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) => self.laid_out(v, x[0]),
            Op::Reduce { kind, ref axes, keep } => {
                let of = self.known.get(&x[0])?.clone();
                let Kind::Keys(_, axis) = of.kind else { return None };
                if axes[..] != [axis] || !matches!(kind, Reduction::Max | Reduction::Sum) {
                    return None;
                }
                let fold = Op::Reduce { kind, axes: vec![1], keep: true };
                let data = computed(&fold, &[of.data])?;
                let mut axes = of.axes;
                if keep {
                    axes[axis] = vec![];
                } else {
                    axes.remove(axis);
                }
                Some(Value { kind: Kind::Row, axes, data, of: of.of })
            }
            Op::Softmax { axis } => {
                let of = self.known.get(&x[0])?.clone();
                if !matches!(of.kind, Kind::Keys(_, keys) if keys == axis) {
                    return None;
                }
                let data = computed(&Op::Softmax { axis: 1 }, &[of.data])?;
                Some(Value { data, ..of })
            }
            Op::Contract(_) => self.product(id, &x),
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) => self.elementwise(&op, v, &x),
            _ => None,
        }
    }

    fn laid_out(&mut self, v: ValueId, x: ValueId) -> Option<Value> {
        let of = self.known.get(&x)?.clone();
        let (axes, new) = layout(self.g, self.constants, &mut self.space, v, &of.axes)?;
        if !new.is_empty() && of.kind != Kind::Row {
            return None;
        }
        let kind = match of.kind {
            Kind::Keys(part, axis) => {
                let rank = self.g.ty(x).rank();
                let to = match self.g.op(v.op) {
                    Op::Permute(perm) => perm.iter().position(|&a| a == axis)?,
                    Op::Broadcast(shape) => axis + shape.len() - rank,
                    _ => {
                        let keys = self.space.resolve(&self.parts[part].axes[self.parts[part].axis]);
                        let is = |a: &Vec<Dim>| self.space.resolve(a) == keys;
                        if keys.is_empty() {
                            // Of an extent of 1 there may be many: the last stays the last.
                            (axis + 1 == rank && axes.last().is_some_and(is)).then(|| axes.len() - 1)?
                        } else {
                            axes.iter().position(is)?
                        }
                    }
                };
                Kind::Keys(part, to)
            }
            other => other,
        };
        Some(Value { kind, axes, ..of })
    }

    /// A product with values.
    fn product(&mut self, id: OpId, x: &[ValueId]) -> Option<Value> {
        let Op::Contract(c) = self.g.op(id) else { return None };
        let side = match [0, 1].map(|i| self.known.contains_key(&x[i])) {
            [true, false] => 0,
            [false, true] => 1,
            _ => return None,
        };
        let weights = self.known.get(&x[side])?.clone();
        let Kind::Keys(part, axis) = weights.kind else { return None };
        let (pl, vl) = if side == 0 { (&c.lhs, &c.rhs) } else { (&c.rhs, &c.lhs) };
        let summed: Vec<usize> =
            pl.chars().enumerate().filter(|(_, l)| !c.out.contains(*l)).map(|(i, _)| i).collect();
        if summed != [axis] {
            return None;
        }
        let mut axes: Axes = vec![];
        for l in c.out.chars() {
            let own = vl.chars().position(|x| x == l);
            axes.push(match pl.chars().position(|x| x == l) {
                Some(place) => weights.axes[place].clone(),
                None => {
                    let extent = self.g.ty(x[1 - side]).shape[own?];
                    if extent == 1 { vec![] } else { vec![self.space.fresh(extent)] }
                }
            });
        }
        let value = self.values.iter().position(|v| *v == x[1 - side]).unwrap_or_else(|| {
            self.values.push(x[1 - side]);
            self.values.len() - 1
        });
        let values =
            self.each(part, self.g.ty(x[1 - side]).dtype, |n, _, key| trial::beside(n, part, key, value));
        let products = computed(&Op::Binary(Binary::Mul), &[weights.data, values])?;
        let sum = Op::Reduce { kind: Reduction::Sum, axes: vec![1], keep: true };
        let data = computed(&sum, &[products])?;
        let mut of = weights.of;
        of.products.insert(self.products.len());
        self.products.push(Product { op: id, part, side, axes: axes.clone(), value });
        Some(Value { kind: Kind::Result, axes, data, of })
    }

    fn elementwise(&mut self, op: &Op, v: ValueId, x: &[ValueId]) -> Option<Value> {
        let mut kind = Kind::Row;
        let mut of = Made::default();
        for o in x.iter().filter_map(|o| self.known.get(o)) {
            of.join(&o.of);
            kind = match (kind, o.kind) {
                (Kind::Row, other) | (other, Kind::Row) => other,
                (a, b) if a == b => a,
                _ => return None,
            };
        }
        // NaN itself is no function of scores that numbers show.
        if kind != Kind::Row && matches!(op, Op::Unary(Unary::IsNan | Unary::IsInf)) {
            return None;
        }
        if kind == Kind::Result && matches!(op, Op::Binary(b) if b.is_comparison()) {
            return None;
        }
        let axes = self.broadcast(v, x, kind)?;
        let mut data = vec![];
        for (place, &o) in x.iter().enumerate() {
            data.push(match self.operand(op, (place, o), (kind, &axes), x)? {
                Operand::Known(v) => v.data,
                Operand::Number(c) => {
                    let dtype = self.g.ty(o).dtype;
                    let small = c > 0.0 && c <= SMALL_GUARD;
                    if small {
                        of.guards.insert(o, decimal(c));
                    }
                    // A small number is tried as the largest that is small, beside sums that may be far below it.
                    let apart = if decides_only_below(c, dtype) { 0.0 } else { SMALL_GUARD };
                    let of = |trial: Special| match trial {
                        Special::None if small => 0.0,
                        Special::Apart(_) if small => apart,
                        _ => c,
                    };
                    self.row(dtype, of)
                }
                Operand::Mask(mask, drops, truth) => {
                    of.masks.insert(mask);
                    let part = self.masks[mask].part;
                    let bits =
                        |n, trial, key| f64::from(u8::from(trial::kept(n, trial, part, key, mask) != drops));
                    let bits = self.each(part, self.g.ty(o).dtype, bits);
                    if truth { [bits[1].clone(), bits[1].clone()] } else { bits }
                }
            });
        }
        let data = computed(op, &data)?;
        if matches!(op, Op::Unary(Unary::Exp)) && kind != Kind::Row && self.g.ty(v).dtype == DType::F16 {
            let width = data[0].shape().last().copied().unwrap_or(1);
            let over = data[0]
                .to_f64()
                .chunks(width)
                .zip(&self.trials)
                .any(|(row, trial)| *trial == Special::None && row.iter().any(|&x| x > 1.0 + 1e-9));
            if over {
                self.overflows.insert(v);
            }
        }
        Some(Value { kind, axes, data, of })
    }

    /// What an operand is: made of scores, a number that decides nothing, or a mask.
    fn operand(
        &mut self,
        op: &Op,
        (place, o): (usize, ValueId),
        (kind, axes): (Kind, &Axes),
        x: &[ValueId],
    ) -> Option<Operand> {
        if let Some(v) = self.known.get(&o) {
            return Some(Operand::Known(Box::new(v.clone())));
        }
        let g = self.g;
        if g.ty(o).dtype.is_float()
            && let Some(c) = splat(g, self.constants, o)
        {
            let compared =
                matches!(op, Op::Binary(b) if b.is_comparison() || matches!(b, Binary::Max | Binary::Min));
            let added = matches!(op, Op::Binary(Binary::Add | Binary::Max) | Op::Select)
                || matches!(op, Op::Binary(b) if b.is_comparison());
            let decides_nothing = c == 0.0
                || c.is_infinite()
                || (c.abs() == 1.0 && !compared)
                || c <= HUGE
                || (added && c > 0.0 && c <= SMALL_GUARD);
            return decides_nothing.then_some(Operand::Number(c));
        }
        // A mask: of a product with 0 and 1, or of a choice between what is made of scores and a number.
        let Kind::Keys(part, axis) = kind else { return None };
        let truth = g.ty(o).dtype == DType::Bool;
        let drops = match op {
            Op::Select if place == 0 && truth => !self.known.contains_key(&x[1]),
            Op::Binary(Binary::Mul) if g.ty(o).dtype.is_float() => {
                let known = self.elements.get(g, self.constants, o)?;
                if !self.elements.all(&known, &[(0.0, 0.0), (1.0, 1.0)]) {
                    return None;
                }
                false
            }
            _ => return None,
        };
        // Laid out as the scores are, with a number for each key.
        let own = &self.parts[part];
        let same = self.space.resolve_all(axes) == self.space.resolve_all(&own.axes) && axis == own.axis;
        let (rank, shape) = (own.axes.len(), &g.ty(o).shape);
        let at = (axis + shape.len()).checked_sub(rank)?;
        if !same || shape[at] != g.ty(own.scores).shape[axis] || (op == &Op::Select && self.both_known(x)) {
            return None;
        }
        let mask = Mask { part, value: o, drops };
        let kept = |m: &Mask| Kept::by(g, m.value, m.drops);
        let same = |m: &Mask| m.part == part && kept(m).same(g, kept(&mask));
        let number = self.masks.iter().position(same).unwrap_or_else(|| {
            self.masks.push(mask);
            self.masks.len() - 1
        });
        Some(Operand::Mask(number, drops, truth))
    }

    fn both_known(&self, x: &[ValueId]) -> bool {
        x[1..].iter().all(|o| self.known.contains_key(o))
    }

    /// The axes of an elementwise result.
    fn broadcast(&mut self, v: ValueId, x: &[ValueId], kind: Kind) -> Option<Axes> {
        let shape = &self.g.ty(v).shape;
        let mut axes: Axes = vec![vec![]; shape.len()];
        for o in x {
            let Some(inner) = self.known.get(o).map(|o| o.axes.clone()) else { continue };
            let lead = shape.len() - inner.len();
            for (have, own) in axes[lead..].iter_mut().zip(&inner) {
                let own = self.space.resolve(own);
                if have.is_empty() {
                    have.clone_from(&own);
                } else if !own.is_empty() && !self.space.unify(have, &own) {
                    return None;
                }
            }
        }
        // A number may be written out in the shape of results: a row meets it along an axis of its own.
        if kind == Kind::Row {
            for (axis, &e) in axes.iter_mut().zip(shape) {
                if axis.is_empty() && e > 1 {
                    axis.push(self.space.fresh(e));
                }
            }
        }
        let all = self.space.resolve(&axes.concat());
        let once = all.iter().enumerate().all(|(i, d)| !all[..i].contains(d));
        let fits = axes.iter().zip(shape).all(|(a, &e)| self.space.product(a) == e);
        (once && fits).then_some(axes)
    }
}

/// Whether a value comes of a product through what may lie between it and scores.
fn of_product(g: &Graph, v: ValueId) -> bool {
    let mut seen = HashSet::from([v.op]);
    let mut stack = vec![v.op];
    while let Some(id) = stack.pop() {
        match g.op(id) {
            Op::Contract(_) => return true,
            op if passes(op) && seen.len() < DEEPEST => {
                stack.extend(g.operands(id).iter().map(|v| v.op).filter(|id| seen.insert(*id)));
            }
            _ => {}
        }
    }
    false
}

fn tensor(dtype: DType, width: usize, data: &[f64]) -> Tensor {
    let rows = data.len() / width;
    Tensor::from_f64(dtype, [rows, width], data).expect("as many numbers as the shape has places")
}

/// An operation on what is computed in f64, and on what is computed in the types of the graph.
fn computed(op: &Op, x: &[[Tensor; 2]]) -> Option<[Tensor; 2]> {
    let of = |which: usize, precision| {
        let operands: Vec<Tensor> = x.iter().map(|x| x[which].clone()).collect();
        apply(op, &operands, precision).ok()?.into_iter().next()
    };
    Some([of(0, Precision::F64)?, of(1, Precision::Declared)?])
}
