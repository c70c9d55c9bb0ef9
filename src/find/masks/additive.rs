//! Masks that stay what they are in the graph, numbers added to the scores: each element is 0, or so low that nothing but a
//! mask has such numbers.
//!
//! Several fills of which no row is proved to keep a key, as where one mask is added to another, cannot become −∞; they
//! are data for the attention, but no bias to a reader.

use super::classify::recognised;
use super::recognise::Recognised;
use super::types::MaskSource;
use super::types::{Context, Item};
use crate::find::axes::trace::splat;
use crate::find::magnitude::{HUGE, MASKING, MASKING_ALL};
use crate::ir::{AttentionSizes, Binary, Graph, Op, Unary, ValueId};
use crate::mask::{Fill, Term};

/// Most values that are looked at.
const LOOK: usize = 32;

/// What positions say of a value that is added to scores, if it is a mask.
pub(crate) fn mask(cx: &mut Context<'_>, sizes: AttentionSizes, v: ValueId) -> Option<Vec<Term>> {
    let mut all = Recognised::default();
    is_mask(cx, sizes, v, Some(&mut all), &mut { LOOK }).then(|| all.terms(sizes.q_len, sizes.kv_len))
}

/// What positions say of a mask that was added to a bias before both meet the scores; `None` if they say nothing.
pub(crate) fn mask_in_bias(cx: &mut Context<'_>, sizes: AttentionSizes, v: ValueId) -> Option<Vec<Term>> {
    let mut terms: Vec<Term> = vec![];
    let mut at = vec![v];
    for _ in 0..LOOK {
        let Some(v) = at.pop() else { break };
        let x = cx.graph.operands(v.op);
        match cx.graph.op(v.op) {
            Op::Broadcast(_) => at.push(x[0]),
            Op::Binary(Binary::Add) => {
                for v in x {
                    match mask(cx, sizes, v) {
                        Some(more) => terms.extend(more),
                        None => at.push(v),
                    }
                }
            }
            _ => {}
        }
    }
    (!terms.is_empty()).then_some(terms)
}

/// Whether a value masks where it is added. What positions say is put to `all`, if its axes are those of the scores.
fn is_mask(
    cx: &mut Context<'_>,
    sizes: AttentionSizes,
    v: ValueId,
    mut all: Option<&mut Recognised>,
    left: &mut usize,
) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    if let Some(p) = cx.values.get(cx.graph, cx.constants, v) {
        let fills = (f64::NEG_INFINITY, MASKING);
        if cx.values.all(&p, &[(0.0, 0.0), fills]) {
            let known = Some(cx.values.certain(&p, &[(0.0, 0.0)]));
            let (fill, source) = (Fill::NegInf, MaskSource::Added(v));
            let item = Item { group: 0, source, fill, only_as_infinity: false, and_bias: false, known };
            if let (Some(all), Some((recognised, _))) = (all, recognised(&item, sizes)) {
                all.and(&recognised);
            }
            // One number everywhere tells no keys apart.
            return !cx.values.all(&p, &[fills]);
        }
    }
    let x = cx.graph.operands(v.op);
    match *cx.graph.op(v.op) {
        Op::Binary(Binary::Add | Binary::Min) => {
            is_mask(cx, sizes, x[0], all.as_deref_mut(), left) && is_mask(cx, sizes, x[1], all, left)
        }
        Op::Broadcast(_) => is_mask(cx, sizes, x[0], all, left),
        Op::Cast(to) if to.is_float() && cx.graph.ty(x[0]).dtype.is_float() => {
            is_mask(cx, sizes, x[0], all, left)
        }
        Op::Reshape(_) | Op::Permute(_) | Op::Slice { .. } => is_mask(cx, sizes, x[0], None, left),
        Op::Unary(Unary::Neg) => is_huge_multiple(cx, x[0]),
        Op::Binary(Binary::Mul) => is_huge_multiple(cx, v),
        _ => false,
    }
}

/// Whether it is a product of whole numbers with one so large that whatever is not 0 masks, of either sign.
fn is_huge_multiple(cx: &mut Context<'_>, v: ValueId) -> bool {
    let Op::Binary(Binary::Mul) = cx.graph.op(v.op) else { return false };
    let x = cx.graph.operands(v.op);
    let mut fills = |f: ValueId, of: ValueId| {
        let size = splat(cx.graph, cx.constants, f).filter(|f| f.is_finite()).map_or(0.0, f64::abs);
        size >= MASKING_ALL || size >= -MASKING && is_whole(cx.graph, of, 0)
    };
    fills(x[1], x[0]) || fills(x[0], x[1])
}

/// Whether each element is 0 or so large that it swallows any score: a huge number times whole ones, of either sign.
pub(crate) fn swallows_or_nothing(cx: &mut Context<'_>, v: ValueId) -> bool {
    let mut at = v;
    for _ in 0..LOOK {
        let x = cx.graph.operands(at.op);
        match cx.graph.op(at.op) {
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } => at = x[0],
            Op::Binary(Binary::Mul) => {
                let mut huge = |f: ValueId, of: ValueId| {
                    let f = splat(cx.graph, cx.constants, f);
                    f.is_some_and(|f| f.is_finite() && f.abs() >= -HUGE) && is_whole(cx.graph, of, 0)
                };
                return huge(x[1], x[0]) || huge(x[0], x[1]);
            }
            _ => return false,
        }
    }
    false
}

/// Whether every element is a whole number, whatever the inputs are.
fn is_whole(graph: &Graph, v: ValueId, depth: usize) -> bool {
    let x = graph.operands(v.op);
    let all = || x.iter().all(|&o| is_whole(graph, o, depth + 1));
    !graph.ty(v).dtype.is_float()
        || (depth < 16
            && match graph.op(v.op) {
                Op::Cast(_) => is_whole(graph, x[0], depth + 1),
                Op::Constant(c) => {
                    c.data.as_ref().is_some_and(|t| t.to_f64().iter().all(|x| x.fract() == 0.0))
                }
                Op::Binary(Binary::Add | Binary::Sub | Binary::Mul) | Op::Unary(Unary::Neg) => all(),
                Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } => all(),
                _ => false,
            })
}
