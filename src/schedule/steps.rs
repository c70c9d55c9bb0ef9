//! What a step does.

use super::blocks::{Heads, Packed, Place, View};
use super::facts::AttentionFacts;
use super::mesh::Stream;
use crate::layout::Progression;
use crate::mask::Tile;

/// One operation of a rank on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it runs.
    pub stream: Stream,
    /// Events that must have happened before it starts.
    pub waits: Vec<usize>,
    /// The event that happens when it is done, if anyone waits for it. Numbers are the rank's own, from 0.
    pub records: Option<usize>,
    /// What it does.
    pub op: StepOp,
    /// Why it stands here, for the reader; no meaning for a machine.
    pub reason: String,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepOp {
    /// Copies own rows from where the rank is handed them into the arena.
    Pack {
        /// Queries, keys with values, or leaves.
        pieces: Vec<Packed>,
    },
    /// Copies own rows from the arena to where the rank gives them.
    Unpack {
        /// Of the result or its log-sum-exp.
        pieces: Vec<Packed>,
    },
    /// One group of transfers; all of it begins together and is done together.
    Exchange {
        /// Number of the group, from 1, the same on every rank that takes part.
        group: usize,
        /// Which collective it is.
        kind: ExchangeKind,
        /// How many multiprocessors it may hold while it is under way, the same on every rank that takes part: kernels beside it leave as
        /// many. 0: none, for copy engines move the bytes; `None`: nobody says, and whatever moves them takes what it wants.
        sms: Option<usize>,
        /// What is sent.
        sends: Vec<Transfer>,
        /// What is received.
        recvs: Vec<Transfer>,
    },
    /// The partial result of query rows over key rows, folded into the carry.
    AttnPartial {
        /// Query rows × heads, and their carry.
        q: Vec<QPiece>,
        /// Key rows and where they lie; may be empty.
        kv: Vec<KvPiece>,
        /// `Full`: no pair is masked. `Partial`: mask pair by pair. Never `Skip`.
        tile: Tile,
        /// Whether it goes on from the carry that is in the arena, or starts from (0, −∞, 0).
        carry_in: bool,
        /// Whether it counts the sinks of these rows, after the keys; of the steps of a row one does, if there are sinks.
        sinks_here: bool,
        /// Whether it divides, casts and writes these rows of the output (and of lse); else it writes the carry.
        cast_out: bool,
    },
    /// Partial results that lie in the arena, folded into the carry.
    Merge {
        /// Query rows × heads, and what is merged of them.
        q: Vec<Merged>,
        /// As of `AttnPartial`.
        carry_in: bool,
        /// As of `AttnPartial`.
        sinks_here: bool,
        /// As of `AttnPartial`.
        cast_out: bool,
    },
}

/// Which collective an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// At most one send and one receive.
    SendRecv,
    /// Everyone's rows to everyone: one send to, and one receive from, every other rank of the axis that has rows, and what is sent
    /// is the same for all.
    AllGather,
    /// Everyone to everyone, and for each something else.
    AllToAll,
    /// Partial results to the rank that adds or merges them.
    ReduceScatter,
}

impl ExchangeKind {
    /// Every kind, in order.
    pub const ALL: [ExchangeKind; 4] = [
        ExchangeKind::SendRecv,
        ExchangeKind::AllGather,
        ExchangeKind::AllToAll,
        ExchangeKind::ReduceScatter,
    ];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::SendRecv => "sendrecv",
            ExchangeKind::AllGather => "all_gather",
            ExchangeKind::AllToAll => "all_to_all",
            ExchangeKind::ReduceScatter => "reduce_scatter",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The other rank.
    pub peer: usize,
    /// Which bytes, in the order of the message.
    pub parts: Vec<Place>,
}

impl Transfer {
    /// Length of the message.
    pub fn bytes(&self, facts: &AttentionFacts) -> usize {
        self.parts.iter().fold(0, |sum, p| sum.saturating_add(facts.place_bytes(p)))
    }
}

/// Key rows × heads and where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPiece {
    /// Global rows.
    pub rows: Progression,
    /// Key heads.
    pub heads: Heads,
    /// Their block in the arena; `None` for a run of the rank's own rows that is read where the rank is handed it.
    pub at: Option<View>,
}

/// Query rows × heads, and where they and what becomes of them lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QPiece {
    /// Global rows.
    pub rows: Progression,
    /// Query heads.
    pub heads: Heads,
    /// Of rows that were received: their block, and behind it those of the leaves that are handed out by query rows, in the
    /// order of the arguments. Empty for a run of the rank's own rows.
    pub at: Vec<View>,
    /// o (B, heads, rows, Dv), then m (B, heads, rows), then l (B, heads, rows), in the accumulation type. `None` if the step
    /// neither reads nor writes a carry.
    pub carry: Option<View>,
    /// Where a step that casts out writes the block of the result, and of the log-sum-exp if there is one. Empty: to the rank's own
    /// rows of them.
    pub out: Vec<View>,
}

/// Query rows × heads whose partial results are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Global rows.
    pub rows: Progression,
    /// Query heads.
    pub heads: Heads,
    /// What is merged, in this order; each laid out as a carry.
    pub partials: Vec<View>,
    /// As of [`QPiece`].
    pub carry: Option<View>,
    /// As of [`QPiece`].
    pub out: Vec<View>,
}

impl StepOp {
    /// Tells of the views of the arena that a step reads (`false`), and then of those that it writes.
    pub(crate) fn touched(&self, mut tell: impl FnMut(&View, bool)) {
        match self {
            StepOp::Pack { pieces } => pieces.iter().for_each(|p| tell(&p.at, true)),
            StepOp::Unpack { pieces } => pieces.iter().for_each(|p| tell(&p.at, false)),
            StepOp::Exchange { sends, recvs, .. } => {
                // One part is sent to everyone: it is read once.
                let mut before: &[Place] = &[];
                for t in sends.iter().filter(|t| !t.parts.is_empty()) {
                    if t.parts != before {
                        t.parts.iter().filter_map(Place::view).for_each(|v| tell(v, false));
                    }
                    before = &t.parts;
                }
                recvs.iter().flat_map(|t| &t.parts).filter_map(Place::view).for_each(|v| tell(v, true));
            }
            StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
                kv.iter().filter_map(|p| p.at.as_ref()).for_each(|v| tell(v, false));
                q.iter().flat_map(|p| &p.at).for_each(|v| tell(v, false));
                let places = q.iter().map(|p| (p.carry.as_ref(), p.out.as_slice()));
                ends(places, (*carry_in, *cast_out), tell);
            }
            StepOp::Merge { q, carry_in, cast_out, .. } => {
                q.iter().flat_map(|p| &p.partials).for_each(|v| tell(v, false));
                let places = q.iter().map(|p| (p.carry.as_ref(), p.out.as_slice()));
                ends(places, (*carry_in, *cast_out), tell);
            }
        }
    }
}

/// What a step does with carries and results: reads the one, and writes the one or the other.
fn ends<'a>(
    places: impl Iterator<Item = (Option<&'a View>, &'a [View])>,
    (carry_in, cast_out): (bool, bool),
    mut tell: impl FnMut(&View, bool),
) {
    for (carry, out) in places {
        if carry_in {
            carry.into_iter().for_each(|v| tell(v, false));
        }
        if cast_out {
            out.iter().for_each(|v| tell(v, true));
        } else {
            carry.into_iter().for_each(|v| tell(v, true));
        }
    }
}
