//! Operands that enter an attention beside q, k and v: biases, masks, sinks.

use super::elementwise::cast;
use super::number::same;
use super::real::Real;
use crate::ir::types::strides;
use crate::ir::{Attention, Tensor};
use std::collections::BTreeMap;

/// The elements in the type of accumulation.
pub(super) fn elements<A: Real>(x: &Tensor) -> Result<Vec<A>, String> {
    same::<A>(&cast(x.data(), A::DTYPE)).map(<[A]>::to_vec)
}

/// Tensors of numbers and of truth values, broadcast to (batch, query head, query row, global key row).
pub(super) struct Leaves<A> {
    leaves: BTreeMap<usize, Leaf<A>>,
}

/// One of them.
enum Leaf<A> {
    Number(LeafView<A>),
    Truth(LeafView<bool>),
}

/// A tensor read by (batch, query head, query row, key row).
pub(super) struct LeafView<T> {
    data: Vec<T>,
    strides: [usize; 4],
}

impl<A: Real> Leaves<A> {
    /// Operand numbers count q, k and v; the operands at hand have `before` in their place. Keys reach up to `keys`.
    pub(super) fn new(a: &Attention, x: &[Tensor], before: usize, keys: usize) -> Result<Leaves<A>, String> {
        let operand = |n: usize| {
            let t = (n + before).checked_sub(3).and_then(|n| x.get(n));
            let t = t.ok_or_else(|| format!("there is no operand {n}"))?;
            match t.shape().last() {
                Some(&e) if e != 1 && e < keys => {
                    Err(format!("operand {n}, {}, has no key {}", t.ty(), keys - 1))
                }
                _ => Ok(t),
            }
        };
        let mut leaves = BTreeMap::new();
        for (n, truth) in a.scores.leaves() {
            let t = operand(n)?;
            let leaf = match truth {
                true => Leaf::Truth(LeafView::new(same::<bool>(t.data())?.to_vec(), t)),
                false => Leaf::Number(LeafView::new(elements::<A>(t)?, t)),
            };
            leaves.insert(n, leaf);
        }
        Ok(Leaves { leaves })
    }

    /// The number of a leaf for a pair; 0 of one that is none.
    pub(super) fn number(&self, leaf: usize, at: [usize; 4]) -> A {
        if let Some(Leaf::Number(l)) = self.leaves.get(&leaf) { l.at(at) } else { A::ZERO }
    }

    /// The truth value of a leaf for a pair; false of one that is none.
    pub(super) fn holds(&self, leaf: usize, at: [usize; 4]) -> bool {
        if let Some(Leaf::Truth(l)) = self.leaves.get(&leaf) { l.at(at) } else { false }
    }
}

impl<T: Copy> LeafView<T> {
    /// The elements of `t`, which has at most four axes.
    pub(super) fn new(data: Vec<T>, t: &Tensor) -> LeafView<T> {
        let own = strides(t.shape());
        let (missing, mut strides) = (4 - t.shape().len(), [0; 4]);
        for (i, &e) in t.shape().iter().enumerate() {
            strides[missing + i] = if e == 1 { 0 } else { own[i] };
        }
        LeafView { data, strides }
    }

    /// The element there.
    pub(super) fn at(&self, at: [usize; 4]) -> T {
        self.data[self.place(at)]
    }

    fn place(&self, [b, h, i, j]: [usize; 4]) -> usize {
        let s = &self.strides;
        b * s[0] + h * s[1] + i * s[2] + j * s[3]
    }

    /// All elements, in the order of the tensor.
    pub(super) fn into_data(self) -> Vec<T> {
        self.data
    }
}

impl<A: Real> LeafView<A> {
    /// Adds to the element there, which is the same one for all that it broadcasts over.
    pub(super) fn add(&mut self, at: [usize; 4], x: A) {
        let place = self.place(at);
        self.data[place] = self.data[place].add(x);
    }
}
