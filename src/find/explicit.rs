//! Attention that is one operator already: keys un-repeated, masks named.

use crate::find::algebra::normal_form::Rounding;
use crate::find::axes::factors::{Dim, Space};
use crate::find::axes::relayout::emit_trace;
use crate::find::axes::trace::{Trace, trace};
use crate::find::masks::mean_of_values::{EmptyRows, apart, with_mean};
use crate::find::masks::plan::plan;
use crate::find::masks::types::{Condition, Context, Piece};
use crate::find::repeated::once;
use crate::find::rewrite::Rewritten;
use crate::find::types::{Applied, Numerics};
use crate::ir::infer::attention_sizes;
use crate::ir::{Attention, Dropout, Factor, Op, OpId, ScoreStep, ValueId};
use crate::mask::Term;

/// Brings an attention operator into normal form, and lets its readers read that.
///
/// # Errors
/// The condition that failed; the operator then stays as it is.
pub(crate) fn normalise(cx: &mut Context<'_>, id: OpId) -> Result<Rewritten, String> {
    let Op::Attention(a) = cx.graph.op(id).clone() else { return Err("it is not an attention".into()) };
    let x = cx.graph.operands(id);
    cx.scores = x[..2].to_vec();
    let (mut k, mut v, mut applied) = unrepeat(cx, &x)?;
    if let Some(once) = once(cx, k, v) {
        [k, v] = once;
        let what = "keys and values have each head once, without the copies that stood beside it".into();
        applied.push(Applied::new("unrepeated-keys", what, Numerics::Exact));
    }
    let sizes = attention_sizes(cx.graph.ty(x[0]), cx.graph.ty(k), cx.graph.ty(v))?;
    let pieces = pieces(&a, &x);
    let plan = plan(cx, sizes, a.acc, &pieces)?;
    applied.extend(plan.applied);
    if let Some(a) = applied.iter().find(|a| !cx.admitted.contains(&a.numerics)) {
        return Err(format!(
            "it needs the rule {} of class {}, which is not admitted (--numerics)",
            a.rule,
            a.numerics.name()
        ));
    }
    let mut operands = vec![x[0], k, v];
    operands.extend(plan.leaves);
    let dropout = a.dropout.map(|dropout| {
        operands.push(x[dropout.seed]);
        Dropout { seed: operands.len() - 1, ..dropout }
    });
    let sinks = a.sinks.map(|sinks| {
        operands.push(x[sinks]);
        operands.len() - 1
    });
    let mut new = Attention { scores: plan.scores, dropout, sinks, ..(*a).clone() };
    let empty = apart(cx, &mut new, &operands, a.acc, &mut applied);
    if new == *a && operands == x {
        return Ok(Rewritten { op: id, applied });
    }
    let name = cx.graph.value(cx.graph.result(id)).name.clone();
    let source = cx.graph.source(id).to_owned();
    let op =
        cx.graph.add(Op::Attention(Box::new(new)), &operands, &name, &source).map_err(|e| e.to_string())?;
    let mut results = cx.graph.results(op);
    if empty == EmptyRows::Mean {
        results = vec![with_mean(cx, op, &name).map_err(|e| e.to_string())?];
    }
    for (old, new) in cx.graph.results(id).into_iter().zip(results) {
        cx.graph.replace(old, new).map_err(|e| e.to_string())?;
    }
    Ok(Rewritten { op, applied })
}

/// The operator's steps, in the order in which they act.
fn pieces(a: &Attention, x: &[ValueId]) -> Vec<Piece> {
    let condition = |t: &Term| match t {
        Term::Tensor { operand } => Condition::True(x[*operand]),
        other => Condition::Positions(other.clone()),
    };
    let piece = |s: &ScoreStep| match s {
        ScoreStep::Factor(Factor::Number(c)) => Piece::Factor(*c),
        ScoreStep::Factor(Factor::Leaf(n)) => Piece::FactorBy(x[*n]),
        ScoreStep::Softcap(c) => Piece::Softcap(*c),
        ScoreStep::Add(n) => Piece::Added(x[*n]),
        ScoreStep::Fill(m) => Piece::Kept(m.terms.iter().map(condition).collect(), m.fill),
        ScoreStep::Round(to) => Piece::Round(*to, Rounding::Converted),
    };
    a.scores.steps().iter().map(piece).collect()
}

/// K and V without the repetition of heads that only reshapes and broadcasts spell.
fn unrepeat(cx: &mut Context<'_>, x: &[ValueId]) -> Result<(ValueId, ValueId, Vec<Applied>), String> {
    let mut space = Space::default();
    let mut traces: Vec<Trace> = vec![];
    for &v in &x[1..3] {
        traces.push(trace(cx.graph, cx.constants, &mut space, v, false));
    }
    let heads = traces[0].axes[1].clone();
    if !space.unify(&heads, &traces[1].axes[1].clone()) {
        return Ok((x[1], x[2], vec![]));
    }
    let heads = space.resolve(&heads);
    let has = |t: &Trace, d: &Dim| space.resolve_all(&t.base_axes).iter().any(|a| a.contains(d));
    let own: Vec<Dim> = heads.iter().copied().filter(|d| traces.iter().any(|t| has(t, d))).collect();
    if own.len() == heads.len() || !heads.starts_with(&own) {
        return Ok((x[1], x[2], vec![]));
    }
    let mut out = vec![];
    for (t, what) in traces.iter().zip(["k", "v"]) {
        let mut target = space.resolve_all(&t.axes);
        target[1].clone_from(&own);
        let name = format!("{}.{what}", cx.graph.value(x[0]).name);
        out.push(emit_trace(cx.graph, &space, t, &target, &name)?);
    }
    let what = format!(
        "{} key heads are copies of {}, and only those are read",
        space.product(&heads),
        space.product(&own)
    );
    let applied = Applied { rule: "unrepeated-keys", what, numerics: Numerics::Exact };
    Ok((out[0], out[1], vec![applied]))
}
