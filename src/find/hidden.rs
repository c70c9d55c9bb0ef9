//! What a rewriting hides: rows of which the graph makes NaN or infinities, and the attention in their place numbers.
//!
//! In: a region with its normal form and masks, and the graph around it. Out: nothing, if no output of numbers can tell; else the reason,
//! which names what turns NaN into a number.
//!
//! Five things are hidden, for finite inputs: exponentials that over- or underflow because no maximum was subtracted, a row without a
//! key beside a sink, −∞ that is added to +∞, −∞ that is multiplied by 0 or a number below it, and a key that takes no part although its row of K or V is NaN, as an earlier attention
//! leaves it for a row without a key. What the rest of the model computes is taken to be finite; scores, and sums and products of
//! exponentials that are numbers, are taken to be numbers of their types.

use super::masks::infinities::{is_finite, keeps_keys, leaves_out, may_be_above};
use super::masks::size::size;
use super::masks::types::{Context, MaskPlan, name};
use super::observers::{Counts, NotFinite, observer};
use super::opaque::is_attention;
use crate::find::algebra::normal_form::{Factor, LeafOp, LeafRef, Normal, ScoreStep};
use crate::find::algebra::rule::Hidden;
use crate::find::algebra::term::V;
use crate::find::magnitude::SAFE_EXPONENT;
use crate::find::region::anchor::is_anchor;
use crate::find::region::types::{Region, label, passes};
use crate::ir::infer::attention_sizes;
use crate::ir::{AttentionSizes, Binary, DType, EmptyRow, Graph, Op, OpId, Topology, Unary, ValueId};
use std::collections::HashSet;

/// The graph around a region, as it was before anything was found.
pub(crate) struct Around<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) order: &'a Topology,
    /// Softmaxes that are no attention.
    pub(crate) passed: HashSet<OpId>,
    /// Operations behind which no attention has a row of NaN.
    finite: HashSet<OpId>,
}

/// One thing that is hidden.
struct Reason {
    what: NotFinite,
    why: String,
    /// What its author can do about it.
    way_out: &'static str,
}

const NAN: NotFinite = NotFinite { nan: true, infinite: false };
const SUBTRACT: &str = "subtract each row's maximum before exp, or write the softmax as one operator";

impl<'a> Around<'a> {
    /// Of a graph in its order.
    pub(crate) fn new(graph: &'a Graph, order: &'a Topology) -> Around<'a> {
        Around { graph, order, passed: HashSet::new(), finite: HashSet::new() }
    }
}

/// Whether an attention may stand in the place of a region, for all that the graph shows.
///
/// # Errors
/// What is hidden, and the operation behind it that makes a number of it.
pub(crate) fn unseen(
    cx: &mut Context<'_>,
    around: &mut Around<'_>,
    region: &Region,
    normal: &Normal,
    sizes: AttentionSizes,
    plan: &MaskPlan,
) -> Result<(), String> {
    if normal.hidden.contains(&Hidden::Factors) && capped(cx, region, normal) {
        return Err("scores that may be −∞ are multiplied by what may be 0 or below it, and a softcap makes a number of the +∞ that this \
                    may give, where an attention leaves the key out; multiply the scores before they are masked"
            .into());
    }
    let reasons = reasons(cx, region, normal, sizes, plan);
    // Nobody sees a part of what nobody sees the whole of: mostly one look is enough.
    let what = reasons.iter().fold(NotFinite::default(), |all, r| all.or(r.what));
    let looked = !what.none() && seen(around, region, normal, what, Counts::Any).is_none();
    for reason in reasons.iter().filter(|_| !looked) {
        if let Some(op) = seen(around, region, normal, reason.what, Counts::Any) {
            return Err(refusal(around.graph, reason, op));
        }
    }
    // Only if somebody looks: what K and V come of is the whole graph before them.
    if leaves_out(cx, plan)
        && !(looked && what.nan)
        && let Some(op) = seen(around, region, normal, NAN, Counts::Tests)
        && let Some(from) = rows_of_nan(cx, around, region)
    {
        let why = format!(
            "{} may give rows of NaN, as for a row without a key, and K or V is made of them here: an attention leaves such a row out \
             where it is masked, whereas the graph multiplies it by 0, which is NaN",
            label(cx.graph, from)
        );
        let way_out = "replace NaN by zeros in the earlier attention as well";
        return Err(refusal(around.graph, &Reason { what: NAN, why, way_out }, op));
    }
    Ok(())
}

