//! What the proof lets pass computes the attention: schedules changed at random are either refused, or give the right
//! result on every rank, whatever order the executor takes.

use super::case::Case;
use super::corpus::travelling;
use super::edit::places;
use super::oracle::{arguments, attention, differs, local};
use super::travel::OF_NO_STRATEGY;
use annulus::check::check;
use annulus::exec::cpu::run_island;
use annulus::ir::{DType, Tensor};
use annulus::layout::LayoutKind;
use annulus::mask::{Mask, Term};
use annulus::ring::Strategy as Way;
use annulus::schedule::{Merged, QPiece, RankProgram, Schedule, StepOp, View};
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::OnceLock;

/// A change that leaves many schedules right: what it hits is chosen by `at`, what comes there by `to`.
fn change(s: &mut Schedule, kind: usize, rank: Index, at: Index, to: Index) {
    let rank = rank.index(s.ranks.len());
    let program = &mut s.ranks[rank];
    let steps = program.steps.len();
    if steps == 0 {
        return;
    }
    let i = at.index(steps);
    match kind {
        0 if i + 1 < steps => program.steps.swap(i, i + 1),
        1 => {
            let waits = &mut program.steps[i].waits;
            if !waits.is_empty() {
                let w = at.index(waits.len());
                waits.remove(w);
            }
        }
        2 => {
            let events: Vec<usize> = program.steps.iter().filter_map(|s| s.records).collect();
            if !events.is_empty() {
                program.steps[i].waits.push(events[to.index(events.len())]);
            }
        }
        3 if !program.slots.is_empty() => {
            let slot = at.index(program.slots.len());
            program.slots[slot].offset = to.index(program.arena_bytes);
            program.arena_bytes += program.slots[slot].bytes;
        }
        4 => {
            let slots = program.slots.len();
            if let Some(view) = views(program, i).into_iter().next() {
                view.slot = to.index(slots);
            }
        }
        5 => {
            let moved = program.steps.remove(i);
            program.steps.insert(to.index(steps), moved);
        }
        6 => match &mut program.steps[i].op {
            StepOp::AttnPartial { q, kv, .. } => {
                kv.reverse();
                q.reverse();
            }
            StepOp::Merge { q, .. } => q.iter_mut().for_each(|p| p.partials.reverse()),
            StepOp::Unpack { pieces } | StepOp::Pack { pieces } => pieces.reverse(),
            StepOp::Exchange { recvs, .. } => recvs.iter_mut().for_each(|t| t.parts.reverse()),
        },
        _ => {}
    }
}

fn views<'a>(program: &'a mut RankProgram, i: usize) -> Vec<&'a mut View> {
    match &mut program.steps[i].op {
        StepOp::Pack { pieces } | StepOp::Unpack { pieces } => pieces.iter_mut().map(|p| &mut p.at).collect(),
        StepOp::Exchange { sends, recvs, .. } => {
            let mut all = places(sends);
            all.extend(places(recvs));
            all
        }
        StepOp::AttnPartial { q, kv, .. } => {
            let of = |p: &'a mut QPiece| p.carry.iter_mut().chain(&mut p.at).chain(&mut p.out);
            q.iter_mut().flat_map(of).chain(kv.iter_mut().filter_map(|p| p.at.as_mut())).collect()
        }
        StepOp::Merge { q, .. } => {
            let of = |p: &'a mut Merged| p.carry.iter_mut().chain(&mut p.partials).chain(&mut p.out);
            q.iter_mut().flat_map(of).collect()
        }
    }
}

/// Whether the executor, whatever order it takes, computes the attention: bytes that nothing wrote are NaN there.
pub(crate) fn computes(case: &Case, schedule: &Schedule, seed: u64) -> Result<(), String> {
    let whole = arguments(case, seed);
    let want = attention(case, &whole);
    let args: Vec<Vec<Tensor>> = (0..case.ranks).map(|r| local(case, &whole, r)).collect();
    for order in 0..4 {
        let (results, _) =
            run_island(schedule, &args, seed * 4 + order).map_err(|e| format!("{schedule}{e}"))?;
        for (rank, results) in results.iter().enumerate() {
            if let Some(fault) = differs(case, rank, &want, results, 1e-9) {
                return Err(format!("{schedule}{fault}"));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_passes_computes_the_attention(
        ranks in 1usize..4,
        rows in 1usize..14,
        form in 0usize..10,
        changes in proptest::collection::vec((0usize..7, any::<Index>(), any::<Index>(), any::<Index>()), 0..4),
        seed in 0u64..1000,
    ) {
        let window = Mask { terms: vec![Term::Window { left: Some(3), right: Some(1), offset: 0 }], ..Mask::none() };
        let mask = [Mask::none(), Mask::causal(0), window][form % 3].clone();
        let kind = if form % 2 == 0 { LayoutKind::Zigzag } else { LayoutKind::Contiguous };
        let mut case = Case::new(rows, ranks, kind, mask);
        // Logits of ±1e4 among the arguments leave f32 few digits.
        (case.dtype, case.attention.acc) = (DType::F64, DType::F64);
        case.attention.scores = match form {
            6 | 7 => "fill replace(-100.0) unless keys(1,9) | softcap 4.0 | fill -inf unless causal(0)".parse().unwrap(),
            8 | 9 => "fill -inf unless causal(0) | softcap 4.0 | fill add(-2.0) unless window(3,1,0)".parse().unwrap(),
            _ => case.attention.scores,
        };
        let way = if form < 4 || form == 6 || form == 8 { Way::Ring } else { Way::AllGather };
        let mut schedule = case.schedule(way);
        for (kind, rank, at, to) in changes {
            change(&mut schedule, kind, rank, at, to);
        }
        if check(&schedule).failed.is_empty() {
            computes(&case, &schedule, seed).map_err(TestCaseError::fail)?;
        }
    }

    /// The same where queries or heads travel.
    #[test]
    fn what_passes_of_what_travels_computes_the_attention(
        which in any::<Index>(),
        changes in proptest::collection::vec((0usize..7, any::<Index>(), any::<Index>(), any::<Index>()), 1..4),
        seed in 0u64..1000,
    ) {
        static ALL: OnceLock<Vec<(String, Case, Schedule)>> = OnceLock::new();
        let all = ALL.get_or_init(travelling);
        let (_, case, schedule) = &all[which.index(all.len())];
        let mut schedule = schedule.clone();
        for (kind, rank, at, to) in changes {
            change(&mut schedule, kind, rank, at, to);
        }
        if check(&schedule).failed.iter().all(|f| OF_NO_STRATEGY.contains(&f.check)) {
            computes(case, &schedule, seed).map_err(TestCaseError::fail)?;
        }
    }
}
