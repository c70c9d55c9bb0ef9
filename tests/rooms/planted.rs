//! Small houses with one fault each, which must be named, and houses that only look as if they had one.

use super::order::{faults, order};
use super::uses::Files;

/// A house of these files. Its rooms, where `lib.rs` is not among the files, are ordered as they are named.
fn house(rooms: &[&str], files: &[(&str, &str)]) -> Vec<String> {
    house_with_check(rooms, files, &[])
}

/// A house in which `check` may use these files.
fn house_with_check(rooms: &[&str], files: &[(&str, &str)], may_use: &[&str]) -> Vec<String> {
    let order = rooms.iter().map(|r| format!("`{r}`")).collect::<Vec<_>>().join(", ");
    let modules: String = rooms.iter().map(|r| format!("pub mod {r};\n")).collect();
    let library = format!("//! A house.\n//! Order of use: {order}.\n{modules}");
    let mut all: Files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    all.entry("lib.rs".to_owned()).or_insert(library);
    faults(&all, may_use)
}

/// Asserts that there is exactly one fault, and that it has these words.
fn one(faults: &[String], words: &[&str]) {
    assert_eq!(faults.len(), 1, "{faults:#?}");
    for word in words {
        assert!(faults[0].contains(word), "{word:?} is not in {}", faults[0]);
    }
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_circle_between_files() {
    let found = house(
        &["ir"],
        &[
            ("ir/mod.rs", "pub mod a; pub mod b; pub use a::A;"),
            ("ir/a.rs", "use super::b::B;\npub struct A(B);"),
            ("ir/b.rs", "pub struct B;\nfn f(_: &crate::ir::A) {}"),
        ],
    );
    one(&found, &["circle between files ir/a.rs, ir/b.rs", "ir/a.rs:1 uses ir/b.rs: super::b::B"]);
    one(&found, &["ir/b.rs:2 uses ir/a.rs: crate::ir::A"]);
}

#[test]
fn a_file_that_only_declares_makes_no_circle() {
    let files = |own: &'static str| {
        let head: &str =
            Box::leak(format!("mod a;\nmod b;\npub use a::A;\npub use b::*;\n{own}").into_boxed_str());
        [("ir/mod.rs", head), ("ir/a.rs", "use super::B;\npub struct A(B);"), ("ir/b.rs", "pub struct B;")]
    };
    none(&house(&["ir"], &files("")));
    none(&house(&["ir"], &files("#[cfg(test)]\nmod tests { use super::*; fn f(_: A) {} }")));
    // With code of its own that a file below uses it is one like any other.
    let mut circle = files("pub struct C(A);");
    circle[1].1 = "pub struct A;\nfn c(_: super::C) {}";
    one(&house(&["ir"], &circle), &["circle between files ir/a.rs, ir/mod.rs", "super::C"]);
}

