//! memory: arenas are as large as their strategy needs, and no larger; the head says how many receive slots a ring has.
//!
//! **Slots.** Every slot is named by a step, and every byte of it is filled by one. A slot begins where one before it ends, or
//! at the next multiple of 256 behind that, and the last one ends the arena: so that of an arena all bytes are filled but for
//! fewer than 256 in front of a slot.
//!
//! **The closed form.** Of shares, and of the receive slots that the head says, each part of what a rank keeps by itself:
//!
//! | what is kept | `ring`, `ring-reverse` with S receive slots | `all-gather`, `all-gather-staged` | `queries` |
//! |---|---|---|---|
//! | what is packed | own keys and values, once | the same | own queries and their leaves, once |
//! | what arrives | as much as S others own, those with the most | as much as all others own | the queries and leaves of all others, and o, m and l of its rows from each of them |
//! | carries | o, m and l of its rows, once | the same | of all rows, once |
//!
//! On a mesh of two axes, in `queries`, o, m and l of its rows arrive once from each other rank of its node and once from each other node, and
//! those of the rows of each rank whose deputy it is from each other rank of its node.
//!
//! In `heads` a rank packs its own rows in the heads of others, gets the rows of others in its own heads and the results of its rows
//! in those of others, has results of others in its own heads, and no carry. On
//! two axes there are besides, on their way, the rows of those whose deputy it is in the heads of its node, and their results in these.
//!
//! and no more than the messages bring that arrive: S of them, the largest, or all. Of equal shares in a ring under no mask each
//! is reached to the byte, and for a ring none depends on the number of ranks.
//!
//! **Receive slots.** The head of a ring says as many as the rank with the most has, and 2 where that is fewer: one that
//! receives sends on at the same time. No rank has more of them than it receives messages. A strategy that is no ring has
//! none, and its head says 2.

use super::arena::{By, Filled};
use super::bytes::{block_bytes, carry_bytes, keys_of, kv_bytes, leaf_heads};
use super::levels::{deputised, inner_size};
use super::log::Log;
use crate::ir::Strategy;
use crate::layout::Progression;
use crate::schedule::{AttentionFacts, Heads, Port, RankProgram, SLOTS, Schedule};
use rayon::prelude::*;

/// Slots that do not begin where another one ends begin at a multiple of this.
const ALIGNMENT: usize = 256;

pub(super) fn memory(schedule: &Schedule, log: &mut Log<'_>) {
    let filled: Vec<Filled> = schedule.ranks.par_iter().map(Filled::of).collect();
    receive_slots(schedule, &filled, log);
    let shares = Shares::of(schedule);
    log.each_rank(|r, log| {
        let (program, filled) = (&schedule.ranks[r], &filled[r]);
        slots(program, filled, r, log);
        let needs = shares.needed(schedule, r, &filled.messages);
        for (by, (most, what)) in By::ALL.into_iter().zip(needs) {
            let bytes = filled.bytes(program, by) as u128;
            if bytes <= most {
                log.fact();
                continue;
            }
            log.fail_at(r, 0, "arena".to_owned(), || {
                let strategy = schedule.strategy;
                format!(
                    "it has {bytes} bytes for {what}; the {strategy} strategy needs {most} of them at most"
                )
            });
        }
    });
}

/// What the head says of receive slots.
fn receive_slots(schedule: &Schedule, filled: &[Filled], log: &mut Log<'_>) {
    let says = schedule.slots;
    let mut told = |holds: bool, rank: usize, message: &dyn Fn() -> String| {
        if holds { log.fact() } else { log.fail_at(rank, 0, "slots".to_owned(), message) }
    };
    if !schedule.strategy.is_ring() {
        told(says == SLOTS, 0, &|| {
            format!("the head says {says} receive slots, and {} is no ring that has any", schedule.strategy)
        });
        return;
    }
    let mut most = (0, 0);
    for (rank, filled) in filled.iter().enumerate() {
        let (slots, messages) = (filled.receive_slots(), filled.messages.len());
        told(slots <= messages, rank, &|| {
            format!("it has {slots} receive slots for the {messages} messages that it receives")
        });
        if slots > most.0 {
            most = (slots, rank);
        }
    }
    let (most, rank) = most;
    told(says == most.max(SLOTS), rank, &|| {
        let messages = filled.iter().map(|f| f.messages.len()).max().unwrap_or(0);
        format!(
            "the head says {says} receive slots; the most that a rank fills are {most}, and the most messages that one \
             receives are {messages}: it must say {}",
            most.max(SLOTS)
        )
    });
}

