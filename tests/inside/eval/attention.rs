//! Attention against its formula, one score after another in f64.

use super::util::*;
use crate::inside::support::programs::{build, drafts};
use crate::inside::support::scores::{Reading, Score, epsilon, wobble};
use annulus::eval::{Precision, apply};
use annulus::ir::{Attention, DType, Dropout, EmptyRow, Op, Tensor};
use annulus::mask::{Fill, Mask, Term};
use proptest::prelude::*;

/// The scores of one query row that take part, with their keys, and how far off one in `acc` may be.
pub(crate) fn live(
    a: &Attention,
    acc: DType,
    x: &[Nd],
    [b, h, i]: [usize; 3],
    q_row: usize,
) -> Vec<(usize, Score)> {
    let (q, k) = (&x[0], &x[1]);
    let group = h / (q.shape[1] / k.shape[1]);
    let reading = Reading { steps: a.scores.steps(), acc };
    (0..k.shape[2])
        .filter_map(|j| {
            let terms = || (0..q.shape[3]).map(|d| q.at(&[b, h, i, d]) * k.at(&[b, group, j, d]));
            let off = (q.shape[3] + 2) as f64 * epsilon(acc) * terms().map(f64::abs).sum::<f64>();
            let leaf = |n: usize| x[n].broadcast_at(&[b, h, i, j]);
            let score = reading.score([b, q_row, j], terms().sum(), off, &leaf);
            (score.value != f64::NEG_INFINITY || score.error > 0.0).then_some((j, score))
        })
        .collect()
}

/// (out, lse).
pub(crate) fn reference(a: &Attention, x: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
    let (out, lse, _) = judged(a, DType::F64, x);
    (out, lse)
}

/// (out, lse), and for each row how far off its weights in `acc` may be.
pub(crate) fn judged(a: &Attention, acc: DType, x: &[Tensor]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let x: Vec<Nd> = x.iter().map(Nd::of).collect();
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    let (mut out, mut lse, mut off) = (vec![], vec![], vec![]);
    // What is kept is divided by the part of it.
    let kept = |at: [usize; 4]| match a.dropout {
        Some(d) if d.mask(x[d.seed].v[0] as i64).keeps(at) => 1.0 / (1.0 - d.ratio),
        Some(_) => 0.0,
        None => 1.0,
    };
    for at in indices(&q.shape[..3]) {
        let row = live(a, acc, &x, [at[0], at[1], at[2]], at[2]);
        let live: Vec<(usize, f64)> = row.iter().map(|(j, s)| (*j, s.value)).collect();
        let live: Vec<_> = live.into_iter().filter(|l| l.1 != f64::NEG_INFINITY).collect();
        let group = at[1] / (q.shape[1] / k.shape[1]);
        // A column of its own, without a value.
        let sink = a.sinks.map(|n| x[n].broadcast_at(&[at[0], at[1], at[2], 0]));
        let sink = sink.filter(|&s| s != f64::NEG_INFINITY);
        let scores = || live.iter().map(|l| l.1).chain(sink);
        let most = scores().fold(f64::NEG_INFINITY, |m, s| if s.is_nan() { s } else { m.max(s) });
        let total: f64 = scores().map(|s| (s - most).exp()).sum();
        off.push(wobble(&row.iter().map(|r| r.1).collect::<Vec<_>>(), most, total));
        let empty = live.is_empty() && sink.is_none();
        lse.push(if empty { f64::NEG_INFINITY } else { most + total.ln() });
        for d in 0..v.shape[3] {
            out.push(match (empty, a.empty_row) {
                (true, EmptyRow::Zero) => 0.0,
                (true, EmptyRow::Nan) => f64::NAN,
                _ => live
                    .iter()
                    .map(|&(j, s)| {
                        (s - most).exp() / total
                            * kept([at[0], at[1], at[2], j])
                            * v.at(&[at[0], group, j, d])
                    })
                    .sum(),
            });
        }
    }
    (out, lse, off)
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) a: Attention,
    pub(crate) x: Vec<Tensor>,
}

/// How large sinks are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sink {
    Like(f64),
    None,
    Some,
}

impl Sink {
    /// The sink made of a number in −1..1.
    fn of(self, x: f64) -> f64 {
        match self {
            Sink::Like(size) => x * size,
            Sink::None => f64::NEG_INFINITY,
            Sink::Some if x > 0.0 => f64::NEG_INFINITY,
            Sink::Some => x,
        }
    }
}

