//! Infinities among what is added to scores: rows that no key is left of, and −∞ that meets +∞.
//!
//! An attention leaves a key out whose mask is −∞, whatever else its score is. A graph that adds −∞ to a score of +∞ has NaN there, and
//! so in all of the row. Of an input that is added, any number is taken as possible; what the graph computes by products is taken to be
//! finite, as scores are.

use super::finite_fill::no_row_is_empty;
use super::types::{Context, Item, MaskPlan, MaskSource, Piece};
use crate::find::elements::abstract_value::{Pass, TRUE};
use crate::find::magnitude::{MASKING, huge};
use crate::ir::infer::attention_sizes;
use crate::ir::{AttentionSizes, Binary, DType, Op, OpId, Reduction, ScoreStep, Scores, Unary, ValueId};
use crate::mask::{Fill, Mask, Term};

/// Most values that are looked at to tell what one is made of.
const LOOK: usize = 64;
/// Numbers that are neither NaN nor +∞.
const NOT_ABOVE: Pass<'static> = &[(f64::NEG_INFINITY, f64::MAX)];
/// Numbers that are neither NaN nor −∞.
const NOT_BELOW: Pass<'static> = &[(f64::MIN, f64::INFINITY)];

/// Numbers that are no mask.
const ABOVE_MASKING: Pass<'static> = &[(MASKING, f64::MAX)];
/// Numbers.
const FINITE: Pass<'static> = &[(f64::MIN, f64::MAX)];

/// Of pieces in their order: a value that may be +∞ or NaN where a mask of −∞ is added to it, or it to a mask. What replaces a score
/// hides nothing.
pub(crate) fn meeting(cx: &mut Context<'_>, pieces: &[Piece]) -> Option<ValueId> {
    let (mut above, mut below): (Option<ValueId>, bool) = (None, false);
    for piece in pieces {
        match *piece {
            Piece::Kept(_, fill) => below |= fill == Fill::NegInf,
            Piece::Floor(_)
            | Piece::Factor(_)
            | Piece::FactorBy(_)
            | Piece::Softcap(_)
            | Piece::Round(..) => {}
            Piece::Added(v) => {
                let (up, down) = (may_be_above(cx, v), !within(cx, v, NOT_BELOW));
                if up && below {
                    return Some(v);
                }
                if down && above.is_some() {
                    return above;
                }
                above = above.or(up.then_some(v));
                below |= down;
            }
        }
    }
    None
}

/// A value that is added to scores and may be +∞ or NaN.
pub(crate) fn above(cx: &mut Context<'_>, pieces: &[Piece]) -> Option<ValueId> {
    let added = |p: &Piece| if let Piece::Added(v) = p { Some(*v) } else { None };
    pieces.iter().filter_map(added).find(|&v| may_be_above(cx, v))
}

/// Whether an element may be +∞ or NaN.
pub(crate) fn may_be_above(cx: &mut Context<'_>, v: ValueId) -> bool {
    !within(cx, v, NOT_ABOVE)
}

/// Whether every element is a number.
pub(crate) fn is_finite(cx: &mut Context<'_>, v: ValueId) -> bool {
    within(cx, v, FINITE)
}

/// Whether every element certainly passes, where products are taken to.
fn within(cx: &mut Context<'_>, v: ValueId, pass: Pass<'static>) -> bool {
    let mut at = vec![(v, pass)];
    for _ in 0..LOOK {
        let Some((v, pass)) = at.pop() else { return true };
        if let Some(p) = cx.values.get(cx.graph, cx.constants, v)
            && cx.values.all(&p, pass)
        {
            continue;
        }
        if !cx.graph.ty(v).dtype.is_float() {
            continue;
        }
        let pass = match cx.graph.op(v.op) {
            Op::Contract(_) | Op::Conv { .. } | Op::Softmax { .. } | Op::Attention(_) => continue,
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Broadcast(_)
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Pad { .. }
            | Op::Gather { .. }
            | Op::Cast(_)
            | Op::Select
            | Op::Binary(Binary::Add | Binary::Min | Binary::Max) => pass,
            Op::Unary(Unary::Neg | Unary::Abs | Unary::Tanh | Unary::Sigmoid | Unary::Exp)
            | Op::Binary(Binary::Sub | Binary::Mul)
            | Op::Reduce { kind: Reduction::Sum | Reduction::Mean, .. } => FINITE,
            _ => return false,
        };
        at.extend(cx.graph.operands(v.op).into_iter().map(|x| (x, pass)));
    }
    false
}

/// Whether every row of an attention of such a mask certainly keeps a key.
pub(crate) fn keeps_keys(cx: &mut Context<'_>, sizes: AttentionSizes, plan: &MaskPlan) -> bool {
    let mut items = vec![];
    let mut put = |source, known| {
        let (group, fill) = (0, Fill::NegInf);
        items.push(Item { group, source, fill, only_as_infinity: false, and_bias: false, known });
    };
    for term in &plan.scores.live().terms {
        let Term::Tensor { operand } = *term else {
            put(MaskSource::Positions(term.clone()), None);
            continue;
        };
        let Some(v) = plan.leaf(operand) else { return false };
        let p = cx.values.get(cx.graph, cx.constants, v);
        put(MaskSource::Condition(v), p.map(|p| cx.values.certain(&p, TRUE)));
    }
    for v in plan.added() {
        match cx.values.get(cx.graph, cx.constants, v) {
            Some(p) => put(MaskSource::Added(v), Some(cx.values.certain(&p, NOT_BELOW))),
            None if within(cx, v, NOT_BELOW) => {}
            None => return false,
        }
    }
    no_row_is_empty(sizes, &items.iter().collect::<Vec<_>>())
}

/// Whether every row of an attention certainly keeps a key that no mask fills in, by −∞ or by a number, and no bias makes small.
pub(crate) fn fills_no_row(cx: &mut Context<'_>, id: OpId) -> bool {
    let Op::Attention(a) = cx.graph.op(id).clone() else { return false };
    let x = cx.graph.operands(id);
    let infinite = |s: &ScoreStep| match s {
        ScoreStep::Fill(m) => ScoreStep::Fill(Mask { fill: Fill::NegInf, ..m.clone() }),
        other => other.clone(),
    };
    // Whatever undoes −∞ undoes no number.
    let steps = a.scores.steps().iter().filter(|s| !matches!(s, ScoreStep::Softcap(_))).map(infinite);
    let plan = MaskPlan::of(Scores::new(steps), x[3..].to_vec());
    let small = plan.added().into_iter().all(|b| within(cx, b, ABOVE_MASKING));
    let sizes = attention_sizes(cx.graph.ty(x[0]), cx.graph.ty(x[1]), cx.graph.ty(x[2]));
    small && sizes.is_ok_and(|sizes| keeps_keys(cx, sizes, &plan))
}

/// Whether a key may be left out of a row.
pub(crate) fn leaves_out(cx: &mut Context<'_>, plan: &MaskPlan) -> bool {
    // A huge fill becomes −∞ where rows without a key are computed apart.
    let masks = plan.scores.masks().any(|m| match m.fill {
        Fill::NegInf => true,
        Fill::Add(f) | Fill::Replace(f) => huge(f, DType::F16),
    });
    masks || plan.added().into_iter().any(|b| !within(cx, b, NOT_BELOW))
}
