//! How a schedule is changed in one place at a time.

use super::plant::Planted;
use annulus::layout::{Layout, Progression};
use annulus::schedule::{
    AttentionFacts, Block, KvPiece, Place, QPiece, RankProgram, Schedule, Step, StepOp, Transfer, View,
};

/// Applies `change` to each step of each rank. It is given a number from 0 on, and is called again with the next one as
/// long as it changed something.
pub(crate) fn each(
    schedule: &Schedule,
    change: impl Fn(&mut Schedule, usize, usize, usize) -> bool,
) -> Vec<Planted> {
    let mut out = Vec::new();
    for r in 0..schedule.ranks.len() {
        for i in 0..schedule.ranks[r].steps.len() {
            for nth in 0.. {
                let mut planted = schedule.clone();
                if !change(&mut planted, r, i, nth) {
                    break;
                }
                assert!(nth < 1000 && &planted != schedule);
                out.push((planted, r, i));
            }
        }
    }
    out
}

/// The same for one operation and nothing else.
pub(crate) fn each_op(schedule: &Schedule, change: impl Fn(&mut StepOp, usize) -> bool) -> Vec<Planted> {
    each(schedule, |s, r, i, nth| change(&mut s.ranks[r].steps[i].op, nth))
}

pub(crate) fn transfers(op: &mut StepOp) -> Vec<&mut Transfer> {
    match op {
        StepOp::Exchange { sends, recvs, .. } => sends.iter_mut().chain(recvs).collect(),
        _ => vec![],
    }
}

pub(crate) fn group(op: &StepOp) -> Option<usize> {
    match op {
        StepOp::Exchange { group, .. } => Some(*group),
        _ => None,
    }
}

pub(crate) fn keys(op: &mut StepOp) -> Option<&mut Vec<KvPiece>> {
    match op {
        StepOp::AttnPartial { kv, .. } => Some(kv),
        _ => None,
    }
}

pub(crate) fn queries(op: &mut StepOp) -> Option<&mut Vec<QPiece>> {
    match op {
        StepOp::AttnPartial { q, .. } => Some(q),
        _ => None,
    }
}

/// Views of the arena among the parts of messages.
pub(crate) fn places(transfers: &mut [Transfer]) -> Vec<&mut View> {
    let parts = transfers.iter_mut().flat_map(|t| &mut t.parts);
    parts.filter_map(|p| if let Place::Arena(view) = p { Some(view) } else { None }).collect()
}

/// Blocks of own rows among the parts of messages.
pub(crate) fn blocks(transfers: &mut [Transfer]) -> Vec<&mut Block> {
    let parts = transfers.iter_mut().flat_map(|t| &mut t.parts);
    parts.filter_map(|p| if let Place::Own(block) = p { Some(block) } else { None }).collect()
}

/// A message loses its last byte, or the last row of what is sent from where it lies: by so many bytes.
pub(crate) fn shorten(t: &mut Transfer, facts: &AttentionFacts) -> usize {
    let before = t.bytes(facts);
    match t.parts.last_mut().unwrap() {
        Place::Arena(view) => view.bytes -= 1,
        Place::Own(block) => block.rows.len -= 1,
    }
    before - t.bytes(facts)
}

/// Every view that an operation reads keys from.
pub(crate) fn key_views(op: &mut StepOp) -> Vec<&mut View> {
    keys(op).map_or(vec![], |kv| kv.iter_mut().filter_map(|p| p.at.as_mut()).collect())
}

/// Changes element `nth` of a list.
pub(crate) fn at<T>(items: Vec<&mut T>, nth: usize, change: impl FnOnce(&mut T)) -> bool {
    match items.into_iter().nth(nth) {
        Some(item) => {
            change(item);
            true
        }
        None => false,
    }
}

/// The step that records the event and stands in the rank's order of issue.
pub(crate) fn recorder(rank: &RankProgram, event: usize) -> usize {
    rank.steps.iter().position(|s| s.records == Some(event)).unwrap()
}

/// The step of the same stream before step `i`.
pub(crate) fn before(rank: &RankProgram, i: usize) -> Option<usize> {
    (0..i).rev().find(|&j| rank.steps[j].stream == rank.steps[i].stream)
}

/// Another slot that has room for the view.
pub(crate) fn other_slot(rank: &RankProgram, view: &View) -> Option<usize> {
    (0..rank.slots.len()).find(|&s| s != view.slot && rank.slots[s].bytes >= view.start + view.bytes)
}

/// A step's view moved to another slot, for each view that `views` finds.
pub(crate) fn moved(
    schedule: &Schedule,
    views: impl for<'a> Fn(&'a mut StepOp) -> Vec<&'a mut View>,
) -> Vec<Planted> {
    each(schedule, |s, r, i, nth| {
        let rank = s.ranks[r].clone();
        // Views without another place are passed over.
        let places: Vec<(usize, usize)> = views(&mut s.ranks[r].steps[i].op)
            .iter()
            .enumerate()
            .filter(|(_, v)| v.bytes > 0)
            .filter_map(|(n, v)| Some((n, other_slot(&rank, v)?)))
            .collect();
        let Some(&(n, slot)) = places.get(nth) else { return false };
        at(views(&mut s.ranks[r].steps[i].op), n, |v| v.slot = slot)
    })
}

pub(crate) fn layouts(
    schedule: &Schedule,
    change: impl Fn(&mut Layout, usize, usize) -> bool,
) -> Vec<Planted> {
    let mut out = Vec::new();
    for q in [true, false] {
        for r in 0..schedule.ranks.len() {
            for nth in 0.. {
                let mut planted = schedule.clone();
                let layout = if q { &mut planted.q_layout } else { &mut planted.kv_layout };
                if !change(layout, r, nth) {
                    break;
                }
                out.push((planted, r, 0));
            }
        }
    }
    out
}

/// How many pairs of rows all steps compute, masked ones too.
pub(crate) fn pairs(s: &Schedule) -> usize {
    let count = |rows: &[Progression]| rows.iter().map(|p| p.len).sum::<usize>();
    let of = |op: &StepOp| match op {
        StepOp::AttnPartial { q, kv, .. } => {
            let q: Vec<Progression> = q.iter().map(|p| p.rows).collect();
            let k: Vec<Progression> = kv.iter().map(|p| p.rows).collect();
            count(&q) * count(&k)
        }
        _ => 0,
    };
    s.ranks.iter().flat_map(|r| &r.steps).map(|s| of(&s.op)).sum()
}

/// An exchange becomes two: its sends, then its receives, with the same number or a new one.
pub(crate) fn split(schedule: &Schedule, renumber: bool) -> Vec<Planted> {
    each(schedule, |s, r, i, nth| {
        let steps = &mut s.ranks[r].steps;
        let StepOp::Exchange { group, kind, sms, sends, recvs } = &mut steps[i].op else { return false };
        if nth > 0 || sends.is_empty() || recvs.is_empty() {
            return false;
        }
        let second = StepOp::Exchange {
            group: *group + if renumber { 100 } else { 0 },
            kind: *kind,
            sms: *sms,
            sends: vec![],
            recvs: std::mem::take(recvs),
        };
        let after = Step { waits: vec![], records: steps[i].records.take(), op: second, ..steps[i].clone() };
        steps.insert(i + 1, after);
        true
    })
}
