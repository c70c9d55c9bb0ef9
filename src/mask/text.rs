//! Masks as text.

use super::term::Term;
use super::whole::{Fill, Mask};
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
            Term::Prefix { length, offset: 0 } => write!(f, "prefix({length})"),
            Term::Prefix { length, offset } => write!(f, "prefix({length};{offset})"),
            Term::Keys { start, end } => write!(f, "keys({start},{end})"),
            Term::Batch { entries } => {
                f.write_str("batch(")?;
                for (i, entry) in entries.iter().enumerate() {
                    f.write_str(if i > 0 { "; " } else { "" })?;
                    conjunction(f, entry)?;
                }
                f.write_str(")")
            }
            Term::Tensor { operand } => write!(f, "tensor({operand})"),
        }
    }
}

/// `none`, or the terms joined by ` & `.
fn conjunction(f: &mut fmt::Formatter<'_>, terms: &[Term]) -> fmt::Result {
    if terms.is_empty() {
        return f.write_str("none");
    }
    for (i, t) in terms.iter().enumerate() {
        write!(f, "{}{t}", if i > 0 { " & " } else { "" })?;
    }
    Ok(())
}

/// `none`, or the terms joined by ` & `; a finite fill follows as ` fill add(-10000.0)`.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        conjunction(f, &self.terms)?;
        if self.fill != Fill::NegInf && !self.terms.is_empty() {
            write!(f, " fill {}", self.fill)?;
        }
        Ok(())
    }
}

/// Why a text is no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not a mask: want `none`, or causal(offset), window(left,right,offset), segments(start,...;offset), prefix(length;offset), \
     keys(start,end), batch(terms;...) and tensor(operand) joined by &"
)]
pub struct ParseMaskError(String);

impl std::str::FromStr for Mask {
    type Err = ParseMaskError;

    /// Parses what `Display` prints.
    fn from_str(text: &str) -> Result<Mask, ParseMaskError> {
        let bad = || ParseMaskError(text.escape_debug().to_string());
        let (terms, fill) = match text.split_once(" fill ") {
            None => (text, Fill::NegInf),
            Some((terms, fill)) => {
                let (name, args) = call(fill).ok_or_else(bad)?;
                let [value] = args.as_slice() else { return Err(bad()) };
                let value: f64 = value.parse().map_err(|_| bad())?;
                match name {
                    _ if !value.is_finite() => return Err(bad()),
                    "replace" => (terms, Fill::Replace(value)),
                    "add" => (terms, Fill::Add(value)),
                    _ => return Err(bad()),
                }
            }
        };
        let terms = parts(terms, true).ok_or_else(bad)?;
        Ok(Mask { terms, fill })
    }
}

/// `none`, or terms joined by `&`; a term for each batch entry only if `outer`.
fn parts(text: &str, outer: bool) -> Option<Vec<Term>> {
    if text.trim() == "none" {
        return Some(vec![]);
    }
    split(text, '&').into_iter().map(|t| term(t, outer)).collect()
}

/// Cuts a text where a character stands outside of brackets.
fn split(text: &str, at: char) -> Vec<&str> {
    let mut depth = 0i64;
    text.split(|c| {
        depth += i64::from(c == '(') - i64::from(c == ')');
        c == at && depth == 0
    })
    .collect()
}

/// `name(arg,…)`.
fn call(text: &str) -> Option<(&str, Vec<&str>)> {
    let (name, rest) = text.trim().split_once('(')?;
    Some((name, rest.strip_suffix(')')?.split(',').map(str::trim).collect()))
}

fn term(text: &str, outer: bool) -> Option<Term> {
    let inside = |name: &str| text.trim().strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(inside) = inside("segments") {
        return segments(inside);
    }
    if let Some(inside) = inside("prefix") {
        let (length, offset) = inside.split_once(';').unwrap_or((inside, "0"));
        return Some(Term::Prefix {
            length: length.trim().parse().ok()?,
            offset: offset.trim().parse().ok()?,
        });
    }
    if let Some(inside) = inside("batch").filter(|_| outer) {
        let entries: Vec<_> =
            split(inside, ';').into_iter().map(|e| parts(e, false)).collect::<Option<_>>()?;
        return Some(Term::Batch { entries: entries.into() });
    }
    let bound =
        |s: &str| -> Option<Option<u64>> { if s == "-1" { Some(None) } else { s.parse().ok().map(Some) } };
    let (name, args) = call(text)?;
    Some(match (name, args.as_slice()) {
        ("causal", [o]) => Term::Causal { offset: o.parse().ok()? },
        ("window", [l, r, o]) => Term::Window { left: bound(l)?, right: bound(r)?, offset: o.parse().ok()? },
        ("keys", [a, b]) => Term::Keys {
            start: a.parse().ok()?,
            end: b.parse().ok().filter(|b| a.parse().is_ok_and(|a: usize| a <= *b))?,
        },
        ("tensor", [i]) if outer => Term::Tensor { operand: i.parse().ok()? },
        _ => return None,
    })
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
