//! A rank's graph for the host: ordinary operations stay, islands, gathers and reduces become calls.

use super::call::{Call, CallKind, Port};
use crate::ir::{Graph, Op, OpId, ValueId};
use crate::shard::{Placement, Program, RankOps, Segment, ShardError, local_type};
use std::collections::BTreeMap;

/// A rank's graph and its calls. `examples/host.rs` is a host that drives them.
///
/// ```
/// let graph = annulus::ir::parse(
///     r#"graph "tiny" {
///   input %q: f32[1,2,8,4]
///   %o: f32[1,2,8,4] = attention %q, %q, %q {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}
///   output "o" = %o
/// }"#,
/// )?;
/// let back = annulus::compile(&graph, &annulus::Options::new(2))?.hand_back(1)?;
/// let call = &back.calls[0];
/// assert_eq!((call.operands[0].shape.as_slice(), call.results[0].strides.as_slice()), (&[1, 2, 4, 4][..], &[32, 16, 4, 1][..]));
/// assert!(back.graph.to_string().contains("= call %q.rows, %q.rows, %q.rows {number=0, workspace="));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct HandBack {
    /// Ordinary operations and `call`s; no attention that is split, no transfer.
    pub graph: Graph,
    /// By number.
    pub calls: Vec<Call>,
}

/// The graph of `rank` for the host; `workspace` tells the bytes that each island needs there.
///
/// # Errors
/// If there is no such rank, an island has no workspace stated, or a call does not fit; the last does not happen to what
/// [`shard`](crate::shard::shard) made.
pub fn hand_back(
    program: &Program,
    rank: usize,
    workspace: &BTreeMap<OpId, usize>,
) -> Result<HandBack, ShardError> {
    program.numbered(rank)?;
    let whole = &program.graph;
    let mut out = RankOps::new(program, 0, rank, Graph::new(format!("{}.rank{rank}", whole.name())));
    for v in whole.inputs() {
        out.held(v)?;
    }
    let mut calls: Vec<Call> = Vec::new();
    for segment in &program.segments {
        let (kind, values, bytes) = match segment {
            Segment::Local(ops) => {
                for &op in ops {
                    out.add(op)?;
                }
                continue;
            }
            Segment::Gather { value, .. } => (CallKind::Gather(*value), vec![*value], 0),
            Segment::Reduce { value, kind } => (CallKind::Reduce(*value, *kind), vec![*value], 0),
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
                        Placement::Sharded(s) => out.rows(v, s)?,
                        Placement::Whole | Placement::Parts(_) => out.whole(v)?,
                    });
                }
            }
            _ => operands.push(out.held(values[0])?),
        }
        // What a gather or a reduce gives is whole; an island's results are the rank's rows.
        let placed = |v: &ValueId| match (kind, program.placements.get(v)) {
            (CallKind::Island(_), Some(p)) => p.clone(),
            _ => Placement::Whole,
        };
        let types = values.iter().map(|v| local_type(program, &placed(v), whole.ty(*v), rank));
        let call = Op::Call { number: calls.len(), results: types.collect(), workspace: bytes };
        let first = &whole.value(values[0]).name;
        let (name, source) = match kind {
            CallKind::Island(op) => (first.clone(), whole.source(op)),
            CallKind::Gather(_) | CallKind::Reduce(..) => (format!("{first}.whole"), ""),
        };
        let fails = |why: String| ShardError::Island { at: name.clone(), why };
        let op = out.graph.add(call, &operands, &name, source).map_err(|e| fails(e.to_string()))?;
        for (v, here) in values.iter().zip(out.graph.results(op)) {
            if matches!(kind, CallKind::Island(_)) {
                out.graph.rename(here, &whole.value(*v).name);
            }
            out.define(*v, here, placed(v))?;
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
        let here = out.held(o.value)?;
        out.graph.output(&o.name, here);
    }
    Ok(HandBack { graph: out.graph, calls })
}
