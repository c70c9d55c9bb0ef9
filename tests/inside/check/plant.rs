//! Faults, each at every place of a schedule where it can be made.

use super::edit::{
    at, before, each, each_op, group, key_views, keys, layouts, moved, pairs, places, queries, recorder,
    shorten, split, transfers,
};
use crate::inside::support::scores::dead;
use annulus::ir::{DType, Factor, ScoreStep, Scores, Strategy};
use annulus::mask::{Fill, Mask, Term, Tile};
use annulus::schedule::{
    AttentionFacts, ExchangeKind, KvPiece, Packed, RankProgram, Schedule, Step, StepOp, Stream,
};

/// A schedule with one fault, and the step that it was made in.
pub(crate) type Planted = (Schedule, usize, usize);

/// A kind of fault: its name, the checks that may name it, and where it can be made.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// At least one of these reports it.
    pub(crate) checks: &'static [&'static str],
    pub(crate) plant: fn(&Schedule) -> Vec<Planted>,
}

/// The schedule with other steps in its head.
fn with(s: &Schedule, steps: Vec<ScoreStep>) -> Schedule {
    let attention = AttentionFacts { scores: Scores::new(steps), ..s.attention.clone() };
    Schedule { attention, ..s.clone() }
}

/// How many pairs some batch entry may not leave out.
fn wanted(steps: &[ScoreStep], s: &Schedule) -> usize {
    let a = &s.attention.sizes;
    let live = |q: usize, k: usize| (0..a.batch).any(|b| !dead(steps, [b, q, k]));
    (0..a.q_len).map(|q| (0..a.kv_len).filter(|&k| live(q, k)).count()).sum()
}

/// Each step that reads a leaf.
fn reads(leaf: usize) -> [ScoreStep; 3] {
    let fill = Mask { terms: vec![Term::Tensor { operand: leaf }], ..Mask::none() };
    [ScoreStep::Factor(Factor::Leaf(leaf)), ScoreStep::Add(leaf), ScoreStep::Fill(fill)]
}

/// Each exchange with its number, its kind or its multiprocessors changed.
fn each_exchange(
    s: &Schedule,
    change: impl Fn(&mut usize, &mut ExchangeKind, &mut Option<usize>),
) -> Vec<Planted> {
    each_op(s, |op, nth| match op {
        StepOp::Exchange { group, kind, sms, .. } if nth == 0 => {
            change(group, kind, sms);
            true
        }
        _ => false,
    })
}

