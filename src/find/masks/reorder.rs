//! Whether additions to the scores may be done in another order than the graph's.
//!
//! An attention adds one bias to a score and then masks it; a key whose bias is −∞ takes no part. A graph that adds twice, or
//! replaces scores after it added −∞, says the same only if the numbers that are added allow it: −1e9 swallows the digits
//! of what it meets first, and decides a row that has no other key.

use super::additive::swallows_or_nothing;
use super::finite_fill::no_row_is_empty;
use super::types::MaskSource;
use super::types::{Addend, Context, Item, name};
use crate::find::axes::trace::{CONSTANT_LIMIT, splat};
use crate::find::elements::abstract_value::Pass;
use crate::find::magnitude::{
    HUGE, MODERATE, SMALL_BIAS, SMALL_SUM, SMALL_SUM_BF16, SWALLOWED, Size, huge_bound, small_sum,
};
use crate::find::types::{Applied, Numerics};
use crate::ir::{AttentionSizes, Binary, DType, Op, Reduction, Unary, ValueId};
use crate::mask::Fill;

/// Most values that are looked at to tell what one is made of.
const LIKE_SCORES_LIMIT: usize = 64;
/// Whether scores may be replaced after the biases were added in one: the biases and their sum are nowhere −∞, which an
/// attention takes for a key that is not there, whatever replaces its score.
///
/// # Errors
/// The bias that is not proved so.
pub(crate) fn replaceable(cx: &mut Context<'_>, biases: &[Addend]) -> Result<(), String> {
    let least = f64::from(f32::MIN) / biases.len().max(1) as f64;
    for b in biases {
        if !all(cx, b.value, &[(least, f64::INFINITY)]) {
            let n = name(cx, b.value);
            return Err(format!(
                "a finite fill replaces scores to which {n} was added, which may be −∞; mask with −∞ in both, or bind the inputs that it is \
                 made of (--bind)"
            ));
        }
    }
    Ok(())
}

/// Whether every element of a value certainly passes.
fn all(cx: &mut Context<'_>, v: ValueId, pass: Pass<'_>) -> bool {
    cx.values.get(cx.graph, cx.constants, v).is_some_and(|p| cx.values.all(&p, pass))
}

/// Whether a bias of a half type may be added in a wider one: its rounding is that of a score.
pub(crate) fn survives_rounding(cx: &mut Context<'_>, b: &Addend, dtype: DType) -> bool {
    all(cx, b.value, &harmless(b, dtype)) || (dtype == DType::BF16 && swallows_or_nothing(cx, b.value))
}

/// Whether a bias leaves scores so small that the logarithm of a sum is not lost beside them.
pub(crate) fn keeps_logarithms(cx: &mut Context<'_>, v: ValueId) -> bool {
    all(cx, v, &[(-SMALL_SUM, SMALL_SUM), (f64::NEG_INFINITY, f64::NEG_INFINITY)])
}

