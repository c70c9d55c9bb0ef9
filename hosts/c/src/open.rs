//! Parts: the ranks of an island, ready on a GPU.

use crate::program::AnnulusProgram;
use crate::rows::AnnulusSizes;
use crate::status::{AnnulusStatus, Failure, fill, guarded, invalid, place, some};
use annulus::exec::cache::{Cache, standard_folder};
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::ranks::{Kernels, Part, RunOptions};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// How parts run. All zero is what is usual.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AnnulusRun {
    /// How many milliseconds a call waits for the other ranks' calls; 0: a minute.
    pub patience_ms: u32,
    /// Whether no graphs of CUDA are made of calls with pointers that come again.
    pub no_graphs: bool,
    /// Whether compiled kernels are neither kept on disk nor taken from there.
    pub no_cache: bool,
}

/// One rank of an attention on a GPU. What a call needs is loaded, and its tables lie in the GPU's memory.
pub struct AnnulusPart(Mutex<Part>);

impl AnnulusPart {
    /// The part, which no other call uses.
    pub(crate) fn held(&self) -> Result<MutexGuard<'_, Part>, Failure> {
        match self.0.try_lock() {
            Ok(part) => Ok(part),
            Err(TryLockError::Poisoned(left)) => Ok(left.into_inner()),
            Err(TryLockError::WouldBlock) => Err(invalid("a part is used twice at once")),
        }
    }
}

/// Opens all ranks of an attention on the GPU whose primary context is current: `parts` takes `count`, which is the number of ranks,
/// rank 0 first. Kernels are compiled, or taken from the cache. Each part is freed by annulus_part_free.
///
/// # Safety
/// The program lives, and `parts` has room for `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_parts_open(
    program: *const AnnulusProgram,
    island: usize,
    run: *const AnnulusRun,
    parts: *mut *mut AnnulusPart,
    count: usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same; null is what is usual.
        let run = unsafe { run.as_ref() }.copied().unwrap_or_default();
        let schedule = &program.island(island)?.schedule;
        if count != schedule.ranks.len() {
            return Err(invalid(format!("{count} parts for {} ranks", schedule.ranks.len())));
        }
        if parts.is_null() {
            return Err(invalid("parts is null"));
        }
        let folder = standard_folder().filter(|_| !run.no_cache);
        // A cache that cannot be had is no reason to stop: kernels are compiled anew.
        let cache = folder.and_then(|folder| Cache::open(&folder).ok());
        let patience =
            Duration::from_millis(if run.patience_ms == 0 { 60_000 } else { run.patience_ms.into() });
        let options = RunOptions { cache: cache.as_ref(), graph: !run.no_graphs, patience };
        let all = Part::all(&Gpu::current()?, &mut Kernels::new(), schedule, options)?;
        let all = all.into_iter().map(|part| Box::into_raw(Box::new(AnnulusPart(Mutex::new(part)))));
        // SAFETY: the same; there are as many as `count`.
        unsafe { fill(&all.collect::<Vec<_>>(), parts, count, "parts") }
    })
}

/// How much memory the calls of a part take. Of the arguments' bytes as many are written as there is room for.
///
/// # Safety
/// The part lives, and `argument_bytes` has room for `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_part_sizes(
    part: *const AnnulusPart,
    sizes: *mut AnnulusSizes,
    argument_bytes: *mut usize,
    capacity: usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let part = unsafe { some(part, "part") }?.held()?;
        // SAFETY: the same.
        *unsafe { place(sizes, "sizes") }? = AnnulusSizes::of(part.program());
        // SAFETY: the same.
        unsafe { fill(part.argument_bytes(), argument_bytes, capacity, "argument_bytes") }
    })
}

/// Frees a part. What it was told before is done all the same; no graph of the host's that holds a call of it may be launched any more,
/// and none of its calls may be under capture.
///
/// # Safety
/// It is null, or a part that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_part_free(part: *mut AnnulusPart) {
    if part.is_null() {
        return;
    }
    guarded(|| {
        // SAFETY: it was made by `annulus_parts_open`, by the caller's promise.
        drop(unsafe { Box::from_raw(part) });
        Ok(())
    });
}
