//! Masks as text.

use super::{Fill, Mask, Term};
use std::fmt;

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
            Term::Segments { starts, offset } => {
                f.write_str("segments(")?;
                for (i, start) in starts.iter().enumerate() {
                    write!(f, "{}{start}", if i > 0 { "," } else { "" })?;
                }
                if *offset != 0 {
                    write!(f, ";{offset}")?;
                }
                f.write_str(")")
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
    "{0} is not a mask: want `none`, or causal(offset), window(left,right,offset), segments(start,...;offset) and tensor(operand) joined by &"
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
            if let Some(inside) = term.trim().strip_prefix("segments(").and_then(|t| t.strip_suffix(')')) {
                mask.terms.push(segments(inside).ok_or_else(bad)?);
                continue;
            }
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

/// What stands inside `segments(…)`: the starts, then the offset behind a semicolon if it is not 0.
fn segments(inside: &str) -> Option<Term> {
    let (starts, offset) = inside.split_once(';').unwrap_or((inside, "0"));
    let starts: Vec<usize> = match starts.trim() {
        "" => vec![],
        some => some.split(',').map(|s| s.trim().parse().ok()).collect::<Option<_>>()?,
    };
    let ascending = starts.first() != Some(&0) && starts.windows(2).all(|w| w[0] < w[1]);
    let offset = offset.trim().parse().ok()?;
    ascending.then(|| Term::Segments { starts: starts.into(), offset })
}
