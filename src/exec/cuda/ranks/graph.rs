//! What was issued, kept as a graph of CUDA that one call replays.

use super::host::Host;
use crate::exec::cuda::error::{CudaError, driver, refuse};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream, result};
use std::sync::Arc;

/// A graph of all that was issued behind a stream and came back to it.
pub(super) struct Captured(CudaGraph);

// SAFETY: a graph may be used by any thread, by one at a time: it is launched and dropped by `&mut` alone.
unsafe impl Send for Captured {}

impl Captured {
    /// Of what `issue` tells the stream, and streams that wait for it and that it waits for; nothing of it runs. The pointers that launches
    /// and copies are told stay in it.
    pub(super) fn of<E: From<CudaError>>(
        stream: &Arc<CudaStream>,
        issue: impl FnOnce(Host) -> Result<(), E>,
    ) -> Result<Captured, E> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        driver("beginning a graph", stream.begin_capture(mode))?;
        let issued = issue(Host::own(stream));
        // A capture has an end, whatever came of it.
        let ended =
            stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY);
        issued?;
        let graph = driver("making a graph", ended)?;
        let Some(graph) = graph else { return Ok(refuse("nothing was captured".into())?) };
        Ok(Captured(graph))
    }

    /// Runs it behind what the stream was told.
    pub(super) fn launch(&mut self, on: Host) -> Result<(), CudaError> {
        // SAFETY: the graph lives; the stream does as `Host` promises. What the graph touches, the caller of the part keeps.
        driver("launching a graph", unsafe { result::graph::launch(self.0.cu_graph_exec(), on.stream()) })
    }
}
