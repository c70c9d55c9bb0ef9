//! From wishes to a [`Program`]: what is split, what is whole, what is gathered or reduced, and the order of segments.
//!
//! In: the live operations and their [`Wishes`]. Out: a [`Program`].
//!
//! Invariants of the result: every live operation but inputs and constants stands in one segment, after what it reads; a
//! value that a split operation reads is split in the same way, or whole and sliced there; a value that a whole operation
//! reads is whole, or gathered in an earlier segment; a fold over the rows of a split activation is computed in parts, which are
//! reduced right behind it. Segments alternate as seldom as the dependences allow.

use super::error::ShardError;
use super::factor::Factor;
use super::joins::Sequence;
use super::live::Live;
use super::options::{Handed, ShardOptions};
use super::propagate::query_axis;
use super::sequences::{Sequences, sequences};
use super::types::{IslandSharding, Placement, Program, Segment};
use super::wishes::{Wish, Wishes};
use crate::ir::{Graph, Op, Reduction, ValueId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How one operand must be held where it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Whole,
    Rows(Factor, Sequence),
}

/// What is decided, by place in [`Live::order`].
struct Decided<'a> {
    live: &'a Live<'a>,
    wishes: &'a Wishes,
    /// The rows that the results carry; `None`: whole.
    split: Vec<Option<(Factor, Sequence)>>,
    /// How the ranks' parts of the result are folded, of a fold over the rows of what is split.
    folds: Vec<Option<Reduction>>,
    /// How each operand is read.
    needs: Vec<Vec<Need>>,
}

/// Builds the program.
pub(super) fn place(
    graph: &Arc<Graph>,
    live: &Live,
    wishes: &Wishes,
    options: &ShardOptions,
    handed: &[(ValueId, &Handed)],
) -> Result<Program, ShardError> {
    let plan = decide(live, wishes);
    let Sequences { layouts, index, joined } = sequences(live, wishes, options, handed)?;
    let layout = |s: Sequence, i: usize| {
        let layout = index.get(&wishes.sequence(s)).copied();
        layout.ok_or_else(|| ShardError::fault(live.name(i), "its rows have no layout"))
    };
    let placed = |split: Option<(Factor, Sequence)>, i: usize| match split {
        None => Ok(Placement::Whole),
        Some((f, s)) => Ok(Placement::Sharded(f.sharding(layout(s, i)?))),
    };
    let mut placements = BTreeMap::new();
    for (i, &op) in live.order().iter().enumerate() {
        let placement = match (plan.split[i], plan.folds[i]) {
            (None, Some(kind)) => Placement::Parts(kind),
            (split, _) => placed(split, i)?,
        };
        placements.extend(graph.results(op).into_iter().map(|v| (v, placement.clone())));
    }
    let mut islands = BTreeMap::new();
    for split in &wishes.splits {
        let at = split.at;
        let operands = plan.needs[at].iter().map(|need| match *need {
            Need::Whole => placed(None, at),
            Need::Rows(f, s) => placed(Some((f, s)), at),
        });
        let island = IslandSharding {
            q_layout: layout(split.q, at)?,
            kv_layout: layout(split.kv, at)?,
            operands: operands.collect::<Result<_, ShardError>>()?,
        };
        islands.insert(live.order()[at], island);
    }
    Ok(Program {
        graph: graph.clone(),
        ranks: options.ranks,
        layouts,
        joined,
        placements,
        segments: segments(&plan),
        islands,
        refused: wishes.refused.iter().map(|(&i, reason)| (live.order()[i], reason.clone())).collect(),
    })
}

