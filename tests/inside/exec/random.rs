//! Tens of thousands of random attentions, split by the pass and run on all ranks, against `eval` in f64.

use super::case::{Case, cases, first_wrong};
use super::{compiled, program_of, text};
use annulus::eval::{Precision, eval};
use annulus::exec::cpu::{Run, run};
use annulus::ir::Tensor;
use annulus::mask::Term;
use annulus::ring::Strategy as Plan;
use annulus::schedule::{RankProgram, Schedule, StepOp};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use rayon::prelude::*;
use std::cell::RefCell;
use std::sync::Arc;

/// How many searches there are, side by side, and how many cases each tries.
const SEARCHES: (usize, u32) = (20, 1000);

/// What a case is an example of.
const KINDS: [&str; 5] =
    ["uneven shares", "a rank without rows", "grouped heads", "a row without keys", "a window"];

/// How many cases there were, and how many of each kind.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    cases: usize,
    of_kind: [usize; KINDS.len()],
}

impl Shares {
    fn count(&mut self, case: &Case, dead_rows: usize) {
        let layouts: [_; 2] = case.layouts().into();
        let of_ranks = |l: &annulus::layout::Layout| (0..case.ranks).map(|r| l.share(r)).collect::<Vec<_>>();
        let shares = layouts.map(|l| of_ranks(&l));
        let s = &case.facts.sizes;
        let is = [
            shares.iter().any(|s| s.iter().any(|n| *n != s[0])),
            shares.iter().any(|s| s.contains(&0)),
            s.q_heads > s.kv_heads,
            dead_rows > 0,
            case.facts.scores.masks().flat_map(|m| &m.terms).any(|t| matches!(t, Term::Window { .. })),
        ];
        self.cases += 1;
        self.of_kind.iter_mut().zip(is).for_each(|(n, is)| *n += usize::from(is));
    }

    fn join(mut self, other: Shares) -> Shares {
        self.cases += other.cases;
        self.of_kind.iter_mut().zip(other.of_kind).for_each(|(n, m)| *n += m);
        self
    }
}

/// Splits and runs the case; the number of rows without keys, or what is wrong.
fn right(case: &Case, plan: Plan) -> Result<usize, String> {
    right_but_for(case, plan, |_| {})
}

/// The same; the schedule is changed before it runs.
fn right_but_for(case: &Case, plan: Plan, change: fn(&mut Schedule)) -> Result<usize, String> {
    let (program, op) = program_of(case);
    let mut schedule = compiled(&program, op, plan);
    change(&mut schedule);
    let planned: (Vec<usize>, Vec<usize>) =
        schedule.ranks.iter().map(|r| (r.bytes_sent(), r.messages())).unzip();
    let schedules = [(op, Arc::new(schedule))].into();
    let go = |seed| run(&program, &schedules, &case.args, seed).map_err(|e| e.to_string());
    let Run { outputs, traffic } = go(case.seed)?;
    if (&traffic.bytes_sent, &traffic.messages) != (&planned.0, &planned.1) {
        return Err(format!("{traffic:?}, not {planned:?} as planned"));
    }
    let whole = eval(&program.graph, &case.args, Precision::F64).map_err(|e| e.to_string())?;
    // Written out here once more: how far off each number may be, and whether the oracle of the house agrees.
    let bounds = case.expected();
    for (i, bound) in [&bounds.out, &bounds.lse].into_iter().enumerate().take(outputs.len()) {
        if let Some(wrong) = first_wrong(&whole[i], bound) {
            return Err(format!("eval, output {i}, {wrong}"));
        }
        let want: Vec<(f64, f64)> = whole[i].to_f64().iter().zip(bound).map(|(&x, b)| (x, b.1)).collect();
        if let Some(wrong) = first_wrong(&outputs[i], &want) {
            return Err(format!("output {i}, {wrong}"));
        }
    }
    // Another order in some, all that may run at once in others.
    for seed in [!case.seed, 0].into_iter().take((case.seed % 16).saturating_sub(13) as usize) {
        if !same_bits(&go(seed)?.outputs, &outputs) {
            return Err(format!("seed {seed} gives other bits"));
        }
    }
    Ok(bounds.dead)
}

fn same_bits(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.data().to_le_bytes() == b.data().to_le_bytes())
}

/// Tries so many cases. A wrong one is made as small as it goes, and comes back as text.
fn search(cases_to_try: u32, judge: fn(&Case, Plan) -> Result<usize, String>) -> Result<Shares, String> {
    let config =
        ProptestConfig { cases: cases_to_try, failure_persistence: None, ..ProptestConfig::default() };
    let shares = RefCell::new(Shares::default());
    let any = (cases(14), proptest::sample::select(&Plan::ALL[..]));
    let found = TestRunner::new(config).run(&any, |(case, plan)| {
        let dead = judge(&case, plan).map_err(TestCaseError::fail)?;
        shares.borrow_mut().count(&case, dead);
        Ok(())
    });
    match found {
        Ok(()) => Ok(shares.into_inner()),
        Err(TestError::Fail(why, (case, plan))) => Err(format!("{why}\n{}", text::print(&case, plan))),
        Err(e) => Err(e.to_string()),
    }
}

/// The last block of the last step of the last rank is lost.
fn lose(s: &mut Schedule) {
    let steps = s.ranks.iter_mut().flat_map(|r: &mut RankProgram| &mut r.steps);
    let kv =
        steps.filter_map(|s| if let StepOp::AttnPartial { kv, .. } = &mut s.op { Some(kv) } else { None });
    if let Some(kv) = kv.last() {
        kv.pop();
    }
}

/// A planted fault is found, made small, and shown again by its text alone.
#[test]
fn a_wrong_case_comes_back_small_and_as_text() {
    let judge = |case: &Case, plan| right_but_for(case, plan, lose);
    let wrong = search(1000, judge).unwrap_err();
    let (why, source) = wrong.split_once("\n").unwrap();
    let (case, plan) = text::read(source).unwrap();
    assert_eq!(text::print(&case, plan), source);
    assert!(case.ranks == 1 && case.facts.leaves.len() <= 1, "{wrong}");
    let again = judge(&case, plan).unwrap_err();
    assert!(why.contains(&again), "{again}, not {why}");
    right(&case, plan).unwrap();
}

/// Cases that were wrong once, or are of a kind that is easily got wrong, with every strategy.
#[test]
fn cases_on_file_are_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inside/exec/found");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (case, _) = text::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for plan in Plan::ALL {
            right(&case, plan).unwrap_or_else(|e| panic!("{}, {}: {e}", path.display(), plan.name()));
        }
        seen += 1;
    }
    assert!(seen > 0);
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    fn any_attention_split_by_the_pass_is_the_attention() {
        let searches = (0..SEARCHES.0).into_par_iter().map(|_| search(SEARCHES.1, right));
        let all = match searches.try_reduce(Shares::default, |a, b| Ok(a.join(b))) {
            Ok(all) => all,
            Err(wrong) => panic!("a case for tests/inside/exec/found: {wrong}"),
        };
        assert_eq!(all.cases, SEARCHES.0 * SEARCHES.1 as usize);
        let shares = KINDS.iter().zip(all.of_kind).map(|(kind, n)| (*kind, n as f64 / all.cases as f64));
        let shares: Vec<(&str, f64)> = shares.collect();
        let words: Vec<String> = shares.iter().map(|(k, n)| format!("{k} {:.1} %", n * 100.0)).collect();
        crate::inside::support::data::say(&format!("{} random attentions: {}", all.cases, words.join(", ")));
        assert!(shares.iter().all(|s| s.1 >= 0.1), "{words:?}");
    }
}
