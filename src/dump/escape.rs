//! Which characters of a name a picture must not hold as they are.

/// Whether a character is shown rather than passed on: it would break the text, or reorder it for the eye.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}
