//! Tests that measure their process, or that a library lets run only one at a time in a process, get one of their own.

use std::env;
use std::process::Command;

/// Whether this process is there for this test alone. Where it is not, it starts one that is, and sees that the test passes
/// there.
macro_rules! alone {
    ($test:ident) => {
        $crate::inside::support::alone::run(concat!(module_path!(), "::", stringify!($test)))
    };
}
pub(crate) use alone;

const INSIDE: &str = "ANNULUS_TEST_ALONE";

pub(crate) fn run(path: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    // Without the name of the crate.
    let (_, name) = path.split_once("::").unwrap();
    let mut again = Command::new(env::current_exe().unwrap());
    let done = again.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let [said, told] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    if !told.is_empty() {
        super::data::say(told.trim_end());
    }
    assert!(done.status.success() && said.contains("1 passed"), "{said}{told}");
    false
}
