//! Steps of a rank where queries travel and partial results come home.
//!
//! What is received lies in slots by what it is: queries, each leaf that goes with them, partial results. In a slot pieces lie in the
//! order in which they come, so that a message is one view of each.

use super::blocks::{Block, Packed, Place, Port, View};
use super::build::{Builder, RUNS};
use super::mesh::Stream;
use super::slots::{Name, join};
use super::steps::{ExchangeKind, KvPiece, Merged, QPiece, StepOp, Transfer};
use crate::layout::Progression;
use crate::mask::Tile;
use crate::ring::sight::{Leg, Piece, Sight};
use std::collections::{BTreeMap, BTreeSet};

impl Builder<'_> {
    /// What goes with queries: they themselves, and each leaf that is handed out by query rows.
    pub(super) fn ports(&self) -> Vec<Port> {
        let leaves = self.facts.leaves.iter().enumerate().filter(|(_, leaf)| leaf.by_query_rows);
        [Port::Q].into_iter().chain(leaves.map(|(i, _)| Port::Leaf(i + 3))).collect()
    }

    /// The rows of a piece of queries.
    fn rows_of(&self, (of, piece): Piece) -> Progression {
        self.plan.site.q_layout.rows[of][piece]
    }

    /// Queries go to the ranks whose keys they see, or on the way there, and those of others come.
    pub(super) fn queries(&mut self, sight: &Sight, leg: Leg, group: usize) {
        self.pack_queries(sight);
        let (rank, ports) = (self.rank, self.ports());
        let mut sends = vec![];
        for peer in sight.peers(leg, rank) {
            let carried = sight.carried(leg, rank, peer);
            let place = |(nth, port): (usize, Port), piece: &Piece| self.travels_from(nth, port, *piece);
            let ports = ports.iter().copied().enumerate();
            let parts = ports.flat_map(|port| carried.iter().filter_map(move |piece| place(port, piece)));
            let parts = join(parts);
            sends.extend((!carried.is_empty()).then_some(Transfer { peer, parts }));
        }
        let mut recvs = vec![];
        for peer in sight.peers(leg, rank) {
            let carried = sight.carried(leg, peer, rank);
            let mut parts = vec![];
            for &port in &ports {
                for &piece in &carried {
                    let heads = self.facts.q_heads();
                    let bytes = self.facts.block_bytes(port, self.rows_of(piece).len, heads.len);
                    let at = self.slots.append(Name::Guests(port), bytes);
                    self.travelling.queries.entry(piece).or_default().push(at);
                    parts.push(Place::Arena(at));
                }
            }
            recvs.extend((!carried.is_empty()).then(|| Transfer { peer, parts: join(parts) }));
        }
        let reason = match leg {
            Leg::Far => "queries cross once for a node whose keys they see, under the work on the own ones",
            Leg::On => "queries of other nodes go on to the keys of this one that they see",
            _ => "queries go to the keys that they see, under the work on the own ones",
        };
        self.under_way.push(group);
        let op = StepOp::Exchange { group, kind: ExchangeKind::AllToAll, sms: None, sends, recvs };
        self.step(self.stream(leg.is_far()), op, reason.to_owned());
    }

    /// Own queries side by side, once. A run or two lie well enough where the rank is handed them; more are packed, but for those that stay.
    fn pack_queries(&mut self, sight: &Sight) {
        let (rank, heads) = (self.rank, self.facts.q_heads());
        let own = &self.plan.site.q_layout.rows[rank];
        if own.len() <= RUNS || !self.travelling.packed.is_empty() {
            return;
        }
        let wanted: BTreeSet<usize> =
            sight.helpers(rank).flat_map(|at| sight.seen(rank, at)).map(|s| s.piece).collect();
        let mut pieces = vec![];
        for port in self.ports() {
            for &piece in &wanted {
                let block = Block { port, rows: own[piece], heads };
                let bytes = self.facts.block_bytes(port, own[piece].len, heads.len);
                let at = self.slots.append(Name::Queries(port), bytes);
                self.travelling.packed.insert((port, piece), at);
                pieces.push(Packed { block, at });
            }
        }
        if !pieces.is_empty() {
            let reason = "own queries side by side: one message to each rank".to_owned();
            self.step(Stream::Compute, StepOp::Pack { pieces }, reason);
        }
    }

    /// Where a piece lies that is sent: own rows where the rank is handed them or where they are packed, others where they came.
    fn travels_from(&self, nth: usize, port: Port, piece: Piece) -> Option<Place> {
        if piece.0 != self.rank {
            return self.travelling.queries.get(&piece)?.get(nth).copied().map(Place::Arena);
        }
        let block = Block { port, rows: self.rows_of(piece), heads: self.facts.q_heads() };
        let packed = self.travelling.packed.get(&(port, piece.1));
        Some(packed.map_or(Place::Own(block), |at| Place::Arena(*at)))
    }

    /// The place of a partial result of the queries of another rank.
    fn partial_of(&mut self, piece: Piece) -> View {
        if let Some(at) = self.travelling.partials.get(&piece) {
            return *at;
        }
        let bytes = self.facts.carry_bytes(self.rows_of(piece).len, self.facts.q_heads().len);
        let at = self.slots.append(Name::Partials, bytes);
        self.travelling.partials.insert(piece, at);
        at
    }

    /// The partial result of received queries.
    pub(super) fn guest(&mut self, pieces: &[Piece], kv: Vec<KvPiece>, tile: Tile) {
        let heads = self.facts.q_heads();
        let mut q = vec![];
        for &piece in pieces {
            let carry = Some(self.partial_of(piece));
            let at = self.travelling.queries.get(&piece).cloned().unwrap_or_default();
            q.push(QPiece { rows: self.rows_of(piece), heads, at, carry, out: vec![] });
        }
        let mut owners: Vec<String> = pieces.iter().map(|p| p.0.to_string()).collect();
        owners.dedup();
        let whose = match owners.as_slice() {
            [one] => format!("rank {one}"),
            [first, .., last] => format!("{} ranks, {first} to {last},", owners.len()),
            [] => "nobody".to_owned(),
        };
        let (carry_in, sinks_here, cast_out) = (false, false, false);
        let op = StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out };
        self.step(Stream::Compute, op, format!("queries of {whose} over own keys"));
    }

    /// Partial results go home, or to where they leave the node, and those of others come.
    pub(super) fn partials_home(&mut self, sight: &Sight, leg: Leg, group: usize) {
        let rank = self.rank;
        let (mut sends, mut recvs) = (vec![], vec![]);
        for peer in sight.peers(leg, rank) {
            let carried = sight.carried(leg, rank, peer);
            let place = |piece: &Piece| self.travelling.partials.get(piece).map(|at| Place::Arena(*at));
            let parts = join(carried.iter().filter_map(place));
            sends.extend((!carried.is_empty()).then_some(Transfer { peer, parts }));
        }
        for peer in sight.peers(leg, rank) {
            let mut parts = vec![];
            for piece in sight.carried(leg, peer, rank) {
                let bytes = self.facts.carry_bytes(self.rows_of(piece).len, self.facts.q_heads().len);
                let at = self.slots.append(Name::CarriesHome, bytes);
                self.travelling.came.push((piece, at));
                parts.push(Place::Arena(at));
            }
            recvs.extend((!parts.is_empty()).then(|| Transfer { peer, parts: join(parts) }));
        }
        let reason = match leg {
            Leg::Home => "partial results come home from other nodes, one a node",
            _ if sight.levels.are_two() => "partial results come home, or to where they leave the node",
            _ => "partial results come home",
        };
        self.under_way.push(group);
        let op = StepOp::Exchange { group, kind: ExchangeKind::ReduceScatter, sms: None, sends, recvs };
        self.step(self.stream(leg.is_far()), op, reason.to_owned());
    }

    /// Partial results that leave the node are merged, in the order of the ranks: one that came alone goes on as it is.
    pub(super) fn relay(&mut self) {
        let heads = self.facts.q_heads();
        let (on, own) =
            std::mem::take(&mut self.travelling.came).into_iter().partition(|c| c.0.0 != self.rank);
        self.travelling.came = own;
        let mut by_piece: BTreeMap<Piece, Vec<View>> = BTreeMap::new();
        let on: Vec<(Piece, View)> = on;
        on.into_iter().for_each(|(piece, at)| by_piece.entry(piece).or_default().push(at));
        let mut merged: [Vec<Merged>; 2] = Default::default();
        for (piece, partials) in by_piece {
            let goes_on = self.travelling.partials.contains_key(&piece);
            if let ([one], false) = (partials.as_slice(), goes_on) {
                self.travelling.partials.insert(piece, *one);
                continue;
            }
            let carry = Some(self.partial_of(piece));
            merged[usize::from(!goes_on)].push(Merged {
                rows: self.rows_of(piece),
                heads,
                partials,
                carry,
                out: vec![],
            });
        }
        for (q, carry_in) in merged.into_iter().zip([true, false]) {
            if q.is_empty() {
                continue;
            }
            let (sinks_here, cast_out) = (false, false);
            let op = StepOp::Merge { q, carry_in, sinks_here, cast_out };
            self.step(Stream::Compute, op, "of this node one goes to each that is of another".to_owned());
        }
    }

    /// Those that came home are merged, in the order in which they came, into the own ones where there are any.
    pub(super) fn merge_home(&mut self, sight: &Sight) {
        let rank = self.rank;
        let own: Vec<usize> = sight.seen(rank, rank).iter().map(|s| s.piece).collect();
        let heads = self.facts.q_heads();
        for goes_on in [true, false] {
            let mut pieces: Vec<usize> = self.travelling.came.iter().map(|c| c.0.1).collect();
            pieces.sort_unstable();
            pieces.dedup();
            pieces.retain(|p| own.contains(p) == goes_on);
            if pieces.is_empty() {
                continue;
            }
            let merged = |&piece: &usize| {
                let partials = self.travelling.came.iter().filter(|c| c.0.1 == piece).map(|c| c.1).collect();
                Merged { rows: self.rows_of((rank, piece)), heads, partials, carry: None, out: vec![] }
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