/// Sinks of the size of scores, of the size of loud ones, beyond any score, −∞ here and there, −∞ everywhere.
fn sink() -> impl Strategy<Value = Sink> {
    prop_oneof![
        3 => Just(Sink::Like(3.0)),
        1 => Just(Sink::Like(1e4)),
        1 => Just(Sink::Like(6e4)),
        1 => Just(Sink::None),
        1 => Just(Sink::Some),
    ]
}

/// A term of positions that is neither causal nor a window.
fn term() -> impl Strategy<Value = Term> {
    let segments = (proptest::collection::btree_set(1usize..9, 0..3), -3i64..4)
        .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset });
    prop_oneof![
        segments,
        (0usize..6, -3i64..4).prop_map(|(length, offset)| Term::Prefix { length, offset }),
        (0usize..6, 0usize..8).prop_map(|(start, n)| Term::Keys { start, end: start + n }),
        (-3i64..5).prop_map(|offset| Term::Causal { offset }),
    ]
}

/// Terms of positions, some of them for each of two batch entries.
fn terms() -> impl Strategy<Value = Vec<Term>> + Clone {
    use proptest::collection::vec;
    let window = (proptest::option::of(0u64..5), proptest::option::of(0u64..5), -3i64..4);
    let parts = (
        proptest::option::of(-4i64..5),
        proptest::option::of(window),
        proptest::option::weighted(0.4, (vec(term(), 0..2), vec(vec(vec(term(), 0..2), 2), 0..3))),
    );
    let all = parts.prop_map(|(causal, window, more)| {
        let (more, entries) = more.unwrap_or_default();
        let mut terms: Vec<Term> = causal.map(|offset| Term::Causal { offset }).into_iter().collect();
        terms.extend(window.map(|(left, right, offset)| Term::Window { left, right, offset }));
        terms.extend(more);
        terms.extend(entries.into_iter().map(|e| Term::Batch { entries: e.into() }));
        terms
    });
    all.boxed()
}

/// Any attention: sizes with awkward lengths, and programs of every kind of step in any order.
pub(crate) fn cases(dtype: impl Strategy<Value = DType> + 'static) -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..3, 1usize..3, 1usize..9, 0usize..10, 1usize..4, 1usize..4);
    let sinks = proptest::option::of((0u8..8, sink()));
    let rest = (any::<[bool; 2]>(), prop_oneof![4 => Just(1.0), 1 => Just(1e4)]);
    (dtype, sizes, drafts(terms()), sinks, rest, any::<u64>()).prop_map(
        |(dtype, (b, g, hkv, sq, sk, dk, dv), drafts, sinks, ([nan, shared], size), seed)| {
            let full = [b, g * hkv, sq, sk];
            let q: Vec<f64> = noise(b * g * hkv * sq * dk, seed).iter().map(|x| x * size).collect();
            let mut x = vec![
                tensor(dtype, &[b, g * hkv, sq, dk], &q),
                random(dtype, &[b, hkv, sk, dk], seed ^ 1),
                random(dtype, &[b, hkv, sk, dv], seed ^ 2),
            ];
            let (scores, leaves) = build(&drafts, full, 3, shared);
            for (i, leaf) in leaves.iter().enumerate() {
                let v = noise(leaf.shape.iter().product(), seed ^ (3 + ((i as u64) << 8)));
                let v: Vec<f64> = v.into_iter().map(|x| leaf.element(x)).collect();
                x.push(tensor(leaf.dtype, &leaf.shape, &v));
            }
            // Of every third one half of the weights are dropped, or few.
            let dropout = seed.is_multiple_of(3).then(|| {
                let ratio = if seed & 4 > 0 { 0.5 } else { 0.1 };
                x.push(tensor(DType::I64, &[1, 1][..(seed & 1) as usize], &[(seed >> 40) as f64]));
                Dropout {
                    same_batch: seed & 8 > 0,
                    same_heads: seed & 16 > 0,
                    ..Dropout::new(ratio, x.len() - 1)
                }
            });
            let sinks = sinks.map(|(bits, size)| {
                let mut shape: [usize; 4] =
                    std::array::from_fn(|i| if bits >> i & 1 == 1 { full[i] } else { 1 });
                shape[3] = 1;
                let v = noise(shape.iter().product(), seed ^ 5);
                let v: Vec<f64> = v.iter().map(|&x| size.of(x)).collect();
                x.push(tensor(dtype, &shape, &v));
                x.len() - 1
            });
            let empty_row = if nan { EmptyRow::Nan } else { EmptyRow::Zero };
            Case {
                a: Attention {
                    scores,
                    sinks,
                    dropout,
                    acc: dtype.accumulator(),
                    empty_row,
                    lse: true,
                    stats: false,
                },
                x,
            }
        },
    )
}

