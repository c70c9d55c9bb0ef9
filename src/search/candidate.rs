//! Candidates: a strategy and layouts for a class of attentions, and what became of them.

use crate::ir::OpId;
use crate::layout::LayoutKind;
use crate::ring::{self, RingError, Strategy};
use crate::schedule::{self, Schedule};
use crate::shard::Program;

/// The layouts of queries and keys. Layouts of one kind may be of other rows: a cache with new rows behind it is named like the old
/// ones, wherever the new ones lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kinds: [LayoutKind; 2],
    /// Which rows they are, each by its number among all that a search has met.
    pub(super) rows: [usize; 2],
}

/// A candidate, and what became of it.
pub(super) struct Tried {
    pub(super) class: usize,
    pub(super) layouts: Held,
    pub(super) strategy: Strategy,
    pub(super) nodes: usize,
    pub(super) verdict: Verdict,
}

/// What became of a candidate.
pub(super) enum Verdict {
    /// How long it takes, and the most bytes of a rank's arena.
    Takes { us: f64, bytes: usize },
    /// It takes at least so long, which is too long.
    AtLeast(f64),
    /// It has more bytes on a rank than are allowed.
    TooLarge { us: Option<f64>, bytes: usize },
    /// It cannot be scheduled.
    Impossible(RingError),
}

impl Tried {
    pub(super) fn makespan(&self) -> Option<f64> {
        if let Verdict::Takes { us, .. } = self.verdict { Some(us) } else { None }
    }
}

/// The schedule of an attention.
///
/// # Errors
/// If the ring cannot compute it.
pub(super) fn scheduled(
    program: &Program,
    op: OpId,
    (strategy, nodes): (Strategy, usize),
    slots: usize,
) -> Result<Schedule, RingError> {
    Ok(schedule::schedule(&ring::Plan::on_nodes(program, op, strategy, nodes)?, slots))
}
