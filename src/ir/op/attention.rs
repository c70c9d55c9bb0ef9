//! Attention: what it computes, its sizes, and the part of it that one pair of chunks makes.

use super::scores::{ScoreStep, Scores};
use crate::ir::types::DType;
use crate::layout::Progression;
use crate::mask::{Mask, Tile};
use std::sync::Arc;

/// What a query row without a live key yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EmptyRow {
    /// Zeros.
    Zero,
    /// NaN, as a softmax of nothing but −∞ gives.
    Nan,
}

impl EmptyRow {
    /// The name in text: `zero`, `nan`.
    pub fn name(self) -> &'static str {
        match self {
            EmptyRow::Zero => "zero",
            EmptyRow::Nan => "nan",
        }
    }
}

/// Scaled-dot-product attention with everything explicit:
///
/// ```text
/// s[b,h,i,j] = scores(Σ_d q[b,h,i,d] · k[b,g,j,d])      g = h / (Hq / Hkv)
/// out[b,h,i] = Σ_j softmax_j(s)[j] · v[b,g,j]
/// ```
///
/// Operands: q (B, Hq, Sq, Dk), k (B, Hkv, Sk, Dk), v (B, Hkv, Sk, Dv), then the leaves that the steps
/// of `scores` name by operand index, each broadcast to (B, Hq, Sq, Sk), and last the sinks, if there are any, broadcast to
/// (B, Hq, Sq, 1). Results: out (B, Hq, Sq, Dv) in the type of q and,
/// if `lse`, the natural log-sum-exp (B, Hq, Sq) in `acc`.
/// A key whose score is −∞ takes no part even if its value is infinite or NaN. A sink is one more
/// score of a row, as it is, neither scaled nor masked, that weighs in the softmax and in lse and has no value: a row
/// without a live key, but with a sink above −∞, gives zeros whatever `empty_row` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// What happens to q·k before the softmax. The scale is a step of it, never derived from the head size.
    pub scores: Scores,
    /// Operand index of the sinks: always the last operand.
    pub sinks: Option<usize>,
    /// Type in which scores, sums and products are accumulated: [`DType::F32`] or [`DType::F64`].
    pub acc: DType,
    /// What a row without a live key yields.
    pub empty_row: EmptyRow,
    /// Whether the log-sum-exp is a second result.
    pub lse: bool,
}

impl Attention {
    /// Plain attention: a scale and no other step, an empty row gives zeros.
    pub fn plain(scale: f64, acc: DType) -> Attention {
        Attention { scores: Scores::scaled(scale), sinks: None, acc, empty_row: EmptyRow::Zero, lse: false }
    }

    /// With one more step.
    pub fn then(self, step: ScoreStep) -> Attention {
        let steps = self.scores.steps().iter().cloned().chain([step]);
        Attention { scores: Scores::new(steps), ..self }
    }

    /// With a mask as one more step.
    pub fn masked(self, mask: Mask) -> Attention {
        self.then(ScoreStep::Fill(mask))
    }

    /// With a leaf, by operand index, that is added to the scores as one more step.
    pub fn biased(self, leaf: usize) -> Attention {
        self.then(ScoreStep::Add(leaf))
    }
}

/// The sizes of an attention, read off its operands' types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionSizes {
    /// B.
    pub batch: usize,
    /// Hq.
    pub q_heads: usize,
    /// Hkv; divides Hq.
    pub kv_heads: usize,
    /// Sq.
    pub q_len: usize,
    /// Sk.
    pub kv_len: usize,
    /// Dk.
    pub head_dim: usize,
    /// Dv.
    pub v_head_dim: usize,
}

/// One pair of chunks of an attention: the partial result of query rows `q_rows` over key rows `k_rows`.
///
/// Operands: q (B, Hq, |q_rows|, Dk); packed keys and values (B, Hkv, |k_rows|, Dk+Dv), keys first; then the leaves of
/// the attention, whole along the key axis, but not its sinks: [`Op::Finish`](super::Op::Finish) counts them, once. Results in `attention.acc`: o (B, Hq, |q_rows|, Dv) not divided, row maximum
/// m (B, Hq, |q_rows|) and l = Σ exp(score − m) (B, Hq, |q_rows|); of no key (0, −∞, 0).
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The attention it is a part of; leaves are named as operands of the attention, one less here because
    /// k and v travel packed.
    pub attention: Arc<Attention>,
    /// Dv: where the values begin in the packed operand is its last extent less Dv.
    pub v_head_dim: usize,
    /// Global query rows, in the order of the operand.
    pub q_rows: Vec<Progression>,
    /// Global key rows, in the order of the operand; may be empty.
    pub k_rows: Vec<Progression>,
    /// `Full`: no pair is masked. `Partial`: mask pair by pair.
    pub tile: Tile,
}
