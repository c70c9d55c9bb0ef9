//! The terms that a region is written in, and the facts that egg keeps about them.
//!
//! A term is a tensor whose axes have names, not positions: layout operations have no terms, see
//! [`space`](crate::find::axes::factors). A region's terms are the operations between QKᵀ and PV with the scalars on Q and K; everything
//! else is a leaf.

use crate::find::axes::factors::Axes;
use crate::find::magnitude::{MODERATE_FACTOR, Size};
use egg::{Analysis, DidMerge, EGraph, Id, Language, define_language, merge_option};
use std::fmt;
use std::str::FromStr;

/// A number of the graph, by its bits, so that it can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Number(u64);

impl Number {
    pub(crate) fn new(x: f64) -> Number {
        Number(x.to_bits())
    }

    pub(crate) fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

impl FromStr for Number {
    type Err = std::num::ParseFloatError;

    fn from_str(s: &str) -> Result<Number, Self::Err> {
        s.parse().map(Number::new)
    }
}

/// A value that enters the region: its place in the region's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LeafId(pub(crate) usize);

/// Number of the leaf that stands for Q. Masks and biases come after V.
pub(crate) const Q: LeafId = LeafId(0);
/// Number of the leaf that stands for K.
pub(crate) const K: LeafId = LeafId(1);
/// Number of the leaf that stands for V.
pub(crate) const V: LeafId = LeafId(2);

impl fmt::Display for LeafId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.0)
    }
}

impl FromStr for LeafId {
    type Err = String;

    fn from_str(s: &str) -> Result<LeafId, String> {
        s.strip_prefix('$').and_then(|n| n.parse().ok()).map(LeafId).ok_or_else(|| s.to_owned())
    }
}

/// An operation that no rule knows, by its mnemonic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Unknown(pub(crate) String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op:{}", self.0)
    }
}

impl FromStr for Unknown {
    type Err = String;

    fn from_str(s: &str) -> Result<Unknown, String> {
        s.strip_prefix("op:").map(|n| Unknown(n.to_owned())).ok_or_else(|| s.to_owned())
    }
}

define_language! {
    pub(crate) enum Expr {
        // As written in the graph.
        "qk" = Qk([Id; 2]),
        "pv" = Pv([Id; 2]),
        "softmax" = Softmax([Id; 1]),
        "add" = Add([Id; 2]),
        "sub" = Sub([Id; 2]),
        "mul" = Mul([Id; 2]),
        "div" = Div([Id; 2]),
        "neg" = Neg([Id; 1]),
        "tanh" = Tanh([Id; 1]),
        "exp" = Exp([Id; 1]),
        "pow" = Pow([Id; 2]),
        "max" = Max([Id; 2]),
        "reciprocal" = Reciprocal([Id; 1]),
        "log" = Log([Id; 1]),
        "isnan" = IsNan([Id; 1]),
        "isinf" = IsInf([Id; 1]),
        "eq" = Eq([Id; 2]),
        "not" = Not([Id; 1]),
        "where" = Where([Id; 3]),
        "rmax" = RowMax([Id; 1]),
        "rmin" = RowMin([Id; 1]),
        "rsum" = RowSum([Id; 1]),
        "rmean" = RowMean([Id; 1]),
        // (rmax-or-zero x): the row's maximum, but 0 where that is −∞
        "rmax-or-zero" = RowMaxOrZero([Id; 1]),
        "to-f64" = ToF64([Id; 1]),
        "to-f32" = ToF32([Id; 1]),
        // (narrow x n): x rounded to n digits: 24 in f32, 11 in f16, 8 in bf16
        "narrow" = Narrow([Id; 2]),
        // (row-empty b): whether all of a row of b is −∞
        "row-empty" = RowEmpty([Id; 1]),
        // (join scores b): one more column b beside the keys
        "join" = Join([Id; 2]),
        // (drop x): without the column that a join added
        "drop" = Drop([Id; 1]),
        // Normal form: scale·QKᵀ, then factors, softcaps, biases, masks and roundings in any order.
        // (scores q k scale)
        "scores" = Scores([Id; 3]),
        // (factor scores m): scores times a number or a leaf
        "factor" = Factor([Id; 2]),
        // (round scores n): scores rounded to n digits, as narrow
        "round" = Round([Id; 2]),
        // (cap scores c): c·tanh(scores/c)
        "cap" = Cap([Id; 2]),
        // (bias scores b): scores + b
        "bias" = Bias([Id; 2]),
        // (keep scores c): −∞ where c is false
        "keep" = Keep([Id; 2]),
        // (replace scores c f): the number f where c is false
        "replace" = Replace([Id; 3]),
        // (floor scores f): the number f where the score is below it
        "floor" = Floor([Id; 2]),
        // (sink scores b): in their softmax, and there alone, stands one more score b, without a column of its own
        "sink" = Sink([Id; 2]),
        // (zero-empty scores): softmax, but zeros for a row without a key
        "zero-empty" = ZeroEmpty([Id; 1]),
        // (zero-nan scores): softmax, but zeros instead of NaN
        "zero-nan" = ZeroNan([Id; 1]),
        // (loose scores): softmax, where no sum of exponentials over- or underflows
        "loose" = Loose([Id; 1]),
        // (attention scores v), with zeros for a row without a key, and with zeros instead of NaN
        "attention" = Attention([Id; 2]),
        "attention-zero" = AttentionZero([Id; 2]),
        "attention-zero-nan" = AttentionZeroNan([Id; 2]),
        // (weighted v b): each key's row of V times b, which is the same for all queries
        "weighted" = Weighted([Id; 2]),
        // (times attention b): the result times b, which is the same for all of a row; (times b n): a leaf times a number
        "times" = Times([Id; 2]),
        // (only b c): b where c is true, 0 elsewhere
        "only" = Only([Id; 2]),
        // (nonzero b): whether b is not 0
        "nonzero" = Nonzero([Id; 1]),
        Number(Number),
        Leaf(LeafId),
        Unknown(Unknown, Vec<Id>),
    }
}

