//! Stand-ins of CUDA's libraries, which run the kernels' own text on a CPU: see README.md. What they show is no result of a GPU.

#[cfg(target_os = "linux")]
pub(crate) mod build;
pub(crate) mod cxx;
