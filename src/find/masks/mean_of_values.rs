//! Rows without a key under a huge finite fill, computed apart from the others.
//!
//! A huge finite fill swallows every score: where it masks all keys of a row, all are equal, and the row is the mean of V over all
//! keys. A row that keeps a key gives the others nothing. So the fill becomes −∞, under which blocks of keys are skipped, and rows
//! without a key, which their log-sum-exp of −∞ tells, take the mean. Where the attention has sinks, such a row gives zeros under
//! either fill, and no mean is needed.
//!
//! In: an attention on its way into the graph. Out: the same with −∞ as its fill, and its result.
//!
//! Only where there is something to skip: a mask that positions say nothing of stays as it is.

use super::finite_fill::is_small;
use super::types::Context;
use crate::find::decimal::decimal;
use crate::find::magnitude::{HUGE, MODERATE_FACTOR, huge};
use crate::find::types::{Applied, Numerics};
use crate::ir::infer::InferError;
use crate::ir::{
    Attention, Binary, DType, EmptyRow, Factor, Op, OpId, Reduction, ScoreStep, Scores, Tensor, ValueId,
};
use crate::mask::{Fill, Mask, Term};

/// How rows without a key are computed, of an attention whose fill became −∞.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmptyRows {
    /// As the attention says.
    AsStated,
    /// By the mean of V.
    Mean,
}

/// Makes −∞ of a huge finite fill, if what that changes is known. `narrow` is the type in which fills act on scores.
pub(crate) fn apart(
    cx: &mut Context<'_>,
    attention: &mut Attention,
    operands: &[ValueId],
    narrow: DType,
    notes: &mut Vec<Applied>,
) -> EmptyRows {
    let Some((f, skips)) = swallowing(&attention.scores) else { return EmptyRows::AsStated };
    let keys = operands.get(1).and_then(|&k| cx.graph.ty(k).shape.get(2)).copied();
    // Where weights are dropped the mean is of some values alone.
    let seen = attention.lse || attention.stats || attention.dropout.is_some() || cx.drops;
    let may = huge(f, narrow) && skips && !seen && keys.is_some_and(|n| n > 0);
    if !may || !cx.admitted.contains(&Numerics::Domain) {
        return EmptyRows::AsStated;
    }
    // What is added to the fill is swallowed as scores are, and a sink is above it.
    let beside: Vec<ValueId> =
        attention.scores.added().chain(attention.sinks).filter_map(|i| operands.get(i)).copied().collect();
    if !beside.into_iter().all(|v| is_small(cx, v, narrow, false)) {
        return EmptyRows::AsStated;
    }
    let infinite = |s: &ScoreStep| match s {
        ScoreStep::Fill(m) => ScoreStep::Fill(Mask { fill: Fill::NegInf, ..m.clone() }),
        other => other.clone(),
    };
    attention.scores = Scores::new(attention.scores.steps().iter().map(infinite));
    let (rows, what) = match attention.sinks {
        Some(_) => (EmptyRows::AsStated, "a row without a key gives zeros, for its sink takes all"),
        None => {
            (EmptyRows::Mean, "a row without a key is the mean of V over all keys, which is computed apart")
        }
    };
    let what = format!("a fill of {} swallows every score: it is as good as −∞, and {what}", decimal(f));
    notes.push(Applied::new("empty-row-apart", what, Numerics::Domain));
    if rows == EmptyRows::Mean {
        (attention.lse, attention.empty_row) = (true, EmptyRow::Zero);
    }
    rows
}

/// The fill of the only mask, if nothing but small addends can be told from it where it masks all of a row, and whether positions say
/// anything of that mask.
fn swallowing(scores: &Scores) -> Option<(f64, bool)> {
    let steps = scores.steps();
    let at = steps.iter().position(|s| s.mask().is_some())?;
    let mask = steps[at].mask()?;
    let (f, added) = match mask.fill {
        Fill::NegInf => return None,
        Fill::Add(f) => (f, true),
        Fill::Replace(f) => (f, false),
    };
    let kept = |s: &ScoreStep| match s {
        ScoreStep::Factor(Factor::Number(c)) => (1.0 / MODERATE_FACTOR..=MODERATE_FACTOR).contains(c),
        ScoreStep::Add(_) => true,
        // f16 still tells large scores apart beside its least number.
        ScoreStep::Round(t) => !added || (*t != DType::F16 && f <= HUGE),
        ScoreStep::Factor(Factor::Leaf(_)) | ScoreStep::Softcap(_) | ScoreStep::Fill(_) => false,
    };
    let skips = mask.terms.iter().any(|t| !matches!(t, Term::Tensor { .. }));
    steps[at + 1..].iter().all(kept).then_some((f, skips))
}

/// The result of attention `op`, whose log-sum-exp is its second result, where rows without a key are the mean of V.
///
/// # Errors
/// None where the attention is well typed.
pub(crate) fn with_mean(cx: &mut Context<'_>, op: OpId, name: &str) -> Result<ValueId, InferError> {
    let g = &mut *cx.graph;
    let (v, results) = (g.operands(op)[2], g.results(op));
    let (out, lse) = (results[0], results[1]);
    let (out_ty, v_ty, acc) = (g.ty(out).clone(), g.ty(v).clone(), g.ty(lse).dtype);
    let [batch, heads, rows, size] = out_ty.shape[..] else { return Ok(out) };
    let kv_heads = v_ty.shape[1];
    let step = |what: &str| format!("{name}.{what}");
    // Of halves it is summed in f32 and rounded once.
    let mean = Op::Reduce { kind: Reduction::Mean, axes: vec![2], keep: true };
    let mut mean = g.add1(mean, &[v], &step("mean"), "")?;
    if kv_heads != heads {
        let each = Op::Broadcast(vec![batch, kv_heads, heads / kv_heads, size]);
        mean = g.add1(each, &[mean], &step("mean"), "")?;
        mean = g.add1(Op::Reshape(vec![batch, heads, 1, size]), &[mean], &step("mean"), "")?;
    }
    if out_ty.dtype != v_ty.dtype {
        mean = g.add1(Op::Cast(out_ty.dtype), &[mean], &step("mean"), "")?;
    }
    let lse = g.add1(Op::Reshape(vec![batch, heads, rows, 1]), &[lse], &step("lse"), "")?;
    let none = g.constant(&step("none"), Tensor::scalar(acc, f64::NEG_INFINITY));
    let empty = g.add1(Op::Binary(Binary::Eq), &[lse, none], &step("empty"), "")?;
    g.add1(Op::Select, &[empty, mean, out], name, "")
}
