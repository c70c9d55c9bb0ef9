//! merged: a softmax that is taken over parts of the keys, one after the other, and put together: an attention over all keys.
//!
//! In: a graph, and operations around near misses. Out: the same with a softmax over all keys in the place of what was merged: parts
//! with a running maximum that are rescaled, results of parts that are merged by the logarithms of their sums, probabilities that a
//! mask leaves some of and that are divided by their sum again. The logarithm of a row's sum of exponentials, where something reads it,
//! becomes the second result of the attention.
//!
//! | file | idea |
//! |---|---|
//! | `trial` | numbers that stand for a row of scores |
//! | `walk` | what the graph makes of them |
//! | `judge` | whether that is an attention |
//! | `put` | the softmax in its place |
//!
//! How it is proved: everything between scores and results is made of rows, each by itself, by functions that no number but 0, ±1 and
//! ±∞ decides. Such a function of a few numbers that is the attention in a dozen trials with numbers that look random is the attention.
//! What it is where a mask leaves parts or whole rows without a key is tried as well, part by part: it must be the attention there, or
//! NaN that nobody sees.

mod candidate;
mod judge;
mod put;
mod trial;
mod walk;

use super::types::{Recasting, Site};
use crate::find::observers::{Counts, NotFinite, observer_beside};
use crate::find::region::types::label;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Op, OpId, Reduction, Topology, ValueId};
use candidate::Candidate;
use judge::{Fault, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use trial::PARTS;
use walk::{Kind, Walk};

/// The name by which `--explain` tells it.
const RULE: &str = "merged-keys";
/// The same, of masks behind a softmax.
const MASKED: &str = "masked-probabilities";
/// The same, of the logarithm of a row's sum.
const LOG: &str = "log-sum-exp";
/// Most results that are tried.
const TRIED: usize = 4096;

impl Candidate {
    /// What is said of it, and how far it changes numbers.
    fn rule(&self, walk: &Walk<'_>) -> (&'static str, Numerics) {
        let of = &walk.known[&self.v].of;
        let rule = if of.parts.len() > 1 {
            RULE
        } else if of.masks.is_empty() {
            LOG
        } else {
            MASKED
        };
        // What is no number, or another where exponentials leave those of their type, is a number here.
        let Verdict { hidden, vanishes, .. } = self.verdict;
        let domain = rule == MASKED || vanishes || hidden != NotFinite::default();
        (rule, if domain { Numerics::Domain } else { Numerics::Rounding })
    }

    /// Whether it is right only where every row has a key.
    fn keyed(&self, walk: &Walk<'_>) -> bool {
        let of = &walk.known[&self.v].of;
        let log = |v: &ValueId| walk.log_sum(&walk.known[v], of).is_ok_and(|verdict| verdict.keyed);
        self.verdict.keyed || self.logs.iter().any(log)
    }
}

/// Puts a softmax over all keys in the place of every one that was merged.
pub(crate) fn merged(work: &mut Recasting<'_>, near: &HashSet<OpId>) {
    let graph = work.graph.clone();
    let order = Topology::new(&graph);
    let mut constants = std::mem::take(&mut work.constants);
    let walk = Walk::new(&graph, &order, &mut constants, near);
    let found = candidates(&walk, work);
    for candidate in found {
        let of = &walk.known[&candidate.v].of;
        let (rule, numerics) = candidate.rule(&walk);
        let (key, vanishes) = ((rule, candidate.v.op), candidate.verdict.vanishes);
        let Some(put) = put::put(&mut work.graph, &walk, &candidate) else { continue };
        let parts = of.parts.len();
        let what = match rule {
            RULE => format!("softmaxes over {parts} parts of the keys, put together, are one over all keys"),
            MASKED => "masked probabilities divided by their sum are the softmax of the masked scores".into(),
            _ => "the logarithm of the sum of exponentials is a second result".to_owned(),
        };
        // Zeros stand there as they do for a row without a key.
        let what = if vanishes {
            what + ", as long as their exponentials neither over- nor underflow"
        } else {
            what
        };
        let applied = Applied::new(rule, what, numerics);
        let scores = of.parts.iter().map(|&p| walk.parts[p].scores.op);
        let gone = candidate.inside.iter().copied().filter(|id| !scores.clone().any(|s| s == *id)).collect();
        let keyed = candidate.keyed(&walk).then_some(put.softmax);
        work.sites.push(Site { key, products: put.products, gone, applied, log: put.log, keyed });
    }
    drop(walk);
    work.constants = constants;
}

/// Results that are attentions over several parts or behind masks, or whose logarithm is read: the last of each.
fn candidates(walk: &Walk<'_>, work: &mut Recasting<'_>) -> Vec<Candidate> {
    let g = walk.g;
    let mut out: Vec<Candidate> = vec![];
    let mut taken: BTreeSet<OpId> = BTreeSet::new();
    let mut refused: BTreeMap<OpId, String> = BTreeMap::new();
    let results = walk.list.iter().rev().filter(|v| walk.known[v].kind == Kind::Result).take(TRIED);
    for &v in results {
        if taken.contains(&v.op) {
            continue;
        }
        let value = &walk.known[&v];
        let verdict = match walk.attention(value) {
            Ok(verdict) => verdict,
            // Of one part, as it stands, the search says it better.
            Err(Fault::Special(_)) if plain(walk, v) => continue,
            Err(Fault::Special(why)) => {
                let name = label(g, v.op);
                let what = if value.of.parts.len() < 2 {
                    "makes of masked probabilities what a softmax of masked scores is"
                } else {
                    "puts parts of a softmax together as an attention over all keys does"
                };
                refused.insert(v.op, format!("{name} {what}, but {why}"));
                continue;
            }
            Err(Fault::Parts(parts)) => {
                let name = label(g, v.op);
                let why = format!(
                    "{name} is made of softmaxes over {parts} parts of the keys, and no more than {PARTS} are put together: take larger \
                     parts, or write one softmax over all keys"
                );
                refused.insert(v.op, why);
                continue;
            }
            Err(Fault::Other) => continue,
        };
        let inside = inside(walk, v);
        let logs = match logs(walk, v, &inside) {
            Ok(logs) => logs,
            // Of one part the search says it better.
            Err(_) if value.of.parts.len() < 2 => continue,
            Err(why) => {
                refused.insert(v.op, why);
                continue;
            }
        };
        if value.of.parts.len() < 2 && value.of.masks.is_empty() && logs.is_empty() {
            continue;
        }
        match unseen(walk, v, verdict, &inside, &logs) {
            Ok(()) => {}
            Err(_) if plain(walk, v) => continue,
            Err(why) => {
                refused.insert(v.op, why);
                continue;
            }
        }
        let candidate = Candidate { v, verdict, logs, inside };
        let (rule, numerics) = candidate.rule(walk);
        if work.may((rule, v.op), numerics) {
            taken.extend(&candidate.inside);
            out.push(candidate);
        }
    }
    for (id, why) in refused {
        if !taken.contains(&id) {
            let v = g.result(id);
            work.refused.push((inside(walk, v).into_iter().chain([id]).collect(), why));
        }
    }
    out
}

/// Whether a result is made of one part of which nothing is summed behind its softmax.
fn plain(walk: &Walk<'_>, v: ValueId) -> bool {
    let of = &walk.known[&v].of;
    let sums = |id: &OpId| matches!(walk.g.op(*id), Op::Reduce { kind: Reduction::Sum, .. });
    of.parts.len() < 2 && (of.masks.is_empty() || !inside(walk, v).iter().any(sums))
}

/// What a result is made of, as far as the scores.
fn inside(walk: &Walk<'_>, v: ValueId) -> BTreeSet<OpId> {
    let scores: Vec<ValueId> = walk.parts.iter().map(|p| p.scores).collect();
    let mut seen = BTreeSet::new();
    let mut stack = vec![v];
    while let Some(v) = stack.pop() {
        if !seen.insert(v.op) || scores.contains(&v) {
            continue;
        }
        stack.extend(walk.g.operands(v.op).into_iter().filter(|o| walk.known.contains_key(o)));
    }
    seen.remove(&v.op);
    seen
}

/// The logarithms of its sum that something else reads.
///
/// # Errors
/// Another value inside that is read elsewhere.
fn logs(walk: &Walk<'_>, result: ValueId, inside: &BTreeSet<OpId>) -> Result<Vec<ValueId>, String> {
    let (g, of) = (walk.g, &walk.known[&result].of);
    let mut own = inside.clone();
    own.insert(result.op);
    // Layout of a logarithm that is read elsewhere stands outside.
    let mut logs = vec![];
    for &id in inside {
        for v in g.results(id) {
            let elsewhere = |(user, _): &(OpId, usize)| walk.order.is_live(*user) && !own.contains(user);
            if !g.is_output(v) && !g.uses(v).iter().any(elsewhere) {
                continue;
            }
            let is_log = walk.known.get(&v).is_some_and(|value| walk.log_sum(value, of).is_ok());
            if is_log {
                logs.push(v);
            } else if !outer(walk, v, of, &own, &mut logs) {
                return Err(format!(
                    "{} puts parts of a softmax together as an attention over all keys does, but {} inside it is also read elsewhere, and \
                     an attention has no such value; remove that use, or read the logarithm of the sum of exponentials instead",
                    label(g, result.op),
                    g.value(v).name
                ));
            }
        }
    }
    logs.sort_unstable();
    logs.dedup();
    Ok(logs)
}

/// Whether all that reads a value elsewhere makes nothing but a logarithm of it; those are noted.
fn outer(
    walk: &Walk<'_>,
    v: ValueId,
    of: &walk::Made,
    own: &BTreeSet<OpId>,
    logs: &mut Vec<ValueId>,
) -> bool {
    let g = walk.g;
    let mut seen: BTreeSet<OpId> = BTreeSet::new();
    let mut stack = vec![v];
    while let Some(v) = stack.pop() {
        if g.is_output(v) {
            return false;
        }
        for (user, _) in g.uses(v) {
            if own.contains(&user) || !walk.order.is_live(user) || !seen.insert(user) {
                continue;
            }
            let next = g.result(user);
            let Some(value) = walk.known.get(&next) else { return false };
            if walk.log_sum(value, of).is_ok() {
                logs.push(next);
            } else if value.kind == Kind::Result {
                return false;
            } else {
                stack.push(next);
            }
        }
    }
    true
}

/// Whether nobody sees where what was merged is no number, and the attention in its place is one.
fn unseen(
    walk: &Walk<'_>,
    v: ValueId,
    verdict: Verdict,
    inside: &BTreeSet<OpId>,
    logs: &[ValueId],
) -> Result<(), String> {
    let (g, of) = (walk.g, &walk.known[&v].of);
    let name = label(g, v.op);
    if let Some(v) = walk.overflows.iter().filter(|v| inside.contains(&v.op)).min() {
        let exp = label(g, v.op);
        return Err(format!(
            "{exp} takes exponentials of f16 that may be above 1, and overflow for scores above 11, where a softmax does not; subtract \
             each row's maximum before"
        ));
    }
    // What it is made of reads its logarithm no more.
    let mut gone = inside.clone();
    gone.insert(v.op);
    let seen = |v: ValueId, hidden: NotFinite| {
        let hides = hidden != NotFinite::default();
        hides.then(|| observer_beside(g, walk.order, v, hidden, Counts::Any, &gone)).flatten()
    };
    let said = |op: OpId| {
        format!(
            "{name} is no number where a part of the keys has none or its exponentials leave the numbers of their type, and the attention \
             over all keys is one; {} ({}) sees that and makes a number of it; subtract 0 instead where a maximum is −∞",
            label(g, op),
            g.op(op).name()
        )
    };
    if let Some(op) = seen(v, verdict.hidden) {
        return Err(said(op));
    }
    for &log in logs {
        if let Ok(verdict) = walk.log_sum(&walk.known[&log], of)
            && let Some(op) = seen(log, verdict.hidden)
        {
            return Err(said(op));
        }
    }
    Ok(())
}
