//! Lists of rows: whether they may be, and where one stands in another.

use crate::ir::types::MAX_DATA;
use crate::layout::Progression;

/// Most comparisons of one row progression with another that are made for one operation; beyond, it is refused.
pub(super) const MAX_COMPARISONS: usize = 1 << 24;

/// Where the rows of `p`, which is not empty, begin within rows stored in the order of `of`: `p` must be a run within one of its progressions.
pub(super) fn offset_in(of: &[Progression], p: &Progression) -> Option<usize> {
    let mut before = 0;
    for o in of {
        let same_step = p.step == o.step || p.len <= 1 || o.len <= 1;
        if p.start >= o.start
            && p.last() <= o.last()
            && same_step
            && (p.start - o.start).is_multiple_of(o.step)
        {
            return Some(before + (p.start - o.start) / o.step);
        }
        before += o.len;
    }
    None
}

/// The rows of `a`, then those progressions of `b` that are not among them.
pub(crate) fn union(a: &[Progression], b: &[Progression]) -> Vec<Progression> {
    let mut out = a.to_vec();
    out.extend(b.iter().filter(|p| offset_in(a, p).is_none()));
    out
}

pub(super) fn within(rows: &[Progression], length: usize) -> Result<(), String> {
    counted(rows)?;
    match rows.iter().find(|p| p.last() >= length) {
        Some(p) => Err(format!("rows {p} are not among {length}")),
        None => Ok(()),
    }
}

/// How many rows, of progressions that are not empty and end below 2^40.
pub(super) fn counted(rows: &[Progression]) -> Result<usize, String> {
    let mut n = 0usize;
    for p in rows {
        let last = p.len.checked_sub(1).and_then(|n| n.checked_mul(p.step)?.checked_add(p.start));
        if p.step == 0 || p.step > MAX_DATA || last.is_none_or(|last| last >= MAX_DATA) {
            return Err(format!("rows {p} are empty, or end beyond 2^40"));
        }
        n = n.saturating_add(p.len);
    }
    if n <= MAX_DATA { Ok(n) } else { Err("more than 2^40 rows".into()) }
}

/// Refuses lists whose comparison would take too long.
pub(super) fn bounded(a: &[Progression], b: &[Progression]) -> Result<(), String> {
    let fits = a.len().saturating_mul(b.len()) <= MAX_COMPARISONS;
    if fits { Ok(()) } else { Err(format!("{} × {} row progressions are too many", a.len(), b.len())) }
}

/// Checks that each of `rows` is one of `of`, or a run of rows within one.
pub(super) fn among(of: &[Progression], rows: &[Progression]) -> Result<(), String> {
    counted(rows)?;
    bounded(of, rows)?;
    match rows.iter().find(|p| offset_in(of, p).is_none()) {
        Some(p) => Err(format!("rows {p} are no run of rows of {}", show(of))),
        None => Ok(()),
    }
}

/// Checks that no row stands in two progressions.
pub(super) fn distinct(rows: &[Progression]) -> Result<(), String> {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable();
    let mut comparisons = 0usize;
    for (i, a) in sorted.iter().enumerate() {
        for b in sorted[i + 1..].iter().take_while(|b| b.start <= a.last()) {
            comparisons += 1;
            if comparisons > MAX_COMPARISONS {
                return Err(format!("{} interleaved row progressions are too many", rows.len()));
            }
            if meet(a, b) {
                return Err(format!("rows {a} and {b} share a row"));
            }
        }
    }
    Ok(())
}

/// Whether two progressions share a row.
pub(super) fn meet(a: &Progression, b: &Progression) -> bool {
    // The rows of both are those of one residue class modulo the least common multiple of the steps, by the Chinese
    // remainder theorem: the first of them from the later start on decides.
    let (mut g, mut r) = (a.step as i128, b.step as i128);
    let (mut x, mut y) = (1i128, 0i128);
    while r != 0 {
        let q = g / r;
        (g, r) = (r, g - q * r);
        (x, y) = (y, x - q * y);
    }
    // g = gcd, and x·a.step ≡ g modulo b.step.
    let apart = b.start as i128 - a.start as i128;
    if apart % g != 0 {
        return false;
    }
    let (step, modulus) = (a.step as i128, b.step as i128 / g);
    let first = a.start as i128 + (apart / g * x).rem_euclid(modulus) * step;
    let common = step * modulus;
    let low = a.start.max(b.start) as i128;
    let row = if first >= low { first } else { first + (low - first + common - 1) / common * common };
    row <= a.last().min(b.last()) as i128
}

pub(super) fn show(rows: &[Progression]) -> String {
    let parts: Vec<String> = rows.iter().map(ToString::to_string).collect();
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn progression() -> impl Strategy<Value = Progression> {
        (0usize..30, 1usize..8, 1usize..7).prop_map(|(start, len, step)| Progression { start, len, step })
    }

    proptest! {
        #[test]
        fn rows_that_meet_are_those_that_share_a_row(a in progression(), b in progression()) {
            let shared = a.rows().any(|i| b.rows().any(|j| i == j));
            prop_assert_eq!(meet(&a, &b), shared);
        }

        #[test]
        fn distinct_rows_are_those_of_a_set(rows in proptest::collection::vec(progression(), 0..5)) {
            let mut all: Vec<usize> = rows.iter().flat_map(|p| p.rows()).collect();
            let n = all.len();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(distinct(&rows).is_ok(), all.len() == n);
        }

        #[test]
        fn an_offset_is_where_the_rows_are(of in proptest::collection::vec(progression(), 0..4), p in progression()) {
            if let Some(at) = offset_in(&of, &p) {
                let held: Vec<usize> = of.iter().flat_map(|o| o.rows()).collect();
                let rows: Vec<usize> = p.rows().collect();
                prop_assert_eq!(&held[at..at + p.len], rows.as_slice());
            }
        }
    }
}