/// Slots are used, filled, and side by side.
fn slots(program: &RankProgram, filled: &Filled, r: usize, log: &mut Log<'_>) {
    let mut told = |holds: bool, message: &dyn Fn() -> String| {
        if holds { log.fact() } else { log.fail_at(r, 0, "arena".to_owned(), message) }
    };
    let name = |i: usize| program.slots[i].name.escape_debug().to_string();
    for (i, slot) in program.slots.iter().enumerate() {
        told(filled.named[i], &|| format!("no step uses slot {}", name(i)));
        if filled.named[i] {
            let gap = filled.unfilled(i, slot.bytes);
            told(gap.is_none(), &|| {
                let (from, to) = gap.unwrap_or_default();
                format!("no step fills bytes {from}..{to} of slot {}", name(i))
            });
        }
    }
    let mut order: Vec<usize> = (0..program.slots.len()).collect();
    order.sort_by_key(|&i| program.slots[i].offset);
    let mut end = 0usize;
    for i in order {
        let offset = program.slots[i].offset;
        let aligned = end.checked_next_multiple_of(ALIGNMENT);
        told(offset <= end || Some(offset) == aligned, &|| {
            format!(
                "slot {} begins at byte {offset}, and bytes {end}..{offset} are in no slot: it may begin at {end}, or at \
                 the next multiple of {ALIGNMENT}",
                name(i)
            )
        });
        end = end.max(offset + program.slots[i].bytes);
    }
    told(program.arena_bytes == end, &|| {
        format!("it has {} bytes, and its last slot ends at byte {end}", program.arena_bytes)
    });
}

/// Bytes of the keys and values of each rank.
struct Shares {
    keys: Vec<u128>,
    /// The same, the most first, and for each number of them their sum.
    order: Vec<u128>,
    sums: Vec<u128>,
}

impl Shares {
    fn of(schedule: &Schedule) -> Shares {
        let a = &schedule.attention;
        let bytes = |own: &Vec<Progression>| kv_bytes(a, rows(own)).unwrap_or(usize::MAX) as u128;
        let keys: Vec<u128> = schedule.kv_layout.rows.iter().map(bytes).collect();
        let mut order = keys.clone();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let mut sums = vec![0u128];
        for share in &order {
            sums.push(sums.last().map_or(0, |sum| sum.saturating_add(*share)));
        }
        Shares { keys, order, sums }
    }

    /// The sum of the `count` largest shares of other ranks than `r`.
    fn of_others(&self, r: usize, count: usize) -> u128 {
        let count = count.min(self.order.len());
        // A rank whose share is among the largest gives its place to the next.
        let among = count > 0 && self.keys[r] >= self.order[count - 1];
        if !among {
            return self.sums[count];
        }
        self.sums[(count + 1).min(self.order.len())] - self.keys[r]
    }

    /// The most bytes that rank `r` fills, in the order of [`By::ALL`], and what they are for.
    fn needed(&self, schedule: &Schedule, r: usize, messages: &[usize]) -> [(u128, String); 4] {
        let a = &schedule.attention;
        let own = rows(&schedule.q_layout.rows[r]);
        let carry = |rows: usize| carry_bytes(a, rows, a.sizes.q_heads).unwrap_or(usize::MAX) as u128;
        let all = |bytes: &[usize]| bytes.iter().fold(0u128, |sum, &b| sum.saturating_add(b as u128));
        let keys = (self.keys[r], "the rank's own keys and values".to_owned());
        let others = self.of_others(r, self.keys.len());
        let results = (0, "results that are not written where they are given".to_owned());
        let (packed, others, arrived, slots, carries) = match schedule.strategy {
            // One share is computed on and sent on while the next arrives, in as many slots as the head says.
            Strategy::Ring | Strategy::RingReverse => {
                let slots = schedule.slots;
                let mut messages = messages.to_vec();
                if slots < messages.len() {
                    messages.select_nth_unstable_by(slots, |a, b| b.cmp(a));
                    messages.truncate(slots);
                }
                let others = self.of_others(r, slots);
                (keys, others, all(&messages), format!(" in {slots} receive slots"), carry(own))
            }
            Strategy::AllGather | Strategy::AllGatherStaged => {
                (keys, others, all(messages), String::new(), carry(own))
            }
            // Queries of all others, and of each of them a partial result of the own ones; a carry of every row.
            Strategy::Queries => {
                let (length, ranks) = (a.sizes.q_len, schedule.ranks.len());
                let near = (inner_size(schedule).min(ranks) as u128).saturating_sub(1);
                let on_the_way = deputised(schedule, r).map(|o| carry(rows(&schedule.q_layout.rows[o])));
                let nodes = deputised(schedule, r).count() as u128;
                let home = on_the_way.fold(carry(own).saturating_mul(near + nodes), |sum, carry| {
                    sum.saturating_add(carry.saturating_mul(near))
                });
                let packed = (travels(a, own), "the rank's own queries".to_owned());
                let guests = travels(a, length.saturating_sub(own));
                (packed, guests.saturating_add(home), all(messages), String::new(), carry(length))
            }
            Strategy::Heads => (keys, others, 0, String::new(), 0),
        };
        if schedule.strategy == Strategy::Heads {
            return dealt(schedule, r, all(messages));
        }
        [
            packed,
            (others.min(arrived), format!("what arrives{slots}")),
            (carries, "carries".to_owned()),
            results,
        ]
    }
}

