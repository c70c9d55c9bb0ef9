//! What takes the place of a link: a copy within the device that is no faster than a link would be.

use super::error::{CudaError, refuse};
use super::gpu::Gpu;
use super::helpers::{HelperKernel, overlap};
use super::step::BufferRange;
use crate::lower::{Helper, Paced};
use cudarc::driver::{DeviceRepr, PushKernelArg};
use std::time::Duration;

// SAFETY: laid out as the kernel's argument is, which its text asserts.
unsafe impl DeviceRepr for Paced {}

/// The unit of addresses.
const UNIT: u64 = 16;

/// The argument of the kernel.
///
/// # Errors
/// An address is no multiple of 16 bytes, or it would take 2 seconds or longer.
pub(super) fn argument([from, to]: [u64; 2], bytes: usize, time: Duration) -> Result<Paced, CudaError> {
    if !from.is_multiple_of(UNIT) || !to.is_multiple_of(UNIT) {
        return refuse(format!("a paced copy between addresses that are no multiples of {UNIT}"));
    }
    match i32::try_from(time.as_nanos()) {
        Ok(time) if time < 2_000_000_000 => {
            Ok(Paced { from, to, bytes: bytes as i64, nanoseconds: time.into() })
        }
        _ => refuse(format!("a paced copy that takes {time:?}")),
    }
}

impl Gpu {
    /// Copies bytes by at most so many blocks of 256 threads, no faster than in so long. No bytes only take time.
    ///
    /// # Errors
    /// A range reaches outside of its buffer or is not aligned to 16 bytes, the two overlap, or it would take 2 seconds or longer.
    pub fn paced(
        &self,
        kernel: &HelperKernel,
        [from, to]: [BufferRange; 2],
        bytes: usize,
        time: Duration,
        blocks: usize,
    ) -> Result<(), CudaError> {
        let Helper::Paced = kernel.helper else { return refuse("the kernel keeps no pace".into()) };
        if overlap(&from, &to, [bytes; 2]) {
            return refuse("a paced copy goes to where it comes from".into());
        }
        let from = self.address(&from, Some(bytes), "the source")?;
        let to = self.address(&to, Some(bytes), "the target")?;
        let argument = argument([from, to], bytes, time)?;
        self.launch_helper(kernel, 0, blocks, usize::MAX, |launch| {
            launch.arg(&argument);
        })
    }
}
