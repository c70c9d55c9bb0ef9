//! The whole pass as one function. It only calls the rooms, in order, and verifies after each.

use crate::Error;
use crate::check::Report;
use crate::device::Device;
use crate::driver::{self, Rejected};
use crate::exec::cpu::{self, Run};
use crate::find::{self, Bound, Found, FoundAttention, Miss};
use crate::host;
use crate::ir::{Graph, OpId, Tensor, verify::verify};
use crate::layout::LayoutKind;
use crate::ring::{self, Strategy};
use crate::schedule::cost::Estimate;
use crate::schedule::{SLOTS, Schedule};
use crate::shard::{self, Program};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is asked of the pass.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of ranks, at least 1.
    pub ranks: usize,
    /// How keys and queries meet; `None`: whatever takes the least time on the device.
    pub strategy: Option<Strategy>,
    /// Who owns which rows; `None`: whatever takes the least time on the device, over all attentions of a sequence.
    pub layout: Option<LayoutKind>,
    /// Inputs that the host hands to a rank by rows.
    pub inputs: Vec<shard::Handed>,
    /// What the ranks are; `None`: [`Device::default_for`] their number.
    pub device: Option<Device>,
    /// The most bytes of arena that an island may have on a rank.
    pub memory: Option<usize>,
    /// How many receive slots a rank of a ring has, at least 2: more let a rank lag behind its neighbours where work is uneven.
    pub slots: usize,
    /// Which rewritings are admitted.
    pub find: find::FindOptions,
}

impl Options {
    /// Everything chosen by the pass, on so many ranks.
    pub fn new(ranks: usize) -> Options {
        Options {
            ranks,
            strategy: None,
            layout: None,
            inputs: vec![],
            device: None,
            memory: None,
            slots: SLOTS,
            find: find::FindOptions::default(),
        }
    }
}

/// A distinct island: one proved schedule and every attention that uses it.
#[derive(Clone, Debug)]
pub struct Island {
    /// The schedule of all ranks.
    pub schedule: Arc<Schedule>,
    /// What was proved of it.
    pub report: Report,
    /// How keys and queries meet.
    pub strategy: Strategy,
    /// What it costs on the device.
    pub estimate: Estimate,
    /// The choices that were not taken, the best of them first.
    pub rejected: Vec<Rejected>,
    /// The attentions that use it, in order of execution.
    pub uses: Vec<OpId>,
}

/// A graph, split and proved.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The attentions that were found.
    pub attentions: Vec<FoundAttention>,
    /// Near misses.
    pub missed: Vec<Miss>,
    /// Values of inputs that were bound: [`run`] refuses others.
    pub guards: Vec<Bound>,
    /// The graph with attention nodes, and how it is split.
    pub program: Program,
    /// Distinct islands, in order of first use.
    pub islands: Vec<Island>,
    /// What the islands were chosen for.
    pub device: Device,
}

/// The whole pass: finds the attentions, splits the sequence, rewrites, schedules and proves.
///
/// # Errors
/// See [`Error`]. The graph is left as it was.
pub fn compile(graph: &Graph, options: &Options) -> Result<Compiled, Error> {
    let found = find_attentions(graph, &options.find)?;
    let device = options.device.clone().unwrap_or_else(|| Device::default_for(options.ranks));
    if !device.holds(options.ranks) {
        let (has, device) = (device.ranks().unwrap_or(0), device.name);
        return Err(Error::Device { device, has, wanted: options.ranks });
    }
    let (program, islands) = driver::drive(&Arc::new(found.graph), options, &device)?;
    let Found { attentions, missed, guards, .. } = found;
    Ok(Compiled { attentions, missed, guards, program, islands, device })
}

/// The first stage alone: every attention in normal form, in a graph that is verified.
///
/// # Errors
/// [`Error::Verify`] if the graph is not well formed, before or after; [`Error::Bind`] if a bound input does not fit.
pub fn find_attentions(graph: &Graph, options: &find::FindOptions) -> Result<Found, Error> {
    verified(graph, "import")?;
    if let Some(b) = options.bound.iter().find(|b| b.of(graph).is_none()) {
        let named = graph.inputs().into_iter().find(|&v| graph.value(v).name == b.input);
        let is = named.map(|v| graph.ty(v).clone());
        return Err(Error::Bind { input: b.input.clone(), value: b.value.ty(), is });
    }
    let found = find::find(graph, options);
    verified(&found.graph, "find")?;
    Ok(found)
}

/// Runs a compiled graph on the CPU, every rank in this process, on whole inputs; `seed` picks another legal order.
///
/// # Errors
/// If an operation fails on a rank, or an input has another value than the one it is bound to.
pub fn run(compiled: &Compiled, inputs: &[Tensor], seed: u64) -> Result<Run, Error> {
    run_watched(compiled, inputs, seed, &mut |_| {})
}

/// [`run`]; `watch` is told again and again how far it has come.
///
/// # Errors
/// As [`run`].
pub fn run_watched(
    compiled: &Compiled,
    inputs: &[Tensor],
    seed: u64,
    watch: &mut dyn FnMut(cpu::Progress),
) -> Result<Run, Error> {
    let graph = &compiled.program.graph;
    for guard in &compiled.guards {
        let at = graph.inputs().into_iter().position(|v| graph.value(v).name == guard.input);
        if at.and_then(|i| inputs.get(i)).is_some_and(|x| *x != guard.value) {
            return Err(Error::Guard { input: guard.input.clone() });
        }
    }
    Ok(cpu::run_watched(&compiled.program, &compiled.schedules(), inputs, seed, watch)?)
}

impl Compiled {
    /// The schedule of each attention that is split.
    pub fn schedules(&self) -> BTreeMap<OpId, Arc<Schedule>> {
        let pairs = self.islands.iter().flat_map(|i| i.uses.iter().map(|&op| (op, i.schedule.clone())));
        pairs.collect()
    }

    /// What the host of one rank gets back: its graph, in which every island and every gather is one `call` operation.
    ///
    /// # Errors
    /// If a room fails; it does not for what [`compile`] returned.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn hand_back(&self, rank: usize) -> Result<host::HandBack, Error> {
        let arena = |s: &Schedule| s.ranks[rank].arena_bytes;
        let workspace = self.schedules().into_iter().map(|(op, s)| (op, arena(&s))).collect();
        let back = host::hand_back(&self.program, rank, &workspace)?;
        verified(&back.graph, "hand back")?;
        Ok(back)
    }

    /// The printed program of one rank: segments, gathers and islands as region operations of one graph.
    ///
    /// # Errors
    /// If a room fails; it does not for what [`compile`] returned.
    pub fn rank_graph(&self, rank: usize) -> Result<Graph, Error> {
        let mut graphs = BTreeMap::new();
        for island in &self.islands {
            for &op in &island.uses {
                let plan = ring::Plan::new(&self.program, op, island.strategy)?;
                let graph = plan.island(rank)?;
                verified(&graph, "ring")?;
                graphs.insert(op, (island.strategy, Arc::new(graph)));
            }
        }
        let graph = shard::rank_graph(&self.program, rank, &graphs)?;
        verified(&graph, "shard")?;
        Ok(graph)
    }
}

fn verified(graph: &Graph, stage: &'static str) -> Result<(), Error> {
    verify(graph).map_err(|errors| Error::Verify { stage, errors })
}
