//! The space of choices, and the way through it.

use super::candidate::{Held, Tried, Verdict, scheduled};
use super::class::{Class, classes};
use super::error::SearchError;
use super::reasons::{compared, label, longer};
use super::types::{Chosen, Rejected, SearchOptions, TIE};
use crate::device::Device;
use crate::ir::OpId;
use crate::layout::{Layout, LayoutKind};
use crate::ring::{RingError, Strategy};
use crate::schedule::{Schedule, cost};
use crate::shard::Program;
use std::collections::HashMap;

/// On more ranks a candidate is left as soon as it is known to be no better than another.
const THOROUGH: usize = 64;

/// On more ranks a candidate takes seconds, and only the layouts of [`shard`](crate::shard) by itself are tried.
const MANY: usize = 256;

/// Whether a time is as good as the least: the layout is chosen so, and then the strategy, and both together are within [`TIE`].
fn as_good(us: f64, least: f64) -> bool {
    us <= least * (1.0 + TIE).sqrt()
}

/// The kinds of layouts that a search wants to try, beside the one that a program has by itself.
pub(crate) fn kinds(asked: Option<LayoutKind>, ranks: usize) -> &'static [LayoutKind] {
    if asked.is_none() && ranks <= MANY { &LayoutKind::ALL } else { &[] }
}

/// Chooses a layout for each sequence and a strategy for each distinct island. `others` holds, for each further candidate, the
/// layouts of all sequences of the program.
///
/// Complexity: for each distinct island and each distinct candidate one schedule for each strategy.
///
/// # Errors
/// If an attention has no strategy that can be used: why the first cannot, or the least memory that any needs.
pub(crate) fn search(
    mut program: Program,
    others: Vec<Vec<Layout>>,
    options: &SearchOptions,
    device: &Device,
) -> Result<(Program, Vec<Chosen>), SearchError> {
    let mut candidates: Vec<Vec<Layout>> = Vec::new();
    for layouts in others {
        let same = |c: &Vec<Layout>| c.iter().zip(&layouts).all(|(a, b)| a.rows == b.rows);
        if !candidates.iter().any(same) {
            candidates.push(layouts);
        }
    }
    let hasty = program.ranks > THOROUGH && program.layouts.len() == 1;
    let mut search = Search {
        options,
        device,
        hasty,
        classes: classes(&program)?,
        tried: vec![],
        kept: vec![],
        met: HashMap::new(),
    };
    search.kept.resize_with(search.classes.len(), || None);
    search.choose_layouts(&mut program, &candidates);
    let islands = search.islands(&program)?;
    Ok((program, islands))
}

/// A search under way.
struct Search<'a> {
    options: &'a SearchOptions,
    device: &'a Device,
    /// Whether candidates are left early. Only of one sequence: of several, a layout that is bad for all may be good for one.
    hasty: bool,
    classes: Vec<Class>,
    tried: Vec<Tried>,
    /// Of each class the fastest schedule so far, with the number of its candidate and how long it takes: most often it is the one that is
    /// taken, and need not be made again.
    kept: Vec<Option<(usize, f64, Schedule)>>,
    /// The layouts that were met, each with its number.
    met: HashMap<Layout, usize>,
}

