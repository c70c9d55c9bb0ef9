//! The normal form of a region, read off the cheapest term that the rules reach, or the operation that stands in its way.

use super::rule::{Guard, Hidden};
use super::term::Expr;
use super::term::{Digits, K, LeafId, Q, V};
use super::words::{ONE_SOFTMAX, Place, in_the_way, phrase, value};
use crate::find::types::Applied;
use crate::ir::DType;
use egg::{Id, Language, RecExpr};

/// A leaf as the normal form reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeafRef {
    /// Which leaf.
    pub(crate) leaf: LeafId,
    /// Operations on it, innermost first.
    pub(crate) ops: Vec<LeafOp>,
}

/// An operation on a leaf that a rule asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LeafOp {
    /// Logical negation.
    Not,
    /// Arithmetic negation.
    Neg,
    /// Whether it is not 0.
    Nonzero,
    /// 1 over it.
    Reciprocal,
    /// So many times it.
    Times(f64),
    /// Only where another one is true, elsewhere 0.
    Only(Box<LeafRef>),
}

/// Why scores are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// They are converted, and what the conversion rounds away counts.
    Converted,
    /// They are computed in that type.
    Computed,
}

/// A number, or one for each element that it broadcasts to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Factor {
    /// A number.
    Number(f64),
    /// A leaf.
    Leaf(LeafRef),
}

/// What happens to the scores, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ScoreStep {
    /// They are multiplied.
    Factor(Factor),
    /// c·tanh(s/c).
    Softcap(f64),
    /// They are rounded: because the graph converts them, or only because it computes the step before in a half type.
    Round(DType, Rounding),
    /// Something is added.
    Bias(LeafRef),
    /// −∞ where the condition is false.
    Keep(LeafRef),
    /// A number where the condition is false.
    Replace(LeafRef, f64),
    /// No score is below this number.
    Floor(f64),
}

/// The normal form of a region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Normal {
    /// What happens to q·k; a number by which it is multiplied comes first.
    pub(crate) steps: Vec<ScoreStep>,
    /// One more score of each row, without a value.
    pub(crate) sinks: Option<Factor>,
    /// Whether a row without a key gives zeros.
    pub(crate) zero_empty: bool,
    /// Whether every row whose probabilities are NaN gives zeros, for whatever reason they are.
    pub(crate) zero_nan: bool,
    /// Factors on the rows of V.
    pub(crate) on_v: Vec<LeafRef>,
    /// Factors on the result.
    pub(crate) on_result: Vec<Factor>,
    /// What the rules ask of the region besides.
    pub(crate) guards: Vec<Guard>,
    /// What of the graph is no number where the normal form is one.
    pub(crate) hidden: Vec<Hidden>,
    /// The rules, in the order of the explanation.
    pub(crate) applied: Vec<Applied>,
}

