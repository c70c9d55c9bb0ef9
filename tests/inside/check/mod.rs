//! The proof: right schedules pass it, every planted fault is named, and nothing in a schedule makes it panic.

pub(crate) mod corpus;
mod edit;
mod faults;
mod files;
mod heads;
pub(crate) mod hostile;
mod plant;
mod plant_travel;
mod right;
mod sound;

use super::exec::{build, travel};
use super::ring::case;
use super::ring::oracle;
