//! Puts one attention in the place of a region.
//!
//! In: a region and its normal form. Out: the attention operation, with its operands laid out as (batch, heads, rows, size)
//! and its result laid out as PV's was, or the condition that failed. The graph only grows until PV's result is replaced.

use super::algebra::rule::Guard;
use super::hidden::{Around, unseen};
use super::hoist::{hoist, times as times_rows};
use super::magnitude::small_sum;
use super::masks::mean_of_values::{self, EmptyRows, with_mean};
use super::masks::size::keeps_logarithms;
use super::masks::types::MaskPlan;
use super::repeated;
use super::roles::{Roles, roles};
use crate::find::algebra::normal_form::{Factor, LeafOp, LeafRef, Normal, ScoreStep};
use crate::find::algebra::term::V;
use crate::find::axes::factors::{Axes, Dim};
use crate::find::axes::relayout::{emit, emit_trace};
use crate::find::masks::plan::plan;
use crate::find::masks::types::{Condition, Context, Piece};
use crate::find::region::types::{LeafValue, Region, label};
use crate::find::types::{Applied, Numerics};
use crate::ir::infer::attention_sizes;
use crate::ir::{
    Attention, AttentionSizes, Binary, DType, EmptyRow, Graph, InferError, Op, OpId, Tensor, Type, Unary,
    ValueId,
};
use crate::mask::Fill;

/// What an attention came from and where it stands now.
pub(crate) struct Rewritten {
    pub(crate) op: OpId,
    pub(crate) applied: Vec<Applied>,
}

/// Puts the attention into the graph and lets every reader of PV read it.
///
/// # Errors
/// The condition that failed. What was added to the graph by then is read by nothing.
pub(crate) fn rewrite(
    cx: &mut Context<'_>,
    around: &mut Around<'_>,
    region: &Region,
    normal: &Normal,
) -> Result<Rewritten, String> {
    let roles = roles(region);
    let scores = vec![roles.batch.clone(), roles.heads.clone(), roles.rows.clone(), region.keys.clone()];
    let (wide, [mut q, mut k, mut v]) = widened_operands(cx, region, normal, &roles, &scores)?;
    let once = repeated::once(cx, k, v);
    [k, v] = once.unwrap_or([k, v]);
    let sizes = attention_sizes(cx.graph.ty(q), cx.graph.ty(k), cx.graph.ty(v))?;
    let acc = wide.accumulator();
    let mut pieces = normal
        .steps
        .iter()
        .map(|step| piece(cx, region, &scores, step))
        .collect::<Result<Vec<_>, String>>()?;
    let hoisted = hoist(cx, &mut pieces, wide, sizes.kv_heads < sizes.q_heads);
    for &by in &hoisted.on_q {
        q = times_rows(cx, q, by, false)?;
    }
    for &by in &hoisted.on_k {
        k = times_rows(cx, k, by, true)?;
    }
    let plan = plan(cx, sizes, region.narrow.unwrap_or(acc), &pieces)?;
    guarded(cx, region, normal, &plan)?;
    unseen(cx, around, region, normal, sizes, &plan)?;
    let mut applied = normal.applied.clone();
    applied.extend(plan.applied.iter().cloned());
    applied.extend(notes(cx, region, acc));
    applied.extend(shared_heads(sizes));
    for (factors, rule, what) in [(&hoisted.on_q, "factor-on-q", "Q"), (&hoisted.on_k, "factor-on-k", "K")] {
        if !factors.is_empty() {
            let what = format!("a factor that whole rows of {what} share is applied to them");
            applied.push(Applied::new(rule, what, Numerics::Reassociation));
        }
    }
    admitted(cx, &applied)?;
    let sinks = match &normal.sinks {
        None => None,
        Some(Factor::Leaf(l)) => Some(leaf(cx, region, &scores, l)?),
        Some(Factor::Number(x)) => {
            let sink = Tensor::from_f64(acc, [1; 4], &[*x]).ok_or("the sink is not a number")?;
            Some(cx.graph.constant(&format!("{}.sink", cx.graph.value(region.out.0).name.clone()), sink))
        }
    };
    let no_keys = sizes.kv_len == 0;
    let mut inputs = vec![q, k, v];
    inputs.extend(&plan.leaves);
    inputs.extend(sinks);
    let sinks = sinks.map(|_| inputs.len() - 1);
    let mut attention = Attention {
        sinks,
        scores: plan.scores.clone(),
        acc,
        empty_row: if normal.zero_empty || no_keys { EmptyRow::Zero } else { EmptyRow::Nan },
        lse: cx.reads_log,
        dropout: None,
        stats: false,
    };
    let narrow = region.narrow.unwrap_or(acc);
    let empty = mean_of_values::apart(cx, &mut attention, &inputs, narrow, &mut applied);
    let op = put(cx, region, normal, (roles, &scores), (attention, empty), &inputs)?;
    Ok(Rewritten { op, applied })
}

