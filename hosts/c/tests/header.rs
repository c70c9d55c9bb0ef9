//! The header in `include` is the one that cbindgen makes of the sources.

// Helpers of tests are none that the lint knows as such.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// The header as it should be.
fn made() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    // In the order of the crate, so that nothing depends on how a folder is listed.
    for file in ["status", "program", "rows", "open", "call"] {
        builder = builder.with_src(root.join("src").join(file).with_extension("rs"));
    }
    let mut text = vec![];
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_that_of_the_sources() {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/annulus.h");
    let made = made();
    if std::env::var_os("ANNULUS_BLESS_HEADER").is_some_and(|v| !v.is_empty()) {
        std::fs::write(&at, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&at).unwrap_or_default();
    let line = made.lines().zip(kept.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or(made.lines().count().min(kept.lines().count()));
    assert!(
        made == kept,
        "include/annulus.h is not that of the sources, from line {} on: `ANNULUS_BLESS_HEADER=1 cargo test --test header` writes it anew",
        line + 1
    );
}
