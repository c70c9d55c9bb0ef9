//! Walks the segments of a program: local graphs by `eval`, gathers, reduces, islands.

use super::error::ExecError;
use super::fold::fold;
use super::island::run_island_watched;
use super::outcome::{Progress, Run, Traffic};
use super::ranks::{AllHere, Ranks};
use super::rows::{bytes, cut, join, part};
use crate::eval::{EvalError, Precision, eval, fits, lacking};
use crate::ir::{Op, OpId, Reduction, Tensor, Type, ValueId};
use crate::schedule::Schedule;
use crate::shard::{LocalGraph, Placement, Program, Segment, Sharding, local_graph};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Runs a program on whole inputs. `schedules` has one entry per island. `seed` picks another legal order of steps; the
/// results have the same bits whatever it is.
///
/// # Errors
/// If an operation fails on a rank, or the steps of an island cannot all run.
pub fn run(
    program: &Program,
    schedules: &BTreeMap<OpId, Arc<Schedule>>,
    inputs: &[Tensor],
    seed: u64,
) -> Result<Run, ExecError> {
    run_watched(program, schedules, inputs, seed, &mut |_| {})
}

/// The same; `watch` is told again and again how far it has come.
///
/// # Errors
/// As [`run`].
pub fn run_watched(
    program: &Program,
    schedules: &BTreeMap<OpId, Arc<Schedule>>,
    inputs: &[Tensor],
    seed: u64,
    watch: &mut dyn FnMut(Progress),
) -> Result<Run, ExecError> {
    let mut ranks = AllHere(
        |schedule: &Arc<Schedule>, args: &[Vec<Tensor>], segment, tell: &mut dyn FnMut(usize, usize)| {
            // Each island is given its own order.
            let order = if seed == 0 { 0 } else { seed.wrapping_add((segment as u64) << 32) };
            run_island_watched(schedule, args, order, tell)
        },
    );
    run_with(program, schedules, inputs, watch, &mut ranks)
}

/// The same, of the ranks that run here; they meet the others, and islands are run, as `ranks` says. Every process gets whole outputs, and
/// counts what its own ranks sent.
///
/// # Errors
/// As [`run`], and what other processes report.
pub fn run_with(
    program: &Program,
    schedules: &BTreeMap<OpId, Arc<Schedule>>,
    inputs: &[Tensor],
    watch: &mut dyn FnMut(Progress),
    ranks: &mut dyn Ranks,
) -> Result<Run, ExecError> {
    let lacking = lacking(&program.graph);
    if !lacking.is_empty() {
        let why = EvalError::Lacks(lacking).to_string();
        return Err(ExecError { rank: 0, at: "before the first segment".into(), why });
    }
    room(program)?;
    let mut state = State::new(program, inputs, ranks)?;
    let uses = last_uses(program);
    for (i, segment) in program.segments.iter().enumerate() {
        let mut tell = |begun, steps| {
            watch(Progress { segment: i, segments: program.segments.len(), begun, steps });
        };
        tell(0, 0);
        match segment {
            Segment::Local(_) => state.local(i)?,
            Segment::Gather { value, .. } => state.gather(i, *value)?,
            Segment::Reduce { value, kind } => state.reduce(i, *value, *kind)?,
            Segment::Island(op) => state.island(i, *op, schedules, &mut tell)?,
        }
        let dead: Vec<ValueId> = uses.iter().filter(|&(_, &last)| last == i).map(|(&v, _)| v).collect();
        for values in &mut state.values {
            dead.iter().for_each(|v| drop(values.remove(v)));
        }
    }
    let outputs = state.outputs()?;
    Ok(Run { outputs, traffic: state.traffic })
}

/// Whether there is memory for what each rank computes by itself.
fn room(program: &Program) -> Result<(), ExecError> {
    for i in (0..program.segments.len()).filter(|&i| matches!(program.segments[i], Segment::Local(_))) {
        // Ranks differ by some rows at most.
        let at = |why| ExecError { rank: 0, at: format!("segment {i}"), why };
        let local = local_graph(program, i, 0).map_err(|e| at(e.to_string()))?;
        fits(&local.graph, Precision::Declared).map_err(|e| at(e.to_string()))?;
    }
    Ok(())
}

/// The segment after which a value is no longer needed, for values that some operation of a segment reads and that are no
/// output.
fn last_uses(program: &Program) -> BTreeMap<ValueId, usize> {
    let mut last = BTreeMap::new();
    for (i, segment) in program.segments.iter().enumerate() {
        let ops = match segment {
            Segment::Local(ops) => ops.as_slice(),
            Segment::Island(op) => std::slice::from_ref(op),
            Segment::Gather { value, .. } | Segment::Reduce { value, .. } => {
                last.insert(*value, i);
                &[]
            }
        };
        for v in ops.iter().flat_map(|&op| program.graph.operands(op)) {
            last.insert(v, i);
        }
    }
    last.retain(|&v, _| !program.graph.is_output(v));
    last
}

