//! Deep graphs and hostile ones: layer 80 costs little, and nothing grows without bound.

use annulus::find::report::record;
use annulus::find::{FindOptions, find};
use annulus::ir::{Binary, Contract, DType, Graph, Op, Tensor, Type, Unary, ValueId};
use std::time::{Duration, Instant};

fn contract(lhs: &str, rhs: &str, out: &str) -> Op {
    Op::Contract(Contract { lhs: lhs.into(), rhs: rhs.into(), out: out.into() })
}

fn add(g: &mut Graph, op: Op, x: &[ValueId]) -> ValueId {
    g.add1(op, x, "v", "").unwrap()
}

/// Attention of `x` over itself with what `between` does to the scores.
fn layer(g: &mut Graph, x: ValueId, between: &dyn Fn(&mut Graph, ValueId) -> ValueId) -> ValueId {
    let s = add(g, contract("bhid", "bhjd", "bhij"), &[x, x]);
    let s = between(g, s);
    let p = add(g, Op::Softmax { axis: 3 }, &[s]);
    add(g, contract("bhij", "bhje", "bhie"), &[p, x])
}

fn deep(layers: usize) -> Graph {
    let mut g = Graph::new("deep");
    let mut x = g.input("x", Type::new(DType::F32, [1, 2, 6, 4]));
    let half = g.constant("half", Tensor::scalar(DType::F32, 0.5));
    for _ in 0..layers {
        let y = layer(&mut g, x, &|g, s| add(g, Op::Binary(Binary::Mul), &[s, half]));
        let y = add(&mut g, Op::Unary(Unary::Tanh), &[y]);
        x = add(&mut g, Op::Binary(Binary::Add), &[x, y]);
    }
    g.output("x", x);
    g
}

#[test]
fn eighty_layers_are_found_and_each_is_self_attention() {
    let (g, shallow) = (deep(80), deep(2));
    let start = Instant::now();
    let found = find(&g, &FindOptions::default());
    assert_eq!(found.attentions.len(), 80);
    assert!(found.attentions.iter().all(|a| a.is_self));
    assert!(found.attentions.iter().all(|a| a.applied == found.attentions[0].applied));
    assert_eq!(record(&found.graph, &found.attentions[79]).scale, Some(0.5));
    assert_eq!(found.work.regions, 1, "equal regions are saturated once");
    assert_eq!(found.work, find(&shallow, &FindOptions::default()).work, "the work does not grow with depth");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn values_read_over_and_over_are_missed_not_unfolded() {
    let mut g = Graph::new("doubling");
    let x = g.input("x", Type::new(DType::F32, [1, 2, 3, 4]));
    let y = layer(&mut g, x, &|g, s| (0..40).fold(s, |s, _| add(g, Op::Binary(Binary::Add), &[s, s])));
    g.output("y", y);
    let found = find(&g, &FindOptions::default());
    assert_eq!(found.attentions.len(), 0);
    assert!(found.missed[0].reason.contains("read so often"), "{:?}", found.missed);
    assert_eq!(found.graph, g);
}

#[test]
fn long_chains_end() {
    for c in [1.0, 0.9375] {
        for (length, found) in [(56, 1), (100, 0), (20_000, 0)] {
            let mut g = Graph::new("chain");
            let x = g.input("x", Type::new(DType::F32, [1, 2, 3, 4]));
            let one = g.constant("c", Tensor::scalar(DType::F32, c));
            let y = layer(&mut g, x, &|g, s| {
                (0..length).fold(s, |s, _| add(g, Op::Binary(Binary::Mul), &[s, one]))
            });
            g.output("y", y);
            let got = find(&g, &FindOptions::default());
            assert_eq!(got.attentions.len(), found, "{:?}", got.missed);
        }
    }
}

/// Keys in two parts, behind more layout operations than any stack holds.
#[test]
fn parts_behind_long_chains_end() {
    let mut g = Graph::new("parts");
    let q = g.input("q", Type::new(DType::F32, [1, 1, 2, 4]));
    let v = g.input("v", Type::new(DType::F32, [1, 1, 7, 3]));
    let parts: Vec<ValueId> = [3, 4]
        .into_iter()
        .map(|keys| {
            let k = g.input("k", Type::new(DType::F32, [1, 1, keys, 4]));
            (0..50_000).fold(k, |k, _| add(&mut g, Op::Permute(vec![0, 2, 1, 3]), &[k]))
        })
        .collect();
    let s: Vec<ValueId> =
        parts.iter().map(|&k| add(&mut g, contract("bhid", "bhjd", "bhij"), &[q, k])).collect();
    let s = add(&mut g, Op::Concat { axis: 3 }, &s);
    let p = add(&mut g, Op::Softmax { axis: 3 }, &[s]);
    let o = add(&mut g, contract("bhij", "bhje", "bhie"), &[p, v]);
    g.output("o", o);
    let found = find(&g, &FindOptions::default());
    assert_eq!(found.attentions.len(), 1, "{:?}", found.missed);
}

/// Rows of length 1, heads of size 1, no keys at all, an empty batch.
#[test]
fn awkward_sizes_stay_what_they_were() {
    for [b, h, q, k, d] in [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 5, 2],
        [2, 1, 5, 1, 1],
        [1, 3, 2, 0, 2],
        [0, 2, 3, 3, 2],
        [1, 2, 0, 4, 2],
        [1, 2, 3, 4, 0],
    ] {
        let mut g = Graph::new("sizes");
        let x = g.input("q", Type::new(DType::F32, [b, h, q, d]));
        let y = g.input("k", Type::new(DType::F32, [b, h, k, d]));
        let z = g.input("v", Type::new(DType::F32, [b, h, k, 3]));
        let s = add(&mut g, contract("bhid", "bhjd", "bhij"), &[x, y]);
        let p = add(&mut g, Op::Softmax { axis: 3 }, &[s]);
        let o = add(&mut g, contract("bhij", "bhje", "bhie"), &[p, z]);
        g.output("o", o);
        let found = find(&g, &FindOptions::default());
        assert_eq!(found.attentions.len(), 1, "{b} {h} {q} {k} {d}: {:?}", found.missed);
        super::cases::same(&g, &found.graph, 3, 1e-6).unwrap_or_else(|e| panic!("{b} {h} {q} {k} {d}: {e}"));
    }
}
