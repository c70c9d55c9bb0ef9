//! The proof: right schedules pass it, every planted fault is named, and nothing in a schedule makes it panic.

#![allow(clippy::unwrap_used)]

#[path = "exec/build.rs"]
mod build;
#[path = "ring/case.rs"]
#[allow(dead_code, reason = "what tests/ring.rs needs besides")]
mod case;
#[path = "check/corpus.rs"]
mod corpus;
#[path = "support/data.rs"]
#[allow(dead_code, reason = "what tests with data need besides")]
mod data;
#[path = "check/edit.rs"]
mod edit;
#[path = "check/faults.rs"]
mod faults;
#[path = "check/files.rs"]
mod files;
#[path = "check/hostile.rs"]
mod hostile;
#[path = "util/layouts.rs"]
mod layouts;
#[path = "ring/oracle.rs"]
mod oracle;
#[path = "check/plant.rs"]
mod plant;
#[path = "check/right.rs"]
mod right;
#[path = "check/sound.rs"]
mod sound;