proptest! {
    #[test]
    fn declared(case in cases(floats())) {
        let got = apply(&Op::Attention(Box::new(case.a.clone())), &case.x, Precision::Declared).unwrap();
        let (out, lse, off) = judged(&case.a, case.a.acc, &case.x);
        let dtype = case.x[0].dtype();
        let slack = |row: usize| 3.0 * off[row] + 32.0 * epsilon(case.a.acc);
        let width = case.x[2].shape()[3];
        for (i, (g, w)) in got[0].to_f64().into_iter().zip(out).enumerate() {
            let slack = slack(i / width);
            prop_assert!(slack.is_infinite() || (g.is_nan() && w.is_nan()) || (g - w).abs() <= slack + 2.0 * unit(dtype).0 * w.abs() + unit(dtype).1, "{g:e} {w:e}");
        }
        for (i, (g, w)) in got[1].to_f64().into_iter().zip(lse).enumerate() {
            let slack = slack(i);
            let same = g == w || (g.is_nan() && w.is_nan());
            prop_assert!(same || slack.is_infinite() || (g - w).abs() <= slack + 1e-6 * w.abs(), "lse {g:e} {w:e}");
        }
    }

    #[test]
    fn in_f64(case in cases(floats())) {
        let got = apply(&Op::Attention(Box::new(case.a.clone())), &case.x, Precision::F64).unwrap();
        let (out, lse) = reference(&case.a, &case.x);
        prop_assert_eq!((got[0].dtype(), got[1].dtype()), (DType::F64, DType::F64));
        for (g, w) in got[0].to_f64().into_iter().zip(out) {
            prop_assert!((g.is_nan() && w.is_nan()) || (g - w).abs() <= 1e-10, "{g:e} {w:e}");
        }
        for (g, w) in got[1].to_f64().into_iter().zip(lse) {
            let same = g == w || (g.is_nan() && w.is_nan());
            prop_assert!(same || (g - w).abs() <= 1e-12 * (1.0 + w.abs()), "lse {g:e} {w:e}");
        }
    }
}

/// Rows of which rounding alone decides whether a score is finite are judged in f64 only: they are few.
#[test]
fn nearly_every_row_is_judged_in_its_own_type() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let cases = cases(floats());
    let (mut rows, mut not, mut wide) = (0, 0, 0);
    for _ in 0..400 {
        let case = cases.new_tree(&mut runner).unwrap().current();
        let off = judged(&case.a, case.a.acc, &case.x).2;
        rows += off.len();
        not += off.iter().filter(|x| x.is_infinite()).count();
        wide += off.iter().filter(|x| **x > 0.1).count();
    }
    assert!(not * 200 < rows && wide * 10 < rows, "{not} and {wide} of {rows}");
}

#[test]
fn a_sink_takes_weight_and_has_no_value() {
    // One key of score 0 and a sink of ln 3: the key has a quarter of the weight.
    let zeros = tensor(DType::F32, &[1, 1, 1, 2], &[0.0, 0.0]);
    let one = |sink: f64| {
        let x = [
            zeros.clone(),
            zeros.clone(),
            tensor(DType::F32, &[1, 1, 1, 1], &[8.0]),
            tensor(DType::F32, &[1, 1, 1], &[sink]),
        ];
        let a = Attention { sinks: Some(3), lse: true, ..Attention::plain(1.0, DType::F32) };
        let got = apply(&Op::Attention(Box::new(a)), &x, Precision::Declared).unwrap();
        (got[0].to_f64()[0], got[1].to_f64()[0])
    };
    let (out, lse) = one(3f64.ln());
    assert!((out - 2.0).abs() < 1e-6 && (lse - 4f64.ln()).abs() < 1e-6, "{out} {lse}");
    assert_eq!(one(f64::NEG_INFINITY), (8.0, 0.0));
    assert_eq!(one(1e4), (0.0, 1e4));
    assert!(one(f64::NAN).0.is_nan() && one(f64::NAN).1.is_nan());
}