/// Where heads are dealt out, a rank packs at most its own rows in the heads of others, once for each key head that they read; rows
/// of others come in its own heads, and results of its rows in those of others; and it has the results of others in its own.
fn dealt(schedule: &Schedule, r: usize, arrived: u128) -> [(u128, String); 4] {
    let a = &schedule.attention;
    let s = &a.sizes;
    let ranks = schedule.ranks.len();
    let upto = |rank: usize| s.q_heads * rank / ranks;
    let share = |rank: usize| Heads { start: upto(rank), len: upto(rank + 1) - upto(rank) };
    let ports = a.leaves.iter().enumerate().filter(|(_, l)| l.by_query_rows).map(|(n, _)| Port::Leaf(n + 3));
    let ports: Vec<Port> = [Port::Q].into_iter().chain(ports).collect();
    let bytes = |port, rows, heads| block_bytes(a, port, rows, heads).unwrap_or(usize::MAX) as u128;
    let (q, k) = (rows(&schedule.q_layout.rows[r]), rows(&schedule.kv_layout.rows[r]));
    // What rows of queries and of keys take in some heads.
    let takes = |q: usize, k: usize, heads: Heads| {
        let of = |&port: &Port| bytes(port, q, leaf_heads(a, port, heads).len);
        let queries = ports.iter().map(of).fold(0u128, u128::saturating_add);
        queries.saturating_add(bytes(Port::Kv, k, keys_of(a, heads).len))
    };
    let gives = |rows: usize, heads: usize| {
        let lse = if a.lse { bytes(Port::Lse, rows, heads) } else { 0 };
        bytes(Port::Out, rows, heads).saturating_add(lse)
    };
    let of_others = (0..ranks).filter(|&o| o != r && share(o).len > 0).map(|o| takes(q, k, share(o)));
    let own = share(r);
    // Rows of others on their way to the other ranks of the node, and their results on the way back.
    let node = deputised(schedule, r).flat_map(|o| {
        let (q, k) = (rows(&schedule.q_layout.rows[o]), rows(&schedule.kv_layout.rows[o]));
        let size = inner_size(schedule);
        let others = (r / size * size..(r / size + 1) * size).filter(move |&t| t != r && t < ranks);
        others.map(move |t| (q, k, t)).collect::<Vec<_>>()
    });
    let on_the_way = node.fold(0u128, |sum, (q, k, t)| {
        let of = takes(q, k, share(t)).saturating_add(gives(q, share(t).len));
        sum.saturating_add(if share(t).len > 0 { of } else { 0 })
    });
    let (other_q, other_k) = (s.q_len.saturating_sub(q), s.kv_len.saturating_sub(k));
    let come = if own.len == 0 { 0 } else { takes(other_q, other_k, own) };
    let home = gives(q, s.q_heads - own.len);
    [
        (of_others.fold(0, u128::saturating_add), "the rank's own rows in the heads of others".to_owned()),
        (come.saturating_add(home).saturating_add(on_the_way).min(arrived), "what arrives".to_owned()),
        (0, "carries".to_owned()),
        (gives(other_q, own.len), "results of other ranks' rows".to_owned()),
    ]
}

/// Bytes of so many rows of queries and of what goes with them.
fn travels(a: &AttentionFacts, rows: usize) -> u128 {
    let leaves = a.leaves.iter().enumerate().filter(|(_, l)| l.by_query_rows).map(|(n, _)| Port::Leaf(n + 3));
    let bytes = |port| block_bytes(a, port, rows, a.sizes.q_heads).unwrap_or(usize::MAX) as u128;
    leaves.chain([Port::Q]).map(bytes).fold(0, u128::saturating_add)
}

fn rows(own: &[Progression]) -> usize {
    own.iter().map(|p| p.len).sum()
}
