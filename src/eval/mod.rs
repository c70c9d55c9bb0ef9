//! eval: runs a graph on one rank, as it stands. The oracle.
//!
//! In: a verified graph and its inputs. Out: its outputs. [`apply`] runs one operation, `Constants` the parts of a graph
//! that depend on no input, [`compare()`] says how far two tensors are apart.
//!
//! Invariants: every operation is computed by one implementation, chosen by its element type once, in a fixed order of
//! summation, so that bits do not depend on the number of threads. Operands are checked by inference before
//! anything is read, so that a faulty operation is an error, never a panic. A value has at most 2^32 elements, and
//! nothing is computed of a graph that holds more at once than there is memory for. A graph is walked without recursion; regions may be nested 32 deep.
//!
//! | file | operations |
//! |---|---|
//! | `elementwise` | unary, binary, select, cast, iota |
//! | `shape` | reshape, permute, broadcast, slice, rows, concat, pad |
//! | `reduce` | reductions, softmax, running sums |
//! | `contract` | contractions |
//! | `window` | convolutions, pooling |
//! | `index` | gather, scatter, top-k |
//! | `attention`, `partial` | attention, its partial results, chunk, merge, finish |

mod attention;
mod backward;
mod compare;
mod compute;
mod constants;
mod contract;
mod elementwise;
mod error;
mod index;
mod lacking;
mod leaf;
mod matrix;
mod memory;
mod number;
mod partial;
mod precision;
mod real;
mod reduce;
mod run;
mod shape;
mod walk;
mod window;

pub use compare::{Comparison, compare};
pub(crate) use constants::Constants;
pub use error::EvalError;
pub use lacking::{Lacking, lacking};
pub use memory::{Shortage, fits};
pub use precision::Precision;

pub use run::{Progress, apply, eval, eval_watched};