#[test]
fn a_circle_between_rooms() {
    let found = house(
        &["ir", "find"],
        &[
            ("ir/mod.rs", "mod a; mod b; pub use b::B;"),
            ("ir/a.rs", "use crate::find::F;"),
            ("ir/b.rs", "pub struct B;"),
            ("find/mod.rs", "mod f; mod g; pub use f::F;"),
            ("find/f.rs", "pub struct F;"),
            ("find/g.rs", "use crate::ir::{self as graphs};\nfn g(_: graphs::B) {}"),
        ],
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    one(
        &found[..1],
        &["circle between rooms of the house: find, ir", "ir/a.rs:1", "find/g.rs:2 uses ir/b.rs: graphs::B"],
    );
    one(&found[1..], &["ir uses find, a later room", "ir/a.rs:1 uses find/f.rs: crate::find::F"]);
}

#[test]
fn a_circle_between_rooms_within_a_room() {
    let found = house(
        &["find"],
        &[
            ("find/mod.rs", "mod masks; mod region;"),
            ("find/masks/mod.rs", "pub mod plan; pub mod band;"),
            ("find/masks/plan.rs", "use super::super::region::types::T;"),
            ("find/masks/band.rs", "pub fn band() {}"),
            ("find/region/mod.rs", "pub mod types; mod search;"),
            ("find/region/types.rs", "pub struct T;"),
            ("find/region/search.rs", "fn s() { crate::find::masks::band::band() }"),
        ],
    );
    one(
        &found,
        &["circle between rooms of find: masks, region", "super::super::region::types::T", "band::band"],
    );
}

#[test]
fn a_circle_through_re_exports_and_globs() {
    let found = house(
        &["ir"],
        &[
            ("ir/mod.rs", "mod a; mod b; mod c; pub use c::*;"),
            ("ir/a.rs", "use super::*;\npub struct A(B);"),
            ("ir/b.rs", "pub struct B;\nfn f(a: Renamed) {}\nuse crate::ir::Renamed;"),
            ("ir/c.rs", "pub(super) use super::a::A as Renamed; pub use super::b::B; pub struct C;"),
        ],
    );
    let files = "circle between files ir/a.rs, ir/b.rs";
    one(&found, &[files, "ir/a.rs:2 uses ir/b.rs: super::B", "ir/b.rs:3 uses ir/a.rs: crate::ir::Renamed"]);
}

#[test]
fn a_re_export_of_another_room_is_a_use_of_it() {
    let lookup = |head: &str| {
        let search = [("search/mod.rs", "mod s; pub use s::S;"), ("search/s.rs", "pub struct S;")];
        let files = [&search[..], &[("schedule/mod.rs", head)]].concat();
        house(&["schedule", "search"], &files)
    };
    one(&lookup("pub use crate::search::S;"), &["schedule uses search, a later room", "crate::search::S"]);
    none(&lookup("#[cfg(test)] pub use crate::search::S;"));
}

#[test]
fn a_room_that_uses_a_later_one() {
    let found = house(
        &["ring", "schedule"],
        &[("ring.rs", "fn f() { let x = crate::schedule::build(); }"), ("schedule.rs", "pub fn build() {}")],
    );
    one(&found, &["ring uses schedule, a later room: ring.rs:1 uses schedule.rs: crate::schedule::build"]);
}

#[test]
fn rooms_that_the_order_does_not_name_and_names_without_a_room() {
    let found = house(
        &[],
        &[("lib.rs", "//! Order of use: `ir`, `find`.\nmod ir;\nmod eval;"), ("ir.rs", ""), ("eval.rs", "")],
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    one(&found[..1], &["names find, and there is no such room"]);
    one(&found[1..], &["does not name the room eval"]);
    one(&house(&[], &[("lib.rs", "//! A house.\nmod ir;"), ("ir.rs", "")]), &["lib.rs has no line"]);
    let lines = "//! x\n//! Order of use: `ir`,\n//! `find`, `ring`. Then `more`.\n";
    assert_eq!(order(lines)[..3], ["ir", "find", "ring"]);
}

#[test]
fn the_proof_uses_types_alone() {
    let check = |text: &str| {
        let files = [
            ("ir/mod.rs", "pub mod types; pub mod graph;"),
            ("ir/types.rs", "pub struct Type;"),
            ("ir/graph.rs", "pub struct Graph;"),
            ("schedule/mod.rs", "mod types; pub mod cost; pub use types::Schedule;"),
            ("schedule/types.rs", "pub struct Schedule;"),
            ("schedule/cost.rs", "pub fn estimate() {}"),
            ("check/mod.rs", "mod replay;\nuse crate::schedule::Schedule;\nuse crate::ir::types::Type;"),
            ("check/replay.rs", text),
        ];
        house_with_check(&["ir", "schedule", "check"], &files, &["ir/types.rs", "schedule/types.rs"])
    };
    none(&check(""));
    let found = check("use crate::schedule::{self, Schedule};\nfn f() { schedule::cost::estimate() }");
    one(&found, &["check may not use schedule/cost.rs: check/replay.rs:2", "schedule::cost::estimate"]);
    one(&check("fn f(g: &crate::ir::graph::Graph) {}"), &["check may not use ir/graph.rs"]);
    let stale = house_with_check(&["check"], &[("check/mod.rs", "")], &["ir/types.rs"]);
    one(&stale, &["check may use ir/types.rs, and does not"]);
}

#[test]
fn the_binary_is_the_last_room() {
    let files = [
        ("lib.rs", "//! Order of use: `ir`, `cli`.\npub mod ir;"),
        ("main.rs", "mod cli;\nfn main() { cli::main() }"),
        ("ir.rs", "pub struct Graph;"),
        ("cli/mod.rs", "mod opt;\npub(crate) fn main() { opt::run() }\npub struct Stop;"),
        ("cli/opt.rs", "use annulus::ir::Graph;\npub(super) fn run() {}"),
    ];
    none(&house(&[], &files));
    let mut circle = files;
    circle[4].1 = "use super::Stop;\npub(super) fn run() {}";
    one(&house(&[], &circle), &["circle between files cli/mod.rs, cli/opt.rs", "super::Stop"]);
}

/// A file of `ir` that `find` uses, and this text in it.
fn beside(text: &str) -> Vec<String> {
    house(
        &["ir", "find"],
        &[("ir.rs", text), ("find.rs", "pub struct F; pub fn f() {}\nuse crate::ir as _;")],
    )
}

#[test]
fn what_is_no_use_does_not_count() {
    none(&beside(
        "// crate::find::F\n/* crate::find::F /* nested */ crate::find::F */\n/// [`crate::find::F`]\nstruct A;",
    ));
    none(&beside("const A: &str = \"crate::find::F \\\" crate::find::F\";"));
    none(&beside("const A: &[u8] = br#\"crate::find::F \" crate::find::F\"#; const B: &str = r\"\\\";"));
    none(&beside(
        "const A: char = '\"'; const B: char = '\\''; fn f<'a>(x: &'a str) {} // \" crate::find::F",
    ));
    none(&beside("#[cfg(test)]\nmod tests { use crate::find::F; }\nfn g() {}"));
    none(&beside("#[cfg(test)]\nuse crate::find::{F, f};\n#[cfg(doctest)]\nstruct A(crate::find::F);"));
    none(&beside(
        "#[cfg(all(unix, test))]\n#[allow(dead_code)]\npub(crate) fn g(x: [u8; 3]) { crate::find::f() }",
    ));
    none(&beside("struct A { #[cfg(test)] f: crate::find::F, g: u8 }"));
    none(&beside("#[test]\nfn g() { crate::find::f() }"));
    none(&beside("#![cfg(test)]\nuse crate::find::F;"));
    none(&beside("fn g(x: &str) { x.find(); let f = 1; }"));
    none(&beside("use std::find::F; fn g() { ::find::f(); <u8 as Into>::find::f() }"));
    none(&beside("pub(in crate::find) fn g() {}"));
}

#[test]
fn what_is_a_use_counts() {
    for text in [
        "#[cfg(not(test))]\nuse crate::find::F;",
        "#[cfg(any(test, feature = \"x\"))]\nuse crate::find::F;",
        "#[cfg(test)]\nconst A: A = A { a: 1 };\nuse crate::find::F;",
        "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::find::F;",
        "struct A { #[cfg(test)] f: u8, g: crate::find::F }",
        "fn g() { use crate::find::f as h; h() }",
        "mod inner { fn g() { super::super::find::f() } }",
        "use crate::{find as it}; fn g() { it::f() }",
        "use {crate::{self as all}}; fn g(_: &dyn Fn(all::find::F)) {}",
        "macro_rules! m { () => { $crate::find::f() } }",
        "fn g() { for i in 0..crate::find::f() {} }",
        "#[error(\"{}\", crate::find::f())] struct E;",
        "use crate::find::*; fn g() { f() }",
        "impl From<crate::find::F> for u8 {}",
        "fn g() { let c = 'c'; let d = b'\\\\'; crate::find::f() }",
    ] {
        let found = beside(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].contains("ir uses find, a later room"), "{text}: {found:#?}");
    }
}

#[test]
fn a_path_that_leads_nowhere_is_said() {
    one(
        &beside("use crate::find::Missing;"),
        &["no declaration is found of what ir.rs:1: crate::find::Missing names"],
    );
    // A macro may make the item.
    for made in ["named! { pub enum Unary { Neg } }", "named! { /// Of one.\n Unary { Neg = \"neg\" } }"] {
        none(&house(&["ir", "find"], &[("ir.rs", made), ("find.rs", "use crate::ir::Unary;")]));
    }
}

#[test]
fn a_name_may_be_a_module_and_a_function() {
    let files = |text: &'static str| {
        [
            ("ir/mod.rs", "mod print; mod parse; pub use print::show; pub fn print() {}"),
            ("ir/print.rs", "pub fn show() { super::parse::parse() }"),
            ("ir/parse.rs", text),
        ]
    };
    none(&house(&["ir"], &files("use super::print;\npub fn parse() { let _ = 1; }")));
    one(
        &house(&["ir"], &files("use super::print;\npub fn parse() { print::show() }")),
        &["circle between files ir/parse.rs, ir/print.rs"],
    );
    let found = house(&["ir"], &files("use super::print;\npub fn parse() { print() }"));
    one(&found, &["circle between files ir/mod.rs, ir/parse.rs, ir/print.rs"]);
}
