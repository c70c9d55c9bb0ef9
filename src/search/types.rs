//! What is asked of a search, and what it answers.

use crate::ir::OpId;
use crate::layout::LayoutKind;
use crate::ring::Strategy;
use crate::schedule::cost::Estimate;
use crate::schedule::{SLOTS, Schedule};

/// What is asked of a search.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SearchOptions {
    /// The strategy that every island takes; `None`: the one of the least makespan.
    pub strategy: Option<Strategy>,
    /// The most bytes of arena that an island may have on a rank.
    pub memory: Option<usize>,
    /// How many receive slots a rank of a ring has, at least 2.
    pub slots: usize,
}

impl SearchOptions {
    /// The strategy of the least makespan, any memory, and as few slots as a ring can turn with.
    pub fn new() -> SearchOptions {
        SearchOptions { strategy: None, memory: None, slots: SLOTS }
    }

    /// The strategy that every island takes; `None` takes the one of the least makespan.
    #[must_use]
    pub fn strategy(mut self, strategy: impl Into<Option<Strategy>>) -> SearchOptions {
        self.strategy = strategy.into();
        self
    }

    /// The most bytes of arena that an island may have on a rank; `None` allows any number.
    #[must_use]
    pub fn memory(mut self, bytes: impl Into<Option<usize>>) -> SearchOptions {
        self.memory = bytes.into();
        self
    }

    /// How many receive slots a rank of a ring has; fewer than [`SLOTS`] count as so many.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> SearchOptions {
        self.slots = slots;
        self
    }
}

impl Default for SearchOptions {
    fn default() -> SearchOptions {
        SearchOptions::new()
    }
}

/// A distinct island and the schedule that it takes. The schedule is not proved yet.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The schedule of all ranks.
    pub schedule: Schedule,
    /// How keys and queries meet.
    pub strategy: Strategy,
    /// What it costs on the device.
    pub estimate: Estimate,
    /// The choices that were not taken, the best of them first.
    pub rejected: Vec<Rejected>,
    /// The attentions that use it, in order of execution.
    pub uses: Vec<OpId>,
}

/// A choice that was not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// How keys and queries would have met.
    pub strategy: Strategy,
    /// Layouts of the query rows and of the key rows.
    pub layouts: [LayoutKind; 2],
    /// How long it would take, if that was found out.
    pub makespan_us: Option<f64>,
    /// Why it was not taken.
    pub reason: String,
}

/// A choice that takes less than this part longer than the best is as good.
pub const TIE: f64 = 1e-3;
