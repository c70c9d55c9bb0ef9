//! The IR from outside: the text form.

use annulus::ir::{Form, parse, print};

#[test]
fn basics_round_trip() {
    let text = std::fs::read_to_string("tests/ir/basics.txt").unwrap();
    let graph = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print(&graph, Form::People), text.split_once('\n').unwrap().1);
}
