//! Random spellings of one attention: those that are attention for every input are found, with the figures they were made
//! from, and all compute what they did.

mod masks;
mod spelling;
mod write;

use super::cases::inputs;
use annulus::eval::{Precision, eval};
use annulus::find::report::record;
use annulus::find::{FindOptions, Found, find};
use annulus::ir::{DType, Graph, Op, ScoreStep, Tensor};
use masks::{Fill, How};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use spelling::{Extra, Spelling, Sum, Widened, spelling};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::f64::consts::{LN_2, LOG2_E};
use write::write;

/// Whether this is attention for every input.
fn is_attention(s: &Spelling) -> bool {
    let masks: Vec<How> = s.masks().map(|m| m.how).collect();
    // Where large scores leave nothing of a sum, zeros stand for NaN, and a softmax is not zero.
    let after = masks.iter().any(|m| matches!(m, How::AfterExp { .. }));
    // A guard of a sum that may be any number above 0 decides where what was dropped has large scores.
    let vanishing = after && (s.guarded || s.quotient.sum != Sum::Plain);
    // A bias of an input may be ±∞ where −∞ is added to it or 0 multiplies it, and something tells NaN from a number.
    let of_input = |m: &&How| matches!(m, How::Bias);
    let infinite = |m: &&How| m.fill() == Some(Fill::Infinity) || matches!(m, How::Multiplied(_));
    let biases = masks.iter().filter(of_input).count();
    let meeting = s.guarded && biases > 0 && biases + masks.iter().filter(infinite).count() > 1;
    // A factor that may be 0 or below meets −∞, and something tells NaN from a number.
    let factor = |e: Option<Extra>| e.is_some_and(|e| e != Extra::Cap);
    let behind =
        factor(s.extras[1]) && (may_overflow(s) || masks.iter().any(|m| infinite(&m) || of_input(&m)));
    // So does the 0 of a mask that multiplies.
    let before = factor(s.extras[0]) || may_overflow(s) && s.dtype == DType::F16;
    let before = before && masks.iter().any(|m| matches!(m, How::Multiplied(_)));
    let zeroed = s.guarded && (behind || before);
    !s.is_across() && !vanishing && !meeting && !zeroed
}

/// Whether this is attention for every input, and written so that it must be found.
fn must_be_found(s: &Spelling) -> bool {
    // log2(e) is another number in halves: a factor on shifted scores and the sink beside them, which may be any numbers if a bias is, or
    // a factor on what was filled in.
    let shifted = s.sinks.is_some_and(|x| x.shifted);
    let factor = s.extras[1].is_some_and(|e| e != Extra::Cap);
    let any = s.masks().any(|m| m.how == How::Bias || factor && m.how.fill().is_some());
    let powers = s.is_half() && s.powers_of_two() && shifted && any;
    // In f16 two fills are not told from two that overflow together to −∞, which a factor would make NaN.
    let f16 = s.dtype == DType::F16 && s.widened != Widened::BeforeMasks;
    let fills = s.masks().filter(|m| m.how.fill().is_some()).count();
    let together = s.guarded && f16 && factor && fills > 1;
    is_attention(s) && !powers && !together
}

/// Whether masks make −∞ of what is attention otherwise: twice the least number is −∞, and so is that of f16 with a score below −16, or
/// with −10⁴.
fn may_overflow(s: &Spelling) -> bool {
    let least = |m: &How| m.fill() == Some(Fill::Least);
    let masks: Vec<How> = s.masks().map(|m| m.how).collect();
    let f16 = s.dtype == DType::F16 && s.widened != Widened::BeforeMasks;
    let below = masks.contains(&How::Add(Fill::Least))
        || masks.iter().any(least) && masks.contains(&How::Add(Fill::TenThousand));
    masks.iter().filter(|m| least(m)).count() == 2 || f16 && below
}

