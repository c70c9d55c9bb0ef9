//! One rank's outline becomes its steps.
//!
//! The order of issue is that of the outline. Pieces get places in slots: what a ring receives goes into its slots in turn, so
//! that a hop arrives while those before it are computed on and sent on. A merge becomes a field of the partial that it takes in:
//! the first partial of a row starts afresh, each other goes on from the carry, and the last one writes the output.

use super::blocks::{Block, Packed, Port, View};
use super::facts::AttentionFacts;
use super::mesh::Stream;
use super::slots::{Name, Slots, parts};
use super::steps::{ExchangeKind, KvPiece, QPiece, Step, StepOp, Transfer};
use super::travelling::Travelling;
use super::types::RankProgram;
use crate::ir::Strategy;
use crate::layout::Progression;
use crate::ring::Plan;
use crate::ring::outline::{Act, KeyRows, Outline};
use std::collections::BTreeMap;
use std::ops::Range;

/// The program of `rank`.
pub(super) fn rank_program(
    plan: &Plan<'_>,
    (facts, slots): (&AttentionFacts, usize),
    rank: usize,
) -> RankProgram {
    let outline = plan.outline(rank);
    let mut b = Builder {
        plan,
        facts,
        rank,
        receive_slots: slots,
        outline: &outline,
        slots: Slots::default(),
        steps: Vec::with_capacity(outline.acts.len()),
        partials: vec![],
        held: vec![],
        own: 0..0,
        brought: vec![],
        received: 0,
        under_way: vec![],
        travelling: Travelling::default(),
        came: BTreeMap::new(),
        results: BTreeMap::new(),
        unpacked: vec![],
    };
    if plan.strategy == Strategy::Queries {
        // Keys stay at home.
        b.in_place();
    }
    outline.acts.iter().for_each(|act| b.act(*act));
    b.done()
}

/// Own rows in at most so many runs are sent from where the rank is handed them; more are packed.
pub(super) const RUNS: usize = 2;

/// How many rows and heads a piece of queries has, and its carry.
type Carried<'a> = (usize, usize, &'a mut Option<View>);

/// A piece of keys in its place, and the rank that owns it.
type Owned = (KvPiece, usize);

pub(super) struct Builder<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) facts: &'a AttentionFacts,
    pub(super) rank: usize,
    receive_slots: usize,
    outline: &'a Outline,
    pub(super) slots: Slots,
    pub(super) steps: Vec<Step>,
    /// The steps that compute or merge, and their pieces of own queries.
    pub(super) partials: Vec<(usize, Vec<usize>)>,
    /// All pieces that the rank ever holds; which are its own; and which a group brought, in order of beginning.
    held: Vec<Owned>,
    own: Range<usize>,
    brought: Vec<(usize, Range<usize>)>,
    /// How many hops brought anything.
    received: usize,
    /// The groups that were started and not waited for, in order.
    pub(super) under_way: Vec<usize>,
    /// Where queries and partial results that travel lie.
    pub(super) travelling: Travelling,
    /// Blocks of others, in own heads and on their way; results of others; what came home and is not given.
    pub(super) came: BTreeMap<Block, View>,
    pub(super) results: BTreeMap<Block, View>,
    pub(super) unpacked: Vec<Vec<Packed>>,
}

