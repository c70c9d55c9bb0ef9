//! The schedules that reviewers read.

use super::case::{Case, LeafCase};
use crate::inside::support::cases::snapshot;
use annulus::ir::DType;
use annulus::layout::LayoutKind;
use annulus::mask::{Fill, Mask, Term};
use annulus::ring::Strategy;
use annulus::schedule::parse;

fn shows(name: &str, case: &Case, way: Strategy) {
    let schedule = case.schedule(way);
    let text = schedule.to_string();
    assert_eq!(parse(&text).unwrap(), [schedule]);
    snapshot("schedule", name, &text);
}

#[test]
fn causal_zigzag_on_two_ranks() {
    shows("causal_zigzag_p2", &Case::new(16, 2, LayoutKind::Zigzag, Mask::causal(0)), Strategy::Ring);
}

#[test]
fn causal_zigzag_on_four_ranks() {
    shows("causal_zigzag_p4", &Case::new(16, 4, LayoutKind::Zigzag, Mask::causal(0)), Strategy::Ring);
}

#[test]
fn all_keys_gathered_at_once() {
    let case = Case::new(16, 4, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p4_all_gather", &case, Strategy::AllGather);
}

#[test]
fn keys_gathered_in_stages() {
    let case = Case::new(16, 2, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p2_all_gather_staged", &case, Strategy::AllGatherStaged);
}

#[test]
fn the_ring_the_other_way_round() {
    let case = Case::new(24, 3, LayoutKind::Zigzag, Mask::causal(0));
    shows("causal_zigzag_p3_reverse", &case, Strategy::RingReverse);
}

#[test]
fn thirteen_rows_on_three_ranks() {
    shows("uneven_contiguous_p3", &Case::new(13, 3, LayoutKind::Contiguous, Mask::none()), Strategy::Ring);
}

#[test]
fn a_window_that_ends_the_ring_after_one_hop() {
    let window = Term::Window { left: Some(3), right: Some(0), offset: 0 };
    let mask = Mask { terms: vec![window], fill: Fill::NegInf };
    shows("window_p4", &Case::new(16, 4, LayoutKind::Contiguous, mask), Strategy::Ring);
}

#[test]
fn grouped_heads_travel_unrepeated() {
    let mut case = Case::new(8, 2, LayoutKind::Contiguous, Mask::none());
    (case.sizes.q_heads, case.sizes.kv_heads, case.sizes.batch) = (8, 2, 3);
    shows("grouped_heads_p2", &case, Strategy::Ring);
}

#[test]
fn fewer_rows_than_ranks() {
    shows(
        "fewer_rows_than_ranks_p4",
        &Case::new(3, 4, LayoutKind::Contiguous, Mask::causal(0)),
        Strategy::Ring,
    );
}

#[test]
fn rows_that_see_no_key() {
    let mut case = Case::new(8, 2, LayoutKind::Zigzag, Mask::causal(-5));
    case.attention.lse = true;
    shows("rows_without_keys_p2", &case, Strategy::Ring);
}

#[test]
fn sinks_that_the_last_step_of_a_row_counts() {
    let mut case = Case::new(8, 2, LayoutKind::Zigzag, Mask::causal(0));
    case.attention.sinks = Some(3);
    case.leaves = vec![LeafCase { dtype: DType::F32, shape: vec![2, 1, 1], by_query_rows: false }];
    shows("sinks_p2", &case, Strategy::Ring);
}

#[test]
fn queries_that_travel() {
    shows("queries_p2", &Case::travelling(2, LayoutKind::Zigzag), Strategy::Queries);
    shows("queries_p3", &Case::travelling(3, LayoutKind::Contiguous), Strategy::Queries);
    shows("queries_p4", &Case::travelling(4, LayoutKind::Stripe), Strategy::Queries);
}

#[test]
fn heads_that_are_dealt_out() {
    shows("heads_p2", &Case::travelling(2, LayoutKind::Zigzag), Strategy::Heads);
    shows("heads_p3", &Case::travelling(3, LayoutKind::Contiguous), Strategy::Heads);
    shows("heads_p4", &Case::travelling(4, LayoutKind::Stripe), Strategy::Heads);
}

#[test]
fn two_nodes_of_two() {
    let on_nodes = |kind| Case { nodes: 2, ..Case::travelling(4, kind) };
    shows("queries_2x2", &on_nodes(LayoutKind::Stripe), Strategy::Queries);
    shows("heads_2x2", &on_nodes(LayoutKind::Contiguous), Strategy::Heads);
}
