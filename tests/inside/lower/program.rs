//! Device programs: their text, their order, and what is refused.

use crate::inside::check::corpus;
use crate::inside::check::hostile::{changed, changes};
use crate::inside::ring::case::{Case, LeafCase};
use crate::inside::schedule::beside::with_budgets;
use crate::inside::support::cases::snapshot;
use annulus::ir::DType;
use annulus::layout::LayoutKind;
use annulus::lower::Arch;
use annulus::lower::program::{Action, Program, Target, lower};
use annulus::mask::Mask;
use annulus::ring::Strategy as Way;
use annulus::schedule::{Schedule, StepOp, parse};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

const HOPPER: Target = Target::Cuda(Arch::Sm90a);

/// Ten causal rows of four heads over two in bf16, heads of 64, so that there are kernels.
fn case(ranks: usize) -> Case {
    let mut case = Case::travelling(ranks, LayoutKind::Zigzag);
    (case.dtype, case.sizes.head_dim, case.sizes.v_head_dim) = (DType::BF16, 64, 64);
    case
}

#[test]
fn programs_read_as_the_schedules_that_they_are_of() {
    for way in [Way::Ring, Way::AllGather, Way::Queries, Way::Heads] {
        for ranks in [2, 3] {
            // Nobody says what transfers hold, or it is said.
            let held = (ranks == 3).then_some(8);
            let schedule = with_budgets(case(ranks).schedule(way), &[held]);
            let programs = lower(&schedule, HOPPER).unwrap();
            let text: String = programs.iter().take(2).map(Program::to_string).collect();
            snapshot("lower", &format!("program_{}_p{ranks}", way.name()), &format!("{schedule}\n{text}"));
        }
    }
}

/// Nodes are a rank's steps; what comes before what.
type Order = BTreeSet<((usize, usize), (usize, usize))>;

fn closure(edges: &Order) -> Order {
    let mut after: BTreeMap<(usize, usize), BTreeSet<(usize, usize)>> = BTreeMap::new();
    edges.iter().for_each(|(a, b)| {
        after.entry(*a).or_default().insert(*b);
    });
    let mut all = Order::new();
    for &start in after.keys() {
        let mut stack = vec![start];
        let mut seen = BTreeSet::new();
        while let Some(at) = stack.pop() {
            for &next in after.get(&at).into_iter().flatten() {
                if seen.insert(next) {
                    stack.push(next);
                }
            }
        }
        all.extend(seen.into_iter().map(|end| (start, end)));
    }
    all
}

/// What the text of a program says: per line the step, the stream, the word, and its first argument.
fn lines(text: &str) -> Vec<(usize, String, String, String)> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let step = words.next()?.strip_prefix('#')?.parse().ok()?;
        let mut word = || words.next().unwrap_or_default().to_owned();
        Some((step, word(), word(), word()))
    };
    text.lines().filter_map(of).collect()
}

/// Streams, waits and records alone, read from the text of the program.
fn order_of_text(texts: &[String]) -> Order {
    let mut edges = Order::new();
    for (rank, text) in texts.iter().enumerate() {
        // Every line is a node of its own; lines of a step are told apart.
        let lines = lines(text);
        let (mut last, mut records) = (BTreeMap::new(), BTreeMap::new());
        for (i, (_, stream, word, event)) in lines.iter().enumerate() {
            if let Some(before) = last.insert(stream, i) {
                edges.insert(((rank, before), (rank, i)));
            }
            if word == "record" {
                records.insert(event, i);
            }
        }
        for (i, (_, _, word, event)) in lines.iter().enumerate() {
            if word == "wait" {
                edges.insert(((rank, records[event]), (rank, i)));
            }
        }
    }
    edges
}

/// What comes before what among the lines that do something, step by step.
fn steps_of_text(texts: &[String]) -> Order {
    let all: Vec<_> = texts.iter().map(|t| lines(t)).collect();
    let works = |(rank, i): (usize, usize)| {
        let (step, _, word, _) = &all[rank][i];
        (!["wait", "record"].contains(&word.as_str())).then_some((rank, *step))
    };
    let ordered = closure(&order_of_text(texts));
    let of = |(a, b): ((usize, usize), (usize, usize))| Some((works(a)?, works(b)?));
    ordered.into_iter().filter_map(of).filter(|(a, b)| a != b).collect()
}

/// The same of the schedule's own fields.
fn steps_of_schedule(schedule: &Schedule) -> Order {
    let mut edges = Order::new();
    for (rank, program) in schedule.ranks.iter().enumerate() {
        let mut last = BTreeMap::new();
        for (i, step) in program.steps.iter().enumerate() {
            if let Some(before) = last.insert(step.stream, i) {
                edges.insert(((rank, before), (rank, i)));
            }
            for wait in &step.waits {
                let by = program.steps.iter().position(|s| s.records == Some(*wait)).unwrap();
                edges.insert(((rank, by), (rank, i)));
            }
        }
    }
    closure(&edges)
}

/// Steps that are nothing on a device, as those of no rows.
fn idle(schedule: &Schedule, texts: &[String]) -> BTreeSet<(usize, usize)> {
    let mut idle = BTreeSet::new();
    for (rank, program) in schedule.ranks.iter().enumerate() {
        let busy: BTreeSet<usize> = lines(&texts[rank])
            .iter()
            .filter(|l| !["wait", "record"].contains(&l.2.as_str()))
            .map(|l| l.0)
            .collect();
        for i in (0..program.steps.len()).filter(|i| !busy.contains(i)) {
            assert!(!matches!(program.steps[i].op, StepOp::Exchange { .. }), "step {i} is lost");
            idle.insert((rank, i));
        }
    }
    idle
}