impl Expr {
    /// Whether it is an operation of scores in normal form.
    pub(crate) fn is_normal_scores(&self) -> bool {
        matches!(
            self,
            Expr::Scores(_)
                | Expr::Factor(_)
                | Expr::Round(_)
                | Expr::Cap(_)
                | Expr::Bias(_)
                | Expr::Keep(_)
                | Expr::Replace(_)
                | Expr::Floor(_)
        )
    }
}

/// What is known of a leaf before any rule runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LeafFacts {
    /// Its elements and the axes of the scores on which they lie, if it is a constant small enough to compare.
    pub(crate) constant: Option<(Axes, Vec<f64>)>,
    /// Whether it is the same for all keys of a row.
    pub(crate) row: bool,
    /// Whether it is the same for all rows of Q.
    pub(crate) column: bool,
    /// The condition of which it is 1 where that is true, and 0 elsewhere.
    pub(crate) truth: Option<LeafId>,
    /// Whether each of its elements is 0 or 1.
    pub(crate) binary: bool,
    /// How large its elements may be.
    pub(crate) size: Size,
    /// Whether no element is infinite or NaN, as long as scores are not.
    pub(crate) finite: bool,
    /// The leaf m of 0 and 1, and the number f, of which it is (1 − m)·f.
    pub(crate) inverse: Option<(LeafId, f64)>,
    /// The only number but 0 that its elements are, if they are nothing else.
    pub(crate) switch: Option<Number>,
}

/// Sizes of addends and fills: how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sizes {
    /// Of unknown size.
    pub(crate) unknown: u8,
    /// So low that they swallow scores.
    pub(crate) swallowing: u8,
    /// Too large for a half type.
    pub(crate) moderate: u8,
}

impl Sizes {
    fn of(size: Size) -> Sizes {
        let one = |is: Size| u8::from(size == is);
        Sizes {
            unknown: one(Size::Unknown),
            swallowing: one(Size::Swallowing),
            moderate: one(Size::Moderate),
        }
    }

    fn and(self, o: Sizes) -> Sizes {
        Sizes {
            unknown: self.unknown.saturating_add(o.unknown),
            swallowing: self.swallowing.saturating_add(o.swallowing),
            moderate: self.moderate.saturating_add(o.moderate),
        }
    }

