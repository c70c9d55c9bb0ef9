//! Operators of com.microsoft and Einsum against their definition, element by element.

use super::build::*;
use annulus::ir::{DType, Op, Tensor};
use annulus::mask::Fill;

/// Numbers that look like nothing in particular.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let n: usize = shape.iter().product();
    let v: Vec<f64> = (0..n).map(|i| ((i as f64 + 1.0) * 0.7391 * (seed as f64 + 1.3)).sin()).collect();
    floats(shape, &v)
}

fn i32s(shape: &[usize], v: &[f64]) -> Tensor {
    Tensor::from_f64(DType::I32, shape, v).unwrap()
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * (1.0 + w.abs()), "{i}: {g} for {w}");
    }
}

const B: usize = 2;
const S: usize = 3;
const H: usize = 2;
const D: usize = 2;

/// softmax(q·k/√D + add(b, row, key)) · v of x: (B, S, 4) projected by w: (4, 3·H·D), keys after `last(row)` left out.
fn attended(
    x: &Tensor,
    w: &Tensor,
    add: impl Fn(usize, usize, usize) -> f64,
    last: impl Fn(usize) -> usize,
) -> Vec<f64> {
    let (x, w) = (x.to_f64(), w.to_f64());
    let n = 3 * H * D;
    let project =
        |b: usize, s: usize, c: usize| -> f64 { (0..4).map(|i| x[(b * S + s) * 4 + i] * w[i * n + c]).sum() };
    let mut out = vec![];
    for b in 0..B {
        for s in 0..S {
            for h in 0..H {
                let score = |t: usize| -> f64 {
                    let dot = (0..D).map(|d| project(b, s, h * D + d) * project(b, t, H * D + h * D + d));
                    dot.sum::<f64>() / (D as f64).sqrt() + add(b, s, t)
                };
                let scores: Vec<f64> = (0..=last(s)).map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let e: Vec<f64> = scores.iter().map(|x| (x - most).exp()).collect();
                let sum: f64 = e.iter().sum();
                for d in 0..D {
                    let v = |t: usize| project(b, t, 2 * H * D + h * D + d);
                    out.push(e.iter().enumerate().map(|(t, p)| p / sum * v(t)).sum());
                }
            }
        }
    }
    out
}

fn attention(mask: Option<Tensor>) -> Single {
    let (x, w) = (noise(&[B, S, 4], 1), noise(&[4, 3 * H * D], 2));
    let mut inputs = vec![x, w, floats(&[3 * H * D], &[0.0; 12])];
    inputs.extend(mask);
    Single::new("com.microsoft::Attention", &inputs, &[]).with(int("num_heads", H as i64))
}

#[test]
fn a_mask_index_of_every_form_lowers_the_keys_that_it_leaves_out() {
    let (x, w) = (noise(&[B, S, 4], 1), noise(&[4, 3 * H * D], 2));
    let marks = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]].concat();
    let dead = |b: usize, t: usize| if b == 0 { t == 2 } else { t == 0 };
    let square = |n: usize| -> Vec<f64> {
        let at = |i: usize| {
            let (b, t) = (i / (n * n), i % n);
            if t < S && dead(b, t) { 0.0 } else { 1.0 }
        };
        (0..B * n * n).map(at).collect()
    };
    let forms = [
        i32s(&[2 * B], &[2.0, 3.0, 0.0, 1.0]),
        i32s(&[B, S], &marks),
        i32s(&[B, S, S], &square(S)),
        i32s(&[B, 1, 5, 5], &square(5)),
    ];
    for filter in [-1.5f32, -10000.0, f32::MIN] {
        let want = attended(&x, &w, |b, _, t| if dead(b, t) { filter.into() } else { 0.0 }, |_| S - 1);
        let causal = attended(&x, &w, |b, _, t| if dead(b, t) { filter.into() } else { 0.0 }, |s| s);
        for mask in &forms {
            let node = attention(Some(mask.clone())).with(float("mask_filter_value", filter));
            close(&node.first().to_f64(), &want);
            let fills = |g: &annulus::ir::Graph| -> Vec<Fill> {
                let fill = |id| match g.op(id) {
                    Op::Attention(a) => Some(a.scores.mask().fill),
                    _ => None,
                };
                g.ops().into_iter().filter_map(fill).collect()
            };
            assert_eq!(fills(&node.graph().unwrap()), [Fill::Add(filter.into())]);
            close(&node.with(int("unidirectional", 1)).first().to_f64(), &causal);
        }
    }
    // Lengths alone; the filter is −10000 if none is given.
    let want = attended(&x, &w, |b, _, t| if b == 0 && t > 0 { -1e4 } else { 0.0 }, |_| S - 1);
    close(&attention(Some(i32s(&[B], &[1.0, 3.0]))).first().to_f64(), &want);
    close(&attention(None).first().to_f64(), &attended(&x, &w, |_, _, _| 0.0, |_| S - 1));
    for (shape, n) in [(vec![3 * B + 2], 8), (vec![B, S + 1], 8), (vec![B, 1, 2, 2], 8)] {
        let mask = i32s(&shape, &vec![1.0; n]);
        assert!(attention(Some(mask)).refusal().contains("a mask"), "{shape:?}");
    }
    assert!(attention(None).with(int("do_rotary", 1)).refusal().contains("rotary"));
}

