//! Schedules: events that are needed and no more, slots, and the texts that reviewers read.

pub(crate) mod beside;
mod cost;
mod events;
mod faults;
mod graphs;
mod memory;
mod snapshots;
mod values;

use super::ring::case;
use super::ring::oracle;
