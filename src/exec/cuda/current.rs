//! Which context is current on a thread: the host's stays what it was, whatever is called.

use super::error::{CudaError, driver};
use super::gpu::{self, Gpu};
use cudarc::driver::{CudaContext, result, sys};

/// While it lives the context is current on this thread; then what was current before.
pub(super) struct Entered(Option<sys::CUcontext>);

// SAFETY: a context is a name that all threads know. Whoever keeps one makes and drops it on one thread.
unsafe impl Send for Entered {}

impl Entered {
    /// # Errors
    /// The driver's.
    pub(super) fn new(context: &CudaContext) -> Result<Entered, CudaError> {
        let before = driver("asking for the context", result::ctx::get_current())?;
        driver("using the GPU", context.bind_to_thread())?;
        Ok(Entered(before))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: it was current on this thread, and whoever made it keeps it as long; null leaves the thread with none.
        let _ = unsafe { result::ctx::set_current(self.0.unwrap_or(std::ptr::null_mut())) };
    }
}

impl Gpu {
    /// The GPU whose primary context is current on this thread: that of the runtime API, and of every host that does not make contexts
    /// of its own.
    ///
    /// # Errors
    /// There is no driver, no context is current, or it is not the primary one.
    pub fn current() -> Result<Gpu, CudaError> {
        gpu::start()?;
        let current = driver("asking for the context", result::ctx::get_current())?;
        let none = || CudaError::Context("no context of CUDA is current on this thread".into());
        let current = current.ok_or_else(none)?;
        let mut device = 0;
        // SAFETY: the pointer is to a number that lives.
        let status = unsafe { sys::cuCtxGetDevice(&mut device) };
        driver("asking for the device", status.result())?;
        let count = driver("counting GPUs", result::device::get_count())?;
        let ordinal = (0..count).find(|&n| result::device::get(n).is_ok_and(|d| d == device));
        let ordinal =
            ordinal.ok_or_else(|| CudaError::Context(format!("device {device} is none of {count}")))?;
        let gpu = Gpu::open(ordinal as usize)?;
        // Opening made the primary one current.
        let primary = driver("asking for the context", result::ctx::get_current())?;
        if primary != Some(current) {
            let own = "the context that is current on this thread is not the primary one of its device";
            let entered = Entered(Some(current));
            drop(gpu);
            drop(entered);
            return Err(CudaError::Context(own.into()));
        }
        Ok(gpu)
    }
}