    /// Of what is added, times a number.
    fn times(self, c: f64) -> Sizes {
        match c {
            _ if self.large() == 0 && c.abs() <= 1.0 => self,
            _ if self.large() == 0 && c.abs() <= MODERATE_FACTOR => Sizes::of(Size::Moderate),
            _ if self.unknown == 0 && (1.0 / MODERATE_FACTOR..=MODERATE_FACTOR).contains(&c) => self,
            _ => Sizes::of(Size::Unknown),
        }
    }

    /// How many are larger than scores.
    pub(crate) fn large(self) -> u8 {
        self.unknown.saturating_add(self.swallowing)
    }
}

/// Digits of a half type: 11 of f16, 8 of bf16.
pub(crate) type Digits = u8;
/// Those of f16.
pub(crate) const DIGITS_F16: Digits = 11;

/// What is known of a class of equal terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fact {
    /// The number that it is.
    pub(crate) number: Option<Number>,
    /// The leaf that it is.
    pub(crate) leaf: Option<LeafId>,
    /// Whether it depends on QKᵀ.
    pub(crate) score: bool,
    /// Whether it is scores in normal form.
    pub(crate) normal: bool,
    /// Whether it is scores in normal form without a bias or a mask, which are finite.
    pub(crate) plain: bool,
    /// Whether it is scores in normal form that only factors, whatever they are, make infinite or NaN: no mask, bias or overflow.
    pub(crate) bare: bool,
    /// Whether it is scores in normal form with sinks.
    pub(crate) sunk: bool,
    /// Whether it is scores in normal form with one more column.
    pub(crate) joined: bool,
    /// Of scores in normal form how many addends or fills are of each size but the first two; of what is added, its own.
    pub(crate) sizes: Option<Sizes>,
    /// Whether it is scores in normal form, or what is added to them, and as finite as Q and K are.
    pub(crate) finite: bool,
    /// Whether it comes of QKᵀ by factors and a softcap alone.
    pub(crate) plainly: bool,
    /// Whether it is probabilities: between 0 and 1, or NaN.
    pub(crate) probabilities: bool,
    /// Whether it comes of exponentials.
    pub(crate) weights: bool,
    /// Whether it is the same for all keys of a row.
    pub(crate) row: bool,
    /// The half type, by its digits, in which a graph computes it, and so rounds it.
    pub(crate) half: Option<Digits>,
    /// Whether it is scores or probabilities as floating numbers, not truth values: a conversion may be left out.
    pub(crate) real: bool,
}

/// The analysis: facts of classes, from facts of leaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// By number of the leaf.
    pub(crate) leaves: Vec<LeafFacts>,
    /// A sum of at least 1 does not change if so much is added to it.
    pub(crate) swallowed: f64,
    /// Up to here a number rounds away nothing of scores from which it is subtracted.
    pub(crate) small: f64,
    /// Whether something is added to scores in f16, which even moderate numbers leave together.
    pub(crate) f16: bool,
    /// Two numbers or two leaves that rules have made one: then a rule is wrong, and so is whatever is read off the graph.
    pub(crate) conflict: Option<String>,
}

impl Facts {
    /// What is known of the leaf that a class is.
    pub(crate) fn leaf(&self, fact: &Fact) -> Option<&LeafFacts> {
        self.leaves.get(fact.leaf?.0)
    }
}

impl Analysis<Expr> for Facts {
    type Data = Fact;

