//! Result types of an operation from its operands' types. Every rule about what an operation takes stands here, once.

mod attention;
mod rows;

pub use attention::attention_sizes;
pub use rows::{offset_in, union};

use super::ids::ValueId;
use super::op::{Collective, Contract, Op, Reduction, Windows};
use super::types::{DType, MAX_ELEMENTS, MAX_RANK, Type, broadcast};
use attention::{attention, partial, partial_rows, sinks};
use rows::{among, bounded, counted, distinct, show, within};

/// Why an operation does not take its operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {why}")]
pub struct InferError {
    /// Mnemonic of the operation.
    pub op: &'static str,
    /// What is wrong, with the types.
    pub why: String,
}

/// The types of the results of `op` on operands of these types.
///
/// # Errors
/// If there are too few or too many operands, if types or extents do not fit, or if a result has more than
/// [`super::MAX_ELEMENTS`] elements or [`super::MAX_RANK`] axes.
pub fn infer(op: &Op, operands: &[&Type]) -> Result<Vec<Type>, InferError> {
    let results = rule(op, operands).map_err(|why| InferError { op: op.name(), why })?;
    for t in &results {
        if t.checked_elements().is_none() {
            return Err(InferError { op: op.name(), why: format!("{t} has more than 2^40 elements") });
        }
        if t.rank() > MAX_RANK {
            let why = format!("the result has {} axes, more than {MAX_RANK}", t.rank());
            return Err(InferError { op: op.name(), why });
        }
    }
    Ok(results)
}