#[test]
fn past_rows_come_first_and_present_holds_both() {
    // The whole sequence at once, and its last row with the others as past.
    let (x, w) = (noise(&[B, S, 4], 1), noise(&[4, 3 * H * D], 2));
    let whole = Single::new("com.microsoft::Attention", &[x.clone(), w.clone()], &[])
        .with(int("num_heads", H as i64))
        .with(int("unidirectional", 1))
        .outputs(2)
        .run();
    assert_eq!(whole[1].shape(), [2, B, H, S, D]);
    let present = whole[1].to_f64();
    let past: Vec<f64> = present.chunks(S * D).flat_map(|head| head[..(S - 1) * D].to_vec()).collect();
    let last: Vec<f64> = x.to_f64().chunks(S * 4).flat_map(|rows| rows[(S - 1) * 4..].to_vec()).collect();
    let mut step = Single::new("com.microsoft::Attention", &[floats(&[B, 1, 4], &last), w], &[None, None]);
    step = step.with(int("num_heads", H as i64)).with(int("unidirectional", 1)).outputs(2);
    let mut m = step.model();
    let g = m.graph.as_mut().unwrap();
    g.initializer.push(tensor("past", &floats(&[2, B, H, S - 1, D], &past)));
    g.node[0].input.push("past".into());
    let graph = annulus::import::graph(&m, &Default::default()).unwrap();
    let got = annulus::eval::eval(&graph, &step.inputs, annulus::eval::Precision::Declared).unwrap();
    close(&got[1].to_f64(), &present);
    let want: Vec<f64> =
        whole[0].to_f64().chunks(S * H * D).flat_map(|rows| rows[(S - 1) * H * D..].to_vec()).collect();
    close(&got[0].to_f64(), &want);
}

#[test]
fn heads_come_apart_packed_or_with_a_bias() {
    let n = H * D;
    let (q, k, v) = (noise(&[B, S, n], 3), noise(&[B, 4, n], 4), noise(&[B, 4, n], 5));
    let node = |inputs: &[Tensor], rest: &[Option<Tensor>]| {
        Single::new("com.microsoft::MultiHeadAttention", inputs, rest).with(int("num_heads", H as i64))
    };
    let apart = node(&[q.clone(), k.clone(), v.clone()], &[]).first();
    // Keys and values packed: (batch, key, head, 2, size).
    let (kd, vd) = (k.to_f64(), v.to_f64());
    let both: Vec<f64> = kd.chunks(D).zip(vd.chunks(D)).flat_map(|(k, v)| [k, v].concat()).collect();
    close(&node(&[q.clone(), floats(&[B, 4, H, 2, D], &both)], &[]).first().to_f64(), &apart.to_f64());
    // A bias is what was not added before.
    let bias: Vec<f64> = (0..3 * n).map(|i| i as f64 / 10.0).collect();
    let less = |x: &Tensor, i: usize| {
        let v: Vec<f64> = x.to_f64().iter().enumerate().map(|(j, x)| x - bias[i * n + j % n]).collect();
        floats(x.shape(), &v)
    };
    let biased = node(&[less(&q, 0), less(&k, 1), less(&v, 2)], &[Some(floats(&[3 * n], &bias))]).first();
    close(&biased.to_f64(), &apart.to_f64());
    assert!(node(std::slice::from_ref(&q), &[]).refusal().contains("neither q, k and v nor packed"));
    assert!(node(&[q, k, v], &[]).outputs(5).refusal().contains("5 results"));
}

