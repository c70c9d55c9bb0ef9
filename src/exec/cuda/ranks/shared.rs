//! What the parts of an island have in common.

use super::known::Together;
use super::options::RunOptions;
use crate::exec::cuda::error::{CudaError, driver};
use crate::exec::cuda::gpu::{Buffer, Gpu};
use crate::lower::program::Program;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the parts of an island have in common.
pub(super) struct Shared {
    pub(super) programs: Arc<Vec<Program>>,
    pub(super) tables: Buffer,
    pub(super) context: Arc<CudaContext>,
    /// What is freed, is freed in the order of this stream.
    pub(super) frees: Arc<CudaStream>,
    pub(super) patience: Duration,
    together: Mutex<Together>,
}

impl Shared {
    /// # Errors
    /// The driver's.
    pub(super) fn new(
        gpu: &Gpu,
        programs: Arc<Vec<Program>>,
        tables: Buffer,
        options: RunOptions<'_>,
    ) -> Result<Shared, CudaError> {
        Ok(Shared {
            programs,
            tables,
            context: gpu.context().clone(),
            frees: gpu.stream.clone(),
            patience: options.patience,
            together: Mutex::new(Together::new(gpu.context(), options.graph)?),
        })
    }

    pub(super) fn together(&self) -> MutexGuard<'_, Together> {
        self.together.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until all that the stream was told is done, but no longer than so long: whether it is.
pub(super) fn settle(stream: &CudaStream, event: &CudaEvent, patience: Duration) -> Result<bool, CudaError> {
    driver("recording an event", event.record(stream))?;
    let begin = Instant::now();
    while !driver("running the device program", event.try_is_complete())? {
        if begin.elapsed() > patience {
            return Ok(false);
        }
        std::thread::yield_now();
    }
    Ok(true)
}
