//! Result types of an operation from its operands' types. Every rule about what an operation takes stands here, once.

use super::graph::ValueId;
use super::op::{Attention, AttentionSizes, Collective, Contract, Op, Partial, Reduction, Windows};
use super::types::{DType, MAX_ELEMENTS, MAX_RANK, Type, broadcast};
use crate::layout::Progression;
use crate::mask::{Fill, Term, Tile};

/// Most comparisons of one row progression with another that are made for one operation; beyond, it is refused.
const MAX_COMPARISONS: usize = 1 << 24;

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

/// The sizes of an attention on operands of these types.
///
/// # Errors
/// If q, k and v do not fit each other.
pub fn attention_sizes(q: &Type, k: &Type, v: &Type) -> Result<AttentionSizes, String> {
    let (&[b, hq, sq, dk], &[bk, hkv, sk, dk2], &[bv, hv, sv, dv]) =
        (q.shape.as_slice(), k.shape.as_slice(), v.shape.as_slice())
    else {
        return Err(format!("want (batch, heads, rows, size), have q {q}, k {k}, v {v}"));
    };
    if (b, dk, hkv, sk) != (bk, dk2, hv, sv) || bk != bv {
        return Err(format!("batch, heads, rows or sizes differ: q {q}, k {k}, v {v}"));
    }
    if q.dtype != k.dtype || q.dtype != v.dtype || !q.dtype.is_float() {
        return Err(format!("want one floating type, have q {q}, k {k}, v {v}"));
    }
    if hkv == 0 || hq % hkv != 0 {
        return Err(format!("{hkv} key heads do not divide {hq} query heads"));
    }
    Ok(AttentionSizes {
        batch: b,
        q_heads: hq,
        kv_heads: hkv,
        q_len: sq,
        kv_len: sk,
        head_dim: dk,
        v_head_dim: dv,
    })
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
        Op::ScatterNd => {
            count(3)?;
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

fn attention(a: &Attention, x: &[&Type]) -> Result<Vec<Type>, String> {
    if x.len() < 3 {
        return Err(format!("wants q, k and v, has {} operands", x.len()));
    }
    let s = attention_sizes(x[0], x[1], x[2])?;
    attributes(a)?;
    let others = match a.sinks {
        Some(operand) if operand < 3 || operand + 1 != x.len() => {
            return Err(format!("the sinks are operand {operand}, which is not the last after q, k and v"));
        }
        Some(operand) => {
            sinks(x[operand], operand, &[s.batch, s.q_heads, s.q_len, 1])?;
            &x[..operand]
        }
        None => x,
    };
    leaves(a, others, 3, [s.batch, s.q_heads, s.q_len, s.kv_len])?;
    let mut out = vec![Type::new(x[0].dtype, vec![s.batch, s.q_heads, s.q_len, s.v_head_dim])];
    if a.lse {
        out.push(Type::new(a.acc, vec![s.batch, s.q_heads, s.q_len]));
    }
    Ok(out)
}

fn attributes(a: &Attention) -> Result<(), String> {
    if !a.scale.is_finite() || !a.softcap.is_finite() || a.softcap < 0.0 {
        return Err(format!("scale {} or softcap {} is no number", a.scale, a.softcap));
    }
    if let Fill::Replace(fill) | Fill::Add(fill) = a.mask.fill
        && !fill.is_finite()
    {
        return Err(format!("the mask fills with {fill}, which is not finite"));
    }
    if a.acc != DType::F32 && a.acc != DType::F64 {
        return Err(format!("cannot accumulate in {}", a.acc));
    }
    Ok(())
}

fn partial(p: &Partial, x: &[&Type]) -> Result<Vec<Type>, String> {
    if x.len() < 2 {
        return Err(format!("wants q and packed k‖v, has {} operands", x.len()));
    }
    let (&[b, hq, sq, dk], &[bk, hkv, sk, d]) = (x[0].shape.as_slice(), x[1].shape.as_slice()) else {
        return Err(format!("want four axes, have {} and {}", x[0], x[1]));
    };
    let fits = b == bk
        && hkv > 0
        && hq % hkv == 0
        && Some(d) == dk.checked_add(p.v_head_dim)
        && sq == counted(&p.q_rows)?
        && sk == counted(&p.k_rows)?;
    if !fits {
        return Err(format!(
            "{} and {} do not fit rows {} and {}, Dv {}",
            x[0],
            x[1],
            show(&p.q_rows),
            show(&p.k_rows),
            p.v_head_dim
        ));
    }
    if x[0].dtype != x[1].dtype || !x[0].dtype.is_float() {
        return Err(format!("wants one floating type, has {} and {}", x[0], x[1]));
    }
    if p.tile == Tile::Skip {
        return Err("a tile that is skipped is not computed: want full or partial".into());
    }
    attributes(&p.attention)?;
    if let Some(operand) = p.attention.sinks
        && operand.checked_sub(1) != Some(x.len())
    {
        return Err(format!("the sinks are operand {operand} of the attention, which is not the last"));
    }
    leaves(&p.attention, x, 2, [b, hq, sq, usize::MAX])?;
    let acc = p.attention.acc;
    let row = Type::new(acc, vec![b, hq, sq]);
    Ok(vec![Type::new(acc, vec![b, hq, sq, p.v_head_dim]), row.clone(), row])
}

/// Checks that bias and tensor terms are operands from `first` on and broadcast to `full`
/// (an extent of `usize::MAX` is not compared). Attention counts its leaves from 3.
fn leaves(a: &Attention, x: &[&Type], first: usize, full: [usize; 4]) -> Result<(), String> {
    let tensors = a.mask.terms.iter().filter_map(|t| match t {
        Term::Tensor { operand } => Some((*operand, true)),
        _ => None,
    });
    let mut used = vec![false; x.len()];
    for (operand, truth) in tensors.chain(a.bias.map(|b| (b, false))) {
        let slot = operand.wrapping_sub(3 - first);
        let Some(t) = x.get(slot).filter(|_| operand >= 3) else {
            return Err(format!("there is no operand {operand}"));
        };
        used[slot] = true;
        let fits = if truth { t.dtype == DType::Bool } else { t.dtype.is_float() };
        if !fits || t.rank() > 4 {
            let want = if truth { "a mask is bool" } else { "a bias is a floating type" };
            return Err(format!("operand {operand} is {t}; {want}, of at most four axes"));
        }
        let extents = t.shape.iter().zip(&full[4 - t.rank()..]);
        if extents.into_iter().any(|(&e, &f)| e != 1 && e != f && f != usize::MAX) {
            return Err(format!("operand {operand}, {t}, does not broadcast to the scores"));
        }
    }
    match used.iter().skip(first).position(|u| !u) {
        Some(i) => Err(format!("no mask term and no bias names operand {}", 3 + i)),
        None => Ok(()),
    }
}

/// Checks that sinks broadcast to `full`: (B, Hq, rows, 1).
fn sinks(t: &Type, operand: usize, full: &[usize]) -> Result<(), String> {
    let fits = t.dtype.is_float()
        && t.rank() <= full.len()
        && t.shape
            .iter()
            .zip(&full[full.len() - t.rank().min(full.len())..])
            .all(|(&e, &f)| e == 1 || e == f);
    if fits { Ok(()) } else { Err(format!("operand {operand} is {t}; sinks broadcast to float{full:?}")) }
}

fn partial_rows(x: &[&Type], rows: &[Progression]) -> Result<(), String> {
    let n = counted(rows)?;
    let ok = x[0].rank() == 4
        && x[0].shape[2] == n
        && x[1].shape == x[0].shape[..3]
        && x[1] == x[2]
        && x[0].dtype == x[1].dtype;
    if ok {
        Ok(())
    } else {
        Err(format!("{}, {}, {} hold no partial result of rows {}", x[0], x[1], x[2], show(rows)))
    }
}

/// Where the rows of `p`, which is not empty, begin within rows stored in the order of `of`: `p` must be a run within one of its progressions.
pub fn offset_in(of: &[Progression], p: &Progression) -> Option<usize> {
    let mut before = 0;
    for o in of {
        let same_step = p.step == o.step || p.len <= 1 || o.len <= 1;
        if p.start >= o.start
            && p.last() <= o.last()
            && same_step
            && (p.start - o.start).is_multiple_of(o.step)
        {
            return Some(before + (p.start - o.start) / o.step);
        }
        before += o.len;
    }
    None
}

/// The rows of `a`, then those progressions of `b` that are not among them.
pub fn union(a: &[Progression], b: &[Progression]) -> Vec<Progression> {
    let mut out = a.to_vec();
    out.extend(b.iter().filter(|p| offset_in(a, p).is_none()));
    out
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

fn within(rows: &[Progression], length: usize) -> Result<(), String> {
    counted(rows)?;
    match rows.iter().find(|p| p.last() >= length) {
        Some(p) => Err(format!("rows {p} are not among {length}")),
        None => Ok(()),
    }
}

/// How many rows, of progressions that are not empty and end below 2^40.
fn counted(rows: &[Progression]) -> Result<usize, String> {
    let mut n = 0usize;
    for p in rows {
        let last = p.len.checked_sub(1).and_then(|n| n.checked_mul(p.step)?.checked_add(p.start));
        if p.step == 0 || p.step > MAX_ELEMENTS || last.is_none_or(|last| last >= MAX_ELEMENTS) {
            return Err(format!("rows {p} are empty, or end beyond 2^40"));
        }
        n = n.saturating_add(p.len);
    }
    if n <= MAX_ELEMENTS { Ok(n) } else { Err("more than 2^40 rows".into()) }
}

/// Refuses lists whose comparison would take too long.
fn bounded(a: &[Progression], b: &[Progression]) -> Result<(), String> {
    let fits = a.len().saturating_mul(b.len()) <= MAX_COMPARISONS;
    if fits { Ok(()) } else { Err(format!("{} × {} row progressions are too many", a.len(), b.len())) }
}

/// Checks that each of `rows` is one of `of`, or a run of rows within one.
fn among(of: &[Progression], rows: &[Progression]) -> Result<(), String> {
    counted(rows)?;
    bounded(of, rows)?;
    match rows.iter().find(|p| offset_in(of, p).is_none()) {
        Some(p) => Err(format!("rows {p} are no run of rows of {}", show(of))),
        None => Ok(()),
    }
}

/// Checks that no row stands in two progressions.
fn distinct(rows: &[Progression]) -> Result<(), String> {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable();
    let mut comparisons = 0usize;
    for (i, a) in sorted.iter().enumerate() {
        for b in sorted[i + 1..].iter().take_while(|b| b.start <= a.last()) {
            comparisons += 1;
            if comparisons > MAX_COMPARISONS {
                return Err(format!("{} interleaved row progressions are too many", rows.len()));
            }
            if meet(a, b) {
                return Err(format!("rows {a} and {b} share a row"));
            }
        }
    }
    Ok(())
}

/// Whether two progressions share a row.
fn meet(a: &Progression, b: &Progression) -> bool {
    // The rows of both are those of one residue class modulo the least common multiple of the steps, by the Chinese
    // remainder theorem: the first of them from the later start on decides.
    let (mut g, mut r) = (a.step as i128, b.step as i128);
    let (mut x, mut y) = (1i128, 0i128);
    while r != 0 {
        let q = g / r;
        (g, r) = (r, g - q * r);
        (x, y) = (y, x - q * y);
    }
    // g = gcd, and x·a.step ≡ g modulo b.step.
    let apart = b.start as i128 - a.start as i128;
    if apart % g != 0 {
        return false;
    }
    let (step, modulus) = (a.step as i128, b.step as i128 / g);
    let first = a.start as i128 + (apart / g * x).rem_euclid(modulus) * step;
    let common = step * modulus;
    let low = a.start.max(b.start) as i128;
    let row = if first >= low { first } else { first + (low - first + common - 1) / common * common };
    row <= a.last().min(b.last()) as i128
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

fn show(rows: &[Progression]) -> String {
    let parts: Vec<String> = rows.iter().map(ToString::to_string).collect();
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn progression() -> impl Strategy<Value = Progression> {
        (0usize..30, 1usize..8, 1usize..7).prop_map(|(start, len, step)| Progression { start, len, step })
    }

    proptest! {
        #[test]
        fn rows_that_meet_are_those_that_share_a_row(a in progression(), b in progression()) {
            let shared = a.rows().any(|i| b.rows().any(|j| i == j));
            prop_assert_eq!(meet(&a, &b), shared);
        }

        #[test]
        fn distinct_rows_are_those_of_a_set(rows in proptest::collection::vec(progression(), 0..5)) {
            let mut all: Vec<usize> = rows.iter().flat_map(|p| p.rows()).collect();
            let n = all.len();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(distinct(&rows).is_ok(), all.len() == n);
        }

        #[test]
        fn an_offset_is_where_the_rows_are(of in proptest::collection::vec(progression(), 0..4), p in progression()) {
            if let Some(at) = offset_in(&of, &p) {
                let held: Vec<usize> = of.iter().flat_map(|o| o.rows()).collect();
                let rows: Vec<usize> = p.rows().collect();
                prop_assert_eq!(&held[at..at + p.len], rows.as_slice());
            }
        }
    }
}