/// Q, K and V laid out as (batch, heads, rows, size) in one type, with the factors that stand on them; and that type.
fn widened_operands(
    cx: &mut Context<'_>,
    region: &Region,
    normal: &Normal,
    roles: &Roles,
    scores: &Axes,
) -> Result<(DType, [ValueId; 3]), String> {
    let [mut q, mut k, mut v] = operands(cx, region, roles)?;
    // One type for all three: the widest, in which nothing is lost.
    let types = [q, k, v].map(|x| cx.graph.ty(x).dtype);
    let mut wide = widest(types);
    for l in &normal.on_v {
        let factor = region.leaves.get(l.leaf.0 - V.0 - 1).map(|l| cx.graph.ty(l.value).dtype);
        wide = factor.filter(|&f| wide.widens_to(f)).unwrap_or(wide);
    }
    for x in [&mut q, &mut k, &mut v] {
        if cx.graph.ty(*x).dtype != wide {
            let name = cx.graph.value(*x).name.clone();
            *x = cx.graph.add1(Op::Cast(wide), &[*x], &name, "").map_err(|e| e.to_string())?;
        }
    }
    for l in &normal.on_v {
        v = weighted(cx, region, roles, scores, v, l)?;
    }
    Ok((wide, [q, k, v]))
}

/// Asks what the rules on the way to the normal form ask of the whole region.
fn guarded(cx: &mut Context<'_>, region: &Region, normal: &Normal, plan: &MaskPlan) -> Result<(), String> {
    if normal.guards.contains(&Guard::ExponentialsInRange) && region.exponentials == Some(DType::F16) {
        return Err("exponentials of f16 overflow for scores above 11, where a softmax does not; subtract each row's maximum before exp, or write the softmax as one operator".into());
    }
    let most = small_sum(region.narrow.unwrap_or(DType::F32));
    let large = plan.scores.masks().any(|m| match m.fill {
        Fill::NegInf => false,
        Fill::Add(f) | Fill::Replace(f) => f.abs() > most,
    });
    if normal.guards.contains(&Guard::KeepsLogarithm)
        && (large || !plan.added().into_iter().all(|b| keeps_logarithms(cx, b)))
    {
        return Err("the logarithm of a sum is added to scores that may be so large that it is lost beside them; mask with −∞, or write the softmax as one operator".into());
    }
    Ok(())
}

/// What was done beside the rules and the masks.
fn notes(cx: &Context<'_>, region: &Region, acc: DType) -> Vec<Applied> {
    let mut applied = vec![];
    let score_type = cx.graph.ty(cx.graph.result(region.nodes[0])).dtype;
    if matches!(score_type, DType::F16 | DType::BF16) {
        applied.push(Applied {
            rule: "wide-accumulation",
            what: format!("scores and sums of {score_type} are kept in {acc}"),
            numerics: Numerics::MorePrecision,
        });
    }
    applied
}

/// That query heads share key heads, where they do.
fn shared_heads(sizes: AttentionSizes) -> Option<Applied> {
    let (hq, hkv) = (sizes.q_heads, sizes.kv_heads);
    let what = format!("{hq} query heads share {hkv} key heads, without copies of them");
    (hkv < hq).then(|| Applied::new("unrepeated-keys", what, Numerics::Exact))
}

