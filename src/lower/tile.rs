//! How the work of a kernel is cut: one table, with the reason of every line.
//!
//! What bounds a tile on Hopper, per block: 227 KiB of shared memory hold q once and two buffers of k and v,
//! 2·(64·warpgroups·DK + 2·keys·(DK+DV)) bytes; and a thread that multiplies holds DV/2 numbers of the output, keys/2 scores
//! and keys/4 packed weights in 232 registers (two warpgroups) or 160 (three). A product wants at least 128 keys, so that
//! reading k from shared memory keeps up with the tensor cores.

/// Head sizes are padded to panels of so many elements: a row of 128 bytes, the widest swizzle of the copy engine.
pub const PANEL: usize = 64;

/// Shared memory that a block may have on Hopper.
pub const SHARED_LIMIT: usize = 232_448;

/// The cut of a Hopper kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tiling {
    /// Warpgroups that multiply, of 64 query rows each.
    pub warpgroups: u8,
    /// Key rows of a block.
    pub keys: u16,
    /// Whether warpgroups take turns at the tensor cores, so that one's softmax lies under the other's products.
    pub turns: bool,
    /// Query tiles in shared memory: with two, the next one is loaded while this one is worked on.
    pub q_slots: u8,
    /// How many exponentials of sixteen are computed by multiply-adds, beside those of the special function unit.
    pub exp2_by_fma: u8,
}

/// The cut for these padded head sizes.
pub fn tiling(dk: u16, dv: u16, positions: bool) -> Tiling {
    let (warpgroups, keys, turns) = match (dk, dv) {
        // Softmax takes as long as the products here: a third warpgroup keeps the tensor cores busy, and 160 registers suffice.
        (..=64, ..=64) => (3, 128, true),
        // Under a mask, wider blocks waste more on the diagonal than they save.
        (..=128, ..=128) if positions => (2, 128, true),
        // 208 KiB; 192 keys no longer fit.
        (..=128, ..=128) => (2, 176, true),
        // 208 KiB, 200 registers.
        (..=192, ..=128) => (2, 128, false),
        // The output alone takes 96 registers.
        (..=192, ..=192) => (2, 96, false),
        (_, ..=128) => (2, 96, false),
        // 224 KiB and all of 232 registers.
        _ => (2, 80, false),
    };
    let tiling = Tiling { warpgroups, keys, turns, q_slots: 2, exp2_by_fma: 0 };
    if tiling.shared_bytes(dk, dv) <= SHARED_LIMIT { tiling } else { Tiling { q_slots: 1, ..tiling } }
}

/// Room for barriers behind the tiles; the text checks that it suffices.
const BARRIER_BYTES: usize = 512;

impl Tiling {
    /// Dynamic shared memory of a block in bytes: q, two buffers of k and of v, barriers.
    pub fn shared_bytes(&self, dk: u16, dv: u16) -> usize {
        let (dk, dv, keys) = (usize::from(dk), usize::from(dv), usize::from(self.keys));
        2 * (usize::from(self.q_slots) * self.rows() * dk + 2 * keys * (dk + dv)) + BARRIER_BYTES
    }

    /// Query rows of a unit of work.
    pub fn rows(&self) -> usize {
        usize::from(self.warpgroups) * 64
    }

    /// Registers per thread of the producer and of the others after they share out 64 K per block.
    pub fn registers(&self) -> (usize, usize) {
        if self.warpgroups == 3 { (32, 160) } else { (40, 232) }
    }
}
