//! What is wrong with the environment.

use super::super::words::bounded;

/// What is wrong with the environment. Each names the variable to set or to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// One variable of a launcher is set, and another that it always sets is not.
    #[error("{has} is set and {lacks} is not, while {launcher} sets both: set it, or unset {has}")]
    Lacks {
        /// Who sets them.
        launcher: &'static str,
        /// What is set.
        has: &'static str,
        /// What is missing.
        lacks: &'static str,
    },
    /// A value is not what it must be.
    #[error("{variable} is `{value}`: {want}")]
    Value {
        /// Which.
        variable: &'static str,
        /// What it is, cut where it is long.
        value: String,
        /// What it must be.
        want: String,
    },
    /// Two values cannot both be true.
    #[error("{0} is {1} and {2} is {3}: {4}")]
    Contradicts(&'static str, usize, &'static str, usize, &'static str),
    /// Nothing says where the ranks meet.
    #[error(
        "nothing says where {size} ranks on several hosts meet: set ANNULUS_MEET=HOST:PORT to a port of rank 0's host, or MASTER_ADDR"
    )]
    Nowhere {
        /// How many ranks.
        size: usize,
    },
    /// There is no token where one is named.
    #[error("{variable}: {why}")]
    Token {
        /// By which variable.
        variable: &'static str,
        /// Why not.
        why: String,
    },
}

impl EnvironmentError {
    pub(super) fn value(variable: &'static str, value: &str, want: impl Into<String>) -> EnvironmentError {
        EnvironmentError::Value { variable, value: bounded(value, 100), want: want.into() }
    }
}
