//! What behind an attention makes a number of what is none: a test for NaN, a comparison, a clip, an index.
//!
//! In: a value that may be NaN (or infinite) where the attention in its place gives a number. Out: the operation that sees it, if the
//! graph may then have an output of numbers that the rewritten graph has otherwise.
//!
//! What is not finite runs through sums and products as such: NaN + x is NaN. So most graphs that meet a NaN have it in an output, and
//! an attention that gives a number there changes no result that counts. It is different behind an operation that maps NaN to a
//! number, here called an observer: `Where(IsNaN(x), 0, x)` shows 0 where the rewritten graph shows what the attention gave.
//!
//! Invariant: an operation that is not known to keep what is not finite counts as one that does not.

use crate::ir::{Binary, Graph, Op, OpId, Reduction, Topology, Unary, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Most operations between a value that is compared and what is chosen by that.
const BETWEEN: usize = 8;

/// What of a value may be no number where the attention in its place has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NotFinite {
    /// Elements may be NaN.
    pub(crate) nan: bool,
    /// Elements may be infinite.
    pub(crate) infinite: bool,
}

impl NotFinite {
    pub(super) fn none(self) -> bool {
        !self.nan && !self.infinite
    }

    pub(super) fn or(self, o: NotFinite) -> NotFinite {
        NotFinite { nan: self.nan || o.nan, infinite: self.infinite || o.infinite }
    }
}

/// Which operations count as observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Whatever maps what is not finite to a number.
    Any,
    /// Tests and comparisons alone, by which a model says that it expects it: not the index of a largest element, which is any where
    /// one is NaN.
    Tests,
}

/// The first operation behind `v` by which what is not finite in it becomes a number that an output depends on.
///
/// Complexity: linear in the operations behind `v`.
pub(crate) fn observer(
    graph: &Graph,
    order: &Topology,
    v: ValueId,
    what: NotFinite,
    counts: Counts,
) -> Option<OpId> {
    observer_beside(graph, order, v, what, counts, &BTreeSet::new())
}

/// The same, where some operations will not read it any more.
pub(crate) fn observer_beside(
    graph: &Graph,
    order: &Topology,
    v: ValueId,
    what: NotFinite,
    counts: Counts,
    gone: &BTreeSet<OpId>,
) -> Option<OpId> {
    // Nearly all operations have one result.
    let size = order.order().iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let mut first = vec![NotFinite::default(); size.max(v.op.index() + 1)];
    let mut others: HashMap<ValueId, NotFinite> = HashMap::new();
    match v.port {
        0 => first[v.op.index()] = what,
        _ => drop(others.insert(v, what)),
    }
    let from = order.place(v.op).map_or(0, |place| place + 1);
    // What is alive is what an output depends on.
    for &id in order.order().iter().skip(from).filter(|&&id| order.is_live(id) && !gone.contains(&id)) {
        let mut kept = NotFinite::default();
        for (place, x) in graph.operands(id).iter().enumerate() {
            let what = match x.port {
                0 => first.get(x.op.index()).copied().unwrap_or_default(),
                _ => others.get(x).copied().unwrap_or_default(),
            };
            if what.none() {
                continue;
            }
            let (passes, hides) = through(graph, id, place, what);
            kept = kept.or(passes);
            if hides && (counts == Counts::Any || is_test(graph.op(id))) && !bends(graph, order, id, *x) {
                return Some(id);
            }
        }
        if kept.none() {
            continue;
        }
        for result in graph.results(id).into_iter().filter(|&r| graph.ty(r).dtype.is_float()) {
            match result.port {
                0 => first[id.index()] = kept,
                _ => drop(others.insert(result, kept)),
            }
        }
    }
    None
}

/// Whether it asks of its operand whether it is a number, or compares it.
fn is_test(op: &Op) -> bool {
    match op {
        Op::Unary(u) => matches!(u, Unary::IsNan | Unary::IsInf),
        Op::Binary(b) => b.is_comparison(),
        _ => false,
    }
}

/// Whether a comparison of `x` only chooses between two values that are both NaN where `x` is, as a leaky rectifier does.
fn bends(graph: &Graph, order: &Topology, id: OpId, x: ValueId) -> bool {
    let compares = matches!(graph.op(id), Op::Binary(b) if b.is_comparison());
    compares
        && graph.uses(graph.result(id)).into_iter().filter(|(user, _)| order.is_live(*user)).all(
            |(user, place)| {
                let of_x = |arm: ValueId| comes_of(graph, arm, x);
                matches!(graph.op(user), Op::Select)
                    && place == 0
                    && graph.operands(user)[1..].iter().all(|&arm| of_x(arm))
            },
        )
        && !graph.is_output(graph.result(id))
}

