//! One operation: checked by inference, then computed by the file of its family.

use super::lacking::lacks;
use super::precision::{Precision, held, hold};
use super::{attention, backward, contract, elementwise, index, partial, reduce, shape, window};
use crate::ir::infer::infer;
use crate::ir::{DType, Data, Op, Tensor, Type};

/// The largest number of elements that eval computes for one value: 2^32. A larger one is an error, not an allocation.
pub(super) const MAX_VALUE: usize = 1 << 32;

/// The results of an operation that computes on this rank what it gives, on operands as they are held.
pub(super) fn results(op: &Op, x: &[Tensor], precision: Precision) -> Result<Vec<Tensor>, String> {
    let operand_types: Vec<Type> = x.iter().map(Tensor::ty).collect();
    let types = infer(op, &operand_types.iter().collect::<Vec<_>>()).map_err(|e| e.why)?;
    let types: Vec<Type> = types.iter().map(|t| held(t, precision)).collect();
    if let Some(t) = types.iter().find(|t| t.elements() > MAX_VALUE) {
        return Err(format!("{t} has more than 2^32 elements"));
    }
    room(&types)?;
    let data = if types.iter().all(|t| t.elements() == 0) {
        types.iter().map(|t| Data::from_f64(t.dtype, &[])).collect()
    } else {
        compute(op, x, &types, precision)?
    };
    types
        .into_iter()
        .zip(data)
        .map(|(t, d)| {
            let (have, want) = (d.len(), t.to_string());
            Tensor::new(t.shape, d).ok_or_else(|| format!("made {have} elements of {want}"))
        })
        .collect()
}

/// Asks for the memory of large results beforehand, so that too little of it is an error and not the end of the process.
fn room(types: &[Type]) -> Result<(), String> {
    let bytes: usize = types.iter().map(Type::bytes).sum();
    let probed = bytes < 1 << 26 || Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    if probed { Ok(()) } else { Err(format!("there is no memory for {bytes} bytes of results")) }
}

/// Whether an operation computes with its elements, and so takes f16 and bf16 in f32. (Attention has a type of its own for
/// that; the others move elements.)
fn is_arithmetic(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Contract(_)
            | Op::Conv { .. }
            | Op::Pool { .. }
            | Op::Reduce { .. }
            | Op::Softmax { .. }
            | Op::CumSum { .. }
            | Op::ScatterNd { how: Some(_) }
            | Op::TopK { .. }
    )
}

/// The results of an operation whose operands fit it, and of which at least one has elements. `types` are the results'.
fn compute(op: &Op, x: &[Tensor], types: &[Type], precision: Precision) -> Result<Vec<Data>, String> {
    let half = |d: DType| matches!(d, DType::F16 | DType::BF16);
    if !(is_arithmetic(op) && x.iter().any(|t| half(t.dtype()))) {
        return dispatch(op, x, types, precision);
    }
    let widen = |t: &Tensor| match half(t.dtype()) {
        true => Tensor::new(t.shape(), elementwise::cast(t.data(), DType::F32)),
        false => Some(t.clone()),
    };
    let wide: Option<Vec<Tensor>> = x.iter().map(widen).collect();
    let results = dispatch(op, &wide.ok_or("cannot be widened")?, types, precision)?;
    Ok(results.iter().zip(types).map(|(d, t)| elementwise::cast(d, t.dtype)).collect())
}

fn dispatch(op: &Op, x: &[Tensor], types: &[Type], precision: Precision) -> Result<Vec<Data>, String> {
    let shape = &types[0].shape;
    let operand = |i: usize| (x[i].data(), x[i].shape());
    let accumulator = |declared: DType| if precision == Precision::F64 { DType::F64 } else { declared };
    let one = match op {
        Op::Iota { ty, axis } => {
            let counted = Tensor::new(ty.shape.clone(), elementwise::iota(ty, *axis));
            counted.map(|t| hold(&t, precision).data().clone()).ok_or("miscounted")?
        }
        Op::Unary(u) => elementwise::unary(*u, x[0].data())?,
        Op::Binary(b) => elementwise::binary(*b, operand(0), operand(1), shape)?,
        Op::Select => elementwise::select(operand(0), operand(1), operand(2), shape)?,
        // Rounded to the type named, whatever it is kept in.
        Op::Cast(to) => elementwise::cast(&elementwise::cast(x[0].data(), *to), types[0].dtype),
        Op::Contract(c) => contract::contract(c, &x[0], &x[1])?,
        Op::Conv { windows, groups } => window::conv(&x[0], &x[1], windows, *groups, shape)?,
        Op::Pool { kind, kernel, windows } => window::pool(&x[0], *kind, kernel, windows, shape)?,
        Op::Reduce { kind, axes, .. } => reduce::reduce(&x[0], *kind, axes)?,
        Op::Softmax { axis } => reduce::softmax(&x[0], *axis)?,
        Op::CumSum { axis, exclusive, reverse } => reduce::cumsum(&x[0], *axis, *exclusive, *reverse)?,
        Op::Reshape(_) => x[0].data().clone(),
        Op::Permute(perm) => shape::permute(&x[0], perm, shape),
        Op::Broadcast(_) => shape::broadcast(&x[0], shape),
        Op::Slice { axis, start, step, .. } => shape::slice(&x[0], *axis, *start, *step, shape),
        Op::Rows { axis, outer, inner, rows } => shape::rows(&x[0], *axis, (*outer, *inner), rows),
        Op::Concat { axis } => shape::concat(x, *axis)?,
        Op::Pad { low, .. } => shape::pad(&x[0], &x[1], low, shape)?,
        Op::Gather { axis } => index::gather(&x[0], &x[1], *axis)?,
        Op::GatherNd { batch } => index::gather_nd(&x[0], &x[1], *batch)?,
        Op::ScatterNd { how } => index::scatter_nd(&x[0], &x[1], &x[2], *how)?,
        Op::TopK { axis, k, largest } => {
            let (values, indices) = index::topk(&x[0], *axis, *k, *largest)?;
            return Ok(vec![values, indices]);
        }
        Op::Attention(a) => return attention::attention(a, x, accumulator(a.acc), types[0].dtype),
        Op::AttentionBackward(b) => return backward::backward(b, x, accumulator(b.attention.acc), types),
        Op::Partial(p) => return attention::partial(p, x, accumulator(p.attention.acc)),
        Op::Chunk { of, rows } => partial::chunk(&x[0], of, rows)?,
        Op::Merge { a, b } => return partial::merge(x, a, b),
        Op::Finish { of, rows, empty_row, .. } => {
            return partial::divide(x, of, rows, types[0].dtype, *empty_row);
        }
        Op::Opaque(o) => return Err(lacks(o)),
        Op::Input(_)
        | Op::Constant(_)
        | Op::Start(..)
        | Op::Wait
        | Op::Region(..)
        | Op::Unshard { .. }
        | Op::AllReduce { .. }
        | Op::Call { .. } => {
            return Err("is not computed".into());
        }
    };
    Ok(vec![one])
}
