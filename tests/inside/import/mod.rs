//! The importer against real models, against operators written by hand, and against broken files.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which no lint knows as such

#[path = "support/data.rs"]
mod data;
mod import {
    mod attention;
    mod broken;
    mod build;
    mod cases;
    mod contrib;
    mod external;
    mod functions;
    mod models;
    mod operators;
    mod table;
}
