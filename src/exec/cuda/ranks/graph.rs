//! What was issued, kept as a graph of CUDA that one call replays.

use crate::exec::cuda::error::{CudaError, driver, refuse};
use crate::exec::cuda::gpu::Gpu;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

/// A graph of all that was issued behind the GPU's stream and came back to it.
pub(super) struct Captured(CudaGraph);

impl Captured {
    /// Of what `issue` tells the GPU's stream, and streams that wait for it and that it waits for; nothing of it runs.
    pub(super) fn of<E: From<CudaError>>(
        gpu: &Gpu,
        issue: impl FnOnce(&Gpu) -> Result<(), E>,
    ) -> Result<Captured, E> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        driver("beginning a graph", gpu.stream.begin_capture(mode))?;
        let issued = issue(gpu);
        // A capture has an end, whatever came of it.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let ended = gpu.stream.end_capture(flags);
        issued?;
        let graph = driver("making a graph", ended)?;
        let Some(graph) = graph else { return Ok(refuse("nothing was captured".into())?) };
        driver("uploading a graph", graph.upload())?;
        Ok(Captured(graph))
    }

    /// Runs it behind what the GPU's stream was told.
    pub(super) fn launch(&self) -> Result<(), CudaError> {
        driver("launching a graph", self.0.launch())
    }
}
