//! The maps against eval, on small tensors of random shapes: where numbered elements end up, and which elements of the result
//! change where one of an operand is changed.

use super::{Along, Map, maps};
use crate::eval::{Precision, apply};
use crate::ir::{Attention, Binary, Contract, DType, Op, Reduction, Tensor, Type, Unary, Windows};
use proptest::prelude::*;

/// Random numbers.
struct Draw {
    codes: Vec<u8>,
    next: usize,
}

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        // Used again, the codes mean something else.
        let code = usize::from(self.codes[self.next % self.codes.len()]) + self.next / self.codes.len();
        code % n
    }

    fn shape(&mut self, least: usize, most: usize) -> Vec<usize> {
        (0..least + self.below(most + 1 - least)).map(|_| 1 + self.below(3)).collect()
    }

    /// What broadcasts to a shape.
    fn thinner(&mut self, shape: &[usize]) -> Vec<usize> {
        let rank = self.below(shape.len() + 1);
        let from = &shape[shape.len() - rank..];
        from.iter().map(|&n| if self.below(3) == 0 { 1 } else { n }).collect()
    }

    fn order(&mut self, rank: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..rank).collect();
        (0..rank).map(|_| left.remove(self.below(left.len()))).collect()
    }

    /// Tuples of numbers of the elements of axes of these extents; of some from the end.
    fn indices(&mut self, mut shape: Vec<usize>, extents: &[usize]) -> Tensor {
        let tuples: usize = shape.iter().product();
        let mut numbers = vec![];
        for _ in 0..tuples {
            for &n in extents {
                let i = self.below(n) as f64;
                numbers.push(if self.below(4) == 0 { i - n as f64 } else { i });
            }
        }
        shape.push(extents.len());
        Tensor::from_f64(DType::I64, shape, &numbers).unwrap()
    }

    fn windows(&mut self, extents: &[usize]) -> (Vec<usize>, Windows) {
        let mut list = |least: usize, n: usize| extents.iter().map(|_| least + self.below(n)).collect();
        let (strides, low, high): (_, _, Vec<usize>) = (list(1, 2), list(0, 2), list(0, 2));
        let kernel = list(1, 2);
        (kernel, Windows { strides, dilations: vec![1; extents.len()], low, high })
    }
}

/// Distinct numbers, all of them above 0.
fn numbered(slot: usize, shape: Vec<usize>) -> Tensor {
    let n: usize = shape.iter().product();
    let numbers: Vec<f64> = (0..n).map(|i| (1000 * (slot + 1) + i * 7 % n) as f64).collect();
    Tensor::from_f64(DType::F64, shape, &numbers).unwrap()
}

fn all_numbered<const N: usize>(shapes: [Vec<usize>; N]) -> Vec<Tensor> {
    shapes.into_iter().enumerate().map(|(slot, shape)| numbered(slot, shape)).collect()
}

/// An operation that only moves elements, with its operands.
fn moving(kind: usize, d: &mut Draw) -> (Op, Vec<Tensor>) {
    let mut shape = d.shape(1, 4);
    let axis = d.below(shape.len());
    let op = match kind {
        0 => {
            let mut to = shape.clone();
            let joined = to.remove(axis);
            match to.get_mut(axis) {
                Some(n) => *n *= joined,
                None => to.extend([1, joined]),
            }
            Op::Reshape(to)
        }
        1 => Op::Permute(d.order(shape.len())),
        2 => {
            let from = d.thinner(&shape);
            return (Op::Broadcast(shape), all_numbered([from]));
        }
        3 => {
            let (start, extent) = (d.below(shape[axis]), shape[axis]);
            match d.below(3) {
                0 => Op::Slice { axis, start, len: start / 2 + 1, step: -2 },
                1 => Op::Slice { axis, start: 0, len: extent, step: 1 },
                _ => Op::Slice { axis, start, len: extent - start, step: 1 },
            }
        }
        4 => {
            let parts = 1 + d.below(3);
            let part = |slot| {
                shape[axis] = d.below(3);
                numbered(slot, shape.clone())
            };
            return (Op::Concat { axis }, (0..parts).map(part).collect());
        }
        5 => {
            let mut list = || shape.iter().map(|_| d.below(3)).collect();
            let op = Op::Pad { low: list(), high: list() };
            return (op, all_numbered([shape, vec![]]));
        }
        6 => {
            let own = d.shape(0, 2);
            let indices = d.indices(own.clone(), &shape[axis..=axis]).reshaped(own).unwrap();
            return (Op::Gather { axis }, vec![numbered(0, shape), indices]);
        }
        7 => {
            let batch = d.below(shape.len());
            let depth = 1 + d.below(shape.len() - batch);
            let lead = [shape[..batch].to_vec(), d.shape(0, 2)].concat();
            let indices = d.indices(lead, &shape[batch..batch + depth]);
            return (Op::GatherNd { batch }, vec![numbered(0, shape), indices]);
        }
        _ => {
            let depth = 1 + d.below(shape.len());
            let lead = d.shape(0, 2);
            let updates = [&lead[..], &shape[depth..]].concat();
            let indices = d.indices(lead, &shape[..depth]);
            let op = Op::ScatterNd { how: None };
            return (op, vec![numbered(0, shape), indices, numbered(2, updates)]);
        }
    };
    (op, all_numbered([shape]))
}

