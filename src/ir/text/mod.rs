//! The text form of a graph: prints, and parses back to the same graph.
//!
//! In: a verified [`Graph`](super::Graph), or a text. Out: the text, or the graph, verified, or the place that is wrong.
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
//! [`Graph::ops`](super::Graph::ops); every operand is named above its use. What the declared type says is not said again (the shape of a
//! reshape, the type of a cast), and is checked against inference. Inputs are printed first, in their order, and may be
//! read anywhere above their uses. A name of other than letters, digits and `_ . / : - $` is quoted: `%"a b"`; in quotes,
//! every control character is escaped.
//!
//! Invariants: printing, parsing and printing again gives the same bytes; what is parsed back from [`Form::Full`] equals
//! the graph, and from [`Form::People`] too but for the data of constants of more than [`INLINE`] elements, which come back
//! by type and hash alone. A text of n bytes takes time and memory in proportion to n, whatever it says; graphs nest at most
//! [`MAX_NESTING`](super::verify::MAX_NESTING) deep. Floating numbers print as the shortest text that reads back exactly
//! (f16 and bf16 as the f32 that they are), and a NaN with its bits.

mod attributes;
mod braces;
mod cursor;
mod fault;
mod form;
mod literal;
mod op;
mod opaque;
mod parse;
mod print;

pub use form::Form;
pub use parse::{ParseError, parse};
pub use print::print;
