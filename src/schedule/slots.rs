//! Slots: named ranges of a rank's arena.
//!
//! Slots grow while steps are made, so that views are known before offsets are; [`Slots::place`] then lays them out one after
//! another. No two overlap.

use super::blocks::{Block, Place, Port};
use super::steps::KvPiece;
use super::types::Slot;
use std::fmt;

/// Slot offsets are multiples of this: what a GPU's copies and vector loads like best.
const ALIGN: usize = 256;

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The rank's own keys and values.
    Local,
    /// What hops bring, in turn.
    Received(usize),
    /// What one all-gather brings.
    All,
    /// What a stage of an all-gather brings.
    Stage(usize),
    /// Partial results.
    Carries,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Local => f.write_str("kv.local"),
            Name::Received(n) => write!(f, "kv.{n}"),
            Name::All => f.write_str("kv.all"),
            Name::Stage(n) => write!(f, "kv.stage{n}"),
            Name::Carries => f.write_str("acc"),
        }
    }
}

/// The slots of one rank: few.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<(Name, usize)>,
}

impl Slots {
    /// The slot of that name, at least so large; made if it is not there.
    pub(super) fn at_least(&mut self, name: Name, bytes: usize) -> usize {
        let known = self.slots.iter().position(|s| s.0 == name);
        let slot = known.unwrap_or_else(|| {
            self.slots.push((name, 0));
            self.slots.len() - 1
        });
        self.slots[slot].1 = self.slots[slot].1.max(bytes);
        slot
    }

    /// The slots with their offsets, and the size of the arena.
    pub(super) fn place(self) -> (Vec<Slot>, usize) {
        let mut end = 0usize;
        let place = |(name, bytes): (Name, usize)| {
            let offset = end.next_multiple_of(ALIGN);
            end = offset + bytes;
            Slot { name: name.to_string(), offset, bytes }
        };
        (self.slots.into_iter().map(place).collect(), end)
    }
}

/// The bytes of pieces in their order, adjacent ones as one view.
pub(super) fn parts(pieces: impl IntoIterator<Item = KvPiece>) -> Vec<Place> {
    // Nearly always one.
    let mut out: Vec<Place> = Vec::with_capacity(1);
    for piece in pieces {
        let Some(at) = piece.at else {
            out.push(Place::Own(Block { port: Port::Kv, rows: piece.rows, heads: piece.heads }));
            continue;
        };
        match out.last_mut() {
            Some(Place::Arena(last)) if last.slot == at.slot && last.start + last.bytes == at.start => {
                last.bytes += at.bytes;
            }
            _ => out.push(Place::Arena(at)),
        }
    }
    out
}
