//! The bytes of one rank. What nobody wrote is NaN in every floating type.

use crate::schedule::{RankProgram, View};
use std::ops::Range;

/// All ones is a NaN in f64, f32, f16 and bf16 alike.
const POISON: u8 = 0xff;

/// A rank's arena.
pub(super) struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    /// Poisoned bytes. The caller has bounded the length.
    pub(super) fn new(bytes: usize) -> Arena {
        Arena { bytes: vec![POISON; bytes] }
    }

    pub(super) fn read(&self, at: Range<usize>) -> &[u8] {
        &self.bytes[at]
    }

    pub(super) fn write(&mut self, at: Range<usize>) -> &mut [u8] {
        &mut self.bytes[at]
    }

    pub(super) fn poison(&mut self, at: Range<usize>) {
        self.bytes[at].fill(POISON);
    }
}

/// Where a view lies in the arena.
pub(super) fn locate(program: &RankProgram, view: &View) -> Result<Range<usize>, String> {
    let slot = program.slots.get(view.slot).ok_or_else(|| format!("there is no slot {}", view.slot))?;
    let end = view.start.checked_add(view.bytes).filter(|&e| e <= slot.bytes).ok_or_else(|| {
        format!(
            "{} bytes from byte {} on leave slot {} of {} bytes",
            view.bytes, view.start, slot.name, slot.bytes
        )
    })?;
    let last = slot.offset.checked_add(slot.bytes).filter(|&e| e <= program.arena_bytes);
    if last.is_none() {
        return Err(format!("slot {} leaves the arena of {} bytes", slot.name, program.arena_bytes));
    }
    Ok(slot.offset + view.start..slot.offset + end)
}
