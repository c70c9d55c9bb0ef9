//! Gradients of attention against differences of its results, row by row against what must be 0, and against the types that they have.

use super::attention::{Case, cases, judged};
use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::{Attention, AttentionBackward, DType, EmptyRow, Factor, Op, ScoreStep, Tensor};
use proptest::prelude::*;

/// Every operand that may have a gradient besides q, k and v.
pub(crate) fn others(a: &Attention) -> Vec<usize> {
    let numbers = a.scores.leaves().filter(|(_, truth)| !truth).map(|(n, _)| n);
    let mut all: Vec<usize> = numbers.chain(a.sinks).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The results of an attention with its row statistics: out, the log-sum-exp, m and ln l.
pub(crate) fn forward(a: &Attention, x: &[Tensor], precision: Precision) -> Vec<Tensor> {
    let a = Attention { lse: true, stats: true, ..a.clone() };
    apply(&Op::Attention(Box::new(a)), x, precision).unwrap()
}

/// dq, dk, dv and those of the others, of cotangents of out and of the log-sum-exp; in f64 from the numbers as they are stored.
pub(crate) fn backward(
    a: &Attention,
    x: &[Tensor],
    dout: &Tensor,
    dlse: Option<&Tensor>,
    precision: Precision,
) -> Vec<Tensor> {
    if precision == Precision::F64 {
        let a = Attention { acc: DType::F64, ..a.clone() };
        let x: Vec<Tensor> = x.iter().map(wide).collect();
        return backward(&a, &x, &wide(dout), dlse.map(wide).as_ref(), Precision::Declared);
    }
    let made = forward(a, x, precision);
    let attention = Attention { lse: dlse.is_some(), ..a.clone() };
    let op = Op::AttentionBackward(Box::new(AttentionBackward { wrt: others(&attention), attention }));
    let more = [&made[0], &made[2], &made[3], dout].into_iter().chain(dlse).cloned();
    let operands: Vec<Tensor> = x.iter().cloned().chain(more).collect();
    apply(&op, &operands, precision).unwrap()
}

/// Numbers in f64.
fn wide(t: &Tensor) -> Tensor {
    if t.dtype().is_float() { tensor(DType::F64, t.shape(), &t.to_f64()) } else { t.clone() }
}

/// Σ out·dout + Σ lse·dlse, over the rows in which anything takes part; and the sum of what is added up, by size.
fn loss(a: &Attention, x: &[Tensor], dout: &[f64], dlse: &[f64]) -> (f64, f64) {
    let made = forward(a, x, Precision::Declared);
    let (out, lse) = (made[0].to_f64(), made[1].to_f64());
    let width = made[0].shape()[3];
    let (mut sum, mut size) = (0.0, 0.0);
    for (n, lse) in lse.iter().enumerate().filter(|(_, lse)| lse.is_finite()) {
        let row = n * width..(n + 1) * width;
        let terms = out[row.clone()].iter().zip(&dout[row]).map(|(o, d)| o * d).chain([lse * dlse[n]]);
        terms.for_each(|term| (sum, size) = (sum + term, size + term.abs()));
    }
    (sum, size)
}

/// The operand moved along a direction.
fn moved(x: &Tensor, along: &[f64], by: f64) -> Tensor {
    let v: Vec<f64> = x.to_f64().iter().zip(along).map(|(x, d)| x + by * d).collect();
    tensor(x.dtype(), x.shape(), &v)
}

/// Gradients in f64 are what differences say, along a random direction of each operand.
fn as_differences_say(Case { a, x }: &Case, seed: u64) -> Result<(), TestCaseError> {
    let x: Vec<Tensor> = x.iter().map(wide).collect();
    let rows: usize = x[0].shape()[..3].iter().product();
    let dout = noise(rows * x[2].shape()[3], seed);
    let dlse = noise(rows, seed ^ 1);
    let lse = forward(a, &x, Precision::Declared)[1].clone();
    // What a sum of 1e9 loses is more than what a difference is.
    if lse.to_f64().iter().any(|lse| lse.is_finite() && lse.abs() > 1e6) {
        return Ok(());
    }
    let shape = [&x[0].shape()[..3], &[x[2].shape()[3]]].concat();
    let cotangent = tensor(DType::F64, &shape, &dout);
    let of_lse = tensor(DType::F64, lse.shape(), &dlse);
    let got = backward(a, &x, &cotangent, Some(&of_lse), Precision::Declared);
    for (n, gradient) in (0..3).chain(others(a)).zip(&got) {
        prop_assert_eq!(gradient.ty(), x[n].ty());
        let (own, gradient) = (x[n].to_f64(), gradient.to_f64());
        prop_assert!(gradient.iter().all(|g| g.is_finite()), "operand {}: {:?}", n, gradient);
        // What is −∞ hides pairs, and stays.
        let along: Vec<f64> = noise(own.len(), seed ^ (2 + n as u64))
            .into_iter()
            .zip(&own)
            .map(|(d, x)| if x.is_finite() { d } else { 0.0 })
            .collect();
        prop_assert!(own.iter().zip(&gradient).all(|(x, g)| x.is_finite() || *g == 0.0), "operand {}", n);
        let want: f64 = along.iter().zip(&gradient).map(|(d, g)| d * g).sum();
        let differ = |h: f64| {
            let at = |by: f64| {
                let mut x = x.clone();
                x[n] = moved(&x[n], &along, by);
                loss(a, &x, &dout, &dlse).0
            };
            (at(h) - at(-h)) / (2.0 * h)
        };
        // Two steps of Richardson: the error goes with h⁴.
        let largest =
            x.iter().flat_map(|t| t.to_f64()).filter(|x| x.is_finite()).map(f64::abs).fold(1.0, f64::max);
        let h = 1e-3 / largest.max(10.0);
        let have = (4.0 * differ(h / 2.0) - differ(h)) / 3.0;
        let size: f64 = along.iter().zip(&gradient).map(|(d, g)| (d * g).abs()).sum();
        // Scores of 1e9 leave f64 few digits of a difference.
        let lost =
            1e-15 * (loss(a, &x, &dout, &dlse).1 + own.iter().map(|x| x.abs()).fold(0.0, f64::max) * 1e4) / h;
        let off = 2e-6 * (1.0 + size) + lost;
        prop_assert!((have - want).abs() <= off, "operand {n} of {a:?}: {want}, and differences say {have}");
    }
    Ok(())
}

/// Whether differences say anything of it: rounded scores have steps, and a number of 1e38 that is multiplied has no digits left.
fn is_smooth(a: &Attention) -> bool {
    let steps = a.scores.steps();
    let filled = steps.iter().position(|s| s.mask().is_some()).unwrap_or(steps.len());
    let multiplied = steps[filled..].iter().any(|s| matches!(s, ScoreStep::Factor(Factor::Leaf(_))));
    !multiplied && !steps.iter().any(|s| matches!(s, ScoreStep::Round(_)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn gradients_are_what_differences_say(case in cases(Just(DType::F64)), seed: u64) {
        if !is_smooth(&case.a) {
            return Ok(());
        }
        as_differences_say(&case, seed)?;
    }
}

proptest! {
    /// In their own types gradients are those in f64 but for rounding, and no number is lost.
    #[test]
    fn gradients_in_other_types_are_those_in_f64(
        case in cases(prop::sample::select(vec![DType::F32, DType::F16, DType::BF16])), seed: u64,
    ) {
        if !is_smooth(&case.a) {
            return Ok(());
        }
        let Case { a, x } = &case;
        let rows: usize = x[0].shape()[..3].iter().product();
        let shape = [&x[0].shape()[..3], &[x[2].shape()[3]]].concat();
        let dout = tensor(x[0].dtype(), &shape, &noise(rows * x[2].shape()[3], seed));
        let declared = backward(a, x, &dout, None, Precision::Declared);
        let wide = backward(a, x, &dout, None, Precision::F64);
        // How far off a weight may be in f32; of scores that leave few digits nothing is said.
        let weights = judged(a, DType::F32, x).2.into_iter().fold(0.0, f64::max);
        let lse = judged(a, DType::F32, x).1;
        if weights >= 1e-3 || lse.iter().any(|&lse| lse != f64::NEG_INFINITY && (lse.is_nan() || lse.abs() >= 100.0)) {
            return Ok(());
        }
        let largest = x.iter().flat_map(|t| t.to_f64()).filter(|x| x.is_finite()).map(f64::abs).fold(1.0, f64::max);
        // By how much a gradient of a score is multiplied on its way back.
        let steep: f64 = a.scores.steps().iter().map(|step| match step {
            ScoreStep::Factor(Factor::Number(c)) => c.abs(),
            ScoreStep::Factor(Factor::Leaf(n)) => x[*n].to_f64().into_iter().map(f64::abs).fold(0.0, f64::max),
            _ => 1.0,
        }).product::<f64>().max(1.0);
        // What out is rounded by, and δ with it: at most three numbers, none above 2 after dropout.
        let unit = match x[0].dtype() { DType::F16 => 2f64.powi(-11), DType::BF16 => 2f64.powi(-8), _ => 0.0 };
        let off_delta = 6.0 * unit * rows as f64 * steep;
        for (n, (have, want)) in (0..3).chain(others(a)).zip(declared.iter().zip(&wide)) {
            prop_assert_eq!(have.ty(), x[n].ty());
            let (have, want) = (have.to_f64(), want.to_f64());
            let most = want.iter().map(|w| w.abs()).fold(0.0, f64::max);
            // Beyond that a half type has no number.
            if most > 1e4 {
                continue;
            }
            let rtol = match x[n].dtype() { DType::F16 => 2f64.powi(-10), DType::BF16 => 2f64.powi(-7), _ => 0.0 };
            let off = ((4.0 * weights + 1e-6) * (1.0 + most) * rows as f64 + off_delta) * largest;
            for (h, w) in have.iter().zip(&want) {
                prop_assert!(h.is_finite() && (h - w).abs() <= off + rtol * w.abs(), "operand {n}: {h}, not {w}");
            }
        }
    }
}

/// Keys that no row sees, rows that see no key, and what masked pairs hold: 0, to the bit, and no NaN.
#[test]
fn what_takes_no_part_has_no_gradient() {
    let nan = f64::NAN;
    for empty_row in [EmptyRow::Zero, EmptyRow::Nan] {
        // Row 0 sees nothing, rows 1 and 2 see keys 0 and 0 to 1; keys 2 to 4 are seen by nobody.
        let scores = "factor 0.5 | softcap 30.0 | fill -inf unless causal(-1) & keys(0,2)".parse().unwrap();
        let a = Attention { scores, empty_row, ..Attention::plain(1.0, DType::F64) };
        let mut k = noise(2 * 5 * 2, 1);
        let mut v = noise(2 * 5 * 3, 2);
        for head in 0..2 {
            k[(head * 5 + 2) * 2..(head * 5 + 5) * 2].fill(nan);
            v[(head * 5 + 2) * 3..(head * 5 + 5) * 3].fill(f64::INFINITY);
        }
        let x = [
            random(DType::F64, &[1, 4, 3, 2], 3),
            tensor(DType::F64, &[1, 2, 5, 2], &k),
            tensor(DType::F64, &[1, 2, 5, 3], &v),
        ];
        let dout = random(DType::F64, &[1, 4, 3, 3], 4);
        let made = forward(&a, &x, Precision::Declared);
        let [m, log_l] = [made[2].to_f64(), made[3].to_f64()];
        assert!(
            m.iter().step_by(3).all(|&m| m == f64::NEG_INFINITY)
                && log_l.iter().step_by(3).all(|&l| l == 0.0)
        );
        let [dq, dk, dv] = [0, 1, 2].map(|n| backward(&a, &x, &dout, None, Precision::Declared)[n].to_f64());
        for head in 0..4 {
            assert!(dq[head * 6..head * 6 + 2].iter().all(|&g| g == 0.0), "{dq:?}");
            // One key alone: its weight is 1, whatever its score.
            assert!(dq[head * 6 + 2..head * 6 + 4].iter().all(|g| g.abs() < 1e-15), "{dq:?}");
            assert!(dq[head * 6 + 4..head * 6 + 6].iter().all(|g| g.is_finite() && *g != 0.0), "{dq:?}");
        }
        for head in 0..2 {
            assert!(dk[(head * 5 + 2) * 2..(head * 5 + 5) * 2].iter().all(|&g| g == 0.0), "{dk:?}");
            assert!(dv[(head * 5 + 2) * 3..(head * 5 + 5) * 3].iter().all(|&g| g == 0.0), "{dv:?}");
        }
    }
}

/// A row whose every key is filled with one number has the mean of the values: dv, and neither dq nor dk.
#[test]
fn a_finite_fill_gives_values_their_gradient_alone() {
    let scores = "factor 0.5 | fill replace(-10000.0) unless causal(-1)".parse().unwrap();
    let a = Attention { scores, ..Attention::plain(1.0, DType::F64) };
    let x = [
        random(DType::F64, &[1, 1, 1, 2], 3),
        random(DType::F64, &[1, 1, 4, 2], 4),
        random(DType::F64, &[1, 1, 4, 3], 5),
    ];
    let dout = random(DType::F64, &[1, 1, 1, 3], 6);
    let got = backward(&a, &x, &dout, None, Precision::Declared);
    assert!(got[0].to_f64().iter().chain(&got[1].to_f64()).all(|&g| g == 0.0));
    let want: Vec<f64> = dout.to_f64().iter().map(|d| d / 4.0).collect();
    for row in got[2].to_f64().chunks(3) {
        assert!(row.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-15), "{row:?}");
    }
}

/// Logits of 1e4 in f32: m and ln l apart lose nothing of the weights.
#[test]
fn large_logits_lose_nothing() {
    let a = Attention { ..Attention::plain(1.0, DType::F32) };
    let q: Vec<f64> = noise(8 * 4, 1).iter().map(|x| x * 1e4).collect();
    let x = [
        tensor(DType::F32, &[1, 1, 8, 4], &q),
        // Scores of a row lie near each other: keys differ by little.
        tensor(DType::F32, &[1, 1, 6, 4], &noise(24, 2).iter().map(|x| 1.0 + x * 1e-4).collect::<Vec<_>>()),
        random(DType::F32, &[1, 1, 6, 3], 3),
    ];
    let dout = random(DType::F32, &[1, 1, 8, 3], 4);
    let declared = backward(&a, &x, &dout, None, Precision::Declared);
    let wide = backward(&a, &x, &dout, None, Precision::F64);
    // dv is made of the weights alone; dq and dk are differences of them, which the goldens judge.
    for (have, want) in declared.iter().zip(&wide).skip(2) {
        let (have, want) = (have.to_f64(), want.to_f64());
        let size = want.iter().map(|w| w * w).sum::<f64>().sqrt();
        let off = have.iter().zip(&want).map(|(h, w)| (h - w) * (h - w)).sum::<f64>().sqrt();
        // A score of 2e4 in f32 is off by 1e-3 and so is its weight.
        assert!(off <= 4e-3 * size, "{off} of {size}");
    }
}
