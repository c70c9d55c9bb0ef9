//! Partial results over any split of the keys, merged in any order, are the whole attention.

use super::attention::{Case, cases, judged, reference};
use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::{Attention, DType, EmptyRow, Op, Partial, Tensor};
use annulus::layout::Progression;
use annulus::mask::{Fill, Mask, Term, Tile};
use proptest::prelude::*;
use std::sync::Arc;

fn go(op: Op, x: &[Tensor], precision: Precision) -> Vec<Tensor> {
    apply(&op, x, precision).unwrap_or_else(|e| panic!("{op:?}: {e}"))
}

/// Rows of an axis, in the order of the progressions.
fn rows(x: &Tensor, rows: &[Progression]) -> Tensor {
    run(Op::Rows { axis: 2, outer: 1, inner: 1, rows: rows.to_vec() }, std::slice::from_ref(x)).unwrap()
}

/// o, m, l of query rows `q` over key rows `k`.
fn part(case: &Case, q: &[Progression], k: &[Progression], precision: Precision) -> Vec<Tensor> {
    let x = &case.x;
    let packed = run(Op::Concat { axis: 3 }, &[rows(&x[1], k), rows(&x[2], k)]).unwrap();
    let mut operands = vec![rows(&x[0], q), packed];
    // Sinks are the finish's.
    for leaf in &x[3..case.a.sinks.unwrap_or(x.len())] {
        let whole = leaf.shape().get(2).is_none_or(|&rows| rows == 1);
        operands.push(if whole { leaf.clone() } else { rows(leaf, q) });
    }
    let tile = match (q, k) {
        ([q], [k]) if case.a.scores.tile(q, k) == Tile::Full => Tile::Full,
        // What could be skipped is masked pair by pair, and gives the neutral result.
        _ => Tile::Partial,
    };
    let p = Partial {
        attention: Arc::new(case.a.clone()),
        v_head_dim: x[2].shape()[3],
        q_rows: q.to_vec(),
        k_rows: k.to_vec(),
        tile,
    };
    go(Op::Partial(Box::new(p)), &operands, precision)
}

fn merge(
    a: &[Tensor],
    a_rows: &[Progression],
    b: &[Tensor],
    b_rows: &[Progression],
    precision: Precision,
) -> Vec<Tensor> {
    let x: Vec<Tensor> = a.iter().chain(b).cloned().collect();
    go(Op::Merge { a: a_rows.to_vec(), b: b_rows.to_vec() }, &x, precision)
}

fn finish(
    case: &Case,
    x: &[Tensor],
    of: &[Progression],
    to: &[Progression],
    dtype: DType,
    precision: Precision,
) -> Vec<Tensor> {
    let empty_row = case.a.empty_row;
    let op = Op::Finish { of: of.to_vec(), rows: to.to_vec(), dtype, empty_row, lse: true };
    let mut x = x.to_vec();
    if let Some(n) = case.a.sinks {
        let sinks = &case.x[n];
        x.push(if sinks.shape()[2] == 1 { sinks.clone() } else { rows(sinks, of) });
    }
    go(op, &x, precision)
}

/// `0..n` cut at random places; with `stride`, the even rows of a piece and then its odd ones.
fn split(n: usize, seed: u64, strided: bool) -> Vec<Progression> {
    let mut out = vec![];
    let mut at = 0;
    for x in noise(n, seed) {
        if at >= n {
            break;
        }
        let len = (1 + (x.abs() * 4.0) as usize).min(n - at);
        if strided && len > 1 {
            out.push(Progression { start: at, len: len.div_ceil(2), step: 2 });
            out.push(Progression { start: at + 1, len: len / 2, step: 2 });
        } else {
            out.push(Progression::range(at, len));
        }
        at += len;
    }
    out
}

/// Pieces of `split` in some order.
fn shuffle<T>(mut v: Vec<T>, seed: u64) -> Vec<T> {
    for (i, x) in noise(v.len(), seed).into_iter().enumerate() {
        let j = (x.abs() * v.len() as f64) as usize % v.len();
        v.swap(i, j);
    }
    v
}

