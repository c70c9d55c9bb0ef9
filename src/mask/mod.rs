//! Masks: which query row may see which key row, as an expression over global row numbers.
//!
//! In: nothing but numbers. Out: a [`Mask`], and for a block of query rows and a block of key rows the answer
//! [`Tile::Skip`], [`Tile::Full`] or [`Tile::Partial`].
//!
//! Invariants: `Skip` and `Full` are claims about every batch entry, head and pair of the block, proved by interval
//! arithmetic; what cannot be proved is `Partial`. A leaf that is a tensor gives `Partial`, never `Skip`. A finite fill is
//! not −∞: with one, a masked key still takes part, so that no block is skipped.

use crate::layout::Progression;
use std::fmt;

/// What a masked score becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// −∞: the key takes no part, even if its value is infinite or NaN.
    NegInf,
    /// The score is replaced by this finite number.
    Replace(f64),
    /// This finite number is added to the score, in the type of the scores.
    Add(f64),
}

/// One condition that a key must meet to be kept. `q` and `k` are global row numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// Keep if `k <= q + offset`. The offset may be negative.
    Causal {
        /// How far the last visible key is ahead of the query's own number.
        offset: i64,
    },
    /// Keep if `q + offset - left <= k <= q + offset + right`; a bound that is `None` does not bind.
    Window {
        /// Keys before the query's own position.
        left: Option<u64>,
        /// Keys after the query's own position.
        right: Option<u64>,
        /// Position of query row 0 among the keys.
        offset: i64,
    },
    /// Keep where the boolean operand of the attention with this index (see [`crate::ir::Attention`]) is true.
    /// It broadcasts to (batch, query head, query row, key row).
    Tensor {
        /// Index among the attention's operands.
        operand: usize,
    },
}

/// A mask: a key is kept if every term keeps it. No term: every key is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// The conditions; their order has no meaning but is kept in text.
    pub terms: Vec<Term>,
    /// What a masked score becomes.
    pub fill: Fill,
}

/// What a mask says about a block of query rows × key rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tile {
    /// No pair is kept, and a masked pair takes no part: nothing to compute.
    Skip,
    /// Every pair is kept: nothing to mask.
    Full,
    /// Anything else.
    Partial,
}

impl Tile {
    /// The name in text: `skip`, `full`, `partial`.
    pub fn name(self) -> &'static str {
        match self {
            Tile::Skip => "skip",
            Tile::Full => "full",
            Tile::Partial => "partial",
        }
    }
}

impl Mask {
    /// The mask that keeps every key.
    pub fn none() -> Mask {
        Mask { terms: vec![], fill: Fill::NegInf }
    }

    /// `causal(offset)` with fill −∞.
    pub fn causal(offset: i64) -> Mask {
        Mask { terms: vec![Term::Causal { offset }], fill: Fill::NegInf }
    }

    /// Whether some term bounds the keys from above by the query row: causal, or a window with a right end.
    pub fn is_causal(&self) -> bool {
        self.terms.iter().any(|t| matches!(t, Term::Causal { .. } | Term::Window { right: Some(0), .. }))
    }

    /// Whether the pair of global rows is kept by every term that depends on positions alone; tensor terms count as kept.
    pub fn keeps(&self, q: usize, k: usize) -> bool {
        let (q, k) = (q as i128, k as i128);
        self.terms.iter().all(|t| match *t {
            Term::Causal { offset } => k <= q + i128::from(offset),
            Term::Window { left, right, offset } => {
                let at = q + i128::from(offset);
                left.is_none_or(|l| k >= at - i128::from(l)) && right.is_none_or(|r| k <= at + i128::from(r))
            }
            Term::Tensor { .. } => true,
        })
    }

    /// What the mask says about every pair of `q` and `k`. An empty block is `Skip`.
    ///
    /// Both bounds of a term are linear in q − k, so that the extremes lie at the ends of the progressions.
    pub fn tile(&self, q: &Progression, k: &Progression) -> Tile {
        if q.len == 0 || k.len == 0 {
            return Tile::Skip;
        }
        let (q0, q1) = (q.start as i128, q.last() as i128);
        let (k0, k1) = (k.start as i128, k.last() as i128);
        // The range of k − q over the block.
        let (low, high) = (k0 - q1, k1 - q0);
        let mut tile = Tile::Full;
        for term in &self.terms {
            let (least, most) = match *term {
                Term::Causal { offset } => (None, Some(i128::from(offset))),
                Term::Window { left, right, offset } => {
                    let offset = i128::from(offset);
                    (left.map(|l| offset - i128::from(l)), right.map(|r| offset + i128::from(r)))
                }
                Term::Tensor { .. } => {
                    tile = Tile::Partial;
                    continue;
                }
            };
            let none = least.is_some_and(|b| high < b) || most.is_some_and(|b| low > b);
            if none && self.fill == Fill::NegInf {
                return Tile::Skip;
            }
            let all = least.is_none_or(|b| low >= b) && most.is_none_or(|b| high <= b);
            if !all {
                tile = Tile::Partial;
            }
        }
        tile
    }

