//! Sequences that are as long as others and are not the same: pasts and new rows, a batch, a sequence of one row.

use super::build::tensor;
use annulus::eval::{Precision, eval};
use annulus::ir::{Graph, Tensor, parse};
use annulus::layout::{LayoutKind, Progression};
use annulus::ring::Strategy;
use annulus::shard::{Handed, Segment};
use annulus::{Compiled, Options, compile, run};

/// Compiles and runs on whole inputs that look like nothing in particular; it must be what the graph says.
fn right(graph: &Graph, options: &Options) -> Compiled {
    let what = || format!("{} on {} ranks, {:?}", graph.name(), options.ranks, options.layout);
    let compiled = compile(graph, options).unwrap_or_else(|e| panic!("{}: {e}", what()));
    let inputs: Vec<Tensor> =
        graph.inputs().iter().zip(5..).map(|(&v, seed)| tensor(graph.ty(v), seed)).collect();
    let want = eval(graph, &inputs, Precision::F64).unwrap();
    let got = run(&compiled, &inputs, 3).unwrap_or_else(|e| panic!("{}: {e}", what())).outputs;
    for (got, want) in got.iter().zip(&want) {
        let far = |(a, b): (f64, f64)| (a - b).abs() > 1e-5 && !(a.is_nan() && b.is_nan());
        assert!(!got.to_f64().into_iter().zip(want.to_f64()).any(far), "{}", what());
    }
    for rank in 0..options.ranks {
        compiled.hand_back(rank).unwrap();
        compiled.rank_graph(rank).unwrap();
    }
    compiled
}

fn gathers(compiled: &Compiled) -> usize {
    compiled.program.segments.iter().filter(|s| matches!(s, Segment::Gather { .. })).count()
}

/// Layers on one stream of rows, each with its old keys and values; every layer's own number of them.
fn layers(new: usize, pasts: &[(usize, usize)]) -> Graph {
    let mut text = format!(
        "graph \"layers\" {{\n  input %x0: f32[1,{new},4]\n  input %w: f32[4,2,2]\n  input %u: f32[2,2,4]\n"
    );
    for (i, (k, v)) in pasts.iter().enumerate() {
        text += &format!("  input %pk{i}: f32[1,2,{k},2]\n  input %pv{i}: f32[1,2,{v},2]\n");
    }
    for (i, &(k, v)) in pasts.iter().enumerate() {
        let next = i + 1;
        let rows = k + new;
        // Of values that are not cached as the keys are, the rest is new by another way.
        let more = rows - v;
        text += &format!("  %q{i}: f32[1,2,{new},2] = contract %x{i}, %w {{bim,mhd->bhid}}\n");
        text += &format!("  %k{i}: f32[1,2,{rows},2] = concat %pk{i}, %q{i} {{axis=2}}\n");
        if more == new {
            text += &format!("  %v{i}: f32[1,2,{rows},2] = concat %pv{i}, %q{i} {{axis=2}}\n");
        } else {
            text += &format!("  input %more{i}: f32[1,2,{more},2]\n");
            text += &format!("  %v{i}: f32[1,2,{rows},2] = concat %pv{i}, %more{i} {{axis=2}}\n");
        }
        text += &format!(
            "  %a{i}: f32[1,2,{new},2] = attention %q{i}, %k{i}, %v{i} {{scores=[factor 0.5 | fill -inf unless causal({k})], acc=f32, empty=zero}}\n"
        );
        text += &format!("  %o{i}: f32[1,{new},4] = contract %a{i}, %u {{bhid,hdm->bim}}\n");
        text += &format!("  %x{next}: f32[1,{new},4] = add %x{i}, %o{i}\n");
    }
    text += &format!("  output \"y\" = %x{}\n}}\n", pasts.len());
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Every relation of old to new rows, one after another: what differs is the number of layers and which of them are alike.
#[test]
fn old_rows_as_many_as_new_ones_are_a_sequence_of_their_own() {
    for new in [1, 2, 5] {
        for past in [0, 1, new, new + 1, 2 * new] {
            for other in [past, new, 3] {
                let graphs = [
                    layers(new, &[(past, past)]),
                    layers(new, &[(past, past), (other, other)]),
                    layers(new, &[(past, past), (other, other), (past, past), (new, new)]),
                ];
                for (i, graph) in graphs.iter().enumerate() {
                    for ranks in [2, 3] {
                        let compiled = right(graph, &Options::new(ranks));
                        // A causal mask ties queries and keys of equal numbers; nothing else is put together.
                        assert_eq!(gathers(&compiled), 0, "{new} behind {past} and {other}, graph {i}");
                        assert_eq!(compiled.program.islands.len(), compiled.attentions.len());
                    }
                }
            }
        }
    }
}

/// Keys are cached and values are not as they are: the values are put together, and no more.
#[test]
fn values_cached_otherwise_than_keys_are_put_together() {
    for (new, pasts) in [(1, [(1, 0), (4, 1)]), (2, [(2, 1), (4, 2)]), (3, [(1, 3), (3, 0)])] {
        for ranks in [1, 2, 5] {
            let compiled = right(&layers(new, &pasts), &Options::new(ranks));
            assert_eq!(compiled.program.islands.len(), 2);
        }
    }
}

/// The layouts of old and of new rows are chosen apart, however long they are.
#[test]
fn rows_that_are_given_with_a_cache_are_not_those_of_new_rows() {
    let graph = layers(4, &[(4, 4), (4, 4)]);
    let rows = vec![vec![Progression::range(3, 1)], vec![], vec![Progression::range(0, 3)]];
    let names = ["pk0", "pv0", "pk1", "pv1"];
    let handed = names.map(|name| Handed::new(name, 2).rows(rows.clone()));
    let compiled = right(&graph, &Options::new(3).inputs(handed));
    let layouts = &compiled.program.layouts;
    let given = layouts.iter().filter(|l| l.kind == LayoutKind::Given && l.rows == rows).count();
    // Old rows, new ones, and both behind one another, of both layers.
    assert_eq!((given, layouts.len()), (1, 3), "{layouts:?}");
}

/// Of a mask that says of each batch entry what it keeps, a rank takes what it says of its own.
#[test]
fn a_split_batch_takes_its_entries_of_the_mask_along() {
    for batch in [1usize, 2, 5] {
        let entry = ["causal(0)", "keys(0,2)", "none", "keys(1,4) & causal(1)", "window(1,0,0)"];
        let graph = parse(&format!(
            "graph \"batch\" {{\n  input %q: f32[{batch},2,4,2]\n  input %k: f32[{batch},1,4,2]\n  input %v: f32[{batch},1,4,3]\n  \
             %o: f32[{batch},2,4,3] = attention %q, %k, %v {{scores=[factor 0.5 | fill -inf unless batch({})], acc=f32, empty=zero}}\n  \
             output \"o\" = %o\n}}\n",
            entry[..batch].join("; ")
        ))
        .unwrap();
        for ranks in [1, 2, 3, 8] {
            for layout in [None, Some(LayoutKind::Zigzag), Some(LayoutKind::Stripe)] {
                for inputs in [&["q"][..], &["k"], &["q", "v"]] {
                    let handed = inputs.iter().map(|name| Handed::new(*name, 0));
                    let compiled = right(&graph, &Options::new(ranks).layout(layout).inputs(handed));
                    if inputs[0] == "q" {
                        assert!(compiled.program.refused[0].1.contains("batch is split"));
                    }
                }
            }
        }
    }
    // The batch outside of something else on its axis.
    let graph = parse(
        r#"graph "flat" {
  input %x: f32[12,4,2]
  %t: f32[12,4,2] = tanh %x
  %q: f32[4,3,4,2] = reshape %t
  %o: f32[4,3,4,2] = attention %q, %q, %q {scores=[factor 0.5 | fill -inf unless batch(causal(0); keys(0,2); none; keys(3,4))], acc=f32, empty=zero}
  output "o" = %o
}
"#,
    )
    .unwrap();
    for ranks in [1, 2, 3, 8] {
        right(&graph, &Options::new(ranks).input(Handed::new("x", 0)));
    }
}

