//! Which libraries of CUDA there are, by version.

use super::error::CudaError;
use super::{nvrtc, probe};

/// What can be loaded here: each library of [`crate::exec::libraries`] by name with its version, or why it does not load.
pub fn versions() -> [(&'static str, Result<String, CudaError>); 3] {
    let driver = probe::driver_version().map(|v| format!("{}.{}", v / 1000, v % 1000 / 10));
    let nvrtc = nvrtc::version().map(|(major, minor)| format!("{major}.{minor}"));
    let nccl = probe::nccl().map(|v| format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100));
    [("libcuda", driver), ("libnvrtc", nvrtc), ("libnccl", nccl)]
}
