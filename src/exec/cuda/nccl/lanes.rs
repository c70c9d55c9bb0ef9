//! The communicators of a rank: one for each stream of transfers and each number of multiprocessors that its groups may hold.
//!
//! In: the schedules that will run. Out: which communicators they want, and the one of a group. Invariants: all ranks want the same ones, in
//! the same order, and both ends of a message are of one. NCCL takes the number for a communicator, for good; its configurations of single
//! calls (from 2.31 on) are of collectives, and leave out sends and receives.

use super::communicator::Communicator;
use crate::schedule::{Schedule, StepOp, Stream};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A communicator that several programs use, one after another.
pub(in crate::exec::cuda) type Lane = Arc<Mutex<Communicator>>;

/// A communicator that programs want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// For transfers along this axis of the mesh.
    pub axis: usize,
    /// How many multiprocessors it may hold, a power of two: NCCL rounds up to one. `None` leaves it to NCCL.
    pub sms: Option<usize>,
}

impl Wanted {
    /// Those of some schedules, in their order; at least one, for what goes to everyone beside them.
    pub fn by<'a>(schedules: impl IntoIterator<Item = &'a Schedule>) -> Vec<Wanted> {
        let mut all: Vec<Wanted> = vec![];
        for step in schedules.into_iter().flat_map(|s| &s.ranks).flat_map(|r| &r.steps) {
            if let (StepOp::Exchange { sms, .. }, Stream::Comm(axis)) = (&step.op, step.stream) {
                all.push(Wanted { axis, sms: *sms });
            }
        }
        if all.is_empty() {
            all.push(Wanted { axis: 0, sms: None });
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The communicators of a rank.
#[derive(Clone, Debug)]
pub(in crate::exec::cuda) enum Lanes {
    /// Those that were joined for schedules.
    Own(BTreeMap<Wanted, Lane>),
    /// Those of the host, one for each axis, which hold what the host lets them.
    Hosts(Vec<Lane>),
}

impl Lanes {
    /// The one for a group on a stream that holds so many.
    pub(super) fn of(&self, stream: usize, sms: Option<usize>) -> Option<&Lane> {
        // The first stream is for kernels.
        let axis = stream.checked_sub(1)?;
        match self {
            Lanes::Own(lanes) => lanes.get(&Wanted { axis, sms }),
            Lanes::Hosts(lanes) => lanes.get(axis.checked_rem(lanes.len())?),
        }
    }

    /// All of them, in one order on all ranks.
    pub(super) fn all(&self) -> impl Iterator<Item = &Lane> {
        let (own, hosts) = match self {
            Lanes::Own(lanes) => (Some(lanes.values()), None),
            Lanes::Hosts(lanes) => (None, Some(lanes.iter())),
        };
        own.into_iter().flatten().chain(hosts.into_iter().flatten())
    }
}
