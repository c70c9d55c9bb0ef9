//! What the pass gives: a graph, split and proved.

use super::error::Error;
use super::verified::verified;
use crate::check::{Report, check};
use crate::device::Device;
use crate::find::{Bound, FoundAttention, Miss};
use crate::host;
use crate::ir::{Graph, OpId, Stage, Tensor};
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
    /// On how many nodes ranks stand, as the strategy uses it: on 1 if it does not.
    pub nodes: usize,
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
        for Chosen { schedule, strategy, nodes, estimate, rejected, uses } in chosen {
            let report = check(&schedule);
            if !report.failed.is_empty() {
                return Err(Error::Check { island: schedule.name, report });
            }
            islands.push(Island {
                schedule: Arc::new(schedule),
                report,
                strategy,
                nodes,
                estimate,
                rejected,
                uses,
            });
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
///   %o: f32[1,2,8,4] = attention %q, %q, %q {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}
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
    /// If there is no such rank; nothing else fails for what [`compile`](crate::compile) returned.
    pub fn hand_back(&self, rank: usize) -> Result<host::HandBack, Error> {
        // Of a rank that there is not the host's room says so.
        let arena = |s: &Schedule| s.ranks.get(rank).map_or(0, |r| r.arena_bytes);
        let workspace = self.schedules().into_iter().map(|(op, s)| (op, arena(&s))).collect();
        let back = host::hand_back(&self.program, rank, &workspace)?;
        verified(&back.graph, Stage::HandBack)?;
        Ok(back)
    }

    /// The printed program of one rank: segments, gathers and islands as region operations of one graph.
    ///
    /// # Errors
    /// If there is no such rank; nothing else fails for what [`compile`](crate::compile) returned.
    pub fn rank_graph(&self, rank: usize) -> Result<Graph, Error> {
        self.program.numbered(rank)?;
        let mut graphs = BTreeMap::new();
        for island in &self.islands {
            for &op in &island.uses {
                let plan = ring::Plan::on_nodes(&self.program, op, island.strategy, island.nodes)?;
                let graph = plan.island(rank)?;
                verified(&graph, Stage::Ring)?;
                graphs.insert(op, (island.strategy, Arc::new(graph)));
            }
        }
        let graph = shard::rank_graph(&self.program, rank, &graphs)?;
        verified(&graph, Stage::Rank)?;
        Ok(graph)
    }

    /// What `rank` is handed of the whole tensor of an input: its rows in their order where the input is handed over by rows,
    /// else all of it. It is what PyTorch's `context_parallel(buffers, buffer_seq_dims)` does to a buffer, and what the input of
    /// that name takes in the graph of [`hand_back`](Compiled::hand_back).
    ///
    /// ```
    /// use annulus::ir::{Tensor, parse};
    /// use annulus::layout::LayoutKind;
    /// use annulus::shard::Handed;
    /// use annulus::{Options, compile};
    ///
    /// let graph = parse(
    ///     r#"graph "self" {
    ///   input %x: f32[1,1,6,2]
    ///   %y: f32[1,1,6,2] = attention %x, %x, %x {scores=[factor 1.0 | fill -inf unless causal(0)], acc=f32, empty=zero}
    ///   output "y" = %y
    /// }"#,
    /// )?;
    /// let options = Options::new(2).layout(LayoutKind::Zigzag).input(Handed::new("x", 2));
    /// let compiled = compile(&graph, &options)?;
    /// let x = Tensor::from_vec([1, 1, 6, 2], (0..12u8).map(f32::from).collect())?;
    ///
    /// // Blocks 0 and 3 of 4, and blocks 1 and 2: uneven, for 4 does not divide 6.
    /// let own = [compiled.scatter("x", &x, 0)?, compiled.scatter("x", &x, 1)?];
    /// assert_eq!(own[0].as_slice::<f32>(), Some(&[0.0, 1.0, 8.0, 9.0, 10.0, 11.0][..]));
    /// assert_eq!(own[1].as_slice::<f32>(), Some(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0][..]));
    ///
    /// // The ranks' rows of the output lie as those of the input do.
    /// assert_eq!(compiled.unshard("y", &own)?, x);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Rows`] if there is no such input or rank, or the tensor is not of the input's type.
    pub fn scatter(&self, input: &str, whole: &Tensor, rank: usize) -> Result<Tensor, Error> {
        Ok(host::scatter(&self.program, input, whole, rank)?)
    }

    /// The whole tensor of an output from what each rank holds of it, rank 0 first, as PyTorch's `context_parallel_unshard` does;
    /// see [`scatter`](Compiled::scatter). Where every rank holds all of it, it is rank 0's.
    ///
    /// # Errors
    /// [`Error::Rows`] if there is no such output, or not a part of the right type for each rank.
    pub fn unshard(&self, output: &str, parts: &[Tensor]) -> Result<Tensor, Error> {
        Ok(host::unshard(&self.program, output, parts)?)
    }
}
