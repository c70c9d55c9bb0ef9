//! The axes of the scores while they pass through operations: which hold keys, which rows, and what is broadcast over them.

use super::builder::Builder;
use super::types::{Fail, label, miss};
use crate::find::axes::factors::{Axes, Dim};
use crate::ir::{Op, OpId, ValueId};

impl Builder<'_> {
    /// Whether a value has no key axis, and broadcasting it adds no axis.
    pub(super) fn only_rows(&self, axes: &Axes, id: OpId) -> bool {
        let keys = self.space.resolve(&self.key_axes.concat());
        let flat = self.space.resolve(&axes.concat());
        let same = self.graph.ty(self.graph.result(id)).rank() == axes.len();
        same && matches!(self.graph.op(id), Op::Broadcast(_)) && !flat.iter().any(|d| keys.contains(d))
    }

    /// A softmax or reduction must be over all keys and nothing else. The first one says which side has the keys.
    pub(super) fn over_keys(&mut self, axis: &[Dim], id: OpId) -> Result<(), Fail> {
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
        miss(format!("{} does not run over all keys of a row", label(self.graph, id)))
    }

    /// Takes what K alone has beside the keys for axes that Q is repeated over, if whole axes of the scores are left.
    pub(super) fn repeat_queries(&mut self, keys: &[Dim]) -> bool {
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
    pub(super) fn axes_apart(&self, id: OpId) -> Result<(), Fail> {
        let all = self.space.resolve(&self.score_axes.concat());
        if all.iter().enumerate().any(|(i, d)| all[..i].contains(d)) {
            return miss(format!(
                "{} lines up different axes of the scores with each other, such as queries with keys",
                label(self.graph, id)
            ));
        }
        Ok(())
    }

    /// Axes of an elementwise result from its operands inside.
    pub(super) fn broadcast(&mut self, id: OpId, x: &[ValueId]) -> Result<Axes, Fail> {
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
                    return miss(format!(
                        "{} lines up different axes of the scores with each other, such as queries with keys",
                        label(graph, id)
                    ));
                }
            }
        }
        self.axes_apart(id)?;
        for (a, &e) in axes.iter().zip(shape) {
            if self.space.product(a) != e {
                return miss(format!(
                    "{} has more rows than the scores, which broadcasting would repeat",
                    label(graph, id)
                ));
            }
        }
        Ok(axes)
    }
}
