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
use spelling::{Extra, Over, Softmax, Spelling, Sum, Widened, spelling};
use std::f64::consts::{LN_2, LOG2_E};
use write::write;

/// Whether this is attention for every input, and written so that it must be found.
fn must_be_found(s: &Spelling) -> bool {
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
    // log2(e) is another number in halves: a factor on shifted scores and the sink beside them, of which a bias may be any number.
    let shifted = s.sinks.is_some_and(|x| x.shifted);
    let powers = s.is_half() && s.powers_of_two() && shifted && biases > 0;
    // A factor that may be 0 or below meets −∞, and something tells NaN from a number.
    let factor = |e: Option<Extra>| e.is_some_and(|e| e != Extra::Cap);
    let behind = factor(s.extras[1]) && (may_be_nan(s) || masks.iter().any(|m| infinite(&m) || of_input(&m)));
    let before = factor(s.extras[0]) && masks.iter().any(|m| matches!(m, How::Multiplied(_)));
    let zeroed = s.guarded && (behind || before);
    // A factor a pair of an input may be infinite, and so the maximum that is subtracted before the mask.
    let pairs = s.extras.contains(&Some(Extra::Factor(Over::Pairs)));
    let unmasked = pairs && masks.iter().any(|m| matches!(m, How::AfterExp { .. }));
    // What multiplies scores may be infinite or 0, which guards, and softmaxes in parts, tell from numbers.
    let factors = s.extras.iter().flatten().any(|e| *e != Extra::Cap);
    let seen = factors && (s.guarded || !matches!(s.softmax, Softmax::Operator));
    !s.is_across() && !vanishing && !meeting && !powers && !zeroed && !unmasked && !seen
}

/// Whether masks make NaN of what is attention otherwise: twice the least number is −∞.
fn may_be_nan(s: &Spelling) -> bool {
    s.masks().filter(|m| m.how.fill() == Some(Fill::Least)).count() == 2
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
        prop_assert!(r.nodes.len() == 3 && (more || r.nodes[1] == "softmax"), "{:?}", r.nodes);
    }
    Ok(())
}

/// The results of a graph over inputs from a seed.
fn results(g: &Graph, seed: u64, precision: Precision) -> Result<Tensor, String> {
    eval(g, &inputs(g, seed), precision).map(|mut out| out.remove(0)).map_err(|e| e.to_string())
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
    let exact = results(before, seed, Precision::F64)?;
    if has_rounds(after) {
        // What is exact knows nothing of it: both round alike.
        let [written, found] = [before, after].map(|g| results(g, seed, Precision::Declared));
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
    let apart = error(&results(after, seed, Precision::F64)?, &exact, finite);
    if apart > if rounds { 4.0 * unit } else { 1e-6 } * largest(&exact) {
        return Err(format!("apart by {apart} in f64"));
    }
    let written = error(&results(before, seed, Precision::Declared)?, &exact, finite);
    let found = error(&results(after, seed, Precision::Declared)?, &exact, finite);
    if found > written + 4.0 * unit * largest(&exact) {
        return Err(format!("{found} from what is exact, not {written}"));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_spelling_is_found(s in spelling(), seed in 1u64..1000) {
        let before = write(&s);
        let found = find(&before, &FindOptions::default());
        prop_assert!(
            found.attentions.len() == 1 || !must_be_found(&s),
            "{:?}\n{}", found.missed, before
        );
        if found.attentions.is_empty() {
            prop_assert_eq!(found.missed.len(), 1, "no word of it\n{}", before);
            prop_assert_eq!(found.graph, before);
            return Ok(());
        }
        figures(&s, &found)?;
        // Of a row without a key: a score beside −10⁴ is a multiple of 10⁻³, whatever was rounded before.
        let added = |m: &How| matches!(m, How::Add(Fill::TenThousand) | How::Multiplied(Fill::TenThousand));
        let rounded = s.masks().filter(|m| added(&m.how));
        let tolerance = match (s.dtype, rounded.count()) {
            (DType::F64, _) => 1e-12,
            (_, 0) => 1e-5,
            (_, n) => 2e-3 * n as f64,
        };
        let nan = may_be_nan(&s) || s.extras.iter().flatten().any(|e| *e != Extra::Cap);
        let finite = nan && record(&found.graph, &found.attentions[0]).numerics == "domain";
        let same = if s.is_half() {
            same_in_halves(&s, &before, &found.graph, seed, finite)
        } else {
            let [want, got] = [&before, &found.graph].map(|g| results(g, seed, Precision::Declared).unwrap());
            let apart = error(&got, &want, finite);
            if apart <= tolerance * largest(&want) { Ok(()) } else { Err(format!("apart by {apart}")) }
        };
        if !s.is_half() && s.masks().any(|m| matches!(m.how, How::AfterExp { .. })) {
            let [want, got] = [&before, &found.graph].map(|g| far_apart(g, seed));
            let apart = error(&got, &want, true);
            prop_assert!(apart <= 1e-5 * largest(&want), "apart by {} where scores are\n{}\n{}", apart, before, found.graph);
        }
        if let Err(e) = same {
            return Err(TestCaseError::fail(format!("{e}\n{before}\n{}", found.graph)));
        }
    }
}
