//! Events against brute force: conflicts are found by marking bytes, order by following every edge.

use crate::case::{Case, cases};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::schedule::{RankProgram, StepOp, Stream, View};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The bytes of the arena that a step reads and writes.
fn touches(program: &RankProgram, op: &StepOp) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let bytes = |v: &View| {
        let begin = program.slots[v.slot].offset + v.start;
        begin..begin + v.bytes
    };
    let (mut reads, mut writes) = (BTreeSet::new(), BTreeSet::new());
    match op {
        StepOp::Pack { pieces } => writes.extend(pieces.iter().flat_map(|p| bytes(&p.at))),
        StepOp::Exchange { sends, recvs, .. } => {
            reads.extend(sends.iter().flat_map(|t| &t.views).flat_map(bytes));
            writes.extend(recvs.iter().flat_map(|t| &t.views).flat_map(bytes));
        }
        StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
            reads.extend(kv.iter().flat_map(|p| bytes(&p.at)));
            for carry in q.iter().filter_map(|p| p.carry) {
                if *carry_in {
                    reads.extend(bytes(&carry));
                }
                if !cast_out {
                    writes.extend(bytes(&carry));
                }
            }
        }
    }
    (reads, writes)
}

/// Pairs of steps that touch a common byte of which one writes it.
fn conflicts(program: &RankProgram) -> Vec<(usize, usize)> {
    let touched: Vec<_> = program.steps.iter().map(|s| touches(program, &s.op)).collect();
    let meet = |a: &BTreeSet<usize>, b: &BTreeSet<usize>| a.intersection(b).next().is_some();
    let n = program.steps.len();
    let pairs = (0..n).flat_map(|j| (0..j).map(move |i| (i, j)));
    pairs
        .filter(|&(i, j)| {
            let ((ri, wi), (rj, wj)) = (&touched[i], &touched[j]);
            meet(wi, wj) || meet(wi, rj) || meet(ri, wj)
        })
        .collect()
}

/// From the earlier step to the later.
type Edges = Vec<(usize, usize)>;

/// The edges of the program: neighbours on a stream, and (recorder, waiter) of every wait.
fn edges(program: &RankProgram) -> (Edges, Edges) {
    let steps = &program.steps;
    let mut streams = vec![];
    for stream in Stream::ALL {
        let on: Vec<usize> = (0..steps.len()).filter(|&i| steps[i].stream == stream).collect();
        streams.extend(on.windows(2).map(|w| (w[0], w[1])));
    }
    let recorder = |event| steps.iter().position(|s| s.records == Some(event)).unwrap();
    let waits = steps
        .iter()
        .enumerate()
        .flat_map(|(j, s)| s.waits.iter().map(move |&e| (e, j)))
        .map(|(e, j)| (recorder(e), j))
        .collect();
    (streams, waits)
}

/// Which step comes before which: the closure of the edges.
fn before(n: usize, edges: &[(usize, usize)]) -> Vec<Vec<bool>> {
    let mut reach = vec![vec![false; n]; n];
    for &(i, j) in edges {
        reach[i][j] = true;
    }
    for k in 0..n {
        for i in 0..n {
            for j in 0..n {
                reach[i][j] |= reach[i][k] && reach[k][j];
            }
        }
    }
    reach
}

fn ordered(program: &RankProgram, edges: &[(usize, usize)]) -> bool {
    let reach = before(program.steps.len(), edges);
    conflicts(program).iter().all(|&(i, j)| reach[i][j])
}

fn minimal(case: &Case, way: Strategy) -> Result<usize, TestCaseError> {
    let mut count = 0;
    for program in case.schedule(way).ranks {
        let (streams, waits) = edges(&program);
        prop_assert!(waits.iter().all(|(i, j)| i < j), "a wait for a later step");
        let all = [streams.clone(), waits.clone()].concat();
        prop_assert!(ordered(&program, &all), "a race: {program:#?}");
        for left_out in 0..waits.len() {
            let mut fewer = waits.clone();
            fewer.remove(left_out);
            prop_assert!(!ordered(&program, &[streams.clone(), fewer].concat()), "a wait without need");
        }
        let recorded: Vec<usize> = program.steps.iter().filter_map(|s| s.records).collect();
        prop_assert_eq!(&recorded, &(0..recorded.len()).collect::<Vec<_>>());
        let waited: BTreeSet<usize> = program.steps.iter().flat_map(|s| s.waits.clone()).collect();
        prop_assert_eq!(waited.into_iter().collect::<Vec<_>>(), recorded);
        count += waits.len();
    }
    Ok(count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn every_conflict_is_ordered_and_no_wait_is_idle(case in cases()) {
        for way in Strategy::ALL {
            minimal(&case, way)?;
        }
    }
}

#[test]
fn two_waits_a_hop() {
    // Steady state: a hop waits until its slot was computed on, a partial until its keys have come.
    let ranks = 6;
    let case = Case::new(24, ranks, LayoutKind::Contiguous, Mask::none());
    assert_eq!(minimal(&case, Strategy::Ring).unwrap(), ranks * (2 * (ranks - 1) - 1));
}
