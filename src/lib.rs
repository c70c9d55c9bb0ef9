//! annulus: a compiler pass for long-context attention. A graph with scaled-dot-product attention goes in; for each rank
//! of a group of GPUs the program comes out that computes the same result with the sequence split over the ranks.
//!
//! The way through the house: [`import`] → [`ir`] → [`find`] → [`shard`] → [`ring`] → [`schedule`] → [`check`] → [`exec`];
//! [`eval`], [`mask`] and [`layout`] serve them, [`dump`] draws.

pub mod check;
pub mod dump;
pub mod eval;
pub mod exec;
pub mod find;
pub mod import;
pub mod ir;
pub mod layout;
pub mod mask;
pub mod ring;
pub mod schedule;
pub mod shard;