fn rule(op: &Op, x: &[&Type]) -> Result<Vec<Type>, String> {
    let count = |n: usize| {
        let s = if n == 1 { "" } else { "s" };
        if x.len() == n { Ok(()) } else { Err(format!("wants {n} operand{s}, has {}", x.len())) }
    };
    let axis_of = |axis: usize, t: &Type| {
        if axis < t.rank() { Ok(()) } else { Err(format!("{t} has no axis {axis}")) }
    };
    match op {
        Op::Input(ty) => count(0).map(|()| vec![ty.clone()]),
        Op::Constant(c) => count(0).map(|()| vec![c.ty.clone()]),
        Op::Iota { ty, axis } => {
            count(0)?;
            axis_of(*axis, ty)?;
            if ty.dtype == DType::Bool {
                return Err("cannot count in bool".into());
            }
            Ok(vec![ty.clone()])
        }
        Op::Unary(u) => {
            use super::op::Unary::*;
            count(1)?;
            let t = x[0];
            let ok = match u {
                Not => t.dtype == DType::Bool,
                Neg | Abs | Sign => t.dtype != DType::Bool,
                _ => t.dtype.is_float(),
            };
            if !ok {
                return Err(format!("does not take {t}"));
            }
            let dtype = if matches!(u, IsNan | IsInf) { DType::Bool } else { t.dtype };
            Ok(vec![Type::new(dtype, t.shape.clone())])
        }
        Op::Binary(b) => {
            count(2)?;
            let (a, c) = (x[0], x[1]);
            if a.dtype != c.dtype {
                return Err(format!("types differ: {a} and {c}"));
            }
            let bool_in = a.dtype == DType::Bool;
            if b.is_logical() != bool_in && !(bool_in && *b == super::op::Binary::Eq) {
                return Err(format!("does not take {a}"));
            }
            let shape = broadcast(&a.shape, &c.shape)
                .ok_or_else(|| format!("shapes do not broadcast: {a} and {c}"))?;
            let dtype = if b.is_comparison() { DType::Bool } else { a.dtype };
            Ok(vec![Type::new(dtype, shape)])
        }
        Op::Select => {
            count(3)?;
            if x[0].dtype != DType::Bool {
                return Err(format!("the condition is {}, not bool", x[0]));
            }
            if x[1].dtype != x[2].dtype {
                return Err(format!("types differ: {} and {}", x[1], x[2]));
            }
            let shape = broadcast(&x[1].shape, &x[2].shape)
                .and_then(|s| broadcast(&x[0].shape, &s))
                .ok_or_else(|| format!("shapes do not broadcast: {}, {}, {}", x[0], x[1], x[2]))?;
            Ok(vec![Type::new(x[1].dtype, shape)])
        }
        Op::Cast(to) => count(1).map(|()| vec![Type::new(*to, x[0].shape.clone())]),
        Op::Contract(c) => {
            count(2)?;
            contract(c, x[0], x[1]).map(|t| vec![t])
        }
        Op::Conv { windows, groups } => {
            count(2)?;
            let (t, w) = (x[0], x[1]);
            if t.dtype != w.dtype || t.dtype == DType::Bool {
                return Err(format!("does not take {t} and {w}"));
            }
            let channels = match (t.shape.get(1), w.shape.get(..2)) {
                (Some(&c), Some(&[out, own])) if t.rank() == w.rank() && *groups > 0 => {
                    let fits = out.is_multiple_of(*groups) && own.checked_mul(*groups) == Some(c);
                    fits.then_some(out)
                }
                _ => None,
            };
            let Some(channels) = channels else {
                return Err(format!("{t} and kernels {w} do not fit in {groups} groups"));
            };
            let mut shape = vec![t.shape[0], channels];
            shape.extend(window_counts(windows, &w.shape[2..], &t.shape[2..])?);
            Ok(vec![Type::new(t.dtype, shape)])
        }
        Op::Pool { kind, kernel, windows } => {
            count(1)?;
            let t = x[0];
            let takes = match kind {
                Reduction::Max => t.dtype != DType::Bool,
                Reduction::Mean => t.dtype.is_float(),
                _ => return Err(format!("has no {}: want max or mean", kind.name())),
            };
            if !takes || t.rank() < 2 {
                return Err(format!("does not take {t}"));
            }
            let mut shape = t.shape[..2].to_vec();
            shape.extend(window_counts(windows, kernel, &t.shape[2..])?);
            Ok(vec![Type::new(t.dtype, shape)])
        }
        Op::Reduce { axes, keep, kind: _ } => {
            count(1)?;
            if x[0].dtype == DType::Bool {
                return Err("does not take bool".into());
            }
            if !axes.is_sorted_by(|a, b| a < b) {
                return Err(format!("axes {axes:?} are not ascending"));
            }
            axes.iter().try_for_each(|&a| axis_of(a, x[0]))?;
            let shape: Vec<usize> = (0..x[0].rank())
                .filter_map(|i| match (axes.contains(&i), keep) {
                    (false, _) => Some(x[0].shape[i]),
                    (true, true) => Some(1),
                    (true, false) => None,
                })
                .collect();
            Ok(vec![Type::new(x[0].dtype, shape)])
        }
        Op::Softmax { axis } => {
            count(1)?;
            axis_of(*axis, x[0])?;
            if !x[0].dtype.is_float() {
                return Err(format!("does not take {}", x[0]));
            }
            Ok(vec![x[0].clone()])
        }
        Op::Reshape(shape) => {
            count(1)?;
            let t = Type::new(x[0].dtype, shape.clone());
            if t.checked_elements() != x[0].checked_elements() {
                return Err(format!("{} has not as many elements as {t}", x[0]));
            }
            Ok(vec![t])
        }
        Op::Permute(perm) => {
            count(1)?;
            let mut seen = perm.clone();
            seen.sort_unstable();
            if seen != (0..x[0].rank()).collect::<Vec<_>>() {
                return Err(format!("{perm:?} is no permutation of the axes of {}", x[0]));
            }
            Ok(vec![Type::new(x[0].dtype, perm.iter().map(|&a| x[0].shape[a]).collect::<Vec<_>>())])
        }
        Op::Broadcast(shape) => {
            count(1)?;
            if broadcast(&x[0].shape, shape).as_ref() != Some(shape) {
                return Err(format!("{} does not broadcast to {shape:?}", x[0]));
            }
            Ok(vec![Type::new(x[0].dtype, shape.clone())])
        }
        Op::Slice { axis, start, len, step } => {
            count(1)?;
            axis_of(*axis, x[0])?;
            let extent = x[0].shape[*axis] as i128;
            let last = *start as i128 + (*len as i128 - 1) * i128::from(*step);
            if *step == 0
                || (*len > 0 && !((0..extent).contains(&(*start as i128)) && (0..extent).contains(&last)))
            {
                return Err(format!("start {start}, len {len}, step {step} leave axis {axis} of {}", x[0]));
            }
            Ok(vec![with_axis(x[0], *axis, *len)])
        }
        Op::Rows { axis, outer, inner, rows } => {
            count(1)?;
            let length = factored(x[0], *axis, *outer, *inner)?;
            within(rows, length)?;
            let extent = outer.saturating_mul(counted(rows)?).saturating_mul(*inner);
            Ok(vec![with_axis(x[0], *axis, extent)])
        }
        Op::Call { results, .. } => Ok(results.clone()),
        Op::Unshard { axis, outer, inner, rows } => {
            count(1)?;
            let own = factored(x[0], *axis, *outer, *inner)?;
            let all = rows.concat();
            let length = counted(&all)?;
            within(&all, length)?;
            distinct(&all)?;
            if !rows.iter().any(|r| counted(r) == Ok(own)) {
                return Err(format!("no rank has the {own} rows of {}", x[0]));
            }
            let extent = outer.saturating_mul(length).saturating_mul(*inner);
            Ok(vec![with_axis(x[0], *axis, extent)])
        }
        Op::Concat { axis } => {
            let Some(first) = x.first() else { return Err("wants at least one operand".into()) };
            axis_of(*axis, first)?;
            let mut extent = 0usize;
            for t in x {
                if t.rank() != first.rank() || with_axis(t, *axis, 0) != with_axis(first, *axis, 0) {
                    return Err(format!("{first} and {t} differ beside axis {axis}"));
                }
                extent = extent.saturating_add(t.shape[*axis]);
            }
            Ok(vec![with_axis(first, *axis, extent)])
        }
        Op::Pad { low, high } => {
            count(2)?;
            if low.len() != x[0].rank() || high.len() != x[0].rank() {
                return Err(format!("{low:?} and {high:?} do not fit {}", x[0]));
            }
            if x[1].dtype != x[0].dtype || x[1].rank() != 0 {
                return Err(format!("pads {} with {}", x[0], x[1]));
            }
            let shape: Vec<usize> = (0..low.len())
                .map(|i| low[i].saturating_add(x[0].shape[i]).saturating_add(high[i]))
                .collect();
            Ok(vec![Type::new(x[0].dtype, shape)])
        }
        Op::Gather { axis } => {
            count(2)?;
            axis_of(*axis, x[0])?;
            indices(x[1])?;
            let mut shape = x[0].shape[..*axis].to_vec();
            shape.extend(&x[1].shape);
            shape.extend(&x[0].shape[axis + 1..]);
            Ok(vec![Type::new(x[0].dtype, shape)])
        }
        Op::GatherNd { batch } => {
            count(2)?;
            indices(x[1])?;
            let depth = tuple(x[0], x[1], *batch)?;
            let mut shape = x[1].shape[..x[1].rank() - 1].to_vec();
            shape.extend(&x[0].shape[batch + depth..]);
            Ok(vec![Type::new(x[0].dtype, shape)])
        }
        Op::ScatterNd { how } => {
            count(3)?;
            use super::op::Binary::{Add, Max, Min, Mul};
            match how {
                None => {}
                Some(Add | Mul | Min | Max) if x[0].dtype != DType::Bool => {}
                Some(Add | Mul | Min | Max) => return Err(format!("does not combine {}", x[0])),
                Some(other) => return Err(format!("does not combine by {}", other.name())),
            }
            indices(x[1])?;
            let depth = tuple(x[0], x[1], 0)?;
            let mut shape = x[1].shape[..x[1].rank() - 1].to_vec();
            shape.extend(&x[0].shape[depth..]);
            if *x[2] != Type::new(x[0].dtype, shape.clone()) {
                return Err(format!("updates are {}, not {}", x[2], Type::new(x[0].dtype, shape)));
            }
            Ok(vec![x[0].clone()])
        }
        Op::CumSum { axis, .. } => {
            count(1)?;
            axis_of(*axis, x[0])?;
            if x[0].dtype == DType::Bool {
                return Err("does not take bool".into());
            }
            Ok(vec![x[0].clone()])
        }
        Op::TopK { axis, k, .. } => {
            count(1)?;
            axis_of(*axis, x[0])?;
            if *k > x[0].shape[*axis] {
                return Err(format!("{k} of axis {axis} of {}", x[0]));
            }
            let t = with_axis(x[0], *axis, *k);
            let i = Type::new(DType::I64, t.shape.clone());
            Ok(vec![t, i])
        }
        Op::Attention(a) => attention(a, x),
        Op::Chunk { of, rows } => {
            count(1)?;
            let held = x[0].shape.get(2).copied();
            if held != Some(counted(of)?) {
                return Err(format!("{} does not hold rows {}", x[0], show(of)));
            }
            among(of, rows)?;
            Ok(vec![with_axis(x[0], 2, counted(rows)?)])
        }
        Op::Start(c, ty) => {
            let rows = counted(&c.result_rows())?;
            if ty.shape.get(2) != Some(&rows) {
                return Err(format!("{ty} does not hold {rows} rows"));
            }
            if x.len() > 1 {
                return Err(format!("sends {} values, not one", x.len()));
            }
            if let Collective::SendRecv { to, from, .. } = &**c {
                if to.is_some() != (x.len() == 1) {
                    return Err("sends a value to nobody, or no value to somebody".into());
                }
                if from.is_none() && rows > 0 {
                    return Err(format!("receives {rows} rows from nobody"));
                }
            }
            if x.first().is_some_and(|s| with_axis(s, 2, 0) != with_axis(ty, 2, 0)) {
                return Err(format!("sends {} and receives {ty}", x[0]));
            }
            Ok(vec![ty.clone()])
        }
        Op::Wait => count(1).map(|()| vec![x[0].clone()]),
        Op::Partial(p) => partial(p, x),
        Op::Merge { a, b } => {
            count(6)?;
            partial_rows(&x[..3], a)?;
            partial_rows(&x[3..], b)?;
            if (0..3).any(|i| with_axis(x[i], 2, 0) != with_axis(x[i + 3], 2, 0)) {
                return Err(format!("{} and {} differ beside their rows", x[0], x[3]));
            }
            bounded(a, b)?;
            let joined = union(a, b);
            distinct(b).and_then(|()| distinct(&joined))?;
            let rows = counted(&joined)?;
            Ok(x[..3].iter().map(|t| with_axis(t, 2, rows)).collect())
        }
        Op::Finish { of, rows, dtype, lse, .. } => {
            if x.len() != 4 {
                count(3)?;
            }
            partial_rows(x, of)?;
            if let Some(t) = x.get(3) {
                sinks(t, 3, &[&x[1].shape[..], &[1]].concat())?;
            }
            if counted(rows)? != counted(of)? {
                return Err(format!("rows {} are not those of {}", show(rows), show(of)));
            }
            among(of, rows)?;
            distinct(rows)?;
            if !dtype.is_float() {
                return Err(format!("does not give {dtype}"));
            }
            let mut out = vec![Type::new(*dtype, x[0].shape.clone())];
            if *lse {
                out.push(x[1].clone());
            }
            Ok(out)
        }
        Op::Region(_, g) => {
            // What its own faults are, the verifier says; here they must do no harm.
            let missing = |v: &ValueId| !g.contains(*v);
            if g.inputs().iter().any(missing) || g.outputs().iter().any(|o| missing(&o.value)) {
                return Err("its graph has an input or output that does not exist".into());
            }
            let want: Vec<&Type> = g.inputs().into_iter().map(|v| g.ty(v)).collect();
            if want != x {
                let list = |t: &[&Type]| t.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
                return Err(format!("its graph takes ({}), not ({})", list(&want), list(x)));
            }
            Ok(g.outputs().iter().map(|o| g.ty(o.value).clone()).collect())
        }
    }
}

