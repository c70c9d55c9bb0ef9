//! One rank's island graph becomes its steps.
//!
//! The order of issue is that of the graph. Values become places: rows of an argument, or pieces in slots. What is received
//! goes into two slots in turn, so that a hop arrives while the hop before it is computed on and sent on.

use super::fold::Fold;
use super::slots::{Slots, views};
use super::types::*;
use crate::ir::{Collective, Graph, Op, OpId, Partial, ValueId};
use crate::layout::{Progression, row_count};
use crate::mask::Tile;
use crate::ring::Strategy;
use crate::ring::site::Site;
use std::collections::HashMap;

/// The program of `rank`.
pub(super) fn rank_program(
    site: &Site<'_>,
    (facts, strategy): (&AttentionFacts, Strategy),
    owners: &HashMap<usize, usize>,
    graph: &Graph,
    rank: usize,
) -> Result<RankProgram, String> {
    let mut b = Builder {
        site,
        facts,
        strategy,
        owners,
        graph,
        rank,
        places: HashMap::new(),
        slots: Slots::default(),
        steps: vec![],
        partials: vec![],
        fold: Fold::default(),
        received: 0,
        under_way: vec![],
        gathers: false,
        finished: false,
    };
    for (i, input) in graph.inputs().into_iter().enumerate() {
        let place = match i {
            0 => Place::Queries(site.q_layout.rows[rank].clone()),
            1 | 2 => Place::Keys,
            argument => Place::Leaf(argument),
        };
        b.places.insert(input, place);
    }
    for op in graph.ops() {
        b.op(op).map_err(|why| format!("{} {}: {why}", graph.op(op).name(), name(graph, op)))?;
    }
    b.done()
}

fn name(graph: &Graph, op: OpId) -> &str {
    &graph.value(graph.result(op)).name
}

/// Where a value of the island graph is.
#[derive(Clone, Debug)]
enum Place {
    /// Rows of argument 0.
    Queries(Vec<Progression>),
    /// All rows of argument 1 or 2, or none of them.
    Keys,
    /// This argument, or rows of it: the step reads it.
    Leaf(usize),
    /// Packed keys and values in slots.
    Packed(Vec<KvPiece>, Whose),
    /// The same, still arriving with this group.
    Arriving(Vec<KvPiece>, Whose, usize),
}

/// Whose keys they are, for the reader.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Own,
    /// Those of one other rank.
    Of(usize),
    /// Those of several.
    Others,
}

struct Builder<'a> {
    site: &'a Site<'a>,
    facts: &'a AttentionFacts,
    strategy: Strategy,
    /// The rank that owns the piece of keys with this first row.
    owners: &'a HashMap<usize, usize>,
    graph: &'a Graph,
    rank: usize,
    /// Looked up, never walked.
    places: HashMap<ValueId, Place>,
    slots: Slots,
    steps: Vec<Step>,
    /// For each partial in order the step that does it; none for a partial of no rows.
    partials: Vec<Option<usize>>,
    fold: Fold,
    /// How many hops brought anything.
    received: usize,
    /// The groups that were started and not waited for, in order.
    under_way: Vec<usize>,
    /// Whether the transfers are all-gathers.
    gathers: bool,
    finished: bool,
}