const MOVING: usize = 9;

/// An operation that computes with its elements, with its operands.
fn computing(kind: usize, d: &mut Draw) -> (Op, Vec<Tensor>) {
    let shape = d.shape(1, 4);
    let axis = d.below(shape.len());
    let op = match kind {
        0 => Op::Unary(Unary::Neg),
        1 => Op::Cast(DType::F32),
        2 => {
            let other = d.thinner(&shape);
            return (Op::Binary(Binary::Add), all_numbered([shape, other]));
        }
        3 => {
            let condition = d.thinner(&shape);
            let truths: Vec<f64> = (0..condition.iter().product()).map(|_| d.below(2) as f64).collect();
            let condition = Tensor::from_f64(DType::Bool, condition, &truths).unwrap();
            let other = d.thinner(&shape);
            return (Op::Select, vec![condition, numbered(1, other), numbered(2, shape)]);
        }
        4 => {
            // Of b and h in both and in the result, of s in both alone, m and n in one.
            let spell = |d: &mut Draw, letters: &str| -> String {
                let letters: Vec<char> = letters.chars().collect();
                d.order(letters.len()).into_iter().map(|i| letters[i]).collect()
            };
            let c = Contract { lhs: spell(d, "bhsm"), rhs: spell(d, "bhsn"), out: spell(d, "bhmn") };
            let extents: Vec<usize> = (0..5).map(|_| 1 + d.below(3)).collect();
            let extent = |l: char| extents["bhsmn".find(l).unwrap()];
            let shapes = [&c.lhs, &c.rhs].map(|letters| letters.chars().map(extent).collect());
            return (Op::Contract(c), all_numbered(shapes));
        }
        5 | 6 => {
            let axes = (0..shape.len()).filter(|_| d.below(2) == 0).collect();
            let kind = if kind == 5 { Reduction::Sum } else { Reduction::Max };
            Op::Reduce { kind, axes, keep: d.below(2) == 0 }
        }
        7 => Op::Softmax { axis },
        8 => Op::CumSum { axis, exclusive: d.below(2) == 0, reverse: d.below(2) == 0 },
        9 => Op::TopK { axis, k: d.below(shape[axis] + 1), largest: d.below(2) == 0 },
        10 => {
            let picture = [2, 3];
            let (kernel, windows) = d.windows(&picture);
            let (groups, batch) = (1 + d.below(2), 1 + d.below(2));
            let x = [&[batch, 2 * groups], &picture[..]].concat();
            let w = [&[(1 + d.below(2)) * groups, 2], &kernel[..]].concat();
            return (Op::Conv { windows, groups }, all_numbered([x, w]));
        }
        11 => {
            let x = [&d.shape(2, 2)[..], &[2, 3]].concat();
            let (kernel, windows) = d.windows(&x[2..]);
            return (Op::Pool { kind: Reduction::Max, kernel, windows }, all_numbered([x]));
        }
        _ => {
            let mut n = || 1 + d.below(3);
            let (b, kv, times, rows, keys, size, v_size) = (n(), n(), n(), n(), n(), n(), n());
            let heads = kv * times;
            let bias = d.thinner(&[b, heads, rows, keys]);
            let sinks = d.thinner(&[b, heads, rows, 1]);
            let mut a = Attention::plain(1e-3, DType::F64).biased(3);
            (a.sinks, a.lse) = (Some(4), true);
            let kv = |size| vec![b, kv, keys, size];
            let mut x = all_numbered([vec![b, heads, rows, size], kv(size), kv(v_size), bias, sinks]);
            // Scores near each other, so that every key weighs.
            for t in &mut x {
                let small: Vec<f64> = t.to_f64().iter().map(|x| (x % 10.0) / 10.0).collect();
                *t = Tensor::from_f64(DType::F64, t.shape(), &small).unwrap();
            }
            return (Op::Attention(Box::new(a)), x);
        }
    };
    (op, all_numbered([shape]))
}

const COMPUTING: usize = 13;

