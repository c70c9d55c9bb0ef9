//! What is handed out: the licences of everything that annulus is built and tested with, crates that stand there twice, and
//! what is in the package.

#[path = "package/licence.rs"]
mod licence;

use licence::{Licence, parse};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The licences under which a dependency may be used. Each is wanted by at least one.
const LICENCES: [&str; 6] = ["Apache-2.0", "BSD-3-Clause", "ISC", "MIT", "Unicode-3.0", "Zlib"];

/// Crates of which there are two versions, and why. A semicolon stands between who wants the older and who wants the newer.
const DOUBLES: [(&str, &str); 8] = [
    ("cpufeatures", "sha2; chacha20, which proptest's rand uses"),
    ("getrandom", "half's rand; proptest's rand and insta's tempfile"),
    ("hashbrown", "egg and petgraph; indexmap, which egg uses as well"),
    ("rand", "half, with the feature that cudarc turns on; proptest"),
    ("rand_core", "the two of rand"),
    (
        "syn",
        "prost-derive, zerocopy-derive and the older thiserror; clap_derive, serde_derive and the newer thiserror",
    ),
    ("thiserror", "egg; annulus"),
    ("thiserror-impl", "the two of thiserror"),
];

/// The files that crates.io takes have at most so many bytes together; it takes as many compressed.
const MOST: u64 = 10 << 20;

fn cargo(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let out = out.expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// The packages of the tree on Linux: name, version and licence.
fn packages() -> Vec<(String, String, Option<String>)> {
    let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let args = [&["metadata", "--format-version", "1", "--locked", "--offline"][..], &platform].concat();
    let metadata: Value = serde_json::from_str(&cargo(&args)).expect("JSON");
    let text = |p: &Value, key: &str| p[key].as_str().map(str::to_owned);
    let all = metadata["packages"].as_array().expect("packages").iter();
    all.map(|p| {
        (text(p, "name").expect("a name"), text(p, "version").expect("a version"), text(p, "license"))
    })
    .collect()
}

// Elsewhere the crates of Linux may not have been downloaded.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn every_licence_is_allowed_and_every_allowed_one_is_wanted() {
    let mut licences: Vec<(String, Licence)> = vec![];
    for (name, version, licence) in packages() {
        let licence = licence.unwrap_or_else(|| panic!("{name} {version} states no licence"));
        licences.push((format!("{name} {version} ({licence})"), parse(&licence)));
    }
    let refused = |allowed: &[&str]| -> Vec<&str> {
        licences.iter().filter(|(_, l)| !l.holds(allowed)).map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(refused(&LICENCES), Vec::<&str>::new(), "not under a licence of the list");
    for one in LICENCES {
        let others: Vec<&str> = LICENCES.into_iter().filter(|l| *l != one).collect();
        assert!(!refused(&others).is_empty(), "no dependency wants {one}: take it off the list");
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn crates_in_two_versions_are_named() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version, _) in packages() {
        versions.entry(name).or_default().insert(version);
    }
    let doubles: Vec<(&str, usize)> =
        versions.iter().filter(|(_, v)| v.len() > 1).map(|(name, v)| (name.as_str(), v.len())).collect();
    let named: Vec<(&str, usize)> = DOUBLES.iter().map(|(name, _)| (*name, 2)).collect();
    assert_eq!(
        doubles, named,
        "the crates that stand in the tree more than once, and those that DOUBLES names"
    );
}

/// The targets of links and pictures, and the folders and files in quotes, that stand in the README.
fn named_in(readme: &str) -> BTreeSet<&str> {
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let code = readme.split("```rust").skip(1).filter_map(|rest| rest.split("```").next());
    let quoted = code.flat_map(|block| block.split('"').skip(1).step_by(2)).filter(|text| text.contains('/'));
    links.filter(|link| !link.contains("://")).chain(quoted).collect()
}

#[test]
fn the_package_holds_what_its_readme_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = cargo(&["package", "--list", "--allow-dirty", "--offline"]);
    let files: Vec<&str> = list.lines().collect();
    let readme = std::fs::read_to_string(root.join("README.md")).expect("a README");
    let named = named_in(&readme);
    assert!(
        named.iter().any(|n| n.ends_with(".svg")) && named.iter().any(|n| n.contains("models")),
        "{named:?}"
    );
    for name in named {
        let held = files.iter().any(|f| Path::new(f).starts_with(name));
        assert!(held, "the README names {name}, which is not in the package");
    }
    let size = |f: &&str| std::fs::metadata(root.join(f)).map_or(0, |m| m.len());
    let bytes: u64 = files.iter().map(size).sum();
    assert!(bytes < MOST, "{bytes} bytes are more than crates.io takes");
}

/// Crates that the library alone is built of, without any feature, itself among them; and with all of them, the command line's too.
const CRATES: [usize; 2] = [68, 99];

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn the_library_is_built_of_as_few_crates_as_are_stated() {
    let count = |more: &[&str]| {
        let args =
            [&["tree", "--edges", "normal", "--prefix", "none", "--locked", "--offline"][..], more].concat();
        let tree = cargo(&args);
        // A crate is printed wherever it is wanted, from the second time on with a mark behind it.
        let crates = tree.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
        crates.filter(|line| !line.is_empty()).collect::<BTreeSet<String>>().len()
    };
    assert_eq!([count(&["--no-default-features"]), count(&[])], CRATES);
}