/// How many windows there are along each axis.
fn window_counts(w: &Windows, kernel: &[usize], extents: &[usize]) -> Result<Vec<usize>, String> {
    let n = extents.len();
    if [&w.strides[..], &w.dilations, &w.low, &w.high, kernel].iter().any(|list| list.len() != n) {
        return Err(format!("windows want one entry for each of {n} axes"));
    }
    (0..n)
        .map(|i| {
            let (stride, dilation, k) = (w.strides[i], w.dilations[i], kernel[i]);
            let all = extents[i].saturating_add(w.low[i]).saturating_add(w.high[i]);
            let reach = k.checked_sub(1).and_then(|n| n.checked_mul(dilation)?.checked_add(1));
            match reach {
                Some(reach) if reach <= all && all <= MAX_ELEMENTS && stride > 0 && dilation > 0 => {
                    Ok((all - reach) / stride + 1)
                }
                _ => Err(format!(
                    "windows of {k} taps {dilation} apart, every {stride}, do not fit {} + {} + {} elements",
                    w.low[i], extents[i], w.high[i]
                )),
            }
        })
        .collect()
}

fn contract(c: &Contract, a: &Type, b: &Type) -> Result<Type, String> {
    if a.dtype != b.dtype || a.dtype == DType::Bool {
        return Err(format!("does not take {a} and {b}"));
    }
    let mut extent: Vec<(char, usize)> = Vec::new();
    if ![&c.lhs, &c.rhs, &c.out].iter().all(|axes| axes.bytes().all(|l| l.is_ascii_alphabetic())) {
        return Err("axes are letters".into());
    }
    for (axes, t) in [(&c.lhs, a), (&c.rhs, b)] {
        if axes.chars().count() != t.rank() {
            return Err(format!("axes {axes} do not fit {t}"));
        }
        for (i, l) in axes.chars().enumerate() {
            if axes.chars().filter(|&m| m == l).count() > 1 {
                return Err(format!("axis {l} stands twice in {axes}"));
            }
            match extent.iter().find(|(m, _)| *m == l) {
                Some(&(_, e)) if e != t.shape[i] => {
                    return Err(format!("axis {l} is {e} and {}: {a} and {b}", t.shape[i]));
                }
                Some(_) => {}
                None => extent.push((l, t.shape[i])),
            }
        }
    }
    let mut shape = Vec::new();
    for l in c.out.chars() {
        match extent.iter().find(|(m, _)| *m == l) {
            Some(&(_, e)) if c.out.chars().filter(|&m| m == l).count() == 1 => shape.push(e),
            _ => return Err(format!("axis {l} of {} is in no operand, or stands twice", c.out)),
        }
    }
    for (l, _) in &extent {
        let both = c.lhs.contains(*l) && c.rhs.contains(*l);
        if !both && !c.out.contains(*l) {
            return Err(format!("axis {l} is in one operand and not in the result; reduce it first"));
        }
    }
    Ok(Type::new(a.dtype, shape))
}

