//! Steps of a rank where heads are dealt out: rows of all ranks in its heads come, and results go home.

use super::blocks::{Block, Heads, Packed, Place, Port, View};
use super::build::{Builder, Came, RUNS};
use super::mesh::Stream;
use super::slots::{Name, join};
use super::steps::{ExchangeKind, KvPiece, QPiece, StepOp, Transfer};
use crate::layout::Progression;
use crate::ring::heads::{HeadPlan, Part};

impl Builder<'_> {
    /// The heads of a block of a port: a leaf that is one for all heads is one block for all.
    fn heads(&self, port: Port, heads: Heads) -> Heads {
        match port {
            Port::Leaf(n) if self.facts.leaves[n - 3].shape[1] == 1 => self.facts.q_heads(),
            _ => heads,
        }
    }

    /// What comes with a part: queries, leaves that go with them unless they have come with an earlier part, keys.
    fn dealt(&self, part: usize, heads: Part) -> Vec<(Port, Heads)> {
        let mut out: Vec<(Port, Heads)> = vec![];
        for port in self.ports() {
            let of = self.heads(port, heads.q);
            if part == 0 || of == heads.q {
                out.push((port, of));
            }
        }
        out.extend(heads.keys_come.then_some((Port::Kv, heads.keys)));
        out
    }

    fn pieces(&self, port: Port, rank: usize) -> &[Progression] {
        let site = &self.plan.site;
        if port == Port::Kv { &site.kv_layout.rows[rank] } else { &site.q_layout.rows[rank] }
    }

    /// Own rows in the heads of other ranks go there, and those of others in own heads come.
    pub(super) fn scatter(&mut self, plan: &HeadPlan, part: usize, group: usize) {
        let (rank, ranks) = (self.rank, self.plan.site.ranks());
        let mut packed: Vec<Packed> = vec![];
        let mut sends = vec![];
        for peer in (0..ranks).filter(|&p| p != rank) {
            let Some(theirs) = plan.part(peer, part) else { continue };
            let mut parts = vec![];
            for (port, heads) in self.dealt(part, theirs) {
                let own = self.pieces(port, rank).to_vec();
                for &rows in &own {
                    let block = Block { port, rows, heads };
                    // A run or two lie well enough where the rank is handed them.
                    if own.len() <= RUNS {
                        parts.push(Place::Own(block));
                        continue;
                    }
                    let bytes = self.facts.block_bytes(port, rows.len, heads.len);
                    let at = self.slots.append(Name::Dealt(port), bytes);
                    packed.push(Packed { block, at });
                    parts.push(Place::Arena(at));
                }
            }
            if !parts.is_empty() {
                sends.push(Transfer { peer, parts: join(parts) });
            }
        }
        if !packed.is_empty() {
            let reason = "own rows in the heads of others, side by side".to_owned();
            self.step(Stream::Compute, StepOp::Pack { pieces: packed }, reason);
        }
        let mut recvs = vec![];
        if let Some(own) = plan.part(rank, part) {
            for peer in (0..ranks).filter(|&p| p != rank) {
                let mut parts = vec![];
                for (port, heads) in self.dealt(part, own) {
                    for rows in self.pieces(port, peer).to_vec() {
                        let bytes = self.facts.block_bytes(port, rows.len, heads.len);
                        let at = self.slots.append(Name::Heads(port), bytes);
                        self.came.insert(Block { port, rows, heads }, at);
                        parts.push(Place::Arena(at));
                    }
                }
                if !parts.is_empty() {
                    recvs.push(Transfer { peer, parts: join(parts) });
                }
            }
        }
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sends, recvs };
        let reason = match part {
            0 => "rows go to the ranks of their heads".to_owned(),
            _ => format!("heads of part {} go under the work on those before", part + 1),
        };
        self.exchange(op, reason);
    }

    /// An exchange in which the rank has something to do.
    fn exchange(&mut self, op: StepOp, reason: String) {
        let idle =
            matches!(&op, StepOp::Exchange { sends, recvs, .. } if sends.is_empty() && recvs.is_empty());
        if !idle {
            self.step(Stream::Comm(0), op, reason);
        }
    }

    /// Where a block of another rank has come.
    fn came(&self, port: Port, rows: Progression, heads: Heads) -> Option<View> {
        self.came.get(&Block { port, rows, heads }).copied()
    }

    /// All rows of a part's heads.
    pub(super) fn own_heads(&mut self, plan: &HeadPlan, part: usize) {
        let (rank, site) = (self.rank, &self.plan.site);
        let Some(own) = plan.part(rank, part) else { return };
        let sinks = self.facts.sinks.is_some();
        for group in &plan.groups {
            let kv = |&(at, rows): &(usize, Progression)| {
                let came = self.came(Port::Kv, rows, own.keys).filter(|_| at != rank);
                KvPiece { rows, heads: own.keys, at: came }
            };
            let kv: Vec<KvPiece> = group.keys.iter().map(kv).collect();
            let mut q = vec![];
            for &(of, piece) in &group.q {
                let rows = site.q_layout.rows[of][piece];
                let mut piece = QPiece { rows, heads: own.q, at: vec![], carry: None, out: vec![] };
                if of != rank {
                    let at = |port| self.came(port, rows, self.heads(port, own.q));
                    piece.at = self.ports().into_iter().filter_map(at).collect();
                    let results = [Port::Out, Port::Lse].into_iter().take(1 + usize::from(self.facts.lse));
                    for port in results {
                        let bytes = self.facts.block_bytes(port, rows.len, own.q.len);
                        let at = self.slots.append(Name::Results(port), bytes);
                        piece.out.push(at);
                        self.results.push((of, part, Came { block: Block { port, rows, heads: own.q }, at }));
                    }
                }
                q.push(piece);
            }
            let (carry_in, cast_out) = (false, true);
            let op = StepOp::AttnPartial { q, kv, tile: group.tile, carry_in, sinks_here: sinks, cast_out };
            let reason = match plan.parts[rank].len() {
                1 => "all of these rows in own heads".to_owned(),
                n => format!("all of these rows in own heads, part {} of {n}", part + 1),
            };
            self.step(Stream::Compute, op, reason);
        }
    }

    /// Results go to the ranks of their rows.
    pub(super) fn results_home(&mut self, plan: &HeadPlan, part: usize, group: usize) {
        let (rank, ranks) = (self.rank, self.plan.site.ranks());
        let results = [Port::Out, Port::Lse].into_iter().take(1 + usize::from(self.facts.lse));
        let results: Vec<Port> = results.collect();
        let mut sends = vec![];
        for peer in (0..ranks).filter(|&p| p != rank) {
            let theirs = |port: Port| {
                self.results.iter().filter(move |(of, p, c)| (*of, *p, c.block.port) == (peer, part, port))
            };
            // In the order of the rows that they are of.
            let pieces = self.pieces(Port::Q, peer);
            let mut parts = vec![];
            for &port in &results {
                for rows in pieces {
                    parts.extend(
                        theirs(port).filter(|r| r.2.block.rows == *rows).map(|r| Place::Arena(r.2.at)),
                    );
                }
            }
            if !parts.is_empty() {
                sends.push(Transfer { peer, parts: join(parts) });
            }
        }
        let own = self.pieces(Port::Q, rank).to_vec();
        let (mut recvs, mut unpacked) = (vec![], vec![]);
        for peer in (0..ranks).filter(|&p| p != rank) {
            let Some(theirs) = plan.part(peer, part) else { continue };
            let mut parts = vec![];
            for &port in &results {
                for &rows in &own {
                    let block = Block { port, rows, heads: theirs.q };
                    if own.len() <= RUNS {
                        parts.push(Place::Own(block));
                        continue;
                    }
                    let bytes = self.facts.block_bytes(port, rows.len, theirs.q.len);
                    let at = self.slots.append(Name::Home(port), bytes);
                    unpacked.push(Packed { block, at });
                    parts.push(Place::Arena(at));
                }
            }
            if !parts.is_empty() {
                recvs.push(Transfer { peer, parts: join(parts) });
            }
        }
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sends, recvs };
        self.exchange(op, "results go home to the ranks of their rows".to_owned());
        if !unpacked.is_empty() {
            self.unpacked.push(unpacked);
        }
    }

    /// What came home in slots goes where the rank gives it.
    pub(super) fn unpack_home(&mut self) {
        for pieces in std::mem::take(&mut self.unpacked) {
            self.step(Stream::Compute, StepOp::Unpack { pieces }, "results that came home".to_owned());
        }
    }
}
