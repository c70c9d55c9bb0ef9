//! Events against brute force: conflicts are found by marking bytes, order by following every edge.

use super::case::{Case, cases};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::schedule::{Mesh, Place, RankProgram, Schedule, StepOp, Transfer, View};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;

/// Marked bytes of the arena.
#[derive(Clone, Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn add(&mut self, bytes: Range<usize>) {
        for place in bytes {
            if self.0.len() <= place / 64 {
                self.0.resize(place / 64 + 1, 0);
            }
            self.0[place / 64] |= 1 << (place % 64);
        }
    }

    fn meets(&self, other: &Marks) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }
}

/// What a step reads and writes.
fn touches(program: &RankProgram, op: &StepOp) -> (Marks, Marks) {
    let bytes = |v: &View| {
        let begin = program.slots[v.slot].offset + v.start;
        begin..begin + v.bytes
    };
    let (mut reads, mut writes) = (Marks::default(), Marks::default());
    let views = |t: &[Transfer]| -> Vec<View> {
        t.iter().flat_map(|t| &t.parts).filter_map(Place::view).copied().collect()
    };
    match op {
        StepOp::Pack { pieces } => pieces.iter().for_each(|p| writes.add(bytes(&p.at))),
        StepOp::Unpack { pieces } => pieces.iter().for_each(|p| reads.add(bytes(&p.at))),
        StepOp::Exchange { sends, recvs, .. } => {
            views(sends).iter().for_each(|v| reads.add(bytes(v)));
            views(recvs).iter().for_each(|v| writes.add(bytes(v)));
        }
        StepOp::AttnPartial { kv, q, .. } => {
            kv.iter().filter_map(|p| p.at).for_each(|v| reads.add(bytes(&v)));
            q.iter().flat_map(|p| &p.at).for_each(|v| reads.add(bytes(v)));
        }
        StepOp::Merge { q, .. } => q.iter().flat_map(|p| &p.partials).for_each(|v| reads.add(bytes(v))),
    }
    // What becomes of the rows of a step that computes or merges.
    let (carries, out, carry_in, cast_out) = match op {
        StepOp::AttnPartial { q, carry_in, cast_out, .. } => {
            let out: Vec<View> = q.iter().flat_map(|p| p.out.clone()).collect();
            (q.iter().filter_map(|p| p.carry).collect::<Vec<View>>(), out, *carry_in, *cast_out)
        }
        StepOp::Merge { q, carry_in, cast_out, .. } => {
            let out: Vec<View> = q.iter().flat_map(|p| p.out.clone()).collect();
            (q.iter().filter_map(|p| p.carry).collect(), out, *carry_in, *cast_out)
        }
        _ => return (reads, writes),
    };
    for carry in carries {
        if carry_in {
            reads.add(bytes(&carry));
        }
        if !cast_out {
            writes.add(bytes(&carry));
        }
    }
    out.iter().for_each(|v| writes.add(bytes(v)));
    (reads, writes)
}

/// Pairs of steps that touch a common byte of which one writes it.
fn conflicts(program: &RankProgram) -> Edges {
    let touched: Vec<_> = program.steps.iter().map(|s| touches(program, &s.op)).collect();
    let pairs = (0..touched.len()).flat_map(|j| (0..j).map(move |i| (i, j)));
    pairs
        .filter(|&(i, j)| {
            let ((ri, wi), (rj, wj)) = (&touched[i], &touched[j]);
            wi.meets(wj) || wi.meets(rj) || ri.meets(wj)
        })
        .collect()
}

/// From the earlier step to the later.
type Edges = Vec<(usize, usize)>;

/// The edges of the program: neighbours on a stream, and (recorder, waiter) of every wait.
fn edges(program: &RankProgram, mesh: &Mesh) -> (Edges, Edges) {
    let steps = &program.steps;
    let mut streams = vec![];
    for stream in mesh.streams() {
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

/// Whether the edges order every conflict.
fn ordered(steps: usize, conflicts: &Edges, edges: &[(usize, usize)]) -> bool {
    let after = closure(steps, edges);
    conflicts.iter().all(|&(i, j)| after[i] >> j & 1 == 1)
}

/// Whether one step comes before another one, by every path of a program.
pub(super) fn precedes(program: &RankProgram, mesh: &Mesh) -> impl Fn(usize, usize) -> bool + use<> {
    let (streams, waits) = edges(program, mesh);
    let after = closure(program.steps.len(), &[streams, waits].concat());
    move |i, j| after[i] >> j & 1 == 1
}

/// Which steps come after each: a bit a step.
fn closure(steps: usize, edges: &[(usize, usize)]) -> Vec<u128> {
    assert!(steps <= 128);
    let mut after = vec![0u128; steps];
    for &(i, j) in edges {
        after[i] |= 1 << j;
    }
    for k in 0..steps {
        for i in 0..steps {
            if after[i] >> k & 1 == 1 {
                after[i] |= after[k];
            }
        }
    }
    after
}

fn minimal(case: &Case, way: Strategy) -> Result<usize, TestCaseError> {
    let mut count = 0;
    let Schedule { ranks, mesh, .. } = case.schedule(way);
    for program in ranks {
        let (streams, waits) = edges(&program, &mesh);
        prop_assert!(waits.iter().all(|(i, j)| i < j), "a wait for a later step");
        let (steps, conflicts) = (program.steps.len(), conflicts(&program));
        let all = [streams.clone(), waits.clone()].concat();
        prop_assert!(ordered(steps, &conflicts, &all), "a race: {program:#?}");
        for left_out in 0..waits.len() {
            let mut fewer = waits.clone();
            fewer.remove(left_out);
            let idle = ordered(steps, &conflicts, &[streams.clone(), fewer].concat());
            prop_assert!(!idle, "a wait without need");
        }
        // An event has the number of its step: what comes or goes elsewhere changes no name.
        let recorded: Vec<usize> = program.steps.iter().filter_map(|s| s.records).collect();
        let recorders: Vec<usize> = (0..steps).filter(|&i| program.steps[i].records.is_some()).collect();
        prop_assert_eq!(&recorded, &recorders);
        let waited: BTreeSet<usize> = program.steps.iter().flat_map(|s| s.waits.clone()).collect();
        prop_assert_eq!(waited.into_iter().collect::<Vec<_>>(), recorded);
        count += waits.len();
    }
    Ok(count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_conflict_is_ordered_and_no_wait_is_idle(case in cases()) {
        for way in Strategy::ALL {
            minimal(&case, way)?;
        }
    }
}

#[test]
fn two_waits_a_hop() {
    // Steady state: a hop waits until its slot was computed on, a partial until its keys have come. The first hop sends from where
    // the keys lie, and waits for nothing.
    let ranks = 6;
    let case = Case::new(24, ranks, LayoutKind::Contiguous, Mask::none());
    assert_eq!(minimal(&case, Strategy::Ring).unwrap(), ranks * 2 * (ranks - 2));
}