/// Refuses what needs a class that is not admitted.
fn admitted(cx: &Context<'_>, applied: &[Applied]) -> Result<(), String> {
    if let Some(a) = applied.iter().find(|a| !cx.admitted.contains(&a.numerics)) {
        return Err(format!(
            "it needs the rule {} of class {}, which is not admitted (--numerics)",
            a.rule,
            a.numerics.name()
        ));
    }
    Ok(())
}

/// Adds the attention, lays its result out as PV's was, and lets every reader of PV read it.
fn put(
    cx: &mut Context<'_>,
    region: &Region,
    normal: &Normal,
    (roles, scores): (Roles, &Axes),
    (attention, empty): (Attention, EmptyRows),
    inputs: &[ValueId],
) -> Result<OpId, String> {
    let (old, out_axes) = &region.out;
    let name = cx.graph.value(*old).name.clone();
    let source = cx.graph.source(old.op).to_owned();
    let op = cx
        .graph
        .add(Op::Attention(Box::new(attention)), inputs, &name, &source)
        .map_err(|e| e.to_string())?;
    let own = vec![roles.batch, roles.heads, roles.rows, region.depth_v.clone()];
    let mut result = match empty {
        EmptyRows::AsStated => cx.graph.result(op),
        EmptyRows::Mean => with_mean(cx, op, &name).map_err(|e| e.to_string())?,
    };
    if normal.zero_nan {
        result = zeros_for_nan(cx, result).map_err(|e| e.to_string())?;
    }
    for f in &normal.on_result {
        result = times(cx, region, scores, result, f)?;
    }
    let mut new = emit(cx.graph, &region.space, result, &own, out_axes, &name)?;
    let ty: Type = cx.graph.ty(*old).clone();
    if ty.dtype != cx.graph.ty(result).dtype {
        new = cx.graph.add1(Op::Cast(ty.dtype), &[new], &name, "").map_err(|e| e.to_string())?;
    }
    if *cx.graph.ty(new) != ty {
        return Err(format!("the attention would give {} where the graph has {ty}", cx.graph.ty(new)));
    }
    cx.graph.replace(*old, new).map_err(|e| e.to_string())?;
    Ok(op)
}

/// A value with zeros in the place of NaN. A row of probabilities is NaN as a whole, and so is its product with a finite V.
fn zeros_for_nan(cx: &mut Context<'_>, x: ValueId) -> Result<ValueId, InferError> {
    let name = format!("{}.guard", cx.graph.value(x).name);
    let zero = Tensor::scalar(cx.graph.ty(x).dtype, 0.0);
    let nan = cx.graph.add1(Op::Unary(Unary::IsNan), &[x], &name, "")?;
    let zero = cx.graph.constant(&name, zero);
    cx.graph.add1(Op::Select, &[nan, zero, x], &name, "")
}

/// A value laid out as (batch, heads, rows, size), times a factor.
fn times(
    cx: &mut Context<'_>,
    region: &Region,
    scores: &Axes,
    x: ValueId,
    factor: &Factor,
) -> Result<ValueId, String> {
    let (name, ty) = (cx.graph.value(x).name.clone(), cx.graph.ty(x).clone());
    let mut by = match factor {
        Factor::Number(1.0) => return Ok(x),
        Factor::Number(n) => cx.graph.constant(&format!("{name}.factor"), Tensor::scalar(ty.dtype, *n)),
        Factor::Leaf(l) => leaf(cx, region, scores, l)?,
    };
    if cx.graph.ty(by).dtype != ty.dtype {
        by = cx.graph.add1(Op::Cast(ty.dtype), &[by], &name, "").map_err(|e| e.to_string())?;
    }
    let y = cx.graph.add1(Op::Binary(Binary::Mul), &[x, by], &name, "").map_err(|e| e.to_string())?;
    if *cx.graph.ty(y) != ty {
        return Err(format!(
            "a factor of type {} does not fit the shape of what it multiplies",
            cx.graph.ty(by)
        ));
    }
    Ok(y)
}

