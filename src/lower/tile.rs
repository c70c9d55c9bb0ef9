//! How the work of a kernel is cut: the tables, with the reason of every line.
//!
//! Head sizes are rounded up to a class, so that there are few kernels; what is beyond the true size is zeros, which cost time
//! and change nothing.

use super::arch::Arch;
use super::element::Element;

/// Elements of 16 bits in a row of the copy engine's widest swizzle: 128 bytes. Hopper kernels take heads in such panels.
#[cfg(any(feature = "cuda", test))]
pub(crate) const PANEL: usize = 64;

/// Head sizes of Hopper kernels, Dk and Dv.
pub(crate) const HOPPER_HEADS: [(u16, u16); 5] = [(64, 64), (128, 128), (192, 128), (192, 192), (256, 256)];
/// Of portable kernels with elements of 16 bits.
pub(crate) const PORTABLE_HEADS: [(u16, u16); 6] =
    [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (256, 256)];
/// Of portable kernels in f32.
pub(crate) const F32_HEADS: [(u16, u16); 4] = [(64, 64), (128, 128), (192, 128), (256, 256)];

/// The first class that holds these head sizes.
pub(super) fn head_class(classes: &[(u16, u16)], dk: usize, dv: usize) -> Option<(u16, u16)> {
    classes.iter().copied().find(|(k, v)| dk <= usize::from(*k) && dv <= usize::from(*v))
}

/// The cut of a Hopper kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopperTiling {
    /// Warpgroups that multiply, of 64 query rows each.
    pub warpgroups: u8,
    /// Key rows of a block.
    pub keys: u16,
    /// Whether warpgroups take turns at the tensor cores, so that one's softmax lies under the other's products.
    pub turns: bool,
    /// Query tiles in shared memory: with two, the next one is loaded while this one is worked on.
    pub q_slots: u8,
    /// Of the products of a block's weights with its values, 16 keys each, how many are issued before the softmax of the next
    /// block. A product that takes weights from registers holds up what follows until the tensor cores are near it; those
    /// issued later run under the exponentials.
    pub values_ahead: u8,
}

/// The cut for these classes of heads.
///
/// What bounds a tile, per block: 227 KiB of shared memory hold q and two buffers of k and v, 2·(64·warpgroups·DK +
/// 2·keys·(DK+DV)) bytes; and a thread that multiplies holds DV/2 numbers of the output, keys/2 scores and keys/4 packed weights
/// in 232 registers (two warpgroups) or 160 (three). A product wants at least 128 keys, so that reading k from shared memory
/// keeps up with the tensor cores.
pub(crate) fn hopper_tiling(dk: u16, dv: u16) -> HopperTiling {
    let (warpgroups, keys, turns, values_ahead) = match (dk, dv) {
        // Softmax takes as long as the products: a third warpgroup keeps the tensor cores busy, and 160 registers suffice. With
        // three, products need not be issued in parts.
        (..=64, ..=64) => (3, 128, true, 8),
        // 160 KiB.
        (..=128, ..=128) => (2, 128, true, 4),
        // 208 KiB. More products with keys beside the same with values: one more goes ahead.
        (..=192, ..=128) => (2, 128, true, 5),
        // The output alone takes 96 registers.
        (..=192, ..=192) => (2, 96, false, 3),
        // 224 KiB. The products are twice as long as the softmax: turns would only cost.
        _ => (2, 80, false, 3),
    };
    let tiling = HopperTiling { warpgroups, keys, turns, q_slots: 2, values_ahead };
    if tiling.shared_bytes(dk, dv) <= Arch::Sm90a.shared_limit() {
        tiling
    } else {
        HopperTiling { q_slots: 1, ..tiling }
    }
}

/// Key rows of a launch from which on [`LONG`] is faster: the fill and the drain of a tile are then small beside it.
pub(super) const LONG_FROM: usize = 4097;

/// The cut for heads of 128 and long rows of keys: 208 KiB and some 220 registers; 192 keys no longer fit.
pub(super) const LONG: HopperTiling =
    HopperTiling { warpgroups: 2, keys: 176, turns: true, q_slots: 1, values_ahead: 6 };

/// Room for barriers behind the tiles; the text checks that it suffices.
const BARRIER_BYTES: usize = 512;

