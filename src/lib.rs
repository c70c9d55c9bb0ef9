//! annulus: a compiler pass for long-context attention. A graph with scaled-dot-product attention goes in; for each rank
//! of a group of GPUs the program comes out that computes the same result with the sequence split over the ranks.
//!
//! The way through the house: [`import`] → [`ir`] → [`find`] → [`shard`] → [`ring`] → [`schedule`] → [`check`] → [`lower`] → [`exec`];
//! [`eval`], [`mask`], [`layout`] and [`device`] serve them, [`dump`] draws. [`compile`] is the whole path, a line a stage.

// Tests name what they test as everybody does.
#[cfg(test)]
extern crate self as annulus;

pub mod check;
pub mod device;
pub mod dump;
pub mod error;
pub mod eval;
pub mod exec;
pub mod find;
pub mod import;
pub mod ir;
pub mod layout;
pub mod lower;
pub mod mask;
pub mod ring;
pub mod schedule;
pub mod shard;

mod driver;
mod pass;

#[cfg(test)]
#[path = "../tests/inside/mod.rs"]
mod inside;

pub use driver::{Rejected, TIE, label};
pub use error::Error;
pub use pass::{Compiled, Island, Options, compile, find_attentions, run, run_watched};

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
