//! Stand-ins of CUDA's libraries, which run the kernels' own text on a CPU: see README.md. What they show is no result of a GPU.

mod build;
pub(crate) mod cxx;

pub(crate) use build::on_standins;