/// Whether a value has NaN wherever `x` has, element by element.
fn comes_of(graph: &Graph, v: ValueId, x: ValueId) -> bool {
    let mut at = vec![v];
    let mut seen: HashSet<ValueId> = HashSet::new();
    while let Some(v) = at.pop() {
        if v == x {
            return true;
        }
        let keeps = match graph.op(v.op) {
            Op::Unary(u) => !matches!(u, Unary::IsNan | Unary::IsInf | Unary::Not),
            Op::Binary(b) => {
                matches!(b, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Min | Binary::Max)
            }
            Op::Cast(to) => to.is_float(),
            _ => false,
        };
        if keeps && seen.len() < BETWEEN && seen.insert(v) {
            let whole = |o: &ValueId| graph.ty(*o).shape == graph.ty(v).shape;
            at.extend(graph.operands(v.op).into_iter().filter(whole));
        }
    }
    false
}

/// What of the result of an operation may be no number, of what its operand at `place` holds, and whether it may make a number of it.
fn through(graph: &Graph, id: OpId, place: usize, what: NotFinite) -> (NotFinite, bool) {
    let nothing = NotFinite::default();
    // Infinities of both signs meet, or an infinity meets 0.
    let mixed = NotFinite { nan: what.nan || what.infinite, infinite: what.infinite };
    let nan = NotFinite { nan: what.nan, infinite: false };
    match graph.op(id) {
        // A choice by something else leaves out what it leaves out whatever that is.
        Op::Select => (what, place == 0),
        Op::Reshape(_)
        | Op::Permute(_)
        | Op::Broadcast(_)
        | Op::Slice { .. }
        | Op::Rows { .. }
        | Op::Concat { .. }
        | Op::Pad { .. } => (what, false),
        Op::Gather { .. } | Op::GatherNd { .. } => (what, place == 1),
        Op::ScatterNd { how } => {
            let limits = matches!(how, Some(Binary::Min | Binary::Max));
            (mixed, place == 1 || (limits && what.infinite))
        }
        Op::Cast(to) if to.is_float() => (what, false),
        Op::Unary(u) => match u {
            Unary::Neg | Unary::Abs | Unary::Floor | Unary::Ceil | Unary::Round => (what, false),
            Unary::Log | Unary::Sqrt => (mixed, false),
            Unary::Sin | Unary::Cos => (NotFinite { infinite: false, ..mixed }, false),
            // NaN stays NaN; e^−∞ is 0, and tanh(∞) is 1.
            Unary::Exp => (what, what.infinite),
            Unary::Tanh | Unary::Sigmoid | Unary::Erf | Unary::Sign | Unary::Reciprocal => {
                (nan, what.infinite)
            }
            // An infinity is as little NaN as a number is.
            Unary::IsNan => (nothing, what.nan),
            Unary::IsInf | Unary::Not => (nothing, true),
        },
        Op::Binary(b) => match b {
            Binary::Add | Binary::Sub | Binary::Mul => (mixed, false),
            Binary::Div if place == 0 => (mixed, false),
            // x / ∞ is 0.
            Binary::Div => (nan, what.infinite),
            Binary::Mod => (mixed, place == 1 && what.infinite),
            // Both give NaN where one is NaN.
            Binary::Min | Binary::Max => (what, what.infinite),
            // x⁰ is 1, also of NaN, and so is 1 to any power.
            Binary::Pow => {
                let constant = |n: usize, but: f64| {
                    let data = graph.as_constant(graph.operands(id)[n]).and_then(|c| c.data.as_deref());
                    data.is_some_and(|t| t.to_f64().iter().all(|&x| x.is_finite() && x != but))
                };
                let keeps = if place == 0 { constant(1, 0.0) } else { constant(0, 1.0) };
                (mixed, !keeps || what.infinite)
            }
            Binary::And | Binary::Or | Binary::Xor => (nothing, true),
            Binary::Eq | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => (nothing, true),
        },
        Op::Contract(_) | Op::Conv { .. } | Op::CumSum { .. } => (mixed, false),
        Op::Pool { kind, .. } | Op::Reduce { kind, .. } => match kind {
            Reduction::Sum | Reduction::Mean | Reduction::Prod => (mixed, false),
            Reduction::Max | Reduction::Min => (what, what.infinite),
        },
        // Of NaN all of the row is NaN, also of +∞; −∞ weighs nothing.
        Op::Softmax { .. } => (NotFinite { nan: true, infinite: false }, what.infinite),
        // A row with a score of NaN is NaN. Which keys take no part does not depend on what they hold.
        Op::Attention(_) if place == 2 => (mixed, false),
        Op::Attention(_) => (NotFinite { nan: true, infinite: false }, what.infinite),
        _ => (what, true),
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, NotFinite, observer};
    use crate::ir::{Topology, parse};

    const NAN: NotFinite = NotFinite { nan: true, infinite: false };
    const BOTH: NotFinite = NotFinite { nan: true, infinite: true };

    /// The name of what the observer of `%x` gives.
    fn seen(body: &str, what: NotFinite) -> Option<String> {
        counted(body, what, Counts::Any)
    }

    fn counted(body: &str, what: NotFinite, counts: Counts) -> Option<String> {
        let text = format!(
            "graph \"g\" {{\n  input %in: f32[2,3]\n  const %zero: f32[] = 0.0\n  const %two: f32[] = 2.0\n  \
             %x: f32[2,3] = neg %in\n  {}\n}}",
            body.replace("; ", "\n  ")
        );
        let graph = parse(&text).unwrap();
        let x =
            graph.ops().into_iter().map(|id| graph.result(id)).find(|v| graph.value(*v).name == "x").unwrap();
        let op = observer(&graph, &Topology::new(&graph), x, what, counts)?;
        Some(graph.value(graph.result(op)).name.clone())
    }

    #[test]
    fn what_maps_nan_to_a_number_is_an_observer() {
        for (body, by) in [
            ("%n: bool[2,3] = isnan %x; %y: f32[2,3] = select %n, %zero, %x; output \"y\" = %y", Some("n")),
            ("%n: bool[2,3] = eq %x, %x; %y: f32[2,3] = select %n, %x, %zero; output \"y\" = %y", Some("n")),
            ("%z: f32[2,3] = mul %x, %two; %n: bool[2,3] = isinf %z; output \"y\" = %n", Some("n")),
            ("%n: i64[2,3] = cast %x; output \"y\" = %n", Some("n")),
            ("%a, %b: f32[2,1], i64[2,1] = topk %x {axis=1, k=1, largest}; output \"y\" = %b", Some("a")),
            ("%y: f32[2,3] = opaque %x {op=\"A\", version=1}; output \"y\" = %y", Some("y")),
            ("%y: f32[2,3] = pow %x, %zero; output \"y\" = %y", Some("y")),
            ("%y: f32[2,3] = pow %x, %two; output \"y\" = %y", None),
            ("%y: f32[2,3] = max %x, %zero; output \"y\" = %y", None),
            ("%y: f32[2,3] = softmax %x {axis=1}; output \"y\" = %y", None),
            ("%y: f32[2,3] = tanh %x; output \"y\" = %y", None),
            // By a condition that does not depend on it.
            ("%n: bool[2,3] = isnan %in; %y: f32[2,3] = select %n, %zero, %x; output \"y\" = %y", None),
            // What no output needs.
            ("%n: bool[2,3] = isnan %x; output \"y\" = %x", None),
        ] {
            assert_eq!(seen(body, NAN).as_deref(), by, "{body}");
        }
    }

    #[test]
    fn what_maps_infinities_to_numbers_is_an_observer_of_them() {
        for (body, by) in [
            ("%y: f32[2,3] = max %x, %zero; output \"y\" = %y", Some("y")),
            ("%y: f32[2,3] = tanh %x; output \"y\" = %y", Some("y")),
            ("%y: f32[2,3] = exp %x; output \"y\" = %y", Some("y")),
            ("%y: f32[2,3] = div %two, %x; output \"y\" = %y", Some("y")),
            ("%y: f32[2,3] = div %x, %two; output \"y\" = %y", None),
            ("%y: f32[2,3] = softmax %x {axis=1}; output \"y\" = %y", Some("y")),
            ("%y: f32[2] = reduce %x {sum, axes=[1]}; output \"y\" = %y", None),
            ("%y: f32[2,3] = sin %x; output \"y\" = %y", None),
        ] {
            assert_eq!(seen(body, BOTH).as_deref(), by, "{body}");
        }
        // An infinity is no NaN, and sin makes NaN of it.
        let body = "%z: f32[2,3] = sin %x; %n: bool[2,3] = isnan %z; output \"y\" = %n";
        assert_eq!(seen(body, NotFinite { nan: false, infinite: true }).as_deref(), Some("n"));
        let body = "%n: bool[2,3] = isnan %x; output \"y\" = %n";
        assert_eq!(seen(body, NotFinite { nan: false, infinite: true }), None);
    }

    #[test]
    fn a_comparison_that_chooses_between_nan_and_nan_is_none() {
        let leaky = "%n: bool[2,3] = lt %x, %zero; %l: f32[2,3] = mul %x, %two; %y: f32[2,3] = select %n, %l, %x; output \"y\" = %y";
        assert_eq!(seen(leaky, NAN), None);
        for (from, to) in [
            ("%l: f32[2,3] = mul %x", "%l: f32[2,3] = mul %in"),
            ("= %y", "= %y; output \"n\" = %n"),
            (" %l, %x;", " %zero, %x;"),
        ] {
            assert_eq!(seen(&leaky.replacen(from, to, 1), NAN).as_deref(), Some("n"), "{to}");
        }
    }

    #[test]
    fn an_index_is_no_test() {
        let index = "%a, %b: f32[2,1], i64[2,1] = topk %x {axis=1, k=1, largest}; output \"y\" = %b";
        assert_eq!(counted(index, NAN, Counts::Tests), None);
        let test = "%n: bool[2,3] = isnan %x; output \"y\" = %n";
        assert_eq!(counted(test, NAN, Counts::Tests).as_deref(), Some("n"));
    }
}
