//! The IR from outside: the text form.

use annulus::ir::{Form, Graph, parse, print};
use std::fs;
use std::path::{Path, PathBuf};

/// The case files of a folder under `tests/ir`, by name.
fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ir").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn parsed(text: &str) -> Graph {
    parse(text).unwrap_or_else(|e| panic!("{e}"))
}

/// A case without the comment at its head, and the form that it is written in.
fn body(path: &Path) -> (String, Form) {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split_inclusive('\n').skip_while(|line| line.starts_with("//")).collect();
    let full = path.file_name().unwrap().to_str().unwrap().starts_with("full_");
    (body, if full { Form::Full } else { Form::People })
}

#[test]
fn every_case_prints_as_it_is_written() {
    for path in cases("") {
        let text = fs::read_to_string(&path).unwrap();
        let graph = parse(&text).unwrap_or_else(|e| panic!("{}\n{e}", path.display()));
        let (body, form) = body(&path);
        assert_eq!(print(&graph, form), body, "{}", path.display());
        for form in [Form::People, Form::Full] {
            assert_eq!(parsed(&print(&graph, form)), graph, "{}", path.display());
        }
    }
}

fn snapshots() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/ir"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

#[test]
fn what_is_no_graph_is_refused_at_its_place() {
    snapshots().bind(|| {
        for path in cases("parse_fail") {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let error = parse(&text).expect_err(name);
            assert!(!error.rendered.contains('\x1b'), "{name}");
            insta::assert_snapshot!(format!("refused_{name}"), error.rendered);
        }
    });
}
