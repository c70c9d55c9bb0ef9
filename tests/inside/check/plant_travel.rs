//! Faults of what travels besides keys: own rows that are sent where they lie, heads, received queries, partial results that are
//! merged, results that come home, and meshes.

use super::edit::{at, blocks, each, each_op, places};
use super::plant::{Kind, Planted};
use annulus::layout::Progression;
use annulus::schedule::{
    Block, Heads, KvPiece, Merged, Packed, Port, QPiece, Schedule, StepOp, Stream, Transfer, View,
};

/// Blocks of own rows that are sent, and of results that are received.
fn owned(op: &mut StepOp) -> Vec<&mut Block> {
    match op {
        StepOp::Exchange { sends, recvs, .. } => {
            let mut all = blocks(sends);
            all.extend(blocks(recvs));
            all
        }
        StepOp::Pack { pieces } | StepOp::Unpack { pieces } => {
            pieces.iter_mut().map(|p| &mut p.block).collect()
        }
        _ => vec![],
    }
}

fn queries(op: &mut StepOp) -> Vec<&mut QPiece> {
    if let StepOp::AttnPartial { q, .. } = op { q.iter_mut().collect() } else { vec![] }
}

fn keys(op: &mut StepOp) -> Vec<&mut KvPiece> {
    if let StepOp::AttnPartial { kv, .. } = op { kv.iter_mut().collect() } else { vec![] }
}

fn merged(op: &mut StepOp) -> Vec<&mut Merged> {
    if let StepOp::Merge { q, .. } = op { q.iter_mut().collect() } else { vec![] }
}

fn unpacked(op: &mut StepOp) -> Vec<&mut Packed> {
    if let StepOp::Unpack { pieces } = op { pieces.iter_mut().collect() } else { vec![] }
}

fn messages(op: &mut StepOp) -> Vec<&mut Transfer> {
    if let StepOp::Exchange { sends, recvs, .. } = op {
        sends.iter_mut().chain(recvs).collect()
    } else {
        vec![]
    }
}

/// As many heads one further on, or one back where there are no more.
fn others(heads: Heads, all: usize) -> Option<Heads> {
    let start = if heads.end() < all { heads.start + 1 } else { heads.start.checked_sub(1)? };
    Some(Heads { start, ..heads })
}

/// Changes one after another of those that can be changed.
fn some<T>(items: Vec<&mut T>, nth: usize, can: impl Fn(&T) -> bool, change: impl FnOnce(&mut T)) -> bool {
    at(items.into_iter().filter(|item| can(item)).collect(), nth, change)
}

/// The same in each step.
fn each_of<T>(
    s: &Schedule,
    items: impl for<'a> Fn(&'a mut StepOp) -> Vec<&'a mut T>,
    can: impl Fn(&T) -> bool,
    change: impl Fn(&mut T),
) -> Vec<Planted> {
    each_op(s, |op, nth| some(items(op), nth, &can, &change))
}

/// Another piece of a layout of as many rows.
fn twin(s: &Schedule, port: Port, rows: Progression) -> Option<Progression> {
    let layout = if port == Port::Kv { &s.kv_layout } else { &s.q_layout };
    let rank = layout.rows.iter().find(|own| own.contains(&rows))?;
    rank.iter().copied().find(|other| other.len == rows.len && *other != rows)
}

/// Each rank's program where one flag of each merge is turned round.
fn flag(s: &Schedule, which: fn(&mut StepOp) -> Option<&mut bool>) -> Vec<Planted> {
    each_op(s, |op, nth| nth == 0 && which(op).map(|flag| *flag = !*flag).is_some())
}

