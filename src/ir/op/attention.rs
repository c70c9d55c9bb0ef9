//! Attention: what it computes, its sizes, and the part of it that one pair of chunks makes.

use super::dropout::Dropout;
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
/// out[b,h,i] = Σ_j dropout(softmax_j(s)[j]) · v[b,g,j]
/// ```
///
/// Operands: q (B, Hq, Sq, Dk), k (B, Hkv, Sk, Dk), v (B, Hkv, Sk, Dv), then the leaves that the steps
/// of `scores` name by operand index, each broadcast to (B, Hq, Sq, Sk), then the seed of the dropout, if there is any, and last the sinks,
/// if there are any, broadcast to
/// (B, Hq, Sq, 1). Results: out (B, Hq, Sq, Dv) in the type of q;
/// if `lse`, the natural log-sum-exp (B, Hq, Sq) in `acc`; if `stats`, the row statistics that gradients need, m and ln l, each
/// (B, Hq, Sq) in `acc`: m is the largest score of the row, and l = Σ exp(score − m), sinks among them. Their sum is the
/// log-sum-exp; apart they lose nothing of ln l where |m| is large. Of a row without a live key and without a sink m is −∞ and ln l is 0.
/// A key whose score is −∞ takes no part even if its value is infinite or NaN. A sink is one more
/// score of a row, as it is, neither scaled nor masked, that weighs in the softmax and in lse and has no value: a row
/// without a live key, but with a sink above −∞, gives zeros whatever `empty_row` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// What happens to q·k before the softmax. The scale is a step of it, never derived from the head size.
    pub scores: Scores,
    /// Operand index of the sinks: always the last operand.
    pub sinks: Option<usize>,
    /// Dropout of the weights, after the softmax and before the values.
    pub dropout: Option<Dropout>,
    /// Type in which scores, sums and products are accumulated: [`DType::F32`] or [`DType::F64`].
    pub acc: DType,
    /// What a row without a live key yields.
    pub empty_row: EmptyRow,
    /// Whether the log-sum-exp is a second result.
    pub lse: bool,
    /// Whether m and ln l are the last results.
    pub stats: bool,
}

impl Attention {
    /// Plain attention: a scale and no other step, an empty row gives zeros.
    pub fn plain(scale: f64, acc: DType) -> Attention {
        Attention {
            scores: Scores::scaled(scale),
            sinks: None,
            dropout: None,
            acc,
            empty_row: EmptyRow::Zero,
            lse: false,
            stats: false,
        }
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

/// The gradients of an [`Attention`], of a number L of which dout = ∂L/∂out and, if there is one, dlse = ∂L/∂lse are known:
///
/// ```text
/// p[b,h,i,j] = exp(s[b,h,i,j] − m[b,h,i] − ln l[b,h,i])      δ[b,h,i] = Σ_d dout[b,h,i,d] · out[b,h,i,d]
/// dv[b,g,j]  = Σ_{h of g} Σ_i p · dout[b,h,i]
/// ds         = p · (Σ_d dout[b,h,i,d] · v[b,g,j,d] − δ[b,h,i] + dlse[b,h,i])
/// dq[b,h,i]  = Σ_j ds' · k[b,g,j]                             dk[b,g,j] = Σ_{h of g} Σ_i ds' · q[b,h,i]
/// ```
///
/// where ds' is ds through the steps of the scores, from the last to the first: a factor multiplies it, a softcap by 1 − (y / cap)², a fill of −∞
/// or of a number that replaces makes it 0 where it acts, and rounding lets it through. A pair that takes no part has the gradient 0, whatever its key and value
/// hold, and so has a row without a live key. With dropout dv is made of the weights that out was made of, and dout·v is dropped and divided
/// as they were.
///
/// Operands: those of the attention; then out, m and ln l, its results; then dout, of the type and shape of out, and, if `attention.lse`,
/// dlse (B, Hq, Sq) in `acc`. Results: dq, dk, dv, then the gradient of each operand that `wrt` names, each of the type and shape of what it is the gradient of. The
/// gradient of a leaf is summed over what the leaf broadcasts over; that of a sink is −p · (δ − dlse), its own p among them.
/// Source: `maths.md` 6.3.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionBackward {
    /// The attention. Its `stats` are operands here, whatever the field says.
    pub attention: Attention,
    /// The operands besides q, k and v that get a gradient: leaves of numbers and the sinks, ascending.
    pub wrt: Vec<usize>,
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