#[test]
fn embeddings_add_up_before_they_are_normalised() {
    let ids = i32s(&[1, 2], &[1.0, 0.0]);
    let table = |seed| Some(floats(&[2, 2], &[seed, 0.0, 0.0, 3.0]));
    let (ones, zeros) = (Some(floats(&[2], &[1.0, 1.0])), Some(floats(&[2], &[0.0, 0.5])));
    let node = Single::new(
        "com.microsoft::EmbedLayerNormalization",
        &[ids],
        &[
            Some(i32s(&[1, 2], &[1.0, 1.0])),
            table(1.0),
            table(5.0),
            table(9.0),
            ones,
            zeros,
            Some(i32s(&[1, 2], &[1.0, 0.0])),
        ],
    );
    let got = node.outputs(3).run();
    // (0,3)+(5,0)+(0,3), and (1,0)+(0,3)+(0,3).
    assert_eq!(got[2].to_f64(), [5.0, 6.0, 1.0, 6.0]);
    assert_eq!((got[1].dtype(), got[1].to_f64()), (DType::I32, vec![1.0]));
    close(&got[0].to_f64(), &[-1.0, 1.5, -1.0, 1.5]);
}

#[test]
fn fused_products_and_roots_of_mean_squares() {
    let gemm = |name: &str| {
        Single::new(
            "com.microsoft::FusedGemm",
            &[floats(&[1, 2], &[1.0, -2.0])],
            &[Some(floats(&[2, 2], &[1.0, 0.0, 0.0, 1.0])), Some(floats(&[2], &[1.0, 0.5]))],
        )
        .with(string("activation", name))
    };
    close(&gemm("Relu").first().to_f64(), &[2.0, 0.0]);
    close(&gemm("LeakyRelu").with(float("activation_alpha", 0.5)).first().to_f64(), &[2.0, -0.75]);
    close(&gemm("Tanh").first().to_f64(), &[2f64.tanh(), (-1.5f64).tanh()]);
    close(&gemm("").first().to_f64(), &[2.0, -1.5]);
    assert!(gemm("Swish").refusal().contains("activation"));
    let x = floats(&[1, 2], &[3.0, 4.0]);
    for op in ["SimplifiedLayerNormalization", "com.microsoft::SimplifiedLayerNormalization"] {
        let norm = Single::new(op, std::slice::from_ref(&x), &[Some(floats(&[2], &[1.0, 2.0]))])
            .with(float("epsilon", 0.0))
            .outputs(2);
        let root = 12.5f64.sqrt();
        close(&norm.run()[0].to_f64(), &[3.0 / root, 8.0 / root]);
        close(&norm.run()[1].to_f64(), &[1.0 / root]);
    }
}

#[test]
fn rotary_positions_may_be_where_the_rows_begin() {
    let x = noise(&[1, 2, 8], 7);
    let (cos, sin) = (noise(&[5, 2], 8), noise(&[5, 2], 9));
    let turn = |positions: Tensor, wide: bool| {
        let inputs = [x.clone(), positions];
        let node =
            Single::new("com.microsoft::RotaryEmbedding", &inputs, &[Some(cos.clone()), Some(sin.clone())]);
        let node =
            if wide { node.with(int("rotary_embedding_dim", 4)).with(int("num_heads", 1)) } else { node };
        node.first().to_f64()
    };
    let begin = turn(ints(&[3]), false);
    let each = Tensor::from_f64(DType::I64, vec![1, 2], &[3.0, 4.0]).unwrap();
    assert_eq!(begin, turn(each.clone(), false));
    let (v, c, s) = (x.to_f64(), cos.to_f64(), sin.to_f64());
    // Row 1 stands at 4; two heads of 4, of which element 0 and 2 are a pair.
    let (cos0, sin0) = (c[8], s[8]);
    close(&begin[8..9], &[v[8] * cos0 - v[10] * sin0]);
    close(&begin[14..15], &[v[12] * sin0 + v[14] * cos0]);
    // One head of 8, of which the last four stay.
    let wide = turn(each, true);
    assert_eq!(wide[12..], v[12..]);
    close(&wide[10..11], &[v[8] * sin0 + v[10] * cos0]);
}

