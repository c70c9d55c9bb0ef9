//! ONNX Attention against the operator written out in f64.

use super::build::*;
use annulus::ir::{Attention, DType, Graph, Op, Tensor};
use annulus::mask::Term;
use proptest::prelude::*;

fn node_of(g: &Graph) -> Attention {
    let all: Vec<Attention> = g
        .ops()
        .into_iter()
        .filter_map(|id| match g.op(id) {
            Op::Attention(a) => Some((**a).clone()),
            _ => None,
        })
        .collect();
    let [a] = all.as_slice() else { panic!("{} attentions", all.len()) };
    a.clone()
}

fn plain(q: &[usize], k: &[usize]) -> Single {
    Single::new("Attention", &[count(q), count(k), count(k)], &[])
}

#[test]
fn everything_is_explicit() {
    let a = node_of(&plain(&[1, 4, 3, 16], &[1, 2, 5, 16]).graph().unwrap());
    assert_eq!(a.scores.to_string(), "factor 0.25");
    let causal = plain(&[1, 4, 3, 16], &[1, 2, 5, 16]).with(int("is_causal", 1)).with(float("scale", 2.0));
    let a = node_of(&causal.graph().unwrap());
    assert_eq!(a.scores.to_string(), "factor 2.0 | fill -inf unless causal(0)");
    let window = plain(&[1, 1, 3, 4], &[1, 1, 3, 4]).opset(25).with(int("left_window_size", 2));
    let a = node_of(&window.graph().unwrap());
    assert_eq!(a.scores.mask().terms, [Term::Window { left: Some(2), right: None, offset: 0 }]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let says = |s: Single, part: &str| assert!(s.refusal().contains(part), "{}", s.refusal());
    says(plain(&[1, 3, 3, 4], &[1, 2, 3, 4]), "2 key heads do not divide 3");
    says(plain(&[1, 3, 8], &[1, 3, 8]), "heads");
    says(plain(&[1, 3, 8], &[1, 3, 8]).with(int("q_num_heads", 3)).with(int("kv_num_heads", 1)), "heads");
    says(plain(&[1, 1, 3, 4], &[1, 1, 3, 4]).with(int("left_window_size", -2)), "left_window_size is -2");
    says(plain(&[1, 1, 3, 4], &[1, 1, 3, 4]).with(int("qk_matmul_output_mode", 4)), "mode is 4");
    says(plain(&[1, 1, 3, 4], &[1, 1, 3, 4]).with(float("softcap", -1.0)), "softcap");
    let x = count(&[1, 1, 3, 4]);
    let with = |rest: &[Option<Tensor>]| Single::new("Attention", &[x.clone(), x.clone(), x.clone()], rest);
    // At version 23 the function body and the reference implementation of the operator disagree.
    says(with(&[Some(floats(&[3, 1], &[0.0; 3]))]), "a mask of one key over more keys");
    says(with(&[Some(ints(&[1, 2, 3]))]), "its mask holds i64");
    says(with(&[None, Some(x.clone())]), "do not come together");
    says(with(&[Some(count(&[2, 3, 3]))]), "does not broadcast");
    let lengths = Some(ints(&[3]));
    says(with(&[None, Some(x.clone()), Some(x.clone()), lengths]), "exclude each other");
}

/// A random attention, and what it should give.
#[derive(Clone, Debug)]
struct Random {
    batch: usize,
    kv_heads: usize,
    group: usize,
    q_len: usize,
    new: usize,
    past: Option<usize>,
    size: usize,
    v_size: usize,
    flat: bool,
    causal: bool,
    softcap: f32,
    window: (i64, i64),
    mask: Option<Mask>,
    lengths: bool,
    seed: u64,
}

/// A mask of 1 to 4 axes: so many keys short of all, and of extent 1 along the axes whose bit is set (rows, heads, batch).
#[derive(Clone, Copy, Debug)]
struct Mask {
    float: bool,
    rank: usize,
    short: usize,
    ones: u8,
}

impl Mask {
    fn shape(&self, [batch, heads, rows, keys]: [usize; 4]) -> Vec<usize> {
        let one = |bit: u8, extent| if self.ones & bit != 0 { 1 } else { extent };
        let all = [one(4, batch), one(2, heads), one(1, rows), keys.saturating_sub(self.short).max(1)];
        all[4 - self.rank..].to_vec()
    }
}

/// Numbers in −1..1 from a counter.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as f64) / f64::from(1u32 << 30) - 1.0
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        floats(shape, &(0..n).map(|_| self.next()).collect::<Vec<_>>())
    }
}

