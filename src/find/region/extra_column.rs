//! One column beside the scores, as sinks are: joined before the softmax, dropped after it.

use super::builder::{Builder, Joined};
use super::types::{Fail, LeafValue};
use crate::find::algebra::term::Expr;
use crate::find::axes::factors::Axes;
use crate::find::axes::trace::trace;
use crate::ir::{DType, OpId, ValueId};
use egg::Id;

impl Builder<'_> {
    /// One column beside the scores, as sinks are.
    pub(crate) fn join(&mut self, id: OpId, axis: usize, x: &[ValueId]) -> Result<(Id, Axes), Fail> {
        let &[a, b] = x else { return self.not_understood(id) };
        let (scores, column, keys) = match (self.inside.get(&a), self.inside.get(&b)) {
            (Some(s), None) => (s.clone(), b, 0),
            (None, Some(s)) => (s.clone(), a, 1),
            _ => return self.not_understood(id),
        };
        let (term, mut axes) = scores;
        if self.graph.ty(column).shape[axis] != 1 || self.joined.is_some() {
            return self.not_understood(id);
        }
        self.over_keys(&axes[axis].clone(), id)?;
        let dim = self.space.fresh(self.graph.ty(self.graph.result(id)).shape[axis]);
        if self.space.extent(dim) == 1 {
            return self.not_understood(id);
        }
        axes[axis] = vec![];
        let leaf = self.unrepeated(column, &axes);
        let leaf = self.leaf(leaf);
        axes[axis] = vec![dim];
        self.joined = Some(Joined { dim, keys });
        Ok((self.term.add(Expr::Join([term, leaf])), axes))
    }

    /// A slice that drops the column which was joined, or nothing.
    pub(crate) fn drop(
        &mut self,
        id: OpId,
        axis: usize,
        start: usize,
        len: usize,
    ) -> Result<(Id, Axes), Fail> {
        let x = self.graph.operands(id)[0];
        let (term, mut axes) = self.inside[&x].clone();
        let whole = self.graph.ty(x).shape[axis];
        if (start, len) == (0, whole) {
            return Ok((term, axes));
        }
        let (Some(joined), Some(keys)) = (self.joined, self.keys.clone()) else {
            return self.not_understood(id);
        };
        if axes[axis] != [joined.dim] || (start, len + 1) != (joined.keys, whole) {
            return self.not_understood(id);
        }
        axes[axis] = keys;
        Ok((self.term.add(Expr::Drop([term])), axes))
    }

    /// A value that stands beside the scores, before it was repeated over any of their axes, if that can be seen.
    fn unrepeated(&mut self, v: ValueId, axes: &Axes) -> LeafValue {
        let truth = self.graph.ty(v).dtype == DType::Bool;
        let t = trace(self.graph, self.constants, &mut self.space, v, false);
        let lines_up = t.axes.iter().zip(axes).all(|(a, b)| a.is_empty() || self.space.unify(b, a));
        if lines_up {
            return LeafValue { value: t.base, axes: t.base_axes, truth };
        }
        let shape = &self.graph.ty(v).shape;
        let own = shape.iter().zip(axes).map(|(&e, a)| if e == 1 { vec![] } else { a.clone() });
        LeafValue { value: v, axes: own.collect(), truth }
    }
}