/// Reads a term in normal form.
///
/// # Errors
/// The operation that stands in the way.
pub(super) fn read(best: &RecExpr<Expr>, halves: &[Option<Digits>]) -> Result<Normal, String> {
    let node = |id: &Id| &best[*id];
    let number = |id: &Id| if let Expr::Number(n) = node(id) { Some(n.get()) } else { None };
    let factor = |id: &Id| match number(id) {
        Some(x) => Ok(Factor::Number(x)),
        None => leaf_ref(best, *id).map(Factor::Leaf),
    };
    let mut top = &best[best.root()];
    let mut on_result = vec![];
    while let Expr::Times([a, m]) = top {
        on_result.push(factor(m)?);
        top = node(a);
    }
    let (mut at, v, zero_empty, zero_nan) = match top {
        Expr::Attention([s, v]) => (s, v, false, false),
        Expr::AttentionZero([s, v]) => (s, v, true, false),
        Expr::AttentionZeroNan([s, v]) => (s, v, true, true),
        _ => return Err(obstacle(best)),
    };
    let (mut v, mut on_v) = (v, vec![]);
    while let Expr::Weighted([of, m]) = node(v) {
        on_v.push(leaf_ref(best, *m)?);
        v = of;
    }
    if *node(v) != Expr::Leaf(V) {
        return Err(format!("{} V stands before the product with the probabilities", phrase(best, node(v))));
    }
    let mut n = Normal {
        steps: vec![],
        sinks: None,
        zero_empty,
        zero_nan,
        on_v,
        on_result,
        guards: vec![],
        hidden: vec![],
        applied: vec![],
    };
    if let Expr::Sink([s, b]) = node(at) {
        n.sinks = Some(factor(b)?);
        at = s;
    }
    loop {
        // From the last step back to the first: what is rounded was computed before.
        if let Some(Some(digits)) = halves.get(usize::from(*at)) {
            n.steps.push(ScoreStep::Round(of_digits(*digits), Rounding::Computed));
        }
        match node(at) {
            Expr::Factor([s, m]) => {
                n.steps.push(ScoreStep::Factor(factor(m)?));
                at = s;
            }
            Expr::Round([s, d]) => {
                let digits = number(d).ok_or("scores are rounded to a number of digits that is none")?;
                n.steps.push(ScoreStep::Round(of_digits(digits as Digits), Rounding::Converted));
                at = s;
            }
            Expr::Bias([s, b]) => {
                n.steps.push(ScoreStep::Bias(leaf_ref(best, *b)?));
                at = s;
            }
            Expr::Keep([s, c]) => {
                n.steps.push(ScoreStep::Keep(leaf_ref(best, *c)?));
                at = s;
            }
            Expr::Replace([s, c, f]) => {
                let f = number(f)
                    .ok_or("the number that replaces masked scores is not the same for all of them")?;
                n.steps.push(ScoreStep::Replace(leaf_ref(best, *c)?, f));
                at = s;
            }
            Expr::Floor([s, f]) => {
                n.steps
                    .push(ScoreStep::Floor(number(f).ok_or(
                        "the number that scores do not fall below is not the same for all of them",
                    )?));
                at = s;
            }
            Expr::Cap([s, c]) => {
                n.steps.push(ScoreStep::Softcap(number(c).ok_or("the softcap is not one number")?));
                at = s;
            }
            Expr::Scores([q, k, s]) => {
                let scale = number(s)
                    .filter(|s| s.is_finite())
                    .ok_or("the scale of the scores is not one finite number")?;
                n.steps.push(ScoreStep::Factor(Factor::Number(scale)));
                let bare = [(q, Q, "Q"), (k, K, "K")];
                for (id, leaf, name) in bare {
                    if *node(id) != Expr::Leaf(leaf) {
                        let what = phrase(best, node(id));
                        return Err(format!(
                            "{what} {name} stands before QKᵀ and is not a scale of the scores"
                        ));
                    }
                }
                n.steps.reverse();
                return Ok(n);
            }
            other => return Err(in_the_way(best, other, Place::Scores)),
        }
    }
}

/// The type of so many digits.
fn of_digits(digits: Digits) -> DType {
    match digits {
        8 => DType::BF16,
        11 => DType::F16,
        24 => DType::F32,
        _ => DType::F64,
    }
}

