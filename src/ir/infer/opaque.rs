//! Operators that annulus does not compute: their results have the types that they state; what else they state must fit together.

use crate::ir::op::{Attribute, Opaque, RowAxes};
use crate::ir::types::Type;
use std::collections::HashSet;

pub(super) fn opaque(o: &Opaque, x: &[&Type]) -> Result<Vec<Type>, String> {
    if o.name.is_empty() {
        return Err("names no operator".into());
    }
    if o.results.is_empty() {
        return Err("has no result".into());
    }
    distinct("attribute", o.attributes.iter().map(|(name, _)| name.as_str()))?;
    distinct("captured value", o.captured.iter().map(String::as_str))?;
    for (name, value) in &o.attributes {
        if let Attribute::Encoded(kind, messages) = value
            && !kind.is_list()
            && messages.len() != 1
        {
            return Err(format!("attribute {name:?} has {} messages, not one", messages.len()));
        }
    }
    let own = o.imports.iter().any(|(domain, _)| *domain == o.domain);
    if own || !o.imports.is_sorted_by(|a, b| a.0 < b.0) {
        return Err("imports name other domains than its own, each once, in the order of their names".into());
    }
    let Some(given) = x.len().checked_sub(o.captured.len()) else {
        return Err(format!("captures {} values, more than its {} operands", o.captured.len(), x.len()));
    };
    places("operands that are left out", &o.left_out, given)?;
    places("results that nobody wants", &o.unwanted, o.results.len())?;
    if let Some(rows) = &o.rowwise {
        rowwise(rows, x, &o.results)?;
    }
    Ok(o.results.clone())
}

/// Names that are there, each once.
fn distinct<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() {
            return Err(format!("has a {what} without a name"));
        }
        if !seen.insert(name) {
            return Err(format!("has two {what}s named {name:?}"));
        }
    }
    Ok(())
}

/// Places that are empty beside `there` that are not: ascending, and the last place is not empty.
fn places(what: &str, empty: &[usize], there: usize) -> Result<(), String> {
    let fits = empty.last().is_none_or(|&last| last.saturating_add(1) < there.saturating_add(empty.len()));
    match empty.is_sorted_by(|a, b| a < b) && fits {
        true => Ok(()),
        false => Err(format!("the places of {what} are ascending, and lie before the last that is there")),
    }
}

/// Whether the promise can be meant: the axes are there, and as long as each other.
pub(crate) fn rowwise(rows: &RowAxes, x: &[&Type], results: &[Type]) -> Result<(), String> {
    if rows.operands.len() > x.len() {
        return Err(format!("rows of {} operands are named, and there are {}", rows.operands.len(), x.len()));
    }
    let extent = |what: &str, i: usize, t: &Type, axis: usize| match t.shape.get(axis) {
        Some(&n) => Ok(n),
        None => Err(format!("{what} {i} is {t}, which has no axis {axis} to carry rows")),
    };
    let mut length: Option<(usize, String)> = None;
    let operands = rows.operands.iter().enumerate();
    let named = operands.filter_map(|(i, axis)| axis.map(|axis| ("operand", i, x[i], axis)));
    let all = named.chain(results.iter().enumerate().map(|(i, t)| ("result", i, t, rows.result)));
    let mut of_operands = 0;
    for (what, i, t, axis) in all {
        let n = extent(what, i, t, axis)?;
        of_operands += usize::from(what == "operand");
        match &length {
            Some((other, first)) if *other != n => {
                return Err(format!("{what} {i} has {n} rows along axis {axis}, and {first} has {other}"));
            }
            Some(_) => {}
            None => length = Some((n, format!("{what} {i}"))),
        }
    }
    if of_operands == 0 {
        return Err("no operand carries rows".into());
    }
    Ok(())
}
