//! What the parts of an island have in common, and how they begin anew.

use super::error::IslandError;
use super::host::Host;
use super::island::RunOptions;
use super::part::Part;
use super::together::Together;
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::error::{CudaError, driver, refuse};
use crate::exec::cuda::gpu::{Buffer, Gpu};
use crate::exec::walk::Local;
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

/// What all parts of an island share, if these are all of one, each once and in order.
pub(super) fn whole(parts: &[&mut Part]) -> Result<Arc<Shared>, IslandError> {
    let Some(first) = parts.first() else { return Err(IslandError::Parts { got: 0, wanted: 1 }) };
    let (shared, wanted) = (first.shared.clone(), first.ranks());
    let mut numbered = parts.iter().enumerate();
    let right = numbered.all(|(n, part)| part.rank() == n && Arc::ptr_eq(&part.shared, &shared));
    if !right || parts.len() != wanted {
        return Err(IslandError::Parts { got: parts.len(), wanted });
    }
    Ok(shared)
}

impl Part {
    /// Begins anew after a call failed, with all parts of the island, rank 0 first. Whatever comes next runs behind everything that the
    /// device was told for any rank.
    ///
    /// # Errors
    /// They are not all parts of one island, or the driver's.
    pub fn restart(parts: &mut [&mut Part]) -> Result<(), IslandError> {
        let shared = whole(parts)?;
        let _entered = Entered::new(&shared.context)?;
        let together = shared.together();
        let meeting = Host::own(&together.own);
        together.await_last(parts, meeting)?;
        parts.iter_mut().try_for_each(|part| part.rank.before(meeting))?;
        together.ended(parts, meeting)?;
        parts.iter_mut().try_for_each(|part| part.rank.after(&together.end))?;
        for (part, transport) in parts.iter_mut().zip(Local::ends(shared.programs.len())) {
            part.transport = transport;
        }
        Ok(())
    }
}

/// Waits until all that the stream was told is done, but no longer than so long.
pub(super) fn settle(stream: &CudaStream, event: &CudaEvent, patience: Duration) -> Result<(), CudaError> {
    driver("recording an event", event.record(stream))?;
    let begin = Instant::now();
    while !driver("running the device program", event.try_is_complete())? {
        if begin.elapsed() > patience {
            return refuse(format!("the island is not done after {patience:?}"));
        }
        std::thread::yield_now();
    }
    Ok(())
}
