//! The whole pass as one function. It only calls the rooms, in order, and verifies after each.

use crate::Error;
use crate::check::{self, Report};
use crate::exec::cpu::{self, Run};
use crate::find::{self, Found, FoundAttention, Miss};
use crate::ir::{Attention, Graph, Op, OpId, Tensor, Type, verify::verify};
use crate::layout::LayoutKind;
use crate::ring::{self, Strategy};
use crate::schedule::{self, Schedule};
use crate::shard::{self, Program, Segment, ShardOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is asked of the pass.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of ranks, at least 1.
    pub ranks: usize,
    /// How keys and queries meet; `None` chooses (so far always the ring).
    pub strategy: Option<Strategy>,
    /// Who owns which rows; `None` chooses: zigzag if an attention of the sequence is causal, else contiguous.
    pub layout: Option<LayoutKind>,
    /// Which rewritings are admitted.
    pub find: find::FindOptions,
}

impl Options {
    /// Everything chosen by the pass, on so many ranks.
    pub fn new(ranks: usize) -> Options {
        Options { ranks, strategy: None, layout: None, find: find::FindOptions::default() }
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
    /// The graph with attention nodes, and how it is split.
    pub program: Program,
    /// Distinct islands, in order of first use.
    pub islands: Vec<Island>,
}

/// The whole pass: finds the attentions, splits the sequence, rewrites, schedules and proves.
///
/// # Errors
/// See [`Error`]. The graph is left as it was.
pub fn compile(graph: &Graph, options: &Options) -> Result<Compiled, Error> {
    let found = find_attentions(graph, &options.find)?;
    let request = ShardOptions { ranks: options.ranks, layout: options.layout };
    let program = shard::shard(Arc::new(found.graph), &request)?;
    let islands = islands(&program, options.strategy.unwrap_or(Strategy::Ring))?;
    Ok(Compiled { attentions: found.attentions, missed: found.missed, program, islands })
}

/// The first stage alone: every attention in normal form, in a graph that is verified.
///
/// # Errors
/// [`Error::Verify`] if the graph is not well formed, before or after.
pub fn find_attentions(graph: &Graph, options: &find::FindOptions) -> Result<Found, Error> {
    verified(graph, "import")?;
    let found = find::find(graph, options);
    verified(&found.graph, "find")?;
    Ok(found)
}

/// Rewrites, schedules and proves every island; equal ones once.
fn islands(program: &Program, strategy: Strategy) -> Result<Vec<Island>, Error> {
    let mut distinct: Vec<(Key, Island)> = Vec::new();
    for segment in &program.segments {
        let &Segment::Island(op) = segment else { continue };
        let key = Key::of(program, op);
        if let Some((_, island)) = distinct.iter_mut().find(|(k, _)| *k == key) {
            island.uses.push(op);
            continue;
        }
        let plan = ring::Plan::new(program, op, strategy)?;
        let mut draft = schedule::Draft::new(program, op, strategy)?;
        for rank in 0..program.ranks {
            // Made, scheduled and dropped: never the graphs of all ranks at once.
            draft.rank(&verified_island(&plan, rank)?)?;
        }
        let schedule = draft.done()?;
        let report = check::check(&schedule);
        if !report.failed.is_empty() {
            return Err(Error::Check { island: schedule.name, report });
        }
        distinct.push((key, Island { schedule: Arc::new(schedule), report, strategy, uses: vec![op] }));
    }
    Ok(distinct.into_iter().map(|(_, island)| island).collect())
}

/// The verified island graph of one rank.
fn verified_island(plan: &ring::Plan<'_>, rank: usize) -> Result<Graph, Error> {
    let graph = plan.island(rank)?;
    verified(&graph, "ring")?;
    Ok(graph)
}

/// Runs a compiled graph on the CPU, every rank in this process, on whole inputs; `seed` picks another legal order.
///
/// # Errors
/// If an operation fails on a rank.
pub fn run(compiled: &Compiled, inputs: &[Tensor], seed: u64) -> Result<Run, Error> {
    Ok(cpu::run(&compiled.program, &compiled.schedules(), inputs, seed)?)
}

impl Compiled {
    /// The schedule of each attention that is split.
    pub fn schedules(&self) -> BTreeMap<OpId, Arc<Schedule>> {
        let pairs = self.islands.iter().flat_map(|i| i.uses.iter().map(|&op| (op, i.schedule.clone())));
        pairs.collect()
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
                let graph = verified_island(&plan, rank)?;
                graphs.insert(op, (island.strategy.name().to_owned(), Arc::new(graph)));
            }
        }
        let graph = shard::rank_graph(&self.program, rank, &graphs)?;
        verified(&graph, "shard")?;
        Ok(graph)
    }
}

/// What two islands must share to be one schedule. Masks and biases that are tensors are arguments of the schedule, so that
/// their content does not stand here.
#[derive(PartialEq)]
struct Key {
    attention: Attention,
    operands: Vec<Type>,
    held: Option<shard::Island>,
}

impl Key {
    fn of(program: &Program, op: OpId) -> Key {
        let graph = &program.graph;
        let Op::Attention(attention) = graph.op(op) else { unreachable!("an island is an attention") };
        Key {
            attention: (**attention).clone(),
            operands: graph.operands(op).into_iter().map(|v| graph.ty(v).clone()).collect(),
            held: program.islands.get(&op).cloned(),
        }
    }
}

fn verified(graph: &Graph, stage: &'static str) -> Result<(), Error> {
    verify(graph).map_err(|errors| Error::Verify { stage, errors })
}
