//! Whether the rows of queries, keys and values come from one sequence: case files whose first line says the kind of each
//! attention, in order; `step` is self-attention of one row whose others are past keys.

use crate::inside::support::cases::files;
use annulus::find::report::record;
use annulus::find::{FindOptions, find};
use annulus::ir::parse;

#[test]
fn each_attention_is_of_the_kind_that_its_case_says() {
    let mut wrong = vec![];
    let mut seen = [0, 0];
    for path in files("inside/find/kinds") {
        let text = std::fs::read_to_string(&path).unwrap();
        let graph = parse(&text).unwrap_or_else(|e| panic!("{}\n{e}", path.display()));
        let found = find(&graph, &FindOptions::default());
        let kind = |a| {
            let r = record(&found.graph, a);
            if a.is_step {
                assert_eq!((r.kind, r.causal), ("self", true))
            }
            if a.is_step { "step" } else { r.kind }
        };
        let kinds: Vec<&str> = found.attentions.iter().map(kind).collect();
        let said: Vec<&str> =
            text[3..].split(':').next().unwrap().split(' ').filter(|k| !k.is_empty()).collect();
        for kind in &said {
            seen[usize::from(*kind == "cross")] += 1;
        }
        if kinds != said {
            wrong.push(format!("{}: {kinds:?}, not {said:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen[0] > 15 && seen[1] > 10, "{seen:?}");
}
