//! Masks: which query row may see which key row, as an expression over global row numbers.
//!
//! In: nothing but numbers. Out: a [`Mask`], and for a block of query rows and a block of key rows the answer
//! [`Tile::Skip`], [`Tile::Full`] or [`Tile::Partial`].
//!
//! Invariants: `Skip` and `Full` are claims about every batch entry, head and pair of the block, proved by interval
//! arithmetic; what cannot be proved is `Partial`. A leaf that is a tensor gives `Partial`, never `Skip`. A finite fill is
//! not −∞: with one, a masked key still takes part, so that no block is skipped. Of one batch entry, the terms that depend
//! on positions keep an interval of keys for each query row, and both of its ends move on with the row.

mod area;
mod entry;
mod term;
mod text;
mod tile;
mod whole;

pub use term::Term;
pub use text::ParseMaskError;
pub use tile::Tile;
pub use whole::{Fill, Mask};

#[cfg(test)]
mod tests;
