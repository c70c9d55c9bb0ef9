//! The report of a compile or a run: the mirror of the command line's JSON, and the same as text.
//!
//! In: a [`Compiled`] program, and what a run gave. Out: a [`Report`], which serde prints.

use crate::eval::{Lacking, lacking};
use crate::ir::{Graph, Op, OpId, ValueId};
use crate::layout::{LayoutKind, Progression};
use crate::ring::Strategy;
use crate::schedule::cost::{Estimate, efficiency, exchange_us};
use crate::shard::{self, Placement, Program, Segment};
use crate::{Compiled, Island, Rejected, label, way};
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
    /// Values that are put together on every rank because an operation mixes rows, and folds over the rows.
    pub gathered: Vec<GatherReport>,
    /// Operators that annulus carries without computing them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<OpaqueReport>,
    /// Layouts of sharded inputs, then of sharded outputs.
    pub values: Vec<ValueLayout>,
    /// Work of each rank outside islands; an attention that is computed whole is work of every rank. That of opaque operators is
    /// not known, and not counted.
    pub local_flops: Vec<u64>,
    /// Work of the unsharded model outside islands.
    pub whole_flops: u64,
    /// Sums over all uses, gathers and reduces included.
    pub traffic: TrafficReport,
    /// Inputs that are bound: the program is right for their stored values alone, and refuses others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<String>,
    /// Name of the device that the times are for.
    pub device: String,
    /// Sums (of times) and maxima (of bytes) over all uses of islands.
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
    /// On how many nodes ranks stand, as the strategy uses it: on 1 if it does not.
    pub nodes: usize,
    /// Layout of the query rows.
    pub layout: &'static str,
    /// Layout of the key rows.
    pub kv_layout: &'static str,
    /// Receive slots of a ring; no other strategy has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// How many multiprocessors of a GPU the transfers along each axis of the mesh may hold; left out where nobody says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub comm_sms: Vec<usize>,
    /// Per rank.
    pub bytes_sent: Vec<usize>,
    /// Per rank.
    pub messages: Vec<usize>,
    /// Figures of one use.
    #[serde(flatten)]
    pub figures: ScheduleFigures,
    /// Other choices and why they were not taken, the best of them first.
    pub rejected: Vec<RejectedReport>,
}

impl IslandReport {
    /// The strategy, and on how many nodes where that is more than one.
    pub fn way(&self) -> String {
        Strategy::from_name(self.strategy).map_or_else(String::new, |s| way(s, self.nodes))
    }
}

/// A choice that was not taken.
#[derive(Clone, Debug, Serialize)]
pub struct RejectedReport {
    /// The strategy, and the layout where it is not the one that was taken.
    pub choice: String,
    /// How long it would take; `null` if it could not be scheduled.
    pub makespan_us: Option<f64>,
    /// Why it was not taken.
    pub reason: String,
}

/// Figures of a schedule on the device.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScheduleFigures {
    /// Simulated time.
    pub makespan_us: f64,
    /// Least time of any schedule of the same work.
    pub lower_bound_us: f64,
    /// Bound over makespan.
    pub efficiency: f64,
    /// Communication that no compute hides.
    pub exposed_us: f64,
    /// What the bound of the longest island comes from; empty if there is none.
    pub limiter: String,
    /// Arena bytes per rank.
    pub peak_bytes: Vec<usize>,
}

/// One value that is put together.
#[derive(Clone, Debug, Serialize)]
pub struct GatherReport {
    /// The value.
    pub at: String,
    /// `gather`: each rank sends its rows. `reduce`: each rank sends its part of a fold over the rows.
    pub kind: &'static str,
    /// The operation that needs it whole, and why; or how the parts are folded.
    pub reason: String,
    /// Bytes sent by all ranks together.
    pub bytes: usize,
    /// Time on the device; it is not part of the figures of the schedule, which are those of the islands.
    pub makespan_us: f64,
}

/// An operator that annulus carries without computing it, and where the graph has it.
#[derive(Clone, Debug, Serialize)]
pub struct OpaqueReport {
    /// The operator with its domain.
    pub operator: String,
    /// The nodes that are of it.
    pub nodes: Vec<String>,
    /// Why it is not computed; empty if it is not known at all.
    pub reason: String,
}

impl OpaqueReport {
    /// In a line.
    pub fn line(&self) -> String {
        let first = self.nodes.first().map_or("", String::as_str);
        let nodes = match self.nodes.len() {
            0 | 1 => format!("at {first}"),
            n => format!("in {n} nodes, the first is {first}"),
        };
        let reason = if self.reason.is_empty() { "not known" } else { &self.reason };
        format!("opaque: {} {nodes} ({reason}): carried for the host, its work is not counted", self.operator)
    }
}

/// The operators of a graph that annulus carries without computing them, in the order of the first node of each.
pub fn opaque(graph: &Graph) -> Vec<OpaqueReport> {
    let one = |l: Lacking| OpaqueReport { operator: l.operator, nodes: l.nodes, reason: l.why };
    lacking(graph).into_iter().map(one).collect()
}