/// Settles every wish. Activations keep theirs. Of the rest, what somebody needs whole is computed whole by every rank, from
/// whole operands: it is cheap, and nothing is sent.
fn decide<'a>(live: &'a Live<'a>, wishes: &'a Wishes) -> Decided<'a> {
    let n = live.order().len();
    let mut plan =
        Decided { live, wishes, split: vec![None; n], folds: vec![None; n], needs: vec![vec![]; n] };
    // A constant is copied; an input is whole unless the host hands rows.
    let given = |i: usize| match live.op(i) {
        Op::Constant(_) => true,
        Op::Input(_) => !wishes.handed.contains_key(&i),
        _ => false,
    };
    let named = |i: usize| wishes.handed.get(&i) == Some(&true);
    let mut needed_whole = vec![false; n];
    for i in (0..n).rev() {
        let reads = match live.op(i) {
            Op::Input(_) => Some(vec![]),
            _ => wishes.reads(live, i).or_else(|| island_reads(live, wishes, i)),
        };
        let keeps = wishes.activation[i] || named(i) || !needed_whole[i];
        if let (Some(reads), Some(wish), true, false) = (reads, wishes.wish[i], keeps, given(i)) {
            let need = |read: Option<Wish>| match read {
                None => Need::Whole,
                Some(w) => Need::Rows(w.factor, wishes.sequence(w.sequence)),
            };
            plan.split[i] = Some((wish.factor, wishes.sequence(wish.sequence)));
            plan.needs[i] = reads.into_iter().map(need).collect();
        } else if let Some((rows, kind)) = folded_rows(live, wishes, i) {
            plan.needs[i] = vec![rows];
            plan.folds[i] = Some(kind);
        } else {
            plan.needs[i] = vec![Need::Whole; live.operands[i].len()];
        }
        for (&v, &need) in live.operands[i].iter().zip(&plan.needs[i]) {
            let from = live.at(v);
            let carried = wishes.wish[from].map(|w| (w.factor, wishes.sequence(w.sequence)));
            // It cannot carry two kinds of rows at once; each reader slices its own.
            needed_whole[from] |= !matches!(need, Need::Rows(f, s) if carried == Some((f, s)));
        }
    }
    // What is not split after all is folded whole.
    for i in (0..n).filter(|&i| plan.folds[i].is_some()).collect::<Vec<_>>() {
        let held = plan.split[live.at(live.operands[i][0])];
        if !matches!(plan.needs[i][0], Need::Rows(f, s) if held == Some((f, s))) {
            plan.folds[i] = None;
            plan.needs[i] = vec![Need::Whole];
        }
    }
    plan
}

/// The rows that operation `i` reads where it is a fold over the rows of an activation, and how the ranks' parts of it are
/// folded.
fn folded_rows(live: &Live, wishes: &Wishes, i: usize) -> Option<(Need, Reduction)> {
    let Op::Reduce { kind, axes, .. } = live.op(i) else { return None };
    let from = live.at(live.operands[i][0]);
    let wish = wishes.wish[from].filter(|w| axes.contains(&w.factor.axis))?;
    let kind = match kind {
        Reduction::Mean if live.out(i).dtype.is_float() => Reduction::Sum,
        Reduction::Sum | Reduction::Max | Reduction::Min => *kind,
        Reduction::Mean | Reduction::Prod => return None,
    };
    let kept = wishes.activation[from] || wishes.handed.get(&from) == Some(&true);
    kept.then(|| (Need::Rows(wish.factor, wishes.sequence(wish.sequence)), kind))
}

/// How island `i` reads its operands.
fn island_reads(live: &Live, wishes: &Wishes, i: usize) -> Option<Vec<Option<Wish>>> {
    let at = wishes.splits.binary_search_by_key(&i, |s| s.at).ok()?;
    let split = wishes.splits[at];
    let types = live.types(i);
    let (q_len, kv_len) = (types[0].shape[2], types[1].shape[2]);
    let rows = |axis, length, sequence| Some(Wish { factor: Factor::axis(axis, length), sequence });
    let read = |slot: usize| match slot {
        0 => rows(2, q_len, split.q),
        1 | 2 => rows(2, kv_len, split.kv),
        _ => query_axis(types[slot], q_len).and_then(|axis| rows(axis, q_len, split.q)),
    };
    Some((0..types.len()).map(read).collect())
}

