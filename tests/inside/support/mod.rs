//! What the tests of several rooms need.

pub(crate) mod alone;
pub(crate) mod cases;
pub(crate) mod clock;
pub(crate) mod data;
pub(crate) mod layouts;
pub(crate) mod programs;
pub(crate) mod scores;

use std::path::PathBuf;

/// A folder for files of tests, in the build folder. It stays there.
pub(crate) fn scratch() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program
        .ancestors()
        .nth(2)
        .expect("the program of the tests stands in `deps` of the profile's folder")
        .join("tests")
}