    /// Whether every query row in `0..q_len` is proved to keep at least one key in `0..k_len`. Tensor terms prove nothing.
    pub fn no_row_is_empty(&self, q_len: usize, k_len: usize) -> bool {
        // Each term keeps an interval of keys whose ends move with the row by one: the ends of the rows decide.
        let row = |q: usize| {
            let (mut low, mut high) = (0i128, k_len as i128 - 1);
            for term in &self.terms {
                match *term {
                    Term::Causal { offset } => high = high.min(q as i128 + i128::from(offset)),
                    Term::Window { left, right, offset } => {
                        let at = q as i128 + i128::from(offset);
                        low = left.map_or(low, |l| low.max(at - i128::from(l)));
                        high = right.map_or(high, |r| high.min(at + i128::from(r)));
                    }
                    Term::Tensor { .. } => return false,
                }
            }
            low <= high
        };
        // low(q) = max(0, q + a) and high(q) = min(k_len − 1, q + b): low ≤ high is a conjunction of
        // conditions that are monotone in q, so holding at both ends is holding between them.
        q_len == 0 || (row(0) && row(q_len - 1))
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fill::NegInf => f.write_str("-inf"),
            Fill::Replace(x) => write!(f, "replace({x:?})"),
            Fill::Add(x) => write!(f, "add({x:?})"),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |b: &Option<u64>| b.map_or("-1".to_owned(), |b| b.to_string());
        match self {
            Term::Causal { offset } => write!(f, "causal({offset})"),
            Term::Window { left, right, offset } => {
                write!(f, "window({},{},{offset})", bound(left), bound(right))
            }
            Term::Tensor { operand } => write!(f, "tensor({operand})"),
        }
    }
}

/// `none`, or the terms joined by ` & `; a finite fill follows as ` fill add(-10000.0)`.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("none");
        }
        for (i, t) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(" & ")?;
            }
            write!(f, "{t}")?;
        }
        if self.fill != Fill::NegInf {
            write!(f, " fill {}", self.fill)?;
        }
        Ok(())
    }
}

/// Why a text is no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not a mask: want `none`, or causal(offset), window(left,right,offset) and tensor(operand) joined by &"
)]
pub struct ParseMaskError(String);

impl std::str::FromStr for Mask {
    type Err = ParseMaskError;

    /// Parses what `Display` prints.
    fn from_str(text: &str) -> Result<Mask, ParseMaskError> {
        let bad = || ParseMaskError(text.escape_debug().to_string());
        let call = |s: &str| -> Option<(String, Vec<String>)> {
            let (name, rest) = s.trim().split_once('(')?;
            let args = rest.strip_suffix(')')?;
            Some((name.to_owned(), args.split(',').map(|a| a.trim().to_owned()).collect()))
        };
        let (terms, fill) = match text.split_once(" fill ") {
            None => (text, Fill::NegInf),
            Some((terms, fill)) => {
                let (name, args) = call(fill).ok_or_else(bad)?;
                let [value] = args.as_slice() else { return Err(bad()) };
                let value: f64 = value.parse().map_err(|_| bad())?;
                match name.as_str() {
                    _ if !value.is_finite() => return Err(bad()),
                    "replace" => (terms, Fill::Replace(value)),
                    "add" => (terms, Fill::Add(value)),
                    _ => return Err(bad()),
                }
            }
        };
        let mut mask = Mask { terms: vec![], fill };
        if terms.trim() == "none" {
            return Ok(mask);
        }
        for term in terms.split('&') {
            let (name, args) = call(term).ok_or_else(bad)?;
            let bound = |s: &String| -> Result<Option<u64>, ParseMaskError> {
                if s == "-1" { Ok(None) } else { s.parse().map(Some).map_err(|_| bad()) }
            };
            let offset = |s: &String| s.parse::<i64>().map_err(|_| bad());
            mask.terms.push(match (name.as_str(), args.as_slice()) {
                ("causal", [o]) => Term::Causal { offset: offset(o)? },
                ("window", [l, r, o]) => {
                    Term::Window { left: bound(l)?, right: bound(r)?, offset: offset(o)? }
                }
                ("tensor", [i]) => Term::Tensor { operand: i.parse().map_err(|_| bad())? },
                _ => return Err(bad()),
            });
        }
        Ok(mask)
    }
}

#[cfg(test)]
mod tests;
