//! Gathers, scatters and the k best.

use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::{Binary, DType, Op, Tensor};
use proptest::prelude::*;
use std::cmp::Ordering;

/// Indices within ±extent, of either integer type.
fn places(shape: &[usize], extent: impl Fn(usize) -> usize, seed: u64) -> Tensor {
    let v: Vec<f64> = noise(shape.iter().product(), seed)
        .iter()
        .enumerate()
        .map(|(n, x)| (x * extent(n) as f64).floor())
        .collect();
    tensor(if seed.is_multiple_of(2) { DType::I64 } else { DType::I32 }, shape, &v)
}

fn place(i: f64, extent: usize) -> usize {
    if i < 0.0 { (i + extent as f64) as usize } else { i as usize }
}

proptest! {
    #[test]
    fn gathers(x in tensors(dtypes(), shapes(1..=3)), shape in shapes(0..=2), a in 0usize..3, seed in any::<u64>()) {
        let axis = a % x.shape().len();
        let extent = x.shape()[axis];
        prop_assume!(extent > 0);
        let indices = places(&shape, |_| extent, seed);
        let got = run(Op::Gather { axis }, &[x.clone(), indices.clone()]).unwrap();
        let out = [&x.shape()[..axis], &shape[..], &x.shape()[axis + 1..]].concat();
        let (v, at) = (Nd::of(&x), Nd::of(&indices));
        let want = from_fn(&out, |i| {
            let row = place(at.at(&i[axis..axis + shape.len()]), extent);
            v.at(&[&i[..axis], &[row], &i[axis + shape.len()..]].concat())
        });
        prop_assert_eq!(got.shape(), &out[..]);
        assert_close(x.dtype(), &got.to_f64(), &want, 0.0);
    }

    #[test]
    fn gathers_by_tuples(x in tensors(dtypes(), shapes(0..=4)), b in 0usize..3, d in 0usize..4, mid in shapes(0..=2), seed in any::<u64>()) {
        let rank = x.shape().len();
        let batch = b.min(rank);
        let depth = d.min(rank - batch);
        let extents = x.shape()[batch..batch + depth].to_vec();
        prop_assume!(extents.iter().all(|&e| e > 0));
        let shape = [&x.shape()[..batch], &mid[..], &[depth]].concat();
        let indices = places(&shape, |n| extents[n % depth], seed);
        let got = run(Op::GatherNd { batch }, &[x.clone(), indices.clone()]).unwrap();
        let outer = &shape[..shape.len() - 1];
        let out = [outer, &x.shape()[batch + depth..]].concat();
        let (v, at) = (Nd::of(&x), Nd::of(&indices));
        let want = from_fn(&out, |i| {
            let (head, tail) = i.split_at(outer.len());
            let tuple = (0..depth).map(|t| place(at.at(&[head, &[t]].concat()), extents[t]));
            v.at(&head[..batch].iter().copied().chain(tuple).chain(tail.iter().copied()).collect::<Vec<_>>())
        });
        prop_assert_eq!(got.shape(), &out[..]);
        assert_close(x.dtype(), &got.to_f64(), &want, 0.0);
    }

    #[test]
    fn scatters(x in tensors(dtypes(), shapes(0..=3)), d in 0usize..4, mid in shapes(0..=2), seed in any::<u64>(), by in 0usize..5) {
        let depth = d.min(x.shape().len());
        let extents = x.shape()[..depth].to_vec();
        let ways = [None, Some(Binary::Min), Some(Binary::Max), Some(Binary::Add), Some(Binary::Mul)];
        // Sums and products are those of the test only in its own type.
        let known = match x.dtype() { DType::Bool => 1, DType::F64 => 5, _ => 3 };
        let how = ways[by % known];
        let combine = |a: f64, b: f64| match how {
            Some(Binary::Add) => a + b,
            Some(Binary::Mul) => a * b,
            Some(Binary::Min) => if a.is_nan() || a < b { a } else { b },
            Some(Binary::Max) => if a.is_nan() || a > b { a } else { b },
            _ => b,
        };
        prop_assume!(extents.iter().all(|&e| e > 0));
        let shape = [&mid[..], &[depth]].concat();
        let indices = places(&shape, |n| extents[n % depth], seed);
        let updates = random(x.dtype(), &[&mid[..], &x.shape()[depth..]].concat(), seed);
        let got = run(Op::ScatterNd { how }, &[x.clone(), indices.clone(), updates.clone()]).unwrap();
        let (mut v, at, up) = (Nd::of(&x), Nd::of(&indices), Nd::of(&updates));
        for i in super::util::indices(&up.shape) {
            let (head, tail) = i.split_at(mid.len());
            let tuple: Vec<usize> = (0..depth).map(|t| place(at.at(&[head, &[t]].concat()), extents[t])).collect();
            let to = [&tuple[..], tail].concat();
            let flat = to.iter().zip(&v.shape).fold(0, |p, (&i, &e)| p * e + i);
            v.v[flat] = combine(v.v[flat], up.at(&i));
        }
        assert_close(x.dtype(), &got.to_f64(), &v.v, 0.0);
    }

    #[test]
    fn the_best(x in tensors(numbers(), shapes(1..=3)), a in 0usize..3, k in 0usize..5, largest in any::<bool>()) {
        let axis = a % x.shape().len();
        let k = k.min(x.shape()[axis]);
        let got = apply(&Op::TopK { axis, k, largest }, std::slice::from_ref(&x), Precision::Declared).unwrap();
        let (v, mut shape) = (Nd::of(&x), x.shape().to_vec());
        shape[axis] = k;
        prop_assert_eq!((got[0].shape(), got[1].shape(), got[1].dtype()), (&shape[..], &shape[..], DType::I64));
        let along = |i: &[usize], j: usize| { let mut i = i.to_vec(); i[axis] = j; v.at(&i) };
        // By selection: again and again the first of the best that is left.
        let order = |i: &[usize]| {
            let mut left: Vec<usize> = (0..v.shape[axis]).collect();
            let better = |a: f64, b: f64| {
                let c = if a.is_nan() || b.is_nan() { a.is_nan().cmp(&b.is_nan()) } else { a.partial_cmp(&b).unwrap() };
                c == if largest { Ordering::Greater } else { Ordering::Less }
            };
            (0..k).map(|_| {
                let best = (0..left.len()).reduce(|b, n| if better(along(i, left[n]), along(i, left[b])) { n } else { b }).unwrap();
                left.remove(best)
            }).collect::<Vec<_>>()
        };
        let want = from_fn(&shape, |i| order(i)[i[axis]] as f64);
        prop_assert_eq!(got[1].to_f64(), want);
        assert_close(x.dtype(), &got[0].to_f64(), &from_fn(&shape, |i| along(i, order(i)[i[axis]])), 0.0);
    }
}

#[test]
fn an_index_out_of_range_is_an_error() {
    let x = random(DType::F32, &[3, 2], 1);
    for i in [3.0, -4.0, 1e18, -1e18] {
        let at = tensor(DType::I64, &[1], &[i]);
        assert!(run(Op::Gather { axis: 0 }, &[x.clone(), at.clone()]).is_err());
        assert!(run(Op::GatherNd { batch: 0 }, &[x.clone(), at.clone()]).is_err());
        assert!(run(Op::ScatterNd { how: None }, &[x.clone(), at, random(DType::F32, &[2], 2)]).is_err());
    }
}
