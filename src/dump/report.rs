//! The report of a compile or a run: the mirror of the command line's JSON, and the same as text.
//!
//! In: a [`Compiled`] program, and what a run gave. Out: a [`Report`], which serde prints.
//! Figures that need a cost model are `null`: there is none yet.

use crate::Compiled;
use crate::ir::{Graph, Op, OpId};
use crate::layout::Progression;
use crate::shard::{self, Placement, Segment};
use serde::Serialize;

/// The report; field by field what the command line promises.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of ranks.
    pub ranks: usize,
    /// Attentions found, rewritten and refused.
    pub attention: AttentionCount,
    /// One entry per distinct schedule; figures are of one use.
    pub islands: Vec<IslandReport>,
    /// Values that are put together on every rank because an operation mixes rows.
    pub gathered: Vec<GatherReport>,
    /// Layouts of sharded outputs.
    pub values: Vec<ValueLayout>,
    /// Work of each rank outside islands.
    pub local_flops: Vec<u64>,
    /// Work of the unsharded model outside attention.
    pub whole_flops: u64,
    /// Sums over all uses, gathers included.
    pub traffic: TrafficReport,
    /// Sums (of times) and maxima (of bytes) over all uses.
    pub schedule: ScheduleFigures,
    /// What was proved of the schedules.
    pub checks: Checks,
    /// Time that the pass took; of no meaning to the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile_ms: Option<f64>,
    /// Comparison of each output, if the program was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<OutputReport>>,
    /// Whether everything is as it should be.
    pub ok: bool,
}

/// How many attentions there are, and what became of them.
#[derive(Clone, Debug, Serialize)]
pub struct AttentionCount {
    /// Found in the graph.
    pub found: usize,
    /// Split over the ranks.
    pub rewritten: usize,
    /// Computed whole.
    pub refused: Vec<Refusal>,
}

/// Something that was not done, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// The node.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// One distinct schedule.
#[derive(Clone, Debug, Serialize)]
pub struct IslandReport {
    /// The attentions that use it.
    pub at: Vec<String>,
    /// How keys and queries meet.
    pub strategy: &'static str,
    /// Layout of the query rows.
    pub layout: &'static str,
    /// Layout of the key rows.
    pub kv_layout: &'static str,
    /// Per rank.
    pub bytes_sent: Vec<usize>,
    /// Per rank.
    pub messages: Vec<usize>,
    /// Figures of one use.
    #[serde(flatten)]
    pub figures: ScheduleFigures,
    /// Other choices and why they were not taken; empty while the choice is a fixed rule.
    pub rejected: Vec<Refusal>,
}

/// Figures of a schedule. Times need a cost model and are `null` without one.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScheduleFigures {
    /// Simulated time.
    pub makespan_us: Option<f64>,
    /// Least time of any schedule of the same work.
    pub lower_bound_us: Option<f64>,
    /// Bound over makespan.
    pub efficiency: Option<f64>,
    /// Communication that no compute hides.
    pub exposed_us: Option<f64>,
    /// What the longest island waits for.
    pub limiter: Option<String>,
    /// Arena bytes per rank.
    pub peak_bytes: Vec<usize>,
}

/// One value that is put together.
#[derive(Clone, Debug, Serialize)]
pub struct GatherReport {
    /// The value.
    pub at: String,
    /// The operation that needs it whole, and why.
    pub reason: String,
    /// Bytes sent by all ranks together.
    pub bytes: usize,
}

/// Who owns which rows of an output.
#[derive(Clone, Debug, Serialize)]
pub struct ValueLayout {
    /// Name of the output.
    pub name: String,
    /// The axis that is split.
    pub axis: usize,
    /// Per rank its progressions [start, len, step].
    pub rows: Vec<Vec<[usize; 3]>>,
}

/// What is sent, per rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficReport {
    /// Bytes.
    pub bytes_sent: Vec<usize>,
    /// Messages.
    pub messages: Vec<usize>,
}

/// Names of checks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checks {
    /// Those that hold for every island.
    pub passed: Vec<String>,
    /// Faults.
    pub failed: Vec<CheckFailure>,
}

/// One fault.
#[derive(Clone, Debug, Serialize)]
pub struct CheckFailure {
    /// Name of the check.
    pub check: String,
    /// The rank.
    pub rank: usize,
    /// Its step.
    pub step: usize,
    /// The operation of that step.
    pub op: String,
    /// What is wrong.
    pub message: String,
}

/// Comparison of one output.
#[derive(Clone, Debug, Serialize)]
pub struct OutputReport {
    /// Name of the output.
    pub name: String,
    /// Largest |got − want|.
    pub max_abs_error: f64,
    /// Largest |got − want| / |want|, where want is not 0.
    pub max_rel_error: f64,
    /// Whether every element is within tolerance.
    pub within: bool,
}

impl From<&crate::check::Failure> for CheckFailure {
    fn from(f: &crate::check::Failure) -> CheckFailure {
        CheckFailure {
            check: f.check.to_owned(),
            rank: f.rank,
            step: f.step,
            op: f.op.clone(),
            message: f.message.clone(),
        }
    }
}

