//! Masks: what they keep, and how they act on the scores.

use super::spelling::Spelling;
use super::write::Writer;
use annulus::ir::{Binary, DType, Op, Tensor, Type, Unary, ValueId};
use proptest::prelude::*;

/// Which keys a mask keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Those up to the row and the offset.
    Causal,
    /// Those before a length of each batch entry.
    Lengths,
    /// Those before a length of each batch entry, of an input.
    InputLengths,
    /// Those that an input says.
    Input(Span),
}

/// The shape of a mask of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// (batch, 1, 1, keys), from (batch, keys).
    Keys,
    /// (batch, 1, rows, keys).
    Pairs,
    /// (rows, keys).
    Shared,
    /// (batch, heads, rows, keys).
    All,
}

/// A number in the place of −∞.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Infinity,
    /// The least number of the type.
    Least,
    /// −10⁴.
    TenThousand,
}

impl Fill {
    pub(super) fn value(self, dtype: DType) -> f64 {
        match (self, dtype) {
            (Fill::Infinity, _) => f64::NEG_INFINITY,
            (Fill::TenThousand, _) => -1e4,
            (Fill::Least, DType::F16) => -65504.0,
            (Fill::Least, DType::BF16) => -3.3895313892515355e38,
            (Fill::Least, _) => f64::from(f32::MIN),
        }
    }
}

/// How a mask acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// where(keep, s, f), or the other way round.
    Where { inverted: bool, fill: Fill },
    /// s + where(keep, 0, f).
    Add(Fill),
    /// s·m + (1 − m)·f with m = 1 where keep is.
    Multiplied(Fill),
    /// s + b for an input b, whatever is kept.
    Bias,
    /// exp is 0 where keep is not, by a product or a choice.
    AfterExp { multiplied: bool },
}

impl How {
    pub(super) fn fill(self) -> Option<Fill> {
        match self {
            How::Where { fill, .. } | How::Add(fill) | How::Multiplied(fill) => Some(fill),
            How::Bias | How::AfterExp { .. } => None,
        }
    }
}

/// One mask: what it keeps, what else it keeps or must keep, and how it acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) keep: Keep,
    /// Another set of keys, in conjunction or disjunction.
    pub(super) with: Option<(Keep, Binary)>,
    pub(super) how: How,
}

impl Layer {
    /// Whether it keeps a key of some row, if inputs keep all.
    pub(super) fn keeps_any(&self, s: &Spelling) -> bool {
        let all = (0..s.batch).flat_map(|b| (0..s.q_len).map(move |i| (b, i)));
        let mut all = all.flat_map(|(b, i)| (0..s.kv_len).map(move |j| (b, i, j)));
        all.any(|at| {
            let first = self.keep.at(s, at);
            match self.with {
                Some((k, Binary::And)) => first && k.at(s, at),
                Some((k, _)) => first || k.at(s, at),
                None => first,
            }
        })
    }
}

impl Keep {
    fn at(self, s: &Spelling, (b, i, j): (usize, usize, usize)) -> bool {
        match self {
            Keep::Causal => j as i64 <= i as i64 + s.offset,
            Keep::Lengths => j < s.lengths[b],
            Keep::InputLengths | Keep::Input(_) => true,
        }
    }
}

/// None, one or two masks.
pub(super) fn layers() -> impl Strategy<Value = [Option<Layer>; 2]> {
    let span = prop_oneof![Just(Span::Keys), Just(Span::Pairs), Just(Span::Shared), Just(Span::All)];
    let keep = prop_oneof![
        4 => Just(Keep::Causal),
        1 => Just(Keep::Lengths),
        1 => Just(Keep::InputLengths),
        2 => span.prop_map(Keep::Input),
    ]
    .boxed();
    let fill = prop_oneof![Just(Fill::Infinity), Just(Fill::Least), Just(Fill::TenThousand)].boxed();
    let how = prop_oneof![
        4 => (any::<bool>(), fill.clone()).prop_map(|(inverted, fill)| How::Where { inverted, fill }),
        3 => fill.prop_map(How::Add),
        1 => prop_oneof![Just(Fill::Least), Just(Fill::TenThousand)].prop_map(How::Multiplied),
        1 => Just(How::Bias),
        1 => any::<bool>().prop_map(|multiplied| How::AfterExp { multiplied }),
    ];
    let with = (keep.clone(), prop_oneof![Just(Binary::And), Just(Binary::Or)]);
    let layer = (keep, proptest::option::weighted(0.3, with), how)
        .prop_map(|(keep, with, how)| Layer { keep, with, how })
        .boxed();
    // exp is masked first, by causality, or not at all.
    let first = layer.clone().prop_map(|l| match l.how {
        How::AfterExp { .. } => Layer { keep: Keep::Causal, with: None, how: l.how },
        _ => l,
    });
    let second = layer.prop_filter("exp is masked once", |l| !matches!(l.how, How::AfterExp { .. }));
    (proptest::option::weighted(0.85, first), proptest::option::weighted(0.4, second))
        .prop_map(|(a, b)| if a.is_none() { [b, None] } else { [a, b] })
}