/// V laid out as (batch, heads, keys, size), each key's row times a factor.
fn weighted(
    cx: &mut Context<'_>,
    region: &Region,
    roles: &Roles,
    scores: &Axes,
    v: ValueId,
    by: &LeafRef,
) -> Result<ValueId, String> {
    let name = cx.graph.value(v).name.clone();
    let ty = cx.graph.ty(v).clone();
    if ty.dtype == DType::F16 {
        return Err("a factor of each key would be applied to V, and in f16 their product may overflow; convert V to f32 first".into());
    }
    let mut by = leaf(cx, region, scores, by)?;
    let shape = cx.graph.ty(by).shape.clone();
    let mut full = vec![1; 4 - shape.len()];
    full.extend(&shape);
    if full[1] != 1 && roles.kv_heads.len() < roles.heads.len() {
        return Err("the probabilities have a factor for each key and query head, which cannot be applied to V, for query heads share its heads".into());
    }
    let cast = (cx.graph.ty(by).dtype != ty.dtype).then_some(Op::Cast(ty.dtype));
    for op in [Op::Reshape(full), Op::Permute(vec![0, 1, 3, 2])].into_iter().chain(cast) {
        by = cx.graph.add1(op, &[by], &name, "").map_err(|e| e.to_string())?;
    }
    let y = cx.graph.add1(Op::Binary(Binary::Mul), &[v, by], &name, "").map_err(|e| e.to_string())?;
    if *cx.graph.ty(y) != ty {
        return Err(format!("a factor of type {} does not fit the shape of V", cx.graph.ty(by)));
    }
    Ok(y)
}

fn widest(types: [DType; 3]) -> DType {
    let [a, b, c] = types;
    if a == b && b == c {
        a
    } else if types.contains(&DType::F64) {
        DType::F64
    } else {
        DType::F32
    }
}

/// Q, K and V as (batch, heads, rows, size).
fn operands(cx: &mut Context<'_>, region: &Region, roles: &Roles) -> Result<[ValueId; 3], String> {
    let target = |heads: &[Dim], rows: &[Dim], depth: &[Dim]| -> Axes {
        vec![roles.batch.clone(), heads.to_vec(), rows.to_vec(), depth.to_vec()]
    };
    let wanted = [
        target(&roles.heads, &roles.rows, &region.depth),
        target(&roles.kv_heads, &region.keys, &region.depth),
        target(&roles.kv_heads, &region.keys, &region.depth_v),
    ];
    let mut out = [region.out.0; 3];
    for ((t, axes), (place, what)) in
        region.operands.iter().zip(&wanted).zip(out.iter_mut().zip(["q", "k", "v"]))
    {
        let name = format!("{}.{what}", cx.graph.value(region.out.0).name);
        *place = emit_trace(cx.graph, &region.space, t, axes, &name)?;
    }
    Ok(out)
}

/// A step of the normal form with its leaf as a value that broadcasts to the scores.
fn piece(cx: &mut Context<'_>, region: &Region, scores: &Axes, step: &ScoreStep) -> Result<Piece, String> {
    Ok(match step {
        ScoreStep::Factor(Factor::Number(c)) => Piece::Factor(*c),
        ScoreStep::Factor(Factor::Leaf(l)) => Piece::FactorBy(leaf(cx, region, scores, l)?),
        ScoreStep::Softcap(c) => Piece::Softcap(*c),
        ScoreStep::Round(to, why) => Piece::Round(*to, *why),
        ScoreStep::Bias(l) => Piece::Added(leaf(cx, region, scores, l)?),
        ScoreStep::Floor(f) => Piece::Floor(*f),
        ScoreStep::Keep(l) => kept(truth(cx, region, scores, l)?, Fill::NegInf),
        ScoreStep::Replace(l, f) => kept(truth(cx, region, scores, l)?, Fill::Replace(*f)),
    })
}

fn kept(v: ValueId, fill: Fill) -> Piece {
    Piece::Kept(vec![Condition::True(v)], fill)
}

