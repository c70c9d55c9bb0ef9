//! Tens of thousands of random attentions, split by the pass and run on all ranks, against `eval` in f64.

use super::case::{Case, cases, first_wrong};
use super::{on_nodes, program_of, text};
use annulus::eval::{Precision, eval};
use annulus::exec::cpu::{Run, run};
use annulus::ir::{DType, ScoreStep, Tensor};
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
const KINDS: [&str; 9] = [
    "uneven shares",
    "a rank without rows",
    "grouped heads",
    "a row without keys",
    "a window",
    "not the usual order",
    "several fills",
    "a factor of a tensor",
    "a rounding",
];

/// What a case had.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Rows without keys.
    dead: usize,
    /// Scores of which rounding decides whether they are finite, and all.
    unjudged: usize,
    scores: usize,
}

/// How many cases there were, and how many of each kind.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    cases: usize,
    scores: usize,
    unjudged: usize,
    of_kind: [usize; KINDS.len()],
}

impl Shares {
    fn count(&mut self, case: &Case, seen: Seen) {
        let layouts: [_; 2] = case.layouts().into();
        let of_ranks = |l: &annulus::layout::Layout| (0..case.ranks).map(|r| l.share(r)).collect::<Vec<_>>();
        let shares = layouts.map(|l| of_ranks(&l));
        let (s, scores) = (&case.facts.sizes, &case.facts.scores);
        let is = [
            shares.iter().any(|s| s.iter().any(|n| *n != s[0])),
            shares.iter().any(|s| s.contains(&0)),
            s.q_heads > s.kv_heads,
            seen.dead > 0,
            scores.masks().flat_map(|m| &m.terms).any(|t| matches!(t, Term::Window { .. })),
            !scores.is_usual(),
            scores.masks().count() > 1,
            scores.scale().is_none(),
            scores.steps().iter().any(|s| matches!(s, ScoreStep::Round(_))),
        ];
        self.cases += 1;
        self.scores += seen.scores;
        self.unjudged += seen.unjudged;
        self.of_kind.iter_mut().zip(is).for_each(|(n, is)| *n += usize::from(is));
    }

    fn join(mut self, other: Shares) -> Shares {
        self.cases += other.cases;
        self.scores += other.scores;
        self.unjudged += other.unjudged;
        self.of_kind.iter_mut().zip(other.of_kind).for_each(|(n, m)| *n += m);
        self
    }
}

/// Splits and runs the case; what it had, or what is wrong.
fn right(case: &Case, plan: Plan) -> Result<Seen, String> {
    right_but_for(case, plan, |_| {})
}

/// The same; the schedule is changed before it runs.
fn right_but_for(case: &Case, plan: Plan, change: fn(&mut Schedule)) -> Result<Seen, String> {
    let (program, op) = program_of(case);
    // Where levels are used, on one node as often as on several.
    let nodes = (2..=case.ranks).filter(|n| case.ranks.is_multiple_of(*n)).nth(case.seed as usize / 2 % 2);
    let mut schedule =
        on_nodes(&program, op, plan, nodes.filter(|_| case.seed.is_multiple_of(2)).unwrap_or(1));
    change(&mut schedule);
    let planned =
        (schedule.bytes_sent(), schedule.ranks.iter().map(RankProgram::messages).collect::<Vec<_>>());
    let schedules = [(op, Arc::new(schedule))].into();
    let go = |seed| run(&program, &schedules, &case.args, seed).map_err(|e| e.to_string());
    let Run { outputs, traffic } = go(case.seed)?;
    if (&traffic.bytes_sent, &traffic.messages) != (&planned.0, &planned.1) {
        return Err(format!("{traffic:?}, not {planned:?} as planned"));
    }
    // Written out once more in f64, and in the type of accumulation. In f64 the oracle of the house must agree.
    let (exact, bounds) = (case.expected_in(DType::F64), case.expected());
    let whole = eval(&program.graph, &case.args, Precision::F64).map_err(|e| e.to_string())?;
    for (i, (exact, bound)) in [(&exact.out, &bounds.out), (&exact.lse, &bounds.lse)].into_iter().enumerate()
    {
        if let Some(wrong) = whole.get(i).and_then(|x| first_wrong(x, exact)) {
            return Err(format!("eval, output {i}, {wrong}"));
        }
        if let Some(wrong) = outputs.get(i).and_then(|x| first_wrong(x, bound)) {
            return Err(format!("output {i}, {wrong}"));
        }
    }
    // Another order in some, all that may run at once in others.
    for seed in [!case.seed, 0].into_iter().take((case.seed % 16).saturating_sub(13) as usize) {
        if !same_bits(&go(seed)?.outputs, &outputs) {
            return Err(format!("seed {seed} gives other bits"));
        }
    }
    Ok(Seen { dead: bounds.dead, unjudged: bounds.unjudged, scores: bounds.scores })
}

fn same_bits(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.data().to_le_bytes() == b.data().to_le_bytes())
}

/// Tries so many cases. A wrong one is made as small as it goes, and comes back as text.
fn search(cases_to_try: u32, judge: fn(&Case, Plan) -> Result<Seen, String>) -> Result<Shares, String> {
    let config =
        ProptestConfig { cases: cases_to_try, failure_persistence: None, ..ProptestConfig::default() };
    let shares = RefCell::new(Shares::default());
    let any = (cases(14), proptest::sample::select(&Plan::ALL[..]));
    let found = TestRunner::new(config).run(&any, |(case, plan)| {
        let seen = judge(&case, plan).map_err(TestCaseError::fail)?;
        shares.borrow_mut().count(&case, seen);
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
        assert!(shares.iter().all(|s| s.1 >= 0.09), "{words:?}");
        assert!(all.unjudged * 1000 < all.scores, "{} of {} scores", all.unjudged, all.scores);
    }
}