/// The scale that the factors of a spelling come to, each rounded to its type.
fn scale(s: &Spelling) -> f64 {
    let rounded = |dtype, x: f64| Tensor::scalar(dtype, x).to_f64()[0];
    let factor = |i: usize| s.scales[i].map_or(1.0, |f| rounded(s.dtype, f));
    let late = if s.late { 0.5 } else { 1.0 };
    let last = if s.widened == Widened::Nowhere { s.dtype } else { DType::F32 };
    let base = if s.powers_of_two() { rounded(last, LOG2_E) * LN_2 } else { 1.0 };
    late * base * factor(0) * factor(1) * factor(2) / factor(3)
}

/// Why what was found are not the figures that a spelling was made from.
fn figures(s: &Spelling, found: &Found) -> Result<(), TestCaseError> {
    let r = record(&found.graph, &found.attentions[0]);
    let heads = s.kv_heads * s.repeat;
    prop_assert_eq!((r.q_len, r.kv_len, r.head_dim, r.v_head_dim), (s.q_len, s.kv_len, s.depth, s.depth_v));
    let operands = found.graph.operands(found.attentions[0].op);
    let batch = found.graph.ty(operands[0]).shape[0];
    // Of one key head that several query heads share, and of one head, nothing but names tells them apart.
    prop_assert_eq!((batch * r.q_heads, batch * r.kv_heads), (s.batch * heads, s.batch * s.kv_heads));
    if !s.flat {
        prop_assert_eq!((r.q_heads, r.kv_heads), (heads, s.kv_heads));
    }
    let want = scale(s);
    let close = |x: f64| (x - want).abs() <= 1e-6 * want.abs();
    // A factor a row may stay an operand of the scores.
    let more = s.extras.iter().flatten().any(|e| *e != Extra::Cap);
    let operand = more || s.row_factor && r.scale.is_none();
    prop_assert!(operand || r.scale.is_some_and(close), "{:?} for {}", r.scale, want);
    prop_assert_eq!(r.sinks, s.sinks.is_some());
    if s.sinks.is_some_and(|x| x.by_head) {
        let sinks = operands.last().map(|&v| found.graph.ty(v).elements());
        prop_assert_eq!(sinks, Some(heads), "stays one a head");
    }
    if s.past == 0 {
        // One softmax stands for exponentials that only a merging of parts understands.
        let ends = [r.nodes.first(), r.nodes.last()].map(|n| n.map(String::as_str));
        prop_assert_eq!(ends, [Some("qk"), Some("pv")]);
        // So does one for a quotient whose sum is guarded.
        let made = more || s.quotient.sum != Sum::Plain;
        prop_assert!(r.nodes.len() == 3 && (made || r.nodes[1] == "softmax"), "{:?}", r.nodes);
    }
    Ok(())
}

/// The results of a graph over inputs from a seed. What divides is not near 0: in a row without a key it would multiply what is
/// rounded of scores beside −10⁴.
fn results(s: &Spelling, g: &Graph, seed: u64, precision: Precision) -> Result<Tensor, String> {
    let mut all = inputs(g, seed);
    for (v, t) in g.inputs().into_iter().zip(&mut all) {
        let divides =
            |n: usize| s.extras[n] == Some(Extra::Divisor) && g.value(v).name == format!("extra{n}");
        if divides(0) || divides(1) {
            let far: Vec<f64> = t.to_f64().into_iter().map(|x| x + 0.5f64.copysign(x)).collect();
            *t = Tensor::from_f64(t.dtype(), t.shape().to_vec(), &far).expect("as many numbers as before");
        }
    }
    eval(g, &all, precision).map(|mut out| out.remove(0)).map_err(|e| e.to_string())
}

/// The same with scores far apart, in f64, where their exponentials do not vanish: as often as not a key that a mask drops is far above
/// those that it keeps.
fn far_apart(g: &Graph, seed: u64) -> Tensor {
    let larger = |t: Tensor| {
        let values: Vec<f64> = t.to_f64().iter().map(|x| 3.0 * x).collect();
        let float = t.dtype().is_float();
        if float { Tensor::from_f64(t.dtype(), t.shape(), &values).unwrap() } else { t }
    };
    let inputs: Vec<Tensor> = inputs(g, seed).into_iter().map(larger).collect();
    eval(g, &inputs, Precision::F64).unwrap().remove(0)
}

