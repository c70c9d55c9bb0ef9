//! What a kernel is made from: integers and enums, nothing else.

use super::tile::Tiling;

/// One kernel. Equal keys give equal text; nothing of a model but these facts reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelKey {
    /// Which text it is made from.
    pub family: Family,
    /// Type of q, k, v and the output.
    pub element: Element,
    /// Head size of q and k as the kernel sees it, rounded up to [`super::tile::PANEL`]; the rest is zeros.
    pub dk: u16,
    /// The same of v and the output.
    pub dv: u16,
    /// How the work is cut.
    pub tiling: Tiling,
    /// Whether some pair of rows is masked by position; a step whose tile is Full has none.
    pub positions: bool,
    /// Whether scores go through cap·tanh(score/cap).
    pub softcap: bool,
    /// Whether it goes on from a carry.
    pub carry_in: bool,
    /// Whether it divides, casts and writes the output; else it writes the carry.
    pub cast_out: bool,
    /// Whether it counts the sinks.
    pub sinks: bool,
    /// What a masked score becomes.
    pub fill: Fill,
}

/// The texts in `kernels/` that have an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `attn_partial` for sm_90a: copy engine, warpgroup products.
    Hopper,
}

/// Element type of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

/// What a masked score becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fill {
    /// −∞: the key takes no part.
    NegInf,
    /// A finite number in its place.
    Replace,
    /// A finite number added to it.
    Add,
}

/// An architecture that code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// A100 and later, by forward compatibility within a major number.
    Sm80,
    /// H100, H200: with wgmma and the copy engine.
    Sm90a,
}

impl Arch {
    /// The compiler's name.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm90a => "sm_90a",
        }
    }
}

impl KernelKey {
    /// The kernel's name in its module.
    pub fn entry(&self) -> &'static str {
        match self.family {
            Family::Hopper => "attn_partial",
        }
    }

    /// Query rows of a unit of work.
    pub fn rows(&self) -> usize {
        self.tiling.rows()
    }

    /// Threads of a block: a producer warpgroup beside those that multiply.
    pub fn threads(&self) -> usize {
        (usize::from(self.tiling.warpgroups) + 1) * 128
    }

    /// Dynamic shared memory of a block in bytes.
    pub fn shared_bytes(&self) -> usize {
        self.tiling.shared_bytes(self.dk, self.dv)
    }
}