/// Whether every element that the map names changes the result, or perhaps only some of them.
fn exact(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Cast(_)
            | Op::Binary(_)
            | Op::Contract(_)
            | Op::Reduce { .. }
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Broadcast(_)
            | Op::Slice { .. }
            | Op::Concat { .. }
    )
}

fn maps_for(op: &Op, x: &[Tensor], results: &[Tensor]) -> Vec<Map> {
    let types: Vec<Type> = x.iter().map(Tensor::ty).collect();
    maps(op, &types.iter().collect::<Vec<_>>(), &results[0].ty())
}

/// The place along each axis.
fn index(mut place: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &n) in index.iter_mut().zip(shape).rev() {
        (*i, place) = (place % n, place / n);
    }
    index
}

/// Whether the map names element `p` of an operand for element `r` of a result.
fn names(map: &Map, operand: &[usize], p: usize, result: &[usize], r: usize) -> bool {
    let Map::Axes(axes) = map else { return *map == Map::Opaque || p == r };
    let (p, r) = (index(p, operand), index(r, result));
    axes.iter().zip(p).all(|(along, p)| {
        let is = |to: usize, f: &dyn Fn(usize) -> i64| r.get(to).is_none_or(|&i| f(i) == p as i64);
        match *along {
            Along::Kept { to } | Along::Written { to } => is(to, &|i| i as i64),
            Along::Sliced { to, start, step } => is(to, &|i| start as i64 + i as i64 * step),
            Along::Joined { to, offset } => is(to, &|i| i as i64 - offset as i64),
            Along::Repeated { to } => is(to, &|_| 0),
            Along::Mixed { .. }
            | Along::Ranked { .. }
            | Along::Windowed { .. }
            | Along::Grouped { .. }
            | Along::Folded { .. }
            | Along::LookedUp
            | Along::Scattered => true,
        }
    })
}