/// Which rows of an input or output each rank has.
#[derive(Clone, Debug, Serialize)]
pub struct ValueLayout {
    /// Name of the input or output.
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

impl CheckFailure {
    /// The graph of a rank's local work cannot be made.
    fn local(rank: usize, message: String) -> CheckFailure {
        CheckFailure { check: "graph of a rank".into(), rank, step: 0, op: "local".into(), message }
    }
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
        .map(|i| (i, kinds(program, i)))
        .map(|(i, layouts)| IslandReport {
            at: i.uses.iter().map(|&op| place(graph, op)).collect(),
            strategy: i.strategy.name(),
            nodes: i.nodes,
            layout: layouts[0].name(),
            kv_layout: layouts[1].name(),
            slots: i.schedule.strategy.is_ring().then_some(i.schedule.slots),
            comm_sms: i.schedule.comm_sms(),
            bytes_sent: i.schedule.bytes_sent(),
            messages: i.schedule.ranks.iter().map(|r| r.messages()).collect(),
            figures: figures(&i.estimate),
            rejected: i.rejected.iter().map(|r| rejected(layouts, r)).collect(),
        })
        .collect();
    let gathered: Vec<GatherReport> = exchanges(compiled)
        .into_iter()
        .map(|e| GatherReport {
            at: e.at,
            kind: e.kind,
            reason: e.reason,
            bytes: e.parts.iter().fold(0usize, |n, &p| n.saturating_add(p)).saturating_mul(ranks - 1),
            makespan_us: e.time,
        })
        .collect();
    let mut checks = checks(compiled);
    let mut flops = Vec::new();
    for rank in 0..ranks {
        let work = shard::local_flops(program, rank);
        // What a rank cannot compute is counted as nothing, and told.
        checks.failed.extend(work.as_ref().err().map(|e| CheckFailure::local(rank, e.to_string())));
        flops.push(work.unwrap_or(0));
    }
    let ok = checks.failed.is_empty();
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
        bound: compiled.guards.iter().map(|b| b.input.clone()).collect(),
        device: compiled.device.name.clone(),
        schedule: sums(compiled),
        traffic: planned(compiled),
        islands,
        gathered,
        opaque: opaque(graph),
        values: layouts(compiled),
        local_flops: flops,
        whole_flops: shard::whole_flops(program),
        checks,
        compile_ms: None,
        outputs: None,
        ok,
    }
}

/// The figures of one island.
pub fn figures(e: &Estimate) -> ScheduleFigures {
    ScheduleFigures {
        makespan_us: e.makespan_us,
        lower_bound_us: e.lower_bound_us,
        efficiency: e.efficiency(),
        exposed_us: e.exposed_us,
        limiter: e.limiter.to_string(),
        peak_bytes: e.peak_bytes.clone(),
    }
}

/// The figures as a line: `h200x8: 61.2 µs · bound 60.9 µs · efficiency 0.995 · exposed 0.0 µs · limited by compute`.
pub fn figures_line(device: &str, f: &ScheduleFigures) -> String {
    let mut line = format!(
        "{device}: {} · bound {} · efficiency {:.3} · exposed {}",
        time(f.makespan_us),
        time(f.lower_bound_us),
        // Only what is proved to be the best shows as 1.
        if f.efficiency < 1.0 { (f.efficiency * 1e3).floor() / 1e3 } else { 1.0 },
        time(f.exposed_us),
    );
    if !f.limiter.is_empty() {
        line += &format!(" · limited by {}", f.limiter);
    }
    line
}

/// A time for people: `61.2 µs`, `1.25 ms`.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1e4 => format!("{us:.1} µs"),
        us if us < 1e7 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// How the layouts of an island were made. Its schedule may know less: it says `given` of rows that other attentions asked for.
fn kinds(program: &Program, island: &Island) -> [LayoutKind; 2] {
    let schedule = &island.schedule;
    let held = island.uses.first().and_then(|op| program.islands.get(op));
    let made = |layout: usize| program.layouts.get(layout).map(|l| l.kind);
    [
        held.and_then(|h| made(h.q_layout)).unwrap_or(schedule.q_layout.kind),
        held.and_then(|h| made(h.kv_layout)).unwrap_or(schedule.kv_layout.kind),
    ]
}

fn rejected(taken: [LayoutKind; 2], r: &Rejected) -> RejectedReport {
    let choice =
        if r.layouts == taken { way(r.strategy, r.nodes) } else { label(r.strategy, r.nodes, r.layouts) };
    RejectedReport { choice, makespan_us: r.makespan_us, reason: r.reason.clone() }
}

