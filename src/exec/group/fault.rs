//! Why a group is over. The first fault that a rank learns of is the one that it keeps; all of them travel, so that every rank
//! says the same.

use super::words::{Reader, bounded, name_ranks, put_bytes, put_number};
use std::time::Duration;

/// The most bytes of what a rank says of itself: its operation, and its message.
const OPERATION: usize = 128;
const MESSAGE: usize = 1024;

/// How a rank was found dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its connection ended: the process is gone.
    Closed,
    /// It gave no sign for so long: it is stopped, or its machine or network is gone.
    Silent(Duration),
}

/// What a rank says that cannot go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abort {
    /// The step of its program, if it was at one.
    pub step: Option<usize>,
    /// What it did, cut to 128 bytes; may be empty.
    pub operation: String,
    /// The rank that it did it with, if any.
    pub peer: Option<usize>,
    /// Why it cannot go on, cut to 1024 bytes.
    pub message: String,
}

impl Abort {
    /// Only why.
    pub fn because(message: impl Into<String>) -> Abort {
        Abort { message: message.into(), ..Abort::default() }
    }
}

/// Why a group is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A rank is dead or does not move.
    #[error("rank {rank} died: {}", died(.how))]
    Died {
        /// Which.
        rank: usize,
        /// How it was found.
        how: Death,
    },
    /// A rank gave up, and said why.
    #[error("{}", aborted(.rank, .why))]
    Aborted {
        /// Which.
        rank: usize,
        /// What it said.
        why: Abort,
    },
    /// A rank left before the others had come to their end.
    #[error("rank {rank} left early, before the others had come to their end")]
    Left {
        /// Which.
        rank: usize,
    },
    /// Ranks did not come in time to what all of them do together.
    #[error("{} did not come to {during} in time", name_ranks(.ranks))]
    Missing {
        /// Which, in order.
        ranks: Vec<usize>,
        /// To what.
        during: String,
    },
    /// Ranks do different things where all must do the same.
    #[error("rank {rank} is at {theirs} where rank 0 is at {ours}: ranks must do the same in the same order")]
    OutOfStep {
        /// Which.
        rank: usize,
        /// What it does.
        theirs: String,
        /// What rank 0 does.
        ours: String,
    },
    /// What came from a rank is nothing that this version says.
    #[error("what came from rank {rank} is no message of this version of annulus")]
    Garbled {
        /// Which.
        rank: usize,
    },
}

fn died(how: &Death) -> String {
    match how {
        Death::Closed => "its connection ended".into(),
        Death::Silent(for_) => format!("no sign of it for {:.2} s", for_.as_secs_f64()),
    }
}

fn aborted(rank: &usize, why: &Abort) -> String {
    let mut out = format!("rank {rank} gave up");
    if let Some(step) = why.step {
        out += &format!(", step {step}");
    }
    if !why.operation.is_empty() {
        out += &format!(", {}", why.operation);
    }
    if let Some(peer) = why.peer {
        out += &format!(", peer {peer}");
    }
    format!("{out}: {}", why.message)
}

fn put_optional(out: &mut Vec<u8>, number: Option<usize>) {
    out.push(u8::from(number.is_some()));
    put_number(out, number.unwrap_or(0));
}

fn optional(reader: &mut Reader<'_>) -> Option<Option<usize>> {
    let there = reader.byte()?;
    let number = reader.number()?;
    Some((there != 0).then_some(number))
}

impl Fault {
    /// The most bytes that one takes in a group of so many ranks.
    pub(super) fn most(size: usize) -> usize {
        64 + OPERATION + MESSAGE + 4 * size
    }

    /// The fault with texts no longer than they may be.
    pub(super) fn cut(mut self) -> Fault {
        match &mut self {
            Fault::Aborted { why, .. } => {
                why.operation = bounded(&why.operation, OPERATION);
                why.message = bounded(&why.message, MESSAGE);
            }
            Fault::Missing { during, .. } => *during = bounded(during, OPERATION),
            Fault::OutOfStep { theirs, ours, .. } => {
                *theirs = bounded(theirs, OPERATION);
                *ours = bounded(ours, OPERATION);
            }
            Fault::Died { .. } | Fault::Left { .. } | Fault::Garbled { .. } => {}
        }
        self
    }

