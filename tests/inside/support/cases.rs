//! Case files, and snapshots that show what comes of them.

use std::path::{Path, PathBuf};

/// A place in the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The case files of a folder under `tests`, by name.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("tests").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no case in {}", folder.display());
    paths
}

/// The name of a case.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Compares a text with `snapshots/FOLDER/NAME.snap`.
pub(crate) fn snapshot(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("snapshots").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Stands between a case and what comes of it.
const RULE: &str = "────────────────────────────────";

/// Compares what comes of a case with `snapshots/FOLDER/NAME.snap`, where the case stands above it: a reviewer reads one file.
pub(crate) fn reviewed(folder: &str, name: &str, case: &str, outcome: &str) {
    let case: Vec<String> = case.trim_end().lines().map(shown).collect();
    snapshot(folder, name, &format!("{}\n{RULE}\n{outcome}", case.join("\n")));
}

/// A line without control characters, and of a long one both ends.
fn shown(line: &str) -> String {
    const MOST: usize = 400;
    let of = |chars: &[char]| -> String {
        let shown = |&c: &char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        chars.iter().map(shown).collect()
    };
    let all: Vec<char> = line.chars().collect();
    if all.len() <= MOST {
        return of(&all);
    }
    let (begin, end) = (&all[..MOST / 2], &all[all.len() - MOST / 4..]);
    format!("{} … {} characters … {}", of(begin), all.len() - begin.len() - end.len(), of(end))
}
