//! Where bytes lie, as a program says it.

/// Where bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Base {
    /// The rank's arena.
    Arena,
    /// An argument of the island, by its number: the rank's rows of q, k, v, then the leaves.
    Argument(usize),
    /// The rank's rows of the result.
    Out,
    /// The rank's rows of its log-sum-exp.
    Lse,
    /// [`Program::scratch`](super::Program::scratch) of a stream.
    Scratch(usize),
    /// [`Program::zeroed`](super::Program::zeroed) of a stream.
    Zeroed(usize),
}

/// A byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// In what.
    pub base: Base,
    /// Counted from its begin.
    pub offset: usize,
}

impl Address {
    /// So many bytes further.
    #[must_use]
    pub fn plus(self, bytes: usize) -> Address {
        Address { offset: self.offset.saturating_add(bytes), ..self }
    }
}

/// Runs of bytes of one length, evenly apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Where the first begins.
    pub at: Address,
    /// How many.
    pub count: usize,
    /// From the begin of one to that of the next.
    pub stride: usize,
    /// Of each.
    pub bytes: usize,
}

impl Runs {
    /// Bytes side by side.
    pub fn dense(at: Address, bytes: usize) -> Runs {
        Runs { at, count: 1, stride: bytes, bytes }
    }

    /// All bytes.
    pub fn total(&self) -> usize {
        self.count.saturating_mul(self.bytes)
    }

    /// The same bytes in as few runs as hold them.
    #[must_use]
    pub fn joined(self) -> Runs {
        if self.count > 1 && self.stride == self.bytes { Runs::dense(self.at, self.total()) } else { self }
    }

    /// One past the last byte.
    pub fn end(&self) -> usize {
        if self.total() == 0 {
            return self.at.offset;
        }
        let last = (self.count - 1).saturating_mul(self.stride);
        self.at.offset.saturating_add(last).saturating_add(self.bytes)
    }
}
