//! The driver: which strategy each island takes, and which layout each sequence of the model.
//!
//! In: a program, and what was asked for. Out: the program with its layouts, and the islands, proved.
//!
//! Each candidate is scheduled and estimated on the device; the least makespan is taken, ties by the order of
//! [`LayoutKind::ALL`] and [`Strategy::ALL`]. Residuals tie the layers of a sequence together, so that it has one layout, chosen
//! over the sum of all attentions: of several sequences (an encoder's and a decoder's) first one kind for all, then one sequence
//! after another, the others as they are, until none changes. What does not fit into the memory that is allowed is no candidate.
//! On very many ranks the layouts are not varied: zigzag for a sequence with a causal attention, else contiguous.

use crate::Error;
use crate::check;
use crate::device::Device;
use crate::ir::{Attention, Graph, Op, OpId, Type, verify::verify};
use crate::layout::{Layout, LayoutKind};
use crate::pass::{Island, Options};
use crate::ring::{self, Strategy};
use crate::schedule::cost::{Estimate, estimate};
use crate::schedule::{self, Schedule};
use crate::shard::{self, Program, Segment, ShardOptions};
use std::sync::Arc;

/// A choice that was not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// How keys and queries would have met.
    pub strategy: Strategy,
    /// Layouts of the query rows and of the key rows.
    pub layouts: [LayoutKind; 2],
    /// How long it would take, if it could be scheduled at all.
    pub makespan_us: Option<f64>,
    /// Why it was not taken.
    pub reason: String,
}

/// On more ranks a candidate takes seconds, and only the layouts of [`shard`] by itself are tried.
const MANY: usize = 256;

/// Two makespans nearer than this are equal.
const NEAR: f64 = 1e-9;

/// Splits, chooses, schedules and proves.
pub(crate) fn drive(
    graph: &Arc<Graph>,
    options: &Options,
    device: &Device,
) -> Result<(Program, Vec<Island>), Error> {
    let request =
        ShardOptions { ranks: options.ranks, layout: options.layout, inputs: options.inputs.clone() };
    let varied = options.layout.is_none() && options.ranks <= MANY;
    let kinds = if varied { LayoutKind::ALL.as_slice() } else { &[] };
    let (mut program, others) = shard::shard_with(graph.clone(), &request, kinds)?;
    let mut candidates: Vec<Vec<Layout>> = Vec::new();
    for layouts in others {
        let same = |c: &Vec<Layout>| c.iter().zip(&layouts).all(|(a, b)| a.rows == b.rows);
        if !candidates.iter().any(same) {
            candidates.push(layouts);
        }
    }
    let mut driver = Driver { options, device, classes: classes(&program), tried: vec![] };
    driver.choose_layouts(&mut program, &candidates)?;
    let islands = driver.islands(&program)?;
    Ok((program, islands))
}

/// Attentions that are one island, whatever is chosen: equal in shapes, types and mask, and of the same sequences. Masks and
/// biases that are tensors are arguments of the schedule, so that their content does not stand here.
#[derive(PartialEq)]
struct Class {
    attention: Attention,
    operands: Vec<Type>,
    held: shard::Island,
    uses: Vec<OpId>,
}

fn classes(program: &Program) -> Vec<Class> {
    let graph = &program.graph;
    let mut classes: Vec<Class> = Vec::new();
    for segment in &program.segments {
        let &Segment::Island(op) = segment else { continue };
        let Op::Attention(attention) = graph.op(op) else { unreachable!("an island is an attention") };
        let new = Class {
            attention: (**attention).clone(),
            operands: graph.operands(op).into_iter().map(|v| graph.ty(v).clone()).collect(),
            held: program.islands[&op].clone(),
            uses: vec![op],
        };
        let same =
            |c: &&mut Class| c.attention == new.attention && c.operands == new.operands && c.held == new.held;
        match classes.iter_mut().find(same) {
            Some(class) => class.uses.push(op),
            None => classes.push(new),
        }
    }
    classes
}

/// What became of a candidate.
struct Tried {
    class: usize,
    layouts: [LayoutKind; 2],
    strategy: Strategy,
    outcome: Result<Estimate, Error>,
    /// Why it may not be used though it can be scheduled.
    too_large: Option<String>,
}

