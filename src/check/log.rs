//! What one check found.

use super::report::{Failure, MOST_FAILURES, Passed, Report};
use super::rows::Run;
use crate::layout::Progression;
use crate::schedule::{AttentionFacts, Block, Heads, Port, Schedule, StepOp};
use rayon::prelude::*;

/// The faults of one check and the number of facts that it proved.
pub(super) struct Log<'a> {
    schedule: &'a Schedule,
    check: &'static str,
    facts: usize,
    failed: Vec<Failure>,
}

impl<'a> Log<'a> {
    pub(super) fn new(schedule: &'a Schedule, check: &'static str) -> Log<'a> {
        Log { schedule, check, facts: 0, failed: Vec::new() }
    }

    /// One more fact holds.
    pub(super) fn fact(&mut self) {
        self.facts = self.facts.saturating_add(1);
    }

    /// A fact that holds, or a fault of a step.
    #[inline]
    pub(super) fn want(&mut self, holds: bool, rank: usize, step: usize, message: impl FnOnce() -> String) {
        if holds {
            self.fact();
        } else {
            self.fail(rank, step, message);
        }
    }

    /// A fault of a step, or, where `step` is the number of steps, of the rank's program as a whole.
    #[cold]
    pub(super) fn fail(&mut self, rank: usize, step: usize, message: impl FnOnce() -> String) {
        let op = match self.schedule.ranks.get(rank).map(|r| r.steps.get(step)) {
            Some(Some(step)) => op_name(&step.op),
            Some(None) => "end".to_owned(),
            None => "schedule".to_owned(),
        };
        self.fail_at(rank, step, op, message);
    }

    /// A fault of a named part.
    pub(super) fn fail_at(&mut self, rank: usize, step: usize, op: String, message: impl FnOnce() -> String) {
        // Faults come in an order of their own; that many of each check are enough to sort the first ones out.
        if self.failed.len() < 4 * MOST_FAILURES {
            self.failed.push(Failure { check: self.check, rank, step, op, message: message() });
        }
    }

    /// Asks of every rank, on all cores; what is found is in the order of the ranks.
    pub(super) fn each_rank(&mut self, ask: impl Fn(usize, &mut Log<'a>) + Sync) {
        let (schedule, check) = (self.schedule, self.check);
        let of_rank = |r: usize| {
            let mut log = Log::new(schedule, check);
            ask(r, &mut log);
            log
        };
        let logs: Vec<Log<'a>> = (0..schedule.ranks.len()).into_par_iter().map(of_rank).collect();
        for log in logs {
            self.facts = self.facts.saturating_add(log.facts);
            let room = (4 * MOST_FAILURES).saturating_sub(self.failed.len());
            self.failed.extend(log.failed.into_iter().take(room));
        }
    }

    /// Adds what another part of the same check found.
    pub(super) fn join(&mut self, mut other: Log<'a>) {
        self.facts = self.facts.saturating_add(other.facts);
        self.failed.append(&mut other.failed);
    }

    pub(super) fn failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Adds the outcome to the report. Whether the check holds.
    pub(super) fn close(mut self, report: &mut Report) -> bool {
        if self.failed.is_empty() {
            report.passed.push(Passed { check: self.check, facts: self.facts });
            return true;
        }
        self.failed.sort_by_key(|f| (f.rank, f.step));
        report.failed.append(&mut self.failed);
        false
    }
}

/// The operation as messages name it.
pub(super) fn op_name(op: &StepOp) -> String {
    match op {
        StepOp::Pack { .. } => "pack".to_owned(),
        StepOp::Exchange { group, kind, .. } => format!("{} g{group}", kind.name()),
        StepOp::AttnPartial { .. } => "attn_partial".to_owned(),
        StepOp::Unpack { .. } => "unpack".to_owned(),
        StepOp::Merge { .. } => "merge".to_owned(),
    }
}

/// `step 4 (attn_partial)`.
pub(super) fn step_name(schedule: &Schedule, rank: usize, step: usize) -> String {
    match schedule.ranks.get(rank).and_then(|r| r.steps.get(step)) {
        Some(s) => format!("step {step} ({})", op_name(&s.op)),
        None => format!("step {step}"),
    }
}

/// `row 4`, `rows 4..8`, or `rows 4..12 by 2`.
pub(super) fn rows_name(p: &Progression) -> String {
    Run::of(p).map_or_else(|| format!("rows {}:{}:{}", p.start, p.len, p.step), |run| run.name())
}

/// `the keys and values of rows 0..4`, and in which heads where they are not all.
pub(super) fn block_name(a: &AttentionFacts, b: &Block) -> String {
    let what = match b.port {
        Port::Q => "the queries of".to_owned(),
        Port::Kv => "the keys and values of".to_owned(),
        Port::Leaf(n) => format!("argument {n} of"),
        Port::Out => "the result of".to_owned(),
        Port::Lse => "the log-sum-exp of".to_owned(),
    };
    let all = if b.port == Port::Kv { a.sizes.kv_heads } else { a.sizes.q_heads };
    format!("{what} {}{}", rows_name(&b.rows), heads_name(b.heads, all))
}

/// ` in heads 2..4`; nothing of all.
pub(super) fn heads_name(h: Heads, all: usize) -> String {
    if h == Heads::all(all) { String::new() } else { format!(" in heads {}..{}", h.start, h.end()) }
}