/// Every pair of chunks on its own, merged as it comes.
fn in_pieces(case: &Case, seed: u64, strided: bool, precision: Precision) -> Vec<Tensor> {
    let (sq, sk) = (case.x[0].shape()[2], case.x[1].shape()[2]);
    let q = shuffle(split(sq, seed, strided), seed ^ 5);
    let k = shuffle(split(sk, seed ^ 6, strided), seed ^ 7);
    // One partial result over no key for all rows, and then every pair.
    let mut all = part(case, &q, &[], precision);
    for q_rows in &q {
        for k_rows in &k {
            let b = part(case, &[*q_rows], &[*k_rows], precision);
            all = merge(&all, &q, &b, &[*q_rows], precision);
        }
    }
    // In global order: rows of `q` by ascending start, which are disjoint ranges unless they are strided.
    let mut sorted = q.clone();
    if strided {
        sorted = (0..sq).map(|r| Progression::range(r, 1)).collect();
    } else {
        sorted.sort_unstable();
    }
    finish(case, &all, &q, &sorted, case.x[0].dtype(), precision)
}

fn close(got: &Tensor, want: &[f64], slack: f64) {
    close_by_row(got, want, 1, |_| slack);
}

/// Rows of `width` elements, each with a slack of its own.
fn close_by_row(got: &Tensor, want: &[f64], width: usize, slack: impl Fn(usize) -> f64) {
    for (i, (g, &w)) in got.to_f64().into_iter().zip(want).enumerate() {
        let slack = slack(i / width);
        let same = g == w || (g.is_nan() && w.is_nan());
        assert!(same || slack.is_infinite() || (g - w).abs() <= slack * (1.0 + w.abs()), "{g:e} {w:e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_split_in_any_order(case in cases(floats()), seed in any::<u64>(), strided in any::<bool>()) {
        let (out, lse) = reference(&case.a, &case.x);
        let got = in_pieces(&case, seed, strided, Precision::F64);
        prop_assert_eq!(got[0].to_f64().len(), out.len());
        close(&got[0], &out, 1e-9);
        close(&got[1], &lse, 1e-12);
        // In the declared type: as close to the whole attention in that type as its scores allow.
        let whole = apply(&Op::Attention(Box::new(case.a.clone())), &case.x, Precision::Declared).unwrap();
        let got = in_pieces(&case, seed, strided, Precision::Declared);
        prop_assert_eq!(got[0].ty(), whole[0].ty());
        prop_assert_eq!(got[1].ty(), whole[1].ty());
        let dtype = case.x[0].dtype();
        let off = judged(&case.a, case.a.acc, &case.x).2;
        let (width, rounding) = (case.x[2].shape()[3], 3.0 * unit(dtype).0);
        close_by_row(&got[0], &whole[0].to_f64(), width, |row| 3.0 * off[row] + rounding + 2e-6);
        close_by_row(&got[1], &whole[1].to_f64(), 1, |row| 3.0 * off[row] + 2e-6);
    }

    #[test]
    fn a_part_of_no_key_is_neutral_to_the_bit(case in cases(floats())) {
        let (sq, sk) = (case.x[0].shape()[2], case.x[1].shape()[2]);
        let q = [Progression::range(0, sq)];
        let none = part(&case, &q, &[], Precision::Declared);
        prop_assert!(none[0].to_f64().iter().all(|&x| x == 0.0) && none[2].to_f64().iter().all(|&x| x == 0.0));
        prop_assert!(none[1].to_f64().iter().all(|&x| x == f64::NEG_INFINITY));
        let keys: Vec<Progression> = if sk > 0 { vec![Progression::range(0, sk)] } else { vec![] };
        let all = part(&case, &q, &keys, Precision::Declared);
        prop_assert_eq!(&merge(&none, &q, &all, &q, Precision::Declared), &all);
        prop_assert_eq!(&merge(&all, &q, &none, &q, Precision::Declared), &all);
        prop_assert_eq!(&merge(&none, &q, &none, &q, Precision::Declared), &none);
    }

    #[test]
    fn merging_commutes_to_the_bit_and_associates_up_to_rounding(seed in any::<u64>(), size in prop_oneof![Just(1.0), Just(1e4)]) {
        let q = [Progression::range(0, 4)];
        let part = |n: u64| -> Vec<Tensor> {
            let m: Vec<f64> = noise(8, seed ^ n).iter().map(|&x| if x > 0.6 { f64::NEG_INFINITY } else { x * size }).collect();
            let l: Vec<f64> = m.iter().zip(noise(8, seed ^ n ^ 9)).map(|(&m, x)| if m.is_finite() { 1.0 + x.abs() } else { 0.0 }).collect();
            let o: Vec<f64> = (0..24).zip(noise(24, seed ^ n ^ 17)).map(|(i, x)| if l[i / 3] > 0.0 { x } else { 0.0 }).collect();
            vec![tensor(DType::F32, &[1, 2, 4, 3], &o), tensor(DType::F32, &[1, 2, 4], &m), tensor(DType::F32, &[1, 2, 4], &l)]
        };
        let (a, b, c) = (part(1), part(2), part(3));
        let two = |x: &[Tensor], y: &[Tensor]| merge(x, &q, y, &q, Precision::Declared);
        prop_assert_eq!(two(&a, &b), two(&b, &a));
        let (left, right) = (two(&two(&a, &b), &c), two(&a, &two(&b, &c)));
        for (x, y) in left.iter().zip(&right) {
            close(x, &y.to_f64(), 2e-6);
        }
    }
}

fn plain_case(size: f64, mask: Mask, sq: usize, sk: usize) -> Case {
    let q: Vec<f64> = noise(sq * 2 * 4, 1).iter().map(|x| x * size).collect();
    Case {
        a: Attention { lse: true, ..Attention::plain(1.0, DType::F32).masked(mask) },
        x: vec![
            tensor(DType::F32, &[1, 2, sq, 4], &q),
            random(DType::F32, &[1, 2, sk, 4], 2),
            random(DType::F32, &[1, 2, sk, 3], 3),
        ],
    }
}

#[test]
fn logits_of_ten_thousand() {
    let case = plain_case(1e4, Mask::causal(0), 9, 9);
    let whole = apply(&Op::Attention(Box::new(case.a.clone())), &case.x, Precision::Declared).unwrap();
    for seed in 0..8 {
        let got = in_pieces(&case, seed, seed % 2 == 0, Precision::Declared);
        close(&got[0], &whole[0].to_f64(), 1e-6);
        close(&got[1], &whole[1].to_f64(), 1e-6);
    }
}

#[test]
fn rows_of_finfo_min_over_uneven_chunks() {
    // Every score is the fill: each chunk must count with its number of keys, not as one.
    for fill in [Fill::Add(f64::from(f32::MIN)), Fill::Replace(f64::from(f32::MIN))] {
        let case = plain_case(1.0, Mask { terms: vec![Term::Causal { offset: -100 }], fill }, 3, 11);
        let v = Nd::of(&case.x[2]);
        for seed in 0..8 {
            let got = in_pieces(&case, seed, false, Precision::Declared);
            let mean =
                from_fn(&[1, 2, 3, 3], |i| (0..11).map(|j| v.at(&[0, i[1], j, i[3]])).sum::<f64>() / 11.0);
            close(&got[0], &mean, 1e-6);
        }
    }
}

#[test]
fn an_empty_row_is_what_the_node_states() {
    let case = plain_case(1.0, Mask::causal(-2), 4, 4);
    for (empty_row, dead) in [(EmptyRow::Zero, 0.0), (EmptyRow::Nan, f64::NAN)] {
        let case = Case { a: Attention { empty_row, ..case.a.clone() }, ..case.clone() };
        let got = in_pieces(&case, 3, false, Precision::Declared);
        let (out, lse) = (Nd::of(&got[0]), Nd::of(&got[1]));
        for h in 0..2 {
            for i in 0..2 {
                let x = out.at(&[0, h, i, 0]);
                assert!(x == dead || (x.is_nan() && dead.is_nan()));
                assert_eq!(lse.at(&[0, h, i]), f64::NEG_INFINITY);
            }
            assert!(out.at(&[0, h, 2, 0]).is_finite());
        }
    }
}

#[test]
fn a_merge_appends_the_rows_that_the_first_part_lacks() {
    let case = plain_case(1.0, Mask::none(), 6, 5);
    let keys = [Progression::range(0, 5)];
    let (a, b) = ([Progression::range(4, 2)], [Progression::range(4, 2), Progression::range(0, 4)]);
    let first = part(&case, &a, &[Progression::range(0, 2)], Precision::F64);
    let second = part(&case, &b[..1], &[Progression::range(2, 3)], Precision::F64);
    let third = part(&case, &b[1..], &keys, Precision::F64);
    let both = merge(&second, &b[..1], &third, &b[1..], Precision::F64);
    let all = merge(&first, &a, &both, &b, Precision::F64);
    let got = finish(
        &case,
        &all,
        &b,
        &[Progression::range(0, 4), Progression::range(4, 2)],
        DType::F32,
        Precision::F64,
    );
    close(&got[0], &reference(&case.a, &case.x).0, 1e-12);
}

#[test]
fn rows_that_overlap_in_part_are_refused() {
    let case = plain_case(1.0, Mask::none(), 6, 5);
    let (a, b) = ([Progression::range(0, 4)], [Progression::range(2, 4)]);
    let x: Vec<Tensor> =
        [part(&case, &a, &[], Precision::Declared), part(&case, &b, &[], Precision::Declared)].concat();
    assert!(apply(&Op::Merge { a: a.to_vec(), b: b.to_vec() }, &x, Precision::Declared).is_err());
}

#[test]
fn a_chunk_is_found_by_global_number() {
    let of = [Progression::range(10, 3), Progression { start: 1, len: 4, step: 2 }];
    let x = tensor(DType::F32, &[1, 1, 7, 1], &[10., 11., 12., 1., 3., 5., 7.]);
    let chunk = |rows: &[Progression]| {
        run(Op::Chunk { of: of.to_vec(), rows: rows.to_vec() }, std::slice::from_ref(&x))
    };
    let got = chunk(&[Progression { start: 3, len: 2, step: 2 }, Progression::range(11, 2)]).unwrap();
    assert_eq!(got.to_f64(), [3.0, 5.0, 11.0, 12.0]);
    assert!(chunk(&[Progression::range(4, 1)]).is_err());
    assert!(chunk(&[]).unwrap().is_empty());
}

#[test]
fn a_leaf_that_lacks_a_key_is_an_error() {
    // Types alone do not tell: a leaf is whole along the keys of all ranks.
    let a = Attention::plain(1.0, DType::F32).biased(3);
    let rows = |start| vec![Progression::range(start, 2)];
    let bias = random(DType::F32, &[1, 5], 1);
    let x = [random(DType::F32, &[1, 1, 2, 3], 2), random(DType::F32, &[1, 1, 2, 5], 3), bias];
    for (start, fits) in [(0, true), (3, true), (4, false), (1 << 39, false)] {
        let attention = Arc::new(a.clone());
        let p =
            Partial { attention, v_head_dim: 2, q_rows: rows(0), k_rows: rows(start), tile: Tile::Partial };
        let got = apply(&Op::Partial(Box::new(p)), &x, Precision::Declared);
        assert_eq!(got.is_ok(), fits, "{start}: {got:?}");
    }
}

#[test]
fn a_tile_that_claims_too_much_shows() {
    // The island's own claim is evaluated, not the mask behind it: a wrong `full` gives another result.
    let case = plain_case(1.0, Mask::causal(0), 4, 4);
    let q = [Progression::range(0, 4)];
    let packed = run(Op::Concat { axis: 3 }, &case.x[1..3]).unwrap();
    let with = |tile| {
        let p = Partial {
            attention: Arc::new(case.a.clone()),
            v_head_dim: 3,
            q_rows: q.to_vec(),
            k_rows: q.to_vec(),
            tile,
        };
        go(Op::Partial(Box::new(p)), &[case.x[0].clone(), packed.clone()], Precision::Declared)
    };
    assert_ne!(with(Tile::Full), with(Tile::Partial));
}