/// Numbers whose rounding is that of a score.
fn harmless(b: &Addend, dtype: DType) -> [(f64, f64); 2] {
    let bound = small_sum(dtype);
    // −∞ is as exact as a number; only what is proved −∞ for the mask may be huge.
    let huge = match dtype {
        _ if b.masked => huge_bound(dtype),
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

/// Whether a huge fill swallows a value with the scores to which it was added.
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

/// Whether the biases and the fill may be added in any order: no addend is large or larger than scores are, or every row has a key
/// at which none is, beside which a key at a large negative one weighs nothing, or what is large is so large that it swallows
/// scores and small addends whole, in whatever order they meet (the note that is given says so). It swallows scores beside one
/// addend of any size as well: either that is so large that it swallows them itself, or it is swallowed like them.
///
/// # Errors
/// If neither is proved.
pub(crate) fn reorderable(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    dtype: DType,
    biases: &[Addend],
    items: &[Item],
) -> Result<Option<Applied>, String> {
    let bound = small_sum(dtype);
    // Of two huge addends the sum is one number whatever stands between them; of three it is not.
    let swallows = |f: f64| f.abs() <= bound || f <= HUGE;
    let mut huge = items.iter().filter(|i| matches!(i.fill, Fill::Add(f) if f <= HUGE)).count();
    let mut swallowed = matches!(dtype, DType::F32 | DType::F64)
        && cx.admitted.contains(&Numerics::Domain)
        && items.iter().all(|i| !matches!(i.fill, Fill::Add(f) | Fill::Replace(f) if !swallows(f)));
    let mut guards: Vec<Item> = items.to_vec();
    let note = |what: &str| Some(Applied::new("huge-addend", what.into(), Numerics::Domain));
    if biases.len() == 1 && huge > 0 && swallowed {
        return Ok(note("a huge fill swallows scores, whether it or the other addend is added first"));
    }
    // Of two addends one that is 0 or huge leaves the other alone, or swallows both it and scores: unless the other is as large.
    let added: Vec<f64> =
        items.iter().filter_map(|i| if let Fill::Add(f) = i.fill { Some(f) } else { None }).collect();
    if biases.len() + added.len() == 2
        && matches!(dtype, DType::F32 | DType::F64)
        && cx.admitted.contains(&Numerics::Domain)
    {
        let (masks, others): (Vec<&Addend>, Vec<&Addend>) =
            biases.iter().partition(|b| swallows_or_nothing(cx, b.value));
        let low = (-SWALLOWED, SWALLOWED);
        let small = added.iter().all(|f| f.abs() <= SWALLOWED)
            && others.iter().all(|b| like_scores(cx, b.value) || all(cx, b.value, &[low]));
        if masks.len() == 1 && small {
            return Ok(note("a huge addend swallows scores and whatever else is added, in any order"));
        }
    }
    let fills = items.iter().all(|i| !matches!(i.fill, Fill::Add(f) if f.is_nan() || f.abs() > bound));
    let mut small = fills;
    // Two of which may cancel each other, and leave what one of them swallowed.
    let mut either_sign = false;
    for b in biases {
        let unknown = |cx: &Context<'_>| {
            let n = name(cx, b.value);
            format!(
                "{n} is not known to be small, and an attention adds it in another order, which rounds otherwise; bind the inputs that it is \
                 made of (--bind), or mask with −∞"
            )
        };
        let plain = matches!(dtype, DType::F16 | DType::BF16) || all(cx, b.value, &[(-bound, bound)]);
        // Of the size of scores, whatever that is: what swallows those swallows it.
        if !plain && like_scores(cx, b.value) {
            continue;
        }
        if !plain && swallows_or_nothing(cx, b.value) {
            (small, either_sign) = (false, true);
            huge += 1;
            continue;
        }
        let Some(p) = cx.values.get(cx.graph, cx.constants, b.value) else { return Err(unknown(cx)) };
        small &= cx.values.all(&p, &harmless(b, dtype));
        swallowed &= cx.values.all(&p, &[(-bound, bound), (f64::NEG_INFINITY, HUGE)]);
        huge += usize::from(!cx.values.all(&p, &[(-bound, bound)]));
        if !cx.values.all(&p, &[(f64::NEG_INFINITY, bound)]) {
            return Err(unknown(cx));
        }
        let known = cx.values.certain(&p, &[(-bound, bound)]);
        guards.push(Item {
            group: usize::MAX,
            source: MaskSource::Added(b.value),
            fill: Fill::NegInf,
            only_as_infinity: false,
            and_bias: false,
            known: Some(known),
        });
    }
    if !either_sign && (small || no_row_is_empty(sizes, &guards.iter().collect::<Vec<_>>())) {
        return Ok(None);
    }
    if swallowed && huge <= if either_sign { 1 } else { 2 } {
        return Ok(note("a huge addend swallows scores and whatever else is added, in any order"));
    }
    Err("a row may have no key: large negative biases decide it, and an attention adds them in another order, which rounds otherwise; \
         mask with −∞, or add the biases to each other first"
        .into())
}
