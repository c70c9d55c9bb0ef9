//! The system's C++ compiler, and files that appear as a whole or not at all, whoever else makes them.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler's name: `CXX`, else `c++`.
pub(crate) fn name() -> String {
    std::env::var("CXX").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "c++".into())
}

/// A folder for what tests build, in the build folder. It stays there.
pub(crate) fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("the program of the tests");
    program
        .ancestors()
        .nth(2)
        .expect("the program of the tests stands in `deps` of the profile's folder")
        .join("tests")
}

/// Makes `result` with these arguments, unless it is there. A result is named after all that it is made of, so it never grows old.
pub(crate) fn compile(arguments: &[String], result: &Path) {
    if result.exists() {
        return;
    }
    let part = private(result);
    let output = Command::new(name())
        .args(["-std=c++17", "-w", "-ffp-contract=off"])
        .args(arguments)
        .arg("-o")
        .arg(&part)
        .output()
        .unwrap_or_else(|e| panic!("the C++ compiler `{}`: {e}", name()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(part, result).expect("a place in the build folder");
}

/// A whole file or none, whoever else writes it.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    if !path.exists() {
        let part = private(path);
        std::fs::write(&part, bytes).expect("a place in the build folder");
        std::fs::rename(part, path).expect("a place in the build folder");
    }
}

/// A name of this thread's alone beside a path.
pub(crate) fn private(path: &Path) -> PathBuf {
    let name = format!("{}.{}.{:?}", path.display(), std::process::id(), std::thread::current().id());
    PathBuf::from(name.replace(['(', ')'], ""))
}

/// A name for a text.
pub(crate) fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}
