//! What a schedule costs on a device: when each step runs, how long all of it takes, and the least that any schedule of
//! the same work could take.
//!
//! In: a [`Schedule`](super::Schedule) and a [`Device`](crate::device::Device), and nothing else. Out: an [`Estimate`]; a
//! [`Timeline`] for pictures.
//!
//! The model: `work` says how long a step takes; `budget` how many multiprocessors transfers had best hold; `simulate` runs all ranks,
//! with a rank's kernels slowed while its transfers are under way; `bound` is the lower bound. It never exceeds the
//! makespan, and where the two are equal the schedule is proved to be the best of its work in this model.

mod bound;
mod budget;
mod estimate;
#[cfg(any(feature = "dump", test))]
mod exchange;
mod figures;
mod live;
mod simulate;
mod work;

pub(crate) use estimate::Timing;
pub use estimate::{estimate, flights, timeline};
#[cfg(any(feature = "dump", test))]
pub(crate) use exchange::exchange_us;
pub use figures::{Estimate, Limiter, efficiency};
pub use live::live_bytes;
pub use simulate::{Flight, Span, Timeline};
pub(crate) use work::least;
