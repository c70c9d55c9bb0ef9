//! Sets of rows as progressions: who owns a run of rows, which rows a list of progressions names twice, which it leaves out.

use crate::layout::Progression;
use std::collections::{BTreeMap, BTreeSet};

/// Rows `first`, `first + step`, … up to `last`, in integers that hold every sum and difference of row numbers and
/// mask offsets. Not empty; `step` ≥ 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: i128,
    pub(super) last: i128,
    pub(super) step: i128,
}

impl Run {
    /// `None` if it has no rows, or no step.
    pub(super) fn of(p: &Progression) -> Option<Run> {
        let (len, step) = (p.len as i128, p.step as i128);
        if len == 0 || step == 0 {
            return None;
        }
        // Below 2^127 only if both are far below it.
        let span = (len - 1).checked_mul(step)?;
        let first = p.start as i128;
        Some(Run { first, last: first.checked_add(span)?, step: if len == 1 { 1 } else { step } })
    }

    pub(super) fn count(&self) -> i128 {
        over(self.last - self.first, self.step) + 1
    }

    /// The progression, as it is shown.
    pub(super) fn name(&self) -> String {
        match (self.first == self.last, self.step) {
            (true, _) => format!("row {}", self.first),
            (_, 1) => format!("rows {}..{}", self.first, self.last + 1),
            (_, step) => format!("rows {}..{} by {step}", self.first, self.last + 1),
        }
    }
}

/// `a / b`. Most steps are 1, and a division in so many bits is slow.
fn over(a: i128, b: i128) -> i128 {
    if b == 1 { a } else { a / b }
}

/// `a % b`, as [`over`].
fn rest(a: i128, b: i128) -> i128 {
    if b == 1 { 0 } else { a % b }
}

/// The progressions of one rank, to be asked where a run of rows lies among them.
pub(super) struct Owned {
    /// The steps that occur.
    steps: BTreeSet<i128>,
    /// By step and residue, in order of rows.
    runs: BTreeMap<(i128, i128), Vec<Place>>,
}

/// First row, last row, and how many rows are before them in the rank's order.
type Place = (i128, i128, usize);

impl Owned {
    pub(super) fn new(rows: &[Progression]) -> Owned {
        let mut owned = Owned { steps: BTreeSet::new(), runs: BTreeMap::new() };
        let mut before = 0usize;
        for p in rows {
            if let Some(run) = Run::of(p) {
                owned.steps.insert(run.step);
                let class = (run.step, rest(run.first, run.step));
                owned.runs.entry(class).or_default().push((run.first, run.last, before));
            }
            before = before.saturating_add(p.len);
        }
        owned.runs.values_mut().for_each(|runs| runs.sort_unstable());
        owned
    }

    /// Where the rank's rows hold the run `p`: the number of rows before it. `None` if it is no run of one progression.
    pub(super) fn local(&self, p: &Progression) -> Option<usize> {
        let run = Run::of(p)?;
        let of_step = |step: i128| {
            let runs = self.runs.get(&(step, rest(run.first, step)))?;
            let (first, last, before) = runs[runs.partition_point(|r| r.0 <= run.first).checked_sub(1)?];
            let inside = usize::try_from(over(run.first - first, step)).ok()?;
            if run.last <= last { before.checked_add(inside) } else { None }
        };
        // A single row has no step of its own.
        if run.first < run.last { of_step(run.step) } else { self.steps.iter().find_map(|&s| of_step(s)) }
    }

    /// The first run of rows among those from `from` up to `to` in the order of the rank, whose rows are `own`.
    pub(super) fn rows(&self, own: &[Progression], from: usize, to: usize) -> Progression {
        let mut before = 0usize;
        for p in own {
            if from < before + p.len {
                let (first, end) = (from - before, (to - before).min(p.len));
                return Progression { start: p.start + first * p.step, len: end - first, step: p.step };
            }
            before += p.len;
        }
        Progression::range(0, 0)
    }
}

/// What a list of progressions does with the rows `0..length`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sweep {
    /// Two progressions, by index, and a row that is in both: the first such pair.
    pub(super) overlap: Option<(usize, usize, i128)>,
    /// Rows in none of them.
    pub(super) gaps: Vec<Run>,
}

/// Steps whose least common multiple is larger are taken row by row.
const MOST_CLASSES: i128 = 1 << 16;
/// More rows are not taken one by one.
const MOST_ROWS: i128 = 1 << 22;

