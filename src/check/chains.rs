//! Chains: for every rank, which partial results its query rows go through.

use super::rows::Owned;
use crate::layout::Progression;
use crate::schedule::{Schedule, StepOp};
use rayon::prelude::*;

/// The partial results of one run of query rows.
pub(super) struct Chain {
    /// The rows, as the steps name them.
    pub(super) rows: Progression,
    /// Number of rows before them in the rank's order.
    pub(super) local: usize,
    /// The steps, in order of issue. Empty: no step computes these rows.
    pub(super) steps: Vec<usize>,
}

/// The chains of every rank, in the order of its rows. Rows of different chains are disjoint in a right schedule; rows that
/// no step names have a chain without steps.
pub(super) fn chains(schedule: &Schedule) -> Vec<Vec<Chain>> {
    schedule
        .ranks
        .par_iter()
        .zip(&schedule.q_layout.rows)
        .map(|(program, rows)| {
            let owned = Owned::new(rows);
            let mut uses: Vec<(usize, usize, Progression, usize)> = Vec::new();
            for (i, step) in program.steps.iter().enumerate() {
                if let StepOp::AttnPartial { q, .. } = &step.op {
                    // `form` has shown that each is a run of the rank's own.
                    uses.extend(
                        q.iter().filter_map(|p| Some((owned.local(&p.rows)?, p.rows.len, p.rows, i))),
                    );
                }
            }
            uses.sort_unstable_by_key(|&(local, len, _, step)| (local, len, step));
            let mut chains: Vec<Chain> = Vec::new();
            for (local, len, rows, step) in uses {
                match chains.last_mut() {
                    Some(c) if (c.local, c.rows.len) == (local, len) => c.steps.push(step),
                    _ => chains.push(Chain { rows, local, steps: vec![step] }),
                }
            }
            unused(rows, &mut chains);
            chains
        })
        .collect()
}

/// Adds the rows that no chain has.
fn unused(rows: &[Progression], chains: &mut Vec<Chain>) {
    let mut missing = Vec::new();
    let (mut before, mut at) = (0, 0);
    // The first row, in the rank's order, that is not known to be in a chain.
    let mut seen = 0;
    for p in rows {
        let end = before + p.len;
        let mut gap = |from: usize, to: usize| {
            if from < to {
                let rows =
                    Progression { start: p.start + (from - before) * p.step, len: to - from, step: p.step };
                missing.push(Chain { rows, local: from, steps: Vec::new() });
            }
        };
        while let Some(c) = chains.get(at).filter(|c| c.local < end) {
            gap(seen, c.local);
            seen = seen.max(c.local + c.rows.len);
            at += 1;
        }
        gap(seen, end);
        seen = seen.max(end);
        before = end;
    }
    chains.append(&mut missing);
    chains.sort_by_key(|c| (c.local, c.rows.len));
}