/// Orders the work: in round r every local operation that can run after r exchanges, then every exchange that can.
fn segments(plan: &Decided) -> Vec<Segment> {
    let live = plan.live;
    let n = live.order().len();
    // The first round in which a value can be read: by local operations, and by exchanges.
    let (mut local, mut exchange) = (vec![0usize; n], vec![0usize; n]);
    let mut gathered: HashMap<ValueId, usize> = HashMap::new();
    let mut work: Vec<Vec<usize>> = Vec::new();
    let mut sent: Vec<Vec<Segment>> = Vec::new();
    let mut at_round = |round: usize, op: Option<usize>, segment: Option<Segment>| {
        let rounds = work.len().max(round + 1);
        work.resize_with(rounds, Vec::new);
        sent.resize_with(rounds, Vec::new);
        work[round].extend(op);
        sent[round].extend(segment);
    };
    for i in 0..n {
        if matches!(live.op(i), Op::Input(_) | Op::Constant(_)) {
            continue;
        }
        let island = plan.wishes.splits.binary_search_by_key(&i, |s| s.at).is_ok();
        let mut round = 0;
        for (slot, &v) in live.operands[i].iter().enumerate() {
            let from = live.at(v);
            let fits = match (plan.split[from], plan.needs[i][slot]) {
                (None, _) => true,
                (Some(have), Need::Rows(f, s)) => have == (f, s),
                (Some(_), Need::Whole) => false,
            };
            let ready = if fits {
                if island { exchange[from] } else { local[from] }
            } else {
                let at = *gathered.entry(v).or_insert_with(|| {
                    let reason = reason(plan, i, slot);
                    at_round(exchange[from], None, Some(Segment::Gather { value: v, reason }));
                    exchange[from]
                });
                if island { at } else { at + 1 }
            };
            round = round.max(ready);
        }
        if island {
            at_round(round, None, Some(Segment::Island(live.order()[i])));
            (local[i], exchange[i]) = (round + 1, round);
        } else {
            at_round(round, Some(i), None);
            (local[i], exchange[i]) = (round, round);
            if let Some(kind) = plan.folds[i] {
                let value = live.graph.result(live.order()[i]);
                at_round(round, None, Some(Segment::Reduce { value, kind }));
                local[i] = round + 1;
            }
        }
    }
    let mut segments = Vec::new();
    for (ops, exchanges) in work.into_iter().zip(sent) {
        if !ops.is_empty() {
            segments.push(Segment::Local(ops.into_iter().map(|i| live.order()[i]).collect()));
        }
        segments.extend(exchanges);
    }
    segments
}

/// Why operation `i` needs operand `slot` put together: the operation, and its reason.
fn reason(plan: &Decided, i: usize, slot: usize) -> String {
    let live = plan.live;
    let (op, v) = (live.op(i), live.operands[i][slot]);
    let name = &live.graph.value(live.graph.result(live.order()[i])).name;
    let why = match (plan.split[live.at(v)], plan.needs[i][slot]) {
        (Some((have, _)), Need::Rows(f, _)) if have == f => {
            "its rows are those of another sequence, which lie otherwise".into()
        }
        (Some((have, _)), Need::Rows(f, _)) => {
            format!("it is split along axis {} and needed along axis {}", have.axis, f.axis)
        }
        (Some(_), Need::Whole) if plan.split[i].is_some() => {
            "the rows of every rank need all of its rows".into()
        }
        (Some((have, _)), Need::Whole) => {
            match super::axes::result(op, slot, have, &live.types(i), live.out(i), None) {
                Err(why) => why,
                Ok(_) => "the rows of another operand are split otherwise".into(),
            }
        }
        (None, _) => "it is whole on every rank already".into(),
    };
    format!("{} {name}: {why}", op.name())
}
