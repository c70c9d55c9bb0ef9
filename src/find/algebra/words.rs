//! The terms in the words of ONNX and PyTorch: what stands in the way of a match, and the way out.

use super::term::Expr;
use crate::find::decimal::decimal;
use egg::{Id, RecExpr};

/// What to do about a softmax that is spelled in parts.
pub(super) const ONE_SOFTMAX: &str =
    "write the softmax as one operator, or the attention as opset 23's Attention";

/// What an operation in the way acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Scores before any bias or mask.
    Scores,
    /// Scores with biases or masks.
    Masked,
    /// What the softmax gives.
    Probabilities,
}

/// One operation in words that end where what it acts on follows.
pub(super) fn phrase(term: &RecExpr<Expr>, node: &Expr) -> String {
    match node {
        Expr::Qk(_) => "a product with K of",
        Expr::Pv(_) => "a product with V of",
        Expr::Softmax(_) | Expr::Loose(_) => "a softmax of",
        Expr::ZeroEmpty(_) => "a softmax with zeros for rows without a key of",
        Expr::ZeroNan(_) => "a softmax with zeros instead of NaN of",
        Expr::Add(_) => "a sum with",
        Expr::Sub(_) => "a difference with",
        Expr::Mul(_) => "a product with",
        Expr::Div(_) => "a quotient with",
        Expr::Neg(_) => "the negation of",
        Expr::Tanh(_) => "the tanh of",
        Expr::Exp(_) => "the exponential of",
        Expr::Pow(_) => "a power with",
        Expr::Max(_) => "an elementwise maximum with",
        Expr::Reciprocal(_) => "the reciprocal of",
        Expr::Log(_) => "the logarithm of",
        Expr::IsNan(_) => "a test for NaN (IsNaN) of",
        Expr::IsInf(_) => "a test for infinities (IsInf) of",
        Expr::Eq(_) => "a comparison (Equal) with",
        Expr::Not(_) => "a logical negation (Not) of",
        Expr::Where(_) => "a choice (Where) from",
        Expr::RowMax(_) => "the maximum of each row of",
        Expr::RowMin(_) => "the minimum of each row of",
        Expr::RowSum(_) => "the sum of each row of",
        Expr::RowMean(_) => "the mean of each row of",
        Expr::RowMaxOrZero(_) => "the maximum of each row, or 0 where that is −∞, of",
        Expr::ToF64(_) => "a conversion to f64 of",
        Expr::ToF32(_) => "a conversion to f32 of",
        Expr::Narrow([_, digits]) => match term[*digits] {
            Expr::Number(n) if n.get() == 8.0 => "a rounding to bf16 of",
            Expr::Number(n) if n.get() == 11.0 => "a rounding to f16 of",
            Expr::Number(n) if n.get() == 24.0 => "a rounding to f32 of",
            _ => "a rounding of",
        },
        Expr::RowEmpty(_) => "a test for rows that are −∞ throughout of",
        Expr::Join(_) => "a column joined (Concat) to",
        Expr::Drop(_) => "a column cut off (Slice) from",
        Expr::Scores(_) => "a scaled product with K of",
        Expr::Factor(_) => "a factor on",
        Expr::Round(_) => "a rounding of",
        Expr::Cap(_) => "a softcap of",
        Expr::Bias(_) => "a bias on",
        Expr::Keep(_) => "a mask on",
        Expr::Replace(_) => "a mask with a finite number on",
        Expr::Floor(_) => "a lower bound on",
        Expr::Sink(_) => "a sink beside",
        Expr::Attention(_) | Expr::AttentionZero(_) | Expr::AttentionZeroNan(_) => "an attention with",
        Expr::Weighted(_) => "a factor for each key on",
        Expr::Times(_) => "a factor on",
        Expr::Only(_) => "a choice of zeros beside",
        Expr::Nonzero(_) => "a comparison with 0 of",
        Expr::Number(_) => "a number beside",
        Expr::Leaf(_) => "a value beside",
        Expr::Unknown(op, _) => return format!("the operation {op} on", op = op.0),
    }
    .into()
}

/// A number or a leaf by itself.
pub(super) fn value(term: &RecExpr<Expr>, id: Id) -> String {
    match &term[id] {
        Expr::Number(n) => decimal(n.get()),
        Expr::Leaf(leaf) => leaf.to_string(),
        _ => "a value that comes of the scores".into(),
    }
}

/// The sentence about an operation on scores or probabilities that no rule takes away.
pub(super) fn in_the_way(term: &RecExpr<Expr>, node: &Expr, place: Place) -> String {
    let on = match place {
        Place::Scores => "the scores",
        Place::Masked => "the masked scores",
        Place::Probabilities => "the probabilities",
    };
    let what = format!("{} {on}", phrase(term, node));
    let out = way_out(node, place).map(|out| format!("; {out}")).unwrap_or_default();
    match node {
        _ if place == Place::Probabilities => {
            format!(
                "{what} stands between the softmax and the product with V, where it is not known to be a guard or a factor of each row{out}"
            )
        }
        Expr::Join(_) => format!("{what} is not known to be a sink{out}"),
        _ if of_softmax(node) => format!("{what} is not used as a softmax uses it{out}"),
        _ => format!(
            "{what} stands before the softmax, where an attention has only factors, softcaps, biases, masks and roundings{out}"
        ),
    }
}

/// Whether a softmax that is written out has such a part.
fn of_softmax(node: &Expr) -> bool {
    matches!(
        node,
        Expr::RowMax(_)
            | Expr::RowMaxOrZero(_)
            | Expr::RowMin(_)
            | Expr::RowSum(_)
            | Expr::RowMean(_)
            | Expr::Sub(_)
            | Expr::Exp(_)
    )
}

/// What the author of the model can do, where there is something.
fn way_out(node: &Expr, place: Place) -> Option<&'static str> {
    match (place, node) {
        (Place::Probabilities, Expr::Add(_) | Expr::Sub(_)) => {
            Some("multiply each softmax with V and combine the results")
        }
        (Place::Probabilities, Expr::Where(_)) => {
            Some("choose zeros by the condition that masked the scores")
        }
        (Place::Probabilities, Expr::IsNan(_) | Expr::IsInf(_)) => Some(ONE_SOFTMAX),
        (Place::Probabilities, _) => None,
        (_, Expr::Join(_)) => {
            Some("join it after all masks, directly before the softmax, and cut it off directly after")
        }
        (_, node) if of_softmax(node) => Some(ONE_SOFTMAX),
        (_, Expr::Max(_)) => Some("mask with −∞ where the bound stands for a mask"),
        _ => None,
    }
}
