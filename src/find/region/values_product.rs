//! The product with the values, at which a region ends.

use super::builder::{Builder, axis_of, by_letter};
use super::types::{Fail, Region, label, miss};
use crate::find::algebra::term::{Expr, V};
use crate::find::axes::factors::Axes;
use crate::find::axes::trace::trace;
use crate::ir::{Op, OpId};

impl Builder<'_> {
    /// PV: traces V and checks that all keys are contracted.
    pub(super) fn values(&mut self, pv: OpId) -> Result<(), Fail> {
        let graph = self.graph;
        let x = graph.operands(pv);
        let Op::Contract(c) = graph.op(pv) else {
            return miss("the product with V is not a matrix product (MatMul or Einsum)");
        };
        let at = match (self.inside.get(&x[0]), self.inside.get(&x[1])) {
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            _ => return miss("V depends on the scores, or the product with V does not"),
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
                        return miss(
                            "the axes that the probabilities and V share are split by reshapes in different ways",
                        );
                    }
                    if !c.out.contains(*l) {
                        contracted.extend(b.iter().copied());
                    }
                }
                None => depth_v.extend(a.iter().copied()),
            }
        }
        self.axes_apart(pv)?;
        let Some(keys) = self.keys.clone() else {
            return miss("no softmax over the keys stands before the product with V");
        };
        let (keys, contracted) = (self.space.resolve(&keys), self.space.resolve(&contracted));
        if keys.len() != contracted.len() || !keys.iter().all(|d| contracted.contains(d)) {
            return miss(format!(
                "{} multiplies the probabilities by V, but does not sum over the keys",
                label(graph, pv)
            ));
        }
        let out: Axes = c
            .out
            .chars()
            .map(|l| axis_of(&pa, l).or_else(|| axis_of(&va, l)).cloned().unwrap_or_default())
            .collect();
        let leaf = self.term.add(Expr::Leaf(V));
        let product = self.term.add(Expr::Pv([p, leaf]));
        self.inside.insert(graph.result(pv), (product, out));
        self.v = Some((v, depth_v));
        Ok(())
    }

    /// The region, once everything in it is written.
    pub(super) fn close(self) -> Result<Region, Fail> {
        let end = self.graph.result(self.last);
        let (Some((_, out)), Some((v, depth_v)), Some(keys)) = (self.inside.get(&end), self.v, self.keys)
        else {
            return miss("no softmax over the keys stands before the product with V");
        };
        let softmax = self.inside.get(&self.graph.result(self.nodes[1]));
        let s = &self.space;
        Ok(Region {
            softmax_axes: softmax.map(|(_, axes)| s.resolve_all(axes)).unwrap_or_default(),
            keys: s.resolve(&keys),
            depth: s.resolve(&self.depth),
            depth_v: s.resolve(&depth_v),
            shared: s.resolve_all(&self.shared),
            free: s.resolve_all(&self.free),
            q_order: self.q_order,
            out: (end, s.resolve_all(out)),
            term: self.term,
            leaves: self.leaves,
            operands: [self.q, self.k, v],
            nodes: self.nodes,
            narrow: self.narrow,
            halves: self.halves,
            exponentials: self.exponentials,
            sums: self.sums,
            space: self.space,
        })
    }
}
