//! Random graphs: whatever the operations do to the rows, the program computes what the graph says.

use super::build::{Build, tensor};
use super::oracle::{distance, run};
use annulus::eval::{Precision, eval};
use annulus::ir::{Binary, Contract, DType, Op, Reduction, Tensor, Type, Unary, ValueId};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::shard::{ShardOptions, shard};
use proptest::prelude::*;
use std::sync::Arc;

/// One step: which operation, which operands, and a number that shapes it.
type Step = (u8, u8, u8, u8);

/// A graph of these steps on (batch, s, size); steps that do not fit are left out. Extents coincide on purpose.
fn graph(batch: usize, s: usize, size: usize, steps: &[Step], outputs: usize) -> Build {
    let mut b = Build::new("random");
    let x = b.input("x", DType::F64, &[batch, s, size]);
    let ids = b.input("ids", DType::I64, &[batch, s]);
    let table = b.weight(&[7, size]);
    let embedded = b.op(Op::Gather { axis: 0 }, &[table, ids]);
    let positions = b.op(Op::Iota { ty: Type::new(DType::I64, [s, 1]), axis: 0 }, &[]);
    let column = b.cast(positions, DType::F64);
    let column = b.unary(Unary::Sin, column);
    let first = b.add(x, embedded);
    let mut pool = vec![first, x, column, first];
    for &step in steps {
        if let Some(v) = take(&mut b, &pool, step) {
            let float = b.g.ty(v).dtype == DType::F64;
            if float && b.g.ty(v).elements() <= 4096 && b.g.ty(v).rank() <= 5 {
                // Bounded, so that errors do not grow from step to step.
                let v = b.unary(Unary::Tanh, v);
                pool.push(v);
            }
        }
    }
    for (i, &v) in pool.iter().rev().take(outputs).enumerate() {
        b.out(&format!("out{i}"), v);
    }
    b
}

