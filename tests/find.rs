//! `find` from outside: case files, random spellings of attention, and real models.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // helpers of tests, which no lint knows as such

#[path = "find/bind.rs"]
mod bind;
#[path = "find/cases.rs"]
mod cases;
#[path = "support/data.rs"]
mod data;
#[path = "find/inputs.rs"]
mod inputs;
#[path = "find/kinds.rs"]
mod kinds;
#[path = "find/limits.rs"]
mod limits;
#[path = "find/models.rs"]
mod models;
#[path = "find/names.rs"]
mod names;
#[path = "find/ring.rs"]
mod ring;
#[path = "find/sizes.rs"]
mod sizes;
#[path = "find/spellings.rs"]
mod spellings;
