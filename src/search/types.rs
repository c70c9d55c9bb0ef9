//! What is asked of a search, and what it answers.

use crate::ir::OpId;
use crate::layout::LayoutKind;
use crate::ring::Strategy;
use crate::schedule::Schedule;
use crate::schedule::cost::Estimate;

/// What is asked of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchOptions {
    /// The strategy that every island takes; `None`: the one of the least makespan.
    pub strategy: Option<Strategy>,
    /// On how many nodes the ranks stand, for strategies that use levels; `None`: as the device says, or on one level.
    pub nodes: Option<usize>,
    /// The most bytes of arena that an island may have on a rank.
    pub memory: Option<usize>,
    /// How many receive slots a rank of a ring has, at least 2.
    pub slots: usize,
    /// How many multiprocessors every transfer may hold; `None`: as many as take the least makespan.
    pub comm_sms: Option<usize>,
}

/// A distinct island and the schedule that it takes. The schedule is not proved yet.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The schedule of all ranks.
    pub schedule: Schedule,
    /// How keys and queries meet.
    pub strategy: Strategy,
    /// On how many nodes ranks stand, as the strategy uses it.
    pub nodes: usize,
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
    /// On how many nodes ranks would have stood, as the strategy uses it: on 1 if it does not.
    pub nodes: usize,
    /// Layouts of the query rows and of the key rows.
    pub layouts: [LayoutKind; 2],
    /// How long it would take, if that was found out.
    pub makespan_us: Option<f64>,
    /// Why it was not taken.
    pub reason: String,
}

/// A choice that takes less than this part longer than the best is as good.
pub const TIE: f64 = 1e-3;
