//! The text form of a graph: prints, and parses back to the same graph.
//!
//! In: a verified [`Graph`], or a text. Out: the text, or the graph, verified, or the place that is wrong.
//!
//! ```text
//! // A comment runs to the end of its line.
//! graph "tiny" {
//!   input %x: f32[1,4,8,16]  @"the node of the imported model"
//!   const %half: f32[] = 0.5
//!   const %w: f32[16,16] = #3f2a91c0aa11bb22
//!   %y: f32[1,4,8,16] = contract %x, %w {bhid,de->bhie}
//!   %v, %i: f32[1,4,8,2], i64[1,4,8,2] = topk %y {axis=3, k=2, largest}
//!   %o: f32[1,4,8,16] = segment %y graph "inner" {
//!     …
//!   }
//!   output "top" = %v
//! }
//! ```
//!
//! A line is `results: types = operation operands {attributes} @"source"`. Operations stand in the order of
//! [`Graph::ops`]; every operand is named above its use. What the declared type says is not said again (the shape of a
//! reshape, the type of a cast), and is checked against inference. Inputs are printed first, in their order, and may be
//! read anywhere above their uses. A name of other than letters, digits and `_ . / : - $` is quoted: `%"a b"`; in quotes,
//! every control character is escaped.
//!
//! Invariants: printing, parsing and printing again gives the same bytes; what is parsed back from [`Form::Full`] equals
//! the graph, and from [`Form::People`] too but for the data of constants of more than [`INLINE`] elements, which come back
//! by type and hash alone. A text of n bytes takes time and memory in proportion to n, whatever it says; graphs nest at most
//! [`MAX_NESTING`](super::verify::MAX_NESTING) deep. Floating numbers print as the shortest text that reads back exactly
//! (f16 and bf16 as the f32 that they are), and a NaN with its bits.

mod cursor;
mod fault;
mod literal;
mod op;
mod parse;
mod print;

use super::Graph;
use std::fmt;

pub(super) use print::quoted_name;

/// Constants of at most this many elements print with their data in either form.
pub const INLINE: usize = 8;

/// Whether constants are printed by their hash, for people, or exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Large constants by content hash; they parse back as weights without data.
    People,
    /// Everything exact.
    Full,
}

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rendered}")]
pub struct ParseError {
    /// The message with the line and a caret.
    pub rendered: String,
}

/// Prints a graph.
pub fn print(graph: &Graph, form: Form) -> String {
    print::print(graph, form)
}

/// Parses what [`print()`] prints, in either form. The result is verified.
///
/// # Errors
/// With the line and a caret.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    parse::parse(text).map_err(|fault| ParseError { rendered: fault.render(text) })
}

/// The form for people.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, Form::People))
    }
}
