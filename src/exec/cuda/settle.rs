//! Waiting for a device: asked again and again, with a limit, and with an ear for whatever else may have failed.

use super::error::{CudaError, driver};
use cudarc::driver::{CudaEvent, CudaStream};
use std::time::{Duration, Instant};

/// Waits until all that the stream was told is done, but no longer than so long: whether it is. `well` is asked meanwhile.
///
/// # Errors
/// The driver's, or that of `well`.
pub(super) fn settle<E: From<CudaError>>(
    stream: &CudaStream,
    event: &CudaEvent,
    patience: Duration,
    mut well: impl FnMut() -> Result<(), E>,
) -> Result<bool, E> {
    driver("recording an event", event.record(stream))?;
    let begin = Instant::now();
    while !driver("running what the device was told", event.try_is_complete())? {
        well()?;
        if begin.elapsed() > patience {
            return Ok(false);
        }
        std::thread::yield_now();
    }
    Ok(true)
}

/// How long a device may take to end what was given up.
pub(super) const END: Duration = Duration::from_secs(5);
