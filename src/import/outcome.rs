//! What a node becomes, or why it becomes nothing.

use crate::ir::{InferError, Refused, ValueId, WayOut};
use std::rc::Rc;

/// What a value of the model has become.
#[derive(Clone, Debug)]
pub(super) enum Lowered {
    /// One value.
    Value(ValueId),
    /// A sequence of known length.
    Sequence(Rc<[ValueId]>),
}

/// Why a node is not lowered. [`lower`](super::lower) adds which node it is.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Valid, but not known here.
    Unsupported(Refused),
    /// Not valid.
    Malformed(String),
}

impl From<InferError> for Refusal {
    fn from(e: InferError) -> Refusal {
        Refusal::Malformed(e.to_string())
    }
}

/// A refusal of something valid, with a way out.
pub(super) fn unsupported<T>(why: impl Into<String>, way_out: WayOut) -> Result<T, Refusal> {
    Err(Refusal::Unsupported(Refused::new(why, way_out)))
}

/// A refusal of something invalid.
pub(super) fn malformed<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Malformed(why.into()))
}

/// What a node becomes: one entry for each of its outputs.
pub(super) type LoweredNode = Result<Vec<Lowered>, Refusal>;

/// A single result.
pub(super) fn one(v: ValueId) -> LoweredNode {
    Ok(vec![Lowered::Value(v)])
}
