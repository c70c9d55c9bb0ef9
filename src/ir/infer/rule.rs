//! The rule of each operation, found in the file of its family.

use super::attention::{attention, backward, partial};
use super::check::count;
use super::contract::contract;
use super::opaque::opaque;
use super::{elementwise, index, island, reduce, shape, window};
use crate::ir::op::Op;
use crate::ir::types::{MAX_RANK, Type};

/// Why an operation does not take its operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {why}")]
#[non_exhaustive]
pub struct InferError {
    /// Mnemonic of the operation.
    pub op: &'static str,
    /// What is wrong, with the types.
    pub why: String,
}

/// The types of the results of `op` on operands of these types.
///
/// # Errors
/// If there are too few or too many operands, if types or extents do not fit, if a result has more than
/// [`MAX_ELEMENTS`](crate::ir::MAX_ELEMENTS) elements or [`MAX_RANK`] axes, or a constant more than [`MAX_DATA`](crate::ir::MAX_DATA)
/// elements.
pub(crate) fn infer(op: &Op, operands: &[&Type]) -> Result<Vec<Type>, InferError> {
    let results = rule(op, operands).map_err(|why| InferError { op: op.name(), why })?;
    for t in &results {
        if t.checked_elements().is_none() {
            return Err(InferError { op: op.name(), why: format!("{t} has more than 2^56 elements") });
        }
        if t.rank() > MAX_RANK {
            let why = format!("the result has {} axes, more than {MAX_RANK}", t.rank());
            return Err(InferError { op: op.name(), why });
        }
    }
    Ok(results)
}

fn rule(op: &Op, x: &[&Type]) -> Result<Vec<Type>, String> {
    match op {
        Op::Input(ty) => count(x, 0).map(|()| vec![ty.clone()]),
        Op::Constant(c) if c.ty.checked_elements().is_some() && c.ty.data_elements().is_none() => {
            Err(format!("{} is a constant of more than 2^40 elements", c.ty))
        }
        Op::Constant(c) => count(x, 0).map(|()| vec![c.ty.clone()]),
        Op::Iota { ty, axis } => elementwise::iota(ty, *axis, x),
        Op::Unary(u) => elementwise::unary(*u, x),
        Op::Binary(b) => elementwise::binary(*b, x),
        Op::Select => elementwise::select(x),
        Op::Cast(to) => count(x, 1).map(|()| vec![Type::new(*to, x[0].shape.clone())]),
        Op::Contract(c) => contract(c, x),
        Op::Conv { windows, groups } => window::conv(windows, *groups, x),
        Op::Pool { kind, kernel, windows } => window::pool(*kind, kernel, windows, x),
        Op::Reduce { axes, keep, kind: _ } => reduce::reduce(axes, *keep, x),
        Op::Softmax { axis } => reduce::softmax(*axis, x),
        Op::CumSum { axis, .. } => reduce::cumsum(*axis, x),
        Op::Reshape(shape) => shape::reshape(shape, x),
        Op::Permute(perm) => shape::permute(perm, x),
        Op::Broadcast(shape) => shape::broadcast_to(shape, x),
        Op::Slice { axis, start, len, step } => shape::slice(*axis, *start, *len, *step, x),
        Op::Rows { axis, outer, inner, rows } => shape::rows(*axis, (*outer, *inner), rows, x),
        Op::Concat { axis } => shape::concat(*axis, x),
        Op::Pad { low, high } => shape::pad(low, high, x),
        Op::Gather { axis } => index::gather(*axis, x),
        Op::GatherNd { batch } => index::gather_nd(*batch, x),
        Op::ScatterNd { how } => index::scatter_nd(*how, x),
        Op::TopK { axis, k, .. } => index::topk(*axis, *k, x),
        Op::Opaque(o) => opaque(o, x),
        Op::Attention(a) => attention(a, x),
        Op::AttentionBackward(b) => backward(b, x),
        Op::Chunk { of, rows } => island::chunk(of, rows, x),
        Op::Start(c, ty) => island::start(c, ty, x),
        Op::Wait => count(x, 1).map(|()| vec![x[0].clone()]),
        Op::Partial(p) => partial(p, x),
        Op::Merge { a, b } => island::merge(a, b, x),
        Op::Finish { of, rows, dtype, lse, .. } => island::finish(of, rows, *dtype, *lse, x),
        Op::Region(_, g) => island::region(g, x),
        Op::Unshard { axis, outer, inner, rows } => island::unshard(*axis, (*outer, *inner), rows, x),
        Op::AllReduce { kind, ranks, dtype } => reduce::all_reduce(*kind, *ranks, *dtype, x),
        Op::Call { results, .. } => Ok(results.clone()),
    }
}
