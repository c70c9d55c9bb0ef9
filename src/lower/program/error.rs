//! Why there is no device program for a schedule.

use crate::lower::Refusal;

/// Why there is no device program: which rank's which step, and what of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rank {rank}, step {step} ({op}): {why}")]
#[non_exhaustive]
pub struct LowerError {
    /// The rank.
    pub rank: usize,
    /// Its step.
    pub step: usize,
    /// What the step does.
    pub op: String,
    /// What stands against it.
    pub why: Why,
}

/// What stands against lowering a step.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// No kernel computes it.
    #[error(transparent)]
    NoKernel(#[from] Refusal),
    /// Something lies where no kernel reads or writes it.
    #[error(
        "{what} lies at a byte that is no multiple of {unit}, and kernels take it in such units: place it there, or run on the CPU"
    )]
    Alignment {
        /// What.
        what: &'static str,
        /// Bytes.
        unit: usize,
    },
    /// Sinks before the end.
    #[error(
        "sinks are counted before the result is cast out, and GPU kernels count them there alone: count them in the last step of these rows, or run on the CPU"
    )]
    EarlySinks,
    /// A number beyond what kernels count with.
    #[error("{what}: {count} is more than a GPU kernel counts: split the step, or run on the CPU")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The schedule is not one that can run.
    #[error("{0}: `annulus check` says more")]
    Malformed(String),
}

impl From<String> for Why {
    fn from(why: String) -> Why {
        Why::Malformed(why)
    }
}
