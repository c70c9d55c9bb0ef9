//! Schedules: events that are needed and no more, slots, and the texts that reviewers read.

#![allow(clippy::unwrap_used)]

#[path = "ring/case.rs"]
mod case;
#[path = "schedule/cost.rs"]
mod cost;
#[path = "schedule/events.rs"]
mod events;
#[path = "schedule/faults.rs"]
mod faults;
#[path = "schedule/graphs.rs"]
mod graphs;
#[path = "util/layouts.rs"]
mod layouts;
#[path = "schedule/memory.rs"]
mod memory;
#[path = "ring/oracle.rs"]
mod oracle;
#[path = "schedule/snapshots.rs"]
mod snapshots;
#[path = "schedule/values.rs"]
mod values;
