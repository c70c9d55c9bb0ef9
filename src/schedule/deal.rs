//! Steps of a rank where heads are dealt out: rows of all ranks in its heads come, and results go home.

use super::blocks::{Block, Heads, Packed, Place, Port, View};
use super::build::{Builder, RUNS};
use super::mesh::Stream;
use super::slots::{Name, join};
use super::steps::{ExchangeKind, KvPiece, QPiece, StepOp, Transfer};
use crate::layout::Progression;
use crate::ring::heads::{HeadPlan, Item, Leg, Part};

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

    /// The blocks that go from a rank to another in a leg of a part, with whose rows they are: of each port those of one item behind those
    /// of another.
    fn blocks(
        &self,
        plan: &HeadPlan,
        (leg, part): (Leg, usize),
        from: usize,
        to: usize,
    ) -> Vec<(usize, Block)> {
        let items = plan.carried(leg, part, from, to);
        // What comes with the part, each once.
        let dealt = |item: &Item| {
            let mut of: Vec<(Port, Heads)> = vec![];
            for at in item.at.iter().filter_map(|&at| plan.part(at, part)) {
                for dealt in self.dealt(part, at) {
                    if !of.contains(&dealt) {
                        of.push(dealt);
                    }
                }
            }
            if leg == Leg::Out {
                let keys = plan.keys_of_node(plan.levels.node(to), part);
                of.retain(|d| d.0 != Port::Kv || keys.contains(&d.1));
            }
            of
        };
        let dealt: Vec<Vec<(Port, Heads)>> = items.iter().map(dealt).collect();
        let mut out = vec![];
        for port in self.ports().into_iter().chain([Port::Kv]) {
            for (item, dealt) in items.iter().zip(&dealt) {
                for &(_, heads) in dealt.iter().filter(|d| d.0 == port) {
                    let rows = self.pieces(port, item.owner).iter();
                    out.extend(rows.map(|&rows| (item.owner, Block { port, rows, heads })));
                }
            }
        }
        out
    }

    /// Rows of own and of others go to the ranks of their heads, or on the way there, and those of others come.
    pub(super) fn scatter(&mut self, plan: &HeadPlan, (leg, part): (Leg, usize), group: usize) {
        let rank = self.rank;
        let mut packed: Vec<Packed> = vec![];
        let mut sends = vec![];
        for peer in plan.peers(leg, rank) {
            let mut parts = vec![];
            for (owner, block) in self.blocks(plan, (leg, part), rank, peer) {
                // What is of others has come.
                if owner != rank {
                    parts.extend(self.came.get(&block).map(|at| Place::Arena(*at)));
                    continue;
                }
                // A run or two lie well enough where the rank is handed them.
                if self.pieces(block.port, rank).len() <= RUNS {
                    parts.push(Place::Own(block));
                    continue;
                }
                let bytes = self.facts.block_bytes(block.port, block.rows.len, block.heads.len);
                let at = self.slots.append(Name::Dealt(block.port), bytes);
                packed.push(Packed { block, at });
                parts.push(Place::Arena(at));
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
        for peer in plan.peers(leg, rank) {
            let mut parts = vec![];
            for (_, block) in self.blocks(plan, (leg, part), peer, rank) {
                let bytes = self.facts.block_bytes(block.port, block.rows.len, block.heads.len);
                let at = self.slots.append(Name::Heads(block.port), bytes);
                self.came.insert(block, at);
                parts.push(Place::Arena(at));
            }
            if !parts.is_empty() {
                recvs.push(Transfer { peer, parts: join(parts) });
            }
        }
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sms: None, sends, recvs };
        let to = match leg {
            Leg::Out => "rows go to the nodes of their heads",
            Leg::In => "rows go to the ranks of their heads",
            _ => "rows go",
        };
        let reason = match part {
            0 => to.to_owned(),
            _ => format!("{to}: those of part {}, under the work on those before", part + 1),
        };
        self.exchange(leg, op, reason);
    }

    /// An exchange in which the rank has something to do.
    fn exchange(&mut self, leg: Leg, op: StepOp, reason: String) {
        let idle =
            matches!(&op, StepOp::Exchange { sends, recvs, .. } if sends.is_empty() && recvs.is_empty());
        if !idle {
            self.step(self.stream(leg.is_far()), op, reason);
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
        let group = &plan.group;
        if !group.q.is_empty() {
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
                        self.results.insert(Block { port, rows, heads: own.q }, at);
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

    /// The same of results.
    fn given(
        &self,
        plan: &HeadPlan,
        (leg, part): (Leg, usize),
        from: usize,
        to: usize,
    ) -> Vec<(usize, Block)> {
        let items = plan.carried(leg, part, from, to);
        let mut out = vec![];
        for port in [Port::Out, Port::Lse].into_iter().take(1 + usize::from(self.facts.lse)) {
            for item in &items {
                for at in item.at.iter().filter_map(|&at| plan.part(at, part)) {
                    let rows = self.pieces(port, item.owner).iter();
                    out.extend(rows.map(|&rows| (item.owner, Block { port, rows, heads: at.q })));
                }
            }
        }
        out
    }

    /// Results go to the ranks of their rows, or on the way there.
    pub(super) fn results_home(&mut self, plan: &HeadPlan, (leg, part): (Leg, usize), group: usize) {
        let rank = self.rank;
        let (mut sends, mut recvs, mut unpacked) = (vec![], vec![], vec![]);
        for peer in plan.peers(leg, rank) {
            let given = self.given(plan, (leg, part), rank, peer);
            let place = |(_, block): (usize, Block)| self.results.get(&block).map(|at| Place::Arena(*at));
            let parts: Vec<Place> = given.into_iter().filter_map(place).collect();
            if !parts.is_empty() {
                sends.push(Transfer { peer, parts: join(parts) });
            }
        }
        for peer in plan.peers(leg, rank) {
            let mut parts = vec![];
            for (owner, block) in self.given(plan, (leg, part), peer, rank) {
                if owner == rank && self.pieces(Port::Q, rank).len() <= RUNS {
                    parts.push(Place::Own(block));
                    continue;
                }
                let bytes = self.facts.block_bytes(block.port, block.rows.len, block.heads.len);
                let at = self.slots.append(Name::Home(block.port), bytes);
                if owner == rank {
                    unpacked.push(Packed { block, at });
                } else {
                    self.results.insert(block, at);
                }
                parts.push(Place::Arena(at));
            }
            if !parts.is_empty() {
                recvs.push(Transfer { peer, parts: join(parts) });
            }
        }
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sms: None, sends, recvs };
        let reason = match leg {
            Leg::Back if plan.levels.are_two() => "results go home, or to where they leave the node",
            _ => "results go home to the ranks of their rows",
        };
        self.exchange(leg, op, reason.to_owned());
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
