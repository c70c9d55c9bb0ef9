//! Addends that hold a mask, taken apart: a bias to which a mask was added before both meet the scores, or that a condition chose.
//!
//! In: pieces in their order. Out: the same, where `s + (b + m)` is `(s + b) + m` and `s + where(c, b, −∞)` is `where(c, s + b, −∞)`.
//! What is known of a mask when compiling, its terms, then shows beside a bias that is not.

use super::size::beside_huge;
use super::types::{Condition, Context, Piece, name};
use crate::find::axes::trace::splat;
use crate::find::magnitude::HUGE;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Binary, DType, Op, Tensor, Unary, ValueId};
use crate::mask::Fill;

/// Deepest sum of sums.
const DEEPEST: usize = 4;

/// Takes addends apart.
///
/// # Errors
/// None where the graph is well typed.
pub(super) fn split(
    cx: &mut Context<'_>,
    dtype: DType,
    pieces: Vec<Piece>,
    notes: &mut Vec<Applied>,
) -> Result<Vec<Piece>, String> {
    let mut out = vec![];
    for piece in pieces {
        match piece {
            Piece::Added(v) if matches!(dtype, DType::F32 | DType::F64) => {
                addend(cx, v, 0, notes, &mut out)?;
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

fn addend(
    cx: &mut Context<'_>,
    v: ValueId,
    depth: usize,
    notes: &mut Vec<Applied>,
    out: &mut Vec<Piece>,
) -> Result<(), String> {
    let x = cx.graph.operands(v.op);
    let admitted = cx.admitted.contains(&Numerics::Reassociation) && cx.admitted.contains(&Numerics::Domain);
    // What is known whole says more than its parts.
    let known = cx.values.get(cx.graph, cx.constants, v).is_some_and(|p| cx.values.numbers(&p, 8).is_some());
    if depth < DEEPEST && admitted && !known {
        match cx.graph.op(v.op).clone() {
            Op::Binary(Binary::Add) if masks(cx, x[1], x[0]) != masks(cx, x[0], x[1]) => {
                let (bias, mask) = if masks(cx, x[1], x[0]) { (x[0], x[1]) } else { (x[1], x[0]) };
                let what = format!("{} is a mask that was added to {} first", name(cx, mask), name(cx, bias));
                notes.push(Applied::new("mask-beside-bias", what, Numerics::Reassociation));
                addend(cx, bias, depth + 1, notes, out)?;
                return addend(cx, mask, depth + 1, notes, out);
            }
            Op::Select => {
                let number =
                    |cx: &mut Context<'_>, v| splat(cx.graph, cx.constants, v).filter(|&f| f <= HUGE);
                let (chosen, fill, negated) = match (number(cx, x[1]), number(cx, x[2])) {
                    (None, Some(f)) => (x[1], f, false),
                    (Some(f), None) => (x[2], f, true),
                    _ => {
                        out.push(Piece::Added(v));
                        return Ok(());
                    }
                };
                let n = name(cx, v);
                let mut add = |op, x: &[ValueId]| cx.graph.add1(op, x, &n, "").map_err(|e| e.to_string());
                let keep = if negated { add(Op::Unary(Unary::Not), &x[..1])? } else { x[0] };
                // A finite fill is added to the score alone, as it is in the graph.
                let (chosen, fill) = if fill == f64::NEG_INFINITY {
                    (chosen, Fill::NegInf)
                } else {
                    let zero = cx.graph.constant(&n, Tensor::scalar(cx.graph.ty(v).dtype, 0.0));
                    let mut add = |op, x: &[ValueId]| cx.graph.add1(op, x, &n, "").map_err(|e| e.to_string());
                    (add(Op::Select, &[keep, chosen, zero])?, Fill::Add(fill))
                };
                let what = format!("{n} is a bias where a mask keeps it");
                notes.push(Applied::new("mask-over-bias", what, Numerics::Domain));
                addend(cx, chosen, depth + 1, notes, out)?;
                out.push(Piece::Kept(vec![Condition::True(keep)], fill));
                return Ok(());
            }
            _ => {}
        }
    }
    out.push(Piece::Added(v));
    Ok(())
}

/// Whether a value is nothing but 0 and numbers that mask, whether a bias is added to them or to the scores: −∞, or so huge that
/// they swallow it.
fn masks(cx: &mut Context<'_>, v: ValueId, bias: ValueId) -> bool {
    let Some(p) = cx.values.get(cx.graph, cx.constants, v) else { return false };
    const NOTHING: (f64, f64) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let infinite = cx.values.all(&p, &[(0.0, 0.0), NOTHING]);
    !cx.values.all(&p, &[(0.0, 0.0)])
        && (infinite
            || (cx.values.all(&p, &[(0.0, 0.0), (f64::NEG_INFINITY, HUGE)]) && beside_huge(cx, bias)))
}
