//! Decode graphs at random, through the whole pass and run on every rank, against `eval` in f64: none panics, none is wrong.
//!
//! The suite runs a few hundred; `tests/decode.sh` runs as many as it is told from the seed that it is told:
//! `ANNULUS_DECODE_GRAPHS`, `ANNULUS_DECODE_SEED`. `ANNULUS_DECODE_SHOW` runs one seed and prints its graph.

mod graph;

use annulus::eval::{Precision, eval};
use annulus::ir::{DType, Tensor};
use annulus::shard::{Segment, ShardError};
use annulus::{Error, Options, compile, run};
pub(crate) use graph::decode;
use graph::{Decode, decode_in_f64};
use rayon::iter::Either;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run of many graphs must meet, each in at least one of a hundred graphs.
const KINDS: [&str; 24] = [
    "a finite fill",
    "a mask of each batch entry",
    "an empty cache",
    "an input along another axis",
    "an input by rows",
    "another number of new keys",
    "as many old rows as new ones",
    "attention written out",
    "caches that meet",
    "cross-attention",
    "fewer rows than ranks",
    "given rows",
    "grouped heads",
    "heads of one row by a reshape",
    "keys or values alone are cached",
    "layers of caches as long as the new rows",
    "layers of equal caches",
    "layers of rows of their own",
    "layers of unequal caches",
    "one rank",
    "other sizes of keys and values",
    "several new rows",
    "steps in another order",
    "values that are the keys",
];

/// What became of a graph.
#[derive(Debug, Default)]
struct Outcome {
    /// Why it was refused whole.
    refused: Option<String>,
    found: usize,
    split: usize,
    /// Why values were put together on every rank.
    gathers: Vec<String>,
    /// Why attentions were left whole.
    left: Vec<String>,
}

/// Words without numbers and names.
fn kind(message: &str) -> String {
    let plain = |w: &&str| !w.contains(|c: char| c.is_ascii_digit() || "%\"_[]".contains(c));
    message.split(' ').filter(plain).collect::<Vec<_>>().join(" ")
}

/// Compiles and runs, all of it; what is wrong, if anything is. A graph whose numbers lose digits to a fill is judged in f64 as well, where
/// they lose none.
fn judge(seed: u64, case: &Decode) -> Result<Outcome, String> {
    let filled = case.kinds.contains("a finite fill");
    let outcome = judge_within(seed, case, |dtype| tolerance(dtype, filled))?;
    if filled {
        judge_within(seed, &decode_in_f64(seed), |_| 1e-9).map_err(|why| format!("in f64: {why}"))?;
    }
    Ok(outcome)
}

fn judge_within(seed: u64, case: &Decode, within: impl Fn(DType) -> f64) -> Result<Outcome, String> {
    let options = Options::new(case.ranks)
        .layout(case.layout)
        .strategy(case.strategy)
        .inputs(case.handed.iter().cloned());
    let compiled = match compile(&case.graph, &options) {
        Ok(compiled) => compiled,
        Err(Error::Shard(e @ (ShardError::Input { .. } | ShardError::Layout { .. }))) => {
            return Ok(Outcome { refused: Some(kind(&e.to_string())), ..Outcome::default() });
        }
        Err(e) => return Err(e.to_string()),
    };
    let program = &compiled.program;
    let gather = |s: &Segment| match s {
        Segment::Gather { reason, .. } => Some(kind(reason)),
        _ => None,
    };
    let outcome = Outcome {
        refused: None,
        found: compiled.attentions.len(),
        split: program.islands.len(),
        gathers: program.segments.iter().filter_map(gather).collect(),
        left: program.refused.iter().map(|(_, why)| kind(why)).collect(),
    };
    let rank = seed as usize % case.ranks;
    compiled.hand_back(rank).map_err(|e| format!("hand back: {e}"))?;
    compiled.rank_graph(rank).map_err(|e| format!("graph of a rank: {e}"))?;
    #[cfg(feature = "dump")]
    annulus::dump::report::report(&compiled);
    let got = run(&compiled, &case.inputs, seed).map_err(|e| format!("run: {e}"))?.outputs;
    let want = eval(&case.graph, &case.inputs, Precision::F64).map_err(|e| format!("eval: {e}"))?;
    for ((got, want), o) in got.iter().zip(&want).zip(case.graph.outputs()) {
        differs(got, want, within(got.dtype()))
            .map_or(Ok(()), |why| Err(format!("output {}: {why}", o.name)))?;
    }
    if got.len() == want.len() { Ok(outcome) } else { Err(format!("{} outputs", got.len())) }
}

/// How far off numbers may be. Values are of the order of 1, and what is of other rows is off by as much. A score of f32 to which
/// −10000 was added is off by half a unit of the sum's last place: a relative error of 2^-24.
fn tolerance(dtype: DType, filled: bool) -> f64 {
    match dtype {
        DType::F32 if filled => 1e-4 + 1e4 * 2f64.powi(-24),
        DType::F64 => 1e-7,
        DType::F16 => 2e-2,
        DType::BF16 => 1e-1,
        _ => 1e-4,
    }
}

