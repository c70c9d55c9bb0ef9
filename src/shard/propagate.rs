//! Follows every sequence from the attentions through the graph, backwards and forwards, to a fixpoint.
//!
//! In: a graph with attentions. Out: [`Wishes`]: for each operation the factor that its results are to carry, if any; the
//! sequences, tied where a value carries both; the attentions that are not split along their rows.
//!
//! Backwards, from what an attention or a split operation reads, a wish goes to any floating value, to truth values and
//! integers only on the way from a mask or bias (a value with a query axis), or where they are computed from an activation.
//! Forwards it goes into activations alone, from whatever is split: what positions and weights give is split where that is
//! asked for, for elsewhere it may be needed whole, and is cheap. A wish is never taken back; where two disagree the first
//! stays.

use super::axes;
use super::factor::Factor;
use super::joins::Sequence;
use super::live::Live;
use super::refusal;
use super::wishes::{Split, Wish, Wishes};
use crate::ir::{Op, Type, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The wishes of every attention, carried through the graph.
///
/// `named` are inputs that the user hands to a rank by rows, each with the axis that carries them: what is computed from them
/// counts as activations, so that it is split as far as it goes. Attention over short windows is split along its batch where `windows`
/// ranks share it.
pub(super) fn propagate(live: &Live, named: &[(ValueId, usize)], windows: usize) -> Wishes {
    let n = live.order().len();
    let handed: BTreeMap<usize, bool> = named.iter().map(|&(v, _)| (live.at(v), true)).collect();
    let activation = activations(live, &handed);
    let mut wishes = Wishes::new(activation, handed, one_row(live));
    let mut ahead = BTreeSet::new();
    for &(v, axis) in named {
        let factor = Factor::axis(axis, live.graph.ty(v).shape[axis]);
        let sequence = wishes.fresh();
        let at = live.at(v);
        wishes.wish[at] = Some(Wish { factor, sequence });
        ahead.extend(live.users[at].iter().copied());
    }
    carry_forward(live, &mut wishes, &mut ahead, []);
    for i in 0..n {
        if let Op::Attention(a) = live.op(i) {
            let sizes = (live.types(i)[0], live.types(i)[1], live.types(i)[2]);
            if let Some(batch) = window_count(live, &wishes, i, windows) {
                let wish = Wish { factor: Factor::axis(0, batch), sequence: wishes.fresh() };
                wishes.windows.push(wish);
                follow(live, &mut wishes, &mut ahead, i, wish);
            }
            match refusal(live, &wishes, i) {
                Some(reason) => {
                    wishes.refused.insert(i, reason);
                    carry_forward(live, &mut wishes, &mut ahead, [i]);
                }
                None => {
                    let (q_len, kv_len) = (sizes.0.shape[2], sizes.1.shape[2]);
                    let causal = a.scores.mask().grows();
                    let (q, kv) = (wishes.fresh(), wishes.fresh());
                    // A causal mask compares row numbers: of equal lengths they count the same rows.
                    if causal && q_len == kv_len {
                        wishes.tie(q, kv);
                    }
                    wishes.splits.push(Split { at: i, q, kv, causal });
                    seed(live, &mut wishes, &mut ahead, i, q_len, kv_len, (q, kv));
                    carry_forward(live, &mut wishes, &mut ahead, []);
                }
            }
        }
    }
    wishes
}

/// How many windows attention `i` has in its batch axis, if it is to be split along them over so many ranks: at least one for each
/// rank, and several, of too few rows for the rows to be worth a message. Nothing says yet how its operands are split.
fn window_count(live: &Live, wishes: &Wishes, i: usize, ranks: usize) -> Option<usize> {
    /// Fewer entries of a batch are no windows.
    const FEWEST: usize = 4;
    /// A rank that has fewer rows than a tile of a kernel has computes a whole one all the same.
    const TILE: usize = 64;
    let types = live.types(i);
    let (batch, rows) = (types[0].shape[0], types[0].shape[2].max(types[1].shape[2]));
    let free = live.operands[i][..3].iter().all(|v| wishes.wish[live.at(*v)].is_none());
    (free && ranks > 1 && batch >= ranks.max(FEWEST) && rows < ranks.saturating_mul(TILE)).then_some(batch)
}

/// Whether leaf `t` of an attention with `q_len` query rows has a query axis of its own; which one.
pub(super) fn query_axis(t: &Type, q_len: usize) -> Option<usize> {
    let axis = t.rank().checked_sub(2)?;
    (q_len > 1 && t.shape[axis] == q_len).then_some(axis)
}

/// Why attention `i` is not split along its rows.
fn refusal(live: &Live, wishes: &Wishes, i: usize) -> Option<String> {
    let types = live.types(i);
    if let Op::Attention(a) = live.op(i)
        && a.stats
    {
        return Some("its row statistics are results, and no island gives them yet".into());
    }
    if let Some(reason) = refusal::by_types(types[0], types[1], types[2]) {
        return Some(reason);
    }
    // The rows of another sequence may already run along the batch: then each rank has whole attentions to compute.
    let held = wishes.wish[live.at(live.operands[i][0])]?;
    if held.factor == Factor::axis(2, types[0].shape[2]) {
        return None;
    }
    let along = axes::result(live.op(i), 0, held.factor, &types, live.out(i), None).ok()?;
    let maps = wishes.maps_for(live, i, along)?;
    let agrees = |(slot, v): (usize, &ValueId)| {
        let other = wishes.wish[live.at(*v)].map(|w| w.factor);
        other.is_none() || other == maps[slot]
    };
    let local = live.operands[i].iter().enumerate().all(agrees);
    local.then(|| "its batch is split over the ranks, so that each computes attentions of its own".into())
}

fn seed(
    live: &Live,
    wishes: &mut Wishes,
    ahead: &mut BTreeSet<usize>,
    i: usize,
    q_len: usize,
    kv_len: usize,
    (q, kv): (Sequence, Sequence),
) {
    wishes.wish[i] = Some(Wish { factor: Factor::axis(2, q_len), sequence: q });
    ahead.extend(live.users[i].iter().copied());
    let mut asked = Vec::new();
    for (slot, &v) in live.operands[i].iter().enumerate() {
        let wish = match slot {
            0 => Some(Wish { factor: Factor::axis(2, q_len), sequence: q }),
            1 | 2 => Some(Wish { factor: Factor::axis(2, kv_len), sequence: kv }),
            _ => query_axis(live.graph.ty(v), q_len)
                .map(|axis| Wish { factor: Factor::axis(axis, q_len), sequence: q }),
        };
        asked.extend(wish.map(|wish| Asked { of: v, wish, leaf: slot > 2 }));
    }
    ask(live, wishes, ahead, asked);
}

/// A wish on its way backwards.
struct Asked {
    of: ValueId,
    wish: Wish,
    /// Whether it began at a mask or bias.
    leaf: bool,
}

/// Hands wishes to producers, and on to theirs.
fn ask(live: &Live, wishes: &mut Wishes, ahead: &mut BTreeSet<usize>, mut stack: Vec<Asked>) {
    stack.reverse();
    while let Some(Asked { of, wish, leaf }) = stack.pop() {
        let i = live.at(of);
        if let Some(held) = wishes.wish[i] {
            if held.factor == wish.factor {
                wishes.tie(held.sequence, wish.sequence);
            }
            continue;
        }
        let float = live.graph.ty(of).dtype.is_float();
        match live.op(i) {
            Op::Constant(_) | Op::Attention(_) => continue,
            // Given whole; the wish is remembered because it ties sequences.
            Op::Input(_) if float => {
                wishes.wish[i] = Some(wish);
                ahead.extend(live.users[i].iter().copied());
                continue;
            }
            Op::Input(_) => continue,
            _ if !(float || leaf || wishes.activation[i]) => continue,
            _ => {}
        }
        if let Some(parts) = wishes.join(live, i, wish) {
            wishes.wish[i] = Some(wish);
            ahead.extend(live.users[i].iter().copied());
            for (&v, wish) in live.operands[i].iter().zip(parts) {
                // Old rows stay where the step before left them.
                if matches!(live.op(live.at(v)), Op::Input(_)) {
                    wishes.handed.entry(live.at(v)).or_insert(false);
                }
                stack.push(Asked { of: v, wish, leaf });
            }
            continue;
        }
        let Some(maps) = wishes.maps_for(live, i, wish.factor) else { continue };
        wishes.wish[i] = Some(wish);
        ahead.extend(live.users[i].iter().copied());
        let operands = live.operands[i].iter().zip(maps);
        let asked = operands.filter_map(|(&v, map)| {
            map.map(|factor| Asked { of: v, wish: Wish { factor, sequence: wish.sequence }, leaf })
        });
        stack.extend(asked);
    }
}

/// Visits the readers of what is split, operands first, and splits those activations that can be: in the way of an operand
/// that is an activation itself, else of any.
fn carry_forward(
    live: &Live,
    wishes: &mut Wishes,
    ahead: &mut BTreeSet<usize>,
    also: impl IntoIterator<Item = usize>,
) {
    ahead.extend(also);
    while let Some(i) = ahead.pop_first() {
        let op = live.op(i);
        if matches!(op, Op::Attention(_)) && !wishes.refused.contains_key(&i) {
            continue;
        }
        if !wishes.activation[i] {
            continue;
        }
        let types = live.types(i);
        let carried = |slot: usize| wishes.wish[live.at(live.operands[i][slot])];
        let mut slots: Vec<usize> = (0..types.len()).filter(|&slot| carried(slot).is_some()).collect();
        slots.sort_by_key(|&slot| !wishes.activation[live.at(live.operands[i][slot])]);
        if wishes.wish[i].is_none() {
            let along = |&slot: &usize| {
                let Wish { factor, sequence } = carried(slot)?;
                let factor = axes::result(op, slot, factor, &types, live.out(i), wishes.one_row[i]).ok()?;
                Some(Wish { factor, sequence })
            };
            let Some(wish) = slots.iter().find_map(along) else { continue };
            follow(live, wishes, ahead, i, wish);
        }
        tie_operands(live, wishes, i, &slots);
    }
}

/// Ties the sequence of operation `i` with those of the operands whose rows it reads as they are.
fn tie_operands(live: &Live, wishes: &mut Wishes, i: usize, slots: &[usize]) {
    let (Some(maps), Some(own)) = (wishes.maps(live, i), wishes.wish[i]) else { return };
    for &slot in slots {
        let from = wishes.wish[live.at(live.operands[i][slot])];
        if let Some(from) = from.filter(|from| Some(from.factor) == maps[slot]) {
            wishes.tie(own.sequence, from.sequence);
        }
    }
}

/// Splits operation `i`, which reads a split activation.
fn follow(live: &Live, wishes: &mut Wishes, ahead: &mut BTreeSet<usize>, i: usize, wish: Wish) {
    let Some(maps) = wishes.maps_for(live, i, wish.factor) else { return };
    wishes.wish[i] = Some(wish);
    ahead.extend(live.users[i].iter().copied());
    let operands = live.operands[i].iter().zip(maps);
    let asked = operands
        .filter_map(|(&v, map)| {
            map.map(|factor| Asked { of: v, wish: Wish { factor, sequence: wish.sequence }, leaf: false })
        })
        .collect();
    ask(live, wishes, ahead, asked);
}

/// Where attentions want the row of each value that is a sequence of one row for them, as far as the way back from them tells.
fn one_row(live: &Live) -> Vec<Option<Factor>> {
    let mut wanted = vec![None; live.order().len()];
    let mut seen = vec![false; live.order().len()];
    for i in 0..live.order().len() {
        if !matches!(live.op(i), Op::Attention(_)) {
            continue;
        }
        let rows = |v: ValueId| (v, Factor::axis(2, live.graph.ty(v).shape[2]));
        let mut stack: Vec<(ValueId, Factor)> = live.operands[i].iter().take(3).copied().map(rows).collect();
        while let Some((v, f)) = stack.pop() {
            let at = live.at(v);
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            wanted[at] = (f.length == 1).then_some(f);
            if let Op::Concat { axis } = live.op(at)
                && *axis == f.axis
                && (f.outer, f.inner) == (1, 1)
            {
                let part = |&v: &ValueId| (v, Factor::axis(*axis, live.graph.ty(v).shape[*axis]));
                stack.extend(live.operands[at].iter().map(part));
            } else if !matches!(live.op(at), Op::Attention(_)) {
                let maps = axes::operands(live.op(at), f, &live.types(at), live.out(at), &[]);
                let maps = live.operands[at].iter().zip(maps.into_iter().flatten());
                stack.extend(maps.filter_map(|(&v, map)| Some((v, map?))));
            }
        }
    }
    wanted
}

/// Which operations give activations.
fn activations(live: &Live, handed: &BTreeMap<usize, bool>) -> Vec<bool> {
    let n = live.order().len();
    let (mut activation, mut varies) = (vec![false; n], vec![false; n]);
    for i in 0..n {
        let from = || live.operands[i].iter().map(|&v| live.at(v));
        varies[i] = matches!(live.op(i), Op::Input(_) | Op::Opaque(_)) || from().any(|j| varies[j]);
        let here = match live.op(i) {
            Op::Attention(_) => true,
            Op::Input(_) => handed.contains_key(&i),
            Op::Contract(c) => {
                let summed = |l: char| c.rhs.contains(l) && !c.out.contains(l);
                let a = live.types(i)[0];
                varies[i] && c.lhs.chars().zip(&a.shape).any(|(l, &e)| summed(l) && e > 1)
            }
            _ => false,
        };
        activation[i] = here || from().any(|j| activation[j]);
    }
    activation
}