#[test]
fn softplus_and_log_softmax_do_not_overflow() {
    let x = floats(&[4], &[-1000.0, 0.0, 1.0, 1000.0]);
    let want = [0.0, 2f64.ln(), (1.0 + 1f64.exp()).ln(), 1000.0];
    close(&Single::new("Softplus", std::slice::from_ref(&x), &[]).first().to_f64(), &want);
    let half = Tensor::from_f64(DType::F16, vec![2], &[1.0, 1.0]).unwrap();
    let log = Single::new("LogSoftmax", &[half], &[]).first();
    assert_eq!(log.dtype(), DType::F16);
    assert!(log.to_f64().iter().all(|x| (x + 2f64.ln()).abs() < 1e-3));
    assert_eq!(Single::new("LogSoftmax", &[x], &[]).first().to_f64(), [-2000.0, -1000.0, -999.0, 0.0]);
}

/// The sum over every axis that the result lacks, of the product of all operands.
fn naive(equation: &str, operands: &[Tensor]) -> Vec<f64> {
    let (left, out) = equation.split_once("->").unwrap();
    let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
    let mut extents = std::collections::BTreeMap::new();
    for (term, x) in terms.iter().zip(operands) {
        for (&l, &d) in term.iter().zip(x.shape()) {
            let e = extents.entry(l).or_insert(d);
            *e = if *e == 1 { d } else { *e };
        }
    }
    let letters: Vec<char> = extents.keys().copied().collect();
    let total: usize = extents.values().product();
    let shape: Vec<usize> = out.chars().map(|l| extents[&l]).collect();
    let mut result = vec![0.0; shape.iter().product()];
    let data: Vec<Vec<f64>> = operands.iter().map(Tensor::to_f64).collect();
    for mut flat in 0..total {
        let mut at = std::collections::BTreeMap::new();
        for l in letters.iter().rev() {
            at.insert(*l, flat % extents[l]);
            flat /= extents[l];
        }
        let flat_of = |axes: &[char], shape: &[usize]| {
            axes.iter().zip(shape).fold(0, |n, (l, &d)| n * d + if d == 1 { 0 } else { at[l] })
        };
        let product: f64 =
            (0..terms.len()).map(|i| data[i][flat_of(&terms[i], operands[i].shape())]).product();
        result[flat_of(&out.chars().collect::<Vec<_>>(), &shape)] += product;
    }
    result
}

#[test]
fn einsum_is_a_sum_of_products() {
    let sizes: std::collections::BTreeMap<char, usize> =
        [('a', 2), ('b', 3), ('c', 4), ('d', 1), ('e', 2)].into_iter().collect();
    for equation in [
        "ab,bc->ac",
        "ab,cb->ca",
        "ab->ba",
        "abc->b",
        "ab->",
        "aa->a",
        "aa->",
        "aab,bc->ca",
        "a,b->ab",
        "ab,ab->",
        "ab,bc,ca->",
        "ab,bc,ce->ae",
        "abc,e,b->ea",
        "aba,a->b",
        "ab,c->a",
        "d,da->a",
        "a->a",
        "abc,cba,b->ac",
    ] {
        let left = equation.split_once("->").unwrap().0;
        let operands: Vec<Tensor> = left
            .split(',')
            .zip(1..)
            .map(|(t, seed)| noise(&t.chars().map(|l| sizes[&l]).collect::<Vec<_>>(), seed))
            .collect();
        let got = Single::new("Einsum", &operands, &[]).with(string("equation", equation)).first();
        close(&got.to_f64(), &naive(equation, &operands));
    }
}