impl Random {
    fn check(&self) {
        let mut numbers = Numbers(self.seed);
        let q_heads = self.kv_heads * self.group;
        let past = self.past.unwrap_or(0);
        let keys = past + self.new;
        let dims = |heads: usize, rows: usize, size: usize| {
            if self.flat { vec![self.batch, rows, heads * size] } else { vec![self.batch, heads, rows, size] }
        };
        let q = numbers.tensor(&dims(q_heads, self.q_len, self.size));
        let k = numbers.tensor(&dims(self.kv_heads, self.new, self.size));
        let v = numbers.tensor(&dims(self.kv_heads, self.new, self.v_size));
        let mut pasts = vec![];
        if self.past.is_some() {
            pasts.push(numbers.tensor(&[self.batch, self.kv_heads, past, self.size]));
            pasts.push(numbers.tensor(&[self.batch, self.kv_heads, past, self.v_size]));
        }
        let mask = self.mask.map(|m| {
            let shape = m.shape([self.batch, q_heads, self.q_len, keys]);
            let mut values = numbers.tensor(&shape).to_f64();
            for (i, x) in values.iter_mut().enumerate() {
                *x = match m.float {
                    true if i % 5 == 3 => f64::NEG_INFINITY,
                    true => *x,
                    false => f64::from(u8::from(*x > -0.3)),
                };
            }
            let dtype = if m.float { DType::F32 } else { DType::Bool };
            (Tensor::from_f64(dtype, shape, &values).unwrap(), values)
        });
        let lengths: Vec<i64> = (0..self.batch).map(|b| ((b + self.new) % (self.new + 1)) as i64).collect();
        let mut rest = vec![mask.as_ref().map(|(t, _)| t.clone())];
        rest.extend(if pasts.is_empty() {
            vec![None, None]
        } else {
            pasts.iter().cloned().map(Some).collect()
        });
        if self.lengths {
            rest.push(Some(ints(&lengths)));
        }
        let mut s = Single::new("Attention", &[q.clone(), k.clone(), v.clone()], &rest)
            .opset(25)
            .outputs(4)
            .with(int("is_causal", self.causal.into()))
            .with(float("softcap", self.softcap))
            .with(float("scale", 0.7))
            .with(int("qk_matmul_output_mode", 3))
            .with(int("left_window_size", self.window.0))
            .with(int("right_window_size", self.window.1));
        if self.flat {
            s = s.with(int("q_num_heads", q_heads as i64)).with(int("kv_num_heads", self.kv_heads as i64));
        }
        let got = s.run();

        let at = |t: &Tensor, heads: usize, rows: usize, size: usize, [b, h, r, d]: [usize; 4]| {
            let flat = if self.flat {
                ((b * rows + r) * heads + h) * size + d
            } else {
                ((b * heads + h) * rows + r) * size + d
            };
            t.to_f64()[flat]
        };
        let row = |t: &Tensor, i: usize, size: usize, [b, h, r, d]: [usize; 4]| {
            if r < past {
                pasts[i].to_f64()[((b * self.kv_heads + h) * past + r) * size + d]
            } else {
                at(t, self.kv_heads, self.new, size, [b, h, r - past, d])
            }
        };
        let (mut want, mut probabilities) =
            (vec![0.0; self.batch * q_heads * self.q_len * self.v_size], vec![]);
        let scale = f64::from(0.7f32);
        let is_float = self.mask.map(|m| m.float);
        // What the mask holds for a pair; a key that it does not speak of is left out.
        let given = |at: [usize; 4]| -> Option<f64> {
            let (t, values) = mask.as_ref()?;
            let shape = t.shape();
            if at[3] >= shape[shape.len() - 1] {
                return Some(if is_float == Some(true) { f64::NEG_INFINITY } else { 0.0 });
            }
            let place = |i: usize, &extent: &usize| if extent == 1 { 0 } else { at[4 - shape.len() + i] };
            let flat = shape.iter().enumerate().fold(0, |flat, (i, e)| flat * e + place(i, e));
            Some(values[flat])
        };
        for (b, &length) in lengths.iter().enumerate() {
            for h in 0..q_heads {
                let g = h / self.group;
                for i in 0..self.q_len {
                    let live = |j: usize| {
                        let offset = if self.lengths { length - self.q_len as i64 } else { past as i64 };
                        let (p, j64) = (i as i64 + offset, j as i64);
                        let masked = given([b, h, i, j]).is_some_and(|x| is_float == Some(false) && x == 0.0);
                        !masked
                            && (!self.causal || j64 <= p)
                            && (self.window.0 < 0 || j64 >= p - self.window.0)
                            && (self.window.1 < 0 || j64 <= p + self.window.1)
                            && (!self.lengths || j64 < length)
                    };
                    let bias = |j: usize| match is_float {
                        Some(true) => given([b, h, i, j]).unwrap_or(0.0),
                        _ => 0.0,
                    };
                    let score = |j: usize| {
                        let dot: f64 = (0..self.size)
                            .map(|d| {
                                at(&q, q_heads, self.q_len, self.size, [b, h, i, d])
                                    * row(&k, 0, self.size, [b, g, j, d])
                            })
                            .sum();
                        let cap = f64::from(self.softcap);
                        let s = dot * scale;
                        let s = if cap > 0.0 { cap * (s / cap).tanh() } else { s };
                        if live(j) { s + bias(j) } else { f64::NEG_INFINITY }
                    };
                    let scores: Vec<f64> = (0..keys).map(score).collect();
                    let weights: Vec<f64> = scores.iter().map(|s| s.exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for (j, w) in weights.iter().enumerate() {
                        let p = if sum == 0.0 { 0.0 } else { w / sum };
                        probabilities.push(p);
                        for d in 0..self.v_size {
                            let place = if self.flat {
                                ((b * self.q_len + i) * q_heads + h) * self.v_size + d
                            } else {
                                ((b * q_heads + h) * self.q_len + i) * self.v_size + d
                            };
                            want[place] += p * row(&v, 1, self.v_size, [b, g, j, d]);
                        }
                    }
                }
            }
        }
        assert_eq!(got[0].shape(), dims(q_heads, self.q_len, self.v_size));
        assert_eq!(got[3].shape(), [self.batch, q_heads, self.q_len, keys]);
        for (t, want) in [(&got[0], &want), (&got[3], &probabilities)] {
            for (g, w) in t.to_f64().iter().zip(want) {
                assert!((g - w).abs() < 2e-5, "{g} for {w} in {self:?}");
            }
        }
        // The present rows, heads apart.
        assert_eq!(got[1].shape(), [self.batch, self.kv_heads, keys, self.size]);
        let present = (0..keys).map(|r| row(&v, 1, self.v_size, [0, 0, r, 0]));
        assert!(present.eq(got[2].to_f64().into_iter().step_by(self.v_size).take(keys)));
        let lowered = node_of(&s.graph().unwrap());
        assert!(lowered.acc == DType::F32);
    }
}

fn random() -> impl Strategy<Value = Random> {
    let sizes = (1usize..3, 1usize..3, 1usize..4, 1usize..6, 1usize..7, 1usize..4, 1usize..4);
    let past = prop::option::of(0usize..4);
    let mask = prop::option::of((any::<bool>(), 1usize..5, 0usize..4, 0u8..8));
    let how =
        (any::<bool>(), any::<bool>(), prop_oneof![Just(0.0f32), Just(1.5)], any::<bool>(), any::<u64>());
    (sizes, past, mask, how, (-1i64..4, -1i64..4)).prop_map(|(sizes, past, mask, how, window)| {
        let (batch, kv_heads, group, q_len, new, size, v_size) = sizes;
        let (flat, causal, softcap, lengths, seed) = how;
        let lengths = lengths && past.is_none();
        let mask = mask.map(|(float, rank, short, ones)| Mask { float, rank, short, ones });
        Random {
            batch,
            kv_heads,
            group,
            q_len,
            new,
            past,
            size,
            v_size,
            flat,
            causal,
            softcap,
            window,
            mask,
            lengths,
            seed,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn attention_is_the_operator_written_out(r in random()) {
        r.check();
    }
}

/// V of another type than Q and K, past rows included: the result is of Q's type, the present values of V's.
#[test]
fn values_may_be_of_another_type() {
    let of = |dtype: DType, x: &Tensor| Tensor::from_f64(dtype, x.shape(), &x.to_f64()).unwrap();
    let wave = |shape: &[usize], step: f64| {
        let n: usize = shape.iter().product();
        floats(shape, &(0..n).map(|i| (i as f64 * step).sin()).collect::<Vec<_>>())
    };
    let (q, k, v) = (wave(&[2, 2, 3, 4], 0.7), wave(&[2, 2, 3, 4], 1.3), wave(&[2, 2, 3, 5], 0.9));
    let (pk, pv) = (wave(&[2, 2, 2, 4], 2.1), wave(&[2, 2, 2, 5], 1.7));
    for (a, b) in [
        (DType::F32, DType::F16),
        (DType::F16, DType::F32),
        (DType::F16, DType::BF16),
        (DType::F64, DType::BF16),
    ] {
        let inputs = [of(a, &q), of(a, &k), of(b, &v), of(a, &pk), of(b, &pv)];
        let node = |inputs: &[Tensor]| {
            let [q, k, v, pk, pv] = inputs else { panic!("five operands") };
            let mut s = Single::new("Attention", &[q.clone(), k.clone(), v.clone()], &[]);
            s.inputs.push(pk.clone());
            s.inputs.push(pv.clone());
            let mut model = s.outputs(4).model();
            let g = model.graph.as_mut().unwrap();
            g.node[0].input.insert(3, String::new());
            let g = annulus::import::graph(&model, &Default::default()).unwrap();
            annulus::eval::eval(&g, inputs, annulus::eval::Precision::Declared).unwrap()
        };
        let got = node(&inputs);
        let types: Vec<DType> = got.iter().map(Tensor::dtype).collect();
        assert_eq!(types, [a, a, b, a]);
        let wide: Vec<Tensor> = inputs.iter().map(|x| of(DType::F64, x)).collect();
        let want = node(&wide);
        assert_eq!(got[2].to_f64(), want[2].to_f64());
        for i in [0, 3] {
            let step = if a == DType::F16 { 2e-3 } else { 1e-6 };
            for (g, w) in got[i].to_f64().iter().zip(want[i].to_f64()) {
                assert!((g - w).abs() <= step * (1.0 + w.abs()), "{a} {b} result {i}: {g}, not {w}");
            }
        }
    }
}