impl Builder<'_> {
    fn act(&mut self, act: Act) {
        match act {
            Act::Pack(cut) => {
                let cut = self.outline.rows(cut);
                if cut.len() <= RUNS && cut == self.plan.site.kv_layout.rows[self.rank] {
                    return self.in_place();
                }
                self.own = self.lay(Name::Local, cut.iter().map(|&rows| (rows, self.rank)).collect());
                let packed = |&(p, _): &Owned| {
                    let block = Block { port: Port::Kv, rows: p.rows, heads: p.heads };
                    Some(Packed { block, at: p.at? })
                };
                let pieces = self.held[self.own.clone()].iter().filter_map(packed).collect();
                self.step(
                    Stream::Compute,
                    StepOp::Pack { pieces },
                    "own keys and values side by side: one message a hop".into(),
                );
            }
            Act::Hop { group, of, sent, to, arriving, from, owner } => {
                let sent = self.outline.rows(sent);
                self.under_way.push(group);
                let sends = to.map(|peer| Transfer { peer, parts: parts(self.some(of, sent)) });
                let (mut reason, mut recvs) = (None, None);
                if let Some(peer) = from {
                    let slot = self.received % self.receive_slots;
                    let rows = self.outline.rows(arriving);
                    let here =
                        self.lay(Name::Received(slot), rows.iter().map(|&rows| (rows, owner)).collect());
                    reason = Some(match self.received < self.receive_slots {
                        true => format!("kv.{slot} was never used: hop {group} may arrive"),
                        false => format!("kv.{slot} is free again: hop {group} may arrive"),
                    });
                    self.received += 1;
                    recvs =
                        Some(Transfer { peer, parts: parts(self.held[here.clone()].iter().map(|p| p.0)) });
                    self.brought.push((group, here));
                }
                let (sends, recvs) = (sends.into_iter().collect(), recvs.into_iter().collect());
                let op = StepOp::Exchange { group, kind: ExchangeKind::SendRecv, sms: None, sends, recvs };
                let reason = reason.unwrap_or_else(|| format!("hop {group} leaves; nothing comes back"));
                self.step(Stream::Comm(0), op, reason);
            }
            Act::Gather { group, sent } => self.gather(group, self.outline.rows(sent)),
            Act::Queries { leg, group } => {
                let plan = self.plan;
                plan.sight.iter().for_each(|sight| self.queries(sight, leg, group));
            }
            Act::Guest { q, keys, tile, .. } => {
                let kv = self.some(KeyRows::Own, self.outline.rows(keys)).collect();
                self.guest(self.outline.guests(q), kv, tile);
            }
            Act::Partials { leg, group } => {
                let plan = self.plan;
                plan.sight.iter().for_each(|sight| self.partials_home(sight, leg, group));
            }
            Act::Relay => self.relay(),
            Act::Merge => {
                let plan = self.plan;
                plan.sight.iter().for_each(|sight| self.merge_home(sight));
            }
            Act::Scatter { leg, part, group } => {
                let plan = self.plan;
                plan.heads.iter().for_each(|heads| self.scatter(heads, (leg, part), group));
            }
            Act::Heads { part } => {
                let plan = self.plan;
                plan.heads.iter().for_each(|heads| self.own_heads(heads, part));
            }
            Act::Home { leg, part, group } => {
                let plan = self.plan;
                plan.heads.iter().for_each(|heads| self.results_home(heads, (leg, part), group));
            }
            Act::Unpack => self.unpack_home(),
            Act::Wait { group } => self.under_way.retain(|&g| g != group),
            Act::Partial { q, keys, of, tile, .. } => {
                let keys = self.outline.rows(keys);
                let kv: Vec<KvPiece> = self.some(of, keys).collect();
                let reason = self.why(of, keys);
                let rows = &self.plan.site.q_layout.rows[self.rank];
                let heads = self.facts.q_heads();
                let piece =
                    |&i: &usize| QPiece { rows: rows[i], heads, at: vec![], carry: None, out: vec![] };
                let pieces = self.outline.queries(q).iter().map(piece).collect();
                // Carries are known when all partial results are.
                let (carry_in, sinks_here, cast_out) = (false, false, false);
                let op = StepOp::AttnPartial { q: pieces, kv, tile, carry_in, sinks_here, cast_out };
                self.partials.push((self.steps.len(), self.outline.queries(q).to_vec()));
                self.step(Stream::Compute, op, reason);
            }
        }
    }

    /// Own keys and values are read and sent where the rank is handed them.
    fn in_place(&mut self) {
        let (from, heads) = (self.held.len(), self.facts.kv_heads());
        let own = self.plan.site.kv_layout.rows[self.rank].iter();
        self.held.extend(own.map(|&rows| (KvPiece { rows, heads, at: None }, self.rank)));
        self.own = from..self.held.len();
    }

    /// Everyone's pieces of a stage in one slot, but for the rank's own, which stay where they are.
    fn gather(&mut self, group: usize, sent: &[Progression]) {
        self.under_way.push(group);
        let stage = &self.plan.stages[group - 1];
        let others = || stage.iter().enumerate().filter(|(r, _)| *r != self.rank);
        let foreign = others().flat_map(|(r, rows)| rows.iter().map(move |&rows| (rows, r))).collect();
        let name = match self.plan.strategy {
            Strategy::AllGather => Name::All,
            _ => Name::Stage(group),
        };
        let sent = parts(self.some(KeyRows::Own, sent));
        let here = self.lay(name, foreign);
        let (mut sends, mut recvs) = (vec![], vec![]);
        let mut rest = &self.held[here.clone()];
        for (peer, rows) in stage.iter().enumerate().filter(|(r, _)| *r != self.rank) {
            let (theirs, behind) = rest.split_at(rows.len());
            rest = behind;
            if !sent.is_empty() {
                sends.push(Transfer { peer, parts: sent.clone() });
            }
            if !theirs.is_empty() {
                recvs.push(Transfer { peer, parts: parts(theirs.iter().map(|p| p.0)) });
            }
        }
        self.brought.push((group, here));
        let reason = match group {
            1 => "keys and values from everyone, under the work on the own ones".into(),
            _ => format!("the next part, under the work on those of stage {}", group - 1),
        };
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllGather, sms: None, sends, recvs };
        self.step(Stream::Comm(0), op, reason);
    }

    /// Pieces side by side from the begin of the slot, which grows to hold them.
    fn lay(&mut self, name: Name, pieces: Vec<(Progression, usize)>) -> Range<usize> {
        let from = self.held.len();
        if pieces.is_empty() {
            return from..from;
        }
        let heads = self.facts.kv_heads();
        let bytes = |rows: &Progression| self.facts.block_bytes(Port::Kv, rows.len, heads.len);
        let slot = self.slots.at_least(name, pieces.iter().map(|(rows, _)| bytes(rows)).sum());
        let mut start = 0;
        for (rows, owner) in pieces {
            let at = View { slot, start, bytes: bytes(&rows) };
            start += at.bytes;
            self.held.push((KvPiece { rows, heads, at: Some(at) }, owner));
        }
        from..self.held.len()
    }

    /// The pieces of a source with these rows, which are in its order.
    fn some(&self, of: KeyRows, rows: &[Progression]) -> impl Iterator<Item = KvPiece> {
        self.some_owned(of, rows).map(|p| p.0)
    }

    fn some_owned(&self, of: KeyRows, rows: &[Progression]) -> impl Iterator<Item = Owned> {
        let held = match of {
            KeyRows::Own => self.own.clone(),
            // One of the last.
            KeyRows::Group(group) => {
                self.brought.iter().rev().find(|b| b.0 == group).map_or(0..0, |b| b.1.clone())
            }
        };
        let mut held = self.held[held].iter();
        // A source has what is taken of it; a key that is lost all the same is missed by the proof.
        rows.iter().filter_map(move |rows| held.find(|p| p.0.rows == *rows).copied())
    }

    /// Why a partial stands where it does.
    fn why(&self, of: KeyRows, keys: &[Progression]) -> String {
        if keys.is_empty() {
            return "these rows see no key".into();
        }
        let mut owners = self.some_owned(of, keys).map(|p| p.1);
        let first = owners.next();
        let whose = match first {
            _ if of == KeyRows::Own => "own keys".to_owned(),
            Some(rank) if owners.all(|o| o == rank) => format!("keys of rank {rank}"),
            _ => "keys of the other ranks".to_owned(),
        };
        match (self.under_way.first(), self.plan.stages.is_empty()) {
            (Some(_), _) if self.plan.strategy == Strategy::Queries => {
                format!("{whose} while queries travel")
            }
            (Some(1), false) => format!("{whose} while the others' arrive"),
            (Some(stage), false) => format!("{whose} while stage {stage} arrives"),
            (Some(hop), true) => format!("{whose} while hop {hop} is under way"),
            (None, _) => format!("{whose}; nothing is under way"),
        }
    }

    /// The stream of transfers that leave the node, or stay in it.
    pub(super) fn stream(&self, far: bool) -> Stream {
        Stream::Comm(usize::from(self.plan.levels.are_two() && !far))
    }

    pub(super) fn step(&mut self, stream: Stream, op: StepOp, reason: String) {
        self.steps.push(Step { stream, waits: vec![], records: None, op, reason });
    }

    /// Carries, offsets and events.
    fn done(mut self) -> RankProgram {
        // Of each piece of queries the last step that computes it, and its carry from the first one on.
        let pieces = self.plan.site.q_layout.rows[self.rank].len();
        let mut last = vec![0; pieces];
        for (step, members) in &self.partials {
            members.iter().for_each(|&i| last[i] = *step);
        }
        let mut carries: Vec<Option<View>> = vec![None; pieces];
        let mut end = 0;
        for (step, members) in &self.partials {
            let (q, [carry_in, sinks_here, cast_out]) = match &mut self.steps[*step].op {
                StepOp::AttnPartial { q, carry_in, sinks_here, cast_out, .. } => {
                    let q: Vec<Carried<'_>> =
                        q.iter_mut().map(|p| (p.rows.len, p.heads.len, &mut p.carry)).collect();
                    (q, [carry_in, sinks_here, cast_out])
                }
                StepOp::Merge { q, carry_in, sinks_here, cast_out } => {
                    let q = q.iter_mut().map(|p| (p.rows.len, p.heads.len, &mut p.carry)).collect();
                    (q, [carry_in, sinks_here, cast_out])
                }
                _ => continue,
            };
            // The same of all: the outline puts pieces together that stand alike.
            *carry_in = members.iter().any(|&i| carries[i].is_some());
            *cast_out = members.iter().all(|&i| last[i] == *step);
            // Counted last.
            *sinks_here = *cast_out && self.facts.sinks.is_some();
            if *cast_out && !*carry_in {
                continue;
            }
            for ((rows, heads, carry), &i) in q.into_iter().zip(members) {
                *carry = Some(*carries[i].get_or_insert_with(|| {
                    let bytes = self.facts.carry_bytes(rows, heads);
                    let slot = self.slots.at_least(Name::Carries, end + bytes);
                    let view = View { slot, start: end, bytes };
                    end += bytes;
                    view
                }));
            }
        }
        let (slots, arena_bytes) = self.slots.place();
        let streams = 2 + usize::from(self.plan.levels.are_two());
        super::events::derive(&mut self.steps, &slots, streams);
        RankProgram { arena_bytes, slots, steps: self.steps }
    }
}
