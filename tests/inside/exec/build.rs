//! Schedules by hand, so that the executor is tested without the rooms that make schedules.

use annulus::ir::Strategy;
use annulus::layout::{Layout, Progression};
use annulus::mask::Tile;
use annulus::schedule::*;

/// Which way keys and values travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Ring,
    AllGather,
}

#[derive(Default)]
pub(super) struct Builder {
    pub(super) program: RankProgram,
}

impl Builder {
    /// A slot, if anything is laid there.
    fn slot(&mut self, name: &str, bytes: usize, used: bool) -> usize {
        if !used {
            return usize::MAX;
        }
        let offset = self.program.arena_bytes;
        self.program.slots.push(Slot { name: name.into(), offset, bytes });
        self.program.arena_bytes += bytes;
        self.program.slots.len() - 1
    }

    /// Views of so many bytes side by side, in a slot of their own.
    pub(super) fn lay(&mut self, name: &str, bytes: impl IntoIterator<Item = usize>) -> Vec<View> {
        let (slot, mut start) = (self.program.slots.len(), 0);
        let mut view = |bytes| {
            start += bytes;
            View { slot, start: start - bytes, bytes }
        };
        let views = bytes.into_iter().map(&mut view).collect();
        self.slot(name, start, true);
        views
    }

    pub(super) fn step(&mut self, stream: Stream, waits: Vec<usize>, op: StepOp) -> usize {
        let event = self.program.steps.len();
        self.program.steps.push(Step { stream, waits, records: Some(event), op, reason: String::new() });
        event
    }
}

/// Pieces of `rows`, one after another from `start` of a slot.
fn pieces(facts: &AttentionFacts, rows: &[Progression], slot: usize, mut start: usize) -> Vec<KvPiece> {
    rows.iter()
        .map(|&rows| {
            let at = View { slot, start, bytes: facts.kv_bytes(rows.len) };
            start += at.bytes;
            KvPiece { rows, heads: facts.kv_heads(), at: Some(at) }
        })
        .collect()
}

pub(super) fn tile(facts: &AttentionFacts, q: &[Progression], k: &[Progression]) -> Tile {
    let full = q.iter().all(|q| k.iter().all(|k| facts.scores.tile(q, k) == Tile::Full));
    if full { Tile::Full } else { Tile::Partial }
}

/// Every rank's program: own keys first, then those of the others in the order of their arrival.
pub(crate) fn build(facts: &AttentionFacts, q_layout: &Layout, kv_layout: &Layout, way: Way) -> Schedule {
    let ranks = q_layout.ranks();
    let bytes = |r: usize| facts.kv_bytes(kv_layout.share(r));
    let has_keys = |r: usize| kv_layout.share(r) > 0;
    let programs = (0..ranks).map(|rank| {
        let mut b = Builder::default();
        // Which source is computed at each step.
        let source = |t: usize| (rank + ranks - t) % ranks;
        let local = b.slot("kv.local", bytes(rank), has_keys(rank));
        let received: Vec<usize> = match way {
            Way::Ring => (0..2)
                .map(|i| {
                    let lands: Vec<usize> = (1 + i..ranks).step_by(2).map(source).collect();
                    let most = lands.iter().copied().map(bytes).max().unwrap_or(0);
                    b.slot(&format!("kv.{i}"), most, lands.into_iter().any(has_keys))
                })
                .collect(),
            Way::AllGather => {
                (0..ranks).map(|r| b.slot(&format!("kv.{r}"), bytes(r), r != rank && has_keys(r))).collect()
            }
        };
        // One partial result goes on from none.
        let carried = ranks > 1 && q_layout.share(rank) > 0;
        let acc = b.slot("acc", facts.carry_bytes(q_layout.share(rank), facts.sizes.q_heads), carried);
        let own = &q_layout.rows[rank];
        let mut start = 0;
        let q: Vec<QPiece> = own
            .iter()
            .map(|&rows| {
                let heads = facts.q_heads();
                let carry = View { slot: acc, start, bytes: facts.carry_bytes(rows.len, heads.len) };
                start += carry.bytes;
                QPiece { rows, heads, at: vec![], carry: carried.then_some(carry), out: vec![] }
            })
            .collect();
        let mine = pieces(facts, &kv_layout.rows[rank], local, 0);
        let packed = mine.iter().filter_map(|p| {
            let block = Block { port: Port::Kv, rows: p.rows, heads: p.heads };
            Some(Packed { block, at: p.at? })
        });
        let packed = StepOp::Pack { pieces: packed.collect() };
        let packed = b.step(Stream::Compute, vec![], packed);
        // Where what is computed at each step lies.
        let place = |t: usize| match (t, way) {
            (0, _) => local,
            (_, Way::Ring) => received[(t - 1) % 2],
            (_, Way::AllGather) => received[source(t)],
        };
        let whole = |slot: usize, r: usize| vec![Place::Arena(View { slot, start: 0, bytes: bytes(r) })];
        let gathered = (way == Way::AllGather && ranks > 1).then(|| {
            let others: Vec<usize> = (1..ranks).map(source).collect();
            let sends = others.iter().filter(|_| bytes(rank) > 0);
            let recvs = others.iter().filter(|&&r| bytes(r) > 0);
            let op = StepOp::Exchange {
                group: 1,
                kind: ExchangeKind::AllGather,
                sms: None,
                sends: sends.map(|&peer| Transfer { peer, parts: whole(local, rank) }).collect(),
                recvs: recvs.map(|&peer| Transfer { peer, parts: whole(received[peer], peer) }).collect(),
            };
            b.step(Stream::Comm(0), vec![packed], op)
        });
        let mut computed: Vec<usize> = Vec::new();
        for t in 0..ranks {
            let mut waits = Vec::new();
            if t > 0 && way == Way::Ring {
                let (from, to) = (source(t - 1), source(t));
                let send = Transfer { peer: (rank + 1) % ranks, parts: whole(place(t - 1), from) };
                let recv = Transfer { peer: (rank + ranks - 1) % ranks, parts: whole(place(t), to) };
                let before = match t {
                    1 => vec![packed],
                    2 => vec![],
                    _ => vec![computed[t - 2]],
                };
                let op = StepOp::Exchange {
                    group: t,
                    kind: ExchangeKind::SendRecv,
                    sms: None,
                    sends: if bytes(from) > 0 { vec![send] } else { vec![] },
                    recvs: if bytes(to) > 0 { vec![recv] } else { vec![] },
                };
                waits.push(b.step(Stream::Comm(0), before, op));
            }
            if t == 1 {
                waits.extend(gathered);
            }
            let kv = pieces(facts, &kv_layout.rows[source(t)], place(t), 0);
            let op = StepOp::AttnPartial {
                q: q.clone(),
                tile: tile(facts, own, &kv_layout.rows[source(t)]),
                kv,
                carry_in: t > 0,
                // Wherever they are counted, as long as it is once.
                sinks_here: facts.sinks.is_some() && t == facts.sizes.q_len % ranks,
                cast_out: t + 1 == ranks,
            };
            computed.push(b.step(Stream::Compute, waits, op));
        }
        b.program
    });
    let programs = programs.collect();
    Schedule {
        name: "by hand".into(),
        strategy: if way == Way::Ring { Strategy::Ring } else { Strategy::AllGather },
        mesh: Mesh::flat(ranks),
        slots: SLOTS,
        attention: facts.clone(),
        q_layout: q_layout.clone(),
        kv_layout: kv_layout.clone(),
        ranks: programs,
    }
}