fn with_axis(t: &Type, axis: usize, extent: usize) -> Type {
    let mut t = t.clone();
    if let Some(e) = t.shape.get_mut(axis) {
        *e = extent;
    }
    t
}

fn factored(t: &Type, axis: usize, outer: usize, inner: usize) -> Result<usize, String> {
    let extent = t.shape.get(axis).ok_or_else(|| format!("{t} has no axis {axis}"))?;
    let around = outer.checked_mul(inner).filter(|&n| n > 0);
    match around {
        Some(n) if extent % n == 0 => Ok(extent / n),
        _ => Err(format!("axis {axis} of {t} is not {outer} × rows × {inner}")),
    }
}

fn indices(t: &Type) -> Result<(), String> {
    if matches!(t.dtype, DType::I64 | DType::I32) { Ok(()) } else { Err(format!("indices are {t}")) }
}

fn tuple(x: &Type, i: &Type, batch: usize) -> Result<usize, String> {
    let depth = i.shape.last().copied().unwrap_or(usize::MAX);
    let ok = i.rank() > batch
        && x.rank() >= batch
        && depth <= x.rank() - batch
        && x.shape[..batch] == i.shape[..batch];
    if ok { Ok(depth) } else { Err(format!("index tuples {i} do not fit {x} with {batch} batch axes")) }
}
