//! Operations that move elements.

use super::util::*;
use annulus::ir::{DType, Op, Tensor};
use annulus::layout::Progression;
use proptest::prelude::*;

fn bits(v: &[f64]) -> Vec<u64> {
    v.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn check(op: Op, x: &[Tensor], shape: &[usize], want: impl Fn(&[usize]) -> f64) {
    let got = run(op.clone(), x).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    assert_eq!(got.shape(), shape, "{op:?}");
    assert_eq!(bits(&got.to_f64()), bits(&from_fn(shape, want)), "{op:?} of {:?}", x[0]);
}

fn with<T: Clone>(s: &[T], at: usize, v: T) -> Vec<T> {
    let mut s = s.to_vec();
    s[at] = v;
    s
}

proptest! {
    #[test]
    fn permutations(
        (x, perm) in tensors(dtypes(), shapes(0..=4))
            .prop_flat_map(|x| { let n = x.shape().len(); (Just(x), Just((0..n).collect::<Vec<_>>()).prop_shuffle()) })
    ) {
        let shape: Vec<usize> = perm.iter().map(|&a| x.shape()[a]).collect();
        let v = Nd::of(&x);
        check(Op::Permute(perm.clone()), &[x], &shape, |i| {
            let mut from = vec![0; i.len()];
            perm.iter().zip(i).for_each(|(&a, &n)| from[a] = n);
            v.at(&from)
        });
    }

    #[test]
    fn broadcasts(
        (x, shape) in (dtypes(), shapes(0..=4))
            .prop_flat_map(|(d, s)| (narrowed(s.clone()).prop_flat_map(move |n| values(d, n)), Just(s)))
    ) {
        let v = Nd::of(&x);
        check(Op::Broadcast(shape.clone()), &[x], &shape, |i| v.broadcast_at(i));
    }

    #[test]
    fn slices(
        x in tensors(dtypes(), shapes(1..=4)), a in 0usize..4, start in 0usize..5, len in 0usize..5,
        step in prop_oneof![-3i64..0, 1i64..4],
    ) {
        let axis = a % x.shape().len();
        let extent = x.shape()[axis];
        let start = start % extent.max(1);
        let within = |n: usize| (0..extent as i64).contains(&(start as i64 + (n as i64 - 1) * step));
        let len = (0..=len).rev().find(|&n| n == 0 || within(n)).unwrap();
        let v = Nd::of(&x);
        let shape = with(x.shape(), axis, len);
        check(Op::Slice { axis, start, len, step }, &[x], &shape, |i| {
            v.at(&with(i, axis, (start as i64 + i[axis] as i64 * step) as usize))
        });
    }

    #[test]
    fn rows(
        x in tensors(dtypes(), shapes(0..=2)), at in 0usize..3, outer in 1usize..3, inner in 1usize..3, length in 1usize..7,
        picks in proptest::collection::vec((0usize..6, 1usize..4, 1usize..3), 0..4),
    ) {
        let axis = at.min(x.shape().len());
        let mut shape = x.shape().to_vec();
        shape.insert(axis, outer * length * inner);
        let x = random(x.dtype(), &shape, 7);
        let rows: Vec<Progression> =
            picks.into_iter().map(|(start, len, step)| Progression { start, len, step }).filter(|p| p.last() < length).collect();
        let numbers: Vec<usize> = rows.iter().flat_map(|p| p.rows()).collect();
        let v = Nd::of(&x);
        let shape = with(&shape, axis, outer * numbers.len() * inner);
        check(Op::Rows { axis, outer, inner, rows }, &[x], &shape, |i| {
            let (o, rest) = (i[axis] / (numbers.len() * inner), i[axis] % (numbers.len() * inner));
            v.at(&with(i, axis, (o * length + numbers[rest / inner]) * inner + rest % inner))
        });
    }

    #[test]
    fn concatenations(
        dtype in dtypes(), shape in shapes(1..=3), at in 0usize..3, extents in proptest::collection::vec(0usize..4, 1..5)
    ) {
        let axis = at % shape.len();
        let parts: Vec<Tensor> =
            extents.iter().enumerate().map(|(n, &e)| random(dtype, &with(&shape, axis, e), n as u64)).collect();
        let v: Vec<Nd> = parts.iter().map(Nd::of).collect();
        let shape = with(&shape, axis, extents.iter().sum());
        check(Op::Concat { axis }, &parts, &shape, |i| {
            let (mut part, mut at) = (0, i[axis]);
            while at >= extents[part] {
                at -= extents[part];
                part += 1;
            }
            v[part].at(&with(i, axis, at))
        });
    }

    #[test]
    fn pads(x in tensors(dtypes(), shapes(0..=3)), edges in proptest::collection::vec((0usize..3, 0usize..3), 3)) {
        let rank = x.shape().len();
        let (low, high): (Vec<usize>, Vec<usize>) = edges[..rank].iter().copied().unzip();
        let shape: Vec<usize> = (0..rank).map(|a| low[a] + x.shape()[a] + high[a]).collect();
        let v = Nd::of(&x);
        check(Op::Pad { low: low.clone(), high }, &[x.clone(), Tensor::scalar(x.dtype(), 1.0)], &shape, |i| {
            let inside: Option<Vec<usize>> = i.iter().zip(&low).map(|(&i, &l)| i.checked_sub(l)).collect();
            inside.filter(|i| i.iter().zip(&v.shape).all(|(i, e)| i < e)).map_or(1.0, |i| v.at(&i))
        });
    }
}

#[test]
fn a_reshape_keeps_the_order() {
    let x = random(DType::F16, &[4, 3], 1);
    let got = run(Op::Reshape(vec![2, 1, 6]), std::slice::from_ref(&x)).unwrap();
    assert_eq!((got.shape(), got.to_f64()), (&[2, 1, 6][..], x.to_f64()));
    assert!(run(Op::Reshape(vec![5]), &[x]).is_err());
}

#[test]
fn negative_zero_and_nan_are_moved_as_they_are() {
    let x = tensor(DType::F32, &[3], &[-0.0, f64::NAN, f64::NEG_INFINITY]);
    let got = run(Op::Slice { axis: 0, start: 2, len: 3, step: -1 }, &[x]).unwrap().to_f64();
    assert!(got[0] == f64::NEG_INFINITY && got[1].is_nan() && got[2] == 0.0 && got[2].is_sign_negative());
}
