//! Result types of an operation from its operands' types. Every rule about what an operation takes stands here, once.
//!
//! | file | operations |
//! |---|---|
//! | `elementwise` | iota, unary, binary, select |
//! | `contract` | contractions |
//! | `window` | convolutions, pooling |
//! | `reduce` | reductions, softmax, running sums |
//! | `shape` | reshape, permute, broadcast, slice, rows, concat, pad |
//! | `index` | gather, scatter, top-k |
//! | `attention` | attention, its partial results |
//! | `opaque` | operators that are not computed |
//! | `island` | chunk, transfers, merge, finish, regions, unshard |

mod attention;
mod check;
mod contract;
mod elementwise;
mod index;
mod island;
mod opaque;
mod reduce;
mod rows;
mod rule;
mod shape;
mod window;

pub(crate) use attention::attention_sizes;
pub(crate) use opaque::rowwise;
pub(crate) use rows::union;
pub use rule::InferError;
pub(crate) use rule::infer;
