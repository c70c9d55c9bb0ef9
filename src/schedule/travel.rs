//! Steps of a rank where queries travel and partial results come home.
//!
//! What is received lies in slots by what it is: queries, each leaf that goes with them, partial results. In a slot pieces lie in the
//! order of the ranks that they are of, so that a message is one view of each.

use super::blocks::{Block, Packed, Place, Port, View};
use super::build::{Builder, Guest, RUNS};
use super::mesh::Stream;
use super::slots::{Name, join};
use super::steps::{ExchangeKind, KvPiece, Merged, QPiece, StepOp, Transfer};
use crate::layout::Progression;
use crate::mask::Tile;
use std::collections::BTreeSet;

impl Builder<'_> {
    /// What goes with queries: they themselves, and each leaf that is handed out by query rows.
    pub(super) fn ports(&self) -> Vec<Port> {
        let leaves = self.facts.leaves.iter().enumerate().filter(|(_, leaf)| leaf.by_query_rows);
        [Port::Q].into_iter().chain(leaves.map(|(i, _)| Port::Leaf(i + 3))).collect()
    }

    /// Own queries go to the ranks whose keys they see, and those of others come.
    pub(super) fn queries(&mut self, group: usize) {
        let plan = self.plan;
        let (Some(sight), rank) = (&plan.sight, self.rank) else { return };
        let (own, ports, heads) = (&plan.site.q_layout.rows[rank], self.ports(), self.facts.q_heads());
        let block = |port, rows| Block { port, rows, heads };
        let bytes = |port, rows: &Progression| self.facts.block_bytes(port, rows.len, heads.len);
        // A run or two lie well enough where the rank is handed them; more are packed, but for those that stay.
        let wanted: BTreeSet<usize> =
            sight.helpers(rank).flat_map(|at| sight.seen(rank, at)).map(|s| s.piece).collect();
        let mut packed: Vec<(Port, usize, View)> = vec![];
        if own.len() > RUNS {
            for &port in &ports {
                for &piece in &wanted {
                    let at = self.slots.append(Name::Queries(port), bytes(port, &own[piece]));
                    packed.push((port, piece, at));
                }
            }
            let pieces: Vec<Packed> = packed
                .iter()
                .map(|&(port, piece, at)| Packed { block: block(port, own[piece]), at })
                .collect();
            if !pieces.is_empty() {
                let reason = "own queries side by side: one message to each rank".to_owned();
                self.step(Stream::Compute, StepOp::Pack { pieces }, reason);
            }
        }
        let place = |port, piece: usize| {
            let at = packed.iter().find(|p| (p.0, p.1) == (port, piece));
            at.map_or_else(|| Place::Own(block(port, own[piece])), |p| Place::Arena(p.2))
        };
        let to = |peer: usize| {
            let of_port = |&port: &Port| sight.seen(rank, peer).iter().map(move |s| (port, s.piece));
            let parts = ports.iter().flat_map(of_port).map(|(port, piece)| place(port, piece));
            Transfer { peer, parts: join(parts) }
        };
        let sends: Vec<Transfer> = sight.helpers(rank).map(to).collect();
        let mut recvs = vec![];
        for of in sight.guests(rank) {
            let seen = sight.seen(of, rank);
            let first = self.guests.len();
            for s in seen {
                let rows = plan.site.q_layout.rows[of][s.piece];
                let carry = self.facts.carry_bytes(rows.len, heads.len);
                let carry = self.slots.append(Name::Partials, carry);
                self.guests.push(Guest { of, piece: s.piece, rows, at: vec![], carry });
            }
            let mut parts = vec![];
            for &port in &ports {
                for guest in &mut self.guests[first..] {
                    let bytes = self.facts.block_bytes(port, guest.rows.len, heads.len);
                    let at = self.slots.append(Name::Guests(port), bytes);
                    guest.at.push(at);
                    parts.push(Place::Arena(at));
                }
            }
            recvs.push(Transfer { peer: of, parts: join(parts) });
        }
        self.under_way.push(group);
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sends, recvs };
        self.step(
            Stream::Comm(0),
            op,
            "queries go to the keys that they see, under the work on the own ones".into(),
        );
    }

    /// The partial result of received queries.
    pub(super) fn guest(&mut self, of: usize, pieces: &[usize], kv: Vec<KvPiece>, tile: Tile) {
        let heads = self.facts.q_heads();
        let guests = self.guests.iter().filter(|g| g.of == of && pieces.contains(&g.piece));
        let q: Vec<QPiece> = guests
            .map(|g| QPiece { rows: g.rows, heads, at: g.at.clone(), carry: Some(g.carry), out: vec![] })
            .collect();
        let (carry_in, sinks_here, cast_out) = (false, false, false);
        let op = StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out };
        self.step(Stream::Compute, op, format!("queries of rank {of} over own keys"));
    }

    /// Partial results go home, and those of own queries come.
    pub(super) fn partials_home(&mut self, group: usize) {
        let plan = self.plan;
        let (Some(sight), rank) = (&plan.sight, self.rank) else { return };
        let of_guest = |of: usize| {
            let carries = self.guests.iter().filter(|g| g.of == of).map(|g| Place::Arena(g.carry));
            Transfer { peer: of, parts: join(carries) }
        };
        let sends: Vec<Transfer> = sight.guests(rank).map(of_guest).collect();
        let mut recvs = vec![];
        let heads = self.facts.q_heads();
        for peer in sight.helpers(rank) {
            let mut parts = vec![];
            for s in sight.seen(rank, peer) {
                let rows = &plan.site.q_layout.rows[rank][s.piece];
                let at = self.slots.append(Name::CarriesHome, self.facts.carry_bytes(rows.len, heads.len));
                self.home.push((s.piece, at));
                parts.push(Place::Arena(at));
            }
            recvs.push(Transfer { peer, parts: join(parts) });
        }
        self.under_way.push(group);
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sends, recvs };
        self.step(Stream::Comm(0), op, "partial results come home".into());
    }

    /// Those that came home are merged, in the order of the ranks, into the own ones where there are any.
    pub(super) fn merge_home(&mut self) {
        let plan = self.plan;
        let (Some(sight), rank) = (&plan.sight, self.rank) else { return };
        let own: Vec<usize> = sight.seen(rank, rank).iter().map(|s| s.piece).collect();
        let heads = self.facts.q_heads();
        for goes_on in [true, false] {
            let mut pieces: Vec<usize> = self.home.iter().map(|h| h.0).collect();
            pieces.sort_unstable();
            pieces.dedup();
            pieces.retain(|p| own.contains(p) == goes_on);
            if pieces.is_empty() {
                continue;
            }
            let merged = |&piece: &usize| {
                let partials = self.home.iter().filter(|h| h.0 == piece).map(|h| h.1).collect();
                let rows = plan.site.q_layout.rows[rank][piece];
                Merged { rows, heads, partials, carry: None, out: vec![] }
            };
            let q = pieces.iter().map(merged).collect();
            let (carry_in, sinks_here, cast_out) = (false, false, false);
            self.partials.push((self.steps.len(), pieces));
            let reason = match goes_on {
                true => "what came home, behind what was computed here",
                false => "what came home: these rows see no own key",
            };
            let op = StepOp::Merge { q, carry_in, sinks_here, cast_out };
            self.step(Stream::Compute, op, reason.to_owned());
        }
    }
}