impl Builder<'_> {
    fn op(&mut self, id: OpId) -> Result<(), String> {
        let operands = self.graph.operands(id);
        let place = match self.graph.op(id) {
            Op::Input(_) => return Ok(()),
            Op::Concat { axis: 3 } => self.pack(id)?,
            Op::Chunk { rows, .. } => self.chunk(self.place(&operands, 0)?, rows)?,
            Op::Rows { .. } | Op::Reshape(_) => match self.place(&operands, 0)? {
                Place::Leaf(argument) => Place::Leaf(argument),
                _ => return Err("only leaves are cut so".into()),
            },
            Op::Start(c, _) => self.start(c, &operands)?,
            Op::Wait => match self.place(&operands, 0)? {
                Place::Arriving(pieces, whose, group) => {
                    self.under_way.retain(|&g| g != group);
                    Place::Packed(pieces, whose)
                }
                _ => return Err("nothing was started".into()),
            },
            Op::Partial(p) => return self.partial(id, p, &operands),
            Op::Merge { .. } => {
                let (a, b) = (triple(&operands, 0)?, triple(&operands, 3)?);
                return self.fold.merge(id, a, b);
            }
            Op::Finish { .. } => return self.finish(id, &operands),
            other => return Err(format!("{} is no operation of an island", other.name())),
        };
        self.places.insert(self.graph.result(id), place);
        Ok(())
    }

    fn place(&self, operands: &[ValueId], slot: usize) -> Result<Place, String> {
        let place = operands.get(slot).and_then(|v| self.places.get(v));
        place.cloned().ok_or_else(|| format!("operand {slot} is nowhere"))
    }

    /// Keys and values side by side: a copy, unless there are no rows.
    fn pack(&mut self, id: OpId) -> Result<Place, String> {
        let own = &self.site.kv_layout.rows[self.rank];
        let held = self.graph.ty(self.graph.result(id)).shape.get(2).copied();
        if held == Some(0) {
            return Ok(Place::Packed(vec![], Whose::Own));
        }
        if held != Some(row_count(own)) {
            return Err("it is not over the rank's keys and values".into());
        }
        // As they are cut where they are used.
        let cut = |v: ValueId| {
            self.graph.uses(v).into_iter().find_map(|(op, _)| match self.graph.op(op) {
                Op::Chunk { of, .. } => Some(of.clone()),
                Op::Partial(p) => Some(p.k_rows.clone()),
                _ => None,
            })
        };
        let pieces = cut(self.graph.result(id)).unwrap_or_else(|| own.clone());
        let pieces = self.slots.lay("kv.local", &pieces, |rows| self.facts.kv_bytes(rows));
        self.step(
            Stream::Compute,
            StepOp::Pack { pieces: pieces.clone() },
            "own keys and values side by side: one message a hop".into(),
        );
        Ok(Place::Packed(pieces, Whose::Own))
    }

    fn chunk(&self, of: Place, rows: &[Progression]) -> Result<Place, String> {
        match of {
            Place::Queries(own) if rows.iter().all(|r| own.contains(r)) => Ok(Place::Queries(rows.to_vec())),
            Place::Keys if rows.is_empty() => Ok(Place::Keys),
            Place::Leaf(argument) => Ok(Place::Leaf(argument)),
            Place::Packed(pieces, whose) => {
                let find = |r: &Progression| pieces.iter().find(|p| p.rows == *r).copied();
                let chosen = rows.iter().map(find).collect::<Option<Vec<_>>>();
                chosen.map(|c| Place::Packed(c, whose)).ok_or_else(|| "it cuts a piece of keys".into())
            }
            _ => Err("rows are cut of what has no such pieces".into()),
        }
    }

    fn start(&mut self, collective: &Collective, operands: &[ValueId]) -> Result<Place, String> {
        let sent = match operands {
            [] => vec![],
            _ => match self.place(operands, 0)? {
                Place::Packed(pieces, _) => pieces,
                _ => return Err("only packed keys and values travel".into()),
            },
        };
        let group = collective.group();
        self.under_way.push(group);
        self.gathers = matches!(collective, Collective::AllGather { .. });
        match collective {
            Collective::SendRecv { to, from, rows, .. } => self.hop(group, *to, *from, rows, &sent),
            Collective::AllGather { rows, .. } => self.gather(group, rows, &sent),
        }
    }

    fn hop(
        &mut self,
        group: usize,
        to: Option<usize>,
        from: Option<usize>,
        rows: &[Progression],
        sent: &[KvPiece],
    ) -> Result<Place, String> {
        if to.is_some() == sent.is_empty() || from.is_some() == rows.is_empty() {
            return Err("a peer without rows, or rows without a peer".into());
        }
        let mut arriving = vec![];
        let mut reason = format!("hop {group} leaves; nothing comes back");
        if from.is_some() {
            let slot = format!("kv.{}", self.received % 2);
            arriving = self.slots.lay(&slot, rows, |rows| self.facts.kv_bytes(rows));
            reason = match self.received {
                0 | 1 => format!("{slot} was never used: hop {group} may arrive"),
                _ => format!("{slot} is free again: hop {group} may arrive"),
            };
            self.received += 1;
        }
        let sends = to.map(|peer| Transfer { peer, views: views(sent) });
        let recvs = from.map(|peer| Transfer { peer, views: views(&arriving) });
        self.exchange(
            group,
            ExchangeKind::SendRecv,
            sends.into_iter().collect(),
            recvs.into_iter().collect(),
            reason,
        );
        let whose =
            rows.first().and_then(|p| self.owners.get(&p.start)).map_or(Whose::Others, |&r| Whose::Of(r));
        Ok(Place::Arriving(arriving, whose, group))
    }

    /// Everyone's pieces of a stage in one slot, but for the rank's own, which stay where they are.
    fn gather(&mut self, group: usize, rows: &[Vec<Progression>], sent: &[KvPiece]) -> Result<Place, String> {
        let foreign: Vec<Progression> =
            rows.iter().enumerate().filter(|(r, _)| *r != self.rank).flat_map(|(_, p)| p.clone()).collect();
        let slot =
            if self.strategy == Strategy::AllGather { "kv.all".into() } else { format!("kv.stage{group}") };
        let arriving = self.slots.lay(&slot, &foreign, |rows| self.facts.kv_bytes(rows));
        let (mut sends, mut recvs, mut all) = (vec![], vec![], vec![]);
        let mut rest = arriving.as_slice();
        for (peer, pieces) in rows.iter().enumerate() {
            if peer == self.rank {
                all.extend_from_slice(sent);
                continue;
            }
            let (theirs, others) = rest.split_at(pieces.len());
            rest = others;
            all.extend_from_slice(theirs);
            if !sent.is_empty() {
                sends.push(Transfer { peer, views: views(sent) });
            }
            if !theirs.is_empty() {
                recvs.push(Transfer { peer, views: views(theirs) });
            }
        }
        let reason = match group {
            1 => "keys and values from everyone, under the work on the own ones".into(),
            _ => format!("the next part, under the work on those of stage {}", group - 1),
        };
        self.exchange(group, ExchangeKind::AllGather, sends, recvs, reason);
        Ok(Place::Arriving(all, Whose::Others, group))
    }

    fn exchange(
        &mut self,
        group: usize,
        kind: ExchangeKind,
        sends: Vec<Transfer>,
        recvs: Vec<Transfer>,
        reason: String,
    ) {
        self.step(Stream::Comm, StepOp::Exchange { group, kind, sends, recvs }, reason);
    }

    fn partial(&mut self, id: OpId, p: &Partial, operands: &[ValueId]) -> Result<(), String> {
        let Place::Queries(rows) = self.place(operands, 0)? else {
            return Err("operand 0 holds no queries".into());
        };
        let Place::Packed(kv, whose) = self.place(operands, 1)? else {
            return Err("operand 1 holds no keys that have arrived".into());
        };
        if rows != p.q_rows || !kv.iter().map(|k| k.rows).eq(p.k_rows.iter().copied()) {
            return Err("rows are not those of the operands".into());
        }
        if p.tile == Tile::Skip || *p.attention != *self.site.attention {
            return Err("it is to be skipped, or of another attention".into());
        }
        self.fold.partial(id, &rows);
        self.partials.push((!rows.is_empty()).then_some(self.steps.len()));
        if rows.is_empty() {
            return Ok(());
        }
        let reason = self.why(&kv, whose);
        let q = rows.into_iter().map(|rows| QPiece { rows, carry: None }).collect();
        // Carries are known when all merges are.
        let (carry_in, sinks_here, cast_out) = (false, false, false);
        let op = StepOp::AttnPartial { q, kv, tile: p.tile, carry_in, sinks_here, cast_out };
        self.step(Stream::Compute, op, reason);
        Ok(())
    }

    /// Why a partial stands where it does.
    fn why(&self, kv: &[KvPiece], whose: Whose) -> String {
        let whose = match whose {
            _ if kv.is_empty() => return "these rows see no key".into(),
            Whose::Own => "own keys".to_owned(),
            Whose::Of(rank) => format!("keys of rank {rank}"),
            Whose::Others => {
                let mut owners = kv.iter().map(|p| self.owners.get(&p.rows.start));
                let first = owners.next().flatten();
                match first.filter(|_| owners.all(|o| o == first)) {
                    Some(rank) => format!("keys of rank {rank}"),
                    None => "keys of the other ranks".to_owned(),
                }
            }
        };
        match self.under_way.first() {
            Some(1) if self.gathers => format!("{whose} while the others' arrive"),
            Some(stage) if self.gathers => format!("{whose} while stage {stage} arrives"),
            Some(hop) => format!("{whose} while hop {hop} is under way"),
            None => format!("{whose}; nothing is under way"),
        }
    }

    fn finish(&mut self, id: OpId, operands: &[ValueId]) -> Result<(), String> {
        let Op::Finish { rows, dtype, empty_row, lse, .. } = self.graph.op(id) else {
            return Err("it is no finish".into());
        };
        let f = self.facts;
        let as_stated = *dtype == f.dtype && *empty_row == f.empty_row && *lse == f.lse;
        let outputs: Vec<ValueId> = self.graph.outputs().iter().map(|o| o.value).collect();
        let own = &self.site.q_layout.rows[self.rank];
        if !as_stated || rows != own || outputs != self.graph.results(id) || self.finished {
            return Err("it does not give the results of the attention".into());
        }
        let sinks = match operands {
            [_, _, _] => None,
            _ => match self.place(operands, 3)? {
                Place::Leaf(argument) => Some(argument),
                _ => return Err("operand 3 holds no sinks".into()),
            },
        };
        if sinks != f.sinks {
            return Err("it does not count the sinks of the attention".into());
        }
        self.finished = true;
        self.fold.finish(triple(operands, 0)?, own)
    }

    fn step(&mut self, stream: Stream, op: StepOp, reason: String) {
        self.steps.push(Step { stream, waits: vec![], records: None, op, reason });
    }

    /// Carries, offsets and events.
    fn done(mut self) -> Result<RankProgram, String> {
        if !self.finished {
            return Err("nothing is finished".into());
        }
        let mut carries: Vec<(Progression, View)> = vec![];
        let mut end = 0;
        for (&step, (goes_in, casts)) in self.partials.iter().zip(self.fold.done()?) {
            let Some(StepOp::AttnPartial { q, carry_in, sinks_here, cast_out, .. }) =
                step.and_then(|s| self.steps.get_mut(s)).map(|s| &mut s.op)
            else {
                continue;
            };
            (*carry_in, *cast_out) = (goes_in, casts);
            // The finish counts them, and the step that ends a row's chain is its finish.
            *sinks_here = casts && self.facts.sinks.is_some();
            if casts && !goes_in {
                continue;
            }
            for piece in q {
                let known = carries.iter().find(|(rows, _)| *rows == piece.rows).map(|&(_, view)| view);
                piece.carry = Some(known.unwrap_or_else(|| {
                    let bytes = self.facts.carry_bytes(piece.rows.len);
                    let slot = self.slots.at_least("acc", end + bytes);
                    let view = View { slot, start: end, bytes };
                    end += bytes;
                    carries.push((piece.rows, view));
                    view
                }));
            }
        }
        let (slots, arena_bytes) = self.slots.place();
        super::events::derive(&mut self.steps, &slots);
        Ok(RankProgram { arena_bytes, slots, steps: self.steps })
    }
}

/// The operation whose o, m and l stand at `first` of the operands.
fn triple(operands: &[ValueId], first: usize) -> Result<OpId, String> {
    match operands.get(first..first + 3) {
        Some(&[o, m, l]) if o.op == m.op && o.op == l.op && (o.port, m.port, l.port) == (0, 1, 2) => Ok(o.op),
        _ => Err("o, m and l are not of one partial result".into()),
    }
}