/// What the ranks here hold between segments.
struct State<'a> {
    program: &'a Program,
    ranks: &'a mut dyn Ranks,
    here: Range<usize>,
    /// Per rank here: inputs and results, whole or rows as [`Program::held`] says.
    values: Vec<BTreeMap<ValueId, Tensor>>,
    traffic: Traffic,
}

impl<'a> State<'a> {
    fn new(
        program: &'a Program,
        inputs: &[Tensor],
        ranks: &'a mut dyn Ranks,
    ) -> Result<State<'a>, ExecError> {
        let at = |rank, why| ExecError { rank, at: "inputs".into(), why };
        let wanted = program.graph.inputs();
        if wanted.len() != inputs.len() || program.ranks == 0 {
            return Err(at(0, format!("{} inputs, not {}", inputs.len(), wanted.len())));
        }
        let here = ranks.here(program.ranks);
        let mut values = vec![BTreeMap::new(); here.len()];
        for (&v, x) in wanted.iter().zip(inputs) {
            let value = program.graph.value(v);
            if x.ty() != value.ty {
                return Err(at(0, format!("{} is {}, not {}", value.name, x.ty(), value.ty)));
            }
            for (rank, values) in here.clone().zip(&mut values) {
                let local = match program.held(v, 0) {
                    Placement::Whole | Placement::Parts(_) => x.clone(),
                    Placement::Sharded(s) => cut(x, s, program.rows(s, rank)).map_err(|why| at(rank, why))?,
                };
                values.insert(v, local);
            }
        }
        Ok(State { program, ranks, here, values, traffic: Traffic::of_ranks(program.ranks) })
    }

    fn name(&self, v: ValueId) -> &str {
        &self.program.graph.value(v).name
    }

    /// The value as a rank that runs here holds it.
    fn value(&self, rank: usize, v: ValueId) -> Result<Tensor, String> {
        value(self.program, &self.values[rank - self.here.start], v)
    }

    fn local(&mut self, segment: usize) -> Result<(), ExecError> {
        // Without where they run, which threads do not share.
        let (program, start, values) = (self.program, self.here.start, &self.values);
        let results: Vec<Result<(LocalGraph, Vec<Tensor>), ExecError>> = (self.here.clone())
            .into_par_iter()
            .map(|rank| {
                let at = |why| ExecError { rank, at: format!("segment {segment}"), why };
                let local = local_graph(program, segment, rank).map_err(|e| at(e.to_string()))?;
                let held = &values[rank - start];
                let inputs = local.inputs.iter().map(|&v| value(program, held, v));
                let inputs: Vec<Tensor> = inputs.collect::<Result<_, _>>().map_err(at)?;
                let out = eval(&local.graph, &inputs, Precision::Declared).map_err(|e| at(e.to_string()))?;
                Ok((local, out))
            })
            .collect();
        for (values, result) in self.values.iter_mut().zip(results) {
            let (local, out) = result?;
            values.extend(local.outputs.into_iter().zip(out));
        }
        Ok(())
    }

    fn gather(&mut self, segment: usize, v: ValueId) -> Result<(), ExecError> {
        let at = |rank, why| ExecError { rank, at: format!("segment {segment}, gather"), why };
        let Placement::Sharded(s) = self.program.held(v, segment) else {
            return Err(at(0, format!("{} is held whole already", self.name(v))));
        };
        let s = s.clone();
        let whole = self.assemble(v, &s).map_err(|why| at(self.here.start, why))?;
        self.exchanged(v, &whole).map_err(|(rank, why)| at(rank, why))
    }

    fn reduce(&mut self, segment: usize, v: ValueId, kind: Reduction) -> Result<(), ExecError> {
        let at = |rank, why| ExecError { rank, at: format!("segment {segment}, reduce"), why };
        if *self.program.held(v, segment) != Placement::Parts(kind) {
            return Err(at(0, format!("{} is not held in parts of a {}", self.name(v), kind.name())));
        }
        let parts = self.everyone(v, None);
        let dtype = self.program.graph.ty(v).dtype;
        let whole = parts.and_then(|parts| fold(&parts, kind, dtype));
        let whole = whole.map_err(|why| at(self.here.start, why))?;
        self.exchanged(v, &whole).map_err(|(rank, why)| at(rank, why))
    }

    /// Counts what each rank sent of a value, to every other rank, and gives each the whole.
    fn exchanged(&mut self, v: ValueId, whole: &Tensor) -> Result<(), (usize, String)> {
        for rank in self.here.clone() {
            let own = self.value(rank, v).map_err(|why| (rank, why))?;
            let others = self.program.ranks - 1;
            self.traffic.bytes_sent[rank] += bytes(&own) * others;
            self.traffic.messages[rank] += usize::from(bytes(&own) > 0 && others > 0);
            self.values[rank - self.here.start].insert(v, whole.clone());
        }
        Ok(())
    }

    /// Everyone's part of a value: rows of a sharded one, and else as much as the whole.
    fn everyone(&mut self, v: ValueId, s: Option<&Sharding>) -> Result<Vec<Tensor>, String> {
        let whole = self.program.graph.ty(v);
        let types = (0..self.program.ranks).map(|rank| match s {
            Some(s) => part(whole, s, self.program.rows(s, rank)),
            None => Ok(whole.clone()),
        });
        let types: Vec<Type> = types.collect::<Result<_, _>>()?;
        let own = self.here.clone().map(|rank| self.value(rank, v)).collect::<Result<_, _>>()?;
        self.ranks.everyone(own, &types)
    }

    fn assemble(&mut self, v: ValueId, s: &Sharding) -> Result<Tensor, String> {
        let parts = self.everyone(v, Some(s))?;
        join(&parts, s, &self.program.layouts[s.layout])
    }

    fn island(
        &mut self,
        segment: usize,
        op: OpId,
        schedules: &BTreeMap<OpId, Arc<Schedule>>,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<(), ExecError> {
        let program = self.program;
        let name = self.name(program.graph.result(op)).to_owned();
        let at = |rank, why| ExecError { rank, at: format!("segment {segment}, island of {name}"), why };
        let (Some(schedule), Some(island)) = (schedules.get(&op), program.islands.get(&op)) else {
            return Err(at(0, "it has no schedule".into()));
        };
        let layouts = [(&schedule.q_layout, island.q_layout), (&schedule.kv_layout, island.kv_layout)];
        if layouts.iter().any(|(l, i)| program.layouts.get(*i).is_none_or(|have| have.rows != l.rows)) {
            return Err(at(0, "the schedule is for another layout".into()));
        }
        let operands = program.graph.operands(op);
        let mut args = Vec::with_capacity(self.here.len());
        for rank in self.here.clone() {
            let hand = |(i, &v): (usize, &ValueId)| -> Result<Tensor, String> {
                let x = self.value(rank, v)?;
                match (program.held(v, segment), &island.operands[i]) {
                    (Placement::Whole, Placement::Sharded(s)) => cut(&x, s, program.rows(s, rank)),
                    (held, wanted) if held == wanted => Ok(x),
                    _ => Err(format!("{} is not held as the island wants it", self.name(v))),
                }
            };
            let mine: Result<Vec<Tensor>, String> = operands.iter().enumerate().map(hand).collect();
            args.push(mine.map_err(|why| at(rank, why))?);
        }
        let (results, traffic) = (self.ranks.island(schedule, &args, segment, watch))
            .map_err(|e| ExecError { at: format!("segment {segment}, {}", e.at), ..e })?;
        self.traffic.add(&traffic);
        for (values, results) in self.values.iter_mut().zip(results) {
            values.extend(program.graph.results(op).into_iter().zip(results));
        }
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Tensor>, ExecError> {
        let program = self.program;
        program.graph.outputs().iter().map(|o| self.output(o.value)).collect()
    }

    fn output(&mut self, v: ValueId) -> Result<Tensor, ExecError> {
        let (program, first) = (self.program, self.here.start);
        let at = |rank, why| ExecError { rank, at: format!("output {}", program.graph.value(v).name), why };
        let x = match program.held(v, program.segments.len()) {
            Placement::Sharded(s) => self.assemble(v, s).map_err(|why| at(first, why))?,
            Placement::Parts(_) => return Err(at(first, "its parts were not put together".into())),
            Placement::Whole => {
                let mut all = self.everyone(v, None).map_err(|why| at(first, why))?.into_iter();
                let x = all.next().ok_or_else(|| at(first, "nobody has it".into()))?;
                if let Some(other) = all.position(|other| other != x) {
                    return Err(at(other + 1, "differs from rank 0's, although it is held whole".into()));
                }
                x
            }
        };
        let want = program.graph.ty(v);
        if x.ty() == *want { Ok(x) } else { Err(at(first, format!("is {}, not {want}", x.ty()))) }
    }
}

/// The value as a rank holds it; constants stand in the graph.
fn value(program: &Program, held: &BTreeMap<ValueId, Tensor>, v: ValueId) -> Result<Tensor, String> {
    if let Some(x) = held.get(&v) {
        return Ok(x.clone());
    }
    let name = || &program.graph.value(v).name;
    match program.graph.op(v.op) {
        Op::Constant(c) => c.data.as_deref().cloned().ok_or_else(|| format!("weight {} has no data", name())),
        _ => Err(format!("{} is not there", name())),
    }
}
