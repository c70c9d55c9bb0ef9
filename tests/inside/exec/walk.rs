//! The walker over the CPU's engine and messages within the process, against the executor of schedules: the same bits.

use super::build::Way;
use super::case::{Case, cases};
use super::travel::{self, travel};
use super::{compiled, program_of, schedule_of};
use crate::inside::check::corpus;
use crate::inside::ring::case::Case as Attention;
use crate::inside::ring::oracle;
use annulus::exec::cpu::run_island;
use annulus::exec::walk::{Cpu, Device, Local, run_local, walk, walk_all};
use annulus::ir::{Scores, Tensor};
use annulus::layout::LayoutKind;
use annulus::lower::program::{Action, Program, Target, lower};
use annulus::ring::Strategy as Plan;
use annulus::schedule::{Schedule, Stream};
use proptest::prelude::*;
use std::time::Duration;

fn bytes(results: &[Vec<Tensor>]) -> Vec<Vec<Vec<u8>>> {
    results.iter().map(|r| r.iter().map(Tensor::to_le_bytes).collect()).collect()
}

/// What differs between the program of devices and the schedule, under several orders.
fn differs(schedule: &Schedule, args: &[Vec<Tensor>], seeds: &[u64]) -> Result<(), String> {
    let (right, _) = run_island(schedule, args, 0).map_err(|e| format!("{e}\n{schedule}"))?;
    for &seed in seeds {
        let got = run_local(schedule, args, seed).map_err(|e| format!("{e}\n{schedule}"))?;
        let types = |r: &[Vec<Tensor>]| r.iter().flatten().map(|x| x.ty().to_string()).collect::<Vec<_>>();
        if types(&got) != types(&right) || bytes(&got) != bytes(&right) {
            return Err(format!("seed {seed}: other bits\n{schedule}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any attention, every strategy.
    #[test]
    fn programs_of_devices_give_the_bits_of_the_schedule(case in cases(40)) {
        let args = case.local();
        let (program, op) = program_of(&case);
        for way in Plan::ALL {
            let same = differs(&compiled(&program, op, way), &args, &[case.seed, case.seed ^ 1]);
            prop_assert!(same.is_ok(), "{way}: {}", same.unwrap_err());
        }
        // What no strategy makes: packed keys, queries and heads that travel over two axes.
        for way in [Way::Ring, Way::AllGather] {
            let same = differs(&schedule_of(&case, way), &args, &[case.seed]);
            prop_assert!(same.is_ok(), "{}", same.unwrap_err());
        }
        let (q, kv) = case.layouts();
        let nodes = if case.ranks % 2 == 0 { 2 } else { 1 };
        for (way, nodes) in [(travel::Way::Queries, nodes), (travel::Way::Heads, 1)] {
            let schedule = travel(&case.facts, (&q, &kv), way, travel::mesh(case.ranks, nodes));
            let same = differs(&schedule, &args, &[case.seed]);
            prop_assert!(same.is_ok(), "{}", same.unwrap_err());
        }
    }
}

/// The schedules that faults are planted in: every seventh, and all in which queries or heads travel.
#[test]
fn the_corpus_gives_the_same_bits() {
    let of = |(n, (name, case, schedule)): (usize, (String, Attention, Schedule))| {
        let whole = oracle::arguments(&case, n as u64);
        let args: Vec<Vec<Tensor>> = (0..case.ranks).map(|r| oracle::local(&case, &whole, r)).collect();
        if let Err(why) = differs(&schedule, &args, &[n as u64, 77]) {
            panic!("{name}: {why}");
        }
    };
    corpus::corpus().into_iter().step_by(7).chain(corpus::travelling()).enumerate().for_each(of);
}

/// More pieces of queries and of keys than a kernel takes: launches go on from each other's carry.
#[test]
fn many_pieces_become_several_launches() {
    let mut case: Case = super::causal(60, 2, LayoutKind::Given);
    case.layout = LayoutKind::Contiguous;
    case.facts.scores = Scores::scaled(0.5);
    let rows = |r: usize| -> Vec<annulus::layout::Progression> {
        (0..15).map(|i| annulus::layout::Progression::range(4 * i + 2 * r, 2)).collect()
    };
    let layout = annulus::layout::Layout::given(60, vec![rows(0), rows(1)]).unwrap();
    let args: Vec<Vec<Tensor>> = (0..2)
        .map(|r| case.args.iter().map(|x| super::case::rows_of(x, &layout.rows[r])).collect())
        .collect();
    for way in [Way::Ring, Way::AllGather] {
        let schedule = super::build(&case.facts, &layout, &layout, way);
        differs(&schedule, &args, &[1, 2, 3]).unwrap();
        let programs = lower(&schedule, Target::Cpu).unwrap();
        let launches = |p: &Program| p.ops.iter().filter(|o| matches!(o.action, Action::Launch(_))).count();
        assert!(launches(&programs[0]) > 2 * schedule.ranks[0].steps.len(), "{}", programs[0]);
        assert!(programs[0].scratch[0].bytes > 0 || way == Way::Ring);
    }
}

/// Arguments of a case as bytes.
fn handed(args: &[Vec<Tensor>]) -> Vec<Vec<Vec<u8>>> {
    args.iter().map(|a| a.iter().map(Tensor::to_le_bytes).collect()).collect()
}

/// Every wait of a ring is needed: without it some order gives other bits, or an end that never comes.
#[test]
fn a_wait_that_is_left_out_shows_under_some_seed() {
    let mut case = super::causal(16, 4, LayoutKind::Contiguous);
    case.facts.scores = Scores::scaled(0.5);
    let args = case.local();
    let programs = lower(&schedule_of(&case, Way::Ring), Target::Cpu).unwrap();
    let run = |programs: &[Program], seed: u64| {
        let mut engines = Cpu::engines(Device::new(programs, handed(&args), seed));
        walk_all(programs, &mut engines, &mut Local::ends(4)).unwrap();
        engines.iter().map(Cpu::results).collect::<Vec<_>>()
    };
    let right = run(&programs, 1);
    let mut planted = 0;
    for rank in 0..4 {
        let waits = |op: &annulus::lower::program::Op| matches!(op.action, Action::Wait(_));
        for at in (0..programs[rank].ops.len()).filter(|&i| waits(&programs[rank].ops[i])) {
            let mut bad = programs.clone();
            bad[rank].ops.remove(at);
            assert!((1..200).any(|seed| run(&bad, seed) != right), "rank {rank}, operation {at}");
            planted += 1;
        }
    }
    assert_eq!(planted, 4 * 5);
}

/// Who waits in vain is named, with what it waits for, by one thread for all ranks and by a thread for each.
#[test]
fn ranks_that_wait_in_vain_are_named() {
    let case = super::causal(8, 2, LayoutKind::Contiguous);
    let args = case.local();
    let good = schedule_of(&case, Way::Ring);
    let mut silent = good.clone();
    silent.ranks[1].steps[0].records = None;
    let e = run_local(&silent, &args, 4).unwrap_err().to_string();
    assert!(e.starts_with("rank 0, step 2, group 1: deadlock: waits for rank 1 to reach the same group; rank 1, step 2, wait e0"), "{e}");
    assert!(e.ends_with("waits for event 0, which no step records"), "{e}");

    let programs = lower(&silent, Target::Cpu).unwrap();
    let engines = Cpu::engines(Device::new(&programs, handed(&args), 3));
    let errors: Vec<String> = std::thread::scope(|scope| {
        let ends = Local::ends(2);
        let of = |((mut engine, mut end), program)| {
            scope.spawn(move || walk(program, &mut engine, &mut end, Duration::from_millis(50)).unwrap_err())
        };
        let threads: Vec<_> = engines.into_iter().zip(ends).zip(&programs).map(of).collect();
        threads.into_iter().map(|t| t.join().unwrap().to_string()).collect()
    });
    assert!(errors.iter().any(|e| e.contains("for 50ms")), "{errors:?}");
    assert!(errors.iter().all(|e| e.contains("for 50ms") || e.contains("given up: rank")), "{errors:?}");

    let mut crossed = super::causal(9, 3, LayoutKind::Contiguous);
    crossed.facts.scores = Scores::scaled(0.5);
    let mut schedule = schedule_of(&crossed, Way::Ring);
    let steps = &mut schedule.ranks[0].steps;
    let exchanges: Vec<usize> = (0..steps.len()).filter(|&i| steps[i].stream == Stream::Comm(0)).collect();
    let (a, b) = (steps[exchanges[0]].op.clone(), steps[exchanges[1]].op.clone());
    (steps[exchanges[0]].op, steps[exchanges[1]].op) = (b, a);
    let e = run_local(&schedule, &crossed.local(), 1).unwrap_err().to_string();
    assert!(e.contains("deadlock") && e.contains("to reach the same group"), "{e}");
}

/// A thread for each rank.
#[test]
fn ranks_run_by_a_thread_each() {
    let case = super::causal(21, 3, LayoutKind::Zigzag);
    let args = case.local();
    let (program, op) = program_of(&case);
    for way in Plan::ALL {
        let schedule = compiled(&program, op, way);
        let (right, _) = run_island(&schedule, &args, 0).unwrap();
        let programs = lower(&schedule, Target::Cpu).unwrap();
        let engines = Cpu::engines(Device::new(&programs, handed(&args), 5));
        std::thread::scope(|scope| {
            let all = engines.clone().into_iter().zip(Local::ends(3)).zip(&programs);
            let run = |((mut engine, mut end), program)| {
                scope.spawn(move || walk(program, &mut engine, &mut end, Duration::from_secs(20)))
            };
            let threads: Vec<_> = all.map(run).collect();
            threads.into_iter().for_each(|t| t.join().unwrap().unwrap());
        });
        let got: Vec<[Vec<u8>; 2]> = engines.iter().map(Cpu::results).collect();
        let want: Vec<Vec<Vec<u8>>> = bytes(&right);
        let got: Vec<Vec<Vec<u8>>> = got.into_iter().map(|[out, lse]| vec![out, lse]).collect();
        assert!(got == want, "{way}");
    }
}