/// A sequence of one row is where an attention wants it: its heads may come of a reshape alone, and nothing is put together.
#[test]
fn the_row_of_a_decode_step_is_not_taken_for_a_batch() {
    for (batch, heads) in [(1, 1), (1, 3), (2, 2), (3, 1)] {
        let (size, two) = (2 * heads, 2);
        let mut text = format!(
            "graph \"step\" {{\n  input %x0: f32[{batch},1,{size}]\n  input %w: f32[{size},{size}]\n"
        );
        for i in 0..two {
            text += &format!("  input %past{i}: f32[{batch},{heads},5,2]\n");
        }
        for i in 0..two {
            let next = i + 1;
            text += &format!(
                "  %y{i}: f32[{batch},1,{size}] = contract %x{i}, %w {{bik,kn->bin}}\n  \
                 %q{i}: f32[{batch},{heads},1,2] = reshape %y{i}\n  \
                 %k{i}: f32[{batch},{heads},6,2] = concat %past{i}, %q{i} {{axis=2}}\n  \
                 %o{i}: f32[{batch},{heads},1,2] = attention %q{i}, %k{i}, %k{i} {{scores=[factor 0.5], acc=f32, empty=zero}}\n  \
                 %r{i}: f32[{batch},1,{size}] = reshape %o{i}\n  %x{next}: f32[{batch},1,{size}] = add %x{i}, %r{i}\n"
            );
        }
        text += &format!("  output \"y\" = %x{two}\n}}\n");
        let graph = parse(&text).unwrap();
        for ranks in [1, 2, 4] {
            let compiled = right(&graph, &Options::new(ranks));
            assert_eq!((gathers(&compiled), compiled.program.islands.len()), (0, 2), "{batch} {heads}");
        }
    }
}

/// The graphs on which the pass once panicked.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn graphs_that_panicked_are_computed() {
    let faults = crate::inside::support::data::folder("faults");
    for name in ["panic-past-equals-new-Sq1", "panic-decode-one-sided-cache"] {
        let path = faults.join(name).join("model.onnx");
        let case = annulus::import::case::load(&path, &Default::default(), &Default::default()).unwrap();
        for (ranks, strategy) in [1, 2, 3, 8].into_iter().flat_map(|p| Strategy::ALL.map(|s| (p, s))) {
            for layout in [None, Some(LayoutKind::Zigzag), Some(LayoutKind::Stripe)] {
                right(&case.graph, &Options::new(ranks).strategy(strategy).layout(layout));
            }
        }
    }
    let text = std::fs::read_to_string(faults.join("panic-shard-batch-axis/b155.txt")).unwrap();
    for ranks in [1, 2, 3, 8] {
        right(&parse(&text).unwrap(), &Options::new(ranks).input(Handed::new("q", 0)));
    }
}
