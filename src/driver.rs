//! The driver: which strategy each island takes, and which layout each sequence of the model.
//!
//! In: a program, and what was asked for. Out: the program with its layouts, and the islands, proved.
//!
//! Each candidate is scheduled and estimated on the device. The least makespan is found, and of those that are longer by less
//! than [`TIE`] the first is taken, in the order of [`LayoutKind::ALL`] and then of [`Strategy::ALL`]: so small a difference is
//! one of the model, and the plainer choice is read more easily. Residuals tie the layers of a sequence together, so that it has one layout,
//! chosen over the sum of all attentions: of several sequences (an encoder's and a decoder's) first one kind for all, then one
//! sequence after another, the others as they are, until none changes. What does not fit into the memory that is allowed is no
//! candidate.
//!
//! On many ranks a candidate is not run to its end if less is enough to exclude it: what the mask keeps for the busiest rank
//! takes too long already, or the kernels or the transfers of one rank do. On very many the layouts are not varied: zigzag for a sequence with a
//! causal attention, else contiguous.

use crate::Error;
use crate::check;
use crate::device::Device;
use crate::ir::{Attention, Graph, Op, OpId, Type};
use crate::layout::{Layout, LayoutKind};
use crate::pass::{Island, Options};
use crate::ring::{self, Strategy};
use crate::schedule::{self, Schedule, cost};
use crate::shard::{self, Program, Segment, ShardOptions};
use std::sync::Arc;

/// A choice that was not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// How keys and queries would have met.
    pub strategy: Strategy,
    /// Layouts of the query rows and of the key rows.
    pub layouts: [LayoutKind; 2],
    /// How long it would take, if that was found out.
    pub makespan_us: Option<f64>,
    /// Why it was not taken.
    pub reason: String,
}

/// On more ranks a candidate is left as soon as it is known to be no better than another.
const THOROUGH: usize = 64;

/// On more ranks a candidate takes seconds, and only the layouts of [`shard`] by itself are tried.
const MANY: usize = 256;

/// Two makespans nearer than this are equal.
const NEAR: f64 = 1e-9;

/// A choice that takes less than this part longer than the best is as good.
pub const TIE: f64 = 1e-3;

/// Whether a time is as good as the least: the layout is chosen so, and then the strategy, and both together are within [`TIE`].
fn as_good(us: f64, least: f64) -> bool {
    us <= least * (1.0 + TIE).sqrt()
}

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
    let hasty = options.ranks > THOROUGH && program.layouts.len() == 1;
    let mut driver = Driver { options, device, hasty, classes: classes(&program), tried: vec![] };
    driver.choose_layouts(&mut program, &candidates);
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

/// A candidate, and what became of it.
struct Tried {
    class: usize,
    layouts: [LayoutKind; 2],
    strategy: Strategy,
    outcome: Outcome,
}

enum Outcome {
    /// How long it takes, and the most bytes of a rank's arena.
    Takes {
        us: f64,
        bytes: usize,
    },
    /// It takes at least so long, which is too long.
    AtLeast(f64),
    /// It has more bytes on a rank than are allowed.
    TooLarge {
        us: Option<f64>,
        bytes: usize,
    },
    Impossible(Error),
}

impl Tried {
    fn makespan(&self) -> Option<f64> {
        if let Outcome::Takes { us, .. } = self.outcome { Some(us) } else { None }
    }
}

struct Driver<'a> {
    options: &'a Options,
    device: &'a Device,
    /// Whether candidates are left early. Only of one sequence: of several, a layout that is bad for all may be good for one.
    hasty: bool,
    classes: Vec<Class>,
    tried: Vec<Tried>,
}