impl HopperTiling {
    pub(super) fn shared_bytes(self, dk: u16, dv: u16) -> usize {
        let (dk, dv, keys) = (usize::from(dk), usize::from(dv), usize::from(self.keys));
        2 * (usize::from(self.q_slots) * self.rows() * dk + 2 * keys * (dk + dv)) + BARRIER_BYTES
    }

    pub(super) fn rows(self) -> usize {
        usize::from(self.warpgroups) * 64
    }

    /// Registers per thread of the producer and of the others after they share out 64 K per block.
    pub fn registers(self) -> (usize, usize) {
        if self.warpgroups == 3 { (32, 160) } else { (40, 232) }
    }
}

/// The cut of a portable kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortableTiling {
    /// Warps of a block.
    pub warps: u8,
    /// Tiles of query rows per warp, of 16 rows, in f32 of 8; one where the key is `tight`.
    pub row_tiles: u8,
    /// Key rows of a block.
    pub keys: u16,
    /// Blocks that share a multiprocessor: one computes while the other waits.
    pub blocks: u8,
}

/// The cut for these classes of heads: the first of its line that the architecture's shared memory holds.
pub(crate) fn portable_tiling(
    element: Element,
    dk: u16,
    dv: u16,
    positions: bool,
    arch: Arch,
) -> Option<PortableTiling> {
    // Warps, tiles of rows of each, keys, blocks a multiprocessor. Two tiles per warp halve the traffic of shared memory; o, s and
    // packed weights fill the registers then: with 64 keys at 128 columns some spill.
    let choices: &[(u8, u8, u16, u8)] = match (element, dk, dv) {
        // The assembler for sm_100 and its like spills with 64 keys.
        (Element::F32, ..=64, _) if arch.is_tight() => &[(8, 1, 32, 2)],
        (Element::F32, ..=64, _) => &[(8, 1, 64, 2), (8, 1, 32, 2), (8, 1, 32, 1)],
        (Element::F32, ..=128, _) => &[(8, 1, 32, 2), (8, 1, 32, 1), (8, 1, 16, 1)],
        // Half the rows where shared memory is short.
        (Element::F32, ..) => &[(8, 1, 32, 1), (8, 1, 16, 1), (4, 1, 16, 1)],
        (_, ..=64, ..=64) => &[(4, 2, 64, 2), (4, 2, 32, 2), (4, 2, 32, 1)],
        (_, ..=128, ..=128) => &[(4, 2, 48, 2), (4, 2, 48, 1), (4, 2, 32, 1)],
        // q alone takes 48 KiB.
        (_, ..=192, ..=128) => &[(4, 2, 48, 1), (4, 2, 32, 1), (4, 2, 16, 1)],
        // The output takes 128 registers of a single tile. Where shared memory allows, eight warps share longer blocks of keys;
        // the assembler for sm_100 and its like spills then.
        _ if arch.is_tight() => &[(4, 1, 32, 2)],
        _ => &[(8, 1, 64, 1), (4, 1, 32, 2), (4, 1, 32, 1), (4, 1, 16, 1)],
    };
    let mut all = choices.iter().map(|&(warps, row_tiles, keys, blocks)| PortableTiling {
        warps,
        row_tiles,
        keys,
        blocks,
    });
    all.find(|t| arch.holds(t.blocks.into(), t.shared_bytes(element, dk, dv, positions, false)))
}

impl PortableTiling {
    pub(super) fn row_tiles(self, tight: bool) -> u8 {
        if tight { 1 } else { self.row_tiles }
    }

    pub(super) fn rows(self, element: Element, tight: bool) -> usize {
        let tile = if element == Element::F32 { 8 } else { 16 };
        usize::from(self.warps) * usize::from(self.row_tiles(tight)) * tile
    }

    pub(super) fn shared_bytes(
        self,
        element: Element,
        dk: u16,
        dv: u16,
        positions: bool,
        tight: bool,
    ) -> usize {
        let [dk, dv, keys, warps] = [dk, dv, self.keys, self.warps.into()].map(usize::from);
        let rows = self.rows(element, tight);
        // Of the tile: its work and its blocks of keys, and what its rows see of each of eight pieces.
        let plan = 84 + if positions { 64 * rows } else { 8 };
        let tiles = match element {
            // Rows are four numbers longer, against conflicts of banks.
            Element::F32 => 4 * ((rows + keys) * (dk + 4) + keys * dv + rows * (keys + 4)),
            Element::F16 | Element::Bf16 => 2 * rows * dk + 4 * keys * (dk.max(16 * warps) + dv),
        };
        tiles + plan
    }
}
