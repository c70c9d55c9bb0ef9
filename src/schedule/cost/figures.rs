//! The figures of a schedule: times, the bound and what it comes from.

use std::fmt;

/// The figures of a schedule on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// End of the last step of any rank, in µs.
    pub makespan_us: f64,
    /// The least time in µs that any order of the same steps and messages takes on the device.
    pub lower_bound_us: f64,
    /// What the lower bound comes from.
    pub limiter: Limiter,
    /// Time in µs in which the rank that is done last computes nothing: communication that is not hidden.
    pub exposed_us: f64,
    /// Bytes of each rank's arena.
    pub peak_bytes: Vec<usize>,
}

/// What a lower bound comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limiter {
    /// The kernels of one rank.
    Compute,
    /// The transfers of one rank, and what must be before and after them. The ranks are those of its message if all go the
    /// same way.
    Link {
        /// The rank.
        from: usize,
        /// Where all of its messages go.
        to: Option<usize>,
    },
    /// A chain of steps of which each needs what the one before makes.
    Chain,
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limiter::Compute => f.write_str("compute"),
            Limiter::Link { from, to: Some(to) } => write!(f, "link {from}→{to}"),
            Limiter::Link { from, to: None } => write!(f, "links of rank {from}"),
            Limiter::Chain => f.write_str("chain"),
        }
    }
}

impl Estimate {
    /// Lower bound over makespan: 1 is proved to be the best.
    pub fn efficiency(&self) -> f64 {
        efficiency(self.lower_bound_us, self.makespan_us)
    }
}

/// A bound over a makespan; of no time, 1.
pub fn efficiency(bound: f64, makespan: f64) -> f64 {
    if makespan > 0.0 { bound / makespan } else { 1.0 }
}
