//! In which form constants are printed.

/// Constants of at most this many elements print with their data in either form.
pub(super) const INLINE: usize = 8;

/// Whether constants are printed by their hash, for people, or exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Large constants by content hash; they parse back as weights without data.
    People,
    /// Everything exact.
    Full,
}
