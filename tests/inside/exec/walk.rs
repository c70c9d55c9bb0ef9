//! The walker over the CPU's engine and messages within the process, against the executor of schedules: the same bits.

use super::build::Way;
use super::case::{Case, cases};
use super::travel::{self, travel};
use super::{compiled, program_of, schedule_of};
use crate::inside::check::corpus;
use crate::inside::ring::case::{Case as Attention, LeafCase};
use crate::inside::ring::oracle;
use annulus::exec::cpu::run_island;
use annulus::exec::walk::{
    Cpu, Device, Engine, Local, Polled, Spread, Transport, TransportError, run_local, walk, walk_all,
};
use annulus::ir::{Scores, Tensor};
use annulus::layout::LayoutKind;
use annulus::lower::program::{
    Action, Address, Argument, AttentionArg, Group, KvArg, Launch, Program, QArg, Scoring, Target, lower,
};
use annulus::mask::Tile;
use annulus::ring::Strategy as Plan;
use annulus::schedule::{Schedule, Stream};
use proptest::prelude::*;
use std::sync::Arc;
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

/// Queries and heads that travel along two levels, each on a stream of its own.
#[test]
fn two_levels_give_the_same_bits() {
    for (ranks, nodes) in [(4, 2), (6, 3), (6, 2)] {
        for way in Plan::ALL {
            let mut case = Attention::travelling(ranks, LayoutKind::Zigzag);
            (case.nodes, case.attention.sinks) = (nodes, Some(4));
            case.attention.scores = "factor 0.5 | add 3 | fill -inf unless causal(0)".parse().unwrap();
            let leaf = |shape| LeafCase { dtype: annulus::ir::DType::F32, shape, by_query_rows: true };
            case.leaves = vec![leaf(vec![4, 10, 10]), leaf(vec![4, 10, 1])];
            let schedule = case.schedule(way);
            let two = [Plan::Queries, Plan::Heads].contains(&way);
            assert_eq!(schedule.mesh.streams().count(), if two { 3 } else { 2 }, "{way}");
            let whole = oracle::arguments(&case, 3);
            let args: Vec<Vec<Tensor>> = (0..ranks).map(|r| oracle::local(&case, &whole, r)).collect();
            if let Err(why) = differs(&schedule, &args, &[1, 2, 3]) {
                panic!("{way} on {ranks} of {nodes}: {why}");
            }
        }
    }
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

/// What is planted in an operation, by its name; `None` where there is no place for it.
type Plant = (&'static str, fn(&mut Action) -> Option<()>);

fn attention(action: &mut Action) -> Option<&mut AttentionArg> {
    let Action::Launch(Launch { argument: Argument::Attention(arg), .. }) = action else { return None };
    Some(Arc::make_mut(arg))
}

fn q(action: &mut Action) -> Option<&mut QArg> {
    Arc::make_mut(&mut attention(action)?.q).last_mut()
}

fn kv(action: &mut Action) -> Option<&mut KvArg> {
    Arc::make_mut(&mut attention(action)?.kv).last_mut()
}

const PLANTS: [Plant; 14] = [
    ("another row of values", |a| kv(a).map(|k| k.v.offset += 12)),
    ("another row of keys", |a| kv(a).map(|k| k.k.at.offset += 16)),
    ("heads of keys further apart", |a| {
        let several = attention(a)?.kv_heads > 1;
        kv(a).filter(|_| several).map(|k| k.k.head_rows += 1)
    }),
    ("queries of another row", |a| q(a).map(|q| q.q.at.offset += 16)),
    ("heads of queries further apart", |a| {
        let several = attention(a)?.heads > 1;
        q(a).filter(|_| several).map(|q| q.q.head_rows += 1)
    }),
    ("a key too few", |a| kv(a).map(|k| k.rows.len -= 1)),
    ("another global row", |a| {
        let masks = matches!(attention(a)?.scoring, Scoring::Reference { tile: Tile::Partial, .. });
        q(a).filter(|q| masks && q.rows.start > 0).map(|q| q.rows.start -= 1)
    }),
    ("another head of keys", |a| {
        let arg = attention(a)?;
        let shift = (arg.head_shift + 1) % arg.group;
        // Of one head the key head may be the same.
        (arg.heads > 1).then(|| arg.head_shift = shift)
    }),
    ("a carry begun anew", |a| {
        let arg = attention(a)?;
        arg.carry_in.then(|| arg.carry_in = false)
    }),
    ("a result elsewhere", |a| q(a)?.out.as_mut().map(|o| o.at.offset += 12)),
    ("heads of results further apart", |a| {
        let several = attention(a)?.heads > 1;
        q(a)?.out.as_mut().filter(|_| several).map(|o| o.head_rows += 1)
    }),
    ("another partial result", |a| match a {
        Action::Launch(Launch { argument: Argument::Merge(arg), .. }) => {
            arg.b.as_mut().map(|b| b.offset += 4)
        }
        _ => None,
    }),
    ("bytes of a message from elsewhere", |a| match a {
        Action::Group(group) => {
            group.sends.last_mut()?.parts.last_mut().map(|p| p.at.offset = p.at.offset.wrapping_sub(4))
        }
        _ => None,
    }),
    ("bytes of a message to elsewhere", |a| match a {
        Action::Group(group) => group.recvs.last_mut()?.parts.last_mut().map(|p| p.at.offset += 4),
        _ => None,
    }),
];

/// A wrong address, stride, count or flag in any operation of a program gives other bits, or an error, never a panic.
#[test]
fn faults_in_arguments_show() {
    let mut case = Attention::travelling(3, LayoutKind::Zigzag);
    case.sizes.v_head_dim = 3;
    let whole = oracle::arguments(&case, 3);
    let args: Vec<Vec<Tensor>> = (0..3).map(|r| oracle::local(&case, &whole, r)).collect();
    let run = |programs: &[Program]| {
        let mut engines = Cpu::engines(Device::new(programs, handed(&args), 9));
        walk_all(programs, &mut engines, &mut Local::ends(3)).map_err(|e| e.to_string())?;
        Ok::<_, String>(engines.iter().map(Cpu::results).collect::<Vec<_>>())
    };
    let mut planted = std::collections::BTreeMap::new();
    for way in [Plan::Ring, Plan::Queries, Plan::Heads] {
        let programs = lower(&case.schedule(way), Target::Cpu).unwrap();
        let right = run(&programs).unwrap();
        for (name, plant) in PLANTS {
            for rank in 0..3 {
                for at in 0..programs[rank].ops.len() {
                    let mut bad = programs.clone();
                    if plant(&mut bad[rank].ops[at].action).is_none() {
                        continue;
                    }
                    *planted.entry(name).or_insert(0) += 1;
                    assert_ne!(
                        run(&bad).as_ref(),
                        Ok(&right),
                        "{way}, rank {rank}, operation {at}: {name}\n{}",
                        bad[rank]
                    );
                }
            }
        }
    }
    assert_eq!(planted.len(), PLANTS.len(), "{planted:?}");
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

/// A device that is asked so often before it is done, and may say that it computes meanwhile.
struct Slow {
    left: usize,
    works: bool,
}

impl Engine for Slow {
    type Pointer = u64;
    type Error = String;

    fn pointer(&self, at: Address) -> u64 {
        at.offset as u64
    }

    fn launch(&mut self, _: usize, _: usize, _: &Launch) -> Result<(), String> {
        Ok(())
    }

    fn copy(&mut self, _: usize, _: Spread<u64>) -> Result<(), String> {
        Ok(())
    }

    fn record(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn wait(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn query(&mut self, _: usize) -> Result<bool, String> {
        std::thread::sleep(Duration::from_millis(20));
        self.left = self.left.saturating_sub(1);
        Ok(self.left == 0)
    }

    fn worked(&mut self) -> bool {
        self.works
    }
}

/// Nobody sends, and nobody is sent to.
struct Nobody;

impl Transport<Slow> for Nobody {
    fn post(&mut self, _: &mut Slow, _: usize, _: &Group) -> Result<(), TransportError> {
        Ok(())
    }

    fn poll(&mut self, _: &mut Slow, _: usize) -> Result<Polled, TransportError> {
        Ok(Polled::Issued)
    }

    fn abort(&mut self, _: &str) {}
}

#[test]
fn who_computes_is_not_late() {
    let case = Attention::new(5, 1, LayoutKind::Contiguous, annulus::mask::Mask::causal(0));
    let programs = lower(&case.schedule(Plan::Ring), Target::Cpu).unwrap();
    let patience = Duration::from_millis(50);
    walk(&programs[0], &mut Slow { left: 12, works: true }, &mut Nobody, patience).unwrap();
    let late = walk(&programs[0], &mut Slow { left: 1000, works: false }, &mut Nobody, patience);
    assert!(late.unwrap_err().to_string().contains("is not done after 50ms"));
}
