//! Fuzzing, on stable Rust and with no tool: see `fuzz/driver.rs` for how long, from which seed, and how to run one input
//! again.

pub(crate) mod driver;
mod onnx;
mod pass;
mod selftest;
mod text;
mod verifier;

use super::import::build;
