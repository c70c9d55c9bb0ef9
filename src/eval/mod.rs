//! eval: runs a graph on one rank, as it stands. The oracle.
//!
//! In: a verified graph and its inputs. Out: its outputs. [`apply`] runs one operation, [`Constants`] the parts of a graph
//! that depend on no input, [`compare()`] says how far two tensors are apart.
//!
//! Invariants: every operation is computed by one implementation, chosen by its element type once, in a fixed order of
//! summation, so that bits do not depend on the number of threads. Operands are checked by [`crate::ir::infer`] before
//! anything is read, so that a faulty operation is an error, never a panic. A value has at most [`MAX_VALUE`] elements. A
//! graph is walked without recursion; regions may be nested 32 deep.
//!
//! | file | operations |
//! |---|---|
//! | `elementwise` | unary, binary, select, cast, iota |
//! | `shape` | reshape, permute, broadcast, slice, rows, concat, pad |
//! | `reduce` | reductions, softmax, running sums |
//! | `contract` | contractions |
//! | `window` | convolutions, pooling |
//! | `index` | gather, scatter, top-k |
//! | `attention`, `partial` | attention, its partial results, chunk, merge, finish |

mod attention;
pub mod compare;
mod constants;
mod contract;
mod elementwise;
mod index;
mod number;
mod partial;
mod reduce;
mod run;
mod shape;
mod walk;
mod window;

pub use compare::{Comparison, compare};
pub use constants::Constants;

use crate::ir::infer::infer;
use crate::ir::{DType, Data, Graph, Op, OpId, RegionKind, Tensor, Type};

/// The largest number of elements that eval computes for one value: 2^32. A larger one is an error, not an allocation.
pub const MAX_VALUE: usize = 1 << 32;

/// In which type results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the graph declares them.
    Declared,
    /// Floating values in f64 throughout; a cast still rounds to its type, so that half-precision constants and overflows
    /// keep their meaning (but a cast that loses nothing of its declared operand, as f32 to f32, leaves it). Outputs are
    /// f64 where the graph declares a floating type.
    F64,
}

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// One operation failed.
    #[error("{op} {name}{}: {why}", if source_node.is_empty() { String::new() } else { format!(" (node {source_node})") })]
    Op {
        /// Mnemonic.
        op: &'static str,
        /// Name of its first result.
        name: String,
        /// Node of the imported model.
        source_node: String,
        /// What is wrong.
        why: String,
    },
    /// The inputs are not those of the graph.
    #[error("{0}")]
    Inputs(String),
}

/// Evaluates a graph. `inputs` stand in the order of the graph's inputs, in their declared types. What no output needs is
/// not evaluated; a value is freed after its last use.
///
/// # Errors
/// If an input does not fit, a weight has no data, or an operation fails (an index out of range, a region or a transfer,
/// which need other ranks).
pub fn eval(graph: &Graph, inputs: &[Tensor], precision: Precision) -> Result<Vec<Tensor>, EvalError> {
    eval_watched(graph, inputs, precision, &mut |_| {})
}

/// Where an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The operation that comes next.
    pub op: OpId,
    /// How many are done.
    pub done: usize,
    /// How many there are to do.
    pub of: usize,
}

/// [`eval`] that tells before each operation of the graph itself where it is.
///
/// # Errors
/// As [`eval`].
pub fn eval_watched(
    graph: &Graph,
    inputs: &[Tensor],
    precision: Precision,
    watch: &mut dyn FnMut(Progress),
) -> Result<Vec<Tensor>, EvalError> {
    let declared = graph.inputs();
    if declared.len() != inputs.len() {
        return Err(EvalError::Inputs(format!(
            "graph {} has {} inputs, got {}",
            graph.name(),
            declared.len(),
            inputs.len()
        )));
    }
    for (v, x) in declared.into_iter().zip(inputs) {
        if *graph.ty(v) != x.ty() {
            let name = &graph.value(v).name;
            return Err(EvalError::Inputs(format!("input {name} is {}, got {}", graph.ty(v), x.ty())));
        }
    }
    let inputs: Vec<Tensor> = inputs.iter().map(|x| hold(x, precision)).collect();
    run::graph(graph, &inputs, precision, 0, watch)
}

