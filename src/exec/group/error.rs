//! Why ranks did not meet.

use super::environment::{EnvironmentError, Place};
use super::fault::Fault;
use super::words::{bounded, name_ranks};

/// The most that is kept of what was met with on the way.
const NOTES: usize = 8;

/// Why ranks did not meet. Who is wrong is told what; rank 0 and those that came are told who is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeetError {
    /// The environment is wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// Rank and size are none.
    #[error("there is no rank {rank} of {size}")]
    Rank {
        /// The rank.
        rank: usize,
        /// The size.
        size: usize,
    },
    /// Without a token nothing leaves the host.
    #[error(
        "ranks on several hosts meet at {place} only with a token: set ANNULUS_TOKEN on all of them to what `openssl rand -hex 32` prints, or \
         ANNULUS_TOKEN_FILE to a file of mode 0600 that holds it"
    )]
    NoToken {
        /// Where they would meet.
        place: Place,
    },
    /// The host's name leads nowhere.
    #[error("the host of {place} is not found: {why}")]
    Host {
        /// Where they would meet.
        place: Place,
        /// What the system says.
        why: String,
    },
    /// Rank 0 cannot listen.
    #[error("rank 0 cannot listen on {place}: {why}")]
    Listen {
        /// Where.
        place: Place,
        /// What the system says.
        why: String,
    },
    /// The system did not do what it does.
    #[error("{0}")]
    System(String),
    /// The other side has another token, or is of another job.
    #[error("{place}: the token of this rank is not that of rank 0, or it is of another job")]
    WrongToken {
        /// Where.
        place: Place,
    },
    /// Rank 0 speaks another version of the protocol.
    #[error(
        "rank 0 speaks version {theirs} of the protocol, and this rank {ours}: run the same annulus on all ranks"
    )]
    OtherVersion {
        /// Of this rank.
        ours: u16,
        /// Of rank 0.
        theirs: u16,
    },
    /// Rank 0 counts otherwise.
    #[error("this rank is one of {ours}, and rank 0 waits for {theirs}")]
    OtherSize {
        /// As this rank was told.
        ours: usize,
        /// As rank 0 was told.
        theirs: usize,
    },
    /// Another process has come as this rank.
    #[error("another process is rank {rank} already: each rank is started once")]
    Taken {
        /// Which.
        rank: usize,
    },
    /// Not all came in time.
    #[error("{} did not come to {place} in {seconds:.1} s{}", name_ranks(.missing), noted(.notes))]
    Missing {
        /// Where.
        place: Place,
        /// Which, in order.
        missing: Vec<usize>,
        /// How long this rank waited, in seconds.
        seconds: Seconds,
        /// What was met with instead, each once.
        notes: Vec<String>,
    },
    /// All came, and then one was lost.
    #[error("{0}")]
    Lost(Fault),
}

/// Seconds, which can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub(super) std::time::Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_secs_f64().fmt(f)
    }
}

fn noted(notes: &[String]) -> String {
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}

/// Keeps a note once, and only so many.
pub(super) fn note(notes: &mut Vec<String>, text: &str) {
    let text = bounded(text, 200);
    if notes.len() < NOTES && !notes.contains(&text) {
        notes.push(text);
    }
}
