//! text: the form of a [`Schedule`] that people read and files hold.
//!
//! In: a schedule, or text. Out: text, or schedules with an error that shows the line and a caret.
//!
//! Invariants: what is printed parses back to an equal schedule (with finite numbers, and no fill on a mask without
//! terms, which has no meaning and is not printed), and prints the same bytes again. A schedule need not be right to be
//! printed or parsed: `check` says what is wrong with it. One step is one line; a comment behind a step is its reason,
//! any other comment is skipped. Without `slots` a ring has two. No control character of a name or reason reaches the text unescaped.
//!
//! ```text
//! schedule "layers.0" ring slots 2 {
//!   attention q f32[1,4,32,16] k f32[1,2,32,16] v f32[1,2,32,16] acc f32 scale 0.25 empty zero
//!   mask causal(0)
//!   q_layout contiguous 32 { 0:16 | 16:16 }
//!   kv_layout contiguous 32 { 0:16 | 16:16 }
//!   rank 0 arena 18432 {
//!     slot kv.local    0..4096
//!     slot kv.0     4096..8192
//!     #0 compute          record e0  pack 0:16@kv.local[0..4096]
//!     #1 comm     wait e0            sendrecv g1 to 1 kv.local[0..4096] from 1 kv.0[0..4096]  // hop 1
//! ```
//!
//! `0:16` are the rows 0 to 15, `0:16:2` every second row from 0; `@` says where they lie; `a[0..4]+b[0..4]` is one
//! message of two views; ranks of a layout are parted by `|`, and `-` owns nothing. `%7[0..4]` is the slot of number 7
//! where a name would not say which.

mod cursor;
mod parse;
mod print;

pub use parse::parse;

/// Where a step stands in a text that holds schedules: the number of its line, from 1, and the line. `nth` counts the schedules
/// of the text from 0.
pub fn line_of(text: &str, nth: usize, rank: usize, step: usize) -> Option<(usize, &str)> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let mut seen = 0;
    lines.find(|(_, line)| {
        seen += usize::from(line.starts_with("schedule "));
        seen > nth
    })?;
    let (rank, step) = (format!("rank {rank} "), format!("#{step} "));
    lines.find(|(_, line)| line.starts_with(&rank))?;
    lines.take_while(|(_, line)| *line != "}").find(|(_, line)| line.starts_with(&step))
}

/// Whether a name is written without quotes: letters, digits and `_.-`, beginning with a letter or `_`.
fn bare(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(rest)
        && name != "none"
}

/// Whether a character could change how the text around it is shown: controls, line ends, and the marks that are
/// invisible or turn the direction of writing.
fn unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || ('\u{200b}'..='\u{200f}').contains(&c)
        || ('\u{2028}'..='\u{202e}').contains(&c)
        || ('\u{2060}'..='\u{206f}').contains(&c)
        || ('\u{fff9}'..='\u{fffb}').contains(&c)
        || ('\u{e0000}'..='\u{e007f}').contains(&c)
}

#[cfg(test)]
mod tests;
