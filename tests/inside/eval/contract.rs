//! Contractions against sums over every index.

use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::{Contract, DType, Op, Tensor};
use proptest::prelude::*;

fn einsum(c: &Contract, a: &Nd, b: &Nd) -> Vec<f64> {
    let letters: Vec<char> = {
        let mut all: Vec<char> = c.out.chars().collect();
        all.extend(c.lhs.chars().filter(|l| !c.out.contains(*l)));
        all
    };
    let extent = |l: char| {
        let at = |axes: &str, nd: &Nd| axes.chars().position(|m| m == l).map(|i| nd.shape[i]);
        at(&c.lhs, a).or_else(|| at(&c.rhs, b)).unwrap()
    };
    let out: Vec<usize> = c.out.chars().map(extent).collect();
    let summed: Vec<usize> = letters[out.len()..].iter().map(|&l| extent(l)).collect();
    from_fn(&out, |o| {
        indices(&summed)
            .iter()
            .map(|s| {
                let index = |l: char| {
                    let i = letters.iter().position(|&m| m == l).unwrap();
                    if i < o.len() { o[i] } else { s[i - o.len()] }
                };
                let at = |axes: &str| axes.chars().map(index).collect::<Vec<_>>();
                a.at(&at(&c.lhs)) * b.at(&at(&c.rhs))
            })
            .sum()
    })
}

fn cases() -> impl Strategy<Value = (Contract, Tensor, Tensor)> {
    // Up to two axes of each role, in any order in operands and result.
    let counts = (0usize..3, 0usize..3, 0usize..3, 0usize..3);
    (numbers(), counts, proptest::collection::vec(0usize..5, 8), any::<u64>())
        .prop_flat_map(|(dtype, (batch, summed, m, n), extents, seed)| {
            let pick = |from: &str, n: usize| from[..n].to_owned();
            let (b, s, m, n) = (pick("bc", batch), pick("st", summed), pick("mo", m), pick("np", n));
            let shuffled = |s: String| Just(s.chars().collect::<Vec<_>>()).prop_shuffle();
            (
                shuffled(format!("{b}{s}{m}")),
                shuffled(format!("{b}{s}{n}")),
                shuffled(format!("{b}{m}{n}")),
                Just((dtype, extents, seed)),
            )
        })
        .prop_map(|(lhs, rhs, out, (dtype, extents, seed))| {
            let shape = |axes: &[char]| -> Vec<usize> {
                axes.iter().map(|l| extents["bcstmonp".find(*l).unwrap()]).collect()
            };
            let make = |axes: &[char], seed| {
                let s = shape(axes);
                let v = noise(s.iter().product(), seed);
                let scale = if dtype.is_float() { 1.0 } else { 9.0 };
                tensor(dtype, &s, &v.iter().map(|x| x * scale).collect::<Vec<_>>())
            };
            let (a, b) = (make(&lhs, seed), make(&rhs, seed ^ 77));
            let text = |axes: Vec<char>| axes.into_iter().collect::<String>();
            (Contract { lhs: text(lhs), rhs: text(rhs), out: text(out) }, a, b)
        })
}

proptest! {
    #[test]
    fn every_spelling((c, a, b) in cases()) {
        let want = einsum(&c, &Nd::of(&a), &Nd::of(&b));
        let got = run(Op::Contract(c.clone()), &[a.clone(), b.clone()]).unwrap();
        let dtype = a.dtype();
        for (g, w) in got.to_f64().into_iter().zip(&want) {
            let slack = unit(dtype).0 * w.abs() + 32.0 * unit(dtype.accumulator()).0;
            prop_assert!((g - w).abs() <= if dtype.is_float() { slack } else { 0.0 }, "{c:?} {g:e} {w:e}");
        }
        let wide = &apply(&Op::Contract(c), &[a, b], Precision::F64).unwrap()[0];
        for (g, w) in wide.to_f64().into_iter().zip(&want) {
            prop_assert!((g - w).abs() <= 1e-13);
        }
    }
}

fn matmul() -> Op {
    Op::Contract(Contract { lhs: "bmk".into(), rhs: "bkn".into(), out: "bmn".into() })
}

#[test]
fn large_products_are_cut_in_blocks() {
    // More rows than one block, and an odd rest.
    let (b, m, k, n) = (3, 301, 17, 29);
    let (x, y) = (random(DType::F64, &[b, m, k], 1), random(DType::F64, &[b, k, n], 2));
    let got = run(matmul(), &[x.clone(), y.clone()]).unwrap().to_f64();
    let c = Contract { lhs: "bmk".into(), rhs: "bkn".into(), out: "bmn".into() };
    for (g, w) in got.iter().zip(einsum(&c, &Nd::of(&x), &Nd::of(&y))) {
        assert!((g - w).abs() < 1e-13);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (x, y) = (random(DType::F32, &[4, 300, 200], 1), random(DType::F32, &[4, 200, 50], 2));
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(matmul(), &[x.clone(), y.clone()]).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn nan_and_infinity_go_through_and_stay_in_their_row() {
    let x = tensor(DType::F32, &[1, 2, 2], &[f64::NAN, 0.0, 1.0, 2.0]);
    let y = tensor(DType::F32, &[1, 2, 1], &[0.0, f64::INFINITY]);
    let got = run(matmul(), &[x, y]).unwrap().to_f64();
    assert!(got[0].is_nan() && got[1] == f64::INFINITY);
}

#[test]
fn sums_of_halves_are_kept_in_f32() {
    let x = tensor(DType::F16, &[1, 1, 4096], &[1.0; 4096]);
    let y = tensor(DType::F16, &[1, 4096, 1], &[1.0; 4096]);
    assert_eq!(run(matmul(), &[x, y]).unwrap().to_f64(), [4096.0]);
}