impl Driver<'_> {
    /// Gives each sequence its layout. Each candidate has a layout for every sequence.
    fn choose_layouts(&mut self, program: &mut Program, candidates: &[Vec<Layout>]) {
        if candidates.is_empty() {
            return;
        }
        // The most promising first, so that the others can be left early.
        let mut order: Vec<(f64, usize)> = Vec::new();
        for (i, layouts) in candidates.iter().enumerate() {
            self.give(program, layouts.clone());
            let bound = self.least_sum(program);
            order.push((bound, i));
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut sums = vec![f64::INFINITY; candidates.len()];
        let mut least = f64::INFINITY;
        for (_, i) in order {
            self.give(program, candidates[i].clone());
            sums[i] = self.sum(program, least).unwrap_or(f64::INFINITY);
            least = least.min(sums[i]);
        }
        // Of those that are as good as the best the first; none if none can be used.
        let first = sums.iter().position(|&s| s.is_finite() && as_good(s, least));
        let mut best = (first.map_or(f64::INFINITY, |i| sums[i]), candidates[first.unwrap_or(0)].clone());
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
                    self.give(program, mixed.clone());
                    let sum = self.sum(program, best.0).unwrap_or(f64::INFINITY);
                    if sum < best.0 * (1.0 - TIE) {
                        best = (sum, mixed);
                        changed = true;
                    }
                }
            }
        }
        self.give(program, best.1);
    }

    fn give(&self, program: &mut Program, layouts: Vec<Layout>) {
        program.layouts = layouts;
        program.rejoin();
    }

    /// What the makespans of all attentions together are not below, whatever the strategies.
    fn least_sum(&self, program: &Program) -> f64 {
        self.classes.iter().map(|c| self.least(program, c) * c.uses.len() as f64).sum()
    }

    /// What no strategy for a class is below; 0 where nobody asks, or where the ring cannot split it.
    fn least(&self, program: &Program, class: &Class) -> f64 {
        let [q, kv] = [&program.layouts[class.held.q_layout], &program.layouts[class.held.kv_layout]];
        if self.hasty { cost::least(&class.attention, &class.operands, [q, kv], self.device) } else { 0.0 }
    }

    /// The makespans of all attentions together, each by its fastest strategy; `None` if one has none, or if the sum is above
    /// `most` by more than a tie.
    fn sum(&mut self, program: &Program, most: f64) -> Option<f64> {
        let mut rest = self.least_sum(program);
        let mut sum = 0.0;
        for class in 0..self.classes.len() {
            let uses = self.classes[class].uses.len() as f64;
            rest -= self.least(program, &self.classes[class]) * uses;
            // What the others leave.
            self.try_all(program, class, (most * (1.0 + TIE) - sum - rest.max(0.0)) / uses);
            // Once it is too long it stays so, and the others are told that at once.
            sum += self.fastest(class, self.layouts(program, class)) * uses;
        }
        sum.is_finite().then_some(sum)
    }

    fn layouts(&self, program: &Program, class: usize) -> [LayoutKind; 2] {
        let held = &self.classes[class].held;
        [program.layouts[held.q_layout].kind, program.layouts[held.kv_layout].kind]
    }

    /// Tries the strategies for a class under the program's layouts, once. What takes longer than `most` may be left early.
    fn try_all(&mut self, program: &Program, class: usize, mut most: f64) {
        let layouts = self.layouts(program, class);
        if self.of(class, layouts).next().is_some() {
            return;
        }
        let bound = self.least(program, &self.classes[class]);
        for strategy in Strategy::ALL {
            if self.options.strategy.is_some_and(|s| s != strategy) {
                continue;
            }
            let outcome = match self.hasty && bound > most {
                true => Outcome::AtLeast(bound),
                false => self.outcome(program, self.classes[class].uses[0], strategy, most),
            };
            if let Outcome::Takes { us, .. } = &outcome {
                most = most.min(us * (1.0 + TIE));
            }
            self.tried.push(Tried { class, layouts, strategy, outcome });
        }
    }

    /// The least makespan of what was tried.
    fn fastest(&self, class: usize, layouts: [LayoutKind; 2]) -> f64 {
        self.of(class, layouts).filter_map(|(_, t)| t.makespan()).fold(f64::INFINITY, f64::min)
    }

    /// The strategy that is taken for a class under the program's layouts, as an index of what was tried.
    fn best(&mut self, program: &Program, class: usize) -> Option<usize> {
        self.try_all(program, class, f64::INFINITY);
        let layouts = self.layouts(program, class);
        let least = self.fastest(class, layouts);
        let good = |(_, t): &(usize, &Tried)| t.makespan().is_some_and(|us| as_good(us, least));
        self.of(class, layouts).find(good).map(|(i, _)| i)
    }

    /// What was tried for a class under these layouts.
    fn of(&self, class: usize, layouts: [LayoutKind; 2]) -> impl Iterator<Item = (usize, &Tried)> {
        self.tried.iter().enumerate().filter(move |(_, t)| t.class == class && t.layouts == layouts)
    }

    /// What becomes of a candidate.
    fn outcome(&self, program: &Program, op: OpId, strategy: Strategy, most: f64) -> Outcome {
        let schedule = match scheduled(program, op, strategy, self.options.slots) {
            Ok(schedule) => schedule,
            Err(why) => return Outcome::Impossible(why),
        };
        let bytes = schedule.ranks.iter().map(|r| r.arena_bytes).max().unwrap_or(0);
        let too_large = self.options.memory.is_some_and(|cap| bytes > cap);
        let run = cost::Run::of(&schedule, self.device);
        if self.hasty {
            if too_large {
                return Outcome::TooLarge { us: None, bytes };
            }
            let least = run.least();
            if least > most {
                return Outcome::AtLeast(least);
            }
        }
        let us = run.makespan();
        if too_large { Outcome::TooLarge { us: Some(us), bytes } } else { Outcome::Takes { us, bytes } }
    }

    /// The islands under the chosen layouts.
    fn islands(mut self, program: &Program) -> Result<Vec<Island>, Error> {
        let mut islands = Vec::new();
        for class in 0..self.classes.len() {
            let Some(best) = self.best(program, class) else {
                return Err(self.impossible(program, class));
            };
            let op = self.classes[class].uses[0];
            let strategy = self.tried[best].strategy;
            let schedule = scheduled(program, op, strategy, self.options.slots)?;
            let report = check::check(&schedule);
            if !report.failed.is_empty() {
                return Err(Error::Check { island: schedule.name, report });
            }
            islands.push(Island {
                estimate: cost::estimate(&schedule, self.device),
                schedule: Arc::new(schedule),
                report,
                strategy,
                rejected: self.rejected(class, best),
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
            let (makespan_us, reason) = match &t.outcome {
                Outcome::Impossible(why) => (None, why.to_string()),
                Outcome::AtLeast(us) => {
                    (None, format!("at least {}", longer(us / least.max(f64::MIN_POSITIVE))))
                }
                Outcome::TooLarge { us, bytes } => {
                    let cap = self.options.memory.unwrap_or(0);
                    (*us, format!("needs {bytes} bytes on a rank, and {cap} are allowed"))
                }
                Outcome::Takes { us, .. } => (Some(*us), compared(*us, least)),
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
                Outcome::TooLarge { bytes, .. } | Outcome::Takes { bytes, .. } => {
                    if least.as_ref().is_none_or(|(m, _)| bytes < *m) {
                        least = Some((bytes, label(t.strategy, t.layouts)));
                    }
                }
                Outcome::Impossible(e) => {
                    error.get_or_insert(e);
                }
                Outcome::AtLeast(_) => {}
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

/// Why a choice of this makespan was not taken.
fn compared(us: f64, taken: f64) -> String {
    match us {
        us if us < taken * (1.0 - TIE) => "faster here, slower over all attentions of the sequence".into(),
        us if us < taken * (1.0 - NEAR) => {
            "less than 0.1 % faster, which is a tie: the order of choices decides".into()
        }
        us if us <= taken * (1.0 + NEAR) => "no faster".into(),
        us => longer(us / taken.max(f64::MIN_POSITIVE)),
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

/// The schedule of an attention.
fn scheduled(program: &Program, op: OpId, strategy: Strategy, slots: usize) -> Result<Schedule, Error> {
    Ok(schedule::schedule(&ring::Plan::new(program, op, strategy)?, slots))
}
