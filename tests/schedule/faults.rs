//! Island graphs that do not fit are refused with the rank and the place, and attentions that the ring cannot split with a
//! reason.

use crate::case::{Case, LeafCase};
use annulus::ir::{DType, EmptyRow, Graph, Op, OpId, ValueId};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::{Strategy, island};
use annulus::schedule::schedule;
use annulus::shard::Placement;
use std::collections::HashMap;

fn case() -> Case {
    Case::new(13, 3, LayoutKind::Contiguous, Mask::none())
}

/// A copy of the graph in which an operation and its operands may be changed.
fn changed(graph: &Graph, mut change: impl FnMut(&Op, &mut Vec<ValueId>) -> Option<Op>) -> Graph {
    let mut out = Graph::new(graph.name());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for op in graph.ops() {
        let mut operands: Vec<ValueId> = graph.operands(op).iter().map(|v| map[v]).collect();
        let name = &graph.value(graph.result(op)).name;
        let made: OpId = match graph.op(op) {
            Op::Input(ty) => out.input(name, ty.clone()).op,
            old => {
                let new = change(old, &mut operands).unwrap_or_else(|| old.clone());
                out.add(new, &operands, name, "").unwrap()
            }
        };
        map.extend(graph.results(op).into_iter().zip(out.results(made)));
    }
    for output in graph.outputs() {
        out.output(&output.name, map[&output.value]);
    }
    out
}

/// What `schedule` says of the islands with rank 1's changed.
fn said(case: &Case, change: impl FnMut(&Op, &mut Vec<ValueId>) -> Option<Op>) -> String {
    let split = case.split();
    let mut graphs = case.islands(Strategy::Ring);
    graphs[1] = changed(&graphs[1], change);
    match schedule(&split.program, split.op, Strategy::Ring, &graphs) {
        Ok(_) => "ok".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn an_unchanged_copy_is_fine() {
    assert_eq!(said(&case(), |_, _| None), "ok");
}

#[test]
fn merges_that_are_no_carry_are_refused() {
    let swapped = said(&case(), |op, x| {
        if matches!(op, Op::Merge { .. }) {
            x.rotate_left(3);
        }
        None
    });
    assert!(swapped.contains("rank 1") && swapped.contains("out of order"), "{swapped}");
    let twice = said(&case(), |op, x| {
        if matches!(op, Op::Merge { .. }) {
            let first = [x[0], x[1], x[2]];
            x[3..].copy_from_slice(&first);
        }
        None
    });
    assert!(twice.contains("used twice"), "{twice}");
    let mut partial = None;
    let lost = said(&case(), |op, x| {
        match op {
            Op::Merge { .. } => partial = partial.or(Some([x[0], x[1], x[2]])),
            Op::Finish { .. } => x[..3].copy_from_slice(&partial.unwrap()),
            _ => {}
        }
        None
    });
    assert!(lost.contains("used twice"), "{lost}");
}

#[test]
fn a_result_that_is_not_the_attentions_is_refused() {
    let nan = said(&case(), |op, _| match op {
        Op::Finish { of, rows, dtype, lse, .. } => Some(Op::Finish {
            of: of.clone(),
            rows: rows.clone(),
            dtype: *dtype,
            empty_row: EmptyRow::Nan,
            lse: *lse,
        }),
        _ => None,
    });
    assert!(nan.contains("results of the attention"), "{nan}");
    let scaled = said(&case(), |op, _| match op {
        Op::Partial(p) => {
            let mut p = p.clone();
            let mut attention = (*p.attention).clone();
            attention.scale *= 2.0;
            p.attention = attention.into();
            Some(Op::Partial(p))
        }
        _ => None,
    });
    assert!(scaled.contains("another attention"), "{scaled}");
}

#[test]
fn sinks_that_the_finish_does_not_count_are_refused() {
    let mut case = case();
    let leaf = |shape: &[usize]| LeafCase { dtype: DType::F32, shape: shape.to_vec(), by_query_rows: false };
    (case.attention.bias, case.attention.sinks) = (Some(3), Some(4));
    case.leaves = vec![leaf(&[2, 1, 1]), leaf(&[2, 1, 1])];
    assert_eq!(said(&case, |_, _| None), "ok");
    let lost = said(&case, |op, x| {
        if matches!(op, Op::Finish { .. }) {
            x.pop();
        }
        None
    });
    assert!(lost.contains("rank 1") && lost.contains("does not count the sinks"), "{lost}");
    let mut bias = None;
    let other = said(&case, |op, x| {
        match op {
            Op::Partial(_) => bias = x.get(2).copied(),
            Op::Finish { .. } => x[3] = bias.unwrap(),
            _ => {}
        }
        None
    });
    assert!(other.contains("does not count the sinks"), "{other}");
}

#[test]
fn graphs_of_other_ranks_are_refused() {
    let case = case();
    let split = case.split();
    let mut graphs = case.islands(Strategy::Ring);
    graphs.rotate_left(1);
    assert!(schedule(&split.program, split.op, Strategy::Ring, &graphs).is_err());
    graphs.pop();
    let missing = schedule(&split.program, split.op, Strategy::Ring, &graphs).unwrap_err();
    assert_eq!(missing.to_string(), "island attn, rank 0: 2 island graphs for 3 ranks");
}

#[test]
fn what_the_ring_cannot_split_has_a_reason() {
    let refused = |case: &Case, change: &dyn Fn(&mut crate::case::Split)| {
        let mut split = case.split();
        change(&mut split);
        island(&split.program, split.op, Strategy::Ring, 0).unwrap_err().to_string()
    };
    let island_of = |s: &mut crate::case::Split, f: &dyn Fn(&mut annulus::shard::Island)| {
        let op = s.op;
        f(s.program.islands.get_mut(&op).unwrap());
    };
    let whole = refused(&case(), &|s| island_of(s, &|i| i.operands[0] = Placement::Whole));
    assert_eq!(whole, "attn: a rank is not handed its own rows of q");
    let layout = refused(&case(), &|s| s.program.layouts[1].length = 12);
    assert_eq!(layout, "attn: the layout is of 12 rows on 3 ranks, not of 13 on 3");
    let none = refused(&case(), &|s| s.program.islands.clear());
    assert_eq!(none, "attn: the program does not split it");
    let input = refused(&case(), &|s| s.op = s.program.graph.inputs()[0].op);
    assert_eq!(input, "q: it is input, no attention");

    let mut keys = case();
    keys.attention.bias = Some(3);
    keys.leaves = vec![LeafCase { dtype: DType::F32, shape: vec![13, 13], by_query_rows: true }];
    let keys = refused(&keys, &|s| {
        island_of(s, &|i| {
            let Placement::Sharded(sharding) = &mut i.operands[3] else { panic!("a leaf by rows") };
            sharding.axis = 1;
        });
    });
    assert_eq!(keys, "attn: operand 3: f32[13,13] is not handed out by query rows");

    let mut empty = case();
    empty.sizes.batch = 0;
    assert_eq!(refused(&empty, &|_| {}), "attn: the batch, the heads or the head size is 0");

    let split = case().split();
    let rank = island(&split.program, split.op, Strategy::Ring, 3).unwrap_err();
    assert_eq!(rank.to_string(), "attn: there is no rank 3 of 3");
}