/// Over all uses of all islands.
fn sums(compiled: &Compiled) -> ScheduleFigures {
    let mut all =
        ScheduleFigures { peak_bytes: vec![0; compiled.program.ranks], ..ScheduleFigures::default() };
    let mut longest = f64::NEG_INFINITY;
    for island in &compiled.islands {
        let (e, uses) = (&island.estimate, island.uses.len() as f64);
        all.makespan_us += e.makespan_us * uses;
        all.lower_bound_us += e.lower_bound_us * uses;
        all.exposed_us += e.exposed_us * uses;
        if e.makespan_us > longest {
            (longest, all.limiter) = (e.makespan_us, e.limiter.to_string());
        }
        for (most, &bytes) in all.peak_bytes.iter_mut().zip(&e.peak_bytes) {
            *most = bytes.max(*most);
        }
    }
    all.efficiency = efficiency(all.lower_bound_us, all.makespan_us);
    all
}

/// What the plan sends: islands times their uses, gathers and reduces.
pub fn planned(compiled: &Compiled) -> TrafficReport {
    let ranks = compiled.program.ranks;
    let mut traffic = TrafficReport { bytes_sent: vec![0; ranks], messages: vec![0; ranks] };
    for island in &compiled.islands {
        let sent = island.schedule.bytes_sent();
        for (r, program) in island.schedule.ranks.iter().enumerate() {
            traffic.bytes_sent[r] += island.uses.len() * sent[r];
            traffic.messages[r] += island.uses.len() * program.messages();
        }
    }
    for e in exchanges(compiled) {
        for (r, bytes) in e.parts.into_iter().enumerate() {
            let sent = bytes.saturating_mul(ranks - 1);
            traffic.bytes_sent[r] = traffic.bytes_sent[r].saturating_add(sent);
            traffic.messages[r] += usize::from(bytes > 0 && ranks > 1);
        }
    }
    traffic
}

/// An exchange outside of islands.
struct Exchange {
    at: String,
    kind: &'static str,
    reason: String,
    /// The bytes that each rank sends to every other.
    parts: Vec<usize>,
    /// In µs.
    time: f64,
}

/// Every gather and every reduce, in order.
fn exchanges(compiled: &Compiled) -> Vec<Exchange> {
    let program = &compiled.program;
    let graph = &*program.graph;
    let mut out = Vec::new();
    for segment in &program.segments {
        let (value, kind, reason) = match segment {
            Segment::Gather { value, reason } => (*value, "gather", reason.clone()),
            Segment::Reduce { value, kind } => {
                (*value, "reduce", format!("{} of the ranks' parts, in the order of the ranks", kind.name()))
            }
            _ => continue,
        };
        let Some(form) = program.placements.get(&value) else { continue };
        let part = |rank| shard::local_type(program, form, graph.ty(value), rank).bytes();
        let parts: Vec<usize> = (0..program.ranks).map(part).collect();
        let time = exchange_us(&compiled.device, &parts);
        out.push(Exchange { at: graph.value(value).name.clone(), kind, reason, parts, time });
    }
    out
}

fn layouts(compiled: &Compiled) -> Vec<ValueLayout> {
    let program = &compiled.program;
    let graph = &program.graph;
    let triple = |p: &Progression| [p.start, p.len, p.step];
    let of = |name: &str, v: ValueId| match program.placements.get(&v) {
        Some(Placement::Sharded(s)) => Some(ValueLayout {
            name: name.to_owned(),
            axis: s.axis,
            rows: program.layouts[s.layout].rows.iter().map(|r| r.iter().map(triple).collect()).collect(),
        }),
        _ => None,
    };
    let inputs = graph.inputs().into_iter().filter_map(|v| of(&graph.value(v).name, v));
    let outputs = graph.outputs().iter().filter_map(|o| of(&o.name, o.value));
    inputs.chain(outputs).collect()
}

/// The rows of one rank's sharded inputs and outputs, a line each, as comments before its graph.
pub fn rows_of_rank(compiled: &Compiled, rank: usize) -> String {
    let program = &compiled.program;
    let graph = &program.graph;
    let line = |what: &str, name: &str, v: ValueId| {
        let Some(Placement::Sharded(s)) = program.placements.get(&v) else { return String::new() };
        let rows: Vec<String> = program.rows(s, rank).iter().map(Progression::to_string).collect();
        let rows = if rows.is_empty() { "none".to_owned() } else { rows.join(" ") };
        format!("// {what} {}: rows {rows} of axis {}\n", name.escape_debug(), s.axis)
    };
    let inputs = graph.inputs().into_iter().map(|v| line("input", &graph.value(v).name, v));
    let outputs = graph.outputs().iter().map(|o| line("output", &o.name, o.value));
    inputs.chain(outputs).collect()
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

/// A name for people: the source node of an operation, else the value it makes; empty for one of another graph.
pub fn place(graph: &Graph, op: OpId) -> String {
    debug_assert!(!matches!(graph.get_op(op), Some(Op::Input(_))));
    match graph.source(op) {
        "" => graph.get(graph.result(op)).map_or(String::new(), |v| v.name.clone()),
        source => source.to_owned(),
    }
}