/// Goes once through the rows `0..length`. The progressions must not be empty and must end before `length`.
/// `None` if their steps make that too much work.
///
/// With m the least common multiple of all steps, every progression is a few intervals in the residue classes modulo m:
/// with steps of 1 all this is one class, and the cost does not depend on the number of rows.
pub(super) fn sweep(pieces: &[Progression], length: usize) -> Option<Sweep> {
    let runs: Vec<Run> = pieces.iter().map(Run::of).collect::<Option<_>>()?;
    let length = length as i128;
    let mut modulus = 1i128;
    for run in &runs {
        if modulus <= MOST_CLASSES && rest(modulus, run.step) != 0 {
            modulus = modulus / gcd(modulus, run.step) * run.step;
        }
    }
    let classes = |m: i128| runs.iter().map(|r| over(m, r.step).min(r.count())).sum::<i128>();
    let one_by_one = modulus > MOST_CLASSES || classes(modulus) > MOST_ROWS;
    if one_by_one {
        modulus = 1;
    }
    // Residue, first and last number in the class, index of the progression.
    let mut parts: Vec<(i128, i128, i128, usize)> = Vec::with_capacity(runs.len());
    if one_by_one && runs.iter().map(Run::count).sum::<i128>() > MOST_ROWS {
        return None;
    }
    for (index, run) in runs.iter().enumerate() {
        let in_class = if one_by_one { run.count() } else { over(modulus, run.step) };
        for j in 0..in_class.min(run.count()) {
            let first = run.first + j * run.step;
            let count = over(run.count() - j + in_class - 1, in_class);
            let number = over(first, modulus);
            parts.push((rest(first, modulus), number, number + count - 1, index));
        }
    }
    parts.sort_unstable();
    let mut sweep = Sweep { overlap: None, gaps: Vec::new() };
    let mut next = 0;
    for class in 0..modulus.min(length) {
        // How many numbers of this class are rows, and from which on they are not seen yet.
        let count = over(length - 1 - class, modulus) + 1;
        let mut gap = |from: i128, to: i128| {
            if from < to {
                let (first, last) = (class + modulus * from, class + modulus * (to - 1));
                sweep.gaps.push(Run { first, last, step: if first == last { 1 } else { modulus } });
            }
        };
        let (mut seen, mut by) = (0, 0);
        while let Some(&(c, from, to, index)) = parts.get(next).filter(|p| p.0 == class) {
            if from < seen && sweep.overlap.is_none() {
                sweep.overlap = Some((by, index, c + modulus * from));
            }
            gap(seen, from);
            if to >= seen {
                (seen, by) = (to + 1, index);
            }
            next += 1;
        }
        gap(seen, count);
    }
    Some(sweep)
}

fn gcd(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces() -> impl Strategy<Value = Vec<Progression>> {
        let piece = (0usize..30, 1usize..8, prop_oneof![Just(1usize), 1usize..6, Just(1000usize)]);
        let fits = |p: &Progression| p.start + (p.len - 1) * p.step < 60;
        proptest::collection::vec(piece, 0..6).prop_map(move |v| {
            v.into_iter()
                .map(|(start, len, step)| Progression { start, len, step })
                .map(|p| if fits(&p) { p } else { Progression { len: 1, ..p } })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn a_sweep_is_what_counting_says(pieces in pieces(), length in 60usize..70) {
            let mut times = vec![0; length];
            for row in pieces.iter().flat_map(Progression::rows) {
                times[row] += 1;
            }
            let sweep = sweep(&pieces, length).unwrap();
            let mut gaps: Vec<i128> = Vec::new();
            for g in &sweep.gaps {
                gaps.extend((0..g.count()).map(|i| g.first + i * g.step));
            }
            gaps.sort_unstable();
            let want: Vec<i128> = (0..length).filter(|&r| times[r] == 0).map(|r| r as i128).collect();
            prop_assert_eq!(gaps, want);
            prop_assert_eq!(sweep.overlap.is_some(), times.iter().any(|&t| t > 1));
            if let Some((a, b, row)) = sweep.overlap {
                let holds = |i: usize| pieces[i].rows().any(|r| r as i128 == row);
                prop_assert!(a != b && holds(a) && holds(b));
            }
        }

        #[test]
        fn a_run_is_found_where_it_lies(
            step in 1usize..5, len in 1usize..9, more in 0usize..9, from in 0usize..9, run in 1usize..9,
        ) {
            // The rows of one step, then adjacent ones far behind.
            let rows = [Progression { start: 3, len, step }, Progression::range(100, more)];
            let all: Vec<usize> = rows.iter().flat_map(Progression::rows).collect();
            let p = Progression { start: 3 + from * step, len: run, step };
            let inside = from + run <= len;
            prop_assert_eq!(Owned::new(&rows).local(&p), inside.then_some(from));
            if inside {
                prop_assert_eq!(&all[from..from + run], &p.rows().collect::<Vec<_>>()[..]);
            }
        }
    }

    #[test]
    fn huge_progressions_cost_nothing() {
        let n = usize::MAX;
        let half = n / 2;
        let both = [Progression::range(0, half), Progression::range(half, n - half)];
        assert_eq!(sweep(&both, n), Some(Sweep { overlap: None, gaps: vec![] }));
        let odd = Progression { start: 1, len: half, step: 2 };
        assert_eq!(sweep(&[odd], n).unwrap().gaps.len(), 1);
        assert_eq!(Run::of(&Progression { start: n, len: n, step: n }), None);
        let strange = [Progression { start: 0, len: half / 65_537, step: 65_537 }];
        assert_eq!(sweep(&strange, n), None);
    }
}
