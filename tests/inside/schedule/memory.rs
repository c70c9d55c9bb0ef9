//! Slots: apart, aligned, no larger than the closed form, and carries only where they are needed.

use super::case::{Case, cases};
use annulus::check::check;
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::schedule::{RankProgram, SLOTS, Slot, Step, StepOp, View, parse};
use proptest::prelude::*;

fn views(program: &RankProgram) -> Vec<View> {
    let mut out = vec![];
    for step in &program.steps {
        match &step.op {
            StepOp::Pack { pieces } | StepOp::Unpack { pieces } => out.extend(pieces.iter().map(|p| p.at)),
            StepOp::Exchange { sends, recvs, .. } => {
                out.extend(
                    sends.iter().chain(recvs).flat_map(|t| &t.parts).filter_map(|p| p.view().copied()),
                );
            }
            StepOp::AttnPartial { q, kv, .. } => {
                out.extend(kv.iter().filter_map(|p| p.at).chain(q.iter().filter_map(|p| p.carry)));
                out.extend(q.iter().flat_map(|p| p.at.iter().chain(&p.out)));
            }
            StepOp::Merge { q, .. } => {
                out.extend(q.iter().filter_map(|p| p.carry));
                out.extend(q.iter().flat_map(|p| p.partials.iter().chain(&p.out)));
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
                    // Of a leaf over no keys nothing travels.
                    prop_assert!(v.bytes > 0 || !way.is_at_home());
                    prop_assert!(v.start + v.bytes <= program.slots[v.slot].bytes);
                }
            }
        }
    }

    #[test]
    fn a_carry_is_read_only_after_it_was_written(case in cases()) {
        for way in Strategy::ALL.into_iter().filter(|way| way.is_at_home()) {
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

/// How many messages a rank receives.
fn received(program: &RankProgram) -> usize {
    let receives = |s: &&Step| matches!(&s.op, StepOp::Exchange { recvs, .. } if !recvs.is_empty());
    program.steps.iter().filter(receives).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the number of slots, a ring is proved, fills no more of them than it says, and reads back.
    #[test]
    fn rings_of_more_slots_are_proved(case in cases(), slots in 2usize..6) {
        for way in Strategy::ALL {
            let schedule = case.schedule_with(way, slots);
            let failed = check(&schedule).failed;
            prop_assert!(failed.is_empty(), "{failed:?}\n{schedule}");
            let most = schedule.ranks.iter().map(received).max().unwrap_or(0);
            let used = if schedule.strategy.is_ring() { slots.min(most).max(SLOTS) } else { SLOTS };
            prop_assert_eq!(schedule.slots, used);
            let read = parse(&schedule.to_string()).unwrap().remove(0);
            prop_assert_eq!((read.slots, read.ranks), (schedule.slots, schedule.ranks.clone()));
            for program in schedule.ranks.iter().filter(|_| schedule.strategy.is_ring()) {
                let lands = |s: &&Slot| s.name.strip_prefix("kv.").is_some_and(|n| n.parse::<usize>().is_ok());
                prop_assert_eq!(program.slots.iter().filter(lands).count(), received(program).min(slots));
            }
        }
    }
}

/// The bound is that of the slots that the schedule says: one fewer is one share too little.
#[test]
fn a_ring_that_says_fewer_slots_than_it_fills_is_refused() {
    let case = Case::new(6 * 64, 6, LayoutKind::Contiguous, Mask::none());
    for slots in 2..=4 {
        let mut schedule = case.schedule_with(Strategy::Ring, slots);
        let share = schedule.attention.kv_bytes(64);
        let carry = schedule.attention.carry_bytes(64, schedule.attention.sizes.q_heads);
        assert!(schedule.ranks.iter().all(|r| r.arena_bytes == slots * share + carry), "{slots}");
        assert_eq!(check(&schedule).failed, []);
        schedule.slots -= 1;
        let failed = check(&schedule).failed;
        // The head itself, and the arena of each rank.
        assert_eq!(failed.len(), 1 + 6);
        let says = format!("{} receive slots", slots - 1);
        assert!(failed.iter().all(|f| f.check == "memory" && f.message.contains(&says)), "{failed:?}");
        schedule.slots += 2;
        let failed = check(&schedule).failed;
        assert_eq!(failed.len(), 1);
        let must = format!("the most messages that one receives are 5: it must say {slots}");
        assert!(failed[0].check == "memory" && failed[0].message.ends_with(&must), "{failed:?}");
    }
}

/// Two chunks that come, and one carry: no more on 16 ranks than on 4 of equal shares. The own chunk lies where the rank is handed it.
#[test]
fn memory_does_not_grow_with_the_ring() {
    let arena = |ranks: usize| {
        let case = Case::new(ranks * 8, ranks, LayoutKind::Contiguous, Mask::none());
        let most = case.schedule(Strategy::Ring).ranks.iter().map(|r| r.arena_bytes).max();
        most.unwrap()
    };
    assert_eq!(arena(4), arena(16));
    // 8 rows · 7 · 4 bytes twice, aligned, and 2 heads · 8 rows · (3 + 2) · 4 bytes.
    assert_eq!(arena(4), 2 * 256 + 320);
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

/// Own keys are copied where a rank's rows are more than two runs, or a stage cuts them.
#[test]
fn own_keys_are_packed_only_where_they_are_many_runs() {
    for ranks in [1, 2, 4, 5] {
        for kind in LayoutKind::ALL {
            for rows in [1, 3, 16, 19] {
                let case = Case::new(rows, ranks, kind, Mask::none());
                for way in Strategy::ALL.into_iter().filter(|way| way.is_at_home()) {
                    let schedule = case.schedule(way);
                    for (program, own) in schedule.ranks.iter().zip(&schedule.kv_layout.rows) {
                        let packs = program.steps.iter().any(|s| matches!(s.op, StepOp::Pack { .. }));
                        let local = program.slots.iter().any(|s| s.name == "kv.local");
                        let cut =
                            way == Strategy::AllGatherStaged && ranks > 1 && own.iter().any(|p| p.len > 1);
                        let apart = own.len() > 2 || cut;
                        assert_eq!((packs, local), (apart, apart), "{schedule}");
                    }
                }
            }
        }
    }
}
