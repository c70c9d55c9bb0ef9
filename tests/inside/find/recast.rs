//! Random attentions in other shapes than a product, a softmax and a product: sums of products, softmaxes that share scores or values,
//! differences of softmaxes, softmaxes over parts of the keys that are put together, masks behind a softmax, logarithms of its sum. All
//! are found, compute what they did, and are split over ranks.

mod shape;
mod write;

use super::cases::inputs;
use annulus::eval::{Precision, eval};
use annulus::find::{FindOptions, Found, find};
use annulus::ir::{DType, Graph, Op, Tensor};
use annulus::{Options, compile, run};
use proptest::prelude::*;
use shape::{Guard, Inner, Kind, Shape, Sum, shape};
use write::write;

/// By how much large scores are larger than others: their exponentials stay numbers of f64.
const FAR: f64 = 8.0;

/// How many attentions there must be; `None` where a shape need not be found, for rows without a key would differ.
fn wanted(s: &Shape) -> Option<usize> {
    // What a finite number is where a mask leaves no key, logarithms and sums lose.
    let lost = matches!(s.inner, Inner::Fill | Inner::Bias);
    match &s.kind {
        Kind::Masks | Kind::Difference { .. } => Some(2),
        Kind::Merged { .. } if lost => None,
        // Where exponentials vanish, a logarithm of −∞ is merged with the next part, which takes all.
        Kind::Merged { sum: Sum::Plain, .. } if s.parts.len() > 2 => None,
        // A number beside the probabilities that a mask keeps decides where what it leaves out has large scores.
        Kind::Masked { guard: Guard::Added | Guard::Bounded, .. } => None,
        Kind::Masked { .. } | Kind::Log { written_out: true, .. } if lost => None,
        _ => Some(1),
    }
}

/// The first number that is another, of those that were finite.
fn differs(got: &[Tensor], want: &[Tensor], tolerance: f64) -> Option<String> {
    got.iter().zip(want).find_map(|(got, want)| {
        let (got, want) = (got.to_f64(), want.to_f64());
        let largest = want.iter().copied().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
        let apart =
            |(g, w): (&f64, &f64)| w.is_finite() && (g.is_nan() || (g - w).abs() > tolerance * largest);
        let (g, w) = got.iter().zip(&want).find(|&(g, w)| apart((g, w)))?;
        Some(format!("{g}, not {w}"))
    })
}

/// Whether no product of scores is left beside the attentions.
fn no_scores(s: &Shape, found: &Found) -> bool {
    let g = &found.graph;
    g.ops().into_iter().filter(|&id| matches!(g.op(id), Op::Contract(_))).all(|id| {
        let shape = &g.ty(g.result(id)).shape;
        !shape.ends_with(&[s.rows, s.keys()]) || s.rows * s.keys() <= 1
    })
}

fn numbers(g: &Graph, seed: u64, s: &Shape) -> Vec<Tensor> {
    let mut all = inputs(g, seed);
    // Now and then a mask that leaves rows, and parts, without a key.
    for (t, v) in all.iter_mut().zip(g.inputs()) {
        if g.ty(v).dtype == DType::Bool && seed.is_multiple_of(2) && t.len() > s.keys() {
            let mut bits = t.to_f64();
            let keys = s.keys();
            for (n, row) in bits.chunks_mut(keys).enumerate() {
                match n % 3 {
                    0 => row.fill(0.0),
                    1 => row[..keys / 2].fill(0.0),
                    _ => {}
                }
            }
            *t = Tensor::from_f64(DType::Bool, t.shape(), &bits).unwrap();
        }
    }
    all
}

/// The same inputs with large scores: keys that masks leave out are far above those that they keep as often as not.
fn far_apart(g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let larger = |(t, v): (&Tensor, _)| {
        let q = g.value(v).name.starts_with('q') && t.dtype().is_float();
        let values: Vec<f64> = t.to_f64().iter().map(|x| if q { FAR * x } else { *x }).collect();
        Tensor::from_f64(t.dtype(), t.shape(), &values).unwrap()
    };
    inputs.iter().zip(g.inputs()).map(larger).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_shape_is_found(s in shape(), seed in 1u64..1000, ranks in prop::sample::select(vec![1usize, 2, 3, 4, 8])) {
        let before = write(&s);
        let found = find(&before, &FindOptions::default());
        let inputs = numbers(&before, seed, &s);
        let want = eval(&before, &inputs, Precision::Declared).unwrap();
        match wanted(&s) {
            Some(count) => {
                prop_assert_eq!(found.attentions.len(), count, "{:?}\n{}", found.missed, before);
                prop_assert!(no_scores(&s, &found), "{}", found.graph);
            }
            None if found.attentions.is_empty() => {
                prop_assert_eq!(&found.graph, &before);
                prop_assert!(!found.missed.is_empty(), "no word of it\n{}", before);
                return Ok(());
            }
            None => {}
        }
        // A logarithm beside a fill of −10⁹ is a multiple of 10⁻⁷, also in f64.
        let tolerance = if s.dtype == DType::F64 && s.inner != Inner::Fill { 1e-9 } else { 1e-4 };
        let got = eval(&found.graph, &inputs, Precision::Declared).unwrap();
        if let Some(fault) = differs(&got, &want, tolerance) {
            return Err(TestCaseError::fail(format!("{fault}\n{before}\n{}", found.graph)));
        }
        // In f64, where no exponential vanishes.
        let large = far_apart(&before, &inputs);
        let [want_large, got_large] = [&before, &found.graph].map(|g| eval(g, &large, Precision::F64).unwrap());
        if let Some(fault) = differs(&got_large, &want_large, tolerance) {
            return Err(TestCaseError::fail(format!("{fault} where scores are far apart\n{before}\n{}", found.graph)));
        }
        let compiled = compile(&before, &Options::new(ranks)).map_err(|e| TestCaseError::fail(format!("{e}\n{before}")))?;
        let got = run(&compiled, &inputs, 0).unwrap().outputs;
        if let Some(fault) = differs(&got, &want, tolerance) {
            return Err(TestCaseError::fail(format!("{fault} on {ranks} ranks\n{before}")));
        }
    }
}
