//! Writes a region as a term: each operation between QKᵀ and PV becomes a node, its layout becomes factors of axes.
//!
//! In: QKᵀ, a softmax and PV. Out: the [`Region`], or the condition that failed.

use super::builder::{Builder, axis_of, by_letter};
use super::types::{Fail, LeafValue, QAxis, Region, label, miss};
use crate::eval::Constants;
use crate::find::algebra::term::{DIGITS_F16, Expr, K, LeafId, Number, Q, Unknown, V};
use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::trace::{Scalar, splat, trace};
use crate::find::same::{DEEPEST, same};
use crate::ir::Topology;
use crate::ir::{Binary, Contract, DType, Graph, Op, OpId, Reduction, ValueId};
use egg::{Id, RecExpr};
use std::collections::{HashMap, HashSet};

impl<'a> Builder<'a> {
    /// QKᵀ, softmax and PV, the region's end; the keys on the left of QKᵀ if `swap`.
    pub(crate) fn new(
        graph: &'a Graph,
        order: &'a Topology,
        constants: &'a mut Constants,
        nodes: [OpId; 3],
        last: OpId,
        swap: bool,
    ) -> Result<Builder<'a>, Fail> {
        let mut space = Space::default();
        let x = graph.operands(nodes[0]);
        let Op::Contract(c) = graph.op(nodes[0]) else {
            return miss("QKᵀ is not a matrix product (MatMul or Einsum)");
        };
        let l = trace(graph, constants, &mut space, x[0], true);
        let r = trace(graph, constants, &mut space, x[1], true);
        let (ql, kl) = if swap { (&c.rhs, &c.lhs) } else { (&c.lhs, &c.rhs) };
        let (q, k) = if swap { (r, l) } else { (l, r) };
        let (qa, ka) = (by_letter(ql, &q.axes), by_letter(kl, &k.axes));
        for (l, a) in &qa {
            if let Some(b) = axis_of(&ka, *l)
                && !space.unify(a, b)
            {
                return miss("the axes that Q and K share are split by reshapes in different ways");
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
            q_order: vec![],
            key_axes: vec![],
            score_axes: vec![],
            joined: None,
            depth: vec![],
            v: None,
            narrow: None,
            halves: vec![],
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
        let place = |l: char, shared: bool| {
            let of_q = |x: &char| axis_of(qa, *x).is_some() && axis_of(ka, *x).is_some() == shared;
            c.out.chars().filter(of_q).position(|x| x == l)
        };
        for (l, a) in qa {
            self.q_order.push(match (place(*l, true), place(*l, false)) {
                (Some(i), _) => QAxis::Shared(i),
                (_, Some(i)) => QAxis::Free(i),
                (None, None) => QAxis::Depth,
            });
            if !c.out.contains(*l) {
                self.depth.extend(a);
            }
        }
        let q = self.term.add(Expr::Leaf(Q));
        let q = self.scalars(q, &self.q.scalars.clone());
        let k = self.term.add(Expr::Leaf(K));
        let k = self.scalars(k, &self.k.scalars.clone());
        let qk = self.term.add(Expr::Qk([q, k]));
        self.score_axes.clone_from(&axes);
        let product = self.graph.result(self.nodes[0]);
        self.note_half(qk, product);
        self.inside.insert(product, (qk, axes));
    }

    pub(super) fn scalars(&mut self, mut at: Id, scalars: &[Scalar]) -> Id {
        for s in scalars {
            at = match *s {
                Scalar::Mul(x) => {
                    let n = self.term.add(Expr::Number(Number::new(x)));
                    self.term.add(Expr::Mul([at, n]))
                }
                Scalar::Div(x) => {
                    let n = self.term.add(Expr::Number(Number::new(x)));
                    self.term.add(Expr::Div([at, n]))
                }
                Scalar::Widen(DType::F64) => self.term.add(Expr::ToF64([at])),
                Scalar::Widen(_) => self.term.add(Expr::ToF32([at])),
            };
        }
        at
    }

    /// A conversion: to a wider type, or to so many digits.
    pub(super) fn cast(&mut self, from: DType, to: DType, x: Id) -> Id {
        let digits = match to {
            DType::F32 => 24.0,
            DType::F16 => 11.0,
            DType::BF16 => 8.0,
            _ => 53.0,
        };
        if !to.is_float() {
            return self.term.add(Expr::Unknown(Unknown(format!("cast to {to}")), vec![x]));
        }
        if from.widens_to(to) {
            return self.term.add(if to == DType::F64 { Expr::ToF64([x]) } else { Expr::ToF32([x]) });
        }
        let digits = self.term.add(Expr::Number(Number::new(digits)));
        self.term.add(Expr::Narrow([x, digits]))
    }

    /// Writes the term.
    pub(crate) fn build(mut self) -> Result<Region, Fail> {
        let [qk, softmax, pv] = self.nodes;
        let last = self.last;
        let mut interior = self.interior(qk, last)?;
        self.nothing_escapes(&interior, last)?;
        interior.push(last);
        if !interior.contains(&softmax) || !interior.contains(&pv) {
            return miss("the softmax does not lie between QKᵀ and the product with V");
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

    /// Adds the term of one operation inside.
    pub(super) fn encode(&mut self, id: OpId) -> Result<(), Fail> {
        let graph = self.graph;
        let x = graph.operands(id);
        let v = graph.result(id);
        let (term, axes) = match graph.op(id) {
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) => self.laid_out(id, v, &x)?,
            Op::Cast(to) => {
                let (term, axes) = self.inside[&x[0]].clone();
                // A truth value is 0 or 1 in every type.
                let same = graph.ty(x[0]).dtype == *to || self.truths.contains(&term);
                if same { (term, axes) } else { (self.cast(graph.ty(x[0]).dtype, *to, term), axes) }
            }
            Op::Unary(u) => self.unary(*u, v, &x),
            Op::Binary(b) => self.binary(id, *b, v, &x)?,
            Op::Select => self.chosen(id, v, &x)?,
            Op::Reduce { kind, axes, keep } => self.reduced(id, (*kind, axes, *keep), &x)?,
            Op::Concat { axis } => self.join(id, *axis, &x)?,
            Op::Slice { axis, start, len, step: 1 } => self.drop(id, *axis, *start, *len)?,
            Op::Softmax { axis } => {
                let (term, axes) = self.inside[&x[0]].clone();
                self.over_keys(&axes[*axis].clone(), id)?;
                (self.term.add(Expr::Softmax([term])), axes)
            }
            _ => return self.not_understood(id),
        };
        if matches!(graph.op(id), Op::Unary(_) | Op::Binary(_)) {
            self.note_half(term, v);
        }
        self.inside.insert(v, (term, axes));
        Ok(())
    }

    /// Notes that a node before the softmax is computed in a half type, if it is.
    fn note_half(&mut self, term: Id, v: ValueId) {
        let digits = match self.graph.ty(v).dtype {
            DType::F16 => DIGITS_F16,
            DType::BF16 => 8,
            _ => return,
        };
        if !self.after_softmax() {
            self.halves.push((term, digits));
        }
    }

    pub(super) fn not_understood<T>(&self, id: OpId) -> Result<T, Fail> {
        let (name, op) = (label(self.graph, id), self.graph.op(id).name());
        miss(format!(
            "{name} ({op}) stands between QKᵀ and the product with V, where no rule knows that operation"
        ))
    }

    /// A condition that says of each row of a leaf whether all of it is −∞: its maximum over the keys is.
    pub(super) fn empty_row(&mut self, result: ValueId, v: ValueId, axes: &Axes) -> Option<Id> {
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
        Some(self.term.add(Expr::RowEmpty([self.leaf_ids[at]])))
    }

    pub(super) fn leaf(&mut self, leaf: LeafValue) -> Id {
        // Exporters write a constant, and a mask, anew wherever it is read.
        let graph = self.graph;
        let equal = |l: &LeafValue| {
            l.axes == leaf.axes
                && graph.ty(l.value) == graph.ty(leaf.value)
                && same(graph, l.value, leaf.value, DEEPEST)
        };
        if let Some(i) = self.leaves.iter().position(equal) {
            return self.leaf_ids[i];
        }
        let id = self.term.add(Expr::Leaf(LeafId(V.0 + 1 + self.leaves.len())));
        self.leaves.push(leaf);
        self.leaf_ids.push(id);
        id
    }

    pub(super) fn after_softmax(&self) -> bool {
        self.inside.contains_key(&self.graph.result(self.nodes[1]))
    }

    pub(super) fn note_narrow(&mut self, v: ValueId, adds: bool) {
        let dtype = self.graph.ty(v).dtype;
        if adds && !self.after_softmax() && matches!(dtype, DType::F16 | DType::BF16) {
            self.narrow = Some(dtype);
        }
    }

    /// The term of an operand: inside, a number, or a leaf.
    pub(super) fn operand(
        &mut self,
        result: ValueId,
        v: ValueId,
        axes: &Axes,
        fold: bool,
    ) -> Result<Id, Fail> {
        if let Some((id, _)) = self.inside.get(&v) {
            return Ok(*id);
        }
        if fold && let Some(x) = splat(self.graph, self.constants, v) {
            let float = self.graph.ty(v).dtype.is_float();
            if float {
                // −0 is 0 to every rule.
                return Ok(self.term.add(Expr::Number(Number::new(if x == 0.0 { 0.0 } else { x }))));
            }
        }
        let shape = &self.graph.ty(v).shape;
        let lead = self.graph.ty(result).shape.len() - shape.len();
        let aligned: Axes = shape
            .iter()
            .enumerate()
            .map(|(i, &e)| if e == 1 { vec![] } else { axes[lead + i].clone() })
            .collect();
        let truth = self.graph.ty(v).dtype == DType::Bool;
        Ok(self.leaf(LeafValue { value: v, axes: aligned, truth }))
    }
}
