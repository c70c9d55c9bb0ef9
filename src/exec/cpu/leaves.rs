//! Mask, bias and sinks tensors as the kernel reads them: by batch entry, head, query row and key row.

use super::acc::{Acc, numbers};
use crate::ir::{Data, Tensor};
use crate::mask::Term;
use crate::schedule::{AttentionFacts, Leaf};
use std::sync::Arc;

/// One leaf of a rank, broadcast to (B, Hq, query rows, Sk).
pub(super) struct LeafView<T> {
    data: Arc<Vec<T>>,
    /// 0 along an axis that is broadcast.
    strides: [usize; 4],
    by_query_rows: bool,
}

impl<T: Copy> LeafView<T> {
    /// `argument` has the leaf's shape, or the rank's rows of it; see `validate`.
    fn new(leaf: &Leaf, argument: &Tensor, data: Arc<Vec<T>>) -> LeafView<T> {
        let mut shape = [1; 4];
        let rank = argument.shape().len().min(4);
        shape[4 - rank..].copy_from_slice(&argument.shape()[argument.shape().len() - rank..]);
        let mut strides = [0; 4];
        let mut stride = 1;
        for axis in (0..4).rev() {
            if leaf.shape[axis] != 1 {
                strides[axis] = stride;
            }
            stride *= shape[axis];
        }
        LeafView { data, strides, by_query_rows: leaf.by_query_rows }
    }

    /// The row of a query: `global` and `local` are its row numbers. Indexed by global key row.
    pub(super) fn row(&self, batch: usize, head: usize, global: usize, local: usize) -> LeafRow<'_, T> {
        let i = if self.by_query_rows { local } else { global };
        let s = &self.strides;
        LeafRow { data: &self.data, base: batch * s[0] + head * s[1] + i * s[2], stride: s[3] }
    }
}

/// One query row of a leaf.
pub(super) struct LeafRow<'a, T> {
    data: &'a [T],
    base: usize,
    stride: usize,
}

impl<T: Copy> LeafRow<'_, T> {
    pub(super) fn at(&self, key: usize) -> T {
        self.data[self.base + key * self.stride]
    }
}

/// The leaves of one rank: the tensor terms of the mask, the bias and the sinks.
pub(super) struct Leaves<A> {
    pub(super) masks: Vec<LeafView<bool>>,
    pub(super) bias: Option<LeafView<A>>,
    pub(super) sinks: Option<LeafView<A>>,
}

impl<A: Acc> Leaves<A> {
    /// The arguments that the facts name; leaves begin at argument 3.
    pub(super) fn new(facts: &AttentionFacts, args: &[Tensor]) -> Leaves<A> {
        let leaves = &facts.leaves;
        let terms = facts.mask.terms.iter().filter_map(|t| match t {
            Term::Tensor { operand } => Some(*operand),
            _ => None,
        });
        let masks = terms
            .filter_map(|i| match args[i].data() {
                Data::Bool(v) => Some(LeafView::new(&leaves[i - 3], &args[i], v.clone())),
                _ => None,
            })
            .collect();
        let float = |i: usize| LeafView::new(&leaves[i - 3], &args[i], Arc::new(numbers(args[i].data())));
        Leaves { masks, bias: facts.bias.map(float), sinks: facts.sinks.map(float) }
    }
}
