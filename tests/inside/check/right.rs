//! No report on right programs.

use super::build;
use super::case::{Case, cases};
use super::corpus::{by_hand, corpus, scattered, striped};
use annulus::check::{Report, check};
use annulus::layout::{Layout, LayoutKind};
use annulus::mask::{Fill, Mask, Term};
use annulus::ring::Strategy as Way;
use annulus::schedule::{Schedule, parse};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Every check, in order.
pub(crate) const CHECKS: [&str; 10] =
    ["form", "matching", "deadlock", "race", "filled", "coverage", "merge once", "memory", "sizes", "labels"];

pub(crate) fn proved(schedule: &Schedule) -> Result<Report, String> {
    let report = check(schedule);
    if let Some(f) = report.failed.first() {
        return Err(format!("{schedule}\n{f:#?}"));
    }
    let names: Vec<&str> = report.passed.iter().map(|p| p.check).collect();
    if names == CHECKS { Ok(report) } else { Err(format!("only {names:?} ran")) }
}

fn reads_back(schedule: &Schedule) -> Result<(), String> {
    let text = schedule.to_string();
    let back = parse(&text).map_err(|e| e.rendered)?;
    if back == [schedule.clone()] && back[0].to_string() == text { Ok(()) } else { Err(text) }
}

#[test]
fn the_corpus_is_proved() {
    let corpus = corpus();
    for (name, _, schedule) in &corpus {
        if let Err(e) = proved(schedule).and_then(|_| reads_back(schedule)) {
            panic!("{name}: {e}");
        }
    }
    assert_eq!(corpus.len(), (8 * LayoutKind::ALL.len() * 9 * 4 * Way::ALL.len()).div_ceil(11));
}

fn mask() -> impl Strategy<Value = Mask> {
    let bound = || proptest::option::of(0u64..12);
    let term = prop_oneof![
        (-9i64..9).prop_map(|offset| Term::Causal { offset }),
        (0usize..30, -9i64..9).prop_map(|(length, offset)| Term::Prefix { length, offset }),
        (0usize..12, 0usize..40).prop_map(|(start, n)| Term::Keys { start, end: start + n }),
        (bound(), bound(), -9i64..9).prop_map(|(left, right, offset)| Term::Window { left, right, offset }),
        (proptest::collection::btree_set(1usize..60, 0..6), -9i64..9)
            .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset }),
    ];
    let fill = prop_oneof![Just(Fill::NegInf), Just(Fill::Add(-1e4))];
    (vec(term, 0..3), fill).prop_map(|(terms, fill)| Mask {
        // Nothing is filled without a term, and the text of a mask does not say with what.
        fill: if terms.is_empty() { Fill::NegInf } else { fill },
        terms,
    })
}

/// Shares of any form: adjacent, striped, or blocks and half blocks dealt at random.
fn layout(ranks: usize) -> impl Strategy<Value = Layout> {
    (0usize..60, 0usize..4, vec(any::<usize>(), 0..9), vec(any::<usize>(), 1..9)).prop_map(
        move |(length, form, cuts, deal)| match form {
            0 => Layout::new(LayoutKind::Zigzag, length, ranks),
            1 => striped(length, ranks),
            _ => scattered(length, ranks, &cuts, &deal),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_schedule_of_the_pass_is_proved_and_reads_back(case in cases(), way in select(&Way::ALL[..])) {
        let schedule = case.schedule(way);
        proved(&schedule).map_err(TestCaseError::fail)?;
        reads_back(&schedule).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_schedule_over_any_layouts_is_proved(
        (mask, q, kv) in (mask(), 1usize..10).prop_flat_map(|(mask, p)| (Just(mask), layout(p), layout(p))),
        all_gather in any::<bool>(),
    ) {
        let way = if all_gather { build::Way::AllGather } else { build::Way::Ring };
        let schedule = by_hand(mask, q, kv, way);
        proved(&schedule).map_err(TestCaseError::fail)?;
        reads_back(&schedule).map_err(TestCaseError::fail)?;
    }
}

/// Nothing goes row by row: with so many rows it would never end.
#[test]
fn many_rows_are_proved() {
    for (rows, ranks) in [(1_000_003, 64), ((1 << 36) + 7, 8)] {
        for way in Way::ALL {
            for kind in LayoutKind::ALL {
                for mask in [Mask::causal(0), Mask::causal(-5)] {
                    proved(&Case::new(rows, ranks, kind, mask).schedule(way)).unwrap();
                }
            }
        }
    }
}

/// Every length from 0 to 64 on 1 to 9 ranks under every kind of mask, layouts and strategies in turn: the proof counts every
/// visible pair once, so that nothing need be run.
#[test]
fn every_length_on_every_number_of_ranks_is_proved() {
    let window = Term::Window { left: Some(5), right: Some(2), offset: 0 };
    let documents = Term::Segments { starts: [3, 4, 17, 40].into(), offset: 0 };
    let prefix = vec![Term::Prefix { length: 9, offset: 0 }, Term::Keys { start: 2, end: 40 }];
    let masks = [
        Mask { terms: prefix, fill: Fill::NegInf },
        Mask::none(),
        Mask::causal(0),
        Mask::causal(-3),
        Mask { terms: vec![window], fill: Fill::NegInf },
        Mask { terms: vec![Term::Causal { offset: 0 }, documents], fill: Fill::NegInf },
        Mask { fill: Fill::Add(-1e4), ..Mask::causal(0) },
    ];
    // Seven masks, five layouts and four strategies, one of which is left out at each length: every combination comes round.
    let mut layouts = LayoutKind::ALL.into_iter().cycle();
    let mut ways = Way::ALL.into_iter().cycle();
    for rows in 0..=64 {
        ways.next();
        for ranks in 1..=9 {
            for mask in &masks {
                let (kind, way) = (layouts.next().unwrap(), ways.next().unwrap());
                let schedule = Case::new(rows, ranks, kind, mask.clone()).schedule(way);
                proved(&schedule)
                    .unwrap_or_else(|e| panic!("{rows} rows on {ranks}, {kind}, {way:?}, {mask}: {e}"));
            }
        }
    }
}