/// Every kind.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "own rows that are sent, or results that are received, are others of the rank",
        checks: &["filled"],
        plant: |s| {
            each_of(
                s,
                owned,
                |b| twin(s, b.port, b.rows).is_some(),
                |b| b.rows = twin(s, b.port, b.rows).unwrap(),
            )
        },
    },
    Kind {
        name: "own rows that are sent, or results that are received, are not the rank's",
        // They may be those of another piece of its own.
        checks: &["form", "filled"],
        plant: |s| each_of(s, owned, |_| true, |b| b.rows.start += 1),
    },
    Kind {
        name: "other heads of own rows are sent, or of results received",
        checks: &["filled"],
        plant: |s| {
            let new = |b: &Block| others(b.heads, s.attention.heads_of(b.port).len);
            each_of(s, owned, |b| new(b).is_some(), |b| b.heads = new(b).unwrap())
        },
    },
    Kind {
        name: "fewer heads of own rows are sent, or of results received",
        // A leaf that is one for all heads has them once, as many as they are.
        checks: &["matching", "form", "filled"],
        plant: |s| each_of(s, owned, |b| b.heads.len > 1, |b| b.heads.len -= 1),
    },
    Kind {
        name: "own rows of another tensor are sent, or others received",
        checks: &["form", "matching", "filled"],
        plant: |s| {
            let next = |p| match p {
                Port::Q => Port::Kv,
                Port::Kv => Port::Q,
                Port::Leaf(_) => Port::Q,
                Port::Out => Port::Lse,
                Port::Lse => Port::Out,
            };
            each_of(s, owned, |_| true, |b| b.port = next(b.port))
        },
    },
    Kind {
        name: "received queries are called those of other heads",
        checks: &["filled", "form"],
        plant: |s| {
            let new = |p: &QPiece| others(p.heads, s.attention.sizes.q_heads).filter(|_| !p.at.is_empty());
            each_of(s, queries, |p| new(p).is_some(), |p| p.heads = new(p).unwrap())
        },
    },
    Kind {
        name: "own queries are of other heads",
        checks: &["form", "coverage", "merge once", "filled"],
        plant: |s| {
            let new = |p: &QPiece| others(p.heads, s.attention.sizes.q_heads).filter(|_| p.at.is_empty());
            each_of(s, queries, |p| new(p).is_some(), |p| p.heads = new(p).unwrap())
        },
    },
    Kind {
        name: "received queries are called other rows",
        checks: &["filled", "form"],
        plant: |s| each_of(s, queries, |p| !p.at.is_empty(), |p| p.rows.start += 1),
    },
    Kind {
        name: "received queries are said to be the rank's own",
        checks: &["form"],
        plant: |s| each_of(s, queries, |p| !p.at.is_empty(), |p| p.at.clear()),
    },
    Kind {
        name: "received queries lack a leaf",
        checks: &["form"],
        plant: |s| {
            each_of(
                s,
                queries,
                |p| p.at.len() > 1,
                |p| {
                    p.at.pop();
                },
            )
        },
    },
    Kind {
        name: "received queries read what came with others",
        checks: &["filled"],
        plant: |s| {
            each_op(s, |op, nth| {
                let mut q = queries(op);
                let pairs: Vec<(usize, usize)> = (1..q.len())
                    .filter(|&n| !q[n].at.is_empty() && q[n].at.len() == q[n - 1].at.len())
                    .filter(|&n| q[n].rows.len == q[n - 1].rows.len)
                    .map(|n| (n - 1, n))
                    .collect();
                let Some(&(a, b)) = pairs.get(nth) else { return false };
                let (first, second) = q.split_at_mut(b);
                std::mem::swap(&mut first[a].at, &mut second[0].at);
                true
            })
        },
    },
    Kind {
        name: "keys are of fewer heads than the queries read",
        checks: &["form"],
        plant: |s| each_of(s, keys, |_| true, |p| p.heads.len -= 1),
    },
    Kind {
        name: "received keys are called those of other heads",
        checks: &["filled", "form"],
        plant: |s| {
            let new = |p: &KvPiece| others(p.heads, s.attention.sizes.kv_heads).filter(|_| p.at.is_some());
            each_of(s, keys, |p| new(p).is_some(), |p| p.heads = new(p).unwrap())
        },
    },
    Kind {
        name: "received keys are said to be the rank's own",
        checks: &["form"],
        plant: |s| each_of(s, keys, |p| p.at.is_some(), |p| p.at = None),
    },
    Kind {
        name: "own keys are read from the arena",
        checks: &["filled", "form"],
        plant: |s| {
            each(s, |s, r, i, nth| {
                let facts = s.attention.clone();
                let rank = &mut s.ranks[r];
                let slots = rank.slots.clone();
                let place = |p: &KvPiece| {
                    let bytes = facts.block_bytes(Port::Kv, p.rows.len, p.heads.len);
                    let slot = slots.iter().position(|slot| slot.bytes >= bytes && bytes > 0)?;
                    Some(View { slot, start: 0, bytes })
                };
                let can = |p: &KvPiece| p.at.is_none() && place(p).is_some();
                some(keys(&mut rank.steps[i].op), nth, can, |p| p.at = place(p))
            })
        },
    },
    Kind {
        name: "the parts of a message are in another order",
        checks: &["filled", "matching"],
        plant: |s| {
            each_of(
                s,
                messages,
                |t| t.parts.len() > 1 && t.parts[0] != t.parts[t.parts.len() - 1],
                |t| t.parts.reverse(),
            )
        },
    },
    Kind {
        name: "a part of a message is left out",
        checks: &["matching"],
        plant: |s| {
            each_of(
                s,
                messages,
                |_| true,
                |t| {
                    t.parts.pop();
                },
            )
        },
    },
    Kind {
        name: "a result, or where it comes to lie, is that of other rows",
        checks: &["filled", "form", "merge once"],
        plant: |s| {
            each_op(s, |op, nth| {
                let mut q = queries(op);
                let pairs: Vec<usize> = (1..q.len())
                    .filter(|&n| !q[n].out.is_empty() && q[n - 1].rows.len == q[n].rows.len)
                    .collect();
                let Some(&n) = pairs.get(nth) else { return false };
                let (first, second) = q.split_at_mut(n);
                std::mem::swap(&mut first[n - 1].out, &mut second[0].out);
                true
            })
        },
    },
    Kind {
        name: "a result has no place for the log-sum-exp",
        checks: &["form"],
        plant: |s| {
            each_of(
                s,
                queries,
                |p| p.out.len() > 1,
                |p| {
                    p.out.pop();
                },
            )
        },
    },
    Kind {
        name: "results of received rows are said to be the rank's own",
        checks: &["form"],
        plant: |s| each_of(s, queries, |p| !p.out.is_empty(), |p| p.out.clear()),
    },
    Kind {
        name: "a partial result is left out of a merge",
        checks: &["merge once", "form"],
        plant: |s| {
            each_of(
                s,
                merged,
                |_| true,
                |p| {
                    p.partials.pop();
                },
            )
        },
    },
    Kind {
        name: "a partial result is merged twice",
        checks: &["merge once"],
        plant: |s| each_of(s, merged, |_| true, |p| p.partials.push(p.partials[0])),
    },
    Kind {
        name: "a partial result of other rows is merged",
        checks: &["filled"],
        plant: |s| {
            each_op(s, |op, nth| {
                let mut q = merged(op);
                let pairs: Vec<usize> =
                    (1..q.len()).filter(|&n| q[n - 1].rows.len == q[n].rows.len).collect();
                let Some(&n) = pairs.get(nth) else { return false };
                let (first, second) = q.split_at_mut(n);
                std::mem::swap(&mut first[n - 1].partials, &mut second[0].partials);
                true
            })
        },
    },
    Kind {
        name: "a merge is of other rows",
        checks: &["form", "filled", "merge once"],
        plant: |s| each_of(s, merged, |_| true, |p| p.rows.start += 1),
    },
    Kind {
        name: "a merge is of fewer heads",
        checks: &["form"],
        plant: |s| each_of(s, merged, |p| p.heads.len > 1, |p| p.heads.len -= 1),
    },
    Kind {
        name: "query rows are left out of a merge",
        checks: &["merge once"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Merge { q, .. } if nth < q.len() => {
                    q.remove(nth);
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "carry_in of a merge is turned round",
        checks: &["merge once", "form", "filled"],
        plant: |s| flag(s, |op| if let StepOp::Merge { carry_in, .. } = op { Some(carry_in) } else { None }),
    },
    Kind {
        name: "cast_out of a merge is turned round",
        checks: &["merge once", "form", "filled"],
        plant: |s| flag(s, |op| if let StepOp::Merge { cast_out, .. } = op { Some(cast_out) } else { None }),
    },
    Kind {
        name: "a merge counts sinks that are counted, or counts them no more",
        checks: &["merge once", "form"],
        plant: |s| {
            flag(s, |op| if let StepOp::Merge { sinks_here, .. } = op { Some(sinks_here) } else { None })
        },
    },
    Kind {
        name: "results are unpacked from elsewhere",
        checks: &["filled", "form"],
        plant: |s| each_of(s, unpacked, |p| p.at.start > 0, |p| p.at.start -= 1),
    },
    Kind {
        name: "results are not unpacked",
        checks: &["merge once"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Unpack { pieces } if nth < pieces.len() => {
                    pieces.remove(nth);
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "results are unpacked twice",
        checks: &["merge once"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Unpack { pieces } if nth < pieces.len() => {
                    pieces.push(pieces[nth]);
                    true
                }
                _ => false,
            })
        },
    },
    Kind {
        name: "a message comes to lie one byte off",
        checks: &["form", "filled", "race"],
        plant: |s| {
            each_op(s, |op, nth| match op {
                StepOp::Exchange { recvs, .. } => some(places(recvs), nth, |v| v.bytes > 0, |v| v.start += 1),
                _ => false,
            })
        },
    },
    Kind {
        name: "a transfer is on the stream of another axis",
        checks: &["form"],
        plant: |s| {
            let axes = s.mesh.axes.len();
            each(s, |s, r, i, nth| {
                let step = &mut s.ranks[r].steps[i];
                let Stream::Comm(axis) = step.stream else { return false };
                let empty = messages(&mut step.op).is_empty();
                // Behind the last there is none.
                let next = (axis + 1 + nth) % (axes + 1);
                step.stream = Stream::Comm(next);
                nth < axes && (!empty || next == axes)
            })
        },
    },
    Kind {
        name: "the mesh has other sizes, or axes in another order",
        checks: &["form"],
        plant: |s| {
            let mut out = vec![];
            for axis in 0..s.mesh.axes.len() {
                for size in [0, s.mesh.axes[axis].size + 1, usize::MAX] {
                    let mut planted = s.clone();
                    planted.mesh.axes[axis].size = size;
                    out.push((planted, 0, 0));
                }
                let mut planted = s.clone();
                planted.mesh.axes.push(planted.mesh.axes[axis].clone());
                out.push((planted, 0, 0));
            }
            if s.mesh.axes.windows(2).any(|w| w[0].size != w[1].size) {
                let mut planted = s.clone();
                planted.mesh.axes.reverse();
                out.push((planted, 0, 0));
            }
            out
        },
    },
];
