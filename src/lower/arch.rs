//! The architectures that code is made for.

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Arch {
    /// A100.
    Sm80,
    /// RTX 30 and A40: as sm_80 with less shared memory.
    Sm86,
    /// RTX 40 and L40.
    Sm89,
    /// H100, H200: with wgmma and the copy engine.
    Sm90a,
    /// B200.
    Sm100a,
    /// RTX 50.
    Sm120,
}

impl Arch {
    /// All, in order.
    pub const ALL: [Arch; 6] = [Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90a, Arch::Sm100a, Arch::Sm120];

    /// The compiler's name.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm89 => "sm_89",
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
            Arch::Sm120 => "sm_120",
        }
    }

    /// The one whose code a GPU of this compute capability runs; `None` if there is none.
    pub fn of(capability: (i32, i32)) -> Option<Arch> {
        match capability {
            (8, 0) => Some(Arch::Sm80),
            (8, 6) => Some(Arch::Sm86),
            (8, 9) => Some(Arch::Sm89),
            (9, 0) => Some(Arch::Sm90a),
            (10, 0) => Some(Arch::Sm100a),
            (12, _) => Some(Arch::Sm120),
            _ => None,
        }
    }

    /// Shared memory that a block may have, in bytes (CUDA C++ Programming Guide, technical specifications).
    pub fn shared_limit(self) -> usize {
        match self {
            Arch::Sm80 => 163 << 10,
            Arch::Sm86 | Arch::Sm89 | Arch::Sm120 => 99 << 10,
            Arch::Sm90a | Arch::Sm100a => 227 << 10,
        }
    }

    /// Whether so many blocks with so much shared memory fit one multiprocessor; each costs 1 KiB more.
    pub fn holds(self, blocks: usize, shared_bytes: usize) -> bool {
        shared_bytes <= self.shared_limit() && blocks * (shared_bytes + 1024) <= self.shared_limit() + 1024
    }
}