/// Applies one operation to its operands. Under [`Precision::F64`] floating operands of any type are taken as f64.
///
/// # Errors
/// What is wrong, as a text without the operation's name.
pub fn apply(op: &Op, operands: &[Tensor], precision: Precision) -> Result<Vec<Tensor>, String> {
    let operands: Vec<Tensor> = operands.iter().map(|x| hold(x, precision)).collect();
    apply_at(op, &operands, precision, 0)
}

/// The type in which a value declared as `ty` is kept.
fn held(ty: &Type, precision: Precision) -> Type {
    if precision == Precision::F64 && ty.dtype.is_float() {
        Type::new(DType::F64, ty.shape.clone())
    } else {
        ty.clone()
    }
}

fn hold(x: &Tensor, precision: Precision) -> Tensor {
    let to = held(&x.ty(), precision);
    if to.dtype == x.dtype() {
        return x.clone();
    }
    // As many elements as before.
    Tensor::new(to.shape, elementwise::cast(x.data(), to.dtype)).unwrap_or_else(|| x.clone())
}

/// Whether every number of floating type `from` is one of floating type `to`.
fn is_exact(from: DType, to: DType) -> bool {
    from == to && from.is_float()
        || matches!(
            (from, to),
            (DType::F16 | DType::BF16, DType::F32 | DType::F64) | (DType::F32, DType::F64)
        )
}

/// [`apply`] on operands as they are held, `depth` regions down.
fn apply_at(op: &Op, x: &[Tensor], precision: Precision, depth: usize) -> Result<Vec<Tensor>, String> {
    match op {
        Op::Input(_) => return Err("an input has no value of its own".into()),
        Op::Constant(c) => {
            let data = c.data.as_ref().ok_or("the weight has no data")?;
            if data.ty() != c.ty {
                return Err(format!("the weight is {}, declared {}", data.ty(), c.ty));
            }
            return Ok(vec![hold(data, precision)]);
        }
        Op::Start(..)
        | Op::Wait
        | Op::Unshard { .. }
        | Op::Call { .. }
        | Op::Region(RegionKind::Island { .. }, _) => {
            return Err("needs other ranks".into());
        }
        Op::Region(RegionKind::Segment, graph) => return segment(graph, x, precision, depth),
        _ => {}
    }
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

fn segment(graph: &Graph, x: &[Tensor], precision: Precision, depth: usize) -> Result<Vec<Tensor>, String> {
    if depth >= run::MAX_NESTING {
        return Err(format!("regions are nested more than {} deep", run::MAX_NESTING));
    }
    let declared = graph.inputs();
    let fits = declared.len() == x.len()
        && declared.iter().zip(x).all(|(&v, x)| held(graph.ty(v), precision) == x.ty());
    if !fits {
        return Err(format!("the inputs of {} are not the operands", graph.name()));
    }
    run::graph(graph, x, precision, depth + 1, &mut |_| {}).map_err(|e| e.to_string())
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
        Op::Partial(p) => return attention::partial(p, x, accumulator(p.attention.acc)),
        Op::Chunk { of, rows } => partial::chunk(&x[0], of, rows)?,
        Op::Merge { a, b } => return partial::merge(x, a, b),
        Op::Finish { of, rows, empty_row, .. } => {
            return partial::divide(x, of, rows, types[0].dtype, *empty_row);
        }
        Op::Input(_)
        | Op::Constant(_)
        | Op::Start(..)
        | Op::Wait
        | Op::Region(..)
        | Op::Unshard { .. }
        | Op::Call { .. } => {
            return Err("is not computed".into());
        }
    };
    Ok(vec![one])
}
