//! What a schedule claims to compute, and how many bytes the parts of it take.

use super::blocks::{Heads, Place, Port};
use crate::ir::{AttentionSizes, DType, Dropout, EmptyRow, Scores};

/// The attention that a schedule computes; the meaning of the fields is that of [`crate::ir::Attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionFacts {
    /// B, Hq, Hkv, Sq, Sk, Dk, Dv of the whole attention.
    pub sizes: AttentionSizes,
    /// Type of q, k, v and the output.
    pub dtype: DType,
    /// Type of o, m, l.
    pub acc: DType,
    /// What happens to q·k before the softmax. Its leaves name arguments.
    pub scores: Scores,
    /// Argument that holds the sinks; of extent 1 along the keys.
    pub sinks: Option<usize>,
    /// Dropout of the weights; its seed is an argument.
    pub dropout: Option<Dropout>,
    /// What a row without a live key yields.
    pub empty_row: EmptyRow,
    /// Whether the log-sum-exp is a second result.
    pub lse: bool,
    /// Arguments beyond q, k, v (0, 1, 2), from argument 3 on.
    pub leaves: Vec<Leaf>,
}

/// A mask, bias, factor or sinks tensor handed to the island at run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Element type.
    pub dtype: DType,
    /// Whole shape, broadcasting to (B, Hq, Sq, Sk), padded with leading ones to four axes.
    pub shape: [usize; 4],
    /// Whether the rank is handed its own query rows alone (axis 2 in the order of the query layout); the key axis is whole.
    pub by_query_rows: bool,
}

impl AttentionFacts {
    /// What is wrong with the leaves: each broadcasts to (B, Hq, Sq, Sk), is of the kind that the scores read, and sinks are one column of
    /// floating numbers. `None` where they fit.
    pub(crate) fn leaf_fault(&self) -> Option<String> {
        let s = &self.sizes;
        let full = [s.batch, s.q_heads, s.q_len, s.kv_len];
        for (i, leaf) in self.leaves.iter().enumerate() {
            let fits = leaf.shape.iter().zip(full).all(|(&e, f)| e == 1 || e == f);
            if !fits || (leaf.by_query_rows && leaf.shape[2] != s.q_len) {
                let shape = leaf.shape;
                return Some(format!("argument {} of shape {shape:?} does not broadcast to {full:?}", i + 3));
            }
        }
        let leaf = |i: usize| i.checked_sub(3).and_then(|i| self.leaves.get(i));
        for (argument, truth) in self.scores.leaves() {
            let fits = |l: &Leaf| (l.dtype == DType::Bool) == truth && (truth || l.dtype.is_float());
            if !leaf(argument).is_some_and(fits) {
                let want = if truth { "truth" } else { "floating" };
                return Some(format!("the scores read argument {argument}, which is no {want} tensor"));
            }
        }
        let seed = self.dropout.map(|d| d.seed);
        if let Some(seed) =
            seed.filter(|&n| leaf(n).is_none_or(|l| l.dtype != DType::I64 || l.shape != [1; 4]))
        {
            return Some(format!("the seed is argument {seed}, which is not one i64"));
        }
        let sinks = self.sinks.filter(|&s| leaf(s).is_none_or(|l| !l.dtype.is_float() || l.shape[3] != 1));
        sinks.map(|s| format!("the sinks are argument {s}, which is no floating tensor of one column"))
    }

    /// All query heads.
    pub fn q_heads(&self) -> Heads {
        Heads::all(self.sizes.q_heads)
    }

    /// All key heads.
    pub fn kv_heads(&self) -> Heads {
        Heads::all(self.sizes.kv_heads)
    }

    /// The heads of all that goes through a port.
    pub fn heads_of(&self, port: Port) -> Heads {
        if port == Port::Kv { self.kv_heads() } else { self.q_heads() }
    }

    /// The key heads that query heads read.
    pub fn keys_of(&self, heads: Heads) -> Heads {
        let group = self.sizes.q_heads.checked_div(self.sizes.kv_heads).unwrap_or(0).max(1);
        let start = heads.start / group;
        Heads { start, len: heads.end().div_ceil(group).saturating_sub(start) }
    }

    /// Bytes of a block.
    pub fn block_bytes(&self, port: Port, rows: usize, heads: usize) -> usize {
        let s = &self.sizes;
        let of = |width: usize, element: usize| product(&[s.batch, heads, rows, width, element]);
        match port {
            Port::Q => of(s.head_dim, self.dtype.bytes()),
            Port::Kv => of(s.head_dim.saturating_add(s.v_head_dim), self.dtype.bytes()),
            Port::Out => of(s.v_head_dim, self.dtype.bytes()),
            Port::Lse => of(1, self.acc.bytes()),
            Port::Leaf(n) => n.checked_sub(3).and_then(|i| self.leaves.get(i)).map_or(0, |leaf| {
                let heads = if leaf.shape[1] == 1 { 1 } else { heads };
                product(&[leaf.shape[0], heads, rows, leaf.shape[3], leaf.dtype.bytes()])
            }),
        }
    }

    /// Bytes of the keys and values of so many rows, in all key heads.
    pub fn kv_bytes(&self, rows: usize) -> usize {
        self.block_bytes(Port::Kv, rows, self.sizes.kv_heads)
    }

    /// Bytes of a part of a message.
    pub fn place_bytes(&self, place: &Place) -> usize {
        match place {
            Place::Arena(view) => view.bytes,
            Place::Own(block) => self.block_bytes(block.port, block.rows.len, block.heads.len),
        }
    }

    /// Bytes of the carry of so many query rows and heads.
    pub fn carry_bytes(&self, rows: usize, heads: usize) -> usize {
        let s = &self.sizes;
        product(&[s.batch, heads, rows, s.v_head_dim.saturating_add(2), self.acc.bytes()])
    }
}

/// Of numbers that nobody has looked at yet: as large as can be counted where they are too large.
fn product(factors: &[usize]) -> usize {
    if factors.contains(&0) { 0 } else { factors.iter().fold(1, |n, &f| n.saturating_mul(f)) }
}