fn take(b: &mut Build, pool: &[ValueId], (kind, i, j, n): Step) -> Option<ValueId> {
    // The later a value, the likelier it is picked.
    let pick = |i: u8| pool[pool.len() - 1 - (usize::from(i) * usize::from(i) / 256) * pool.len() / 256];
    let (x, y, n) = (pick(i), pick(j), usize::from(n));
    let shape = b.shape(x);
    let rank = shape.len();
    let axis = n % rank.max(1);
    let mut add = |op: Op, operands: &[ValueId]| b.g.add1(op, operands, "v", "").ok();
    match kind % 22 {
        0 | 1 => add(Op::Binary([Binary::Add, Binary::Mul, Binary::Sub, Binary::Max][n % 4]), &[x, y]),
        2 => {
            let zero = b.scalar(0.1);
            let c = b.binary(Binary::Gt, x, zero);
            b.g.add1(Op::Select, &[c, x, y], "v", "").ok()
        }
        3 => add(Op::Reduce { kind: Reduction::ALL[n % 5], axes: vec![axis], keep: n % 2 == 0 }, &[x]),
        4 => add(Op::Softmax { axis }, &[x]),
        5 => add(Op::CumSum { axis, exclusive: n % 3 == 0, reverse: n % 2 == 0 }, &[x]),
        6 | 7 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.rotate_left(axis);
            if n % 2 == 0 && rank > 2 {
                perm.swap(0, 1);
            }
            add(Op::Permute(perm), &[x])
        }
        // Joins two neighbouring axes, splits one, adds one of extent 1.
        8 | 9 if rank > axis + 1 => {
            let mut to = shape.clone();
            to[axis] *= to.remove(axis + 1);
            add(Op::Reshape(to), &[x])
        }
        10 | 11 if rank > 0 => {
            let mut to = shape.clone();
            let part = (2..=4).find(|p| to[axis].is_multiple_of(*p) && to[axis] > 0)?;
            to[axis] /= part;
            to.insert(axis + n % 2, part);
            add(Op::Reshape(to), &[x])
        }
        12 => {
            let mut to = shape.clone();
            to.insert(axis, 1);
            add(Op::Reshape(to), &[x])
        }
        13 => {
            let mut to = shape.clone();
            if n % 2 == 0 {
                to.insert(0, 2);
            } else if let Some(a) = to.iter().position(|&e| e == 1) {
                to[a] = 3;
            }
            add(Op::Broadcast(to), &[x])
        }
        14 if rank > 0 => {
            let len = shape[axis].div_ceil(2).max(1);
            add(Op::Slice { axis, start: n % (shape[axis] - len + 1), len, step: 1 }, &[x])
        }
        15 => add(Op::Concat { axis }, &[x, y]),
        16 if rank > 0 => {
            let zero = b.scalar(0.3);
            let mut low = vec![0; rank];
            low[axis] = n % 2;
            b.g.add1(Op::Pad { low, high: vec![0; rank] }, &[x, zero], "v", "").ok()
        }
        17 if rank > 0 && shape[axis] > 0 => {
            let last = shape[axis] as i64 - 1;
            let i = Tensor::vector_i64(&[0, last]);
            let i = b.g.constant("i", i);
            b.g.add1(Op::Gather { axis }, &[x, i], "v", "").ok()
        }
        18 if rank > 0 => {
            let k = shape[axis].min(2);
            add(Op::TopK { axis, k, largest: n % 2 == 0 }, &[x])
        }
        19 if rank > 0 => Some(b.linear(x, [shape[rank - 1], 3][n % 2])),
        20 if rank == 3 => {
            let (lhs, out) = ("abc".to_owned(), ["abd", "adb"][n % 2].to_owned());
            add(Op::Contract(Contract { lhs, rhs: "adc".into(), out }), &[x, y])
        }
        21 => {
            // (…) as one head of (B, S, C); or as it is, where it has four axes.
            let four = match rank {
                3 => b.g.add1(Op::Reshape(vec![shape[0], 1, shape[1], shape[2]]), &[x], "v", "").ok()?,
                4 => x,
                _ => return None,
            };
            let keys = if b.g.ty(y) == b.g.ty(x) { y } else { x };
            let keys = b.g.add1(Op::Reshape(b.g.ty(four).shape.clone()), &[keys], "v", "").ok()?;
            let mask = [Mask::none(), Mask::causal(0), Mask::causal(1)][n % 3].clone();
            let o = b.attention(four, keys, keys, mask);
            Some(b.reshape(o, &shape))
        }
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_graph_is_computed_as_it_stands(
        (batch, s, size) in (1usize..3, prop_oneof![1usize..5, Just(6), Just(8), Just(9)], prop_oneof![Just(2usize), Just(4), Just(6)]),
        before in prop::collection::vec(any::<Step>(), 0..8),
        (i, j, n) in any::<(u8, u8, u8)>(),
        after in prop::collection::vec(any::<Step>(), 0..10),
        outputs in 1usize..4,
        ranks in prop_oneof![Just(1usize), Just(2), Just(3), Just(4), Just(8)],
        layout in prop_oneof![Just(None), Just(Some(LayoutKind::Contiguous)), Just(Some(LayoutKind::Zigzag))],
    ) {
        let steps: Vec<Step> = before.into_iter().chain([(21, i, j, n)]).chain(after).collect();
        let g = graph(batch, s, size, &steps, outputs).g;
        let inputs: Vec<Tensor> = g.inputs().iter().zip(3..).map(|(&v, seed)| tensor(g.ty(v), seed)).collect();
        let want = eval(&g, &inputs, Precision::Declared).unwrap();
        let program = shard(Arc::new(g), &ShardOptions::new(ranks).layout(layout)).unwrap();
        let got = run(&program, &inputs);
        for (w, x) in want.iter().zip(&got) {
            prop_assert!(distance(x, w) < 1e-9, "off by {}", distance(x, w));
        }
    }
}