    fn make(egraph: &mut EGraph<Expr, Facts>, node: &Expr, _id: Id) -> Fact {
        let below = node.children().iter().any(|&c| egraph[c].data.score);
        let root = matches!(node, Expr::Qk(_) | Expr::Scores(_));
        let row = match node {
            Expr::RowMax(_) | Expr::RowMin(_) | Expr::RowSum(_) | Expr::RowMean(_) => true,
            Expr::RowMaxOrZero(_) => true,
            Expr::RowEmpty(_) | Expr::Number(_) => true,
            Expr::Leaf(l) => egraph.analysis.leaves.get(l.0).is_some_and(|f| f.row),
            Expr::Qk(_) | Expr::Scores(_) | Expr::Unknown(..) | Expr::Join(_) => false,
            _ => node.children().iter().all(|&c| egraph[c].data.row),
        };
        let fact = |x: &Id| &egraph[*x].data;
        let leaf = match node {
            Expr::Leaf(l) => egraph.analysis.leaves.get(l.0),
            _ => None,
        };
        let fill = |x: &Id| fact(x).number.map_or(Size::Unknown, |n| Size::of_fill(n.get()));
        let sizes = match node {
            Expr::Scores(_) | Expr::Cap(_) => Some(Sizes::default()),
            // As a scale of the scores is: nothing else stands in them.
            Expr::Factor([x, _]) if fact(x).plain => Some(Sizes::default()),
            Expr::Factor([x, c]) => fact(x).sizes.map(|s| match fact(c).number {
                Some(c) => s.times(c.get()),
                // A leaf may be any number, as Q may.
                None if s == Sizes::default() => s,
                None => Sizes { unknown: s.unknown.saturating_add(1), ..s },
            }),
            Expr::Round([x, _]) => fact(x).sizes,
            Expr::Bias([x, b]) => fact(x).sizes.zip(fact(b).sizes).map(|(x, b)| x.and(b)),
            // One more score takes none of the others away.
            Expr::Join([x, _]) => fact(x).sizes,
            Expr::Keep([x, _]) | Expr::Sink([x, _]) => fact(x).sizes,
            Expr::Replace([x, _, f]) | Expr::Floor([x, f]) => {
                fact(x).sizes.map(|x| x.and(Sizes::of(fill(f))))
            }
            Expr::Leaf(_) => leaf.map(|l| Sizes::of(l.size)),
            Expr::Neg([x]) => fact(x).sizes.map(|s| s.times(-1.0)),
            Expr::Only([x, _]) => fact(x).sizes,
            Expr::Times([x, c]) => fact(x).sizes.zip(fact(c).number).map(|(s, c)| s.times(c.get())),
            _ => None,
        };
        let f16 = egraph.analysis.f16;
        let overflowing = |s: Sizes| if f16 { s.large().saturating_add(s.moderate) } else { s.large() };
        // Two huge addends overflow together, and in f16 a huge one with a score: its least number is −65504.
        let alone = |s: Sizes| if f16 { s.large() == 0 && s.moderate <= 1 } else { s.large() <= 1 };
        let column = |m: &Id| egraph.analysis.leaf(fact(m)).is_some_and(|l| l.column);
        let finite = match node {
            Expr::Scores(_) | Expr::Cap(_) => true,
            Expr::Bias([x, b]) => fact(x).finite && fact(b).finite && sizes.is_some_and(alone),
            Expr::Factor([x, m]) => {
                // A huge number times one above 1 overflows.
                let small = fact(x).sizes.is_some_and(|s| overflowing(s) == 0);
                let number =
                    fact(m).number.is_some_and(|n| n.get().abs() <= 1.0 || (small && n.get().is_finite()));
                // What whole rows or keys are multiplied by is as finite as Q and K are.
                let of_rows = fact(x).plain && (fact(m).row || column(m));
                fact(x).finite && (number || (small && fact(m).finite) || of_rows)
            }
            Expr::Replace([x, _, f]) | Expr::Floor([x, f]) | Expr::Times([x, f]) => {
                fact(x).finite && fact(f).number.is_some_and(|n| n.get().is_finite())
            }
            Expr::Neg([x]) | Expr::Only([x, _]) => fact(x).finite,
            Expr::Leaf(_) => leaf.is_some_and(|l| l.finite),
            _ => false,
        };
        let number = |x: &Id| fact(x).number.is_some();
        let plainly = match node {
            Expr::Qk(_) | Expr::Scores(_) | Expr::Cap(_) => true,
            Expr::Mul([x, c]) | Expr::Div([x, c]) | Expr::Narrow([x, c]) => fact(x).plainly && number(c),
            Expr::Factor([x, c]) | Expr::Round([x, c]) => fact(x).plainly && number(c),
            Expr::Tanh([x]) | Expr::Neg([x]) | Expr::ToF32([x]) | Expr::ToF64([x]) => fact(x).plainly,
            _ => false,
        };
        let weights = match node {
            Expr::Softmax(_) | Expr::Loose(_) | Expr::ZeroEmpty(_) | Expr::ZeroNan(_) => true,
            Expr::Exp(_) | Expr::RowSum(_) => true,
            Expr::Qk(_) | Expr::Scores(_) => false,
            _ => node.children().iter().any(|c| fact(c).weights),
        };
        let real = |ids: &[Id]| ids.iter().any(|&c| egraph[c].data.real);
        Fact {
            number: if let Expr::Number(n) = node { Some(*n) } else { None },
            leaf: if let Expr::Leaf(l) = node { Some(*l) } else { None },
            score: root || below,
            normal: node.is_normal_scores(),
            plain: match node {
                Expr::Scores(_) => true,
                Expr::Cap([x, _]) => fact(x).plain,
                Expr::Factor([x, m]) => {
                    fact(x).plain && (fact(m).number.is_some() || fact(m).row || column(m))
                }
                _ => false,
            },
            bare: match node {
                Expr::Scores(_) => true,
                Expr::Cap([x, _]) => fact(x).bare,
                Expr::Factor([x, c]) => {
                    let small = fact(x).sizes.is_some_and(|s| overflowing(s) == 0);
                    fact(x).bare && (small || fact(c).number.is_some_and(|n| n.get().abs() <= 1.0))
                }
                Expr::Round([x, _]) => fact(x).bare && fact(x).sizes.is_some_and(|s| overflowing(s) == 0),
                Expr::Bias([x, b]) => fact(x).bare && fact(b).finite && sizes.is_some_and(alone),
                Expr::Replace([x, _, f]) => {
                    fact(x).bare && fact(f).number.is_some_and(|n| n.get().is_finite())
                }
                _ => false,
            },
            sunk: matches!(node, Expr::Sink(_)),
            sizes,
            finite,
            plainly,
            probabilities: matches!(
                node,
                Expr::Softmax(_) | Expr::Loose(_) | Expr::ZeroEmpty(_) | Expr::ZeroNan(_)
            ),
            weights,
            row,
            half: None,
            joined: matches!(node, Expr::Join([x, _]) if egraph[*x].data.normal),
            real: match node {
                Expr::Where(x) => real(&x[1..]),
                Expr::IsNan(_)
                | Expr::IsInf(_)
                | Expr::Eq(_)
                | Expr::RowEmpty(_)
                | Expr::Not(_)
                | Expr::Nonzero(_)
                | Expr::Unknown(..) => false,
                _ => root || real(node.children()),
            },
        }
    }

