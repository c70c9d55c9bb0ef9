//! What the environment says: which launcher started this process as which rank, and where the ranks of its job meet.
//!
//! In: variables, as a map, so that nothing here looks at the process. Out: [`Launched`], a [`Place`], the name of the job; or which variable
//! is wrong. A launcher's variables are taken as they were measured: only those that really tell rank and size.

mod error;
mod launched;
mod place;
mod read;
mod slurm;

pub use error::EnvironmentError;
pub use launched::{Launched, Launcher, launched};
pub use place::{Place, job, place};
pub(super) use read::given;
pub use read::{Variables, variables};

/// The variables that `annulus launch` sets, and whoever starts ranks by hand may set.
pub mod names {
    pub use super::launched::{LOCAL_RANK, LOCAL_SIZE, RANK, SIZE};
    pub use super::place::MEET;
}
