//! A short hand for graphs, with weights that need no random numbers.

use annulus::ir::{Attention, Binary, Contract, DType, Graph, Op, Reduction, Tensor, Type, Unary, ValueId};
use annulus::mask::Mask;

/// Numbers between −1 and 1 that look like nothing in particular.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// A tensor of such numbers; integers between 0 and 6, truth values by sign.
pub(crate) fn tensor(ty: &Type, seed: u64) -> Tensor {
    let n = ty.shape.iter().product();
    let values: Vec<f64> = match ty.dtype {
        t if t.is_float() => numbers(n, seed),
        DType::Bool => numbers(n, seed).iter().map(|x| f64::from(u8::from(*x > -0.5))).collect(),
        _ => numbers(n, seed).iter().map(|x| ((x + 1.0) * 3.5).floor().min(6.0)).collect(),
    };
    Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).unwrap()
}

/// A graph under construction.
pub(crate) struct Build {
    pub(crate) g: Graph,
    seed: u64,
}

impl Build {
    pub(crate) fn new(name: &str) -> Build {
        Build { g: Graph::new(name), seed: 0 }
    }

    pub(crate) fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        let name = op.name();
        self.g.add1(op, x, name, "").unwrap()
    }

    pub(crate) fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        self.g.input(name, Type::new(dtype, shape))
    }

    pub(crate) fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.seed += 1;
        let t = tensor(&Type::new(DType::F64, shape), self.seed);
        self.g.constant("w", t)
    }

    pub(crate) fn scalar(&mut self, x: f64) -> ValueId {
        self.g.constant("c", Tensor::scalar(DType::F64, x))
    }

    pub(crate) fn shape(&self, v: ValueId) -> Vec<usize> {
        self.g.ty(v).shape.clone()
    }

    /// x · W over the last axis.
    pub(crate) fn linear(&mut self, x: ValueId, size: usize) -> ValueId {
        let shape = self.shape(x);
        let w = self.weight(&[*shape.last().unwrap(), size]);
        let axes: String = "abcdefg"[..shape.len()].to_owned();
        let out = format!("{}z", &axes[..axes.len() - 1]);
        let rhs = format!("{}z", axes.chars().last().unwrap());
        self.op(Op::Contract(Contract { lhs: axes, rhs, out }), &[x, w])
    }

    pub(crate) fn binary(&mut self, b: Binary, x: ValueId, y: ValueId) -> ValueId {
        self.op(Op::Binary(b), &[x, y])
    }

    pub(crate) fn add(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(Binary::Add, x, y)
    }

    pub(crate) fn mul(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(Binary::Mul, x, y)
    }

    pub(crate) fn unary(&mut self, u: Unary, x: ValueId) -> ValueId {
        self.op(Op::Unary(u), &[x])
    }

    pub(crate) fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.op(Op::Reshape(shape.to_vec()), &[x])
    }

    pub(crate) fn permute(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.op(Op::Permute(perm.to_vec()), &[x])
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: DType) -> ValueId {
        self.op(Op::Cast(to), &[x])
    }

    pub(crate) fn mean(&mut self, x: ValueId, axis: usize, keep: bool) -> ValueId {
        self.op(Op::Reduce { kind: Reduction::Mean, axes: vec![axis], keep }, &[x])
    }

    pub(crate) fn slice(&mut self, x: ValueId, axis: usize, start: usize, len: usize) -> ValueId {
        self.op(Op::Slice { axis, start, len, step: 1 }, &[x])
    }

    pub(crate) fn layer_norm(&mut self, x: ValueId) -> ValueId {
        let last = self.shape(x).len() - 1;
        let mean = self.mean(x, last, true);
        let centred = self.binary(Binary::Sub, x, mean);
        let square = self.mul(centred, centred);
        let variance = self.mean(square, last, true);
        let eps = self.scalar(1e-5);
        let sum = self.add(variance, eps);
        let deviation = self.unary(Unary::Sqrt, sum);
        let y = self.binary(Binary::Div, centred, deviation);
        let weight = self.weight(&[self.g.ty(x).shape[last]]);
        self.mul(y, weight)
    }

    /// (B, S, H·D) to (B, H, S, D).
    pub(crate) fn heads(&mut self, x: ValueId, heads: usize) -> ValueId {
        let s = self.shape(x);
        let x = self.reshape(x, &[s[0], s[1], heads, s[2] / heads]);
        self.permute(x, &[0, 2, 1, 3])
    }

    /// (B, H, S, D) to (B, S, H·D).
    pub(crate) fn unheads(&mut self, x: ValueId) -> ValueId {
        let x = self.permute(x, &[0, 2, 1, 3]);
        let s = self.shape(x);
        self.reshape(x, &[s[0], s[1], s[2] * s[3]])
    }

    pub(crate) fn attention(&mut self, q: ValueId, k: ValueId, v: ValueId, mask: Mask) -> ValueId {
        let a = Attention::plain(0.5, DType::F64).masked(mask);
        self.op(Op::Attention(Box::new(a)), &[q, k, v])
    }

    /// Self-attention of x (B, S, C) with residual; `kv` key heads, `hq` query heads, size 4.
    pub(crate) fn self_attention(&mut self, x: ValueId, hq: usize, kv: usize, mask: Mask) -> ValueId {
        let n = self.layer_norm(x);
        let (q, k, v) = (self.linear(n, hq * 4), self.linear(n, kv * 4), self.linear(n, kv * 4));
        let (q, k, v) = (self.heads(q, hq), self.heads(k, kv), self.heads(v, kv));
        let o = self.attention(q, k, v, mask);
        let o = self.unheads(o);
        let size = *self.shape(x).last().unwrap();
        let o = self.linear(o, size);
        self.add(x, o)
    }

    pub(crate) fn mlp(&mut self, x: ValueId) -> ValueId {
        let size = *self.shape(x).last().unwrap();
        let n = self.layer_norm(x);
        let h = self.linear(n, 2 * size);
        let gate = self.unary(Unary::Sigmoid, h);
        let h = self.mul(h, gate);
        let h = self.linear(h, size);
        self.add(x, h)
    }

    pub(crate) fn out(&mut self, name: &str, v: ValueId) {
        self.g.output(name, v);
    }
}