    /// As bytes; its texts were cut.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![];
        let (kind, rank) = match self {
            Fault::Died { rank, how: Death::Closed } => (0, *rank),
            Fault::Died { rank, how: Death::Silent(_) } => (1, *rank),
            Fault::Aborted { rank, .. } => (2, *rank),
            Fault::Left { rank } => (3, *rank),
            Fault::Missing { .. } => (4, 0),
            Fault::OutOfStep { rank, .. } => (5, *rank),
            Fault::Garbled { rank } => (6, *rank),
        };
        out.push(kind);
        put_number(&mut out, rank);
        match self {
            Fault::Died { how: Death::Silent(for_), .. } => {
                put_number(&mut out, usize::try_from(for_.as_millis()).unwrap_or(usize::MAX));
            }
            Fault::Aborted { why, .. } => {
                put_optional(&mut out, why.step);
                put_optional(&mut out, why.peer);
                put_bytes(&mut out, why.operation.as_bytes());
                put_bytes(&mut out, why.message.as_bytes());
            }
            Fault::Missing { ranks, during } => {
                put_number(&mut out, ranks.len());
                ranks.iter().for_each(|r| put_number(&mut out, *r));
                put_bytes(&mut out, during.as_bytes());
            }
            Fault::OutOfStep { theirs, ours, .. } => {
                put_bytes(&mut out, theirs.as_bytes());
                put_bytes(&mut out, ours.as_bytes());
            }
            Fault::Died { how: Death::Closed, .. } | Fault::Left { .. } | Fault::Garbled { .. } => {}
        }
        out
    }

    /// From bytes; none if they are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Fault> {
        let mut r = Reader(bytes);
        let (kind, rank) = (r.byte()?, r.number()?);
        let fault = match kind {
            0 => Fault::Died { rank, how: Death::Closed },
            1 => {
                let ms = r.number()?;
                Fault::Died { rank, how: Death::Silent(Duration::from_millis(ms as u64)) }
            }
            2 => {
                let (step, peer) = (optional(&mut r)?, optional(&mut r)?);
                let (operation, message) = (r.text(OPERATION)?, r.text(MESSAGE)?);
                Fault::Aborted { rank, why: Abort { step, operation, peer, message } }
            }
            3 => Fault::Left { rank },
            4 => Fault::Missing { ranks: r.numbers()?, during: r.text(OPERATION)? },
            5 => Fault::OutOfStep { rank, theirs: r.text(OPERATION)?, ours: r.text(OPERATION)? },
            6 => Fault::Garbled { rank },
            _ => return None,
        };
        r.end(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_travels_as_it_is_and_within_its_bound() {
        let long = "x".repeat(5000);
        let abort =
            Abort { step: Some(7), operation: long.clone(), peer: Some(1), message: format!("ü{long}") };
        let faults = [
            Fault::Died { rank: 3, how: Death::Closed },
            Fault::Died { rank: 3, how: Death::Silent(Duration::from_millis(812)) },
            Fault::Aborted { rank: 2, why: abort },
            Fault::Aborted { rank: 2, why: Abort::because("so") },
            Fault::Left { rank: 1 },
            Fault::Missing { ranks: (0..8).collect(), during: long.clone() },
            Fault::OutOfStep { rank: 1, theirs: "gather 3".into(), ours: long },
            Fault::Garbled { rank: 5 },
        ];
        for fault in faults {
            let fault = fault.cut();
            let bytes = fault.encode();
            assert!(bytes.len() <= Fault::most(8), "{fault:?}");
            assert_eq!(Fault::decode(&bytes), Some(fault));
            assert_eq!(Fault::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Fault::decode(&[&bytes[..], &[0]].concat()), None);
        }
        let step = Abort {
            step: Some(7),
            operation: "sendrecv g3".into(),
            peer: Some(1),
            message: "no memory".into(),
        };
        let said = Fault::Aborted { rank: 2, why: step }.to_string();
        assert_eq!(said, "rank 2 gave up, step 7, sendrecv g3, peer 1: no memory");
    }
}
