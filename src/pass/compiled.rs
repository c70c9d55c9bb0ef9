//! What the pass gives: a graph, split and proved.

use super::error::Error;
use super::verified::verified;
use crate::check::{Report, check};
use crate::device::Device;
use crate::find::{Bound, FoundAttention, Miss};
use crate::host;
use crate::ir::{Graph, OpId, Stage};
use crate::ring::{self, Strategy};
use crate::schedule::Schedule;
use crate::schedule::cost::Estimate;
use crate::search::{Chosen, Rejected};
use crate::shard::{self, Program};
use std::collections::BTreeMap;
use std::sync::Arc;

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

impl Island {
    /// The islands that were chosen, each with the proof of its schedule.
    ///
    /// # Errors
    /// [`Error::Check`] if a schedule does not pass: it is not used.
    pub(super) fn proved(chosen: Vec<Chosen>) -> Result<Vec<Island>, Error> {
        let mut islands = Vec::new();
        for Chosen { schedule, strategy, estimate, rejected, uses } in chosen {
            let report = check(&schedule);
            if !report.failed.is_empty() {
                return Err(Error::Check { island: schedule.name, report });
            }
            islands.push(Island { schedule: Arc::new(schedule), report, strategy, estimate, rejected, uses });
        }
        Ok(islands)
    }
}

/// A graph, split and proved.
///
/// ```
/// use annulus::ir::{DType, Tensor};
///
/// let graph = annulus::ir::parse(
///     r#"graph "tiny" {
///   input %q: f32[1,2,8,4]
///   %o: f32[1,2,8,4] = attention %q, %q, %q {scale=0.5, mask=causal(0), acc=f32, empty=zero}
///   output "o" = %o
/// }"#,
/// )?;
/// let compiled = annulus::compile(&graph, &annulus::Options::new(2))?;
/// println!("{}", compiled.islands[0].schedule); // what every rank does, and why it waits
/// println!("{}", compiled.rank_graph(1)?); // the printed program of rank 1
/// // All ranks in this process, on whole inputs.
/// let q = Tensor::from_f64(DType::F32, [1, 2, 8, 4], &[0.5; 64]).expect("64 numbers");
/// let run = annulus::run(&compiled, &[q], 0)?;
/// assert_eq!(run.outputs[0].shape(), [1, 2, 8, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The attentions that were found.
    pub attentions: Vec<FoundAttention>,
    /// Near misses.
    pub missed: Vec<Miss>,
    /// Values of inputs that were bound: [`run`](crate::run) refuses others.
    pub guards: Vec<Bound>,
    /// The graph with attention nodes, and how it is split.
    pub program: Program,
    /// Distinct islands, in order of first use.
    pub islands: Vec<Island>,
    /// What the islands were chosen for.
    pub device: Device,
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
    /// If a room fails; it does not for what [`compile`](crate::compile) returned.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn hand_back(&self, rank: usize) -> Result<host::HandBack, Error> {
        let arena = |s: &Schedule| s.ranks[rank].arena_bytes;
        let workspace = self.schedules().into_iter().map(|(op, s)| (op, arena(&s))).collect();
        let back = host::hand_back(&self.program, rank, &workspace)?;
        verified(&back.graph, Stage::HandBack)?;
        Ok(back)
    }

    /// The printed program of one rank: segments, gathers and islands as region operations of one graph.
    ///
    /// # Errors
    /// If a room fails; it does not for what [`compile`](crate::compile) returned.
    pub fn rank_graph(&self, rank: usize) -> Result<Graph, Error> {
        let mut graphs = BTreeMap::new();
        for island in &self.islands {
            for &op in &island.uses {
                let plan = ring::Plan::new(&self.program, op, island.strategy)?;
                let graph = plan.island(rank)?;
                verified(&graph, Stage::Ring)?;
                graphs.insert(op, (island.strategy, Arc::new(graph)));
            }
        }
        let graph = shard::rank_graph(&self.program, rank, &graphs)?;
        verified(&graph, Stage::Rank)?;
        Ok(graph)
    }
}
