//! merge once: every query row is one chain of partial results: the first starts afresh, each later one goes on from the
//! one before, and the last, and no other, writes the output. If there are sinks, exactly one step of the chain counts
//! them: they are one more score of the row, wherever its keys are, and a second count would weigh twice.

use super::chains::Chain;
use super::log::{Log, rows_name, step_name};
use crate::schedule::{Schedule, StepOp};

pub(super) fn merge_once(schedule: &Schedule, chains: &[Vec<Chain>], log: &mut Log<'_>) {
    log.each_rank(|r, log| {
        let chains = &chains[r];
        let flags = |step: usize| match schedule.ranks[r].steps[step].op {
            StepOp::AttnPartial { carry_in, sinks_here, cast_out, .. } => (carry_in, sinks_here, cast_out),
            _ => (false, false, false),
        };
        for pair in chains.windows(2) {
            let [a, b] = pair else { continue };
            let apart = b.local - a.local >= a.rows.len;
            let at = b.steps.first().copied().unwrap_or(0);
            log.want(apart, r, at, || {
                let first = a.steps.first().map_or(String::new(), |&s| step_name(schedule, r, s));
                format!("query {} overlap {}, which {first} takes", rows_name(&b.rows), rows_name(&a.rows))
            });
        }
        for chain in chains {
            let rows = rows_name(&chain.rows);
            let Some(&last) = chain.steps.last() else {
                let end = schedule.ranks[r].steps.len();
                log.fail(r, end, || {
                    format!("no step computes query {rows}, so that their output is never written")
                });
                continue;
            };
            let mut before: Option<usize> = None;
            let mut counted: Option<usize> = None;
            for &step in &chain.steps {
                let (carry_in, sinks_here, cast_out) = flags(step);
                log.want(before != Some(step), r, step, || format!("takes query {rows} twice"));
                log.want(carry_in == before.is_some(), r, step, || match before {
                    None => {
                        format!("goes on from a carry of query {rows}, but is their first partial result")
                    }
                    Some(b) => format!(
                        "starts query {rows} afresh, and so loses the partial result of {}",
                        step_name(schedule, r, b)
                    ),
                });
                log.want(cast_out == (step == last), r, step, || {
                    if cast_out {
                        format!(
                            "writes the output of query {rows}, which {} goes on to compute",
                            step_name(schedule, r, last)
                        )
                    } else {
                        format!("is the last partial result of query {rows}, but does not write their output")
                    }
                });
                if sinks_here {
                    log.want(counted.is_none() && schedule.attention.sinks.is_some(), r, step, || {
                        match counted {
                            None => format!("counts sinks of query {rows}, but the attention has none"),
                            Some(c) => format!(
                                "counts the sinks of query {rows}, which {} has counted",
                                step_name(schedule, r, c)
                            ),
                        }
                    });
                    counted = Some(step);
                }
                before = Some(step);
            }
            if schedule.attention.sinks.is_some() {
                log.want(counted.is_some(), r, last, || {
                    format!("is the last partial result of query {rows}, and no step has counted their sinks")
                });
            }
        }
    });
}
