//! What a launch is handed lies within its buffers, and its counts within what the kernels count with.

use super::aliasing::Ranges;
use super::error::{CudaError, foreign, refuse, too_large};
use super::gpu::Gpu;
use super::step::{BufferRange, DeviceTensor};
use crate::lower::{FAR, Leaf, Rows};
use cudarc::driver::DevicePtr;

/// The product, if it can be counted.
pub(super) fn all(factors: &[usize]) -> Option<usize> {
    factors.iter().try_fold(1usize, |n, f| n.checked_mul(*f))
}

/// A count as the kernels take it.
pub(super) fn number(n: usize) -> Result<i32, CudaError> {
    i32::try_from(n).map_err(|_| too_large(&n.to_string()))
}

/// One past the greatest global row.
pub(super) fn end_of(rows: &Rows) -> usize {
    (i64::from(rows.start) + (i64::from(rows.len) - 1) * i64::from(rows.step) + 1) as usize
}

/// The number of rows, which must be some, in order, and near enough to 0 for the kernels.
pub(super) fn check_rows(rows: &Rows) -> Result<usize, CudaError> {
    let last = i64::from(rows.start) + (i64::from(rows.len) - 1) * i64::from(rows.step);
    if rows.len < 1 || rows.step < 1 || rows.start < 0 || last >= i64::from(FAR) {
        return refuse(format!("rows {rows:?}"));
    }
    Ok(rows.len as usize)
}

impl Gpu {
    /// The address of so many bytes, which must be there, at a multiple of 16.
    pub(super) fn address(
        &self,
        place: &BufferRange,
        bytes: Option<usize>,
        what: &str,
    ) -> Result<u64, CudaError> {
        if !place.offset.is_multiple_of(16) {
            return refuse(format!("{what} does not begin at a multiple of 16 bytes"));
        }
        self.bytes(place, bytes, what)
    }

    /// The address of so many bytes, which must be there, wherever they begin.
    pub(super) fn bytes(
        &self,
        place: &BufferRange,
        bytes: Option<usize>,
        what: &str,
    ) -> Result<u64, CudaError> {
        if !self.owns(place.buffer) {
            return Err(foreign(what));
        }
        let end = bytes.and_then(|b| place.offset.checked_add(b));
        if end.is_none_or(|end| end > place.buffer.bytes()) {
            return refuse(format!("{what} reaches outside of its buffer of {} bytes", place.buffer.bytes()));
        }
        let (at, _) = place.buffer.0.device_ptr(&self.stream);
        Ok(at + place.offset as u64)
    }

    /// A tensor that broadcasts, of which each element that may be read must be there.
    pub(super) fn leaf(
        &self,
        tensor: &DeviceTensor,
        extents: [usize; 4],
        element: usize,
        what: &'static str,
        ranges: &mut Ranges,
    ) -> Result<Leaf, CudaError> {
        let mut elements = Some(1usize);
        for (stride, extent) in tensor.strides.iter().zip(extents) {
            let reach = extent.saturating_sub(1).checked_mul(*stride);
            elements = elements.zip(reach).and_then(|(a, b)| a.checked_add(b));
        }
        let bytes = elements.and_then(|n| n.checked_mul(element));
        let at = ranges.read(what, self.address(&tensor.at, bytes, what)?, bytes);
        let [batch, head, row, key] = tensor.strides.map(|s| s as i64);
        Ok(Leaf { at, batch, head, row, key, local_rows: i32::from(tensor.local_rows) })
    }
}
