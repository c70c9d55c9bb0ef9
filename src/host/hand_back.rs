//! What the host gets back: a rank's graph in which every island and every gather is one `call` operation. The rest of the model
//! is the host's to compile and to run.
//!
//! In: a [`Program`] and a rank. Out: the graph, flat, and for each call what it takes and gives. Its inputs are what the
//! placements say: whole, or the rank's rows; its outputs what the rank holds of the model's outputs. Calls have the same
//! numbers in the same order on every rank, and each is entered by all ranks.

use super::local::RankOps;
use super::{Placement, Program, Segment, ShardError};
use crate::ir::{DType, Graph, Op, OpId, ValueId};
use std::collections::BTreeMap;

/// A rank's graph and its calls.
#[derive(Clone, Debug)]
pub struct HandBack {
    /// Ordinary operations and `call`s; no attention that is split, no transfer.
    pub graph: Graph,
    /// By number.
    pub calls: Vec<Call>,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Runs the island of this attention of the program's graph.
    Island(OpId),
    /// Puts this value of the program's graph together.
    Gather(ValueId),
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

/// The graph of `rank` for the host; `workspace` tells the bytes that each island needs there.
///
/// # Errors
/// If an island has no workspace stated, or a call does not fit; it does not for what [`super::shard`] made.
///
/// # Panics
/// If there is no such rank.
pub fn hand_back(
    program: &Program,
    rank: usize,
    workspace: &BTreeMap<OpId, usize>,
) -> Result<HandBack, ShardError> {
    let whole = &program.graph;
    let mut out = RankOps::new(program, 0, rank, Graph::new(format!("{}.rank{rank}", whole.name())));
    for v in whole.inputs() {
        out.held(v);
    }
    let mut calls: Vec<Call> = Vec::new();
    for segment in &program.segments {
        let (kind, values, bytes) = match segment {
            Segment::Local(ops) => {
                ops.iter().for_each(|&op| out.add(op));
                continue;
            }
            Segment::Gather { value, .. } => (CallKind::Gather(*value), vec![*value], 0),
            Segment::Island(op) => {
                let at = whole.value(whole.result(*op)).name.clone();
                let bytes = workspace.get(op).copied();
                let why = "nothing states its workspace".to_owned();
                let bytes = bytes.ok_or(ShardError::Island { at, why })?;
                (CallKind::Island(*op), whole.results(*op), bytes)
            }
        };
        let mut operands = Vec::new();
        match (kind, program.islands.get(&values[0].op)) {
            (CallKind::Island(op), Some(island)) => {
                for (&v, form) in whole.operands(op).iter().zip(&island.operands) {
                    operands.push(match form {
                        Placement::Whole => out.whole(v),
                        Placement::Sharded(s) => out.rows(v, s),
                    });
                }
            }
            _ => operands.push(out.held(values[0])),
        }
        // What a gather gives is whole; an island's results are the rank's rows.
        let placed = |v: &ValueId| match (kind, program.placements.get(v)) {
            (CallKind::Island(_), Some(p)) => p.clone(),
            _ => Placement::Whole,
        };
        let types = values.iter().map(|v| super::local::local_type(program, &placed(v), whole.ty(*v), rank));
        let call = Op::Call { number: calls.len(), results: types.collect(), workspace: bytes };
        let first = &whole.value(values[0]).name;
        let (name, source) = match kind {
            CallKind::Island(op) => (first.clone(), whole.source(op)),
            CallKind::Gather(_) => (format!("{first}.whole"), ""),
        };
        let fails = |why: String| ShardError::Island { at: name.clone(), why };
        let op = out.graph.add(call, &operands, &name, source).map_err(|e| fails(e.to_string()))?;
        for (v, here) in values.iter().zip(out.graph.results(op)) {
            if matches!(kind, CallKind::Island(_)) {
                out.graph.rename(here, &whole.value(*v).name);
            }
            out.define(*v, here, placed(v));
        }
        let port = |&v: &ValueId| Port::of(&out.graph, v);
        let results = out.graph.results(op).iter().map(port).collect();
        calls.push(Call {
            op,
            kind,
            operands: operands.iter().map(port).collect(),
            results,
            workspace_bytes: bytes,
        });
    }
    for o in whole.outputs() {
        let here = out.held(o.value);
        out.graph.output(&o.name, here);
    }
    Ok(HandBack { graph: out.graph, calls })
}

impl Port {
    fn of(graph: &Graph, v: ValueId) -> Port {
        let value = graph.value(v);
        let shape = value.ty.shape.clone();
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        Port { name: value.name.clone(), dtype: value.ty.dtype, shape, strides }
    }
}