/// What a program does after what is what the schedule says, no more and no less.
#[test]
fn order_and_events_are_those_of_the_schedule() {
    let all = corpus::corpus().into_iter().step_by(29).chain(corpus::travelling());
    let mut with_events = 0;
    for (name, _, schedule) in all {
        let programs = lower(&schedule, Target::Cpu).unwrap();
        let texts: Vec<String> = programs.iter().map(Program::to_string).collect();
        let idle = idle(&schedule, &texts);
        let mut want = steps_of_schedule(&schedule);
        want.retain(|(a, b)| !idle.contains(a) && !idle.contains(b));
        assert_eq!(steps_of_text(&texts), want, "{name}\n{schedule}\n{}", texts.concat());
        with_events += usize::from(texts.iter().any(|t| t.contains(" wait ")));
        // Groups and the length of their messages, too.
        for (program, rank) in programs.iter().zip(&schedule.ranks) {
            let mut groups = program.ops.iter().filter_map(|op| match &op.action {
                Action::Group(group) => Some((op.step, group)),
                _ => None,
            });
            for (i, step) in rank.steps.iter().enumerate() {
                let StepOp::Exchange { group, sends, recvs, .. } = &step.op else { continue };
                let (at, got) = groups.next().unwrap();
                let f = &schedule.attention;
                let want = |ts: &[annulus::schedule::Transfer]| {
                    ts.iter().map(|t| (t.peer, t.bytes(f))).collect::<Vec<_>>()
                };
                let have = |ms: &[annulus::lower::program::Message]| {
                    ms.iter().map(|m| (m.peer, m.bytes())).collect::<Vec<_>>()
                };
                assert_eq!((at, got.group), (i, *group));
                assert_eq!((have(&got.sends), have(&got.recvs)), (want(sends), want(recvs)), "{name}");
            }
            assert!(groups.next().is_none());
        }
    }
    assert!(with_events > 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Numbers of a right schedule are changed at random: there is a program or a reason, and no panic.
    #[test]
    fn strange_numbers_are_lowered_or_refused(changes in changes(), which in any::<Index>(), half: bool) {
        static ALL: OnceLock<Vec<Schedule>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let travelling = corpus::travelling().into_iter().map(|(_, _, schedule)| schedule);
            travelling.chain([corpus::example(), case(3).schedule(Way::Heads)]).collect()
        });
        let text = changed(all[which.index(all.len())].to_string(), changes);
        if let Ok(schedules) = parse(&text) {
            let mut schedule = schedules[0].clone();
            if half {
                (schedule.attention.dtype, schedule.attention.acc) = (DType::BF16, DType::F32);
            }
            for target in [Target::Cpu, HOPPER] {
                match lower(&schedule, target) {
                    Ok(programs) => prop_assert_eq!(programs.len(), schedule.ranks.len()),
                    Err(e) => prop_assert!(e.to_string().starts_with("rank ")),
                }
            }
        }
    }
}

/// What no kernel computes names the rank, the step, the reason and the way out.
#[test]
fn what_has_no_kernel_is_refused_before_anything_runs() {
    let said = |case: &Case, way| lower(&case.schedule(way), HOPPER).unwrap_err().to_string();
    let mut double = case(2);
    (double.dtype, double.attention.acc) = (DType::F64, DType::F64);
    let text = said(&double, Way::Ring);
    assert!(
        text.starts_with("rank 0, step 1 (attn_partial): no GPU kernel computes attention in f64"),
        "{text}"
    );
    assert!(text.ends_with("or run on the CPU"), "{text}");
    let mut large = case(2);
    large.sizes.head_dim = 264;
    assert!(said(&large, Way::Heads).contains("the kernels take heads up to 256"));
    let mut odd = case(2);
    odd.attention.scores = "add 3".parse().unwrap();
    odd.leaves = vec![LeafCase { dtype: DType::F16, shape: vec![10, 10], by_query_rows: true }];
    let text = said(&odd, Way::Queries);
    assert!(
        text.contains("(attn_partial): bias is f16: the kernels read it in f32 or in the type of q"),
        "{text}"
    );

    // Sinks that are counted before the end.
    let mut case = case(2);
    case.attention.sinks = Some(3);
    case.leaves = vec![LeafCase { dtype: DType::F32, shape: vec![4, 1, 1], by_query_rows: false }];
    let mut schedule = case.schedule(Way::Ring);
    let step = schedule.ranks[1].steps.iter_mut().enumerate().find_map(|(i, s)| match &mut s.op {
        StepOp::AttnPartial { sinks_here, cast_out: false, .. } => {
            *sinks_here = true;
            Some(i)
        }
        _ => None,
    });
    let text = lower(&schedule, HOPPER).unwrap_err().to_string();
    let begin = format!(
        "rank 1, step {} (attn_partial): sinks are counted before the result is cast out",
        step.unwrap()
    );
    assert!(text.starts_with(&begin), "{text}");
    assert!(lower(&schedule, Target::Cpu).is_ok());

    // A slot that begins where no kernel reads.
    let mut schedule = case.schedule(Way::Ring);
    let mask = Mask::causal(0);
    assert_eq!(case.attention.scores.masks().next(), Some(&mask));
    schedule.ranks[0].slots[0].offset = 1;
    schedule.ranks[0].arena_bytes += 1;
    let text = lower(&schedule, HOPPER).unwrap_err().to_string();
    assert!(text.contains("q, k, v or the result lies at a byte that is no multiple of 2"), "{text}");
}
