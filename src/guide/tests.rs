//! The guide says the truth of the tree: every file that it names is there, every file that a change touches is named, and the
//! grammar has every operation.

use crate::ir::{Binary, Graph, Op, Unary, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder, by their path from the root, with their text.
fn files(folder: &str, suffix: &str) -> BTreeMap<String, String> {
    let mut open = vec![PathBuf::from(folder)];
    let mut out = BTreeMap::new();
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(root().join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                open.push(path);
            } else if path.to_str().unwrap().ends_with(suffix) {
                let text = std::fs::read_to_string(root().join(&path)).unwrap();
                out.insert(path.to_str().unwrap().replace('\\', "/"), text);
            }
        }
    }
    out
}

fn chapters() -> BTreeMap<String, String> {
    let mut all = files("src/guide", ".md");
    all.extend(files("src/find/algebra/rules", ".md"));
    let contributing = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    all.insert("CONTRIBUTING.md".into(), contributing);
    all
}

/// What a chapter names in code: the words of a span, and behind a folder `a/` also the files in it that are named alone.
fn named(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_file_that_is_named_is_there() {
    let tree = ["src/", "tests/", "snapshots/", "examples/", "kernels/", "benches/", "findings/", ".ci/"];
    let mut missing = vec![];
    for (chapter, text) in chapters() {
        for name in named(&text) {
            let path = name.split(' ').next().unwrap_or(name);
            if tree.iter().any(|t| path.starts_with(t))
                && !path.contains("NAME")
                && !root().join(path).exists()
            {
                missing.push(format!("{chapter} names {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A thing that is added, by something like it: whoever matches on that must be named where its addition is described.
#[test]
fn every_file_that_a_new_thing_touches_is_named() {
    // Files of importer's families build operations and are named by their folder.
    let like: [(&str, &[&str], &[&str]); 4] = [
        (
            "new_operator.md",
            &["Op::CumSum", "Op::Pad", "Op::Iota", "Op::Slice", "Unary::Ceil"],
            // Island graphs are built of few operations, and of none that is new.
            &["src/import/ops/", "src/import/node.rs", "src/ring/graph/"],
        ),
        ("new_mask_term.md", &["Term::Prefix {", "Term::Keys {", "Term::Window {"], &[]),
        (
            "new_device_field.md",
            &["slowdown", "launch_us", "memory_gb_s", "message_us"],
            &["src/guide/", "src/pass/options.rs"],
        ),
        (
            "new_numerics_class.md",
            &["Numerics::ALL", "Numerics::Domain", " MorePrecision ", "&[Numerics]"],
            &[],
        ),
    ];
    let (sources, tables) = (files("src", ".rs"), files("src", ".toml"));
    let mut missing = vec![];
    for (chapter, needles, apart) in like {
        let text = std::fs::read_to_string(root().join("src/guide").join(chapter)).unwrap();
        let names = named(&text);
        for (path, source) in sources.iter().chain(&tables).filter(|(path, _)| *path != "src/guide/tests.rs")
        {
            let file = path.rsplit('/').next().unwrap_or(path);
            let said = names.contains(path.as_str())
                || (path.starts_with("src/find/algebra/rules/") && names.contains(file));
            let touched = needles.iter().find(|n| source.contains(**n));
            if let Some(needle) = touched.filter(|_| !said && !apart.iter().any(|a| path.starts_with(a))) {
                missing.push(format!("{chapter} does not name {path}, which has {needle}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The mnemonics of `Op::name`: its literals, those of the families of functions left out.
fn mnemonics() -> BTreeSet<String> {
    let source = include_str!("../ir/op/list.rs");
    let body = source.split_once("pub fn name(&self)").expect("the function that gives the mnemonics").1;
    let mut all: BTreeSet<String> = body.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(all.len() > 30, "{all:?}");
    all.extend(Unary::ALL.iter().map(|u| u.name().to_owned()));
    all.extend(Binary::ALL.iter().map(|b| b.name().to_owned()));
    all
}

#[test]
fn the_grammar_and_its_examples_have_every_operation() {
    let text = include_str!("graphs.md");
    let grammar = text.split_once("# The grammar").unwrap().1.split_once("# Every operation once").unwrap().0;
    let terminals: BTreeSet<&str> = grammar.split('"').skip(1).step_by(2).collect();
    let mut shown = BTreeSet::new();
    for example in text.split("r#\"graph ").skip(1) {
        let graph = parse(&format!("graph {}", example.split("\"#").next().unwrap())).unwrap();
        let mut open: Vec<&Graph> = vec![&graph];
        while let Some(graph) = open.pop() {
            for id in graph.ops() {
                shown.insert(graph.op(id).name());
                if let Op::Region(_, inner) = graph.op(id) {
                    open.push(inner);
                }
            }
        }
    }
    for name in mnemonics() {
        assert!(terminals.contains(name.as_str()), "the grammar has no {name}");
        assert!(shown.contains(name.as_str()), "no example shows {name}");
    }
}

/// What the grammar says beside its productions: where blanks, comments and ends of lines may stand, and the order of attributes.
#[test]
fn the_grammar_says_where_blanks_and_attributes_may_stand() {
    let line = |line: &str| {
        let text = format!("graph \"g\" {{\n  input %x: f32[1,4,6,8]\n  {line}\n}}\n");
        parse(&text).map(|graph| graph.to_string())
    };
    for (plain, others) in [
        (
            "%y: f32[1,4,2,8] = slice %x {axis=2, start=1, len=2}",
            [
                "% y: f32[1,4,2,8] = slice %x {axis=2, start=1, len=2}",
                "%y: f32[1,4,2,8] = slice %x {axis =2, start=1, len=2}",
                "%y: f32[1,4,2,8] = slice %x {axis=2, start=1, len=2, len=2}",
            ],
        ),
        (
            "%y: f32[1,4,2,8] = rows %x {axis=2, rows=[1:2:3]}",
            [
                "%y: f32[1,4,2,8] = rows %x {axis=2, rows=[1:2 :3]}",
                "%y: f32[1,4,2,8] = rows\n %x {axis=2, rows=[1:2:3]}",
                "%y: f32[1,4,2,8] = rows %x {axis=2, rows=[1:2:3]} {}",
            ],
        ),
        (
            "%y: f32[1,4,6,8] = attention %x, %x, %x {scores=[factor 1.0 | fill -inf unless causal(0) & keys(0,4)], acc=f32, empty=zero}",
            [
                "%y: f32[1,4,6,8] = attention %x, %x, %x {scores=[factor 1.0 | fill -inf unless causal (0)], acc=f32, empty=zero}",
                "%y: f32[1,4,6,8] = attention %x, %x, %x {scores=[factor 1.0 | fill -inf unless causal(0) // no\n], acc=f32, empty=zero}",
                "%y: f32[1,4,6,8] = attention %x, %x, %x {scores=[factor 1.0 | fill add(inf) unless causal(0)], acc=f32, empty=zero}",
            ],
        ),
    ] {
        assert!(line(plain).is_ok(), "{plain}");
        for other in others {
            assert!(line(other).is_err(), "{other}");
        }
    }
    for (printed, read) in [
        (
            "%y: f32[1,4,2,8] = slice %x {axis=2, start=1, len=2}",
            "%y :f32[ 1, 4,2,\n 8 ]=slice%x{len= 2,\n// why\nstart=1,axis=2 , step=1} // so",
        ),
        (
            "%y: f32[1,4,2,8] = rows %x {axis=2, rows=[1:2:3]}",
            "%y : f32 [1,4,2,8] = rows %x { rows= [1 : 2:3], axis=2}",
        ),
        (
            "%y: f32[1,4,6,8] = attention %x, %x, %x {scores=[factor 1.0 | fill -inf unless causal(0) & keys(0,4)], acc=f32, empty=zero}",
            "%y: f32[1,4,6,8] = attention %x, %x, %x {empty=zero, acc=f32, scores=[factor 1 | fill -inf unless causal( 0 )&keys( 0 , 4 )]}",
        ),
        (
            "%y: f32[1,4,6,8] = attention %x, %x, %x {scores=[factor 0.5 | softcap 3.0 | fill add(-10000.0) unless causal(0) & keys(0,4)], acc=f32, empty=zero}",
            "%y: f32[1,4,6,8] = attention %x, %x, %x {scale=0.5, mask=causal(0) & keys(0,4) fill add(-10000.0), softcap=3.0, acc=f32, empty=zero}",
        ),
    ] {
        assert_eq!(line(read).as_ref(), line(printed).as_ref(), "{read}");
    }
}

/// The rank that is explained is that of a schedule that is reviewed.
#[test]
fn the_rank_of_two_levels_is_that_of_a_snapshot() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (chapter, snapshot) = (read("src/guide/schedules.md"), read("snapshots/schedule/queries_2x2.snap"));
    let shown = chapter.split("```text\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
    assert!(shown.contains("merge carry_in cast_out") && snapshot.contains(shown), "{shown}");
}
