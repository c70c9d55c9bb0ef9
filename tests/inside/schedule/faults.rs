//! Attentions that the ring cannot split are refused with a reason.

use super::case::{Case, LeafCase};
use annulus::ir::DType;
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::{Strategy, island};
use annulus::shard::Placement;

fn case() -> Case {
    Case::new(13, 3, LayoutKind::Contiguous, Mask::none())
}

#[test]
fn what_the_ring_cannot_split_has_a_reason() {
    let refused = |case: &Case, change: &dyn Fn(&mut super::case::Split)| {
        let mut split = case.split();
        change(&mut split);
        island(&split.program, split.op, Strategy::Ring, 0).unwrap_err().to_string()
    };
    let island_of = |s: &mut super::case::Split, f: &dyn Fn(&mut annulus::shard::IslandSharding)| {
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

    let elsewhere = refused(&case(), &|s| {
        s.op = annulus::ir::Graph::new("other")
            .input("x", s.program.graph.ty(s.program.graph.inputs()[0]).clone())
            .op
    });
    assert_eq!(elsewhere, "case: it has no such operation");

    let mut keys = case();
    keys.attention = keys.attention.biased(3);
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
    assert_eq!(
        refused(&empty, &|_| {}),
        "attn: the batch is 0, so that there is nothing to split: every rank computes it whole"
    );

    let split = case().split();
    let rank = island(&split.program, split.op, Strategy::Ring, 3).unwrap_err();
    assert_eq!(rank.to_string(), "attn: there is no rank 3 of 3");
}