/// How far results are apart; if `finite`, where `want` is.
fn error(got: &Tensor, want: &Tensor, finite: bool) -> f64 {
    let apart = |(&got, &want): (&f64, &f64)| {
        let same = got == want || got.is_nan() && want.is_nan() || finite && !want.is_finite();
        let apart = if same { 0.0 } else { (got - want).abs() };
        if apart.is_nan() { f64::INFINITY } else { apart }
    };
    got.to_f64().iter().zip(&want.to_f64()).map(apart).fold(0.0, f64::max)
}

fn largest(t: &Tensor) -> f64 {
    t.to_f64().into_iter().filter(|x| x.is_finite()).fold(1.0, |m, x| x.abs().max(m))
}

/// Whether an attention rounds scores.
fn has_rounds(g: &Graph) -> bool {
    let rounds = |s: &ScoreStep| matches!(s, ScoreStep::Round(_));
    g.ops().iter().any(|&id| matches!(g.op(id), Op::Attention(a) if a.scores.steps().iter().any(rounds)))
}

/// Both graphs in halves. In f64, where only casts and what is folded into halves round, they are as near as these let them
/// be; in their own type the one that was found is as near to what is exact as the one that was written, but for the
/// rounding of what is put out.
fn same_in_halves(
    s: &Spelling,
    before: &Graph,
    after: &Graph,
    seed: u64,
    finite: bool,
) -> Result<(), String> {
    let exact = results(s, before, seed, Precision::F64)?;
    if has_rounds(after) {
        // What is exact knows nothing of it: both round alike.
        let [written, found] = [before, after].map(|g| results(s, g, seed, Precision::Declared));
        let (written, found) = (written?, found?);
        let unit = if s.dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
        let apart = error(&found, &written, finite);
        let near = apart <= 8.0 * unit * largest(&written);
        return if near { Ok(()) } else { Err(format!("apart by {apart} in {}", s.dtype)) };
    }
    // Half a unit in the last place of 1.
    let unit = if s.dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
    // A factor on sinks or a bias is a half too.
    let rounds = s.widened != Widened::Nowhere || s.powers_of_two() || s.row_factor;
    let apart = error(&results(s, after, seed, Precision::F64)?, &exact, finite);
    if apart > if rounds { 4.0 * unit } else { 1e-6 } * largest(&exact) {
        return Err(format!("apart by {apart} in f64"));
    }
    let written = error(&results(s, before, seed, Precision::Declared)?, &exact, finite);
    let found = error(&results(s, after, seed, Precision::Declared)?, &exact, finite);
    if found > written + 4.0 * unit * largest(&exact) {
        return Err(format!("{found} from what is exact, not {written}"));
    }
    Ok(())
}

/// How often a row without a key has its scores beside −10⁴, where each is a multiple of 10⁻³ in f32 and of 2·10⁻¹² in f64, whatever was
/// rounded before: the number is added to them, or a bias to the number that replaced them.
fn beside_ten_thousand(s: &Spelling) -> usize {
    let all: Vec<How> = s.masks().map(|m| m.how).collect();
    let beside = |(i, how): (usize, &How)| match how {
        How::Add(Fill::TenThousand) | How::Multiplied(Fill::TenThousand) => true,
        How::Where { fill: Fill::TenThousand, .. } => all[i + 1..].contains(&How::Bias),
        _ => false,
    };
    all.iter().enumerate().filter(|&at| beside(at)).count()
}

/// How many spellings were tried, and why some of them were not found.
#[derive(Default)]
struct Count {
    tried: Cell<u32>,
    missed: RefCell<BTreeMap<String, u32>>,
    /// Of those that are attention for every input: how many were tried, and how many found.
    attentions: Cell<[u32; 2]>,
}

