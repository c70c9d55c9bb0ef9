//! Packs and unpacks: own rows to the arena and back.
//!
//! Evenly spread runs alone are copied; more go through the kernel that packs, in as few launches as it takes.

use super::args::PackArg;
use super::build::Builder;
use super::bytes::Runs;
use super::error::Why;
use super::types::{Argument, Copy, Grid, Work};
use crate::lower::Helper;
use crate::lower::helper::{MAX_COPIES, THREADS};
use crate::schedule::Packed;

/// Blocks of threads a multiprocessor.
const MOST: usize = 8;

impl Builder<'_, '_> {
    /// Own rows to the arena, or from there.
    pub(super) fn pack(&mut self, pieces: &[Packed], to_arena: bool) -> Result<(), Why> {
        let mut runs: Vec<[Runs; 2]> = vec![];
        let mut own = vec![];
        for piece in pieces {
            let block = &piece.block;
            own.clear();
            self.places.block(block, &mut own)?;
            let bytes = self.facts.block_bytes(block.port, block.rows.len, block.heads.len);
            let mut at = self.places.view(&piece.at, bytes, "a block")?;
            for &from in &own {
                let dense = Runs { at, count: from.count, stride: from.bytes, bytes: from.bytes };
                at = at.plus(from.total());
                runs.push(if to_arena { [from, dense] } else { [dense, from] });
            }
        }
        if let [[from, to]] = runs.as_slice() {
            self.copy(Copy { from: *from, to: *to });
            return Ok(());
        }
        // A launch copies as many runs of each.
        while let Some(first) = runs.first() {
            let count = first[0].count;
            let mut copies = vec![];
            runs.retain(|r| {
                let goes = r[0].count == count && copies.len() < MAX_COPIES;
                copies.extend(goes.then_some(*r));
                !goes
            });
            self.pack_launch(copies, count);
        }
        Ok(())
    }

    fn pack_launch(&mut self, copies: Vec<[Runs; 2]>, runs: usize) {
        let numbers = copies.iter().flatten().flat_map(|r| [r.at.offset, r.stride, r.bytes]);
        let unit = numbers.fold(16, |unit, n| unit.min(power_of_two(n)));
        let longest = copies.iter().map(|c| c[0].bytes).max().unwrap_or(0) / unit;
        let grid = Grid {
            blocks: longest.div_ceil(THREADS).max(1) * copies.len(),
            most: Some(MOST),
            leaves: 0,
            multiple: copies.len(),
            threads: THREADS,
        };
        let unit = unit as u8;
        let kernel = self.helper(Work::Pack, Helper::Pack { copy: unit });
        self.launch(kernel, grid, Argument::Pack(PackArg { copies, runs, unit }));
    }
}

/// The largest power of two, at most 16, that divides a number.
pub(super) fn power_of_two(n: usize) -> usize {
    if n == 0 { 16 } else { 1 << n.trailing_zeros().min(4) }
}