fn truth(cx: &mut Context<'_>, region: &Region, scores: &Axes, l: &LeafRef) -> Result<ValueId, String> {
    let v = leaf(cx, region, scores, l)?;
    if cx.graph.ty(v).dtype == DType::Bool {
        Ok(v)
    } else {
        Err(format!("{} stands where a mask needs truth values, and is not boolean", cx.graph.value(v).name))
    }
}

fn leaf(cx: &mut Context<'_>, region: &Region, scores: &Axes, l: &LeafRef) -> Result<ValueId, String> {
    let of: &LeafValue = region
        .leaves
        .get(l.leaf.0 - V.0 - 1)
        .ok_or("the normal form names a value that the region does not have")?;
    let mut v = arrange(cx, region, scores, of)?;
    for op in &l.ops {
        let name = cx.graph.value(v).name.clone();
        v = match op {
            LeafOp::Not => cx.graph.add1(Op::Unary(Unary::Not), &[v], &name, ""),
            LeafOp::Neg => cx.graph.add1(Op::Unary(Unary::Neg), &[v], &name, ""),
            LeafOp::Reciprocal => {
                // Its own type may not hold 1 over a small number.
                v = widened(cx, region, v, &name)?;
                cx.graph.add1(Op::Unary(Unary::Reciprocal), &[v], &name, "")
            }
            LeafOp::Only(condition) => {
                let condition = truth(cx, region, scores, condition)?;
                let zero = Tensor::scalar(cx.graph.ty(v).dtype, 0.0);
                let zero = cx.graph.constant(&format!("{name}.zero"), zero);
                cx.graph.add1(Op::Select, &[condition, v, zero], &name, "")
            }
            LeafOp::Times(n) => {
                v = widened(cx, region, v, &name)?;
                let n = Tensor::scalar(cx.graph.ty(v).dtype, *n);
                let n = cx.graph.constant(&format!("{name}.factor"), n);
                cx.graph.add1(Op::Binary(Binary::Mul), &[v, n], &name, "")
            }
            LeafOp::Nonzero => {
                let zero = Tensor::scalar(cx.graph.ty(v).dtype, 0.0);
                let zero = cx.graph.constant(&format!("{name}.zero"), zero);
                let eq = cx.graph.add1(Op::Binary(Binary::Eq), &[v, zero], &name, "");
                eq.and_then(|e| cx.graph.add1(Op::Unary(Unary::Not), &[e], &name, ""))
            }
        }
        .map_err(|e| e.to_string())?;
    }
    Ok(v)
}

/// A value in the type in which the region's sums are, should that be wider: there it was added or multiplied.
fn widened(cx: &mut Context<'_>, region: &Region, v: ValueId, name: &str) -> Result<ValueId, String> {
    let all = region.nodes.map(|id| cx.graph.ty(cx.graph.result(id)).dtype);
    let wide = widest(all).accumulator();
    if cx.graph.ty(v).dtype.widens_to(wide) {
        return cx.graph.add1(Op::Cast(wide), &[v], name, "").map_err(|e| e.to_string());
    }
    Ok(v)
}

/// A leaf laid out as (batch, heads, rows, keys), where an axis that it lacks has extent 1.
fn arrange(cx: &mut Context<'_>, region: &Region, scores: &Axes, of: &LeafValue) -> Result<ValueId, String> {
    let s = &region.space;
    let axes = s.resolve_all(&of.axes);
    let flat = axes.concat();
    let target: Axes = scores
        .iter()
        .map(|role| if role.iter().any(|d| flat.contains(d)) { role.clone() } else { vec![] })
        .collect();
    // As it stands, if its axes are the last of those.
    let short =
        axes.len() <= 4 && target[4 - axes.len()..] == axes && target[..4 - axes.len()].concat().is_empty();
    if short {
        return Ok(of.value);
    }
    let name = cx.graph.value(of.value).name.clone();
    emit(cx.graph, s, of.value, &axes, &target, &name)
}

/// Source names of QKᵀ, softmax and PV.
pub(crate) fn sources(graph: &Graph, region: &Region) -> Vec<String> {
    region.nodes.iter().map(|&id| label(graph, id)).collect()
}
