//! What the parts of an island have in common.

use super::error::IslandError;
use super::known::Together;
use super::options::RunOptions;
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::error::driver;
use crate::exec::cuda::gpu::{Buffer, Gpu};
use crate::exec::cuda::settle::settle;
use crate::lower::program::Program;
use cudarc::driver::{CudaContext, CudaStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the parts of an island have in common.
pub(super) struct Shared {
    /// Of all ranks.
    pub(super) programs: Arc<Vec<Program>>,
    /// The ranks of this process.
    pub(super) here: Range<usize>,
    pub(super) tables: Buffer,
    pub(super) context: Arc<CudaContext>,
    /// What is freed, is freed in the order of this stream.
    pub(super) frees: Arc<CudaStream>,
    pub(super) patience: Duration,
    together: Mutex<Together>,
}

impl Shared {
    /// The programs' tables are put on the GPU.
    ///
    /// # Errors
    /// The driver's, or it takes too long.
    pub(super) fn ready(
        gpu: &Gpu,
        programs: Vec<Program>,
        here: Range<usize>,
        options: RunOptions<'_>,
    ) -> Result<Arc<Shared>, IslandError> {
        let _entered = Entered::new(gpu.context())?;
        let mut tables = gpu.unwritten(programs.first().map_or(0, |p| 4 * p.tables.len()))?;
        let numbers: &[i32] = programs.first().map_or(&[], |p| &p.tables);
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        // The bytes are read until they are there.
        let written = gpu.write(&bytes, &mut tables);
        let there = driver("making an event", gpu.context().new_event(None));
        let there = there.and_then(|there| settle(&gpu.stream, &there, options.patience, || Ok(())));
        written?;
        if !there? {
            return Err(IslandError::Late { late: None, patience: options.patience });
        }
        let alone = here.len() == programs.len();
        Ok(Arc::new(Shared {
            programs: Arc::new(programs),
            here,
            tables,
            context: gpu.context().clone(),
            frees: gpu.stream.clone(),
            patience: options.patience,
            together: Mutex::new(Together::new(gpu.context(), (options.graph, !alone))?),
        }))
    }

    pub(super) fn together(&self) -> MutexGuard<'_, Together> {
        self.together.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
