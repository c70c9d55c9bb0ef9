//! The split of a graph: the stages of the room in their order.
//!
//! In: a graph and options. Out: a [`Program`], and the other layouts that it may have.

use super::error::ShardError;
use super::options::{Handed, MAX_RANKS, ShardOptions};
use super::rowwise::promised;
use super::types::Program;
use super::{place, propagate, sequences};
use crate::ir::{Graph, OpId, ValueId};
use crate::layout::{Layout, LayoutKind};
use std::sync::Arc;

/// Splits a graph.
///
/// # Errors
/// See [`ShardError`].
pub fn shard(graph: Arc<Graph>, options: &ShardOptions) -> Result<Program, ShardError> {
    Ok(shard_with(graph, options, &[])?.0)
}

/// Splits a graph, and says what else [`Program::layouts`] may be: for each of the kinds that applies, a layout for every
/// sequence.
///
/// # Errors
/// See [`ShardError`].
pub(crate) fn shard_with(
    graph: Arc<Graph>,
    options: &ShardOptions,
    kinds: &[LayoutKind],
) -> Result<(Program, Vec<Vec<Layout>>), ShardError> {
    if !(1..=MAX_RANKS).contains(&options.ranks) {
        return Err(ShardError::Options(format!(
            "there cannot be {} ranks: want 1 to {MAX_RANKS}",
            options.ranks
        )));
    }
    let graph = promised(graph, &options.rowwise)?;
    let live = propagate::Live::new(&graph);
    let handed = named(&graph, &options.inputs)?;
    let axes: Vec<(ValueId, usize)> = handed.iter().map(|&(v, h)| (v, h.axis)).collect();
    let windows = if options.windows { options.ranks } else { 1 };
    let wishes = propagate::propagate(&live, &axes, windows);
    let program = place::place(&graph, &live, &wishes, options, &handed)?;
    let mut others = Vec::new();
    if !kinds.is_empty() {
        let taken = sequences::sequences(&live, &wishes, options, &handed)?;
        for &kind in kinds {
            let named = ShardOptions { layout: Some(kind), ..options.clone() };
            // Caches that are alike under one kind may not be so under another: then that is another program.
            let made = sequences::sequences(&live, &wishes, &named, &handed).ok();
            let fits = |s: &sequences::Sequences| s.index == taken.index && s.joined == taken.joined;
            others.extend(made.filter(fits).map(|s| s.layouts));
        }
    }
    Ok((program, others))
}

/// The attentions of a graph that [`shard`] does not split along their rows, in order, each with the reason, where every input is
/// handed over whole and none is split along its batch. It is the same for any number of ranks. An attention that no output needs is not among them, for nobody computes it.
pub(crate) fn refusals(graph: &Graph) -> Vec<(OpId, String)> {
    let live = propagate::Live::new(graph);
    let wishes = propagate::propagate(&live, &[], 1);
    wishes.refused.into_iter().map(|(i, reason)| (live.order()[i], reason)).collect()
}

/// The inputs that are named, with what is asked of them.
fn named<'a>(graph: &Graph, inputs: &'a [Handed]) -> Result<Vec<(ValueId, &'a Handed)>, ShardError> {
    let mut found: Vec<(ValueId, &Handed)> = Vec::new();
    for handed in inputs {
        let fault = |why: String| handed.refused(why);
        let all = graph.inputs();
        let names = || all.iter().map(|&v| graph.value(v).name.as_str()).collect::<Vec<_>>().join(", ");
        let v = all.iter().copied().find(|&v| graph.value(v).name == handed.name);
        let v = v.ok_or_else(|| fault(format!("there is no such input; there are {}", names())))?;
        if handed.axis >= graph.ty(v).rank() {
            return Err(fault(format!(
                "its type is {}, which has no such axis; axes count from 0",
                graph.ty(v)
            )));
        }
        if found.iter().any(|f| f.0 == v) {
            return Err(fault("it is named twice".into()));
        }
        found.push((v, handed));
    }
    Ok(found)
}