#[test]
fn a_row_of_nothing_but_a_sink_is_zeros() {
    let a = Attention {
        sinks: Some(3),
        lse: true,
        empty_row: EmptyRow::Nan,
        ..Attention::plain(1.0, DType::F32).masked(Mask::causal(-2))
    };
    let mut x = vec![random(DType::F32, &[1, 2, 3, 4], 1), random(DType::F32, &[1, 2, 3, 4], 2)];
    x.push(random(DType::F32, &[1, 2, 3, 2], 3));
    x.push(tensor(DType::F32, &[2, 1, 1], &[0.5, f64::NEG_INFINITY]));
    let got = apply(&Op::Attention(Box::new(a)), &x, Precision::Declared).unwrap();
    let (out, lse) = (got[0].to_f64(), got[1].to_f64());
    assert_eq!((&out[..4], &lse[..2]), (&[0.0; 4][..], &[0.5, 0.5][..]));
    // The other head has no sink: its rows are empty indeed.
    assert!(out[6..10].iter().all(|x| x.is_nan()));
    assert_eq!(lse[3..5], [f64::NEG_INFINITY; 2]);
}

fn attend(a: &Attention, x: &[Tensor]) -> Vec<f64> {
    apply(&Op::Attention(Box::new(a.clone())), x, Precision::Declared).unwrap()[0].to_f64()
}

#[test]
fn more_rows_than_one_block() {
    let a = Attention::plain(0.3, DType::F32).masked(Mask::causal(3));
    let x = [
        random(DType::F32, &[1, 2, 150, 8], 1),
        random(DType::F32, &[1, 1, 170, 8], 2),
        random(DType::F32, &[1, 1, 170, 5], 3),
    ];
    for (g, w) in attend(&a, &x).into_iter().zip(reference(&a, &x).0) {
        assert!((g - w).abs() < 2e-6);
    }
}

#[test]
fn a_masked_key_takes_no_part_whatever_it_holds() {
    let a = Attention::plain(1.0, DType::F32).masked(Mask::causal(0));
    let q = random(DType::F32, &[1, 1, 3, 2], 1);
    for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut k = noise(6, 2);
        let mut v = noise(6, 3);
        let clean = attend(
            &a,
            &[q.clone(), tensor(DType::F32, &[1, 1, 3, 2], &k), tensor(DType::F32, &[1, 1, 3, 2], &v)],
        );
        k[4] = poison;
        v[5] = poison;
        let got = attend(
            &a,
            &[q.clone(), tensor(DType::F32, &[1, 1, 3, 2], &k), tensor(DType::F32, &[1, 1, 3, 2], &v)],
        );
        for (g, w) in got[..4].iter().zip(&clean) {
            assert!((g - w).abs() < 1e-6, "{g} {w}");
        }
        // The last row sees the poison. An infinite key may make a score of −∞, which takes no part.
        assert!(got[5].is_nan() || poison.is_infinite());
    }
}

#[test]
fn a_bias_of_minus_infinity_masks_a_nan() {
    let a = Attention::plain(1.0, DType::F32).biased(3);
    let x = [
        tensor(DType::F32, &[1, 1, 1, 1], &[1.0]),
        tensor(DType::F32, &[1, 1, 2, 1], &[f64::NAN, 1.0]),
        tensor(DType::F32, &[1, 1, 2, 1], &[f64::NAN, 5.0]),
        tensor(DType::F32, &[1, 1, 1, 2], &[f64::NEG_INFINITY, 0.0]),
    ];
    assert_eq!(attend(&a, &x), [5.0]);
}

#[test]
fn a_row_of_finfo_min_is_the_mean_of_all_values() {
    for fill in [Fill::Add(f64::from(f32::MIN)), Fill::Replace(f64::from(f32::MIN))] {
        let mask = Mask { terms: vec![Term::Causal { offset: -10 }], fill };
        let a = Attention::plain(1.0, DType::F32).masked(mask);
        let x = [
            random(DType::F32, &[1, 1, 2, 2], 1),
            random(DType::F32, &[1, 1, 3, 2], 2),
            tensor(DType::F32, &[1, 1, 3, 1], &[1.0, 2.0, 6.0]),
        ];
        assert_eq!(attend(&a, &x), [3.0, 3.0]);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let a = Attention::plain(0.2, DType::F32).masked(Mask::causal(0));
    let x: Vec<Tensor> = (0..3).map(|i| random(DType::F32, &[2, 4, 130, 16], i)).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| attend(&a, &x))
    };
    assert_eq!(with(1), with(3));
}
