//! The island graphs that reviewers read.

use super::case::{Case, LeafCase};
use crate::inside::support::cases::snapshot;
use annulus::ir::text::{Form, parse, print};
use annulus::ir::{DType, Scores};
use annulus::layout::LayoutKind;
use annulus::mask::{Fill, Mask, Term};
use annulus::ring::Strategy;

/// The graphs of some ranks in one text; each parses back to itself.
fn shows(name: &str, case: &Case, way: Strategy, ranks: &[usize]) {
    let graphs = case.islands(way);
    let texts: Vec<String> = ranks
        .iter()
        .map(|&r| {
            let text = print(&graphs[r], Form::People);
            assert_eq!(parse(&text).unwrap(), graphs[r]);
            text
        })
        .collect();
    snapshot("ring", name, &texts.join("\n"));
}

fn window(left: u64) -> Mask {
    Mask { terms: vec![Term::Window { left: Some(left), right: Some(0), offset: 0 }], fill: Fill::NegInf }
}

#[test]
fn causal_zigzag_on_two_ranks() {
    let case = Case::new(16, 2, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p2", &case, Strategy::Ring, &[0, 1]);
}

#[test]
fn causal_zigzag_on_four_ranks() {
    let case = Case::new(16, 4, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p4", &case, Strategy::Ring, &[1]);
}

#[test]
fn all_keys_gathered_at_once() {
    let case = Case::new(16, 4, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p4_all_gather", &case, Strategy::AllGather, &[1]);
}

#[test]
fn keys_gathered_in_stages() {
    let case = Case::new(16, 2, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p2_all_gather_staged", &case, Strategy::AllGatherStaged, &[1]);
}

#[test]
fn the_ring_the_other_way_round() {
    let case = Case::new(24, 3, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p3_reverse", &case, Strategy::RingReverse, &[1]);
}

#[test]
fn thirteen_rows_on_three_ranks() {
    let case = Case::new(13, 3, LayoutKind::Contiguous, Mask::none());
    shows("uneven_contiguous_p3", &case, Strategy::Ring, &[0, 2]);
}

#[test]
fn a_window_that_ends_the_ring_after_one_hop() {
    let case = Case::new(16, 4, LayoutKind::Contiguous, window(3));
    shows("window_p4", &case, Strategy::Ring, &[0, 1, 3]);
}

#[test]
fn grouped_heads_travel_unrepeated() {
    let mut case = Case::new(8, 2, LayoutKind::Contiguous, Mask::none());
    (case.sizes.q_heads, case.sizes.kv_heads, case.sizes.batch) = (8, 2, 3);
    shows("grouped_heads_p2", &case, Strategy::Ring, &[0]);
}

#[test]
fn fewer_rows_than_ranks() {
    let case = Case::new(3, 4, LayoutKind::Contiguous, Mask::causal(0));
    shows("fewer_rows_than_ranks_p4", &case, Strategy::Ring, &[0, 1, 3]);
}

#[test]
fn rows_that_see_no_key() {
    let mut case = Case::new(8, 2, LayoutKind::Zigzag, Mask::causal(-5));
    case.attention.lse = true;
    shows("rows_without_keys_p2", &case, Strategy::Ring, &[0, 1]);
}

#[test]
fn a_mask_of_the_rank_and_a_whole_bias() {
    let mut case = Case::new(8, 2, LayoutKind::Zigzag, Mask::causal(0));
    let mask = Mask { terms: vec![Term::Causal { offset: 0 }, Term::Tensor { operand: 3 }], ..Mask::none() };
    case.attention.scores = Scores::usual(0.5, 0.0, Some(4), mask);
    case.leaves = vec![
        LeafCase { dtype: DType::Bool, shape: vec![8, 8], by_query_rows: true },
        LeafCase { dtype: DType::F32, shape: vec![1, 2, 8, 8], by_query_rows: false },
    ];
    shows("leaves_p2", &case, Strategy::Ring, &[0]);
}

#[test]
fn sinks_that_the_finish_counts() {
    let mut case = Case::new(8, 2, LayoutKind::Zigzag, Mask::causal(0));
    case.attention.sinks = Some(3);
    case.leaves = vec![LeafCase { dtype: DType::F32, shape: vec![2, 1, 1], by_query_rows: false }];
    shows("sinks_p2", &case, Strategy::Ring, &[0]);
}

#[test]
fn queries_that_travel() {
    shows("queries_p2", &Case::travelling(2, LayoutKind::Zigzag), Strategy::Queries, &[0, 1]);
    shows("queries_p3", &Case::travelling(3, LayoutKind::Contiguous), Strategy::Queries, &[1]);
    shows("queries_p4", &Case::travelling(4, LayoutKind::Stripe), Strategy::Queries, &[1]);
}

#[test]
fn heads_that_are_dealt_out() {
    shows("heads_p2", &Case::travelling(2, LayoutKind::Zigzag), Strategy::Heads, &[0, 1]);
    shows("heads_p3", &Case::travelling(3, LayoutKind::Contiguous), Strategy::Heads, &[1]);
    shows("heads_p4", &Case::travelling(4, LayoutKind::Stripe), Strategy::Heads, &[1]);
}

#[test]
fn two_nodes_of_two() {
    let on_nodes = |kind| Case { nodes: 2, ..Case::travelling(4, kind) };
    shows("queries_2x2", &on_nodes(LayoutKind::Stripe), Strategy::Queries, &[1]);
    shows("heads_2x2", &on_nodes(LayoutKind::Contiguous), Strategy::Heads, &[1]);
}
