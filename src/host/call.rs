//! A call at the border between the host's graph and an island, a gather or a reduce.

use crate::ir::{DType, Graph, OpId, Reduction, ValueId};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Runs the island of this attention of the program's graph.
    Island(OpId),
    /// Puts this value of the program's graph together.
    Gather(ValueId),
    /// Folds the ranks' parts of this value of the program's graph in the order of the ranks; the last kind is how:
    /// [`Reduction::Sum`], [`Reduction::Max`] or [`Reduction::Min`]. The operand is this rank's part, in
    /// [`DType::part`] of the result's type.
    Reduce(ValueId, Reduction),
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The `call` operation in the rank's graph.
    pub op: OpId,
    /// What it does.
    pub kind: CallKind,
    /// What is handed over, in order; all of it dense.
    pub operands: Vec<Port>,
    /// What comes back, in order; all of it dense.
    pub results: Vec<Port>,
    /// Bytes of memory that it needs besides.
    pub workspace_bytes: usize,
}

/// A tensor at the border.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the value in the rank's graph.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, of the rank's rows where it is split.
    pub shape: Vec<usize>,
    /// Elements from one index of an axis to the next: row-major.
    pub strides: Vec<usize>,
}

impl Port {
    pub(super) fn of(graph: &Graph, v: ValueId) -> Port {
        let value = graph.value(v);
        let shape = value.ty.shape.clone();
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        Port { name: value.name.clone(), dtype: value.ty.dtype, shape, strides }
    }
}
