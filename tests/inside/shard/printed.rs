//! The printed program of a rank, read in `snapshots/shard`.

use super::build::Build;
use super::cases::{cross, folds_by_mean, rotary_block};
use crate::inside::support::cases;
use annulus::ir::text::{Form, parse, print};
use annulus::ir::verify::verify;
use annulus::ir::{DType, Graph};
use annulus::ring::{Strategy, island};
use annulus::shard::{Program, Segment, ShardError, ShardOptions, rank_graph, shard};
use std::collections::BTreeMap;
use std::sync::Arc;

fn printed(program: &Program, rank: usize) -> Graph {
    let islands = program.islands.keys().map(|&op| {
        let graph = island(program, op, Strategy::Ring, rank).unwrap();
        (op, (Strategy::Ring, Arc::new(graph)))
    });
    rank_graph(program, rank, &islands.collect()).unwrap()
}

fn program(g: Graph, ranks: usize) -> Program {
    shard(Arc::new(g), &ShardOptions::new(ranks)).unwrap()
}

/// The text with the bodies of islands left out: they are another room's, which has its own snapshots.
fn without_islands(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        inside &= line != "  }";
        if !inside {
            out += line;
            out.push('\n');
        }
        if line.contains(" = island ") {
            inside = true;
            out += "    …\n";
        }
    }
    out
}

fn snapshot(name: &str, g: Graph, ranks: usize, rank: usize) {
    let text = without_islands(&print(&printed(&program(g, ranks), rank), Form::People));
    cases::snapshot("shard", name, &text);
}

#[test]
fn a_rank_of_each_idea() {
    snapshot("rotary.p2.rank1", rotary_block(6), 2, 1);
    snapshot("cross.p3.rank0", cross(5, 7), 3, 0);
    snapshot("mean.p2.rank0", folds_by_mean(5), 2, 0);
}

#[test]
fn the_printed_program_is_well_formed_and_says_what_is_done() {
    for s in [1, 2, 7] {
        for ranks in [1, 2, 3, 4] {
            for g in [rotary_block(s), cross(s, 3), folds_by_mean(s)] {
                let program = program(g, ranks);
                for rank in 0..ranks {
                    let g = printed(&program, rank);
                    verify(&g).unwrap();
                    assert_eq!(parse(&print(&g, Form::Full)).unwrap(), g);
                    let count = |name: &str| g.ops().iter().filter(|&&op| g.op(op).name() == name).count();
                    let locals = program.segments.iter().filter(|s| matches!(s, Segment::Local(_))).count();
                    assert_eq!(count("segment"), locals);
                    assert_eq!(count("island"), program.islands.len());
                    let exchanges = count("unshard") + count("all_reduce");
                    assert_eq!(count("segment") + count("island") + exchanges, program.segments.len());
                }
            }
        }
    }
}

#[test]
fn islands_that_do_not_fit_are_named() {
    let program = program(rotary_block(4), 2);
    let missing = rank_graph(&program, 0, &BTreeMap::new()).unwrap_err();
    assert!(missing.to_string().contains("its graph is missing"), "{missing}");
    let mut b = Build::new("other");
    let x = b.input("x", DType::F64, &[1, 1, 1, 1]);
    b.out("x", x);
    let other = Arc::new(b.g);
    let islands = program.islands.keys().map(|&op| (op, (Strategy::Ring, other.clone()))).collect();
    assert!(matches!(rank_graph(&program, 0, &islands), Err(ShardError::Island { .. })));
}
