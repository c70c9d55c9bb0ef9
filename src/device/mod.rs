//! device: what a group of ranks runs on, as numbers: the description that the cost model reads, and nothing else.
//!
//! In: the name of a bundled description, a text that a person wrote (TOML; the bundled ones are examples of it), or figures
//! from Rust ([`Device::builder`]). Out: a [`Device`].
//!
//! Invariants: every number is finite and in the range that its field states, so that every estimate is a finite time;
//! an error names the line and the field.

mod build;
mod bundled;
mod description;
mod error;
mod range;
mod read;

pub use build::DeviceBuilder;
pub use description::{Device, DeviceKind, Link};
pub use error::DeviceError;

#[cfg(test)]
mod tests;
