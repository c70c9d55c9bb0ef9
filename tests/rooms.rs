//! The house is in order: no circle between files or rooms, no room that uses a later one, and a proof that stands alone.
//!
//! Every path of `src` outside of comments, literals and tests is followed to the file that declares what it names. Paths are
//! all that is read: a method that is called on a value names no file.

#[path = "rooms/module.rs"]
mod module;
#[path = "rooms/order.rs"]
mod order;
#[path = "rooms/planted.rs"]
mod planted;
#[path = "rooms/tokens.rs"]
mod tokens;
#[path = "rooms/uses.rs"]
mod uses;

use std::path::Path;

/// The files of other rooms that `check` uses, and no others: the types that a schedule is made of. The proof shares no code
/// with what makes the schedule.
const CHECK_MAY_USE: [&str; 13] = [
    "ir/op/scores.rs",
    "ir/strategy.rs",
    "ir/types.rs",
    "layout/mod.rs",
    "mask/term.rs",
    "mask/tile.rs",
    "mask/whole.rs",
    "ir/heads.rs",
    "schedule/blocks.rs",
    "schedule/facts.rs",
    "schedule/mesh.rs",
    "schedule/steps.rs",
    "schedule/types.rs",
];

/// The files below a folder, by their path from `root`.
fn read(folder: &Path, root: &Path, files: &mut uses::Files) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, root, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("a name of UTF-8");
            let text = std::fs::read_to_string(&path).expect("a file");
            files.insert(name.replace('\\', "/"), text);
        }
    }
}

#[test]
fn the_house_is_in_order() {
    let mut files = uses::Files::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&root, &root, &mut files);
    let faults = order::faults(&files, &CHECK_MAY_USE);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
