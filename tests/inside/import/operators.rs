//! Operators where the meaning is subtle, against values worked out by hand from ONNX's text.

use super::build::*;
use annulus::ir::{DType, Op, Tensor};
use proptest::prelude::*;

fn some(values: &[i64]) -> Option<Tensor> {
    Some(ints(values))
}

fn slice(x: Tensor, starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]) -> Single {
    Single::new("Slice", &[x], &[some(starts), some(ends), some(axes), some(steps)])
}

#[test]
fn slice_bounds_clamp_to_the_axis() {
    let x = count(&[5]);
    let cases: [(i64, i64, i64, &[f64]); 9] = [
        (1, i64::MAX, 2, &[1.0, 3.0]),
        (-3, -1, 1, &[2.0, 3.0]),
        (-1, i64::MIN, -2, &[4.0, 2.0, 0.0]),
        (i64::MAX, i64::MIN, -1, &[4.0, 3.0, 2.0, 1.0, 0.0]),
        (3, 0, -1, &[3.0, 2.0, 1.0]),
        (3, -6, -1, &[3.0, 2.0, 1.0, 0.0]),
        (4, 2, 1, &[]),
        (i64::MIN, i64::MAX, i64::MAX, &[0.0]),
        (7, 9, 1, &[]),
    ];
    for (start, end, step, want) in cases {
        let got = slice(x.clone(), &[start], &[end], &[-1], &[step]).first();
        assert_eq!(got.to_f64(), want, "{start}:{end}:{step}");
    }
}

