//! What `find` says of the ring before anything is compiled is what `compile` does, on any number of ranks, where a strategy is named:
//! without one, short windows are split along their batch instead.

use super::cases::{cases, graph};
use super::models::folders;
use crate::inside::support::cases::stem;
use crate::inside::support::data::folder;
use annulus::find::report::record;
use annulus::find::{FindOptions, Ring};
use annulus::import::ImportOptions;
use annulus::import::case::{Stored, load};
use annulus::ir::{Graph, parse};
use annulus::ring::Strategy;
use annulus::{Options, compile, find_attentions};
use std::fmt::Write;

/// What is said of the attentions of a graph, in order, after the same was done on 2 and on 3 ranks.
fn said(graph: &Graph, what: &str) -> Vec<Ring> {
    let found = find_attentions(graph, &FindOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let said: Vec<Ring> = found.attentions.iter().map(|a| a.ring.clone()).collect();
    for (attention, said) in found.attentions.iter().zip(&said) {
        assert_eq!(record(&found.graph, attention).ring, said.to_string(), "{what}");
    }
    let unasked = annulus::find::find(graph, &FindOptions::default()).attentions;
    assert!(unasked.iter().all(|a| a.ring == Ring::Unasked), "{what}: find itself asks nobody");
    for ranks in [2, 3] {
        let compiled = compile(graph, &Options::new(ranks).strategy(Strategy::AllGather))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(compiled.attentions.len(), said.len(), "{what}");
        let islands = compiled.schedules();
        for (attention, said) in compiled.attentions.iter().zip(&said) {
            let refused = compiled.program.refused.iter().find(|(op, _)| *op == attention.op);
            let done = match (islands.contains_key(&attention.op), refused) {
                (true, None) => Ring::Splits,
                (false, Some((_, reason))) => Ring::Refused(reason.clone()),
                other => panic!("{what}: {}: {other:?}", attention.name),
            };
            assert_eq!((said, &attention.ring), (&done, &done), "{what} on {ranks} ranks");
        }
    }
    said
}

#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn models_and_goldens_are_split_where_find_says_so() {
    let (mut split, mut whole) = (0, 0);
    for name in ["models", "onnx-attention"] {
        let root = folder(name);
        for case_folder in folders(&root, &[""]) {
            let case = load(&case_folder, &Stored::default(), &ImportOptions::default())
                .unwrap_or_else(|e| panic!("{}: {e}", case_folder.display()));
            let said = said(&case.graph, &case_folder.display().to_string());
            split += said.iter().filter(|r| **r == Ring::Splits).count();
            whole += said.iter().filter(|r| **r != Ring::Splits).count();
        }
    }
    assert!(split > 200, "{split} are split");
    assert_eq!(whole, 0);
}

#[test]
fn forms_and_odd_spellings_are_split_where_find_says_so() {
    for path in cases() {
        said(&graph(&path), &stem(&path));
    }
}

/// Batch, query and key heads, query and key rows, sizes of a key and a value.
type Sizes = [usize; 7];

/// An attention of these sizes, as one operation.
fn operator([b, hq, hk, sq, sk, dk, dv]: Sizes) -> String {
    format!(
        "graph \"sizes\" {{
          input %q: f32[{b},{hq},{sq},{dk}]
          input %k: f32[{b},{hk},{sk},{dk}]
          input %v: f32[{b},{hk},{sk},{dv}]
          %o: f32[{b},{hq},{sq},{dv}] = attention %q, %k, %v {{scores=[factor 1.0 | fill -inf unless causal(0)], acc=f32, empty=zero}}
          output \"o\" = %o
        }}"
    )
}

/// An attention of these sizes, written out, as many key heads as query heads.
fn written_out([b, h, _, sq, sk, dk, dv]: Sizes) -> String {
    format!(
        "graph \"sizes\" {{
          input %q: f32[{b},{h},{sq},{dk}]
          input %k: f32[{b},{h},{sk},{dk}]
          input %v: f32[{b},{h},{sk},{dv}]
          %s: f32[{b},{h},{sq},{sk}] = contract %q, %k {{bhid,bhjd->bhij}}
          %p: f32[{b},{h},{sq},{sk}] = softmax %s {{axis=3}}
          %o: f32[{b},{h},{sq},{dv}] = contract %p, %v {{bhij,bhjd->bhid}}
          output \"o\" = %o
        }}"
    )
}

/// The rows of the first attention run along the batch of the second.
const AXIAL: &str = "graph \"axial\" {
  input %x: f32[5,2,3,4]
  %down: f32[5,2,3,4] = attention %x, %x, %x {scores=[factor 0.5], acc=f32, empty=zero}
  %y: f32[3,2,5,4] = permute %down {perm=[2,1,0,3]}
  %across: f32[3,2,5,4] = attention %y, %y, %y {scores=[factor 0.5], acc=f32, empty=zero}
  output \"across\" = %across
}";

#[test]
fn each_reason_is_said_before_compiling() {
    let big = 1 << 37;
    let sizes: [(&str, Sizes); 13] = [
        ("plain", [2, 4, 2, 6, 9, 8, 4]),
        ("one row", [1, 1, 1, 1, 1, 1, 1]),
        ("batch 0", [0, 4, 2, 6, 9, 8, 4]),
        ("no query heads", [2, 0, 2, 6, 9, 8, 4]),
        ("q_len 0", [2, 4, 2, 0, 9, 8, 4]),
        ("kv_len 0", [2, 4, 2, 6, 0, 8, 4]),
        ("head_dim 0", [2, 4, 2, 6, 9, 0, 4]),
        ("v_head_dim 0", [2, 4, 2, 6, 9, 8, 0]),
        ("everything 0", [0, 0, 1, 0, 0, 0, 0]),
        ("keys and values of 2^40 elements", [1, 1, 1, 1, big, 4, 4]),
        ("keys and values of more than 2^40 elements", [1, 1, 1, 1, big + 1, 4, 4]),
        ("values of 2^40 elements", [1, 1, 1, 1, big, 1, 8]),
        ("queries of 2^40 elements", [1, 1, 1, big, 1, 8, 8]),
    ];
    let mut out = String::new();
    for (what, sizes) in sizes {
        for (form, text) in [("explicit", operator(sizes)), ("written out", written_out(sizes))] {
            let graph = parse(&text).unwrap_or_else(|e| panic!("{what}: {e}"));
            for ring in said(&graph, what) {
                writeln!(out, "{what}, {form}: {ring}").unwrap();
            }
        }
    }
    for ring in said(&parse(AXIAL).unwrap(), "axial") {
        writeln!(out, "one after the other along two axes: {ring}").unwrap();
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/find"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("ring_reasons", out));
}