/// The places that an index tensor names for element `r` of a result.
fn looked_up(op: &Op, x: &[Tensor], maps: &[Map], result: &[usize], r: usize) -> Vec<usize> {
    let (first, tuple) = match op {
        Op::Gather { .. } => (maps[1].source(x[1].shape(), result)(r, &[]).unwrap(), 1),
        Op::GatherNd { .. } => {
            let tuple = *x[1].shape().last().unwrap();
            let inner: usize = result[x[1].shape().len() - 1..].iter().product();
            (r / inner * tuple, tuple)
        }
        _ => return vec![],
    };
    let Map::Axes(axes) = &maps[0] else { panic!("{op:?} looks up in {:?}", maps[0]) };
    let extents = axes.iter().zip(x[0].shape()).filter(|(a, _)| **a == Along::LookedUp).map(|(_, &n)| n);
    let numbers = x[1].to_f64();
    let place = |(i, n): (&f64, usize)| if *i < 0.0 { *i as i64 + n as i64 } else { *i as i64 } as usize;
    numbers[first..first + tuple].iter().zip(extents).map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn an_element_that_is_moved_comes_from_where_the_map_says(codes in proptest::collection::vec(any::<u8>(), 97)) {
        let mut d = Draw { codes, next: 0 };
        for kind in 0..MOVING {
            let (op, x) = moving(kind, &mut d);
            let results = apply(&op, &x, Precision::Declared).unwrap();
            let (maps, shape) = (maps_for(&op, &x, &results), results[0].shape());
            for (r, number) in results[0].to_f64().into_iter().enumerate() {
                for (slot, (t, map)) in x.iter().zip(&maps).enumerate().filter(|(_, (t, _))| t.dtype() == DType::F64) {
                    let said = map.source(t.shape(), shape)(r, &looked_up(&op, &x, &maps, shape, r));
                    let held = t.to_f64().iter().position(|&n| n == number);
                    // Of the scalar of a pad any element may come, and of updates.
                    match (&op, slot, held) {
                        (Op::Pad { .. }, 1, _) => prop_assert_eq!(said, Some(0)),
                        (Op::ScatterNd { .. }, 2, Some(p)) => prop_assert!(names(map, t.shape(), p, shape, r)),
                        (Op::ScatterNd { .. }, 2, None) => {}
                        (Op::ScatterNd { .. }, 0, None) => prop_assert_eq!(said, Some(r)),
                        _ => prop_assert_eq!(said, held, "element {} of {:?} in operand {}: {:?}", r, &op, slot, map),
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_is_made_of_those_that_the_map_names(codes in proptest::collection::vec(any::<u8>(), 97)) {
        let mut d = Draw { codes, next: 0 };
        let moved = (0..MOVING).map(|kind| moving(kind, &mut d)).collect::<Vec<_>>();
        let computed = (0..COMPUTING).map(|kind| computing(kind, &mut d)).collect::<Vec<_>>();
        for (op, x) in moved.into_iter().chain(computed) {
            let before = apply(&op, &x, Precision::Declared).unwrap();
            let maps = maps_for(&op, &x, &before);
            prop_assert_eq!(maps.len(), x.len());
            for (slot, map) in maps.iter().enumerate() {
                let t = &x[slot];
                for p in 0..t.ty().elements() {
                    let mut numbers = t.to_f64();
                    numbers[p] = match t.dtype() {
                        DType::F64 => numbers[p] + 10_000.0,
                        DType::Bool => 1.0 - numbers[p],
                        _ => 0.0,
                    };
                    let mut changed = x.clone();
                    changed[slot] = Tensor::from_f64(t.dtype(), t.shape(), &numbers).unwrap();
                    let after = apply(&op, &changed, Precision::Declared).unwrap();
                    for (before, after) in before.iter().zip(&after) {
                        for (r, (a, b)) in before.to_f64().iter().zip(after.to_f64()).enumerate() {
                            let said = names(map, t.shape(), p, before.shape(), r);
                            let right = if *a != b { said } else { !said || !exact(&op) };
                            prop_assert!(right, "{op:?}: element {p} of operand {slot} in element {r}: {map:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The maps of an operation on operands of these shapes.
fn on(op: &Op, shapes: &[&[usize]]) -> Vec<Map> {
    let x: Vec<Type> = shapes.iter().map(|&shape| Type::new(DType::F64, shape)).collect();
    let x: Vec<&Type> = x.iter().collect();
    maps(op, &x, &crate::ir::infer::infer(op, &x).unwrap()[0])
}

/// Eval tells what the map must name, but not of operations that compare or weigh how little it may.
#[test]
fn no_more_is_named_than_an_operation_reads() {
    const GONE: Along = Along::Folded { to: None };
    let kept = |to| Along::Kept { to };
    let axes = |list: &[Along]| Map::Axes(list.to_vec());
    let softmax = on(&Op::Softmax { axis: 1 }, &[&[2, 3]]);
    assert_eq!(softmax, [axes(&[kept(0), Along::Mixed { to: 1 }])]);
    let sums = Op::CumSum { axis: 0, exclusive: false, reverse: false };
    assert_eq!(on(&sums, &[&[2, 3]]), [axes(&[Along::Mixed { to: 0 }, kept(1)])]);
    let best = Op::TopK { axis: 1, k: 2, largest: true };
    assert_eq!(on(&best, &[&[2, 3]]), [axes(&[kept(0), Along::Ranked { to: 1 }])]);
    // A window that is one element is that element.
    let list = |n: usize| vec![n, n];
    let windows = Windows { strides: vec![1, 2], dilations: list(1), low: list(0), high: list(0) };
    let seen = [kept(0), kept(1), kept(2), Along::Windowed { to: 3 }];
    let pool = Op::Pool { kind: Reduction::Max, kernel: list(1), windows: windows.clone() };
    assert_eq!(on(&pool, &[&[2, 4, 3, 3]]), [axes(&seen)]);
    for (groups, channels) in [(1, GONE), (2, Along::Grouped { to: 1 })] {
        let conv = Op::Conv { windows: windows.clone(), groups };
        let x = [seen[0], channels, seen[2], seen[3]];
        let kernel = axes(&[kept(1), GONE, GONE, GONE]);
        assert_eq!(on(&conv, &[&[2, 4, 3, 3], &[4, 4 / groups, 1, 1]]), [axes(&x), kernel]);
    }
    let attention = Op::Attention(Box::new(Attention::plain(1.0, DType::F64)));
    for (kv_heads, heads) in [(4, kept(1)), (2, Along::Grouped { to: 1 })] {
        let want = [
            axes(&[kept(0), kept(1), kept(2), GONE]),
            axes(&[kept(0), heads, GONE, GONE]),
            axes(&[kept(0), heads, GONE, kept(3)]),
        ];
        assert_eq!(on(&attention, &[&[2, 4, 5, 8], &[2, kv_heads, 6, 8], &[2, kv_heads, 6, 3]]), want);
    }
    let reduce = |keep| Op::Reduce { kind: Reduction::Max, axes: vec![0, 2], keep };
    assert_eq!(on(&reduce(false), &[&[2, 3, 4]]), [axes(&[GONE, kept(0), GONE])]);
    let left = |to| Along::Folded { to: Some(to) };
    assert_eq!(on(&reduce(true), &[&[2, 3, 4]]), [axes(&[left(0), kept(1), left(2)])]);
}
