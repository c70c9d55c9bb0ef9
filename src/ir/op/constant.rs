//! Constants of a graph.

use crate::ir::Tensor;
use crate::ir::types::Type;
use std::sync::Arc;

/// A constant: its type, its content hash and, unless the graph is compiled from shapes alone, its data.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Type of the value.
    pub ty: Type,
    /// [`Tensor::content_hash`] of the data.
    pub hash: u64,
    /// The data, shared by every graph that names it; `None` for a weight known by hash only.
    pub data: Option<Arc<Tensor>>,
}

impl Constant {
    /// A constant with its data.
    pub fn new(data: Tensor) -> Constant {
        Constant { ty: data.ty(), hash: data.content_hash(), data: Some(Arc::new(data)) }
    }
}

/// Equal type and content.
impl PartialEq for Constant {
    fn eq(&self, other: &Constant) -> bool {
        self.ty == other.ty && self.hash == other.hash
    }
}
