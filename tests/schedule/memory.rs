//! Slots: apart, aligned, no larger than the closed form, and carries only where they are needed.

use crate::case::{Case, cases};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::schedule::{RankProgram, StepOp, View};
use proptest::prelude::*;

fn views(program: &RankProgram) -> Vec<View> {
    let mut out = vec![];
    for step in &program.steps {
        match &step.op {
            StepOp::Pack { pieces } => out.extend(pieces.iter().map(|p| p.at)),
            StepOp::Exchange { sends, recvs, .. } => {
                out.extend(sends.iter().chain(recvs).flat_map(|t| t.views.clone()));
            }
            StepOp::AttnPartial { q, kv, .. } => {
                out.extend(kv.iter().map(|p| p.at).chain(q.iter().filter_map(|p| p.carry)));
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn slots_are_apart_and_views_within(case in cases()) {
        for way in Strategy::ALL {
            for program in case.schedule(way).ranks {
                let mut end = 0;
                for slot in &program.slots {
                    prop_assert!(slot.offset >= end && slot.offset.is_multiple_of(256) && slot.bytes > 0);
                    end = slot.offset + slot.bytes;
                }
                prop_assert_eq!(program.arena_bytes, end);
                for v in views(&program) {
                    prop_assert!(v.bytes > 0 && v.start + v.bytes <= program.slots[v.slot].bytes);
                }
            }
        }
    }

    #[test]
    fn a_carry_is_read_only_after_it_was_written(case in cases()) {
        for way in Strategy::ALL {
            let schedule = case.schedule(way);
            for (rank, program) in schedule.ranks.iter().enumerate() {
                let (mut open, mut done) = (vec![], vec![]);
                for step in &program.steps {
                    let StepOp::AttnPartial { q, carry_in, cast_out, .. } = &step.op else { continue };
                    for piece in q {
                        prop_assert_eq!(piece.carry.is_some(), *carry_in || !cast_out);
                        prop_assert_eq!(open.contains(&(piece.rows, piece.carry)), *carry_in);
                        prop_assert!(!done.contains(&piece.rows));
                        open.retain(|o| *o != (piece.rows, piece.carry));
                        if *cast_out { done.push(piece.rows) } else { open.push((piece.rows, piece.carry)) }
                    }
                }
                prop_assert!(open.is_empty());
                done.sort_unstable();
                let mut own = schedule.q_layout.rows[rank].clone();
                own.sort_unstable();
                prop_assert_eq!(done, own);
            }
        }
    }
}

/// Own chunk, two more, and one carry: no more on 16 ranks than on 4 of equal shares.
#[test]
fn memory_does_not_grow_with_the_ring() {
    let arena = |ranks: usize| {
        let case = Case::new(ranks * 8, ranks, LayoutKind::Contiguous, Mask::none());
        let most = case.schedule(Strategy::Ring).ranks.iter().map(|r| r.arena_bytes).max();
        most.unwrap()
    };
    assert_eq!(arena(4), arena(16));
    // 8 rows · 7 · 4 bytes thrice, aligned, and 2 heads · 8 rows · (3 + 2) · 4 bytes.
    assert_eq!(arena(4), 3 * 256 + 320);
}

#[test]
fn one_partial_needs_no_carry() {
    for (rows, ranks) in [(12, 1), (1, 4)] {
        let case = Case::new(rows, ranks, LayoutKind::Contiguous, Mask::none());
        for program in case.schedule(Strategy::Ring).ranks {
            assert!(program.slots.iter().all(|s| s.name != "acc"), "{rows} rows on {ranks}");
        }
    }
}
