//! A region that is being written, and what the writing of each part shares.

use super::types::{LeafValue, QAxis};
use crate::eval::Constants;
use crate::find::algebra::term::{Digits, Expr};
use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::trace::Trace;
use crate::ir::Topology;
use crate::ir::{DType, Graph, OpId, ValueId};
use egg::{Id, RecExpr};
use std::collections::{HashMap, HashSet};

/// A region that is being written.
pub(crate) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) constants: &'a mut Constants,
    pub(super) order: &'a Topology,
    pub(super) space: Space,
    pub(super) term: RecExpr<Expr>,
    pub(super) leaves: Vec<LeafValue>,
    pub(super) leaf_ids: Vec<Id>,
    /// Expr and axes of each value inside.
    pub(super) inside: HashMap<ValueId, (Id, Axes)>,
    pub(super) nodes: [OpId; 3],
    /// Where the region ends: PV, or a division after it.
    pub(super) last: OpId,
    pub(super) q: Trace,
    pub(super) k: Trace,
    pub(super) swap: bool,
    pub(super) keys: Option<Vec<Dim>>,
    pub(super) shared: Axes,
    pub(super) free: Axes,
    pub(super) q_order: Vec<QAxis>,
    pub(super) key_axes: Axes,
    /// Of QKᵀ: no two are ever one.
    pub(super) score_axes: Axes,
    pub(super) joined: Option<Joined>,
    pub(super) depth: Vec<Dim>,
    /// V, and its factors that stand in the result.
    pub(super) v: Option<(Trace, Vec<Dim>)>,
    pub(super) narrow: Option<DType>,
    pub(super) halves: Vec<(Id, Digits)>,
    pub(super) exponentials: Option<DType>,
    pub(super) sums: Option<DType>,
    /// Terms that are 0 or 1.
    pub(super) truths: HashSet<Id>,
}

/// The key axis with one more column.
#[derive(Clone, Copy)]
pub(super) struct Joined {
    /// The whole axis.
    pub(super) dim: Dim,
    /// Where the keys begin in it: the other column comes first or last.
    pub(super) keys: usize,
}

/// The axes of each letter of one operand.
pub(super) fn by_letter(letters: &str, axes: &Axes) -> Vec<(char, Vec<Dim>)> {
    letters.chars().zip(axes.iter().cloned()).collect()
}

pub(super) fn axis_of(list: &[(char, Vec<Dim>)], letter: char) -> Option<&Vec<Dim>> {
    list.iter().find(|(l, _)| *l == letter).map(|(_, a)| a)
}
