//! Real models and goldens, which stand beside the project: `ANNULUS_TEST_DATA` names their folder.
//! And what tests have to say when nothing is wrong.

use std::io::Write;
use std::path::PathBuf;

/// A folder of the data. Without the data, says which test is skipped: past the capture of the tests' output, so that nobody
/// takes what did not run for what passed.
pub(crate) fn folder(name: &str) -> Option<PathBuf> {
    let data = std::env::var_os("ANNULUS_TEST_DATA");
    if data.is_none() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        say(&format!("skipped: {test} wants the {name} of ANNULUS_TEST_DATA, which names no folder"));
    }
    data.map(|d| PathBuf::from(d).join(name))
}

/// A line past the capture of the tests' output.
pub(crate) fn say(line: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