/// The first number that is off.
fn differs(got: &Tensor, want: &Tensor, tolerance: f64) -> Option<String> {
    if got.shape() != want.shape() {
        return Some(format!("{:?}, and not {:?}", got.shape(), want.shape()));
    }
    let right = |(g, w): (f64, f64)| {
        g == w || g.is_nan() && w.is_nan() || (g - w).abs() <= tolerance * (1.0 + w.abs())
    };
    let mut pairs = got.to_f64().into_iter().zip(want.to_f64()).enumerate();
    let (i, (g, w)) = pairs.find(|&(_, pair)| !right(pair))?;
    Some(format!("element {i} is {g}, and not {w}"))
}

/// A graph with what is asked, for a person.
fn shown(case: &Decode) -> String {
    let (layout, strategy) = (case.layout.map(|l| l.name()), case.strategy.map(|s| s.name()));
    format!("{}\n{} ranks, {layout:?}, {strategy:?}, {:?}", case.graph, case.ranks, case.handed)
}

/// What became of the graphs of these seeds; the first that is wrong, with its seed.
fn all(seeds: std::ops::Range<u64>) -> Result<(Vec<Outcome>, BTreeMap<&'static str, usize>), String> {
    let one = |seed: u64| {
        let case = decode(seed);
        let judged = catch_unwind(AssertUnwindSafe(|| judge(seed, &case)));
        let judged = judged.unwrap_or_else(|_| Err("it panics".into()));
        judged.map(|o| (o, case.kinds.clone())).map_err(|why| format!("seed {seed}: {why}\n{}", shown(&case)))
    };
    let (done, wrong): (Vec<_>, Vec<String>) =
        seeds.into_par_iter().map(one).partition_map(|judged| match judged {
            Ok(done) => Either::Left(done),
            Err(wrong) => Either::Right(wrong),
        });
    if let Some(first) = wrong.first() {
        let lines = wrong.iter().filter_map(|w| w.lines().next()).map(kind);
        return Err(format!("{} are wrong:\n{}the first: {first}", wrong.len(), counts(lines)));
    }
    let mut kinds = BTreeMap::new();
    done.iter().flat_map(|(_, kinds)| kinds).for_each(|kind| *kinds.entry(*kind).or_insert(0) += 1);
    Ok((done.into_iter().map(|d| d.0).collect(), kinds))
}

/// How often each was.
fn counts(words: impl Iterator<Item = String>) -> String {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    words.for_each(|w| *counted.entry(w).or_insert(0) += 1);
    let mut counted: Vec<(String, usize)> = counted.into_iter().collect();
    counted.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counted.into_iter().map(|(w, n)| format!("  {n:6} {w}\n")).collect()
}

fn report(outcomes: &[Outcome], kinds: &BTreeMap<&'static str, usize>) -> String {
    let sum = |f: fn(&Outcome) -> usize| outcomes.iter().map(f).sum::<usize>();
    let refused = outcomes.iter().filter_map(|o| o.refused.clone());
    let all_split = outcomes.iter().filter(|o| o.refused.is_none() && o.found == o.split).count();
    let plain = outcomes.iter().filter(|o| o.refused.is_none() && o.gathers.is_empty()).count();
    format!(
        "{} decode graphs, none wrong: {} attentions, {} split; all are split in {all_split} graphs, and nothing is put together in {plain}\n\
         refused:\n{}left whole:\n{}put together:\n{}kinds:\n{}",
        outcomes.len(),
        sum(|o| o.found),
        sum(|o| o.split),
        counts(refused),
        counts(outcomes.iter().flat_map(|o| o.left.clone())),
        counts(outcomes.iter().flat_map(|o| o.gathers.clone())),
        kinds.iter().map(|(k, n)| format!("  {n:6} {k}\n")).collect::<String>(),
    )
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

#[test]
fn decode_graphs_at_random_are_computed_as_they_stand() {
    if let Some(seed) = number("ANNULUS_DECODE_SHOW") {
        let case = decode(seed);
        crate::inside::support::data::say(&format!("{}\n{:?}", shown(&case), judge(seed, &case)));
        return;
    }
    let (graphs, first) = (number("ANNULUS_DECODE_GRAPHS"), number("ANNULUS_DECODE_SEED").unwrap_or(0));
    let (outcomes, kinds) =
        all(first..first + graphs.unwrap_or(400)).unwrap_or_else(|wrong| panic!("{wrong}"));
    let report = report(&outcomes, &kinds);
    if graphs.is_some() {
        crate::inside::support::data::say(&report);
    }
    // Most are split, and what the graphs are made for is among them.
    let split: usize = outcomes.iter().map(|o| o.split).sum();
    assert!(split > outcomes.len(), "{report}");
    let rare: Vec<&str> =
        KINDS.into_iter().filter(|k| kinds.get(k).is_none_or(|n| n * 100 < outcomes.len())).collect();
    assert!(rare.is_empty(), "{rare:?}\n{report}");
}
