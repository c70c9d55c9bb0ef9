//! Extents of 0: nothing comes out, at once and without a panic.

use super::backward::backward;
use super::util::*;
use annulus::eval::{Precision, apply};
use annulus::ir::*;
use annulus::layout::Progression;
use annulus::mask::{Mask, Tile};
use std::sync::Arc;

fn none(dtype: DType, shape: &[usize]) -> Tensor {
    tensor(dtype, shape, &[])
}

#[test]
fn every_operation_takes_no_elements() {
    let f = |shape: &[usize]| none(DType::F32, shape);
    let i = |shape: &[usize]| none(DType::I64, shape);
    let b = |shape: &[usize]| none(DType::Bool, shape);
    let contract = |lhs: &str, rhs: &str, out: &str| {
        Op::Contract(Contract { lhs: lhs.into(), rhs: rhs.into(), out: out.into() })
    };
    let cases: Vec<(Op, Vec<Tensor>)> = vec![
        (Op::Iota { ty: Type::new(DType::I64, [3, 0]), axis: 0 }, vec![]),
        (Op::Unary(Unary::Exp), vec![f(&[0])]),
        (Op::Binary(Binary::Add), vec![f(&[0, 1]), random(DType::F32, &[3], 1)]),
        (Op::Binary(Binary::Div), vec![i(&[0]), Tensor::scalar(DType::I64, 0.0)]),
        (Op::Select, vec![b(&[0]), f(&[1, 0]), Tensor::scalar(DType::F32, 0.0)]),
        (Op::Cast(DType::F16), vec![f(&[2, 0])]),
        (contract("bmk", "bkn", "bmn"), vec![f(&[0, 2, 3]), f(&[0, 3, 2])]),
        (contract("mk", "kn", "mn"), vec![f(&[0, 3]), random(DType::F32, &[3, 2], 1)]),
        (Op::Reduce { kind: Reduction::Max, axes: vec![1], keep: true }, vec![f(&[0, 3])]),
        (Op::Softmax { axis: 1 }, vec![f(&[2, 0])]),
        (Op::Reshape(vec![0, 7]), vec![f(&[3, 0])]),
        (Op::Permute(vec![1, 0]), vec![f(&[3, 0])]),
        (Op::Broadcast(vec![4, 0]), vec![f(&[1, 0])]),
        (Op::Slice { axis: 0, start: 0, len: 0, step: 1 }, vec![f(&[3, 0])]),
        (Op::Rows { axis: 0, outer: 1, inner: 1, rows: vec![] }, vec![f(&[3, 0])]),
        (Op::Concat { axis: 0 }, vec![f(&[3, 0]), f(&[2, 0])]),
        (Op::Gather { axis: 0 }, vec![f(&[0, 2]), i(&[0])]),
        (Op::GatherNd { batch: 0 }, vec![f(&[0, 2]), i(&[0, 1])]),
        (Op::ScatterNd { how: None }, vec![f(&[0]), i(&[0, 1]), f(&[0])]),
        (Op::CumSum { axis: 0, exclusive: true, reverse: false }, vec![f(&[0])]),
        (Op::TopK { axis: 0, k: 0, largest: true }, vec![f(&[0])]),
        (Op::Chunk { of: vec![], rows: vec![] }, vec![f(&[1, 2, 0, 3])]),
        (
            Op::Merge { a: vec![], b: vec![] },
            [[0, 3].as_slice(), &[0], &[0], &[0, 3], &[0], &[0]]
                .iter()
                .map(|s| f(&[&[1, 2], *s].concat()))
                .collect(),
        ),
    ];
    for (op, x) in cases {
        for precision in [Precision::Declared, Precision::F64] {
            let got = apply(&op, &x, precision).unwrap_or_else(|e| panic!("{op:?}: {e}"));
            assert!(got.iter().all(Tensor::is_empty), "{op:?}");
        }
    }
}

#[test]
fn a_sum_over_nothing_is_zero() {
    let c = Contract { lhs: "mk".into(), rhs: "kn".into(), out: "nm".into() };
    for dtype in [DType::F32, DType::F16, DType::I64] {
        let got = run(Op::Contract(c.clone()), &[none(dtype, &[2, 0]), none(dtype, &[0, 3])]).unwrap();
        assert_eq!((got.shape(), got.to_f64()), (&[3, 2][..], vec![0.0; 6]));
    }
    let pad = Op::Pad { low: vec![1, 1], high: vec![0, 0] };
    let got = run(pad, &[none(DType::F32, &[1, 0]), Tensor::scalar(DType::F32, 4.0)]).unwrap();
    assert_eq!((got.shape(), got.to_f64()), (&[2, 1][..], vec![4.0; 2]));
}

#[test]
fn attention_without_keys_rows_sizes_or_heads() {
    let a = Attention { lse: true, ..Attention::plain(1.0, DType::F32).masked(Mask::causal(0)) };
    for [b, hq, hkv, sq, sk, dk, dv] in [
        [1, 2, 1, 3, 0, 4, 5],
        [1, 2, 1, 0, 3, 4, 5],
        [0, 2, 1, 2, 3, 4, 5],
        [1, 2, 1, 2, 3, 0, 5],
        [1, 2, 1, 2, 3, 4, 0],
        [1, 0, 1, 2, 3, 4, 5],
        [1, 2, 1, 0, 0, 0, 0],
    ] {
        let x = [
            random(DType::F32, &[b, hq, sq, dk], 1),
            random(DType::F32, &[b, hkv, sk, dk], 2),
            random(DType::F32, &[b, hkv, sk, dv], 3),
        ];
        let got = apply(&Op::Attention(Box::new(a.clone())), &x, Precision::Declared).unwrap();
        assert_eq!((got[0].shape(), got[1].shape()), (&[b, hq, sq, dv][..], &[b, hq, sq][..]));
        if sk == 0 {
            assert!(got[0].to_f64().iter().all(|&x| x == 0.0));
            assert!(got[1].to_f64().iter().all(|&x| x == f64::NEG_INFINITY));
        }
        // Their gradients are of their shapes, and of what nothing takes part in 0.
        let (dout, dlse) = (random(DType::F32, &[b, hq, sq, dv], 4), random(DType::F32, &[b, hq, sq], 5));
        for dlse in [None, Some(&dlse)] {
            let gradients = backward(&a, &x, &dout, dlse, Precision::Declared);
            for (gradient, x) in gradients.iter().zip(&x) {
                assert_eq!(gradient.ty(), x.ty());
                assert!(sk > 0 || gradient.to_f64().iter().all(|&x| x == 0.0));
            }
        }
        let p = Partial {
            attention: Arc::new(a.clone()),
            v_head_dim: dv,
            q_rows: if sq > 0 { vec![Progression::range(0, sq)] } else { vec![] },
            k_rows: if sk > 0 { vec![Progression::range(0, sk)] } else { vec![] },
            tile: Tile::Partial,
        };
        let packed = random(DType::F32, &[b, hkv, sk, dk + dv], 2);
        let got = apply(&Op::Partial(Box::new(p)), &[x[0].clone(), packed], Precision::Declared).unwrap();
        assert_eq!((got[0].shape(), got[1].shape()), (&[b, hq, sq, dv][..], &[b, hq, sq][..]));
    }
}