impl Tried {
    fn makespan(&self) -> Option<f64> {
        self.outcome.as_ref().ok().filter(|_| self.too_large.is_none()).map(|e| e.makespan_us)
    }
}

struct Driver<'a> {
    options: &'a Options,
    device: &'a Device,
    classes: Vec<Class>,
    tried: Vec<Tried>,
}

impl Driver<'_> {
    /// Gives each sequence its layout. Each candidate has a layout for every sequence.
    fn choose_layouts(&mut self, program: &mut Program, candidates: &[Vec<Layout>]) -> Result<(), Error> {
        let mut best = (f64::INFINITY, program.layouts.clone());
        for layouts in candidates {
            self.consider(program, layouts.clone(), &mut best)?;
        }
        // Each round makes the sum less, or is the last; a bound all the same.
        let mut changed = program.layouts.len() > 1;
        for _ in 0..8 {
            if !std::mem::take(&mut changed) {
                break;
            }
            for sequence in 0..program.layouts.len() {
                for layouts in candidates {
                    let mut mixed = best.1.clone();
                    mixed[sequence] = layouts[sequence].clone();
                    changed |= self.consider(program, mixed, &mut best)?;
                }
            }
        }
        program.layouts = best.1;
        Ok(())
    }

    /// Whether the sum is less under these layouts than under the best so far, which they then are.
    fn consider(
        &mut self,
        program: &mut Program,
        layouts: Vec<Layout>,
        best: &mut (f64, Vec<Layout>),
    ) -> Result<bool, Error> {
        program.layouts = layouts;
        program.rejoin();
        let sum = self.sum(program)?.unwrap_or(f64::INFINITY);
        let better = sum < best.0 * (1.0 - NEAR);
        if better {
            *best = (sum, program.layouts.clone());
        }
        Ok(better)
    }

    /// The makespans of all attentions together, each by its best strategy; `None` if one has none.
    fn sum(&mut self, program: &Program) -> Result<Option<f64>, Error> {
        let mut sum = 0.0;
        for class in 0..self.classes.len() {
            let Some(best) = self.best(program, class)? else { return Ok(None) };
            let time = self.tried[best].makespan().unwrap_or(f64::INFINITY);
            sum += time * self.classes[class].uses.len() as f64;
        }
        Ok(Some(sum))
    }

    fn layouts(&self, program: &Program, class: usize) -> [LayoutKind; 2] {
        let held = &self.classes[class].held;
        [program.layouts[held.q_layout].kind, program.layouts[held.kv_layout].kind]
    }

    /// The strategy of least makespan for a class under the program's layouts, as an index of what was tried.
    fn best(&mut self, program: &Program, class: usize) -> Result<Option<usize>, Error> {
        let layouts = self.layouts(program, class);
        let known = self.tried.iter().any(|t| t.class == class && t.layouts == layouts);
        if !known {
            let op = self.classes[class].uses[0];
            for strategy in Strategy::ALL {
                if self.options.strategy.is_some_and(|s| s != strategy) {
                    continue;
                }
                let outcome = scheduled(program, op, strategy, false).map(|s| estimate(&s, self.device));
                let too_large = outcome.as_ref().ok().and_then(|e| self.too_large(e));
                self.tried.push(Tried { class, layouts, strategy, outcome, too_large });
            }
        }
        let mut best: Option<(f64, usize)> = None;
        for (i, t) in self.tried.iter().enumerate() {
            if t.class != class || t.layouts != layouts {
                continue;
            }
            let Some(time) = t.makespan() else { continue };
            if best.is_none_or(|(least, _)| time < least * (1.0 - NEAR)) {
                best = Some((time, i));
            }
        }
        Ok(best.map(|(_, i)| i))
    }

    fn too_large(&self, estimate: &Estimate) -> Option<String> {
        let cap = self.options.memory?;
        let most = estimate.peak_bytes.iter().copied().max().unwrap_or(0);
        (most > cap).then(|| format!("needs {most} bytes on a rank, and {cap} are allowed"))
    }

    /// The islands under the chosen layouts.
    fn islands(mut self, program: &Program) -> Result<Vec<Island>, Error> {
        let mut islands = Vec::new();
        for class in 0..self.classes.len() {
            let Some(best) = self.best(program, class)? else { return Err(self.impossible(program, class)) };
            let op = self.classes[class].uses[0];
            let strategy = self.tried[best].strategy;
            // Once more, for now it is verified on the way: of the candidates that is not worth the time.
            let schedule = scheduled(program, op, strategy, true)?;
            let report = check::check(&schedule);
            if !report.failed.is_empty() {
                return Err(Error::Check { island: schedule.name, report });
            }
            let rejected = self.rejected(class, best);
            let Ok(estimate) = &self.tried[best].outcome else { unreachable!("the best has a makespan") };
            islands.push(Island {
                schedule: Arc::new(schedule),
                report,
                strategy,
                estimate: estimate.clone(),
                rejected,
                uses: self.classes[class].uses.clone(),
            });
        }
        Ok(islands)
    }

    /// The other candidates of a class, the best first.
    fn rejected(&self, class: usize, best: usize) -> Vec<Rejected> {
        let taken = &self.tried[best];
        let least = taken.makespan().unwrap_or(0.0);
        let mut out: Vec<Rejected> = Vec::new();
        for (_, t) in self.tried.iter().enumerate().filter(|(i, t)| t.class == class && *i != best) {
            let makespan_us = t.outcome.as_ref().ok().map(|e| e.makespan_us);
            let reason = match (&t.outcome, &t.too_large) {
                (Err(why), _) => why.to_string(),
                (_, Some(why)) => why.clone(),
                (Ok(e), None) if e.makespan_us < least * (1.0 - NEAR) => {
                    "faster here, slower over all attentions of the sequence".to_owned()
                }
                (Ok(e), None) if e.makespan_us <= least * (1.0 + NEAR) => "no faster".to_owned(),
                (Ok(e), None) => longer(e.makespan_us / least.max(f64::MIN_POSITIVE)),
            };
            out.push(Rejected { strategy: t.strategy, layouts: t.layouts, makespan_us, reason });
        }
        let time = |r: &Rejected| r.makespan_us.unwrap_or(f64::INFINITY);
        out.sort_by(|a, b| time(a).total_cmp(&time(b)));
        out
    }

    /// Why no candidate of a class can be used.
    fn impossible(&mut self, program: &Program, class: usize) -> Error {
        let mut least: Option<(usize, String)> = None;
        let mut error = None;
        for t in std::mem::take(&mut self.tried).into_iter().filter(|t| t.class == class) {
            match t.outcome {
                Ok(e) => {
                    let most = e.peak_bytes.iter().copied().max().unwrap_or(0);
                    if least.as_ref().is_none_or(|(m, _)| most < *m) {
                        least = Some((most, label(t.strategy, t.layouts)));
                    }
                }
                Err(e) => {
                    error.get_or_insert(e);
                }
            }
        }
        let op = self.classes[class].uses[0];
        let graph = &program.graph;
        match (least, error) {
            (Some((needed, choice)), _) => Error::Memory {
                island: graph.value(graph.result(op)).name.clone(),
                allowed: self.options.memory.unwrap_or(0),
                needed,
                choice,
            },
            (None, Some(error)) => error,
            (None, None) => unreachable!("there is a strategy"),
        }
    }
}

