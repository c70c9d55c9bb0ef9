//! Writes a region as a term: each operation between QKᵀ and PV becomes a node, its layout becomes factors of axes.
//!
//! In: QKᵀ, a softmax and PV. Out: the [`Region`], or the condition that failed.

use super::lang::{Leaf, Number, Term, Unknown};
use super::region::{Fail, K, LeafValue, Order, Q, Region, V, label, miss};
use super::space::{Axes, Dim, Space};
use super::trace::{Scalar, Trace, layout, splat, trace, widens};
use crate::eval::Constants;
use crate::ir::{Binary, Contract, DType, Graph, Op, OpId, Reduction, Unary, ValueId};
use egg::{Id, RecExpr};
use std::collections::{HashMap, HashSet, VecDeque};

mod column;

/// Most operations of a region.
const REGION_LIMIT: usize = 64;

/// A region that is being written.
pub(super) struct Builder<'a> {
    graph: &'a Graph,
    constants: &'a mut Constants,
    order: &'a Order,
    space: Space,
    term: RecExpr<Term>,
    leaves: Vec<LeafValue>,
    leaf_ids: Vec<Id>,
    /// Term and axes of each value inside.
    inside: HashMap<ValueId, (Id, Axes)>,
    nodes: [OpId; 3],
    /// Where the region ends: PV, or a division after it.
    last: OpId,
    q: Trace,
    k: Trace,
    swap: bool,
    keys: Option<Vec<Dim>>,
    shared: Axes,
    free: Axes,
    key_axes: Axes,
    /// Of QKᵀ: no two are ever one.
    score_axes: Axes,
    joined: Option<Joined>,
    depth: Vec<Dim>,
    /// V, and its factors that stand in the result.
    v: Option<(Trace, Vec<Dim>)>,
    narrow: Option<DType>,
    exponentials: Option<DType>,
    sums: Option<DType>,
    /// Terms that are 0 or 1.
    truths: HashSet<Id>,
}

/// The key axis with one more column.
#[derive(Clone, Copy)]
struct Joined {
    /// The whole axis.
    dim: Dim,
    /// Where the keys begin in it: the other column comes first or last.
    keys: usize,
}

/// The axes of each letter of one operand.
fn by_letter(letters: &str, axes: &Axes) -> Vec<(char, Vec<Dim>)> {
    letters.chars().zip(axes.iter().cloned()).collect()
}

fn axis_of(list: &[(char, Vec<Dim>)], letter: char) -> Option<&Vec<Dim>> {
    list.iter().find(|(l, _)| *l == letter).map(|(_, a)| a)
}