    // Numbers and leaves are never made equal to each other by a right rule.
    fn merge(&mut self, to: &mut Fact, from: Fact) -> DidMerge {
        let flag = |to: &mut bool, from: bool| {
            let old = *to;
            *to |= from;
            DidMerge(*to != old, *to != from)
        };
        let conflict = &mut self.conflict;
        let mut differ = |a: &dyn fmt::Display, b: &dyn fmt::Display, same: bool| {
            if !same && conflict.is_none() {
                *conflict = Some(format!("{a} and {b}"));
            }
            DidMerge(false, !same)
        };
        // Of two ways to write a value the one that says more.
        let sizes = match (to.sizes, from.sizes) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let changed = DidMerge(sizes != to.sizes, sizes != from.sizes);
        to.sizes = sizes;
        // Rounded twice is rounded to the fewer digits.
        let half = to.half.into_iter().chain(from.half).min();
        let changed = changed | DidMerge(half != to.half, half != from.half);
        to.half = half;
        changed
            | merge_option(&mut to.number, from.number, |a, b| differ(a, &b, *a == b))
            | merge_option(&mut to.leaf, from.leaf, |a, b| differ(a, &b, *a == b))
            | flag(&mut to.score, from.score)
            | flag(&mut to.normal, from.normal)
            | flag(&mut to.plain, from.plain)
            | flag(&mut to.bare, from.bare)
            | flag(&mut to.sunk, from.sunk)
            | flag(&mut to.joined, from.joined)
            | flag(&mut to.finite, from.finite)
            | flag(&mut to.plainly, from.plainly)
            | flag(&mut to.probabilities, from.probabilities)
            | flag(&mut to.weights, from.weights)
            | flag(&mut to.row, from.row)
            | flag(&mut to.real, from.real)
    }
}
