//! Which libraries of CUDA there are, by version, and which GPUs the driver lists.

use super::error::{CudaError, driver};
use super::{gpu, nccl, nvrtc, probe};
use crate::lower::Arch;
use cudarc::driver::result;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

/// What can be loaded here: each library of [`crate::exec::libraries`] by name with its version, or why it does not load.
pub fn versions() -> [(&'static str, Result<String, CudaError>); 3] {
    let driver = probe::driver_version().map(|v| format!("{}.{}", v / 1000, v % 1000 / 10));
    let nvrtc = nvrtc::version().map(|(major, minor)| format!("{major}.{minor}"));
    [("libcuda", driver), ("libnvrtc", nvrtc), ("libnccl", nccl::version())]
}

/// A GPU that the driver lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// As the driver calls it.
    pub name: String,
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Its memory in bytes.
    pub bytes: usize,
    /// The architecture whose kernels it gets; `None` if there are none for it.
    pub arch: Option<Arch>,
}

/// The GPUs that the driver lists, in its order. None of them is used.
///
/// # Errors
/// There is no driver, it is too old, or it finds no GPU.
pub fn devices() -> Result<Vec<Device>, CudaError> {
    gpu::start()?;
    let count = driver("counting GPUs", result::device::get_count())?;
    (0..count).map(device).collect()
}

fn device(ordinal: i32) -> Result<Device, CudaError> {
    let of = driver("finding a GPU", result::device::get(ordinal))?;
    // SAFETY: the driver gave the handle.
    let attribute =
        |what| driver("asking for the architecture", unsafe { result::device::get_attribute(of, what) });
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    // SAFETY: the driver gave the handle.
    let bytes = driver("asking for the memory", unsafe { result::device::total_mem(of) })?;
    let name = driver("asking for the name", result::device::get_name(of))?;
    Ok(Device { name, capability, bytes, arch: Arch::of(capability) })
}
