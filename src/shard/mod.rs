//! shard: which axis of which value is the sequence, and who owns which rows.
//!
//! In: a graph with attention nodes and a number of ranks. Out: a [`Program`]: the placement of every value, and the order of
//! local segments, gathers and islands; on demand a rank's graph of a segment ([`local_graph`]) and of the whole program
//! ([`rank_graph`]).
//!
//! Invariants: a sequence is followed as a factor of an axis ([`axes`]), never by its size; the decision is one for all ranks;
//! only what an attention or a sum of products went into is ever gathered; a rank without rows is a rank like any other.

pub mod axes;
mod flops;
mod hand_back;
mod local;
mod place;
mod propagate;
mod rank_graph;
mod sequences;
pub mod types;

pub use flops::{local_flops, whole_flops};
pub use hand_back::{Call, CallKind, HandBack, Port, hand_back};
pub use local::local_graph;
pub use rank_graph::rank_graph;
pub use types::*;

use crate::ir::{Graph, ValueId};
use crate::layout::{Layout, LayoutKind, Progression};
use std::sync::Arc;

/// The largest number of ranks that a program is made for.
pub const MAX_RANKS: usize = 1 << 12;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Number of ranks, from 1 to [`MAX_RANKS`].
    pub ranks: usize,
    /// The layout; `None`: zigzag for a sequence with a causal attention, else contiguous. A layout by documents needs an
    /// attention whose mask names them.
    pub layout: Option<LayoutKind>,
    /// Inputs that are handed to a rank by rows.
    pub inputs: Vec<Handed>,
}

/// An input that the host hands to a rank by rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Its name.
    pub name: String,
    /// The axis that carries the sequence.
    pub axis: usize,
    /// The rows that each rank has already, in their order: the layout of an earlier `present` output, say, which this input
    /// is now. `None`: the layout is chosen.
    pub rows: Option<Vec<Vec<Progression>>>,
}

impl Handed {
    /// An input whose layout is chosen.
    pub fn new(name: impl Into<String>, axis: usize) -> Handed {
        Handed { name: name.into(), axis, rows: None }
    }
}

/// Why a graph could not be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// An input cannot be handed out by rows.
    #[error("input {name} cannot be handed out along axis {axis}: {why}")]
    Input {
        /// Its name.
        name: String,
        /// The axis that was named.
        axis: usize,
        /// Why not.
        why: String,
    },
    /// The layout that was asked for does not apply.
    #[error("layout {kind} does not apply: {why}")]
    Layout {
        /// Its name.
        kind: LayoutKind,
        /// Why not.
        why: String,
    },
    /// The graph of an island does not fit the program.
    #[error("{at}: {why}")]
    Island {
        /// The attention.
        at: String,
        /// What is wrong.
        why: String,
    },
}

/// One rank's graph of a local segment.
#[derive(Clone, Debug)]
pub struct LocalGraph {
    /// The graph; values and operations carry the names of the program's graph.
    pub graph: Graph,
    /// For each input of `graph`, the program's value that it holds, as [`Program::held`] says: the rank's rows where it is
    /// sharded and not gathered before.
    pub inputs: Vec<ValueId>,
    /// For each output of `graph`, the program's value that it makes.
    pub outputs: Vec<ValueId>,
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
            return Err(fault(format!("it is {}", graph.ty(v))));
        }
        if found.iter().any(|f| f.0 == v) {
            return Err(fault("it is named twice".into()));
        }
        found.push((v, handed));
    }
    Ok(found)
}

impl Handed {
    fn refused(&self, why: String) -> ShardError {
        ShardError::Input { name: self.name.clone(), axis: self.axis, why }
    }
}

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
pub fn shard_with(
    graph: Arc<Graph>,
    options: &ShardOptions,
    kinds: &[LayoutKind],
) -> Result<(Program, Vec<Vec<Layout>>), ShardError> {
    if !(1..=MAX_RANKS).contains(&options.ranks) {
        return Err(ShardError::Options(format!("{} ranks: want 1 to {MAX_RANKS}", options.ranks)));
    }
    let live = propagate::Live::new(&graph);
    let handed = named(&graph, &options.inputs)?;
    let axes: Vec<(ValueId, usize)> = handed.iter().map(|&(v, h)| (v, h.axis)).collect();
    let wishes = propagate::propagate(&live, &axes);
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