/// What the masks before the softmax make of scores.
pub(super) fn masked(w: &mut Writer, s: &Spelling, x: ValueId) -> ValueId {
    let mut x = x;
    for (n, layer) in s.masks().enumerate() {
        x = one(w, s, n, layer, x);
    }
    x
}

fn one(w: &mut Writer, s: &Spelling, n: usize, layer: Layer, x: ValueId) -> ValueId {
    match layer.how {
        How::AfterExp { .. } => x,
        How::Bias => {
            let b = w.graph.input(&format!("bias{n}"), Type::new(w.dtype, [s.q_len, s.kv_len]));
            w.op(Op::Binary(Binary::Add), &[x, b])
        }
        How::Where { inverted, fill } => {
            let (keep, f) = (keep(w, s, n, layer), w.number(fill.value(w.dtype)));
            if inverted {
                let drop = w.op(Op::Unary(Unary::Not), &[keep]);
                return w.op(Op::Select, &[drop, f, x]);
            }
            w.op(Op::Select, &[keep, x, f])
        }
        How::Add(fill) => {
            let (keep, zero, f) = (keep(w, s, n, layer), w.number(0.0), w.number(fill.value(w.dtype)));
            let m = w.op(Op::Select, &[keep, zero, f]);
            w.op(Op::Binary(Binary::Add), &[m, x])
        }
        How::Multiplied(fill) => {
            let (keep, one, f) = (keep(w, s, n, layer), w.number(1.0), w.number(fill.value(w.dtype)));
            let m = w.op(Op::Cast(w.dtype), &[keep]);
            let kept = w.op(Op::Binary(Binary::Mul), &[x, m]);
            let rest = w.op(Op::Binary(Binary::Sub), &[one, m]);
            let fills = w.op(Op::Binary(Binary::Mul), &[rest, f]);
            w.op(Op::Binary(Binary::Add), &[kept, fills])
        }
    }
}

/// What mask number `n` keeps, broadcast to (batch, heads, rows, keys).
pub(super) fn keep(w: &mut Writer, s: &Spelling, n: usize, layer: Layer) -> ValueId {
    let first = set(w, s, &format!("keep{n}"), layer.keep);
    let Some((other, how)) = layer.with else { return first };
    let other = set(w, s, &format!("with{n}"), other);
    w.op(Op::Binary(how), &[first, other])
}

fn set(w: &mut Writer, s: &Spelling, name: &str, keep: Keep) -> ValueId {
    match keep {
        Keep::Causal => causal(w, s),
        Keep::Lengths => {
            let lengths: Vec<f64> = s.lengths[..s.batch].iter().map(|&n| n as f64).collect();
            let lengths = Tensor::from_f64(DType::I64, [s.batch], &lengths).unwrap();
            let lengths = w.graph.constant("lengths", lengths);
            before(w, s, lengths)
        }
        Keep::InputLengths => {
            let lengths = w.graph.input(name, Type::new(DType::I64, [s.batch]));
            before(w, s, lengths)
        }
        Keep::Input(span) => {
            let (batch, heads) = (s.batch, s.kv_heads * s.repeat);
            let shape = match span {
                Span::Keys => vec![batch, s.kv_len],
                Span::Pairs => vec![batch, 1, s.q_len, s.kv_len],
                Span::Shared => vec![s.q_len, s.kv_len],
                Span::All => vec![batch, heads, s.q_len, s.kv_len],
            };
            let mask = w.graph.input(name, Type::new(DType::Bool, shape));
            match span {
                Span::Keys => w.op(Op::Reshape(vec![batch, 1, 1, s.kv_len]), &[mask]),
                _ => mask,
            }
        }
    }
}

/// key ≤ row + offset.
fn causal(w: &mut Writer, s: &Spelling) -> ValueId {
    let ty = Type::new(DType::I64, [s.q_len, s.kv_len]);
    let i = w.op(Op::Iota { ty: ty.clone(), axis: 0 }, &[]);
    let j = w.op(Op::Iota { ty, axis: 1 }, &[]);
    let o = w.graph.constant("o", Tensor::scalar(DType::I64, s.offset as f64));
    let row = w.op(Op::Binary(Binary::Add), &[i, o]);
    w.op(Op::Binary(Binary::Le), &[j, row])
}

/// key < length, of each batch entry.
fn before(w: &mut Writer, s: &Spelling, lengths: ValueId) -> ValueId {
    let j = w.op(Op::Iota { ty: Type::new(DType::I64, [s.kv_len]), axis: 0 }, &[]);
    let lengths = w.op(Op::Reshape(vec![s.batch, 1, 1, 1]), &[lengths]);
    w.op(Op::Binary(Binary::Lt), &[j, lengths])
}
