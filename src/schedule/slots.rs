//! Slots: named ranges of a rank's arena.
//!
//! Slots grow while steps are made, so that views are known before offsets are; [`Slots::place`] then lays them out one after
//! another. No two overlap.

use super::blocks::{Block, Place, Port, View};
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
    /// Own queries that travel, or a leaf that goes with them.
    Queries(Port),
    /// The same of other ranks.
    Guests(Port),
    /// Partial results of other ranks' queries.
    Partials,
    /// Partial results that come home.
    CarriesHome,
    /// Own rows in the heads of others, side by side.
    Dealt(Port),
    /// Rows of others in own heads.
    Heads(Port),
    /// Results of other ranks' rows.
    Results(Port),
    /// Results that come home.
    Home(Port),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Local => f.write_str("kv.local"),
            Name::Received(n) => write!(f, "kv.{n}"),
            Name::All => f.write_str("kv.all"),
            Name::Stage(n) => write!(f, "kv.stage{n}"),
            Name::Carries => f.write_str("acc"),
            Name::Queries(port) => write!(f, "{port}.local"),
            Name::Guests(port) => write!(f, "{port}.guests"),
            Name::Partials => f.write_str("acc.guests"),
            Name::CarriesHome => f.write_str("acc.home"),
            Name::Dealt(port) => write!(f, "{port}.dealt"),
            Name::Heads(port) => write!(f, "{port}.heads"),
            Name::Results(port) => write!(f, "{port}.heads"),
            Name::Home(port) => write!(f, "{port}.home"),
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

    /// So many bytes more at the end of the slot of that name. What has none lies in any slot.
    pub(super) fn append(&mut self, name: Name, bytes: usize) -> View {
        if bytes == 0 && !self.slots.is_empty() {
            return View { slot: 0, start: 0, bytes };
        }
        let start = self.slots.iter().find(|s| s.0 == name).map_or(0, |s| s.1);
        View { slot: self.at_least(name, start + bytes), start, bytes }
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
    let block = |p: &KvPiece| Block { port: Port::Kv, rows: p.rows, heads: p.heads };
    join(pieces.into_iter().map(|p| p.at.map_or_else(|| Place::Own(block(&p)), Place::Arena)))
}

/// Parts of a message in their order, adjacent ones as one view.
pub(super) fn join(parts: impl IntoIterator<Item = Place>) -> Vec<Place> {
    // Nearly always one.
    let mut out: Vec<Place> = Vec::with_capacity(1);
    for part in parts.into_iter().filter(|p| p.view().is_none_or(|v| v.bytes > 0)) {
        match (out.last_mut(), &part) {
            (Some(Place::Arena(last)), Place::Arena(at))
                if last.slot == at.slot && last.start + last.bytes == at.start =>
            {
                last.bytes += at.bytes;
            }
            _ => out.push(part),
        }
    }
    out
}