/// The report of a compiled program that has not been run.
pub fn report(compiled: &Compiled) -> Report {
    let program = &compiled.program;
    let (graph, ranks) = (&*program.graph, program.ranks);
    let islands: Vec<IslandReport> = compiled
        .islands
        .iter()
        .map(|i| IslandReport {
            at: i.uses.iter().map(|&op| place(graph, op)).collect(),
            strategy: i.strategy.name(),
            layout: i.schedule.q_layout.kind.name(),
            kv_layout: i.schedule.kv_layout.kind.name(),
            bytes_sent: i.schedule.ranks.iter().map(|r| r.bytes_sent()).collect(),
            messages: i.schedule.ranks.iter().map(|r| r.messages()).collect(),
            figures: ScheduleFigures {
                peak_bytes: i.schedule.ranks.iter().map(|r| r.arena_bytes).collect(),
                ..ScheduleFigures::default()
            },
            rejected: vec![],
        })
        .collect();
    let gathered: Vec<GatherReport> = gathers(compiled)
        .into_iter()
        .map(|(at, reason, sent)| GatherReport { at, reason, bytes: sent.iter().sum() })
        .collect();
    Report {
        ranks,
        attention: AttentionCount {
            found: compiled.attentions.len(),
            rewritten: compiled.islands.iter().map(|i| i.uses.len()).sum(),
            refused: program
                .refused
                .iter()
                .map(|(op, reason)| Refusal { at: place(graph, *op), reason: reason.clone() })
                .collect(),
        },
        schedule: ScheduleFigures {
            peak_bytes: (0..ranks)
                .map(|r| islands.iter().map(|i| i.figures.peak_bytes[r]).max().unwrap_or(0))
                .collect(),
            ..ScheduleFigures::default()
        },
        traffic: planned(compiled),
        islands,
        gathered,
        values: layouts(compiled),
        local_flops: (0..ranks).map(|r| shard::local_flops(program, r)).collect(),
        whole_flops: crate::ir::flops::graph_flops(graph),
        checks: checks(compiled),
        compile_ms: None,
        outputs: None,
        ok: true,
    }
}

/// What the plan sends: islands times their uses, and gathers.
pub fn planned(compiled: &Compiled) -> TrafficReport {
    let ranks = compiled.program.ranks;
    let mut traffic = TrafficReport { bytes_sent: vec![0; ranks], messages: vec![0; ranks] };
    for island in &compiled.islands {
        for (r, program) in island.schedule.ranks.iter().enumerate() {
            traffic.bytes_sent[r] += island.uses.len() * program.bytes_sent();
            traffic.messages[r] += island.uses.len() * program.messages();
        }
    }
    for (_, _, sent) in gathers(compiled) {
        for (r, bytes) in sent.into_iter().enumerate() {
            traffic.bytes_sent[r] += bytes;
            traffic.messages[r] += usize::from(bytes > 0);
        }
    }
    traffic
}

/// Every gather: the value, why, and the bytes that each rank sends (its rows to every other rank).
fn gathers(compiled: &Compiled) -> Vec<(String, String, Vec<usize>)> {
    let program = &compiled.program;
    let graph = &*program.graph;
    let mut out = Vec::new();
    for segment in &program.segments {
        let Segment::Gather { value, reason } = segment else { continue };
        let Some(Placement::Sharded(s)) = program.placements.get(value) else { continue };
        let layout = &program.layouts[s.layout];
        let per_row = graph.ty(*value).bytes().checked_div(layout.length).unwrap_or(0);
        let sent = (0..program.ranks).map(|r| layout.share(r) * per_row * (program.ranks - 1)).collect();
        out.push((graph.value(*value).name.clone(), reason.clone(), sent));
    }
    out
}

fn layouts(compiled: &Compiled) -> Vec<ValueLayout> {
    let program = &compiled.program;
    let triple = |p: &Progression| [p.start, p.len, p.step];
    program
        .graph
        .outputs()
        .iter()
        .filter_map(|o| match program.placements.get(&o.value) {
            Some(Placement::Sharded(s)) => Some(ValueLayout {
                name: o.name.clone(),
                axis: s.axis,
                rows: program.layouts[s.layout].rows.iter().map(|r| r.iter().map(triple).collect()).collect(),
            }),
            _ => None,
        })
        .collect()
}

fn checks(compiled: &Compiled) -> Checks {
    let mut checks = Checks::default();
    for island in &compiled.islands {
        for passed in &island.report.passed {
            if !checks.passed.iter().any(|c| c == passed.check) {
                checks.passed.push(passed.check.to_owned());
            }
        }
        checks.failed.extend(island.report.failed.iter().map(CheckFailure::from));
    }
    checks
}

/// A name for people: the source node of an operation, else the value it makes.
pub fn place(graph: &Graph, op: OpId) -> String {
    debug_assert!(!matches!(graph.op(op), Op::Input(_)));
    match graph.source(op) {
        "" => graph.value(graph.result(op)).name.clone(),
        source => source.to_owned(),
    }
}
