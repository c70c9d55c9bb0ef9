//! Einsum: any number of operands, folded from the left into contractions of two.
//!
//! A diagonal is every (n+1)th element of two axes joined; an axis that only one operand has and nobody asks for is summed
//! first; an axis of extent 1 that broadcasts is dropped.

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Contract, Op, Reduction, ValueId, WayOut};

/// Letters of the operands and of the result; an ellipsis has got letters of its own.
struct Equation {
    terms: Vec<Vec<char>>,
    out: Vec<char>,
}

fn parse(text: &str, ranks: &[usize]) -> Result<Equation, Refusal> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((l, r)) => (l, Some(r)),
        None => (text.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return malformed(format!("equation {text:?} for {} operands", ranks.len()));
    }
    let letters = ('a'..='z').chain('A'..='Z');
    let free: Vec<char> = letters.filter(|&l| !text.contains(l)).collect();
    // Axes that the longest ellipsis stands for; a shorter one stands for the last of them.
    let named = |term: &str| term.chars().filter(char::is_ascii_alphabetic).count();
    let dots = |(term, &rank): (&&str, &usize)| {
        if term.contains("...") { rank.saturating_sub(named(term)) } else { 0 }
    };
    let most = terms.iter().zip(ranks).map(dots).max().unwrap_or(0);
    if most > free.len() {
        return unsupported(format!("its equation {text:?} has too many axes"), WayOut::FewerAxes);
    }
    let spell = |term: &str, rank: Option<usize>| -> Result<Vec<char>, Refusal> {
        let expanded = match term.split_once("...") {
            None => term.to_owned(),
            Some((before, after)) => {
                let own = rank.map_or(most, |r| r.saturating_sub(named(term)));
                format!("{before}{}{after}", free[most - own..most].iter().collect::<String>())
            }
        };
        let fits = expanded.chars().all(|c| c.is_ascii_alphabetic())
            && rank.is_none_or(|r| r == expanded.chars().count());
        if !fits {
            return malformed(format!("{term:?} of equation {text:?} does not fit its operand"));
        }
        Ok(expanded.chars().collect())
    };
    let terms = terms.iter().zip(ranks).map(|(t, &r)| spell(t, Some(r))).collect::<Result<Vec<_>, _>>()?;
    let all = |l: char| terms.iter().flatten().filter(|&&m| m == l).count();
    let out = match right {
        Some(right) => spell(right, None)?,
        None => {
            let mut once: Vec<char> = terms.concat().into_iter().filter(|&l| all(l) == 1).collect();
            once.retain(|l| !free[..most].contains(l));
            once.sort_unstable();
            free[..most].iter().copied().chain(once).collect()
        }
    };
    let bad = |l: &char| all(*l) == 0 || out.iter().filter(|m| *m == l).count() > 1;
    match out.iter().find(|l| bad(l)) {
        Some(l) => malformed(format!("axis {l} of the result of {text:?} is in no operand, or stands twice")),
        None => Ok(Equation { terms, out }),
    }
}

