//! The levels of a mesh of two axes, as the proof reads them.
//!
//! What goes to a rank that differs along both axes goes by a *deputy*: the rank that stands at the same place of another node.

use crate::schedule::Schedule;

/// Whether ranks stand on two levels.
pub(super) fn two_axes(schedule: &Schedule) -> bool {
    schedule.mesh.axes.len() == 2
}

/// How many ranks differ along the inner of two axes; of one axis all.
pub(super) fn inner_size(schedule: &Schedule) -> usize {
    schedule.mesh.axes.last().map_or(1, |axis| axis.size.max(1))
}

/// The ranks whose deputy a rank is, ascending: none on one level.
pub(super) fn deputised(schedule: &Schedule, rank: usize) -> impl Iterator<Item = usize> + use<> {
    let (ranks, size) = (schedule.ranks.len(), inner_size(schedule));
    let all = if two_axes(schedule) { (rank % size..ranks).step_by(size) } else { (0..0).step_by(1) };
    all.filter(move |&r| r != rank)
}
