//! Slots: named ranges of a rank's arena.
//!
//! Slots grow while steps are made, so that views are known before offsets are; [`Slots::place`] then lays them out one after
//! another. No two overlap.

use super::types::{KvPiece, Slot, View};
use crate::layout::Progression;

/// Slot offsets are multiples of this: what a GPU's copies and vector loads like best.
const ALIGN: usize = 256;

/// The slots of one rank.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
}

impl Slots {
    /// The slot of that name, at least so large; made if it is not there.
    pub(super) fn at_least(&mut self, name: &str, bytes: usize) -> usize {
        let known = self.slots.iter().position(|s| s.name == name);
        let slot = known.unwrap_or_else(|| {
            self.slots.push(Slot { name: name.to_owned(), offset: 0, bytes: 0 });
            self.slots.len() - 1
        });
        self.slots[slot].bytes = self.slots[slot].bytes.max(bytes);
        slot
    }

    /// Lays pieces side by side from the begin of the slot, which grows to hold them. `bytes` tells the size of so many rows.
    pub(super) fn lay(
        &mut self,
        name: &str,
        pieces: &[Progression],
        bytes: impl Fn(usize) -> usize,
    ) -> Vec<KvPiece> {
        if pieces.is_empty() {
            return vec![];
        }
        let total = pieces.iter().map(|p| bytes(p.len)).sum();
        let slot = self.at_least(name, total);
        let mut start = 0;
        pieces
            .iter()
            .map(|&rows| {
                let at = View { slot, start, bytes: bytes(rows.len) };
                start += at.bytes;
                KvPiece { rows, at }
            })
            .collect()
    }

    /// The slots with their offsets, and the size of the arena.
    pub(super) fn place(mut self) -> (Vec<Slot>, usize) {
        let mut end = 0usize;
        for slot in &mut self.slots {
            slot.offset = end.next_multiple_of(ALIGN);
            end = slot.offset + slot.bytes;
        }
        (self.slots, end)
    }
}

/// The bytes of pieces in their order, adjacent ones as one view.
pub(super) fn views(pieces: &[KvPiece]) -> Vec<View> {
    let mut out: Vec<View> = Vec::new();
    for at in pieces.iter().map(|p| p.at) {
        match out.last_mut() {
            Some(last) if last.slot == at.slot && last.start + last.bytes == at.start => {
                last.bytes += at.bytes;
            }
            _ => out.push(at),
        }
    }
    out
}
