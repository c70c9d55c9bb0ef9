//! Text files, and standard input in their place.

use super::stop::Stop;
use std::io::Read;
use std::path::Path;

/// A path as messages name it.
pub(crate) fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".into() } else { path.display().to_string() }
}

/// A text file, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String, Stop> {
    let fail = |e: std::io::Error| Stop::Usage(format!("{}: {e}", name(path)));
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map_err(fail)?;
        Ok(text)
    } else {
        std::fs::read_to_string(path).map_err(fail)
    }
}