/// A ratio of times, above 1, in words.
fn longer(ratio: f64) -> String {
    match ratio {
        r if r < 1.001 => "less than 0.1 % longer".into(),
        r if r < 2.0 => format!("{:.1} % longer", (r - 1.0) * 100.0),
        r => format!("{r:.1} times as long"),
    }
}

/// A choice in words: `ring, zigzag`.
pub fn label(strategy: Strategy, layouts: [LayoutKind; 2]) -> String {
    let [q, kv] = layouts;
    if q == kv { format!("{}, {q}", strategy.name()) } else { format!("{}, {q} × {kv}", strategy.name()) }
}

/// The schedule of an attention; its island graphs verified if asked for.
fn scheduled(program: &Program, op: OpId, strategy: Strategy, verified: bool) -> Result<Schedule, Error> {
    let plan = ring::Plan::new(program, op, strategy)?;
    let mut draft = schedule::Draft::new(program, op, strategy)?;
    for rank in 0..program.ranks {
        // Made, scheduled and dropped: never the graphs of all ranks at once.
        let graph = plan.island(rank)?;
        if verified {
            verify(&graph).map_err(|errors| Error::Verify { stage: "ring", errors })?;
        }
        draft.rank(&graph)?;
    }
    Ok(draft.done()?)
}
