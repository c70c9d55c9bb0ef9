//! Factors of whole rows that go on Q, and of whole keys that go on K: there they cost one product a row, not one a score.
//!
//! In: the pieces of a score program in their order. Out: those without such factors, and the factors. Only a factor goes that meets
//! the product q·k itself, with nothing but other factors and masks of −∞ before it, and only in a type that is not half, whose small
//! range a product of Q and a factor may leave.

use super::masks::types::{Context, Piece};
use crate::ir::{Binary, DType, Op, ValueId};
use crate::mask::Fill;

/// Factors that left the scores.
#[derive(Default)]
pub(crate) struct Hoisted {
    /// The same for all keys of a row.
    pub(crate) on_q: Vec<ValueId>,
    /// The same for all rows.
    pub(crate) on_k: Vec<ValueId>,
}

/// Takes factors out of the pieces. `dtype` is the type of Q and K; `grouped`: whether query heads share key heads.
pub(crate) fn hoist(cx: &Context<'_>, pieces: &mut Vec<Piece>, dtype: DType, grouped: bool) -> Hoisted {
    let mut out = Hoisted::default();
    let mut at = 0;
    while let Some(piece) = pieces.get(at) {
        match *piece {
            Piece::Factor(_) | Piece::Kept(_, Fill::NegInf) => at += 1,
            Piece::FactorBy(v) => {
                let [_, heads, rows, keys] = extents(cx, v);
                let own = cx.graph.ty(v).dtype;
                let fits = matches!(dtype, DType::F32 | DType::F64) && (own == dtype || own.widens_to(dtype));
                if fits && keys == 1 {
                    out.on_q.push(v);
                } else if fits && rows == 1 && (heads == 1 || !grouped) {
                    out.on_k.push(v);
                } else {
                    at += 1;
                    continue;
                }
                pieces.remove(at);
            }
            _ => break,
        }
    }
    out
}

/// The four extents of what broadcasts to the scores.
fn extents(cx: &Context<'_>, v: ValueId) -> [usize; 4] {
    let shape = &cx.graph.ty(v).shape;
    let mut all = [1; 4];
    all[4 - shape.len().min(4)..].copy_from_slice(&shape[shape.len().saturating_sub(4)..]);
    all
}

/// Q laid out as (batch, heads, rows, size), each row times its factor; K so by key, if `keys`.
///
/// # Errors
/// The factor does not broadcast to it.
pub(crate) fn times(cx: &mut Context<'_>, x: ValueId, by: ValueId, keys: bool) -> Result<ValueId, String> {
    let (name, ty) = (cx.graph.value(x).name.clone(), cx.graph.ty(x).clone());
    let full = extents(cx, by).to_vec();
    let mut ops = vec![];
    if keys {
        ops.extend([Op::Reshape(full), Op::Permute(vec![0, 1, 3, 2])]);
    }
    if cx.graph.ty(by).dtype != ty.dtype {
        ops.push(Op::Cast(ty.dtype));
    }
    let mut by = by;
    for op in ops {
        by = cx.graph.add1(op, &[by], &name, "").map_err(|e| e.to_string())?;
    }
    let y = cx.graph.add1(Op::Binary(Binary::Mul), &[x, by], &name, "").map_err(|e| e.to_string())?;
    if *cx.graph.ty(y) == ty {
        Ok(y)
    } else {
        Err(format!("a factor of type {} does not fit the shape of what it multiplies", cx.graph.ty(by)))
    }
}
