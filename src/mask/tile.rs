//! What a mask says about a block.

/// What a mask says about a block of query rows × key rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tile {
    /// No pair is kept, and a masked pair takes no part: nothing to compute.
    Skip,
    /// Every pair is kept: nothing to mask.
    Full,
    /// Anything else.
    Partial,
}

impl Tile {
    /// The name in text: `skip`, `full`, `partial`.
    pub fn name(self) -> &'static str {
        match self {
            Tile::Skip => "skip",
            Tile::Full => "full",
            Tile::Partial => "partial",
        }
    }
}
