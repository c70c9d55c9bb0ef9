//! The oracle against formulas written out a second time, index by index in f64, and against stored references.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which no lint knows as such

#[path = "eval/attention.rs"]
mod attention;
#[path = "eval/compare.rs"]
mod compare;
#[path = "eval/constants.rs"]
mod constants;
#[path = "eval/contract.rs"]
mod contract;
#[path = "support/data.rs"]
mod data;
#[path = "eval/elementwise.rs"]
mod elementwise;
#[path = "eval/empty.rs"]
mod empty;
#[path = "eval/goldens.rs"]
mod goldens;
#[path = "eval/graph.rs"]
mod graph;
#[path = "eval/index.rs"]
mod index;
#[path = "eval/partial.rs"]
mod partial;
#[path = "eval/reduce.rs"]
mod reduce;
#[path = "eval/shape.rs"]
mod shape;
#[path = "eval/util.rs"]
mod util;
#[path = "eval/window.rs"]
mod window;