#[test]
fn operators_that_no_model_uses_give_their_values() {
    let x = || Tensor::from_f64(DType::F32, [2, 4], &[-2.5, -0.5, 0.5, 1.5, 2.5, 3.0, -1.2, 0.0]).unwrap();
    let one = |op: &'static str| Single::new(op, &[x()], &[]).first().to_f64();
    assert_eq!(one("Floor"), [-3.0, -1.0, 0.0, 1.0, 2.0, 3.0, -2.0, 0.0]);
    // Halves go to the even neighbour.
    assert_eq!(one("Round"), [-2.0, 0.0, 0.0, 2.0, 2.0, 3.0, -1.0, 0.0]);
    assert_eq!(one("Size"), [8.0]);
    let reduced =
        |op: &'static str| Single::new(op, &[x()], &[some(&[1])]).with(int("keepdims", 0)).first().to_f64();
    assert_eq!(reduced("ReduceMin"), [-2.5, f64::from(-1.2f32)]);
    assert_eq!(reduced("ReduceProd"), [-2.5 * -0.5 * 0.5 * 1.5, 0.0]);
    assert_eq!(Single::new("Sum", &[x(), x(), x()], &[]).first().to_f64()[..2], [-7.5, -1.5]);
    let bits = |values: [f64; 4]| Tensor::from_f64(DType::Bool, [4], &values).unwrap();
    let xor = Single::new("Xor", &[bits([0.0, 0.0, 1.0, 1.0]), bits([0.0, 1.0, 0.0, 1.0])], &[]);
    assert_eq!(xor.first().to_f64(), [0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn slice_takes_axes_in_any_order_and_leaves_whole_ones_alone() {
    let s = slice(count(&[3, 4]), &[1, 0], &[3, i64::MAX], &[1, 0], &[1, 1]);
    assert_eq!(mnemonics(&s.graph().unwrap()), ["slice"]);
    assert_eq!(s.first().to_f64(), [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    assert!(slice(count(&[3]), &[0, 0], &[1, 1], &[0, -1], &[1, 1]).refusal().contains("twice"));
    assert!(slice(count(&[3]), &[0], &[1], &[0], &[0]).refusal().contains("step is 0"));
    assert!(slice(count(&[3]), &[0], &[1], &[1], &[1]).refusal().contains("axis 1 of 1 axes"));
}

fn reshape(x: &[usize], shape: &[i64]) -> Single {
    Single::new("Reshape", &[count(x)], &[some(shape)])
}

#[test]
fn reshape_keeps_infers_and_may_mean_zero() {
    assert_eq!(reshape(&[2, 3, 4], &[0, -1]).first().shape(), [2, 12]);
    assert_eq!(reshape(&[2, 3, 4], &[-1, 0, 2]).first().shape(), [4, 3, 2]);
    assert_eq!(reshape(&[0, 3], &[0, 7]).with(int("allowzero", 1)).first().shape(), [0, 7]);
    assert_eq!(mnemonics(&reshape(&[2, 3], &[2, -1]).graph().unwrap()), [""; 0]);
}

#[test]
fn reshape_refuses_what_does_not_fit() {
    for (shape, why) in [
        (&[-1, -1][..], "shape [-1, -1]"),
        (&[5, -1], "does not fit"),
        (&[7], "as many elements"),
        (&[1, 1, 0], "keeps axis 2"),
        (&[-2, 3], "shape [-2, 3]"),
        (&[i64::MAX, i64::MAX, -1], "does not fit"),
    ] {
        assert!(reshape(&[2, 3], shape).refusal().contains(why), "{}", reshape(&[2, 3], shape).refusal());
    }
    // Of no elements nothing can be inferred.
    assert!(reshape(&[0, 3], &[0, -1]).refusal().contains("does not fit"));
}

#[test]
fn gather_counts_from_the_end() {
    let rows = |at: Tensor| Single::new("Gather", &[count(&[3, 2])], &[Some(at)]);
    assert_eq!(rows(ints(&[-1, 0])).first().to_f64(), [4.0, 5.0, 0.0, 1.0]);
    // One known position is a slice, and its axis goes.
    let scalar = Tensor::scalar(DType::I64, -2.0);
    assert_eq!(rows(scalar.clone()).first().shape(), [2]);
    assert_eq!(rows(scalar.clone()).first().to_f64(), [2.0, 3.0]);
    assert_eq!(mnemonics(&rows(scalar).graph().unwrap()), ["slice", "reshape"]);
    assert!(rows(Tensor::scalar(DType::I64, 3.0)).refusal().contains("axis 3 of 3"));
}

#[test]
fn gather_and_scatter_elements_are_index_tuples() {
    let x = floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let at = ints(&[0, 0, 1, 0]).reshaped(vec![2, 2]).unwrap();
    let got = Single::new("GatherElements", &[x], &[Some(at)]).with(int("axis", 1)).first();
    assert_eq!(got.to_f64(), [1.0, 1.0, 4.0, 3.0]);
    let at = ints(&[1, 3]).reshaped(vec![1, 2]).unwrap();
    let updates = floats(&[1, 2], &[9.0, 8.0]);
    let s = Single::new("ScatterElements", &[count(&[1, 5])], &[Some(at), Some(updates)]);
    assert_eq!(s.with(int("axis", -1)).first().to_f64(), [0.0, 9.0, 2.0, 8.0, 4.0]);
    let all = [("add", 5.0), ("mul", 0.0), ("min", 0.0), ("max", 3.0)];
    for (reduction, want) in all {
        // Two updates of the first element, one after the other.
        let at = ints(&[0, 0]).reshaped(vec![2, 1]).unwrap();
        for (op, at) in [("ScatterElements", ints(&[0, 0])), ("ScatterND", at)] {
            let s = Single::new(op, &[count(&[3])], &[Some(at), Some(floats(&[2], &[3.0, 2.0]))]);
            let got = s.with(string("reduction", reduction)).first().to_f64();
            assert_eq!(got, [want, 1.0, 2.0], "{op} {reduction}");
        }
    }
}

#[test]
fn pad_adds_and_cuts() {
    let x = count(&[2, 2]);
    let pad = |w: &[i64], axes: Option<Tensor>| {
        Single::new("Pad", std::slice::from_ref(&x), &[some(w), Some(Tensor::scalar(DType::F32, 9.0)), axes])
    };
    assert_eq!(pad(&[0, 1, 0, -1], None).first().to_f64(), [9.0, 0.0, 9.0, 2.0]);
    assert_eq!(pad(&[1, 0], some(&[-1])).first().to_f64(), [9.0, 0.0, 1.0, 9.0, 2.0, 3.0]);
    assert_eq!(mnemonics(&pad(&[0, 0], some(&[0])).graph().unwrap()), [""; 0]);
    assert!(pad(&[-3, 0], some(&[0])).refusal().contains("cut more"));
}

#[test]
fn pad_with_elements_of_the_operand() {
    let pad = |shape: &[usize], mode: &str, widths: &[i64]| {
        Single::new("Pad", &[count(shape)], &[some(widths)]).with(string("mode", mode))
    };
    assert_eq!(pad(&[3], "edge", &[2, 1]).first().to_f64(), [0.0, 0.0, 0.0, 1.0, 2.0, 2.0]);
    assert_eq!(pad(&[3], "reflect", &[2, 1]).first().to_f64(), [2.0, 1.0, 0.0, 1.0, 2.0, 1.0]);
    assert_eq!(pad(&[3], "wrap", &[2, 1]).first().to_f64(), [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
    // Axis by axis, so that corners are padded from what is padded; first comes what is cut.
    let corners = [3.0, 2.0, 3.0, 1.0, 0.0, 1.0, 3.0, 2.0, 3.0, 1.0, 0.0, 1.0];
    assert_eq!(pad(&[2, 2], "reflect", &[1, 1, 1, 0]).first().to_f64(), corners);
    assert_eq!(pad(&[2, 2], "edge", &[0, -1, 1, 1]).first().to_f64(), [1.0, 1.0, 3.0, 3.0, 3.0, 3.0]);
    assert!(pad(&[3], "reflect", &[3, 0]).refusal().contains("reflect by more than axis 0 of f32[3] has"));
    assert!(pad(&[3], "wrap", &[0, 4]).refusal().contains("wrap by more than"));
    assert!(pad(&[0], "edge", &[0, 1]).refusal().contains("edge by more than"));
    assert!(pad(&[3], "mirror", &[0, 1]).refusal().contains("mode is \"mirror\""));
}

#[test]
fn remainders_and_powers_of_both_kinds() {
    let two = |op, a: &Tensor, b: &Tensor| Single::new(op, &[a.clone(), b.clone()], &[]);
    let (a, b) = (ints(&[7, -7, 7, -7]), ints(&[3, 3, -3, -3]));
    assert_eq!(two("Mod", &a, &b).first().to_f64(), [1.0, 2.0, -2.0, -1.0]);
    assert_eq!(two("Mod", &a, &b).with(int("fmod", 1)).first().to_f64(), [1.0, -1.0, 1.0, -1.0]);
    let (a, b) = (floats(&[4], &[5.5, -5.5, -6.0, 1e30]), floats(&[4], &[2.0, 2.0, -2.0, f64::INFINITY]));
    let got = two("Mod", &a, &b).with(int("fmod", 1)).first().to_f64();
    assert_eq!(got, [1.5, -1.5, 0.0, f64::from(1e30f32)]);
    assert!(got[2].is_sign_negative());
    let power = two("Pow", &ints(&[4, 2, -3]), &floats(&[3], &[0.5, 3.0, 3.0]));
    assert_eq!(power.first(), ints(&[2, 8, -27]));
}

#[test]
fn infinities_of_one_sign_or_none() {
    let x = floats(&[4], &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0]);
    let of = |positive, negative| {
        let s = Single::new("IsInf", std::slice::from_ref(&x), &[]);
        s.with(int("detect_positive", positive)).with(int("detect_negative", negative)).first().to_f64()
    };
    assert_eq!(of(1, 1), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(of(1, 0), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(of(0, 1), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(of(0, 0), [0.0; 4]);
}

#[test]
fn sequences_are_joined_along_a_new_axis_and_counted() {
    let mut m = Single::new("Neg", &[count(&[2]), count(&[2])], &[]).model();
    let g = m.graph.as_mut().unwrap();
    g.node = vec![
        node("SequenceConstruct", &["x0", "x1"], &["s"], vec![]),
        node("ConcatFromSequence", &["s"], &["joined"], vec![int("axis", -1), int("new_axis", 1)]),
        node("SequenceLength", &["s"], &["n"], vec![]),
        node("CastLike", &["n", "joined"], &["m"], vec![]),
        node("Add", &["joined", "m"], &["y0"], vec![]),
    ];
    let g = annulus::import::graph(&m, &annulus::import::ImportOptions::default()).unwrap();
    let x = [count(&[2]), floats(&[2], &[8.0, 9.0])];
    let y = annulus::eval::eval(&g, &x, annulus::eval::Precision::Declared).unwrap();
    assert_eq!((y[0].shape(), y[0].to_f64()), (&[2, 2][..], vec![2.0, 10.0, 3.0, 11.0]));
}

#[test]
fn reductions_take_their_axes_as_their_version_says() {
    let x = count(&[2, 3]);
    let attribute =
        |v| Single::new("ReduceMean", std::slice::from_ref(&x), &[]).opset(v).with(int_list("axes", &[-1]));
    let operand = |v| Single::new("ReduceMean", std::slice::from_ref(&x), &[some(&[-1])]).opset(v);
    assert_eq!(attribute(13).first().to_f64(), [1.0, 4.0]);
    assert_eq!(attribute(17).first().shape(), [2, 1]);
    assert!(attribute(18).refusal().contains("version 18"));
    assert_eq!(operand(18).first().to_f64(), [1.0, 4.0]);
    assert!(operand(17).refusal().contains("version 17"));
    let sum =
        Single::new("ReduceSum", std::slice::from_ref(&x), &[some(&[0])]).opset(13).with(int("keepdims", 0));
    assert_eq!((sum.first().to_f64(), sum.first().shape().to_vec()), (vec![3.0, 5.0, 7.0], vec![3]));
    // No axis: all of them, or none at all.
    let none = Single::new("ReduceMax", std::slice::from_ref(&x), &[]).opset(20);
    assert_eq!(none.first().to_f64(), [5.0]);
    let nothing =
        Single::new("ReduceMax", std::slice::from_ref(&x), &[some(&[])]).with(int("noop_with_empty_axes", 1));
    assert_eq!(nothing.first().to_f64(), x.to_f64());
}

#[test]
fn log_sum_exp_of_large_and_of_no_numbers() {
    let x = floats(&[3, 2], &[1e4, 1e4, -1e4, -1e4, f64::NEG_INFINITY, f64::NEG_INFINITY]);
    let got = Single::new("ReduceLogSumExp", &[x], &[some(&[1])]).with(int("keepdims", 0)).first().to_f64();
    assert!((got[0] - (1e4 + 2f64.ln())).abs() < 1e-3 && (got[1] + 1e4).abs() < 1.0, "{got:?}");
    assert_eq!(got[2], f64::NEG_INFINITY);
}

#[test]
fn split_into_equal_or_given_or_ragged_parts() {
    let parts = |s: &Single| s.run().iter().map(|t| t.shape()[0]).collect::<Vec<_>>();
    let even = Single::new("Split", &[count(&[6])], &[]).opset(13).outputs(3);
    assert_eq!(parts(&even), [2, 2, 2]);
    assert!(Single::new("Split", &[count(&[7])], &[]).opset(13).outputs(3).refusal().contains("equal parts"));
    let ragged = Single::new("Split", &[count(&[7])], &[]).outputs(3).with(int("num_outputs", 3));
    assert_eq!(parts(&ragged), [3, 3, 1]);
    let given = Single::new("Split", &[count(&[7])], &[some(&[0, 7, 0])]).outputs(3);
    assert_eq!(parts(&given), [0, 7, 0]);
    assert_eq!(mnemonics(&given.graph().unwrap()), ["slice", "slice"]);
    assert!(Single::new("Split", &[count(&[7])], &[some(&[-1, 8])]).outputs(2).refusal().contains("of 7"));
}

#[test]
fn squeeze_and_unsqueeze_count_axes_in_their_own_ranks() {
    let squeezed = Single::new("Squeeze", &[count(&[1, 3, 1])], &[some(&[-1])]);
    assert_eq!(squeezed.first().shape(), [1, 3]);
    assert_eq!(Single::new("Squeeze", &[count(&[1, 3, 1])], &[]).first().shape(), [3]);
    assert!(Single::new("Squeeze", &[count(&[1, 3])], &[some(&[1])]).refusal().contains("extent 3"));
    let spread = Single::new("Unsqueeze", &[count(&[3])], &[some(&[-1, 0])]);
    assert_eq!(spread.first().shape(), [1, 3, 1]);
    assert!(Single::new("Unsqueeze", &[count(&[3])], &[some(&[0, -3])]).refusal().contains("twice"));
}

#[test]
fn nodes_that_change_nothing_become_nothing() {
    let x = count(&[2, 3]);
    let nothing = [
        Single::new("Identity", std::slice::from_ref(&x), &[]),
        Single::new("Dropout", std::slice::from_ref(&x), &[Some(Tensor::scalar(DType::F32, 0.5))]),
        Single::new("Cast", std::slice::from_ref(&x), &[]).with(int("to", 1)),
        Single::new("CastLike", std::slice::from_ref(&x), &[Some(count(&[1]))]),
        Single::new("Expand", std::slice::from_ref(&x), &[some(&[2, 1])]),
        Single::new("Tile", std::slice::from_ref(&x), &[some(&[1, 1])]),
        Single::new("Transpose", std::slice::from_ref(&x), &[]).with(int_list("perm", &[0, 1])),
        Single::new("Concat", std::slice::from_ref(&x), &[Some(count(&[2, 0]))]).with(int("axis", 1)),
        Single::new("Clip", std::slice::from_ref(&x), &[]),
        Single::new("Max", std::slice::from_ref(&x), &[]),
        Single::new("Split", std::slice::from_ref(&x), &[]),
    ];
    for s in nothing {
        let g = s.graph().unwrap_or_else(|e| panic!("{}: {e}", s.op));
        assert_eq!(mnemonics(&g), [""; 0], "{}", s.op);
        assert_eq!(g.outputs()[0].value, g.inputs()[0], "{}", s.op);
    }
}

/// In training too, a Dropout of ratio 0 keeps everything; else chance decides, and it is refused.
#[test]
fn dropout_of_ratio_0_keeps_everything() {
    let x = count(&[2, 3]);
    let (yes, no) = (Tensor::scalar(DType::Bool, 1.0), Tensor::scalar(DType::Bool, 0.0));
    let ratio = |dtype, r| Some(Tensor::scalar(dtype, r));
    for (ratio, mode) in [
        (ratio(DType::F32, 0.0), Some(yes.clone())),
        (ratio(DType::F64, -0.0), Some(yes.clone())),
        (ratio(DType::F16, 0.0), Some(yes.clone())),
        (ratio(DType::F32, 0.5), Some(no.clone())),
        (None, Some(no.clone())),
        (ratio(DType::F32, 0.5), None),
    ] {
        let of = |outputs| {
            Single::new("Dropout", std::slice::from_ref(&x), &[ratio.clone(), mode.clone()]).outputs(outputs)
        };
        let both = of(2).run();
        assert_eq!(both[0], x);
        assert_eq!(both[1], Tensor::from_vec([2, 3], vec![true; 6]).unwrap());
        let g = of(1).graph().unwrap();
        assert_eq!((mnemonics(&g).len(), g.outputs()[0].value), (0, g.inputs()[0]));
    }
    let refused = |ratio: Option<Tensor>, mode: &Tensor| {
        let single = Single::new("Dropout", std::slice::from_ref(&x), &[ratio, Some(mode.clone())]);
        single.graph().unwrap_err().to_string()
    };
    let half = refused(ratio(DType::F32, 0.5), &yes);
    assert!(half.contains("training mode") && half.contains("its ratio is 0.5"), "{half}");
    let default = refused(None, &yes);
    assert!(default.contains("its ratio is left out, and is 0.5"), "{default}");
    // Whether it trains, or the ratio, may come from outside; of a ratio of 0 nobody need ask.
    let given =
        |inputs: &[Tensor], constants: &[Option<Tensor>]| Single::new("Dropout", inputs, constants).graph();
    let open =
        given(&[x.clone(), Tensor::scalar(DType::F32, 0.0), yes.clone()], &[]).unwrap_err().to_string();
    assert!(
        open.contains("depends on the values of the inputs") && open.contains("no number that is known"),
        "{open}"
    );
    let closed = given(&[x.clone(), Tensor::scalar(DType::F32, 0.0)], &[Some(no)]).unwrap();
    assert_eq!(mnemonics(&closed), [""; 0]);
}

#[test]
fn tile_repeats_axes_as_a_whole() {
    let got = Single::new("Tile", &[count(&[1, 2])], &[some(&[2, 2])]).first();
    assert_eq!(got.shape(), [2, 4]);
    assert_eq!(got.to_f64(), [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    assert_eq!(Single::new("Tile", &[count(&[2])], &[some(&[0])]).first().shape(), [0]);
}

#[test]
fn trilu_at_every_diagonal() {
    for upper in [0, 1] {
        for k in [i64::MIN, -3, -1, 0, 1, 2, i64::MAX] {
            let s = Single::new(
                "Trilu",
                &[count(&[3, 4])],
                &[Some(Tensor::vector_i64(&[k]).reshaped(vec![]).unwrap())],
            )
            .with(int("upper", upper));
            let want: Vec<f64> = (0..12i128)
                .map(|n| {
                    let (d, k) = (n % 4 - n / 4, i128::from(k));
                    let keep = if upper == 1 { d >= k } else { d <= k };
                    if keep { n as f64 } else { 0.0 }
                })
                .collect();
            assert_eq!(s.first().to_f64(), want, "upper {upper}, k {k}");
        }
    }
}

#[test]
fn range_counts_up_and_down_and_may_be_empty() {
    let range = |dtype: DType, b: [f64; 3]| {
        let s = Single::new("Range", &[], &b.map(|x| Some(Tensor::scalar(dtype, x))));
        s.first().to_f64()
    };
    assert_eq!(range(DType::I64, [2.0, 9.0, 3.0]), [2.0, 5.0, 8.0]);
    assert_eq!(range(DType::I32, [3.0, -2.0, -2.0]), [3.0, 1.0, -1.0]);
    assert_eq!(range(DType::F32, [0.0, 1.0, 0.4]).len(), 3);
    assert_eq!(range(DType::I64, [3.0, 3.0, -1.0]), [0.0; 0]);
    let zero = Single::new("Range", &[], &[0.0, 1.0, 0.0].map(|x| Some(Tensor::scalar(DType::I64, x))));
    assert!(zero.refusal().contains("distance is 0"));
    let huge = Single::new(
        "Range",
        &[],
        &[i64::MIN, i64::MAX, 1].map(|x| Some(ints(&[x]).reshaped(vec![]).unwrap())),
    );
    assert!(huge.refusal().contains("2^56"), "{}", huge.refusal());
}

#[test]
fn constant_of_shape_allocates_nothing() {
    let s = Single::new("ConstantOfShape", &[], &[some(&[1 << 20, 1 << 19])]);
    assert_eq!(mnemonics(&s.graph().unwrap()), ["broadcast"]);
    assert!(Single::new("ConstantOfShape", &[], &[some(&[1 << 40, 1 << 40])]).refusal().contains("no shape"));
}

#[test]
fn top_k_and_cumsum_and_mod() {
    let top = Single::new("TopK", &[floats(&[4], &[1.0, 3.0, 3.0, 2.0])], &[some(&[2])]).outputs(2);
    assert_eq!(top.run()[0].to_f64(), [3.0, 3.0]);
    assert_eq!(top.run()[1].to_f64(), [1.0, 2.0]);
    let sum = Single::new("CumSum", &[count(&[4])], &[Some(Tensor::scalar(DType::I32, -1.0))])
        .with(int("exclusive", 1))
        .with(int("reverse", 1));
    assert_eq!(sum.first().to_f64(), [6.0, 5.0, 3.0, 0.0]);
    let m = Single::new("Mod", &[ints(&[-4, 7, 5])], &[some(&[3, -3, 8])]);
    assert_eq!(m.first().to_f64(), [2.0, -2.0, 5.0]);
}

#[test]
fn gemm_is_one_contraction_whatever_is_transposed() {
    let (a, b) = (count(&[2, 3]), count(&[3, 2]));
    let c = floats(&[2], &[10.0, 20.0]);
    let plain = Single::new("Gemm", &[a.clone(), b.clone()], &[Some(c.clone())]);
    assert_eq!(letters(&plain.graph().unwrap()), "mk,kn->mn");
    assert_eq!(plain.first().to_f64(), [20.0, 33.0, 38.0, 60.0]);
    let turned = Single::new("Gemm", &[b, a], &[Some(c)])
        .with(int("transA", 1))
        .with(int("transB", 1))
        .with(float("alpha", 0.5))
        .with(float("beta", 2.0));
    let g = turned.graph().unwrap();
    assert_eq!(letters(&g), "km,nk->mn");
    assert!(!mnemonics(&g).contains(&"permute"));
    // [[0,2,4],[1,3,5]] · [[0,3],[1,4],[2,5]] / 2 + 2c
    assert_eq!(turned.first().to_f64(), [25.0, 54.0, 26.5, 60.0]);
    let wide = Single::new("Gemm", &[count(&[1, 1]), count(&[1, 1])], &[Some(count(&[2, 1]))]);
    assert!(wide.refusal().contains("C does not broadcast"));
}

#[test]
fn products_name_their_axes() {
    let axes = |a: &[usize], b: &[usize]| {
        letters(&Single::new("MatMul", &[count(a), count(b)], &[]).graph().unwrap())
    };
    assert_eq!(axes(&[2, 4, 3, 5], &[2, 4, 5, 6]), "bhmk,bhkn->bhmn");
    assert_eq!(axes(&[1, 3, 5], &[5, 6]), "bmk,kn->bmn");
    assert_eq!(axes(&[2, 1, 3, 5], &[4, 5, 6]), "bmk,hkn->bhmn");
    assert_eq!(axes(&[5], &[5]), "k,k->");
    assert_eq!(axes(&[2, 3, 5], &[5]), "bmk,k->bm");
    let fused = Single::new("com.microsoft::FusedMatMul", &[count(&[2, 3, 5]), count(&[2, 6, 5])], &[]);
    let fused = fused.with(int("transB", 1)).with(float("alpha", 0.25));
    assert_eq!(letters(&fused.graph().unwrap()), "bmk,bnk->bmn");
    assert!(Single::new("MatMul", &[count(&[2, 3]), count(&[2, 3])], &[]).refusal().contains("axis k"));
    assert!(Single::new("MatMul", &[count(&[]), count(&[2])], &[]).refusal().contains("scalar"));
}

#[test]
fn patches_are_a_contraction() {
    // Two channels of 2 × 5, one kernel of 1 × 2; the last column is in no window.
    let kernel = floats(&[1, 2, 1, 2], &[1.0, 0.0, 0.0, 10.0]);
    let conv = |stride: &[i64]| {
        let x = count(&[1, 2, 2, 5]);
        let bias = Some(floats(&[1], &[0.5]));
        Single::new("Conv", &[x], &[Some(kernel.clone()), bias]).with(int_list("strides", stride))
    };
    assert_eq!(letters(&conv(&[1, 2]).graph().unwrap()), "bchiwj,ocij->bohw");
    assert_eq!(conv(&[1, 2]).first().shape(), [1, 1, 2, 2]);
    assert_eq!(conv(&[1, 2]).first().to_f64(), [110.5, 132.5, 165.5, 187.5]);
    // Any other is an operation of its own.
    assert_eq!(mnemonics(&conv(&[1, 1]).graph().unwrap()), ["conv", "reshape", "add"]);
    assert_eq!(conv(&[1, 1]).first().shape(), [1, 1, 2, 4]);
    let padded = conv(&[1, 2]).with(int_list("pads", &[0, 1, 0, 0]));
    // The first window lies half in the padding: what is left is the second tap.
    assert_eq!(padded.first().to_f64()[..2], [100.5, 1.0 + 120.5]);
    assert!(conv(&[1, 2]).with(int("group", 2)).refusal().contains("2 groups"));
    assert!(conv(&[1, 2]).with(int("group", 0)).refusal().contains("groups"));
    assert!(conv(&[0, 1]).refusal().contains("strides"));
}

fn pool(op: &'static str, x: Tensor, kernel: &[i64]) -> Single {
    Single::new(op, &[x], &[]).with(int_list("kernel_shape", kernel))
}

#[test]
fn padding_of_a_pool_counts_only_where_it_says_so() {
    let x = floats(&[1, 1, 4], &[1.0, 2.0, 3.0, 8.0]);
    let mean = |include: i64, ceil: i64| {
        pool("AveragePool", x.clone(), &[3])
            .with(int_list("pads", &[1, 0]))
            .with(int_list("strides", &[2]))
            .with(int("count_include_pad", include))
            .with(int("ceil_mode", ceil))
            .first()
            .to_f64()
    };
    assert_eq!(mean(0, 0), [1.5, 13.0 / 3.0].map(|x| f64::from(x as f32)));
    assert_eq!(mean(1, 0), [1.0, 13.0 / 3.0].map(|x| f64::from(x as f32)));
    // Windows at −1 and 1; one at 3 begins within the axis and reaches beyond it.
    let wide = |include: i64| {
        pool("AveragePool", x.clone(), &[3])
            .with(int_list("pads", &[1, 1]))
            .with(int_list("strides", &[3]))
            .with(int("count_include_pad", include))
            .with(int("ceil_mode", 1))
            .first()
            .to_f64()
    };
    assert_eq!(wide(0), [1.5, 5.5]);
    assert_eq!(wide(1), [1.0, 11.0 / 3.0].map(|x| f64::from(x as f32)));
    let most = pool("MaxPool", x.clone(), &[2]).with(string("auto_pad", "SAME_UPPER"));
    assert_eq!(most.first().to_f64(), [2.0, 3.0, 8.0, 8.0]);
    let most = pool("MaxPool", x.clone(), &[2]).with(string("auto_pad", "SAME_LOWER"));
    assert_eq!(most.first().to_f64(), [1.0, 2.0, 3.0, 8.0]);
    let dilated = pool("MaxPool", x.clone(), &[2]).with(int_list("dilations", &[3]));
    assert_eq!(dilated.first().to_f64(), [8.0]);
    assert!(pool("MaxPool", x.clone(), &[2]).outputs(2).refusal().contains("not computed"));
    assert!(pool("MaxPool", x.clone(), &[9]).refusal().contains("do not fit"));
    assert!(pool("MaxPool", x, &[2, 2]).refusal().contains("a window [2, 2] over"));
}

#[test]
fn planes_are_averaged_and_normalised_for_themselves() {
    let x = count(&[2, 2, 2, 2]);
    assert_eq!(
        Single::new("GlobalAveragePool", std::slice::from_ref(&x), &[]).first().to_f64(),
        [1.5, 5.5, 9.5, 13.5]
    );
    assert_eq!(Single::new("GlobalMaxPool", std::slice::from_ref(&x), &[]).first().shape(), [2, 2, 1, 1]);
    let norm = Single::new(
        "InstanceNormalization",
        &[x],
        &[Some(floats(&[2], &[1.0, 2.0])), Some(floats(&[2], &[0.0, 10.0]))],
    )
    .with(float("epsilon", 0.0));
    let unit = [-3.0, -1.0, 1.0, 3.0].map(|x| x / 5f64.sqrt());
    let want = [unit, unit.map(|x| 2.0 * x + 10.0), unit, unit.map(|x| 2.0 * x + 10.0)].concat();
    let got = norm.first().to_f64();
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-5), "{got:?} {want:?}");
}

/// a · b as NumPy means it, element by element.
fn naive(a: &Tensor, b: &Tensor) -> (Vec<usize>, Vec<f64>) {
    let (va, vb) = (a.shape().len() == 1, b.shape().len() == 1);
    let sa = if va { vec![1, a.shape()[0]] } else { a.shape().to_vec() };
    let sb = if vb { vec![b.shape()[0], 1] } else { b.shape().to_vec() };
    let rank = sa.len().max(sb.len());
    let padded = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    let (sa, sb) = (padded(&sa), padded(&sb));
    let batch: Vec<usize> = (0..rank - 2).map(|i| if sa[i] == 1 { sb[i] } else { sa[i] }).collect();
    let (m, k, n) = (sa[rank - 2], sa[rank - 1], sb[rank - 1]);
    let at = |x: &[f64], s: &[usize], index: &[usize]| {
        x[index.iter().zip(s).fold(0, |o, (&i, &d)| o * d + if d == 1 { 0 } else { i })]
    };
    let (da, db) = (a.to_f64(), b.to_f64());
    let mut out = vec![];
    for flat in 0..batch.iter().product::<usize>() {
        let mut index = vec![0; batch.len()];
        let mut rest = flat;
        for (i, &d) in index.iter_mut().zip(&batch).rev() {
            *i = rest % d;
            rest /= d;
        }
        for i in 0..m {
            for j in 0..n {
                let term = |l: usize| {
                    at(&da, &sa, &[index.as_slice(), &[i, l]].concat())
                        * at(&db, &sb, &[index.as_slice(), &[l, j]].concat())
                };
                out.push((0..k).map(term).sum());
            }
        }
    }
    let mut shape = batch;
    shape.extend((!va).then_some(m));
    shape.extend((!vb).then_some(n));
    (shape, out)
}

proptest! {
    #[test]
    fn products_broadcast_as_numpy_does(
        batch in prop::collection::vec((1usize..4, 0u8..4), 0..4),
        (m, k, n) in (1usize..4, 0usize..4, 1usize..4),
        vectors in (any::<bool>(), any::<bool>()),
    ) {
        // Each batch axis is on both sides, on one with extent 1, or (outermost) missing on one.
        let mut a: Vec<usize> = batch.iter().map(|&(d, how)| if how == 1 { 1 } else { d }).collect();
        let mut b: Vec<usize> = batch.iter().map(|&(d, how)| if how == 2 { 1 } else { d }).collect();
        if let Some((_, 3)) = batch.first() { b.remove(0); }
        if vectors.0 { a = vec![k] } else { a.extend([m, k]) }
        if vectors.1 { b = vec![k] } else { b.extend([k, n]) }
        let (a, b) = (count(&a), count(&b));
        let s = Single::new("MatMul", &[a.clone(), b.clone()], &[]);
        let got = s.first();
        let (shape, want) = naive(&a, &b);
        prop_assert_eq!(got.shape(), shape);
        prop_assert_eq!(got.to_f64(), want);
        prop_assert!(!mnemonics(&s.graph().unwrap()).contains(&"broadcast"));
    }
}

#[test]
fn normalisations_of_halves_are_computed_in_f32() {
    let x = Tensor::from_f64(DType::F16, vec![1, 4], &[300.0, -300.0, 300.0, 300.0]).unwrap();
    let ones = Tensor::from_f64(DType::F16, vec![4], &[1.0; 4]).unwrap();
    // The squares do not fit f16.
    let rms = Single::new("RMSNormalization", std::slice::from_ref(&x), &[Some(ones.clone())]).first();
    assert_eq!(rms.to_f64(), [1.0, -1.0, 1.0, 1.0]);
    let layer = Single::new("LayerNormalization", &[x], &[Some(ones)]).outputs(3).opset(17).run();
    assert_eq!(layer[1].to_f64(), [150.0]);
    assert_eq!(layer[1].ty().to_string(), "f32[1,1]");
    assert!((layer[0].to_f64()[1] + 3f64.sqrt()).abs() < 1e-3);
}

#[test]
fn statistics_of_a_normalisation_have_the_type_that_it_states() {
    let f64s = |values: &[f64]| Tensor::from_f64(DType::F64, [values.len()], values).unwrap();
    let (x, one) = (f64s(&[1.0, 3.0]), f64s(&[1.0, 1.0]));
    let norm = Single::new("LayerNormalization", &[x, one], &[]).outputs(3);
    let got = norm.with(float("epsilon", 0.0)).run();
    assert_eq!([got[0].dtype(), got[1].dtype(), got[2].dtype()], [DType::F64, DType::F32, DType::F32]);
    assert_eq!((got[0].to_f64(), got[1].to_f64(), got[2].to_f64()), (vec![-1.0, 1.0], vec![2.0], vec![1.0]));
}

#[test]
fn rotary_turns_pairs() {
    // One head of 6 elements, of which 4 turn by a quarter and by nothing.
    let x = count(&[1, 1, 1, 6]);
    let (cos, sin) = (floats(&[1, 1, 2], &[0.0, 1.0]), floats(&[1, 1, 2], &[1.0, 0.0]));
    let rotary = |x: &Tensor, interleaved| {
        Single::new("RotaryEmbedding", std::slice::from_ref(x), &[Some(cos.clone()), Some(sin.clone())])
            .with(int("rotary_embedding_dim", 4))
            .with(int("interleaved", interleaved))
    };
    assert_eq!(rotary(&x, 0).first().to_f64(), [-2.0, 1.0, 0.0, 3.0, 4.0, 5.0]);
    assert_eq!(rotary(&x, 1).first().to_f64(), [-1.0, 0.0, 2.0, 3.0, 4.0, 5.0]);
    // (batch, row, hidden) with two heads, and positions into the tables.
    let x = count(&[1, 2, 4]);
    let (cos, sin) = (floats(&[3, 1], &[1.0, 0.0, 5.0]), floats(&[3, 1], &[0.0, 1.0, 5.0]));
    let at = ints(&[1, 0]).reshaped(vec![1, 2]).unwrap();
    let s = Single::new("RotaryEmbedding", &[x], &[Some(cos), Some(sin), Some(at)]).with(int("num_heads", 2));
    assert_eq!(s.first().to_f64(), [-1.0, 0.0, -3.0, 2.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn shapes_that_depend_on_inputs_are_refused_by_name() {
    let s = Single::new("Reshape", &[count(&[4]), ints(&[2, 2])], &[]);
    let why = s.refusal();
    assert!(why.contains("Reshape_0 (Reshape)") && why.contains("its shape (x1) depends"), "{why}");
    assert!(why.contains("x0: f32[4], x1: i64[2]"), "{why}");
    let range = Single::new(
        "Range",
        &[Tensor::scalar(DType::I64, 0.0)],
        &[0, 1].map(|_| Some(Tensor::scalar(DType::I64, 1.0))),
    );
    assert!(range.refusal().contains("x0 depends"), "{}", range.refusal());
}

#[test]
fn what_is_not_known_is_refused() {
    let x = count(&[2]);
    let unknown = Single::new("LSTM", std::slice::from_ref(&x), &[]);
    assert!(unknown.refusal().contains("LSTM_0 (LSTM) is not supported"), "{}", unknown.refusal());
    let attribute = Single::new("Neg", std::slice::from_ref(&x), &[]).with(int("axis", 0));
    assert!(attribute.refusal().contains("attribute axis is unknown"), "{}", attribute.refusal());
    let kind = Single::new("Softmax", std::slice::from_ref(&x), &[]).with(float("axis", 0.0));
    assert!(kind.refusal().contains("attribute axis has type 1"), "{}", kind.refusal());
    let domain = Single::new("my.domain::Neg", std::slice::from_ref(&x), &[]);
    assert!(domain.refusal().contains("does not import"), "{}", domain.refusal());
    // Softmax meant something else before version 13.
    assert!(
        Single::new("Softmax", std::slice::from_ref(&x), &[]).opset(12).refusal().contains("operator set 12")
    );
    assert!(
        Single::new("Neg", std::slice::from_ref(&x), &[]).opset(27).refusal().contains("operator set 27")
    );
    assert!(Single::new("Add", std::slice::from_ref(&x), &[]).refusal().contains("1 operands"));
    assert!(Single::new("Add", &[x.clone(), ints(&[1, 2])], &[]).refusal().contains("types differ"));
}

#[test]
fn operations_carry_their_node_and_values_their_name() {
    let s = Single::new("Gelu", &[count(&[2])], &[]);
    let g = s.graph().unwrap();
    assert_eq!(g.value(g.outputs()[0].value).name, "y0");
    for id in g.ops() {
        let name = &g.value(g.result(id)).name;
        match g.op(id) {
            Op::Input(_) | Op::Constant(_) => assert_eq!(g.source(id), ""),
            _ => assert_eq!(g.source(id), "Gelu_0"),
        }
        assert!(name == "x0" || name.starts_with("y0"), "{name}");
    }
}
