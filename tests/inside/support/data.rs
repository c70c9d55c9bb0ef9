//! Real models and goldens, which stand beside the project: `ANNULUS_TEST_DATA` names their folder. A test that wants them is
//! ignored where it names none (`build.rs`).
//! And what tests have to say when nothing is wrong.

use std::io::Write;
use std::path::PathBuf;

/// A folder of the data, where there are any.
pub(crate) fn given(name: &str) -> Option<PathBuf> {
    std::env::var_os("ANNULUS_TEST_DATA").map(|data| PathBuf::from(data).join(name))
}

/// A folder of the data, of a test that is ignored without.
pub(crate) fn folder(name: &str) -> PathBuf {
    given(name).expect("ANNULUS_TEST_DATA names the folder of real models and goldens")
}

#[allow(dead_code)] // not every program of tests has one
/// A line past the capture of the tests' output.
pub(crate) fn say(line: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
