//! Fuzzing, on stable Rust and with no tool: see `fuzz/driver.rs` for how long, from which seed, and how to run one input
//! again. The verifier has its target beside it, in `src/ir/verify/fuzz.rs`: only there can a graph be broken.

#![allow(clippy::unwrap_used)] // helpers of tests, which no lint knows as such

#[path = "import/build.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests of the importer
mod build;
#[path = "fuzz/driver.rs"]
mod driver;
#[path = "fuzz/onnx.rs"]
mod onnx;
#[path = "fuzz/selftest.rs"]
mod selftest;
#[path = "fuzz/text.rs"]
mod text;