/// The innermost operation that is not of the normal form although what it reads is.
fn obstacle(best: &RecExpr<Expr>) -> String {
    let done =
        |t: &Expr| matches!(t, Expr::Softmax(_) | Expr::Loose(_) | Expr::ZeroEmpty(_) | Expr::ZeroNan(_));
    for node in best.as_ref() {
        let child = |id: &Id| &best[*id];
        match node {
            Expr::Add([a, b]) | Expr::Max([a, b]) if matches!(child(a), Expr::RowSum(_)) => {
                let number = value(best, *b);
                return if matches!(node, Expr::Add(_)) {
                    format!(
                        "{number} is added to the sum of the exponentials, which is not known to be much larger: the probabilities need \
                         not add up to 1; subtract each row's maximum before exp, or write the softmax as one operator"
                    )
                } else {
                    format!(
                        "the sum of the exponentials is raised to at least {number}, which it is not known to reach: the probabilities \
                         need not add up to 1; subtract each row's maximum before exp, or write the softmax as one operator"
                    )
                };
            }
            Expr::Log([a]) if matches!(child(a), Expr::RowSum([e]) if matches!(child(e), Expr::Exp(_))) => {
                return "the logarithm of a sum of exponentials is subtracted, but each row's maximum was not subtracted first: where the \
                        sum overflows, that makes zeros, not a softmax; use LogSoftmax, or subtract the maximum"
                    .into();
            }
            Expr::Mul([a, b]) if matches!((child(a), child(b)), (Expr::Exp(_), Expr::Leaf(_))) => {
                return format!(
                    "the exponentials are multiplied by {}, which is not known to be 0 or 1; mask the scores with −∞, or bind the input \
                     that it comes from (--bind)",
                    child(b)
                );
            }
            _ => {}
        }
    }
    // What a softmax is made of stands in the way only if nothing else does.
    let part = |t: &Expr| {
        matches!(t, Expr::RowMax(_) | Expr::RowMaxOrZero(_) | Expr::Sub(_) | Expr::Exp(_) | Expr::RowSum(_))
    };
    let (parts, others): (Vec<&Expr>, Vec<&Expr>) = best.as_ref().iter().partition(|t| part(t));
    for node in others.into_iter().chain(parts) {
        let over = |f: &dyn Fn(&Expr) -> bool| node.children().iter().any(|c| f(&best[*c]));
        let by_leaf = |x: &Id| match &best[*x] {
            Expr::Leaf(l) => Some(*l),
            _ => None,
        };
        if !node.is_normal_scores() && !done(node) && over(&Expr::is_normal_scores) {
            let plain = over(&|t| matches!(t, Expr::Scores(_) | Expr::Cap(_)));
            return in_the_way(best, node, if plain { Place::Scores } else { Place::Masked });
        }
        match node {
            Expr::Mul([a, b]) if done(&best[*a]) && by_leaf(b).is_some() => {
                let way_out = filled(best, |_| true).unwrap_or_else(|| {
                    "mask the scores instead, or export without dropout if it is one".to_owned()
                });
                return format!(
                    "the probabilities are multiplied by {}, one number for each query and key: they would have to be held whole; {way_out}",
                    best[*b]
                );
            }
            Expr::Where([c, ..]) if over(&done) && by_leaf(c).is_some() => {
                let same = |d: Id| d == *c || matches!(best[d], Expr::Not([d]) if d == *c);
                let way_out = filled(best, same)
                    .unwrap_or_else(|| "choose by the condition that masked the scores".to_owned());
                return format!(
                    "the probabilities are chosen by {}, which is not known to be their mask: they would have to be held whole; {way_out}",
                    best[*c]
                );
            }
            _ => {}
        }
        if !matches!(node, Expr::Pv(_)) && over(&done) {
            return in_the_way(best, node, Place::Probabilities);
        }
    }
    format!("no rule makes one attention of what lies between QKᵀ and the product with V; {ONE_SOFTMAX}")
}

/// What to do about probabilities that are masked although a number stands for the scores that a mask has left out.
fn filled(best: &RecExpr<Expr>, by: impl Fn(Id) -> bool) -> Option<String> {
    let fill = best.as_ref().iter().find_map(|t| match t {
        Expr::Replace([_, c, f]) if by(*c) => Some(value(best, *f)),
        _ => None,
    })?;
    Some(format!(
        "if that is the mask which has made {fill} of scores, masked keys have a share beside scores as low, or beside addends of unknown \
         size: make −∞ of masked scores, or divide by the sum of what is kept"
    ))
}

fn leaf_ref(best: &RecExpr<Expr>, id: Id) -> Result<LeafRef, String> {
    let mut ops = vec![];
    let mut at = id;
    let leaf = loop {
        match &best[at] {
            Expr::Leaf(l) if l.0 > V.0 => break *l,
            Expr::Not([x]) => {
                ops.push(LeafOp::Not);
                at = *x;
            }
            Expr::Neg([x]) => {
                ops.push(LeafOp::Neg);
                at = *x;
            }
            Expr::Nonzero([x]) => {
                ops.push(LeafOp::Nonzero);
                at = *x;
            }
            Expr::Reciprocal([x]) => {
                ops.push(LeafOp::Reciprocal);
                at = *x;
            }
            Expr::Only([x, c]) => {
                ops.push(LeafOp::Only(Box::new(leaf_ref(best, *c)?)));
                at = *x;
            }
            Expr::Times([x, n]) if matches!(best[*n], Expr::Number(_)) => {
                if let Expr::Number(n) = best[*n] {
                    ops.push(LeafOp::Times(n.get()));
                }
                at = *x;
            }
            other => {
                let what = phrase(best, other);
                return Err(format!("{what} a mask or bias is nothing that an attention can do to it"));
            }
        }
    };
    ops.reverse();
    Ok(LeafRef { leaf, ops })
}
