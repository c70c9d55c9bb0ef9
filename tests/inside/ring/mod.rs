//! Island graphs: what meets what, what travels, and what comes out.

#![allow(clippy::unwrap_used)]

#[path = "ring/case.rs"]
mod case;
#[path = "ring/coverage.rs"]
mod coverage;
#[path = "util/layouts.rs"]
mod layouts;
#[path = "ring/oracle.rs"]
mod oracle;
#[path = "ring/snapshots.rs"]
mod snapshots;
#[path = "ring/tables.rs"]
mod tables;
#[path = "ring/traffic.rs"]
mod traffic;
#[path = "ring/values.rs"]
mod values;