impl<'a> Builder<'a> {
    /// QKᵀ, softmax and PV, the region's end; the keys on the left of QKᵀ if `swap`.
    pub(super) fn new(
        graph: &'a Graph,
        order: &'a Order,
        constants: &'a mut Constants,
        nodes: [OpId; 3],
        last: OpId,
        swap: bool,
    ) -> Result<Builder<'a>, Fail> {
        let mut space = Space::default();
        let x = graph.operands(nodes[0]);
        let Op::Contract(c) = graph.op(nodes[0]) else { return miss("QKᵀ is no contraction") };
        let l = trace(graph, constants, &mut space, x[0], true);
        let r = trace(graph, constants, &mut space, x[1], true);
        let (ql, kl) = if swap { (&c.rhs, &c.lhs) } else { (&c.lhs, &c.rhs) };
        let (q, k) = if swap { (r, l) } else { (l, r) };
        let (qa, ka) = (by_letter(ql, &q.axes), by_letter(kl, &k.axes));
        for (l, a) in &qa {
            if let Some(b) = axis_of(&ka, *l)
                && !space.unify(a, b)
            {
                return miss("the axes that Q and K share are cut differently");
            }
        }
        let mut b = Builder {
            graph,
            constants,
            order,
            space,
            term: RecExpr::default(),
            leaves: vec![],
            leaf_ids: vec![],
            inside: HashMap::new(),
            nodes,
            last,
            q,
            k,
            swap,
            keys: None,
            shared: vec![],
            free: vec![],
            key_axes: vec![],
            score_axes: vec![],
            joined: None,
            depth: vec![],
            v: None,
            narrow: None,
            exponentials: None,
            sums: None,
            truths: HashSet::new(),
        };
        b.roles(c, &qa, &ka);
        if b.depth.is_empty() && !c.lhs.chars().any(|l| c.rhs.contains(l) && !c.out.contains(l)) {
            return Err(Fail::NotAttention);
        }
        Ok(b)
    }

    /// Which axes Q and K share, which they have alone, and which are contracted; the term and axes of QKᵀ.
    fn roles(&mut self, c: &Contract, qa: &[(char, Vec<Dim>)], ka: &[(char, Vec<Dim>)]) {
        let mut axes = vec![];
        for l in c.out.chars() {
            let (a, b) = (axis_of(qa, l), axis_of(ka, l));
            axes.push(a.or(b).cloned().unwrap_or_default());
            match (a, b) {
                (Some(a), Some(_)) => self.shared.push(a.clone()),
                (Some(a), None) => self.free.push(a.clone()),
                (None, Some(b)) => self.key_axes.push(b.clone()),
                (None, None) => {}
            }
        }
        for (l, a) in qa {
            if !c.out.contains(*l) {
                self.depth.extend(a);
            }
        }
        let q = self.term.add(Term::Leaf(Q));
        let q = self.scalars(q, &self.q.scalars.clone());
        let k = self.term.add(Term::Leaf(K));
        let k = self.scalars(k, &self.k.scalars.clone());
        let qk = self.term.add(Term::Qk([q, k]));
        self.score_axes.clone_from(&axes);
        self.inside.insert(self.graph.result(self.nodes[0]), (qk, axes));
    }

    fn scalars(&mut self, mut at: Id, scalars: &[Scalar]) -> Id {
        for s in scalars {
            at = match *s {
                Scalar::Mul(x) => {
                    let n = self.term.add(Term::Number(Number::new(x)));
                    self.term.add(Term::Mul([at, n]))
                }
                Scalar::Div(x) => {
                    let n = self.term.add(Term::Number(Number::new(x)));
                    self.term.add(Term::Div([at, n]))
                }
                Scalar::Widen(DType::F64) => self.term.add(Term::ToF64([at])),
                Scalar::Widen(_) => self.term.add(Term::ToF32([at])),
            };
        }
        at
    }

    /// A conversion: to a wider type, or to so many digits.
    fn cast(&mut self, from: DType, to: DType, x: Id) -> Id {
        let digits = match to {
            DType::F32 => 24.0,
            DType::F16 => 11.0,
            DType::BF16 => 8.0,
            _ => 53.0,
        };
        if !to.is_float() {
            return self.term.add(Term::Unknown(Unknown(format!("cast to {to}")), vec![x]));
        }
        if widens(from, to) {
            return self.term.add(if to == DType::F64 { Term::ToF64([x]) } else { Term::ToF32([x]) });
        }
        let digits = self.term.add(Term::Number(Number::new(digits)));
        self.term.add(Term::Narrow([x, digits]))
    }

    /// Writes the term.
    pub(super) fn build(mut self) -> Result<Region, Fail> {
        let [qk, softmax, pv] = self.nodes;
        let last = self.last;
        let mut interior = self.interior(qk, last)?;
        self.nothing_escapes(&interior, last)?;
        interior.push(last);
        if !interior.contains(&softmax) || !interior.contains(&pv) {
            return miss("the softmax does not lie between QKᵀ and PV");
        }
        // The sums by which PV is divided are told which axis the keys are before it is.
        let after = self.after(pv);
        interior.sort_by_key(|id| *id == pv || after.contains(id));
        for id in interior {
            match id {
                _ if id == qk => {}
                _ if id == pv => self.values(pv)?,
                _ => self.encode(id)?,
            }
        }
        self.close()
    }

    /// An operation and those before the region's end that depend on it.
    fn after(&self, id: OpId) -> HashSet<OpId> {
        let graph = self.graph;
        let mut after = HashSet::from([id]);
        let mut queue = VecDeque::from([id]);
        while let Some(id) = queue.pop_front() {
            for (user, _) in graph.results(id).into_iter().flat_map(|v| graph.uses(v)) {
                if (user == self.last || self.order.before(user, self.last)) && after.insert(user) {
                    queue.push_back(user);
                }
            }
        }
        after
    }

    /// Operations that depend on QKᵀ and on which the region's end depends, in topological order.
    fn interior(&self, qk: OpId, last: OpId) -> Result<Vec<OpId>, Fail> {
        let graph = self.graph;
        let after = self.after(qk);
        let mut inside: HashSet<OpId> = HashSet::new();
        let mut stack: Vec<OpId> = graph.operands(last).iter().map(|v| v.op).collect();
        while let Some(id) = stack.pop() {
            if after.contains(&id) && inside.insert(id) && id != qk {
                stack.extend(graph.operands(id).iter().map(|v| v.op));
            }
        }
        if inside.len() > REGION_LIMIT {
            return miss(format!("more than {REGION_LIMIT} operations lie between QKᵀ and PV"));
        }
        let mut list: Vec<OpId> = inside.into_iter().collect();
        list.sort_unstable_by_key(|id| (self.order.place(*id), *id));
        Ok(list)
    }

    fn nothing_escapes(&self, interior: &[OpId], last: OpId) -> Result<(), Fail> {
        let graph = self.graph;
        for &id in interior {
            let what = match id {
                _ if id == self.nodes[1] => "the probabilities",
                _ if id == self.nodes[2] => "the values' sums before their division",
                _ => "the scores",
            };
            for v in graph.results(id) {
                if graph.is_output(v) {
                    return miss(format!(
                        "{what} ({}) are an output of the graph: they have to be held whole, which the ring never does",
                        graph.value(v).name
                    ));
                }
                for (user, _) in graph.uses(v) {
                    if user != last && !interior.contains(&user) && self.order.is_live(user) {
                        let name = label(graph, user);
                        return miss(format!(
                            "{what} ({}) are also read by {name}: they have to be held whole, which the ring never does",
                            graph.value(v).name
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the term of one operation inside.
    fn encode(&mut self, id: OpId) -> Result<(), Fail> {
        let graph = self.graph;
        let x = graph.operands(id);
        let v = graph.result(id);
        let (term, axes) = match graph.op(id) {
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) => {
                let (term, axes) = self.inside[&x[0]].clone();
                match layout(graph, self.constants, &mut self.space, v, &axes) {
                    Some((axes, new)) if new.is_empty() => (term, axes),
                    // Of what is one number a row: whatever reads it repeats it anyway.
                    Some(_)
                        if axes.iter().any(|a| self.space.product(a) == 1) && self.only_rows(&axes, id) =>
                    {
                        (term, axes)
                    }
                    Some(_) => return miss(format!("{} repeats the scores", label(graph, id))),
                    None => return miss(format!("{} mixes the axes of the scores", label(graph, id))),
                }
            }
            Op::Cast(to) => {
                let (term, axes) = self.inside[&x[0]].clone();
                // A truth value is 0 or 1 in every type.
                let same = graph.ty(x[0]).dtype == *to || self.truths.contains(&term);
                if same { (term, axes) } else { (self.cast(graph.ty(x[0]).dtype, *to, term), axes) }
            }
            Op::Unary(u) => {
                let (a, axes) = self.inside[&x[0]].clone();
                if *u == Unary::Exp {
                    // Of half types f16 alone has a small range.
                    let wide = |t: &DType| *t != DType::F16;
                    self.exponentials =
                        self.exponentials.into_iter().chain([graph.ty(v).dtype]).min_by_key(wide);
                }
                let node = match u {
                    Unary::Neg => Term::Neg([a]),
                    Unary::Tanh => Term::Tanh([a]),
                    Unary::Exp => Term::Exp([a]),
                    Unary::Reciprocal => Term::Reciprocal([a]),
                    Unary::Log => Term::Log([a]),
                    Unary::IsNan => Term::IsNan([a]),
                    Unary::IsInf => Term::IsInf([a]),
                    Unary::Not => Term::Not([a]),
                    other => Term::Unknown(Unknown(other.name().into()), vec![a]),
                };
                let truth = matches!(node, Term::IsNan(_) | Term::IsInf(_) | Term::Not(_));
                let id = self.term.add(node);
                if truth {
                    self.truths.insert(id);
                }
                (id, axes)
            }
            Op::Binary(b) => {
                let axes = self.broadcast(id, &x)?;
                // What is added to a sum is none of the biases.
                let is_sum = |i: &(Id, Axes)| matches!(self.term[i.0], Term::RowSum(_));
                let row = x.iter().any(|o| self.inside.get(o).is_some_and(is_sum));
                let fold = row || !matches!(b, Binary::Add | Binary::Sub);
                if row && *b == Binary::Add {
                    let bits = |t: &DType| t.bytes();
                    self.sums = self.sums.into_iter().chain([graph.ty(v).dtype]).max_by_key(bits);
                }
                let terms: Vec<Id> =
                    x.iter().map(|&o| self.operand(v, o, &axes, fold)).collect::<Result<_, _>>()?;
                let swap = !self.inside.contains_key(&x[0]);
                let (a, c) = if swap { (terms[1], terms[0]) } else { (terms[0], terms[1]) };
                let node = match b {
                    Binary::Add => Term::Add([a, c]),
                    Binary::Mul => Term::Mul([a, c]),
                    Binary::Sub => Term::Sub([terms[0], terms[1]]),
                    Binary::Div => Term::Div([terms[0], terms[1]]),
                    Binary::Eq => Term::Eq([a, c]),
                    Binary::Max => Term::Max([a, c]),
                    Binary::Pow => Term::Pow([terms[0], terms[1]]),
                    other => Term::Unknown(Unknown(other.name().into()), terms),
                };
                self.note_narrow(v, !fold);
                let id = self.term.add(node);
                if *b == Binary::Eq {
                    self.truths.insert(id);
                }
                (id, axes)
            }
            Op::Select => {
                let axes = self.broadcast(id, &x)?;
                // A condition that is the same everywhere chooses nothing.
                let always = splat(graph, self.constants, x[0]).filter(|_| !self.inside.contains_key(&x[0]));
                if let Some(c) = always
                    && let arm = x[if c == 0.0 { 2 } else { 1 }]
                    && let Some((term, own)) = self.inside.get(&arm)
                    && self.space.resolve_all(own) == self.space.resolve_all(&axes)
                {
                    self.inside.insert(v, (*term, axes));
                    return Ok(());
                }
                let mut terms: Vec<Id> = vec![];
                for &o in &x {
                    let row = if terms.is_empty() { self.empty_row(v, o, &axes) } else { None };
                    terms.push(match row {
                        Some(row) => row,
                        None => self.operand(v, o, &axes, true)?,
                    });
                }
                self.note_narrow(v, !self.after_softmax());
                (self.term.add(Term::Where([terms[0], terms[1], terms[2]])), axes)
            }
            Op::Reduce { kind, axes: reduced, keep } => {
                let (term, axes) = self.inside[&x[0]].clone();
                let over: Vec<Dim> = reduced.iter().flat_map(|&a| axes[a].clone()).collect();
                self.over_keys(&over, id)?;
                let left = (0..axes.len())
                    .filter(|a| *keep || !reduced.contains(a))
                    .map(|a| if reduced.contains(&a) { vec![] } else { axes[a].clone() })
                    .collect();
                let node = match kind {
                    Reduction::Max => Term::RowMax([term]),
                    Reduction::Min => Term::RowMin([term]),
                    Reduction::Mean => Term::RowMean([term]),
                    Reduction::Sum => Term::RowSum([term]),
                    other => Term::Unknown(Unknown(format!("reduce {}", other.name())), vec![term]),
                };
                let truth = matches!(node, Term::RowMax(_) | Term::RowMin(_)) && self.truths.contains(&term);
                let id = self.term.add(node);
                if truth {
                    self.truths.insert(id);
                }
                (id, left)
            }
            Op::Concat { axis } => self.join(id, *axis, &x)?,
            Op::Slice { axis, start, len, step: 1 } => self.drop(id, *axis, *start, *len)?,
            Op::Softmax { axis } => {
                let (term, axes) = self.inside[&x[0]].clone();
                self.over_keys(&axes[*axis].clone(), id)?;
                (self.term.add(Term::Softmax([term])), axes)
            }
            _ => return self.not_understood(id),
        };
        self.inside.insert(v, (term, axes));
        Ok(())
    }

    /// Whether a value has no key axis, and broadcasting it adds no axis.
    fn only_rows(&self, axes: &Axes, id: OpId) -> bool {
        let keys = self.space.resolve(&self.key_axes.concat());
        let flat = self.space.resolve(&axes.concat());
        let same = self.graph.ty(self.graph.result(id)).rank() == axes.len();
        same && matches!(self.graph.op(id), Op::Broadcast(_)) && !flat.iter().any(|d| keys.contains(d))
    }

    fn not_understood<T>(&self, id: OpId) -> Result<T, Fail> {
        let (name, op) = (label(self.graph, id), self.graph.op(id).name());
        miss(format!("{name} ({op}) between QKᵀ and PV is not understood"))
    }

    /// A condition that says of each row of a leaf whether all of it is −∞: its maximum over the keys is.
    fn empty_row(&mut self, result: ValueId, v: ValueId, axes: &Axes) -> Option<Id> {
        let graph = self.graph;
        let Op::Binary(Binary::Eq) = graph.op(v.op) else { return None };
        let x = graph.operands(v.op);
        let infinite = |b: &mut Self, v| splat(graph, b.constants, v) == Some(f64::NEG_INFINITY);
        let max = match (infinite(self, x[0]), infinite(self, x[1])) {
            (false, true) => x[0],
            (true, false) => x[1],
            _ => return None,
        };
        let Op::Reduce { kind: Reduction::Max, axes: over, keep: true } = graph.op(max.op) else {
            return None;
        };
        let of = graph.operands(max.op)[0];
        let shape = &graph.ty(of).shape;
        // Compared with one number, so that the condition has the shape of the maximum.
        if over[..] != [shape.len() - 1] || graph.ty(v).shape != graph.ty(max).shape {
            return None;
        }
        let keys = self.space.resolve(self.keys.as_ref()?);
        let lead = graph.ty(result).shape.len().checked_sub(shape.len())?;
        let own: Axes = shape
            .iter()
            .zip(&axes[lead..])
            .map(|(&e, a)| if e == 1 { vec![] } else { self.space.resolve(a) })
            .collect();
        let last = self.space.resolve(axes.last()?);
        let same = |l: &LeafValue| l.value == of && self.space.resolve_all(&l.axes) == own;
        let at = self.leaves.iter().position(same).filter(|_| last == keys)?;
        Some(self.term.add(Term::RowEmpty([self.leaf_ids[at]])))
    }

    fn leaf(&mut self, leaf: LeafValue) -> Id {
        // Exporters write a constant anew wherever it is read.
        let graph = self.graph;
        let equal = |l: &LeafValue| {
            let data = |v: ValueId| graph.as_constant(v).and_then(|c| c.data.as_deref());
            l.axes == leaf.axes
                && (l.value == leaf.value
                    || (data(l.value).is_some()
                        && graph.ty(l.value) == graph.ty(leaf.value)
                        && data(l.value) == data(leaf.value)))
        };
        if let Some(i) = self.leaves.iter().position(equal) {
            return self.leaf_ids[i];
        }
        let id = self.term.add(Term::Leaf(Leaf(V.0 + 1 + self.leaves.len())));
        self.leaves.push(leaf);
        self.leaf_ids.push(id);
        id
    }

    fn after_softmax(&self) -> bool {
        self.inside.contains_key(&self.graph.result(self.nodes[1]))
    }

    fn note_narrow(&mut self, v: ValueId, adds: bool) {
        let dtype = self.graph.ty(v).dtype;
        if adds && !self.after_softmax() && matches!(dtype, DType::F16 | DType::BF16) {
            self.narrow = Some(dtype);
        }
    }

    /// A softmax or reduction must be over all keys and nothing else. The first one says which side has the keys.
    fn over_keys(&mut self, axis: &[Dim], id: OpId) -> Result<(), Fail> {
        let axis = self.space.resolve(axis);
        let same = |a: &[Dim], b: &[Dim]| a.len() == b.len() && a.iter().all(|d| b.contains(d));
        let all = self.space.resolve(&self.key_axes.concat());
        if self.joined.is_some_and(|j| axis == [j.dim]) {
            return Ok(());
        }
        if same(&axis, &all) {
            self.keys.get_or_insert(axis);
            return Ok(());
        }
        if self.keys.is_none() && axis.iter().all(|d| all.contains(d)) && self.repeat_queries(&axis) {
            self.keys = Some(axis);
            return Ok(());
        }
        let other = self.space.resolve(&self.free.concat());
        if !self.swap && self.keys.is_none() && same(&axis, &other) {
            return Err(Fail::Swapped);
        }
        miss(format!("{} is not over the whole key axis", label(self.graph, id)))
    }

    /// Takes what K alone has beside the keys for axes that Q is repeated over, if whole axes of the scores are left.
    fn repeat_queries(&mut self, keys: &[Dim]) -> bool {
        let of_keys = |a: &Vec<Dim>| a.iter().any(|d| keys.contains(d));
        let (keys_left, rest): (Axes, Axes) =
            self.space.resolve_all(&self.key_axes).into_iter().partition(of_keys);
        if rest.is_empty() || !keys_left.iter().flatten().all(|d| keys.contains(d)) {
            return false;
        }
        let Some((_, scores)) = self.inside.get(&self.graph.result(self.nodes[0])) else { return false };
        let mut shared = self.space.resolve_all(&self.shared);
        shared.extend(rest);
        let order = self.space.resolve_all(scores);
        shared.sort_by_key(|a| order.iter().position(|o| o == a));
        (self.key_axes, self.shared) = (keys_left, shared);
        true
    }

    /// Axes of one length line up as numbers; two axes of the scores are not the same for that.
    fn axes_apart(&self, id: OpId) -> Result<(), Fail> {
        let all = self.space.resolve(&self.score_axes.concat());
        if all.iter().enumerate().any(|(i, d)| all[..i].contains(d)) {
            return miss(format!("{} joins different axes of the scores", label(self.graph, id)));
        }
        Ok(())
    }

    /// Axes of an elementwise result from its operands inside.
    fn broadcast(&mut self, id: OpId, x: &[ValueId]) -> Result<Axes, Fail> {
        let graph = self.graph;
        let shape = &graph.ty(graph.result(id)).shape;
        let mut axes: Axes = vec![vec![]; shape.len()];
        for v in x {
            let Some((_, inner)) = self.inside.get(v) else { continue };
            let inner = inner.clone();
            let lead = shape.len() - inner.len();
            for (i, a) in inner.iter().enumerate() {
                let have = &mut axes[lead + i];
                if have.is_empty() {
                    have.clone_from(a);
                } else if !a.is_empty() && !self.space.unify(have, a) {
                    return miss(format!("{} joins different axes of the scores", label(graph, id)));
                }
            }
        }
        self.axes_apart(id)?;
        for (a, &e) in axes.iter().zip(shape) {
            if self.space.product(a) != e {
                return miss(format!("{} has more rows than the scores", label(graph, id)));
            }
        }
        Ok(axes)
    }

    /// The term of an operand: inside, a number, or a leaf.
    fn operand(&mut self, result: ValueId, v: ValueId, axes: &Axes, fold: bool) -> Result<Id, Fail> {
        if let Some((id, _)) = self.inside.get(&v) {
            return Ok(*id);
        }
        if fold && let Some(x) = splat(self.graph, self.constants, v) {
            let float = self.graph.ty(v).dtype.is_float();
            if float {
                // −0 is 0 to every rule.
                return Ok(self.term.add(Term::Number(Number::new(if x == 0.0 { 0.0 } else { x }))));
            }
        }
        let shape = &self.graph.ty(v).shape;
        let lead = self.graph.ty(result).shape.len() - shape.len();
        let aligned: Axes = shape
            .iter()
            .enumerate()
            .map(|(i, &e)| if e == 1 { vec![] } else { axes[lead + i].clone() })
            .collect();
        let leaf = LeafValue { value: v, axes: aligned };
        Ok(self.leaf(leaf))
    }

    /// PV: traces V and checks that all keys are contracted.
    fn values(&mut self, pv: OpId) -> Result<(), Fail> {
        let graph = self.graph;
        let x = graph.operands(pv);
        let Op::Contract(c) = graph.op(pv) else { return miss("PV is no contraction") };
        let at = match (self.inside.get(&x[0]), self.inside.get(&x[1])) {
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            _ => return miss("V depends on the scores, or PV does not"),
        };
        let (p, axes) = self.inside[&x[at]].clone();
        let v = trace(graph, self.constants, &mut self.space, x[1 - at], false);
        let (pl, vl) = if at == 0 { (&c.lhs, &c.rhs) } else { (&c.rhs, &c.lhs) };
        let (pa, va) = (by_letter(pl, &axes), by_letter(vl, &v.axes));
        let (mut contracted, mut depth_v) = (vec![], vec![]);
        for (l, a) in &va {
            match axis_of(&pa, *l) {
                Some(b) => {
                    if !self.space.unify(b, a) {
                        return miss("the axes that the probabilities and V share are cut differently");
                    }
                    if !c.out.contains(*l) {
                        contracted.extend(b.iter().copied());
                    }
                }
                None => depth_v.extend(a.iter().copied()),
            }
        }
        self.axes_apart(pv)?;
        let Some(keys) = self.keys.clone() else { return miss("no softmax over the keys before PV") };
        let (keys, contracted) = (self.space.resolve(&keys), self.space.resolve(&contracted));
        if keys.len() != contracted.len() || !keys.iter().all(|d| contracted.contains(d)) {
            return miss(format!("{} does not contract the keys", label(graph, pv)));
        }
        let out: Axes = c
            .out
            .chars()
            .map(|l| axis_of(&pa, l).or_else(|| axis_of(&va, l)).cloned().unwrap_or_default())
            .collect();
        let leaf = self.term.add(Term::Leaf(V));
        let product = self.term.add(Term::Pv([p, leaf]));
        self.inside.insert(graph.result(pv), (product, out));
        self.v = Some((v, depth_v));
        Ok(())
    }

    /// The region, once everything in it is written.
    fn close(self) -> Result<Region, Fail> {
        let end = self.graph.result(self.last);
        let (Some((_, out)), Some((v, depth_v)), Some(keys)) = (self.inside.get(&end), self.v, self.keys)
        else {
            return miss("no softmax over the keys before PV");
        };
        let s = &self.space;
        Ok(Region {
            keys: s.resolve(&keys),
            depth: s.resolve(&self.depth),
            depth_v: s.resolve(&depth_v),
            shared: s.resolve_all(&self.shared),
            free: s.resolve_all(&self.free),
            out: (end, s.resolve_all(out)),
            term: self.term,
            leaves: self.leaves,
            operands: [self.q, self.k, v],
            nodes: self.nodes,
            narrow: self.narrow,
            exponentials: self.exponentials,
            sums: self.sums,
            space: self.space,
        })
    }
}
