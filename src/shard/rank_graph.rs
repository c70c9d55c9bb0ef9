//! The printed program of a rank: its segments and islands as regions, its gathers and reduces, in one graph.
//!
//! In: a [`Program`], a rank, and the island graphs that a later room made. Out: a graph whose inputs are the whole inputs of
//! the model and whose outputs are what the rank holds of the model's outputs.

use super::error::ShardError;
use super::local::local_graph;
use super::rank_ops::RankOps;
use super::types::{Placement, Program, Segment};
use crate::ir::{Graph, Op, OpId, RegionKind, Strategy, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The printed program of a rank; `islands` holds the strategy and the island graph of each split attention.
///
/// # Errors
/// If there is no such rank, or an island's graph is missing, or its inputs and outputs are not what the program hands to it and
/// takes from it.
pub(crate) fn rank_graph(
    program: &Program,
    rank: usize,
    islands: &BTreeMap<OpId, (Strategy, Arc<Graph>)>,
) -> Result<Graph, ShardError> {
    program.numbered(rank)?;
    let whole = &program.graph;
    let mut out = RankOps::new(program, 0, rank, Graph::new(format!("{}.rank{rank}", whole.name())));
    for v in whole.inputs() {
        out.held(v)?;
    }
    for (at, segment) in program.segments.iter().enumerate() {
        match segment {
            Segment::Local(_) => {
                let local = local_graph(program, at, rank)?;
                let operands: Vec<ValueId> =
                    local.inputs.iter().map(|&v| out.held(v)).collect::<Result<_, _>>()?;
                let region = Op::Region(RegionKind::Segment, Arc::new(local.graph));
                let op = add(&mut out.graph, region, &operands, &format!("segment{at}"), "")?;
                for (&v, here) in local.outputs.iter().zip(out.graph.results(op)) {
                    out.graph.rename(here, &whole.value(v).name);
                    out.define(v, here, placed(program, v))?;
                }
            }
            Segment::Gather { value, .. } => {
                let Placement::Sharded(s) = placed(program, *value) else { continue };
                let rows = (0..program.ranks).map(|r| program.rows(&s, r).to_vec()).collect();
                let op = Op::Unshard { axis: s.axis, outer: s.outer, inner: s.inner, rows };
                let here = out.held(*value)?;
                let name = format!("{}.whole", whole.value(*value).name);
                let op = add(&mut out.graph, op, &[here], &name, "")?;
                let here = out.graph.result(op);
                out.define(*value, here, Placement::Whole)?;
            }
            Segment::Reduce { value, kind } => {
                let (name, dtype) = (&whole.value(*value).name, whole.ty(*value).dtype);
                let op = Op::AllReduce { kind: *kind, ranks: program.ranks, dtype };
                let here = out.held(*value)?;
                let op = add(&mut out.graph, op, &[here], &format!("{name}.whole"), "")?;
                let here = out.graph.result(op);
                out.define(*value, here, Placement::Whole)?;
            }
            Segment::Island(id) => {
                let name = &whole.value(whole.result(*id)).name;
                let missing = || ShardError::Island { at: name.clone(), why: "its graph is missing".into() };
                let (strategy, graph) = islands.get(id).ok_or_else(missing)?;
                let island = program.islands.get(id).ok_or_else(missing)?;
                let layout = program.layouts[island.q_layout].kind;
                let mut operands = Vec::new();
                for (&v, form) in whole.operands(*id).iter().zip(&island.operands) {
                    operands.push(match form {
                        Placement::Sharded(s) => out.rows(v, s)?,
                        Placement::Whole | Placement::Parts(_) => out.whole(v)?,
                    });
                }
                let kind = RegionKind::Island { strategy: *strategy, layout };
                let region = Op::Region(kind, graph.clone());
                let op = add(&mut out.graph, region, &operands, name, whole.source(*id))?;
                let results = whole.results(*id);
                if results.len() != out.graph.results(op).len() {
                    let why = "it has another number of results".into();
                    return Err(ShardError::Island { at: name.clone(), why });
                }
                for (&v, here) in results.iter().zip(out.graph.results(op)) {
                    out.graph.rename(here, &whole.value(v).name);
                    out.define(v, here, placed(program, v))?;
                }
            }
        }
    }
    for o in whole.outputs() {
        let here = out.held(o.value)?;
        out.graph.output(&o.name, here);
    }
    Ok(out.graph)
}

fn placed(program: &Program, v: ValueId) -> Placement {
    program.placements.get(&v).cloned().unwrap_or(Placement::Whole)
}

fn add(g: &mut Graph, op: Op, operands: &[ValueId], name: &str, source: &str) -> Result<OpId, ShardError> {
    let fails = |why: String| ShardError::Island { at: name.to_owned(), why };
    g.add(op, operands, name, source).map_err(|e| fails(e.to_string()))
}
