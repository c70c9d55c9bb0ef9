//! What is asked of an island on a GPU.

use crate::exec::cache::Cache;
use std::time::Duration;

/// How an island is run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'c> {
    /// Where compiled kernels are kept.
    pub cache: Option<&'c Cache>,
    /// Whether the second run with the same memory, and those behind it, replay a graph of CUDA that holds all of it.
    pub graph: bool,
    /// How long the device may take, and how long a rank waits for others that are told from elsewhere.
    pub patience: Duration,
}