#[test]
fn einsum_spells_in_many_ways() {
    let run = |equation: &str, operands: &[Tensor]| {
        Single::new("Einsum", operands, &[]).with(string("equation", equation))
    };
    let (x, y) = (noise(&[2, 3, 4], 1), noise(&[2, 4, 3], 2));
    let product = naive("bij,bjk->bik", &[x.clone(), y.clone()]);
    for equation in ["bij,bjk->bik", "b i j , b j k -> b i k", "...ij,...jk->...ik", "...ij,...jk"] {
        let node = run(equation, &[x.clone(), y.clone()]);
        close(&node.first().to_f64(), &product);
        assert_eq!(mnemonics(&node.graph().unwrap()), ["contract"], "{equation}");
    }
    // An ellipsis that one operand lacks, and an axis of extent 1 that broadcasts.
    let z = noise(&[4], 3);
    close(
        &run("...j,j->...", &[x.clone(), z.clone()]).first().to_f64(),
        &naive("abj,j->ab", &[x.clone(), z]),
    );
    let thin = noise(&[1, 3, 4], 4);
    let got = run("bij,bjk->bik", &[thin.clone(), y.clone()]).first();
    close(&got.to_f64(), &naive("bij,bjk->bik", &[thin, y.clone()]));
    // Without an arrow: letters that stand once, in the order of the alphabet.
    assert_eq!(run("zy,yx", &[noise(&[2, 3], 1), noise(&[3, 4], 2)]).first().shape(), [4, 2]);
    for (equation, why) in [
        ("ab,bc->ac", "does not fit its operand"),
        ("abc->ac", "for 2 operands"),
        ("abc,cde->af", "is in no operand"),
        ("abc,bcd->aa", "stands twice"),
        ("abc,abd->cd", "axis b is 3 and 4"),
        ("a1c,abd->cd", "does not fit"),
        ("aab,bcd->cd", "axis a is 2 and 3"),
    ] {
        let got = run(equation, &[x.clone(), y.clone()]).refusal();
        assert!(got.contains(why), "{equation}: {got}");
    }
}

/// The fourth result of MultiHeadAttention: the scaled scores, and what is added to them, as ONNX Runtime gives them.
#[test]
fn the_scores_of_heads_are_a_result() {
    let [q, k, v] = [1, 2, 3].map(|seed| noise(&[1, 3, 8], seed));
    let add = noise(&[1, 2, 3, 3], 4);
    for (scale, bias) in [(None, None), (Some(1.5f32), Some(add))] {
        let mut s = Single::new("com.microsoft::MultiHeadAttention", &[q.clone(), k.clone(), v.clone()], &[]);
        s.constants = vec![None, None, bias.clone()];
        let mut s = s.with(int("num_heads", 2)).outputs(4);
        s.attributes.extend(scale.map(|x| float("scale", x)));
        let got = s.run().pop().unwrap();
        assert_eq!(got.shape(), [1, 2, 3, 3]);
        let (x, y) = (q.to_f64(), k.to_f64());
        let mut want = vec![];
        for h in 0..2 {
            for i in 0..3 {
                for j in 0..3 {
                    let dot: f64 = (0..4).map(|d| x[i * 8 + h * 4 + d] * y[j * 8 + h * 4 + d]).sum();
                    let more = bias.as_ref().map_or(0.0, |b| b.to_f64()[(h * 3 + i) * 3 + j]);
                    want.push(dot * scale.map_or(0.5, f64::from) + more);
                }
            }
        }
        close(&got.to_f64(), &want);
    }
    let masked =
        Single::new("com.microsoft::MultiHeadAttention", &[q, k, v], &[None, Some(i32s(&[1, 3], &[1.0; 3]))]);
    assert!(
        masked
            .with(int("num_heads", 2))
            .outputs(4)
            .refusal()
            .contains("its scores are asked for beside a mask")
    );
}

/// A scale of another type than x: the normalised rows are rounded to x's type, the result is of the scale's.
#[test]
fn a_scale_may_be_of_another_type() {
    let x = Tensor::from_f64(DType::F16, [2, 4], &noise(&[2, 4], 7).to_f64()).unwrap();
    let scale = noise(&[4], 8);
    let got = Single::new("RMSNormalization", std::slice::from_ref(&x), &[Some(scale.clone())]).first();
    assert_eq!(got.dtype(), DType::F32);
    let x = x.to_f64();
    for (i, got) in got.to_f64().iter().enumerate() {
        let row = &x[i / 4 * 4..i / 4 * 4 + 4];
        let root = (row.iter().map(|x| x * x).sum::<f64>() / 4.0 + 1e-5).sqrt();
        let want = x[i] / root * scale.to_f64()[i % 4];
        assert!((got - want).abs() < 2e-3, "{got}, not {want}");
    }
}
