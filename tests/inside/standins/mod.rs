//! The stand-ins of CUDA's driver and compiler (`tests/standins`): what they catch, and annulus's own calls of CUDA on them.
//!
//! Whoever wants a program to run on them calls `builder::build::on_standins`.

#[path = "../../standins/mod.rs"]
pub(crate) mod builder;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod calls;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod islands;