impl Search<'_> {
    /// Gives each sequence its layout. Each candidate has a layout for every sequence.
    fn choose_layouts(&mut self, program: &mut Program, candidates: &[Vec<Layout>]) {
        if candidates.is_empty() {
            return;
        }
        // The most promising first, so that the others can be left early.
        let mut order: Vec<(f64, usize)> = Vec::new();
        for (i, layouts) in candidates.iter().enumerate() {
            self.give(program, layouts.clone());
            // What is best where queries stay at home is good in the other strategies too.
            let bound =
                self.classes.iter().map(|c| self.least_of(program, c, true) * c.uses.len() as f64).sum();
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
        let at_home = self.strategies().all(Strategy::is_at_home);
        self.least_of(program, class, at_home)
    }

    /// The same of the strategies that leave queries at home, or of all.
    fn least_of(&self, program: &Program, class: &Class, at_home: bool) -> f64 {
        let [q, kv] = [&program.layouts[class.held.q_layout], &program.layouts[class.held.kv_layout]];
        let least = || cost::least(&class.attention, &class.operands, [q, kv], at_home, self.device);
        if self.hasty { least() } else { 0.0 }
    }

    /// The strategies that are tried, in order, each with on how many nodes ranks stand: one that uses levels on one as well, unless it is
    /// said how many they are.
    fn ways(&self, ranks: usize) -> Vec<(Strategy, usize)> {
        let nodes = match self.options.nodes {
            Some(nodes) => vec![nodes],
            None => vec![1, self.device.nodes_of(ranks)],
        };
        let of = |strategy: Strategy| {
            let nodes = if strategy.uses_levels() { nodes.clone() } else { vec![1] };
            nodes.into_iter().map(move |nodes| (strategy, nodes))
        };
        let mut ways: Vec<(Strategy, usize)> = self.strategies().flat_map(of).collect();
        ways.dedup();
        ways
    }

    /// The strategies that are tried, in order.
    fn strategies(&self) -> impl Iterator<Item = Strategy> + use<> {
        let asked = self.options.strategy;
        Strategy::ALL.into_iter().filter(move |s| asked.is_none_or(|a| a == *s))
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
            let held = self.layouts(program, class);
            sum += self.fastest(class, held) * uses;
        }
        sum.is_finite().then_some(sum)
    }

    fn layouts(&mut self, program: &Program, class: usize) -> Held {
        let held = &self.classes[class].held;
        let layouts = [&program.layouts[held.q_layout], &program.layouts[held.kv_layout]];
        let rows = layouts.map(|layout| match self.met.get(layout) {
            Some(&number) => number,
            None => {
                let number = self.met.len();
                self.met.insert(layout.clone(), number);
                number
            }
        });
        Held { kinds: layouts.map(|layout| layout.kind), rows }
    }

    /// Tries the strategies for a class under the program's layouts, once. What takes longer than `most` may be left early.
    fn try_all(&mut self, program: &Program, class: usize, mut most: f64) {
        let layouts = self.layouts(program, class);
        if self.of(class, layouts).next().is_some() {
            return;
        }
        let bounds = [false, true].map(|at_home| self.least_of(program, &self.classes[class], at_home));
        for (strategy, nodes) in self.ways(program.ranks) {
            let bound = bounds[usize::from(strategy.is_at_home())];
            let (verdict, schedule) = match self.hasty && bound > most {
                true => (Verdict::AtLeast(bound), None),
                false => self.verdict(program, self.classes[class].uses[0], (strategy, nodes), most),
            };
            if let Verdict::Takes { us, .. } = verdict {
                most = most.min(us * (1.0 + TIE));
                let kept = &mut self.kept[class];
                if kept.as_ref().is_none_or(|k| us < k.1) {
                    *kept = schedule.map(|schedule| (self.tried.len(), us, schedule));
                }
            }
            self.tried.push(Tried { class, layouts, strategy, nodes, verdict });
        }
    }

    /// The least makespan of what was tried.
    fn fastest(&self, class: usize, layouts: Held) -> f64 {
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
    fn of(&self, class: usize, layouts: Held) -> impl Iterator<Item = (usize, &Tried)> {
        self.tried.iter().enumerate().filter(move |(_, t)| t.class == class && t.layouts == layouts)
    }

    /// What becomes of a candidate, and its schedule if it can be taken.
    fn verdict(
        &self,
        program: &Program,
        op: OpId,
        way: (Strategy, usize),
        most: f64,
    ) -> (Verdict, Option<Schedule>) {
        let mut schedule = match scheduled(program, op, way, self.options.slots) {
            Ok(schedule) => schedule,
            Err(why) => return (Verdict::Impossible(why), None),
        };
        let bytes = schedule.ranks.iter().map(|r| r.arena_bytes).max().unwrap_or(0);
        let too_large = self.options.memory.is_some_and(|cap| bytes > cap);
        let run = cost::Timing::given(&mut schedule, self.device, self.options.comm_sms);
        if self.hasty {
            if too_large {
                return (Verdict::TooLarge { us: None, bytes }, None);
            }
            let least = run.least();
            if least > most {
                return (Verdict::AtLeast(least), None);
            }
        }
        let us = run.makespan(most);
        match too_large {
            true => (Verdict::TooLarge { us: Some(us), bytes }, None),
            false => (Verdict::Takes { us, bytes }, Some(schedule)),
        }
    }

    /// The islands under the chosen layouts.
    fn islands(mut self, program: &Program) -> Result<Vec<Chosen>, SearchError> {
        let mut islands = Vec::new();
        for class in 0..self.classes.len() {
            let Some(best) = self.best(program, class) else {
                return Err(self.impossible(program, class));
            };
            let op = self.classes[class].uses[0];
            let (strategy, nodes) = (self.tried[best].strategy, self.tried[best].nodes);
            let schedule = match self.kept[class].take_if(|kept| kept.0 == best) {
                Some((.., kept)) => kept,
                None => {
                    let mut made = scheduled(program, op, (strategy, nodes), self.options.slots)?;
                    cost::Timing::given(&mut made, self.device, self.options.comm_sms)
                        .makespan(f64::INFINITY);
                    made
                }
            };
            islands.push(Chosen {
                estimate: cost::estimate(&schedule, self.device),
                schedule,
                strategy,
                nodes,
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
            let (makespan_us, reason) = match &t.verdict {
                Verdict::Impossible(why) => (None, why.to_string()),
                Verdict::AtLeast(us) => {
                    (None, format!("at least {}", longer(us / least.max(f64::MIN_POSITIVE))))
                }
                Verdict::TooLarge { us, bytes } => {
                    let cap = self.options.memory.unwrap_or(0);
                    (*us, format!("needs {bytes} bytes on a rank, and {cap} are allowed"))
                }
                Verdict::Takes { us, .. } => (Some(*us), compared(*us, least)),
            };
            out.push(Rejected {
                strategy: t.strategy,
                nodes: t.nodes,
                layouts: t.layouts.kinds,
                makespan_us,
                reason,
            });
        }
        let time = |r: &Rejected| r.makespan_us.unwrap_or(f64::INFINITY);
        out.sort_by(|a, b| time(a).total_cmp(&time(b)));
        // Of those that are named alike the best.
        let mut named = vec![(taken.strategy, taken.nodes, taken.layouts.kinds)];
        out.retain(|r| {
            let new = !named.contains(&(r.strategy, r.nodes, r.layouts));
            named.push((r.strategy, r.nodes, r.layouts));
            new
        });
        out
    }

    /// Why no candidate of a class can be used.
    fn impossible(&mut self, program: &Program, class: usize) -> SearchError {
        let mut least: Option<(usize, String)> = None;
        let mut error = None;
        for t in std::mem::take(&mut self.tried).into_iter().filter(|t| t.class == class) {
            match t.verdict {
                Verdict::TooLarge { bytes, .. } | Verdict::Takes { bytes, .. } => {
                    if least.as_ref().is_none_or(|(m, _)| bytes < *m) {
                        least = Some((bytes, label(t.strategy, t.nodes, t.layouts.kinds)));
                    }
                }
                Verdict::Impossible(e) => {
                    error.get_or_insert(e);
                }
                Verdict::AtLeast(_) => {}
            }
        }
        let op = self.classes[class].uses[0];
        let graph = &program.graph;
        match (least, error) {
            (Some((needed, choice)), _) => SearchError::Memory {
                island: graph.value(graph.result(op)).name.clone(),
                allowed: self.options.memory.unwrap_or(0),
                needed,
                choice,
            },
            (None, Some(error)) => error.into(),
            (None, None) => {
                let reason = "internal fault: no strategy was tried".to_owned();
                RingError { at: graph.value(graph.result(op)).name.clone(), reason }.into()
            }
        }
    }
}