/// The least share of spellings that are found, of those that are attention for every input.
const SHARE: f64 = 0.97;
/// The same, of those that are attention for some inputs: most of the others are refused rightly, for something behind them tells NaN
/// from a number where they are none.
const SHARE_OF_ALL: f64 = 0.92;
/// From so many spellings on that share scatters by less than a percent, whatever is drawn.
const MANY: u32 = 20_000;

#[test]
fn every_spelling_is_found() {
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::default() };
    // As many as the script asks for.
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    assert_eq!(config.cases, asked.unwrap_or(config.cases));
    let count = Count::default();
    let tried = TestRunner::new(config).run(&(spelling(), 1u64..1000), |(s, seed)| spelled(&s, seed, &count));
    if let Err(e) = tried {
        panic!("{e}");
    }
    let (tried, missed) = (count.tried.get(), count.missed.into_inner());
    missed.iter().for_each(|(why, times)| println!("missed {times} times: {why}"));
    let found = tried - missed.values().sum::<u32>();
    let [all, of_all] = count.attentions.get();
    println!("{found} of {tried} spellings were found, {of_all} of {all} that are attention for every input");
    assert!(f64::from(of_all) >= SHARE * f64::from(all), "{of_all} of {all} found");
    assert!(tried < MANY || f64::from(found) >= SHARE_OF_ALL * f64::from(tried), "{found} of {tried} found");
}

/// A reason without the numbers of its names.
fn reason(why: &str) -> String {
    why.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Whether one spelling is found where it must be, with its figures, and computes what it did.
fn spelled(s: &Spelling, seed: u64, count: &Count) -> Result<(), TestCaseError> {
    let before = write(s);
    let found = find(&before, &FindOptions::default());
    prop_assert!(found.attentions.len() == 1 || !must_be_found(s), "{:?}\n{}", found.missed, before);
    let is_found = !found.attentions.is_empty();
    if !s.is_across() {
        count.tried.set(count.tried.get() + 1);
    }
    if is_attention(s) {
        let [all, of_all] = count.attentions.get();
        count.attentions.set([all + 1, of_all + u32::from(is_found)]);
    }
    if !is_found {
        prop_assert_eq!(found.missed.len(), 1, "no word of it\n{}", before);
        prop_assert_eq!(found.graph, before);
        if !s.is_across() {
            *count.missed.borrow_mut().entry(reason(&found.missed[0].reason)).or_default() += 1;
        }
        return Ok(());
    }
    figures(s, &found)?;
    let rounded = beside_ten_thousand(s);
    let tolerance = match (s.dtype, rounded) {
        (DType::F64, 0) => 1e-12,
        (DType::F64, n) => 4e-12 * n as f64,
        (_, 0) => 1e-5,
        (_, n) => 2e-3 * n as f64,
    };
    let nan = may_overflow(s) || s.extras.iter().flatten().any(|e| *e != Extra::Cap);
    let finite = nan && record(&found.graph, &found.attentions[0]).numerics == "domain";
    let same = if s.is_half() {
        same_in_halves(s, &before, &found.graph, seed, finite)
    } else {
        let [want, got] = [&before, &found.graph].map(|g| results(s, g, seed, Precision::Declared).unwrap());
        let apart = error(&got, &want, finite);
        if apart <= tolerance * largest(&want) { Ok(()) } else { Err(format!("apart by {apart}")) }
    };
    if !s.is_half() && s.masks().any(|m| matches!(m.how, How::AfterExp { .. })) {
        let [want, got] = [&before, &found.graph].map(|g| far_apart(g, seed));
        let apart = error(&got, &want, true);
        prop_assert!(
            apart <= 1e-5 * largest(&want),
            "apart by {} where scores are\n{}\n{}",
            apart,
            before,
            found.graph
        );
    }
    if let Err(e) = same {
        return Err(TestCaseError::fail(format!("{e}\n{before}\n{}", found.graph)));
    }
    Ok(())
}
