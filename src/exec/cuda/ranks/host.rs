//! A stream of the host, which may belong to another CUDA crate, or to none.

use crate::exec::cuda::error::{CudaError, driver};
use cudarc::driver::sys::{CUstream, CUstreamCaptureStatus};
use cudarc::driver::{CudaEvent, CudaStream, result};

/// A stream that is told what it comes before and behind, by its handle.
#[derive(Clone, Copy)]
pub(super) struct Host(CUstream);

impl Host {
    /// # Safety
    /// It is a stream of the GPU's primary context, or null for that context's default stream, and lives as long as the value is used.
    pub(super) unsafe fn of(stream: CUstream) -> Host {
        Host(stream)
    }

    /// A stream that is annulus's own.
    pub(super) fn own(stream: &CudaStream) -> Host {
        Host(stream.cu_stream())
    }

    pub(super) fn stream(self) -> CUstream {
        self.0
    }

    /// The event happens when all that the stream was told is done.
    pub(super) fn record(self, event: &CudaEvent) -> Result<(), CudaError> {
        // SAFETY: both live; the promise of `of`.
        driver("recording an event", unsafe { result::event::record(event.cu_event(), self.0) })
    }

    /// What the stream is told from here on comes behind the event.
    pub(super) fn wait(self, event: &CudaEvent) -> Result<(), CudaError> {
        let flags = cudarc::driver::sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live; the promise of `of`.
        driver("waiting for an event", unsafe { result::stream::wait_event(self.0, event.cu_event(), flags) })
    }

    /// Whether what the stream is told is kept in a graph of the host's, and not run now.
    pub(super) fn captures(self) -> Result<bool, CudaError> {
        // SAFETY: the promise of `of`.
        let status = unsafe { result::stream::is_capturing(self.0) };
        let status = driver("asking whether a stream is captured", status)?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }
}
