//! Copies of runs of bytes within a GPU, in as few calls as the driver's copies allow.

use crate::exec::cuda::error::{CudaError, driver};
use crate::exec::walk::Spread;
use cudarc::driver::{CudaStream, result};

/// The widest pitch of a copy of two dimensions, of every GPU of today.
const PITCH: usize = i32::MAX as usize;

/// Copies runs of a program's own memory.
pub(super) fn copy_runs(on: &CudaStream, copy: &Spread<u64>) -> Result<(), CudaError> {
    use cudarc::driver::sys::{CUDA_MEMCPY2D, CUmemorytype, cuMemcpy2DAsync_v2};
    let pitched =
        copy.from_stride.max(copy.to_stride) <= PITCH && copy.from_stride.min(copy.to_stride) >= copy.bytes;
    if copy.count > 1 && pitched {
        let memory = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let shape = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: memory,
            srcHost: std::ptr::null(),
            srcDevice: copy.from,
            srcArray: std::ptr::null_mut(),
            srcPitch: copy.from_stride,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: memory,
            dstHost: std::ptr::null_mut(),
            dstDevice: copy.to,
            dstArray: std::ptr::null_mut(),
            dstPitch: copy.to_stride,
            WidthInBytes: copy.bytes,
            Height: copy.count,
        };
        // SAFETY: runs of the program's own memory, as in the launches of a rank; the shape lives for the call.
        let status = unsafe { cuMemcpy2DAsync_v2(&shape, on.cu_stream()) };
        return driver("copying on the device", status.result());
    }
    for run in 0..copy.count {
        let at = |base: u64, stride: usize| base + (run * stride) as u64;
        let (from, to) = (at(copy.from, copy.from_stride), at(copy.to, copy.to_stride));
        // SAFETY: runs of the program's own memory, as in the launches of a rank.
        let copied = unsafe { result::memcpy_dtod_async(to, from, copy.bytes, on.cu_stream()) };
        driver("copying on the device", copied)?;
    }
    Ok(())
}
