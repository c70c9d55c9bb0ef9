//! How large what is added to scores may be: whether a half type rounds scores away beside it, and whether it is finite as scores are.

use super::additive::swallows_or_nothing;
use super::types::Context;
use crate::find::axes::trace::{CONSTANT_LIMIT, splat};
use crate::find::elements::abstract_value::Pass;
use crate::find::magnitude::{
    HUGE, MODERATE, SMALL_BIAS, SMALL_SUM, SMALL_SUM_BF16, Size, huge_bound, small_sum,
};
use crate::ir::{Binary, DType, Op, Reduction, Unary, ValueId};

/// Most values that are looked at to tell what one is made of.
const LIKE_SCORES_LIMIT: usize = 64;
/// Whether every element of a value certainly passes.
fn all(cx: &mut Context<'_>, v: ValueId, pass: Pass<'_>) -> bool {
    cx.values.get(cx.graph, cx.constants, v).is_some_and(|p| cx.values.all(&p, pass))
}

/// Whether a bias of a half type may be added in a wider one: its rounding is that of a score.
pub(crate) fn survives_rounding(cx: &mut Context<'_>, v: ValueId, masked: bool, dtype: DType) -> bool {
    all(cx, v, &harmless(masked, dtype)) || (dtype == DType::BF16 && swallows_or_nothing(cx, v))
}

/// Whether a bias leaves scores so small that the logarithm of a sum is not lost beside them.
pub(crate) fn keeps_logarithms(cx: &mut Context<'_>, v: ValueId) -> bool {
    all(cx, v, &[(-SMALL_SUM, SMALL_SUM), (f64::NEG_INFINITY, f64::NEG_INFINITY)])
}

/// Numbers whose rounding is that of a score.
fn harmless(masked: bool, dtype: DType) -> [(f64, f64); 2] {
    let bound = small_sum(dtype);
    // −∞ is as exact as a number; only what is proved −∞ for the mask may be huge.
    let huge = match dtype {
        _ if masked => huge_bound(dtype),
        // Which swallows scores in bf16 as it does in f32.
        DType::BF16 => HUGE,
        _ => f64::NEG_INFINITY,
    };
    [(-bound, bound), (f64::NEG_INFINITY, huge)]
}

/// Whether a value is made of products of floating numbers, as scores are: its size is that of a score, whatever that is. Layout,
/// sums, slices and factors of numbers that are not large leave it one.
fn like_scores(cx: &mut Context<'_>, v: ValueId) -> bool {
    let mut at = vec![v];
    for _ in 0..LIKE_SCORES_LIMIT {
        let Some(v) = at.pop() else { return true };
        let x = cx.graph.operands(v.op);
        let number = |cx: &mut Context<'_>, v| {
            splat(cx.graph, cx.constants, v).is_some_and(|f| f.is_finite() && f.abs() <= SMALL_SUM)
        };
        match cx.graph.op(v.op).clone() {
            Op::Contract(_) if x.iter().all(|&o| moderate(cx, o)) && x.iter().any(|&o| of_scores(cx, o)) => {}
            // Of products, as the square of a norm is.
            Op::Reduce { kind: Reduction::Sum | Reduction::Mean, .. } if is_product(cx, x[0]) => {}
            Op::Unary(Unary::Neg) => at.push(x[0]),
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } | Op::Cast(_) => {
                at.push(x[0])
            }
            // Of each row those of some positions.
            Op::Gather { .. } | Op::GatherNd { .. } => at.push(x[0]),
            Op::Concat { .. } => at.extend(&x),
            Op::Binary(Binary::Div)
                if splat(cx.graph, cx.constants, x[1]).is_some_and(|f| f.is_finite() && f.abs() >= 1.0) =>
            {
                at.push(x[0])
            }
            Op::Binary(Binary::Add | Binary::Sub) => at.extend(&x),
            Op::Binary(Binary::Mul) if number(cx, x[1]) => at.push(x[0]),
            Op::Binary(Binary::Mul) if number(cx, x[0]) => at.push(x[1]),
            _ if all(cx, v, &[(-SMALL_SUM, SMALL_SUM)]) => {}
            _ => return false,
        }
    }
    false
}

/// How large a value that is added to scores may be, and whether it is finite while Q and K are.
pub(crate) fn size(cx: &mut Context<'_>, v: ValueId) -> (Size, bool) {
    const NOTHING: (f64, f64) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let scores = like_scores(cx, v);
    let finite = scores || all(cx, v, &[(f64::from(f32::MIN), f64::from(f32::MAX))]);
    let size = if all(cx, v, &[(-SMALL_SUM_BF16, SMALL_SUM_BF16), NOTHING]) {
        Size::Tame
    } else if scores || all(cx, v, &[(-MODERATE, MODERATE), NOTHING]) {
        Size::Moderate
    } else if swallows_or_nothing(cx, v) || all(cx, v, &[(-SMALL_SUM, SMALL_SUM), (f64::NEG_INFINITY, HUGE)])
    {
        Size::Swallowing
    } else {
        Size::Unknown
    };
    (size, finite)
}

/// Whether a huge number swallows a value with the scores to which it was added.
pub(crate) fn beside_huge(cx: &mut Context<'_>, v: ValueId) -> bool {
    like_scores(cx, v) || all(cx, v, &[(-SMALL_BIAS, SMALL_BIAS)])
}

/// Whether a value is a product of floating numbers element by element, or a square.
fn is_product(cx: &mut Context<'_>, v: ValueId) -> bool {
    let x = cx.graph.operands(v.op);
    match cx.graph.op(v.op) {
        Op::Binary(Binary::Mul) => x.iter().all(|&o| moderate(cx, o)) && x.iter().any(|&o| of_scores(cx, o)),
        Op::Binary(Binary::Pow) => splat(cx.graph, cx.constants, x[1]) == Some(2.0) && of_scores(cx, x[0]),
        _ => false,
    }
}

/// Whether a value is made of what Q or K is made of, and is as large: a mask that is multiplied by ones is not.
fn of_scores(cx: &Context<'_>, v: ValueId) -> bool {
    // Of both as far back as layout, sums and factors lead.
    let behind = |from: Vec<ValueId>| {
        let mut all = from;
        let mut next = 0;
        while let Some(&at) = all.get(next).filter(|_| all.len() < LIKE_SCORES_LIMIT) {
            next += 1;
            let x = cx.graph.operands(at.op);
            let more: Vec<ValueId> = match cx.graph.op(at.op) {
                Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } | Op::Cast(_) => {
                    vec![x[0]]
                }
                Op::Unary(Unary::Neg) => vec![x[0]],
                Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div) => x,
                _ => vec![],
            };
            all.extend(more);
        }
        all
    };
    let scores = behind(cx.scores.clone());
    behind(vec![v]).iter().any(|v| scores.contains(v) && cx.graph.as_constant(*v).is_none())
}

/// Whether a value depends on inputs, or holds no large number.
fn moderate(cx: &mut Context<'_>, v: ValueId) -> bool {
    let constant = cx.constants.value(cx.graph, v, CONSTANT_LIMIT);
    constant.is_none_or(|t| t.to_f64().iter().all(|x| x.abs() <= SMALL_SUM))
}