/// Every kind.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "a wait is removed",
        checks: &["race"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let waits = &mut s.ranks[r].steps[i].waits;
                nth < waits.len() && {
                    waits.remove(nth);
                    true
                }
            })
        },
    },
    Kind {
        name: "a wait is for the step before",
        checks: &["race"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let rank = &mut s.ranks[r];
                let earlier = |n: usize| before(rank, recorder(rank, rank.steps[i].waits[n]));
                let places: Vec<(usize, usize)> =
                    (0..rank.steps[i].waits.len()).filter_map(|n| Some((n, earlier(n)?))).collect();
                let Some(&(n, step)) = places.get(nth) else { return false };
                let event = *rank.steps[step].records.get_or_insert(step);
                rank.steps[i].waits[n] = event;
                true
            })
        },
    },
    Kind {
        name: "a wait is for an event that is not recorded yet",
        checks: &["form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let rank = &mut s.ranks[r];
                let later = rank.steps[i..].iter().find_map(|s| s.records).unwrap_or(rank.steps.len());
                nth < rank.steps[i].waits.len() && {
                    rank.steps[i].waits[nth] = later;
                    true
                }
            })
        },
    },
    Kind {
        name: "an event is not recorded",
        checks: &["form"],
        plant: |s| each(s, |s, r, i, nth| nth == 0 && s.ranks[r].steps[i].records.take().is_some()),
    },
    Kind {
        name: "an event is recorded twice",
        checks: &["form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let steps = &mut s.ranks[r].steps;
                let Some(event) = steps[..i].iter().find_map(|s| s.records) else { return false };
                nth == 0 && {
                    steps[i].records = Some(event);
                    true
                }
            })
        },
    },
    Kind {
        name: "a transfer goes to another rank",
        checks: &["matching", "form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let ranks = s.ranks.len();
                let op = &mut s.ranks[r].steps[i].op;
                let used: Vec<usize> = transfers(op).iter().map(|t| t.peer).collect();
                let free = (0..ranks).find(|p| *p != r && !used.contains(p));
                free.is_some_and(|free| at(transfers(op), nth, |t| t.peer = free))
            })
        },
    },
    Kind {
        name: "keys are received in another slot",
        checks: &["filled", "race", "memory"],
        plant: |s| {
            moved(s, |op| match op {
                StepOp::Exchange { recvs, .. } => places(recvs),
                _ => vec![],
            })
        },
    },
    Kind {
        name: "keys are sent from another slot",
        checks: &["filled", "race", "labels"],
        plant: |s| {
            moved(s, |op| match op {
                StepOp::Exchange { sends, .. } => places(sends),
                _ => vec![],
            })
        },
    },
    Kind { name: "keys are read from another slot", checks: &["filled"], plant: |s| moved(s, key_views) },
    Kind {
        name: "a carry is read from and written to another slot",
        checks: &["filled", "race"],
        plant: |s| {
            let several = |op: &StepOp| matches!(op, StepOp::AttnPartial { .. });
            moved(s, |op| match op {
                op if !several(op) => vec![],
                StepOp::AttnPartial { q, .. } => q.iter_mut().filter_map(|p| p.carry.as_mut()).collect(),
                _ => vec![],
            })
        },
    },
    Kind { name: "a group is split in two", checks: &["matching"], plant: |s| split(s, true) },
    Kind { name: "a group is two steps", checks: &["matching"], plant: |s| split(s, false) },
    Kind {
        name: "a receive is dropped",
        checks: &["matching"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Exchange { recvs, .. } if nth < recvs.len() => {
                    recvs.remove(nth);
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "a send is dropped",
        checks: &["matching"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Exchange { sends, .. } if nth < sends.len() => {
                    sends.remove(nth);
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "a message is short by a byte at one end",
        checks: &["matching", "form"],
        plant: |s| {
            each_op(s, |op, nth| {
                at(transfers(op), nth, |t| {
                    shorten(t, &s.attention);
                })
            })
        },
    },
    Kind {
        name: "a message is short by a byte at both ends",
        // Of a single row none is left.
        checks: &["filled", "form"],
        plant: |s| {
            if s.strategy != Strategy::Ring {
                // An all-gather brings keys to ranks that mask all of them.
                return vec![];
            }
            let mut out = each_op(s, |op, nth| match op {
                StepOp::Exchange { sends, .. } => at(sends.iter_mut().collect(), nth, |t| {
                    shorten(t, &s.attention);
                }),
                _ => false,
            });
            for (planted, r, i) in &mut out {
                let StepOp::Exchange { group, sends, .. } = planted.ranks[*r].steps[*i].op.clone() else {
                    continue;
                };
                let StepOp::Exchange { sends: whole, .. } = &s.ranks[*r].steps[*i].op else { continue };
                let (sent, whole) = sends.iter().zip(whole).find(|(a, b)| a != b).unwrap();
                let (cut, less) = (sent.peer, whole.bytes(&s.attention) - sent.bytes(&s.attention));
                for step in &mut planted.ranks[cut].steps {
                    match &mut step.op {
                        StepOp::Exchange { group: g, recvs, .. } if *g == group => {
                            let back = recvs.iter_mut().find(|t| t.peer == *r).unwrap();
                            places(std::slice::from_mut(back)).last_mut().unwrap().bytes -= less;
                        }
                        _ => {}
                    }
                }
            }
            out
        },
    },
    Kind {
        name: "a group has another number on one rank",
        checks: &["matching"],
        plant: |s| each_exchange(s, |group, _, _| *group += 100),
    },
    Kind {
        name: "a group holds other multiprocessors on one rank",
        checks: &["matching"],
        plant: |s| each_exchange(s, |_, _, sms| *sms = sms.map_or(Some(4), |n| (n > 1).then_some(n / 2))),
    },
    Kind {
        name: "a group holds multiprocessors that are no power of two",
        checks: &["form"],
        plant: |s| each_exchange(s, |_, _, sms| *sms = Some(sms.unwrap_or(4) * 3)),
    },
    Kind {
        name: "a group is another collective on one rank",
        checks: &["matching", "form"],
        plant: |s| {
            each_exchange(s, |_, kind, _| {
                *kind = match kind {
                    ExchangeKind::SendRecv => ExchangeKind::AllGather,
                    _ => ExchangeKind::SendRecv,
                };
            })
        },
    },
    Kind {
        name: "two groups are exchanged on one rank",
        checks: &["matching", "deadlock", "form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let steps = &mut s.ranks[r].steps;
                let next = (i + 1..steps.len()).find(|&j| group(&steps[j].op).is_some());
                let (Some(next), Some(first)) = (next, group(&steps[i].op)) else { return false };
                let both = [Some(first), group(&steps[next].op)];
                let (a, b) = steps.split_at_mut(next);
                std::mem::swap(&mut a[i].op, &mut b[0].op);
                // Where no other rank has both groups, their order on this one is nobody's business.
                let has = |r: &RankProgram, g: &Option<usize>| r.steps.iter().any(|s| group(&s.op) == *g);
                nth == 0 && s.ranks.iter().filter(|r| both.iter().all(|g| has(r, g))).count() > 1
            })
        },
    },
    Kind {
        name: "a transfer is on the compute stream",
        checks: &["form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let step = &mut s.ranks[r].steps[i];
                nth == 0 && step.stream != Stream::Compute && {
                    step.stream = Stream::Compute;
                    true
                }
            })
        },
    },
    Kind {
        name: "a range is off by one byte",
        checks: &["form", "filled"],
        plant: |s| each_op(s, |op, nth| at(key_views(op), nth, |v| v.start += 1)),
    },
    Kind {
        name: "a range is a byte short",
        checks: &["form"],
        plant: |s| each_op(s, |op, nth| at(key_views(op), nth, |v| v.bytes -= 1)),
    },
    Kind {
        name: "keys are packed in a range that is off by one byte",
        // Where the byte before is another piece's that is on its way, that is a race besides.
        checks: &["form", "filled", "race"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Pack { pieces } => at(pieces.iter_mut().collect(), nth, |p| p.at.start += 1),
                _ => false,
            })
        },
    },
    Kind {
        name: "keys are not packed",
        checks: &["filled"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                // Keys that every row masks are packed for nothing.
                let ops = s.ranks.iter_mut().flat_map(|r| &mut r.steps).map(|s| &mut s.op);
                let read: Vec<KvPiece> = ops.filter_map(keys).flat_map(|kv| kv.clone()).collect();
                let StepOp::Pack { pieces } = &mut s.ranks[r].steps[i].op else { return false };
                let used = |p: &Packed| read.iter().any(|k| k.rows == p.block.rows);
                let Some(n) = (0..pieces.len()).filter(|&n| used(&pieces[n])).nth(nth) else { return false };
                pieces.remove(n);
                true
            })
        },
    },
    Kind {
        name: "a chunk of keys is lost",
        checks: &["coverage"],
        plant: |s| {
            each_op(s, |op, nth| {
                keys(op).is_some_and(|kv| {
                    nth < kv.len() && {
                        kv.remove(nth);
                        true
                    }
                })
            })
        },
    },
    Kind {
        name: "a chunk of keys is taken twice",
        checks: &["coverage"],
        plant: |s| {
            each_op(s, |op, nth| {
                keys(op).is_some_and(|kv| {
                    nth < kv.len() && {
                        kv.push(kv[nth]);
                        true
                    }
                })
            })
        },
    },
    Kind {
        name: "a chunk of keys is taken again by a later step",
        checks: &["coverage"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let steps = &mut s.ranks[r].steps;
                let Some(piece) = keys(&mut steps[i].op).and_then(|kv| kv.get(nth).copied()) else {
                    return false;
                };
                let Some(first) = queries(&mut steps[i].op).map(|q| q[0].rows) else { return false };
                let next = steps[i + 1..].iter_mut().find_map(|s| {
                    let takes = queries(&mut s.op)?.iter().any(|q| q.rows == first);
                    keys(&mut s.op).filter(|_| takes)
                });
                next.is_some_and(|kv| {
                    kv.push(piece);
                    true
                })
            })
        },
    },
    Kind {
        name: "key rows are labelled wrong",
        checks: &["filled", "form", "coverage"],
        plant: |s| {
            each_op(s, |op, nth| {
                keys(op).is_some_and(|kv| at(kv.iter_mut().collect(), nth, |p| p.rows.start += 1))
            })
        },
    },
    Kind {
        name: "two chunks of keys are labelled as each other",
        checks: &["filled", "form"],
        plant: |s| {
            each_op(s, |op, nth| {
                keys(op).is_some_and(|kv| {
                    nth + 1 < kv.len() && {
                        let rows = kv[nth].rows;
                        kv[nth].rows = kv[nth + 1].rows;
                        kv[nth + 1].rows = rows;
                        true
                    }
                })
            })
        },
    },
    Kind {
        name: "keys are packed as another rank's",
        checks: &["form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let other =
                    (0..s.ranks.len()).filter(|&o| o != r).find_map(|o| s.kv_layout.rows[o].first().copied());
                match (&mut s.ranks[r].steps[i].op, other) {
                    (StepOp::Pack { pieces }, Some(rows)) => {
                        at(pieces.iter_mut().collect(), nth, |p| p.block.rows = rows)
                    }
                    _ => false,
                }
            })
        },
    },
    Kind {
        name: "carry_in is turned round",
        checks: &["merge once", "form", "filled"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { carry_in, .. } if nth == 0 => {
                    *carry_in = !*carry_in;
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "cast_out is dropped",
        checks: &["merge once", "form"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { cast_out, .. } if nth == 0 && *cast_out => {
                    *cast_out = false;
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "the output is written by an earlier step too",
        checks: &["merge once", "form"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { q, carry_in, cast_out, .. } if nth == 0 && !*cast_out => {
                    *cast_out = true;
                    if !*carry_in {
                        q.iter_mut().for_each(|p| p.carry = None);
                    }
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "query rows are left out of a step",
        checks: &["merge once", "coverage", "filled"],
        plant: |s| {
            each_op(s, |op, nth| {
                queries(op).is_some_and(|q| {
                    nth < q.len() && {
                        q.remove(nth);
                        true
                    }
                })
            })
        },
    },
    Kind {
        name: "query rows are off by one",
        checks: &["form", "merge once", "filled"],
        plant: |s| {
            each_op(s, |op, nth| {
                queries(op).is_some_and(|q| at(q.iter_mut().collect(), nth, |p| p.rows.start += 1))
            })
        },
    },
    Kind {
        name: "a block is not masked that has masked pairs",
        checks: &["coverage"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { tile, .. } if nth == 0 && *tile == Tile::Partial => {
                    *tile = Tile::Full;
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "a block is computed that is to be skipped",
        checks: &["form"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { tile, .. } if nth == 0 => {
                    *tile = Tile::Skip;
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "a step is left out",
        checks: &["form", "matching", "filled", "coverage", "merge once"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                nth == 0 && {
                    s.ranks[r].steps.remove(i);
                    true
                }
            })
        },
    },
    Kind {
        name: "a step is done twice",
        checks: &["matching", "coverage", "merge once", "race"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let packs = matches!(s.ranks[r].steps[i].op, StepOp::Pack { .. });
                let again = Step { records: None, ..s.ranks[r].steps[i].clone() };
                nth == 0 && !packs && {
                    s.ranks[r].steps.insert(i + 1, again);
                    true
                }
            })
        },
    },
    Kind {
        name: "keys are packed after their first use",
        checks: &["filled", "race"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let steps = &mut s.ranks[r].steps;
                let first =
                    (i + 1..steps.len()).find(|&j| keys(&mut steps[j].op).is_some_and(|kv| !kv.is_empty()));
                let packs = nth == 0 && matches!(steps[i].op, StepOp::Pack { .. });
                let Some(first) = first.filter(|_| packs) else { return false };
                let (a, b) = steps.split_at_mut(first);
                std::mem::swap(&mut a[i].op, &mut b[0].op);
                true
            })
        },
    },
    Kind {
        name: "a row has two owners",
        checks: &["form"],
        plant: |s| layouts(s, |l, r, nth| at(l.rows[r].iter_mut().collect(), nth, |p| p.len += 1)),
    },
    Kind {
        name: "a row has no owner",
        checks: &["form"],
        plant: |s| layouts(s, |l, r, nth| at(l.rows[r].iter_mut().collect(), nth, |p| p.len -= 1)),
    },
    Kind {
        name: "two slots share bytes that are in use",
        checks: &["race", "filled"],
        plant: |s| {
            let mut out = Vec::new();
            for (r, rank) in s.ranks.iter().enumerate() {
                let Some(acc) = rank.slots.iter().position(|s| s.name == "acc") else { continue };
                let mut read: Vec<usize> = Vec::new();
                let goes_on = |s: &Step| matches!(&s.op, StepOp::AttnPartial { carry_in: true, .. });
                // Slots whose keys are used while a carry is there.
                for step in rank.steps.iter().filter(|s| goes_on(s)) {
                    read.extend(key_views(&mut step.op.clone()).iter().map(|v| v.slot));
                }
                read.sort_unstable();
                read.dedup();
                for slot in read {
                    let mut planted = s.clone();
                    planted.ranks[r].slots[slot].offset = rank.slots[acc].offset;
                    planted.ranks[r].arena_bytes += rank.slots[slot].bytes;
                    out.push((planted, r, 0));
                }
            }
            out
        },
    },
    Kind {
        name: "a slot ends outside the arena",
        checks: &["form"],
        plant: |s| {
            let ranks = 0..s.ranks.len();
            let cut = |r: usize| {
                let mut planted = s.clone();
                planted.ranks[r].arena_bytes -= 1;
                (planted, r, 0)
            };
            ranks.filter(|&r| !s.ranks[r].slots.is_empty()).map(cut).collect()
        },
    },
    Kind {
        name: "the attention sees more than is computed",
        checks: &["coverage"],
        plant: |s| {
            let steps = s.attention.scores.steps();
            let places = steps.iter().enumerate().filter_map(|(at, step)| Some((at, step.mask()?)));
            let places = places.filter(|(_, mask)| mask.fill == Fill::NegInf);
            let without = |(at, nth): (usize, usize)| {
                let mut steps = steps.to_vec();
                if let ScoreStep::Fill(mask) = &mut steps[at] {
                    mask.terms.remove(nth);
                }
                // Where others hide what this term hid, it is not missed.
                (wanted(&steps, s) > pairs(s)).then(|| (with(s, steps), 0, 0))
            };
            places
                .flat_map(|(at, mask)| (0..mask.terms.len()).map(move |nth| (at, nth)))
                .filter_map(without)
                .collect()
        },
    },
    Kind {
        name: "what −∞ leaves out is not computed, and a later step makes a number of it",
        checks: &["coverage"],
        plant: |s| {
            let steps = s.attention.scores.steps();
            let (rows, keys) = (s.attention.sizes.q_len, s.attention.sizes.kv_len);
            let replaced = Mask { terms: vec![Term::Keys { start: 0, end: 0 }], fill: Fill::Replace(-3.0) };
            let undone = [ScoreStep::Softcap(5.0), ScoreStep::Fill(replaced)];
            let with = |step: ScoreStep| {
                let steps: Vec<ScoreStep> = steps.iter().cloned().chain([step]).collect();
                (pairs(s) < rows * keys).then(|| (with(s, steps), 0, 0))
            };
            undone.into_iter().filter_map(with).collect()
        },
    },
    Kind {
        name: "a finite fill masks pairs of a block that is not masked",
        checks: &["coverage"],
        plant: |s| {
            let full = |step: &Step| matches!(&step.op, StepOp::AttnPartial { tile: Tile::Full, .. });
            let steps = s.attention.scores.steps();
            let terms = vec![Term::Keys { start: 0, end: 0 }];
            let fills = [Fill::Add(-1e4), Fill::Replace(-1e4)];
            let with = |(fill, first): (Fill, bool)| {
                let step = [ScoreStep::Fill(Mask { terms: terms.clone(), fill })];
                let (a, b) = if first { (&step[..], steps) } else { (steps, &step[..]) };
                (with(s, [a, b].concat()), 0, 0)
            };
            let any = s.ranks.iter().flat_map(|r| &r.steps).any(full);
            let ways = fills.into_iter().flat_map(|fill| [true, false].map(|first| (fill, first)));
            // One that replaces −∞ wants more pairs as well.
            ways.filter(|_| any).map(with).collect()
        },
    },
    Kind {
        name: "a step of the scores reads what is no leaf, or one of another type",
        checks: &["form"],
        plant: |s| {
            let mut steps: Vec<ScoreStep> =
                [0, 2, 3 + s.attention.leaves.len(), usize::MAX].into_iter().flat_map(reads).collect();
            for (i, leaf) in s.attention.leaves.iter().enumerate() {
                let [factor, add, fill] = reads(3 + i);
                steps.extend(if leaf.dtype.is_float() { vec![fill] } else { vec![factor, add] });
            }
            let with = |step: ScoreStep| {
                let steps = s.attention.scores.steps().iter().cloned().chain([step]).collect();
                (with(s, steps), 0, 0)
            };
            steps.into_iter().map(with).collect()
        },
    },
    Kind {
        name: "a step of the scores has a number or a type that no step has",
        checks: &["form"],
        plant: |s| {
            let fill = |fill| ScoreStep::Fill(Mask { terms: vec![Term::Causal { offset: 0 }], fill });
            let number = |x| ScoreStep::Factor(Factor::Number(x));
            let wrong = [
                number(f64::INFINITY),
                number(f64::NAN),
                ScoreStep::Softcap(0.0),
                ScoreStep::Softcap(-1.0),
                ScoreStep::Softcap(f64::INFINITY),
                ScoreStep::Softcap(f64::NAN),
                ScoreStep::Round(DType::I32),
                ScoreStep::Round(DType::Bool),
                fill(Fill::Add(f64::NEG_INFINITY)),
                fill(Fill::Replace(f64::NAN)),
            ];
            let with = |step: ScoreStep| {
                let steps = [step].into_iter().chain(s.attention.scores.steps().iter().cloned()).collect();
                (with(s, steps), 0, 0)
            };
            wrong.map(with).into()
        },
    },
    Kind {
        name: "the mask has terms that no mask has",
        checks: &["form"],
        plant: |s| {
            let batch = |entries: Vec<Vec<Term>>| Term::Batch { entries: entries.into() };
            let all = |terms: Vec<Term>| batch(vec![terms; s.attention.sizes.batch]);
            let wrong = [
                batch(vec![vec![]; s.attention.sizes.batch + 1]),
                all(vec![all(vec![])]),
                all(vec![Term::Tensor { operand: 3 }]),
                all(vec![Term::Keys { start: 3, end: 2 }]),
                Term::Keys { start: 3, end: 2 },
                Term::Segments { starts: [3, 2].into(), offset: 0 },
            ];
            let with = |term: Term| {
                let fill = ScoreStep::Fill(Mask { terms: vec![term], ..Mask::none() });
                let steps = s.attention.scores.steps().iter().cloned().chain([fill]).collect();
                (with(s, steps), 0, 0)
            };
            wrong.map(with).into()
        },
    },
    Kind {
        name: "an arena has room for more shares than its strategy holds",
        checks: &["memory"],
        plant: |s| {
            let a = &s.attention;
            let shares =
                2 * a.kv_bytes(a.sizes.kv_len) + a.carry_bytes(a.sizes.q_len, a.sizes.q_heads) + 4096;
            let larger = |r: usize| {
                let mut s = s.clone();
                let rank = &mut s.ranks[r];
                let slot = annulus::schedule::Slot {
                    name: "kv.more".into(),
                    offset: rank.arena_bytes,
                    bytes: shares,
                };
                rank.arena_bytes += shares;
                rank.slots.push(slot);
                (s, r, 0)
            };
            (0..s.ranks.len()).map(larger).collect()
        },
    },
    Kind {
        name: "sinks are lost",
        checks: &["merge once"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { sinks_here, .. } if nth == 0 && *sinks_here => {
                    *sinks_here = false;
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "sinks are counted by another step too, or where there are none",
        checks: &["merge once", "form"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::AttnPartial { sinks_here, .. } if nth == 0 && !*sinks_here => {
                    *sinks_here = true;
                    true
                }
                _ => false,
            })
        },
    },
];
