//! Graphs of one idea each, on every number of ranks, on awkward lengths.

use super::build::{Build, tensor};
use super::oracle::{distance, run};
use annulus::eval::{Precision, eval};
use annulus::ir::flops::graph_flops;
use annulus::ir::{Attention, Binary, DType, Graph, Op, Reduction, Tensor, Type, Unary, ValueId};
use annulus::layout::{LayoutKind, Progression};
use annulus::mask::{Mask, Term};
use annulus::shard::{Handed, Placement, Program, Segment, ShardOptions, local_flops, shard, whole_flops};
use std::sync::Arc;

/// Reasons of the gathers.
fn gathers(program: &Program) -> Vec<String> {
    let reason = |s: &Segment| match s {
        Segment::Gather { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    program.segments.iter().filter_map(reason).collect()
}

/// Runs the graph on several numbers of ranks and both layouts against the whole; returns the programs.
fn agrees(g: Graph) -> Vec<Program> {
    let inputs: Vec<Tensor> = g.inputs().iter().zip(7..).map(|(&v, seed)| tensor(g.ty(v), seed)).collect();
    let want = eval(&g, &inputs, Precision::Declared).unwrap();
    let g = Arc::new(g);
    let mut programs = Vec::new();
    for ranks in [1, 2, 3, 4, 8] {
        for layout in [None, Some(LayoutKind::Contiguous), Some(LayoutKind::Zigzag)] {
            let program = shard(g.clone(), &ShardOptions::new(ranks).layout(layout)).unwrap();
            let got = run(&program, &inputs);
            for ((w, x), o) in want.iter().zip(&got).zip(g.outputs()) {
                let d = distance(x, w);
                assert!(d < 1e-9, "{}, {} on {ranks} ranks, {layout:?}: off by {d}", g.name(), o.name);
            }
            programs.push(program);
        }
    }
    programs
}

fn no_gather(g: Graph) -> Vec<Program> {
    let programs = agrees(g);
    for p in &programs {
        assert_eq!(gathers(p), Vec::<String>::new());
        assert_eq!(p.refused, vec![]);
    }
    programs
}

const LENGTHS: [usize; 5] = [1, 2, 5, 8, 19];

/// cos and sin of positions counted by an iota, (1, S, 4), as float tables.
fn rotary(b: &mut Build, s: usize) -> (ValueId, ValueId) {
    let positions = b.op(Op::Iota { ty: Type::new(DType::I64, [s]), axis: 0 }, &[]);
    let positions = b.cast(positions, DType::F64);
    let column = b.reshape(positions, &[1, s, 1]);
    let frequencies = b.weight(&[1, 1, 4]);
    let angle = b.mul(column, frequencies);
    (b.unary(Unary::Cos, angle), b.unary(Unary::Sin, angle))
}

/// x (B, H, S, 4) turned by its position.
fn rotate(b: &mut Build, x: ValueId, (cos, sin): (ValueId, ValueId)) -> ValueId {
    let (low, high) = (b.slice(x, 3, 0, 2), b.slice(x, 3, 2, 2));
    let minus = b.unary(Unary::Neg, high);
    let half = b.op(Op::Concat { axis: 3 }, &[minus, low]);
    let (a, c) = (b.mul(x, cos), b.mul(half, sin));
    b.add(a, c)
}

pub(crate) fn rotary_block(s: usize) -> Graph {
    let mut b = Build::new("block");
    let x = b.input("x", DType::F64, &[1, s, 8]);
    let tables = rotary(&mut b, s);
    let n = b.layer_norm(x);
    let (q, k, v) = (b.linear(n, 16), b.linear(n, 8), b.linear(n, 8));
    let (q, k, v) = (b.heads(q, 4), b.heads(k, 2), b.heads(v, 2));
    let (q, k) = (rotate(&mut b, q, tables), rotate(&mut b, k, tables));
    let o = b.attention(q, k, v, Mask::causal(0));
    let o = b.unheads(o);
    let o = b.linear(o, 8);
    let x = b.add(x, o);
    let x = b.mlp(x);
    let x = b.self_attention(x, 2, 2, Mask::causal(0));
    b.out("y", x);
    b.g
}

#[test]
fn a_rotary_block_needs_no_gather() {
    for s in LENGTHS {
        for p in no_gather(rotary_block(s)) {
            assert_eq!(p.layouts.len(), 1, "residuals tie the layers");
            let whole = graph_flops(&p.graph);
            for rank in 0..p.ranks {
                let positions = s as u64; // cast for every row where they are read, and held whole
                let share = whole * p.layouts[0].share(rank) as u64 / s as u64;
                assert!(
                    local_flops(&p, rank).unwrap().abs_diff(share) <= positions,
                    "each rank does its share"
                );
            }
            assert_eq!(p.segments.len(), 5, "local, island, local, island, local");
        }
    }
}

#[test]
fn embeddings_positions_and_masks_come_from_integers() {
    for s in LENGTHS {
        let mut b = Build::new("embedding");
        let (ids, live) = (b.input("ids", DType::I64, &[1, s]), b.input("live", DType::I64, &[1, s]));
        let (table, places) = (b.weight(&[7, 8]), b.weight(&[32, 8]));
        let words = b.op(Op::Gather { axis: 0 }, &[table, ids]);
        let positions = b.op(Op::Iota { ty: Type::new(DType::I64, [s]), axis: 0 }, &[]);
        let where_ = b.op(Op::Gather { axis: 0 }, &[places, positions]);
        let x = b.add(words, where_);
        // Keys that are live, and not ahead of the row.
        let (row, column) = (b.reshape(positions, &[1, 1, s, 1]), b.reshape(positions, &[1, 1, 1, s]));
        let behind = b.binary(Binary::Le, column, row);
        let keys = b.cast(live, DType::Bool);
        let keys = b.reshape(keys, &[1, 1, 1, s]);
        let keep = b.binary(Binary::And, behind, keys);
        let n = b.layer_norm(x);
        let (q, k, v) = (b.linear(n, 8), b.linear(n, 8), b.linear(n, 8));
        let (q, k, v) = (b.heads(q, 2), b.heads(k, 2), b.heads(v, 2));
        let mask = Mask { terms: vec![Term::Tensor { operand: 3 }], ..Mask::none() };
        let a = Attention::plain(0.5, DType::F64).masked(mask);
        let o = b.op(Op::Attention(Box::new(a)), &[q, k, v, keep]);
        let o = b.unheads(o);
        let x = b.add(x, o);
        let mask_of_rows = b.cast(live, DType::F64);
        let mask_of_rows = b.reshape(mask_of_rows, &[1, s, 1]);
        let y = b.mul(x, mask_of_rows);
        b.out("y", y);
        let whole = [positions, keys, column];
        let rows = [x, words, row, behind, keep];
        for p in no_gather(b.g) {
            assert!(whole.iter().all(|v| p.placements[v] == Placement::Whole), "integers stay whole");
            let split = |v: &ValueId| matches!(p.placements[v], Placement::Sharded(_));
            assert!(rows[..2].iter().all(split), "floats are computed for the rank's rows");
            if s > 1 {
                assert!(
                    rows[2..].iter().all(split),
                    "a mask with a query axis is computed for the rank's rows"
                );
            }
        }
    }
}

#[test]
fn a_flattened_batch_is_outside_the_rows() {
    for s in LENGTHS {
        let mut b = Build::new("flat");
        let x = b.input("x", DType::F64, &[2, s, 8]);
        let n = b.layer_norm(x);
        let flat = b.reshape(n, &[2 * s, 8]);
        let qkv = b.linear(flat, 24);
        let qkv = b.reshape(qkv, &[2, s, 24]);
        let parts: Vec<ValueId> = (0..3).map(|i| b.slice(qkv, 2, 8 * i, 8)).collect();
        let h: Vec<ValueId> = parts.into_iter().map(|p| b.heads(p, 2)).collect();
        let o = b.attention(h[0], h[1], h[2], Mask::causal(0));
        let o = b.permute(o, &[0, 2, 1, 3]);
        let o = b.reshape(o, &[2 * s, 8]);
        let o = b.linear(o, 8);
        let o = b.reshape(o, &[2, s, 8]);
        let x = b.add(x, o);
        b.out("y", x);
        for p in no_gather(b.g) {
            let Placement::Sharded(sharding) = &p.placements[&flat] else { panic!("flat is split") };
            assert_eq!((sharding.axis, sharding.outer, sharding.inner), (0, 2, 1));
        }
    }
}

#[test]
fn rows_and_sizes_may_share_an_axis() {
    // (B, S, H·D) flattened to (B·S·H, D) and to one axis: the rows have something outside and inside.
    for s in LENGTHS {
        let mut b = Build::new("inner");
        let x = b.input("x", DType::F64, &[2, s, 8]);
        let x = b.self_attention(x, 2, 1, Mask::none());
        let y = b.reshape(x, &[2 * s * 2, 4]);
        let y = b.linear(y, 4);
        let flat = b.reshape(y, &[16 * s]);
        let z = b.unary(Unary::Tanh, flat);
        let z = b.reshape(z, &[2, s, 8]);
        let z = b.mlp(z);
        b.out("z", z);
        no_gather(b.g);
    }
}

pub(crate) fn cross(decoder: usize, encoder: usize) -> Graph {
    let mut b = Build::new("cross");
    let (x, e) = (b.input("x", DType::F64, &[2, decoder, 8]), b.input("e", DType::F64, &[2, encoder, 8]));
    let e = b.self_attention(e, 2, 2, Mask::none());
    let x = b.self_attention(x, 2, 2, Mask::causal(0));
    let n = b.layer_norm(x);
    let (q, k, v) = (b.linear(n, 8), b.linear(e, 8), b.linear(e, 16));
    let (q, k, v) = (b.heads(q, 2), b.heads(k, 2), b.heads(v, 2));
    let o = b.attention(q, k, v, Mask::none());
    let o = b.unheads(o);
    let o = b.linear(o, 8);
    let x = b.add(x, o);
    b.out("y", x);
    b.g
}

#[test]
fn cross_attention_has_two_layouts() {
    for (decoder, encoder) in [(5, 9), (1, 12), (8, 8), (13, 2)] {
        for (i, p) in no_gather(cross(decoder, encoder)).iter().enumerate() {
            assert_eq!(p.layouts.len(), 2);
            let kinds: Vec<(LayoutKind, usize)> = p.layouts.iter().map(|l| (l.kind, l.length)).collect();
            if i % 3 == 0 {
                let (causal, plain) = ((LayoutKind::Zigzag, decoder), (LayoutKind::Contiguous, encoder));
                assert!(kinds.contains(&causal) && kinds.contains(&plain), "{kinds:?}");
            }
        }
    }
}

/// Self-attention, then `f` of its result.
fn after_attention(s: usize, f: impl FnOnce(&mut Build, ValueId) -> ValueId) -> Graph {
    let mut b = Build::new("after");
    let x = b.input("x", DType::F64, &[1, s, 8]);
    let x = b.self_attention(x, 2, 1, Mask::causal(0));
    let y = f(&mut b, x);
    b.out("y", y);
    b.g
}

/// A mean over the rows, taken off each row.
pub(crate) fn folds_by_mean(s: usize) -> Graph {
    after_attention(s, |b, x| {
        let m = b.mean(x, 1, true);
        b.binary(Binary::Sub, x, m)
    })
}

#[track_caller]
fn one_gather(g: Graph, reason: &str) {
    for p in agrees(g) {
        let found = gathers(&p);
        assert!(found.len() == 1 && found[0].contains(reason), "{found:?}");
    }
}

/// The folds that are reduced over the ranks.
fn reduced(program: &Program) -> Vec<Reduction> {
    let kind = |s: &Segment| match s {
        Segment::Reduce { kind, .. } => Some(*kind),
        _ => None,
    };
    program.segments.iter().filter_map(kind).collect()
}

/// Nothing is gathered for a fold over the rows: each rank folds its own, and these parts are folded in the order of the ranks.
#[test]
fn a_fold_over_the_rows_is_reduced() {
    let folds = [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min];
    let types = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64];
    // Of whole numbers, so that no order of sums shows, in whatever type; a mean in f64 alone, for it is rounded.
    let each = folds.into_iter().flat_map(|kind| types.map(|dtype| (kind, dtype)));
    let each = each.filter(|&(kind, dtype)| kind != Reduction::Mean || dtype == DType::F64);
    for (i, (kind, dtype)) in each.enumerate() {
        let s = [1, 2, 5, 19][i % 4];
        let axes = [vec![1], vec![0, 1], vec![0, 1, 2]][i % 3].clone();
        let fold = Op::Reduce { kind, axes, keep: true };
        let graph = after_attention(s, |b, x| {
            let whole = b.unary(Unary::Round, x);
            let held = b.cast(whole, dtype);
            let m = b.op(fold.clone(), &[held]);
            let m = b.cast(m, DType::F64);
            b.binary(Binary::Sub, x, m)
        });
        let folded = if kind == Reduction::Mean { Reduction::Sum } else { kind };
        for p in agrees(graph) {
            assert_eq!((gathers(&p), reduced(&p)), (vec![], vec![folded]), "{fold:?}");
        }
    }
}

/// A product is not, nor the mean of whole numbers, which is rounded: their rows are gathered.
#[test]
fn what_is_no_fold_in_parts_is_gathered() {
    let fold = |kind| Op::Reduce { kind, axes: vec![1], keep: true };
    for (kind, dtype) in [(Reduction::Prod, DType::F64), (Reduction::Mean, DType::I64)] {
        let graph = after_attention(5, |b, x| {
            let held = b.cast(x, dtype);
            let m = b.op(fold(kind), &[held]);
            let m = b.cast(m, DType::F64);
            b.binary(Binary::Sub, x, m)
        });
        for p in agrees(graph) {
            assert_eq!((gathers(&p).len(), reduced(&p).len()), (1, 0), "{kind:?}");
        }
    }
}

#[test]
fn what_mixes_rows_is_gathered_and_says_why() {
    for s in [2, 5, 19] {
        let product = Op::Reduce { kind: Reduction::Prod, axes: vec![1], keep: true };
        one_gather(after_attention(s, |b, x| b.op(product.clone(), &[x])), "reduces over the rows");
        let cumsum = Op::CumSum { axis: 1, exclusive: false, reverse: false };
        one_gather(
            after_attention(s, |b, x| {
                let c = b.op(cumsum.clone(), &[x]);
                let c = b.unary(Unary::Tanh, c);
                b.add(x, c)
            }),
            "cumsum runs along the rows",
        );
        one_gather(
            after_attention(s, |b, x| b.op(Op::Softmax { axis: 1 }, &[x])),
            "softmax runs along the rows",
        );
        one_gather(after_attention(s, |b, x| b.slice(x, 1, s - 1, 1)), "slices along the rows");
        one_gather(after_attention(s, |b, x| b.op(Op::Concat { axis: 1 }, &[x, x])), "joins along the rows");
        one_gather(
            after_attention(s, |b, x| {
                let i = b.g.constant("i", Tensor::vector_i64(&[0, 1]));
                b.op(Op::Gather { axis: 1 }, &[x, i])
            }),
            "picks among the rows",
        );
        one_gather(
            after_attention(s, |b, x| {
                let zero = b.scalar(0.0);
                b.op(Op::Pad { low: vec![0, 1, 0], high: vec![0, 0, 0] }, &[x, zero])
            }),
            "pads along the rows",
        );
    }
    for s in [5, 19] {
        one_gather(after_attention(s, |b, x| b.reshape(x, &[4, 2 * s])), "hides the rows");
    }
}

#[test]
fn what_leaves_rows_alone_is_not_gathered() {
    for s in [2, 5, 19] {
        no_gather(after_attention(s, |b, x| {
            let soft = b.op(Op::Softmax { axis: 2 }, &[x]);
            let sums = b.op(Op::CumSum { axis: 2, exclusive: true, reverse: true }, &[soft]);
            let zero = b.scalar(0.5);
            let padded = b.op(Op::Pad { low: vec![0, 0, 1], high: vec![0, 0, 2] }, &[sums, zero]);
            let back = b.slice(padded, 2, 2, 8);
            let top = b.g.add(Op::TopK { axis: 2, k: 3, largest: true }, &[back], "top", "").unwrap();
            let (best, which) = (b.g.results(top)[0], b.g.results(top)[1]);
            let table = b.weight(&[8, 5]);
            let picked = b.op(Op::Gather { axis: 0 }, &[table, which]);
            let picked = b.op(Op::Reduce { kind: Reduction::Max, axes: vec![0, 2], keep: false }, &[picked]);
            let picked = b.op(Op::Broadcast(vec![1, 3, s, 5]), &[picked]);
            let picked = b.permute(picked, &[2, 0, 3, 1]);
            let picked = b.reshape(picked, &[s, 15]);
            let some = b.linear(picked, 3);
            let some = b.reshape(some, &[1, s, 3]);
            let sum = b.add(some, best);
            let zeros = b.scalar(0.0);
            let positive = b.binary(Binary::Gt, sum, zeros);
            b.op(Op::Select, &[positive, sum, zeros])
        }));
    }
}

#[test]
fn batch_axes_of_nd_indices_keep_the_rows() {
    for s in [2, 5] {
        no_gather(after_attention(s, |b, x| {
            // One element of each row, by an index computed from the row.
            let top = b.g.add(Op::TopK { axis: 2, k: 1, largest: true }, &[x], "top", "").unwrap();
            let which = b.g.results(top)[1];
            let one = b.op(Op::GatherNd { batch: 2 }, &[x, which]);
            let one = b.reshape(one, &[1, s, 1]);
            b.mul(x, one)
        }));
        let scatter = after_attention(s, |b, x| {
            let columns = b.permute(x, &[2, 0, 1]);
            let i = Tensor::vector_i64(&[1, 5]).reshaped([2, 1]).unwrap();
            let i = b.g.constant("i", i);
            let updates = b.slice(columns, 0, 2, 2);
            b.op(Op::ScatterNd { how: None }, &[columns, i, updates])
        });
        no_gather(scatter);
    }
}

#[test]
fn tables_that_are_needed_whole_are_computed_not_gathered() {
    for s in [1, 2, 5, 19] {
        let mut b = Build::new("relative");
        let x = b.input("x", DType::F64, &[1, s, 8]);
        let positions = b.input("positions", DType::F64, &[s]);
        let twice = b.add(positions, positions);
        let (row, column) = (b.reshape(twice, &[s, 1]), b.reshape(twice, &[1, s]));
        let distance = b.binary(Binary::Sub, column, row);
        let slopes = b.weight(&[2, 1, 1]);
        let bias = b.mul(distance, slopes);
        let n = b.layer_norm(x);
        let (q, k) = (b.linear(n, 8), b.linear(n, 8));
        let (q, k) = (b.heads(q, 2), b.heads(k, 2));
        let a = Attention::plain(1.0, DType::F64).biased(3);
        let o = b.op(Op::Attention(Box::new(a)), &[q, k, k, bias]);
        let o = b.unheads(o);
        let y = b.add(x, o);
        b.out("y", y);
        for p in no_gather(b.g) {
            assert_eq!(p.placements[&twice], Placement::Whole);
            assert_eq!(matches!(p.placements[&bias], Placement::Sharded(_)), s > 1);
        }
    }
}

/// Decision: layout belongs to the value. Old rows stay where they are, new ones lie behind those of their own rank.
#[test]
fn new_rows_behind_a_cache_move_nothing() {
    for (past, s) in [(6, 3), (5, 1), (1, 4), (0, 3), (9, 8)] {
        let mut b = Build::new("cache");
        let mut x = b.input("x", DType::F64, &[1, s, 8]);
        let mut caches = vec![];
        for layer in 0..2 {
            let before = b.input(&format!("past{layer}"), DType::F64, &[1, 2, past, 4]);
            let n = b.layer_norm(x);
            let (q, k) = (b.linear(n, 8), b.linear(n, 8));
            let (q, k) = (b.heads(q, 2), b.heads(k, 2));
            let all = b.op(Op::Concat { axis: 2 }, &[before, k]);
            let o = b.attention(q, all, all, Mask::causal(past as i64));
            let o = b.unheads(o);
            x = b.add(x, o);
            b.out(&format!("present{layer}"), all);
            caches.push((before, all));
        }
        b.out("y", x);
        for p in no_gather(b.g) {
            let layouts: Vec<_> = caches
                .iter()
                .map(|(before, all)| match (&p.placements[before], &p.placements[all]) {
                    (Placement::Sharded(a), Placement::Sharded(b)) => (a.layout, b.layout),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(layouts[0], layouts[1], "layers whose caches are alike share a layout");
            let (before, all) = (&p.layouts[layouts[0].0], &p.layouts[layouts[0].1]);
            assert_eq!((before.length, all.length), (past, past + s));
            for (old, now) in before.rows.iter().zip(&all.rows) {
                let rows = |of: &[Progression]| of.iter().flat_map(Progression::rows).collect::<Vec<_>>();
                assert!(rows(now).starts_with(&rows(old)), "old rows move");
            }
        }
    }
}

/// The user hands an input out by rows: what follows from it is split without any attention, and what mixes rows is named.
#[test]
fn an_input_may_be_handed_out_by_rows() {
    let mut b = Build::new("rows");
    let x = b.input("x", DType::F64, &[2, 13, 8]);
    let ids = b.input("ids", DType::I64, &[13]);
    let table = b.weight(&[5, 8]);
    let e = b.op(Op::Gather { axis: 0 }, &[table, ids]);
    let y = b.mlp(x);
    let y = b.add(y, e);
    let mean = b.mean(y, 1, true);
    let z = b.binary(Binary::Sub, y, mean);
    b.out("z", z);
    let g = Arc::new(b.g);
    let inputs: Vec<Tensor> = g.inputs().iter().zip(7..).map(|(&v, seed)| tensor(g.ty(v), seed)).collect();
    let want = eval(&g, &inputs, Precision::Declared).unwrap();
    let named = |list: &[(&str, usize)]| list.iter().map(|&(n, a)| Handed::new(n, a)).collect::<Vec<_>>();
    for ranks in [1, 2, 3, 8] {
        for list in [&[("x", 1)][..], &[("x", 1), ("ids", 0)], &[("ids", 0)], &[("x", 0)]] {
            let options = ShardOptions::new(ranks).layout(LayoutKind::Stripe).inputs(named(list));
            let p = shard(g.clone(), &options).unwrap();
            for (name, _) in list {
                let v = g.inputs().into_iter().find(|&v| g.value(v).name == *name).unwrap();
                assert!(matches!(p.placements[&v], Placement::Sharded(_)), "{name} of {list:?}");
            }
            let d = distance(&run(&p, &inputs)[0], &want[0]);
            assert!(d < 1e-9, "{list:?} on {ranks} ranks: off by {d}");
            let found = gathers(&p);
            if list[0] == ("x", 1) {
                assert_eq!((found, reduced(&p)), (vec![], vec![Reduction::Sum]));
            }
        }
    }
    for (list, why) in [
        (&[("nothing", 0)][..], "there are x, ids"),
        (&[("ids", 1)], "i64[13]"),
        (&[("x", 1), ("x", 0)], "named twice"),
    ] {
        let options = ShardOptions::new(2).inputs(named(list));
        let e = shard(g.clone(), &options).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    }
}

#[test]
fn an_attention_whose_batch_is_split_is_local() {
    // Axial attention: over the rows of a picture, then over its columns.
    let (h, w) = (5, 3);
    let mut b = Build::new("axial");
    let x = b.input("x", DType::F64, &[h, w, 8]);
    let down = b.permute(x, &[1, 0, 2]);
    let down = b.self_attention(down, 2, 1, Mask::none());
    let across = b.permute(down, &[1, 0, 2]);
    let y = b.self_attention(across, 2, 1, Mask::none());
    b.out("y", y);
    for p in agrees(b.g) {
        assert_eq!(gathers(&p), Vec::<String>::new());
        assert_eq!((p.islands.len(), p.refused.len()), (1, 1));
        assert!(p.refused[0].1.contains("batch is split"), "{:?}", p.refused);
        // Two heads of 4 over the rows of one axis, for each of the other: work that no island counts.
        let (Op::Attention(_), rows) = (p.graph.op(p.refused[0].0), [h, w]) else { panic!("an attention") };
        let q = p.graph.ty(p.graph.operands(p.refused[0].0)[0]).shape[2];
        let attention = 4 * 8 * (rows[0] * rows[1] * q) as u64;
        assert_eq!(whole_flops(&p), graph_flops(&p.graph) + attention);
        let all: u64 = (0..p.ranks).map(|rank| local_flops(&p, rank).unwrap()).sum();
        assert_eq!(
            all,
            whole_flops(&p),
            "each rank computes its part of the batch, and its rows of the rest"
        );
    }
}

/// Windows that lie in the batch axis: each rank has some of its own, whole or not a multiple of the ranks, and nothing is sent. Fewer
/// windows than ranks, few or long ones, and where the caller says so, are split along their rows.
#[test]
fn windows_are_split_along_the_batch() {
    let graph = |windows: usize, rows: usize, mask: Mask| {
        let mut b = Build::new("windows");
        let x = b.input("x", DType::F64, &[windows, rows, 8]);
        let y = b.self_attention(x, 2, 1, mask);
        let y = b.mlp(y);
        let y = b.self_attention(y, 2, 2, Mask::none());
        b.out("y", y);
        b.g
    };
    let entry =
        |i: usize| if i.is_multiple_of(3) { vec![] } else { vec![Term::Keys { start: 0, end: i % 4 }] };
    let padded = |n: usize| Mask {
        terms: vec![Term::Causal { offset: 0 }, Term::Batch { entries: (0..n).map(entry).collect() }],
        ..Mask::none()
    };
    for (windows, rows) in [(8, 4), (9, 3), (11, 1), (4, 5)] {
        for mask in [Mask::none(), Mask::causal(0), padded(windows)] {
            for p in agrees(graph(windows, rows, mask)) {
                assert_eq!(gathers(&p), Vec::<String>::new());
                let along = p.ranks > 1 && windows >= p.ranks;
                assert_eq!(
                    (p.islands.len(), p.refused.len()),
                    if along { (0, 2) } else { (2, 0) },
                    "{}",
                    p.ranks
                );
                let said =
                    |r: &(annulus::ir::OpId, String)| r.1.starts_with("its batch is split over the ranks");
                assert!(p.refused.iter().all(said), "{:?}", p.refused);
            }
        }
    }
    let islands = |g: Graph, options: ShardOptions| shard(Arc::new(g), &options).unwrap().islands.len();
    assert_eq!(islands(graph(8, 4, Mask::none()), ShardOptions::new(4)), 0);
    assert_eq!(islands(graph(8, 4, Mask::none()), ShardOptions::new(4).windows(false)), 2);
    assert_eq!(islands(graph(8, 4, Mask::none()), ShardOptions::new(4).inputs([Handed::new("x", 1)])), 2);
    assert_eq!(islands(graph(8, 4, Mask::none()), ShardOptions::new(9)), 2);
    assert_eq!(islands(graph(3, 4, Mask::none()), ShardOptions::new(2)), 2);
    assert_eq!(islands(graph(8, 255, Mask::none()), ShardOptions::new(4)), 0);
    assert_eq!(islands(graph(8, 256, Mask::none()), ShardOptions::new(4)), 2);
}

/// What is left as it was is computed whole by every rank, and is work of every rank.
#[test]
fn a_refused_attention_is_work_of_every_rank() {
    let graph = annulus::ir::text::parse(include_str!("../../cases/refused.txt")).unwrap();
    // Q·Kᵀ and P·V, 2 for each term.
    let least = 2 * 2 * 2 * 6 * 6 * 4;
    for ranks in [1, 3, 8] {
        let compiled = annulus::compile(&graph, &annulus::Options::new(ranks)).unwrap();
        let report = annulus::dump::report::report(&compiled);
        assert_eq!(report.attention.rewritten, 0);
        assert!(report.whole_flops > least, "{}", report.whole_flops);
        assert_eq!(report.local_flops, vec![report.whole_flops; ranks]);
    }
}

#[test]
fn an_attention_that_was_not_found_gathers_keys_only() {
    let s = 7;
    let g = after_attention(s, |b, x| {
        let (q, k, v) = (b.linear(x, 4), b.linear(x, 4), b.linear(x, 4));
        let contract = |l: &str, r: &str, o: &str| {
            let (lhs, rhs, out) = (l.to_owned(), r.to_owned(), o.to_owned());
            Op::Contract(annulus::ir::Contract { lhs, rhs, out })
        };
        let scores = b.op(contract("bid", "bjd", "bij"), &[q, k]);
        let p = b.op(Op::Softmax { axis: 2 }, &[scores]);
        b.op(contract("bij", "bjd", "bid"), &[p, v])
    });
    for p in agrees(g) {
        let found = gathers(&p);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|r| r.starts_with("contract")), "{found:?}");
    }
}

#[test]
fn empty_sequences_and_batches_are_computed_whole() {
    for (batch, s) in [(1, 0), (0, 4)] {
        let mut b = Build::new("empty");
        let x = b.input("x", DType::F64, &[batch, s, 8]);
        let y = b.self_attention(x, 2, 1, Mask::causal(0));
        b.out("y", y);
        for p in agrees(b.g) {
            assert_eq!((p.islands.len(), p.refused.len()), (0, 1));
        }
    }
}

#[test]
fn attention_on_bare_inputs_and_its_log_sum_exp() {
    for s in LENGTHS {
        let mut b = Build::new("bare");
        let q = b.input("q", DType::F64, &[2, 4, s, 4]);
        let (k, v) = (b.input("k", DType::F64, &[2, 2, 6, 4]), b.input("v", DType::F64, &[2, 2, 6, 3]));
        let bias = b.input("bias", DType::F64, &[2, 1, s, 6]);
        let keep = b.input("keep", DType::Bool, &[1, 6]);
        let mask =
            Mask { terms: vec![Term::Causal { offset: -1 }, Term::Tensor { operand: 4 }], ..Mask::none() };
        let a = Attention { lse: true, ..Attention::plain(1e4, DType::F64).biased(3).masked(mask) };
        let op = b.g.add(Op::Attention(Box::new(a)), &[q, k, v, bias, keep], "attention", "").unwrap();
        let (o, lse) = (b.g.results(op)[0], b.g.results(op)[1]);
        let zero = b.scalar(-1e300);
        let lse = b.binary(Binary::Max, lse, zero);
        b.out("o", o);
        b.out("lse", lse);
        b.out("q again", q);
        for p in no_gather(b.g) {
            assert_eq!(p.layouts.len(), 2);
        }
    }
}

#[test]
fn a_graph_without_attention_is_one_segment() {
    let mut b = Build::new("plain");
    let x = b.input("x", DType::F64, &[1, 4, 8]);
    let w = b.weight(&[3]);
    let dead = b.mlp(x);
    let y = b.mlp(x);
    b.out("y", y);
    b.out("w", w);
    b.out("x again", x);
    for p in agrees(b.g) {
        assert!(matches!(p.segments.as_slice(), [Segment::Local(_)]));
        assert!(!p.placements.contains_key(&dead));
    }
}

#[test]
fn rows_of_extreme_scores() {
    // Logits of ±1e4 on uneven shares: the split changes no bit of what is local, and the island is the oracle's.
    let mut b = Build::new("extreme");
    let x = b.input("x", DType::F64, &[1, 13, 8]);
    let big = b.scalar(1e4);
    let x = b.mul(x, big);
    let (q, k, v) = (b.heads(x, 2), b.heads(x, 2), b.heads(x, 2));
    let o = b.attention(q, k, v, Mask::causal(-3));
    b.out("o", o);
    no_gather(b.g);
}

#[test]
fn the_number_of_ranks_is_checked() {
    let g = Arc::new(rotary_block(4));
    for ranks in [0, annulus::shard::MAX_RANKS + 1, usize::MAX] {
        let e = shard(g.clone(), &ShardOptions::new(ranks)).unwrap_err();
        assert!(e.to_string().contains("ranks"), "{e}");
    }
}

#[test]
fn a_deep_graph_takes_no_stack_and_little_time() {
    let mut b = Build::new("deep");
    let x = b.input("x", DType::F64, &[1, 6, 8]);
    let mut x = b.self_attention(x, 2, 1, Mask::causal(0));
    for _ in 0..20_000 {
        x = b.unary(Unary::Tanh, x);
    }
    let y = b.self_attention(x, 2, 1, Mask::causal(0));
    b.out("y", y);
    let program = shard(Arc::new(b.g), &ShardOptions::new(3)).unwrap();
    assert_eq!(program.segments.len(), 5);
    assert!(annulus::shard::local_graph(&program, 2, 1).unwrap().graph.len() > 20_000);
}

#[test]
fn a_wide_operation_takes_little_time() {
    let n = 20_000;
    let g = after_attention(3, |b, x| {
        let parts: Vec<ValueId> = (0..n).map(|i| b.slice(x, 2, i % 8, 1)).collect();
        b.op(Op::Concat { axis: 2 }, &parts)
    });
    let program = shard(Arc::new(g), &ShardOptions::new(2)).unwrap();
    assert_eq!(gathers(&program), Vec::<String>::new());
    let last = program.segments.len() - 1;
    let local = annulus::shard::local_graph(&program, last, 0).unwrap().graph;
    let rows = program.layouts[0].share(0);
    assert_eq!(local.ty(local.outputs()[0].value).shape, [1, rows, n]);
}

#[test]
fn a_convolution_splits_over_its_batch_and_mixes_what_its_windows_cover() {
    use annulus::ir::Windows;
    let windows = |n: usize, pad: usize| Windows {
        strides: vec![1; n],
        dilations: vec![1; n],
        low: vec![pad; n],
        high: vec![pad; n],
    };
    for (kernel, pad, mixes) in [(1, 0, false), (3, 1, true)] {
        let mut b = Build::new("conv");
        let x = b.input("x", DType::F64, &[1, 2, 8, 4]);
        let y = b.op(Op::Attention(Box::new(Attention::plain(0.5, DType::F64))), &[x, x, x]);
        let w = b.weight(&[2, 2, kernel, 1]);
        let mut over = windows(2, 0);
        (over.low[0], over.high[0]) = (pad, pad);
        let y = b.op(Op::Conv { windows: over.clone(), groups: 1 }, &[y, w]);
        let y = b.op(Op::Pool { kind: Reduction::Mean, kernel: vec![1, 2], windows: windows(2, 0) }, &[y]);
        b.g.output("y", y);
        for p in agrees(b.g) {
            let reasons = gathers(&p);
            assert_eq!(reasons.iter().any(|r| r.contains("windows")), mixes, "{reasons:?}");
        }
    }
}