/// Einsum.
pub(super) fn einsum(cx: &mut Cx<'_>) -> LoweredNode {
    let equation = cx.string("equation", "")?;
    let operands = cx.args()?;
    let ranks: Vec<usize> = operands.iter().map(|&v| cx.ty(v).rank()).collect();
    let Equation { mut terms, out } = parse(&equation, &ranks)?;
    // What an axis is where it does not broadcast.
    let mut extents: Vec<(char, usize)> = vec![];
    for (term, &v) in terms.iter().zip(&operands) {
        for (&l, d) in term.iter().zip(cx.shape(v)) {
            match extents.iter_mut().find(|(m, _)| *m == l) {
                None => extents.push((l, d)),
                Some((_, e)) if *e == 1 => *e = d,
                Some((_, e)) if *e != d && d != 1 => return malformed(format!("axis {l} is {e} and {d}")),
                Some(_) => {}
            }
        }
    }
    let extent = |l: char| extents.iter().find(|(m, _)| *m == l).map_or(1, |(_, e)| *e);
    let mut acc: Option<(ValueId, Vec<char>)> = None;
    for i in 0..operands.len() {
        let what = format!("operand{i}");
        let mut x = diagonal(cx, &what, operands[i], &mut terms[i])?;
        let shape = cx.shape(x);
        let kept = |pair: &(&char, &usize)| *pair.1 == extent(*pair.0);
        let (letters, kept): (Vec<char>, Vec<usize>) = terms[i].iter().zip(&shape).filter(kept).unzip();
        x = cx.reshape(&format!("{what}.own"), x, &kept)?;
        let wanted = |l: char| out.contains(&l) || terms[i + 1..].iter().any(|t| t.contains(&l));
        let Some((a, a_letters)) = acc.take() else {
            acc = Some((x, letters));
            continue;
        };
        let (a, a_letters) =
            summed(cx, &format!("{what}.left"), a, a_letters, |l| wanted(l) || letters.contains(&l))?;
        let (x, letters) =
            summed(cx, &format!("{what}.right"), x, letters, |l| wanted(l) || a_letters.contains(&l))?;
        let last = i + 1 == operands.len();
        let made: Vec<char> = if last {
            out.clone()
        } else {
            let new = letters.iter().filter(|l| !a_letters.contains(l));
            a_letters.iter().chain(new).copied().filter(|&l| wanted(l)).collect()
        };
        let spell = |letters: &[char]| letters.iter().collect::<String>();
        let op = Op::Contract(Contract { lhs: spell(&a_letters), rhs: spell(&letters), out: spell(&made) });
        if last {
            return one(cx.out(op, &[a, x])?);
        }
        acc = Some((cx.sub(&format!("product{i}"), op, &[a, x])?, made));
    }
    let Some((x, letters)) = acc else { return malformed("no operand") };
    let (x, letters) = summed(cx, "sum", x, letters, |l| out.contains(&l))?;
    let perm: Vec<usize> = out.iter().filter_map(|l| letters.iter().position(|m| m == l)).collect();
    one(cx.permute("axes", x, &perm)?)
}

/// The operand where axes of one letter are one axis.
fn diagonal(cx: &mut Cx<'_>, what: &str, mut x: ValueId, term: &mut Vec<char>) -> Result<ValueId, Refusal> {
    let twice = |term: &[char]| {
        (0..term.len()).find_map(|j| term[..j].iter().position(|&l| l == term[j]).map(|i| (i, j)))
    };
    while let Some((i, j)) = twice(term) {
        let shape = cx.shape(x);
        let n = shape[i];
        if shape[j] != n {
            return malformed(format!("axis {} is {n} and {} in one operand", term[i], shape[j]));
        }
        let rest: Vec<usize> = (0..shape.len()).filter(|&a| a != i && a != j).collect();
        let perm: Vec<usize> = [i, j].into_iter().chain(rest.iter().copied()).collect();
        x = cx.permute(&format!("{what}.front"), x, &perm)?;
        let mut joined: Vec<usize> = vec![n * n];
        joined.extend(rest.iter().map(|&a| shape[a]));
        x = cx.reshape(&format!("{what}.joined"), x, &joined)?;
        let Ok(step) = i64::try_from(n + 1) else { return malformed("an axis is too long") };
        if n > 1 {
            x = cx.sub(&format!("{what}.diagonal"), Op::Slice { axis: 0, start: 0, len: n, step }, &[x])?;
        }
        *term = std::iter::once(term[i]).chain(rest.iter().map(|&a| term[a])).collect();
    }
    Ok(x)
}

/// The operand summed over the axes that are not kept.
fn summed(
    cx: &mut Cx<'_>,
    what: &str,
    x: ValueId,
    letters: Vec<char>,
    keep: impl Fn(char) -> bool,
) -> Result<(ValueId, Vec<char>), Refusal> {
    let axes: Vec<usize> = (0..letters.len()).filter(|&i| !keep(letters[i])).collect();
    if axes.is_empty() {
        return Ok((x, letters));
    }
    let x = cx.sub(what, Op::Reduce { kind: Reduction::Sum, axes, keep: false }, &[x])?;
    Ok((x, letters.into_iter().filter(|&l| keep(l)).collect()))
}