/// Whether a softcap stands behind what may make −∞ of scores and then a factor that may be 0 or below it. A fill of −∞ may have stood
/// before a factor that it stands behind now; an addend that is finite while Q and K are is none.
fn capped(cx: &mut Context<'_>, region: &Region, normal: &Normal) -> bool {
    let cap = normal.steps.iter().rposition(|s| matches!(s, ScoreStep::Softcap(_)));
    let before = &normal.steps[..cap.unwrap_or(0)];
    let turned = before.iter().rposition(|s| match s {
        ScoreStep::Factor(Factor::Number(c)) => *c <= 0.0,
        ScoreStep::Factor(Factor::Leaf(_)) => true,
        _ => false,
    });
    let Some(at) = turned else { return false };
    let mut infinite = |b: &LeafRef| {
        let inverse = b.ops.iter().any(|op| matches!(op, LeafOp::Reciprocal));
        let leaf = region.leaves.get(b.leaf.0 - V.0 - 1);
        inverse || leaf.is_none_or(|l| !is_finite(cx, l.value) && !size(cx, l.value).1)
    };
    before.iter().any(|s| matches!(s, ScoreStep::Keep(_)))
        || before[..at].iter().any(|s| matches!(s, ScoreStep::Bias(b) if infinite(b)))
}

/// What the rewriting hides, whether or not somebody sees it.
fn reasons(
    cx: &mut Context<'_>,
    region: &Region,
    normal: &Normal,
    sizes: AttentionSizes,
    plan: &MaskPlan,
) -> Vec<Reason> {
    let mut all: Vec<Reason> = vec![];
    let mut put = |what: NotFinite, why: String, way_out| all.push(Reason { what, why, way_out });
    let has = |h: Hidden| normal.hidden.contains(&h);
    if has(Hidden::Exponentials) && !bounded(region, normal) {
        let why = "exponentials are taken of scores from which the maximum of their row was not subtracted, so that the quotient by \
                   their sum is NaN where one overflows or all underflow, where an attention has numbers";
        put(NAN, why.into(), SUBTRACT);
    }
    if has(Hidden::Logarithms) && !bounded(region, normal) {
        let why = "the logarithm of a sum of exponentials is subtracted, which is −∞ where all of them underflow, where an attention has \
                   numbers";
        put(NotFinite { nan: true, infinite: true }, why.into(), SUBTRACT);
    }
    // Zeros in the place of NaN are what a sink alone leaves.
    if has(Hidden::EmptyRows) && !normal.zero_nan && !keeps_keys(cx, sizes, plan) {
        let why = "a row may have no key, so that its maximum is −∞ and what is made of it NaN, where an attention whose sink alone is \
                   left gives zeros";
        put(NAN, why.into(), "subtract 0 instead where the maximum is −∞");
    }
    if has(Hidden::RowsOfOthers)
        && !normal.zero_nan
        && !one_mask(cx, region, normal)
        && !keeps_keys(cx, sizes, plan)
    {
        let why = "zeros are chosen by one mask, and another may leave a row without a key, which is NaN, where an attention gives zeros \
                   for every row without a key";
        put(NAN, why.into(), "choose zeros by all masks together");
    }
    if has(Hidden::Factors) {
        let why = "scores that may be −∞ are multiplied by what may be 0 or below it, which makes their row NaN, where an attention leaves \
                   the key out";
        put(NAN, why.into(), "multiply the scores before they are masked");
    }
    if has(Hidden::Infinities)
        && let Some(v) = plan.above
    {
        let why = format!(
            "{} is added to scores and may be +∞ where a mask leaves the key out, but not the maximum that is subtracted, so that the \
             row is NaN, where an attention has numbers",
            name(cx, v)
        );
        put(
            NAN,
            why,
            "subtract the maximum of the masked scores, or bind the inputs that it is made of (--bind)",
        );
    }
    if let Some(v) = plan.meets_infinity {
        let why = format!(
            "{} may be +∞ or NaN where −∞ is added to it, which makes the row NaN, where an attention leaves the key out",
            name(cx, v)
        );
        put(
            NAN,
            why,
            "choose −∞ (Where) instead of adding it, or bind the inputs that it is made of (--bind)",
        );
    }
    all
}

/// Whether no exponential of scores, and of their differences, leaves the numbers of its type: they are capped.
fn bounded(region: &Region, normal: &Normal) -> bool {
    let within = |x: f64| x.abs() <= SAFE_EXPONENT;
    let step = |s: &ScoreStep| match s {
        ScoreStep::Keep(_) | ScoreStep::Round(..) => true,
        ScoreStep::Factor(_) | ScoreStep::Softcap(_) => false,
        ScoreStep::Replace(_, f) | ScoreStep::Floor(f) => within(*f),
        ScoreStep::Bias(_) => false,
    };
    let sink = match normal.sinks {
        None => true,
        Some(Factor::Number(s)) => within(s),
        Some(Factor::Leaf(_)) => false,
    };
    let half = region.exponentials == Some(DType::F16);
    let cap = normal.steps.iter().rposition(|s| matches!(s, ScoreStep::Softcap(c) if within(*c)));
    cap.is_some_and(|at| !half && sink && normal.steps[at + 1..].iter().all(step))
}

