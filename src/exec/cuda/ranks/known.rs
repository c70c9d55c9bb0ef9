//! What is kept from one call of all parts to the next: where it ended, and graphs by the pointers that they hold.

use super::call::Pointers;
use super::graph::Captured;
use crate::exec::cuda::error::{CudaError, driver};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use std::sync::Arc;

/// What calls of all parts have in common.
pub(super) struct Together {
    pub(super) graph: bool,
    /// Whether what is known must not depend on time, because other processes know the same.
    pub(super) alike: bool,
    /// Where calls are captured; nothing else runs there.
    pub(super) own: Arc<CudaStream>,
    /// Where a stream stands when a call begins, and when it has been told all of it.
    pub(super) begin: CudaEvent,
    pub(super) end: CudaEvent,
    /// In the order of their latest calls.
    pub(super) known: Vec<Known>,
}

/// The pointers of a call.
pub(super) struct Known {
    pub(super) pointers: Vec<Pointers>,
    /// Of the second call with them.
    pub(super) captured: Option<Captured>,
    /// Behind its last launch, if there was one.
    pub(super) done: CudaEvent,
}

impl Together {
    /// # Errors
    /// The driver's.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        (graph, alike): (bool, bool),
    ) -> Result<Together, CudaError> {
        Ok(Together {
            graph,
            alike,
            own: driver("making a stream", context.new_stream())?,
            begin: driver("making an event", context.new_event(None))?,
            end: driver("making an event", context.new_event(None))?,
            known: vec![],
        })
    }
}
