//! merge once: every partial result goes into one other, or is the last of its rows and gives their result; every rank gives the
//! result of each of its rows and heads once. If there are sinks, one step of those that a result comes from counts them: they are one
//! more score of the row, wherever its keys are, and a second count would weigh twice.

use super::log::{Log, heads_name, rows_name, step_name};
use super::results::{Given, Partial, Results};
use super::rows::Owned;
use crate::layout::Progression;
use crate::schedule::{Port, Schedule};

pub(super) fn merge_once(schedule: &Schedule, results: &Results, log: &mut Log<'_>) {
    taken_once(schedule, results, log);
    sinks(schedule, results, log);
    log.each_rank(|r, log| {
        let owned = Owned::new(&schedule.q_layout.rows[r]);
        for port in [Port::Out, Port::Lse] {
            if port == Port::Out || schedule.attention.lse {
                given_once(schedule, (r, port), &results.given[r], &owned, log);
            }
        }
    });
}

fn name(schedule: &Schedule, p: &Partial) -> String {
    format!("query {}{}", rows_name(&p.rows), heads_name(p.heads, schedule.attention.sizes.q_heads))
}

/// Every carry is taken in once.
fn taken_once(schedule: &Schedule, results: &Results, log: &mut Log<'_>) {
    let mut by: Vec<Option<usize>> = vec![None; results.all.len()];
    for (i, p) in results.all.iter().enumerate() {
        for &source in results.sources(p) {
            let before = by[source].replace(i);
            log.want(before.is_none(), p.rank, p.step, || {
                let (from, first) = (&results.all[source], before.map(|b| &results.all[b]));
                let first = first.map_or(String::new(), |f| place(schedule, f, p.rank));
                format!(
                    "takes in the partial result of {} that {} left, which {first} has taken in",
                    name(schedule, p),
                    place(schedule, from, p.rank)
                )
            });
        }
    }
    for (i, p) in results.all.iter().enumerate().filter(|(_, p)| !p.ends) {
        log.want(by[i].is_some(), p.rank, p.step, || {
            format!(
                "leaves a partial result of {} that no step goes on from, and so it is lost",
                name(schedule, p)
            )
        });
    }
}

/// A step, and its rank where that is another.
fn place(schedule: &Schedule, p: &Partial, rank: usize) -> String {
    let step = step_name(schedule, p.rank, p.step);
    if p.rank == rank { step } else { format!("{step} of rank {}", p.rank) }
}

/// Of what each result comes from, one step counts the sinks.
fn sinks(schedule: &Schedule, results: &Results, log: &mut Log<'_>) {
    if schedule.attention.sinks.is_none() {
        return;
    }
    // By partial result, the first of those that it comes from, and itself, that counts them. Sources have lower numbers.
    let mut counted: Vec<Option<usize>> = Vec::with_capacity(results.all.len());
    for (i, p) in results.all.iter().enumerate() {
        let mut first = None;
        let own = p.sinks.then_some(i);
        for by in results.sources(p).iter().filter_map(|&s| counted[s]).chain(own) {
            if let Some(before) = first.filter(|&b| b != by) {
                log.fail(p.rank, p.step, || {
                    format!(
                        "has the sinks of {} twice: {} counts them, and so does {}",
                        name(schedule, p),
                        place(schedule, &results.all[before], p.rank),
                        place(schedule, &results.all[by], p.rank)
                    )
                });
            }
            first = first.or(Some(by));
        }
        if p.ends {
            log.want(first.is_some(), p.rank, p.step, || {
                format!("gives the result of {}, and no step has counted their sinks", name(schedule, p))
            });
        }
        counted.push(first);
    }
}

/// The results of a rank are those of its rows and all heads, each once.
fn given_once(
    schedule: &Schedule,
    (r, port): (usize, Port),
    given: &[Given],
    owned: &Owned,
    log: &mut Log<'_>,
) {
    let all = schedule.attention.sizes.q_heads;
    let given: Vec<(&Given, usize)> = given
        .iter()
        .filter(|g| g.block.port == port)
        // `form` has shown that each is a run of the rank's own.
        .filter_map(|g| Some((g, owned.local(&g.block.rows)?)))
        .collect();
    let mut cuts: Vec<usize> =
        given.iter().flat_map(|(g, _)| [g.block.heads.start, g.block.heads.end()]).chain([0, all]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let count: usize = schedule.q_layout.rows[r].iter().map(|p| p.len).sum();
    let what = if port == Port::Out { "the output" } else { "the log-sum-exp" };
    for pair in cuts.windows(2) {
        let [head, end] = pair else { continue };
        let has = |g: &Given| g.block.heads.start <= *head && *end <= g.block.heads.end();
        let mut runs: Vec<(usize, usize, usize)> = given
            .iter()
            .filter(|(g, _)| has(g))
            .map(|(g, local)| (*local, local + g.block.rows.len, g.step))
            .collect();
        runs.sort_unstable();
        let heads = || {
            if (*head, *end) == (0, all) { String::new() } else { format!(" in heads {head}..{end}") }
        };
        let mut seen: Option<(usize, usize)> = None;
        let missing = |from: usize, to: usize, step: usize, log: &mut Log<'_>| {
            log.want(from >= to, r, step, || {
                let rows = owned.rows(&schedule.q_layout.rows[r], from, to);
                format!(
                    "no step computes query {}{}, so that {what} is never written",
                    rows_name(&rows),
                    heads()
                )
            });
        };
        let steps = schedule.ranks[r].steps.len();
        for (from, to, step) in runs {
            let (upto, before) = seen.unwrap_or((0, step));
            log.want(from >= upto, r, step, || {
                let rows: Progression = owned.rows(&schedule.q_layout.rows[r], from, to.min(upto));
                let other = step_name(schedule, r, before);
                format!("writes {what} of query {}{}, which {other} has written", rows_name(&rows), heads())
            });
            missing(upto, from, steps, log);
            if to > upto {
                seen = Some((to, step));
            }
        }
        missing(seen.map_or(0, |s| s.0), count, steps, log);
    }
}
