//! Tensors of numbers and truth values, and sinks, as the kernel reads them: by batch entry, head, query row and key row.

use super::acc::{Acc, decode, numbers};
use crate::ir::{DType, Data, Tensor};
use crate::schedule::{AttentionFacts, Heads, Leaf};
use std::sync::Arc;

/// One leaf of a rank, broadcast to (B, Hq, query rows, Sk).
#[derive(Clone)]
pub(in crate::exec) struct LeafView<T> {
    data: Arc<Vec<T>>,
    /// 0 along an axis that is broadcast.
    strides: [usize; 4],
    /// The first head that it has.
    head: usize,
    by_query_rows: bool,
}

impl<T: Copy> LeafView<T> {
    /// `argument` has the leaf's shape, or the rank's rows of it; see `validate`.
    fn new(leaf: &Leaf, argument: &Tensor, data: Arc<Vec<T>>) -> LeafView<T> {
        let mut shape = [1; 4];
        let rank = argument.shape().len().min(4);
        shape[4 - rank..].copy_from_slice(&argument.shape()[argument.shape().len() - rank..]);
        LeafView::of(leaf, shape, 0, data)
    }

    /// Of that many rows, and of heads from `head` on.
    fn of(leaf: &Leaf, shape: [usize; 4], head: usize, data: Arc<Vec<T>>) -> LeafView<T> {
        let mut strides = [0; 4];
        let mut stride = 1;
        for axis in (0..4).rev() {
            if leaf.shape[axis] != 1 {
                strides[axis] = stride;
            }
            stride *= shape[axis];
        }
        LeafView { data, strides, head, by_query_rows: leaf.by_query_rows }
    }

    /// One by its elements and strides, which has query heads from `head` on; `local` says how its rows are counted.
    pub(in crate::exec) fn strided(
        data: Vec<T>,
        strides: [usize; 4],
        head: usize,
        local: bool,
    ) -> LeafView<T> {
        LeafView { data: Arc::new(data), strides, head, by_query_rows: local }
    }

    /// The row of a query: `global` and `local` are its row numbers. Indexed by global key row.
    pub(in crate::exec) fn row(
        &self,
        batch: usize,
        head: usize,
        global: usize,
        local: usize,
    ) -> LeafRow<'_, T> {
        let i = if self.by_query_rows { local } else { global };
        let s = &self.strides;
        LeafRow { data: &self.data, base: batch * s[0] + (head - self.head) * s[1] + i * s[2], stride: s[3] }
    }
}

/// One query row of a leaf.
pub(in crate::exec) struct LeafRow<'a, T> {
    data: &'a [T],
    base: usize,
    stride: usize,
}

impl<T: Copy> LeafRow<'_, T> {
    pub(in crate::exec) fn at(&self, key: usize) -> T {
        self.data[self.base + key * self.stride]
    }
}

/// The leaves of one rank: what the steps of the scores read, and the sinks.
pub(in crate::exec) struct Leaves<A> {
    leaves: Vec<LeafOf<A>>,
    pub(in crate::exec) sinks: Option<LeafView<A>>,
    /// Of the dropout; 0 where there is none.
    pub(in crate::exec) seed: i64,
}

/// One of them, by its type.
#[derive(Clone)]
pub(in crate::exec) enum LeafOf<A> {
    Number(LeafView<A>),
    Truth(LeafView<bool>),
}

impl<A: Acc> Leaves<A> {
    /// The arguments of the facts; leaves begin at argument 3.
    pub(in crate::exec) fn new(facts: &AttentionFacts, args: &[Tensor]) -> Leaves<A> {
        let number = |leaf: &Leaf, arg: &Tensor| LeafView::new(leaf, arg, Arc::new(numbers(arg.data())));
        let view = |(leaf, arg): (&Leaf, &Tensor)| match arg.data() {
            Data::Bool(v) => LeafOf::Truth(LeafView::new(leaf, arg, v.clone())),
            _ => LeafOf::Number(number(leaf, arg)),
        };
        let seed = facts.dropout.and_then(|d| args.get(d.seed)).map(Tensor::data);
        Leaves {
            leaves: facts.leaves.iter().zip(&args[3..]).map(view).collect(),
            sinks: facts.sinks.map(|i| number(&facts.leaves[i - 3], &args[i])),
            seed: if let Some(Data::I64(seed)) = seed { seed.first().copied().unwrap_or(0) } else { 0 },
        }
    }

    /// Leaves by their arguments; what is not named is never read.
    pub(in crate::exec) fn of(named: Vec<(usize, LeafOf<A>)>, sinks: Option<LeafView<A>>) -> Leaves<A> {
        let count = named.iter().map(|(n, _)| n.saturating_sub(2)).max().unwrap_or(0);
        let nothing = LeafOf::Truth(LeafView::strided(vec![], [0; 4], 0, false));
        let mut leaves = vec![nothing; count];
        for (argument, leaf) in named {
            if let Some(at) = argument.checked_sub(3).and_then(|i| leaves.get_mut(i)) {
                *at = leaf;
            }
        }
        Leaves { leaves, sinks, seed: 0 }
    }

    /// The same for rows and heads that were received: `blocks` are those of the leaves that are handed out by query rows, in order.
    pub(in crate::exec) fn received(
        &self,
        facts: &AttentionFacts,
        (rows, heads): (usize, Heads),
        blocks: &[&[u8]],
    ) -> Leaves<A> {
        let mut blocks = blocks.iter();
        let mut out = Leaves { leaves: self.leaves.clone(), sinks: self.sinks.clone(), seed: self.seed };
        for (i, leaf) in facts.leaves.iter().enumerate().filter(|(_, leaf)| leaf.by_query_rows) {
            let Some(bytes) = blocks.next() else { continue };
            let mut shape = [leaf.shape[0], heads.len, rows, leaf.shape[3]];
            let mut first = heads.start;
            if leaf.shape[1] == 1 {
                (shape[1], first) = (1, 0);
            }
            out.leaves[i] = match leaf.dtype {
                DType::Bool => {
                    let truths = bytes.iter().map(|&b| b != 0).collect();
                    LeafOf::Truth(LeafView::of(leaf, shape, first, Arc::new(truths)))
                }
                dtype => {
                    let numbers = LeafView::of(leaf, shape, first, Arc::new(decode(dtype, bytes)));
                    if facts.sinks == Some(i + 3) {
                        out.sinks = Some(numbers.clone());
                    }
                    LeafOf::Number(numbers)
                }
            };
        }
        out
    }

    /// The numbers of an argument for a query row, given by its batch entry, head, global and local number; see `validate`.
    pub(in crate::exec) fn numbers(
        &self,
        argument: usize,
        [b, h, global, local]: [usize; 4],
    ) -> LeafRow<'_, A> {
        match &self.leaves[argument - 3] {
            LeafOf::Number(l) => l.row(b, h, global, local),
            LeafOf::Truth(_) => unreachable!("validated: argument {argument} holds numbers"),
        }
    }

    /// The truth values of an argument for a query row.
    pub(in crate::exec) fn truths(
        &self,
        argument: usize,
        [b, h, global, local]: [usize; 4],
    ) -> LeafRow<'_, bool> {
        match &self.leaves[argument - 3] {
            LeafOf::Truth(l) => l.row(b, h, global, local),
            LeafOf::Number(_) => unreachable!("validated: argument {argument} holds truth values"),
        }
    }
}
