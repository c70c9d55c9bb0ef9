//! The tensor IR: graphs of SSA values and operations, without time.
//!
//! In: what importers, the text form or a program build through [`Graph::input`], [`Graph::constant`] and [`Graph::add`].
//! Out: the [`Graph`] that every later room reads, its text form, and [`verify()`]'s word that it is well formed.
//!
//! Invariants are listed in [`verify`](mod@verify). Shapes are concrete. Weights are shared, never copied, and may be
//! shapes without data. One small set of operations ([`Op`]); what each takes and gives is inferred, in `infer`.

pub(crate) mod axes;
mod dag;
mod element;
#[cfg(any(feature = "dump", test))]
pub(crate) mod flops;
pub(crate) mod graph;
mod heads;
mod ids;
pub(crate) mod infer;
pub(crate) mod narrow;
pub(crate) mod op;
mod quote;
pub(crate) mod stage;
pub(crate) mod strategy;
pub(crate) mod tensor;
pub(crate) mod text;
pub(crate) mod topology;
pub(crate) mod types;
pub mod verify;
mod way_out;

pub use dag::{Dag, Output, ReplaceError, Value};
pub use element::{Element, TensorError};
pub use graph::Graph;
pub use half::{bf16, f16};
pub use heads::Heads;
pub use ids::{OpId, ValueId};
pub use infer::InferError;
pub use op::{
    Attention, AttentionBackward, AttentionSizes, Attribute, Binary, Blob, Collective, Constant, Contract,
    DropMask, Dropout, EmptyRow, Factor, MessageKind, Op, Opaque, ParseScoresError, Partial, Reduction,
    RegionKind, RowAxes, ScoreStep, Scores, Unary, Windows, philox,
};
pub use stage::Stage;
pub use strategy::Strategy;
pub use tensor::{Data, Tensor};
pub use text::{Form, ParseError, parse, print};
pub(crate) use topology::Topology;
pub use types::{DType, MAX_DATA, MAX_ELEMENTS, MAX_RANK, Type};
pub use verify::{Broken, VerifyError, verify, verify_at};
pub use way_out::{Refused, WayOut};