/// Whether nothing but one mask makes −∞ of scores.
fn one_mask(cx: &mut Context<'_>, region: &Region, normal: &Normal) -> bool {
    let masks = normal.steps.iter().filter(|s| matches!(s, ScoreStep::Keep(_))).count();
    masks == 1
        && normal.steps.iter().all(|s| {
            let ScoreStep::Bias(b) = s else { return true };
            region.leaves.get(b.leaf.0 - V.0 - 1).is_some_and(|l| is_finite(cx, l.value))
        })
}

/// What makes a number of it: a guard on the probabilities, or something behind the product with V.
fn seen(
    around: &Around<'_>,
    region: &Region,
    normal: &Normal,
    what: NotFinite,
    counts: Counts,
) -> Option<OpId> {
    if normal.zero_nan && what.nan {
        return Some(guard(around.graph, region));
    }
    observer(around.graph, around.order, region.out.0, what, counts)
}

/// The test for NaN of the probabilities.
fn guard(graph: &Graph, region: &Region) -> OpId {
    let mut at = vec![region.nodes[1]];
    let mut next = 0;
    while let Some(&id) = at.get(next) {
        next += 1;
        if let Op::Unary(Unary::IsNan) | Op::Binary(Binary::Eq) = graph.op(id) {
            return id;
        }
        for (user, _) in graph.uses(graph.result(id)) {
            if user != region.nodes[2] && passes(graph.op(user)) && !at.contains(&user) {
                at.push(user);
            }
        }
    }
    region.nodes[1]
}

fn refusal(graph: &Graph, reason: &Reason, op: OpId) -> String {
    let (why, way_out) = (&reason.why, reason.way_out);
    let made = if matches!(graph.op(op), Op::Opaque(_)) { "may make" } else { "makes" };
    let (node, name) = (label(graph, op), graph.op(op).name());
    format!("{why}; {node} ({name}) sees that and {made} a number of it; {way_out}")
}

/// An attention before K or V that may give a row of NaN.
fn rows_of_nan(cx: &mut Context<'_>, around: &mut Around<'_>, region: &Region) -> Option<OpId> {
    let mut stack: Vec<OpId> = region.operands[1..].iter().map(|t| t.base.op).collect();
    let mut seen: HashSet<OpId> = stack.iter().copied().collect();
    let mut order = vec![];
    while let Some(id) = stack.pop() {
        if around.finite.contains(&id) {
            continue;
        }
        let may = match cx.graph.op(id) {
            Op::Attention(_) => may_be_nan(cx, id),
            Op::Opaque(o) => is_attention(o),
            _ => is_anchor(cx.graph, id) && !around.passed.contains(&id),
        };
        if may {
            return Some(id);
        }
        order.push(id);
        if is_guard(cx.graph, id) {
            continue;
        }
        for x in cx.graph.operands(id) {
            if seen.insert(x.op) {
                stack.push(x.op);
            }
        }
    }
    around.finite.extend(order);
    None
}

/// Whether an operation chooses a number where a value is NaN, and the value elsewhere.
fn is_guard(graph: &Graph, id: OpId) -> bool {
    let x = graph.operands(id);
    let nan = |c: ValueId| matches!(graph.op(c.op), Op::Unary(Unary::IsNan)).then(|| graph.operands(c.op)[0]);
    matches!(graph.op(id), Op::Select) && nan(x[0]) == Some(x[2])
}

/// Whether an attention may have a row of NaN: one without a key, or with a score of +∞.
fn may_be_nan(cx: &mut Context<'_>, id: OpId) -> bool {
    let Op::Attention(a) = cx.graph.op(id).clone() else { return false };
    let x = cx.graph.operands(id);
    if a.scores.added().any(|b| may_be_above(cx, x[b])) {
        return true;
    }
    let plan = MaskPlan::of(a.scores.clone(), x[3..].to_vec());
    let sizes = attention_sizes(cx.graph.ty(x[0]), cx.graph.ty(x[1]), cx.graph.ty(x[2]));
    a.empty_row == EmptyRow::Nan && !sizes.is_ok_and(|sizes| keeps_keys(cx, sizes, &plan))
}
