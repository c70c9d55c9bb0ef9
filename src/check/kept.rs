//! What a mask may let a query row see, by this room's own reading of the terms.
//!
//! A positional term bounds k − q from below or above, so that all of those together keep one interval of differences; or k
//! alone; or it keeps documents apart, so that a block is cut where they begin and each part asked. A prefix is causal for the
//! keys behind it, so that a block is cut there as well. Each batch entry is asked by itself. `area` counts what is kept.

use super::rows::Run;
use crate::ir::ScoreStep;
use crate::mask::{Fill, Mask, Term};
use std::collections::HashMap;
use std::sync::Arc;

/// The pairs that the positional terms of a mask keep; a tensor may keep any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// What batch entries keep, each kind once.
    pub(super) entries: Vec<Entry>,
    /// How many batch entries are of each kind.
    pub(super) times: Vec<u128>,
}

/// The pairs that are kept in one batch entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) band: Band,
    /// The first and the last key that are kept.
    pub(super) keys: (i128, i128),
    /// Of each prefix how many keys it has, and the most that k − q is behind it.
    pub(super) prefixes: Vec<(i128, i128)>,
    /// Of each term that keeps documents apart, where they begin, and the position of query row 0.
    pub(super) documents: Vec<(Arc<[usize]>, i128)>,
}

impl Entry {
    /// Every pair.
    const ALL: Entry =
        Entry { band: Band::ALL, keys: (i128::MIN / 4, i128::MAX / 4), prefixes: vec![], documents: vec![] };

    fn and(&mut self, term: &Term) {
        match *term {
            Term::Causal { .. } | Term::Window { .. } => self.band.and(term),
            Term::Segments { ref starts, offset } => self.documents.push((starts.clone(), offset.into())),
            Term::Keys { start, end } => {
                self.keys = (self.keys.0.max(start as i128), self.keys.1.min(end as i128 - 1));
            }
            Term::Prefix { length, offset } => self.prefixes.push((length as i128, offset.into())),
            Term::Batch { .. } | Term::Tensor { .. } => {}
        }
    }

    /// A pair of the block that is not kept.
    fn outside(&self, q: &Run, k: &Run) -> Option<(i128, i128)> {
        if let Some(key) =
            [k.first, k.last].into_iter().find(|key| !(self.keys.0..=self.keys.1).contains(key))
        {
            return Some((q.first, key));
        }
        // The last key and the first row are the farthest apart.
        let ahead = |&(length, most): &(i128, i128)| k.last >= length && k.last - q.first > most;
        if self.prefixes.iter().any(ahead) {
            return Some((q.first, k.last));
        }
        let apart = |(starts, offset): &(Arc<[usize]>, i128)| {
            // If these three pairs are together, so are the ends of the rows with the ends of the keys, and all between.
            let corners = [(q.first, k.first), (q.first, k.last), (q.last, k.first)];
            let together = |row: i128, key: i128| begun(starts, row + offset) == begun(starts, key);
            corners.into_iter().find(|&(row, key)| !together(row, key))
        };
        self.documents.iter().find_map(apart).or_else(|| self.band.outside(q, k))
    }

    /// A pair of the block that is kept.
    fn inside(&self, q: &Run, k: &Run, budget: &mut u64) -> Result<Option<(i128, i128)>, TooLong> {
        let Some(k) = clip(k, self.keys.0, self.keys.1) else { return Ok(None) };
        self.behind(&self.prefixes, self.band, q, &k, budget)
    }

    /// The same of keys that are not padding: the keys of the first prefix, then those behind it, which are a band more.
    fn behind(
        &self,
        prefixes: &[(i128, i128)],
        band: Band,
        q: &Run,
        k: &Run,
        budget: &mut u64,
    ) -> Result<Option<(i128, i128)>, TooLong> {
        let Some((&(length, most), others)) = prefixes.split_first() else {
            return within(&self.documents, band, q, k, budget);
        };
        *budget = budget.checked_sub(1).ok_or(TooLong)?;
        if let Some(k) = clip(k, k.first, length - 1)
            && let Some(found) = self.behind(others, band, q, &k, budget)?
        {
            return Ok(Some(found));
        }
        let Some(k) = clip(k, length, k.last) else { return Ok(None) };
        self.behind(
            others,
            Band { most: Some(band.most.map_or(most, |m| m.min(most))), ..band },
            q,
            &k,
            budget,
        )
    }
}

impl Kept {
    fn positions(terms: &[&Term]) -> Kept {
        let batches = || {
            terms.iter().filter_map(|t| if let Term::Batch { entries } = t { Some(entries) } else { None })
        };
        let count = batches().map(|entries| entries.len()).max().unwrap_or(1).max(1);
        let mut entries: Vec<Entry> = vec![];
        let mut times: Vec<u128> = vec![];
        let mut seen: HashMap<Entry, usize> = HashMap::new();
        for b in 0..count {
            let own = batches().filter_map(|entries| entries.get(b)).flatten();
            let mut entry = Entry::ALL;
            terms.iter().copied().chain(own).for_each(|term| entry.and(term));
            match seen.get(&entry) {
                Some(&at) => times[at] += 1,
                None => {
                    seen.insert(entry.clone(), entries.len());
                    entries.push(entry);
                    times.push(1);
                }
            }
        }
        Kept { entries, times }
    }

    /// The pairs that must be computed: all but those that a fill of −∞ leaves out for good. What a finite number masks still has a
    /// share in the sum, and what a softcap or a finite number makes of −∞ has one again.
    pub(super) fn needed(steps: &[ScoreStep]) -> Kept {
        let mut out: Vec<&Term> = vec![];
        for step in steps {
            match step {
                ScoreStep::Fill(Mask { terms, fill: Fill::NegInf }) => out.extend(terms),
                ScoreStep::Fill(Mask { terms, fill: Fill::Replace(_) }) if terms.is_empty() => {}
                ScoreStep::Softcap(_) | ScoreStep::Fill(Mask { fill: Fill::Replace(_), .. }) => out.clear(),
                ScoreStep::Fill(Mask { fill: Fill::Add(_), .. })
                | ScoreStep::Factor(_)
                | ScoreStep::Add(_)
                | ScoreStep::Round(_) => {}
            }
        }
        Kept::positions(&out)
    }

    /// The pairs that certainly no fill masks; `None` if a tensor may mask any.
    pub(super) fn unmasked(steps: &[ScoreStep]) -> Option<Kept> {
        let terms: Vec<&Term> = steps.iter().filter_map(ScoreStep::mask).flat_map(|m| &m.terms).collect();
        let tensor = terms.iter().any(|t| matches!(t, Term::Tensor { .. }));
        (!tensor).then(|| Kept::positions(&terms))
    }

    /// A pair of the block that some batch entry does not keep. `Err` as of [`Kept::inside`].
    pub(super) fn outside(
        &self,
        q: &Run,
        k: &Run,
        budget: &mut u64,
    ) -> Result<Option<(i128, i128)>, TooLong> {
        *budget = budget.checked_sub(self.entries.len() as u64 - 1).ok_or(TooLong)?;
        Ok(self.entries.iter().find_map(|e| e.outside(q, k)))
    }

    /// A pair of the block that some batch entry keeps. `Err` if finding out takes more than `budget` steps, which are paid
    /// from it.
    pub(super) fn inside(&self, q: &Run, k: &Run, budget: &mut u64) -> Result<Option<(i128, i128)>, TooLong> {
        *budget = budget.checked_sub(self.entries.len() as u64 - 1).ok_or(TooLong)?;
        for entry in &self.entries {
            if let Some(found) = entry.inside(q, k, budget)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Cuts the block where the documents of the first term begin, and each part where those of the others do.
fn within(
    documents: &[(Arc<[usize]>, i128)],
    band: Band,
    q: &Run,
    k: &Run,
    budget: &mut u64,
) -> Result<Option<(i128, i128)>, TooLong> {
    let Some(((starts, offset), others)) = documents.split_first() else { return band.inside(q, k, budget) };
    // Positions that both sides reach.
    let mut at = k.first.max(q.first + offset);
    let mut end = k.last.min(q.last + offset);
    // A document that only begins before, or ends after, what both reach is theirs as well.
    let document = |at: i128| {
        let n = begun(starts, at);
        let first = n.checked_sub(1).map_or(i128::MIN / 4, |i| starts[i] as i128);
        (first, starts.get(n).map_or(i128::MAX / 4, |&s| s as i128 - 1))
    };
    (at, end) = if at <= end { (at, end) } else { (end, end) };
    loop {
        *budget = budget.checked_sub(1).ok_or(TooLong)?;
        let (first, last) = document(at);
        if let (Some(q), Some(k)) = (clip(q, first - offset, last - offset), clip(k, first, last))
            && let Some(found) = within(others, band, &q, &k, budget)?
        {
            return Ok(Some(found));
        }
        if last >= end {
            return Ok(None);
        }
        at = last + 1;
    }
}

/// How many of the starts are at or before a position.
pub(super) fn begun(starts: &[usize], position: i128) -> usize {
    starts.partition_point(|&s| s as i128 <= position)
}

/// The members of a run between two numbers, both included.
fn clip(run: &Run, from: i128, to: i128) -> Option<Run> {
    let first = partner(run, from, to)?;
    let last = run.first + (to.min(run.last) - run.first) / run.step * run.step;
    Some(Run { first, last, step: if first == last { 1 } else { run.step } })
}

/// Bounds, both included, on k − q. `None` does not bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Band {
    pub(super) least: Option<i128>,
    pub(super) most: Option<i128>,
}

impl Band {
    /// Every pair.
    const ALL: Band = Band { least: None, most: None };

    /// Leaves what a term keeps that bounds k − q.
    fn and(&mut self, term: &Term) {
        let (least, most) = match *term {
            // k ≤ q + offset.
            Term::Causal { offset } => (None, Some(i128::from(offset))),
            // q + offset − left ≤ k ≤ q + offset + right.
            Term::Window { left, right, offset } => {
                let at = i128::from(offset);
                (left.map(|l| at - i128::from(l)), right.map(|r| at + i128::from(r)))
            }
            _ => (None, None),
        };
        self.least = self.least.max(least);
        self.most = match (self.most, most) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// A pair of the block that is outside the band.
    fn outside(&self, q: &Run, k: &Run) -> Option<(i128, i128)> {
        if self.least.is_some_and(|least| k.first - q.last < least) {
            return Some((q.last, k.first));
        }
        self.most.is_some_and(|most| k.last - q.first > most).then_some((q.first, k.last))
    }

    /// A pair of the block that is in the band. `Err` if finding out takes more than `budget` steps, which are paid from it.
    fn inside(&self, q: &Run, k: &Run, budget: &mut u64) -> Result<Option<(i128, i128)>, TooLong> {
        let (low, high) = (k.first - q.last, k.last - q.first);
        let (least, most) = (self.least.unwrap_or(low), self.most.unwrap_or(high));
        if least > most || high < least || low > most {
            return Ok(None);
        }
        if low >= least {
            return Ok(Some((q.last, k.first)));
        }
        if high <= most {
            return Ok(Some((q.first, k.last)));
        }
        // low < least ≤ most < high. Go through the shorter side, from the first row that can have a partner on.
        if q.count() <= k.count() {
            let near = |row: i128| partner(k, row + least, row + most).map(|key| (row, key));
            walk(q, k.first - most, k.last - least, budget, near)
        } else {
            let near = |key: i128| partner(q, key - most, key - least).map(|row| (row, key));
            walk(k, q.first + least, q.last + most, budget, near)
        }
    }
}

/// The question would take too long to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The first member of `run` from `from` on, if it is not past `to`.
fn partner(run: &Run, from: i128, to: i128) -> Option<i128> {
    let skip = (from - run.first).max(0) + run.step - 1;
    let member = run.first + skip / run.step * run.step;
    (member <= to.min(run.last)).then_some(member)
}

/// Asks the members of `run` between `from` and `to`, in order, until one answers.
fn walk<T>(
    run: &Run,
    from: i128,
    to: i128,
    budget: &mut u64,
    ask: impl Fn(i128) -> Option<T>,
) -> Result<Option<T>, TooLong> {
    let Some(mut member) = partner(run, from, to) else { return Ok(None) };
    while member <= to.min(run.last) {
        *budget = budget.checked_sub(1).ok_or(TooLong)?;
        if let Some(found) = ask(member) {
            return Ok(Some(found));
        }
        member += run.step;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Progression;
    use proptest::prelude::*;

    fn term() -> impl Strategy<Value = Term> {
        prop_oneof![
            (-12i64..12).prop_map(|offset| Term::Causal { offset }),
            (proptest::option::of(0u64..9), proptest::option::of(0u64..9), -9i64..9)
                .prop_map(|(left, right, offset)| Term::Window { left, right, offset }),
            (proptest::collection::btree_set(1usize..60, 0..5), -9i64..9)
                .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset }),
            (0usize..40, -12i64..12).prop_map(|(length, offset)| Term::Prefix { length, offset }),
            (0usize..30, 0usize..30).prop_map(|(start, n)| Term::Keys { start, end: start + n }),
        ]
    }

    fn batch() -> impl Strategy<Value = Term> {
        let entry = || proptest::collection::vec(term(), 0..3);
        (entry(), entry()).prop_map(|(a, b)| Term::Batch { entries: [a, b].into() })
    }

    /// Written from the definition in words, pair by pair.
    fn kept(terms: &[Term], entry: usize, q: i128, k: i128) -> bool {
        terms.iter().all(|t| match *t {
            Term::Causal { offset } => k - q <= offset as i128,
            Term::Window { left, right, offset } => {
                let ahead = k - q - offset as i128;
                right.is_none_or(|r| ahead <= r as i128) && left.is_none_or(|l| -ahead <= l as i128)
            }
            Term::Segments { ref starts, offset } => {
                !starts.iter().any(|&s| (q + offset as i128 >= s as i128) != (k >= s as i128))
            }
            Term::Prefix { length, offset } => k < length as i128 || k <= q + offset as i128,
            Term::Keys { start, end } => k >= start as i128 && k < end as i128,
            Term::Batch { ref entries } => kept(&entries[entry], entry, q, k),
            Term::Tensor { .. } => true,
        })
    }

    fn progression() -> impl Strategy<Value = Progression> {
        (0usize..20, 1usize..12, 1usize..7).prop_map(|(start, len, step)| Progression { start, len, step })
    }

    proptest! {
        #[test]
        fn a_band_is_what_counting_says(
            terms in proptest::collection::vec(term(), 0..4), batch in proptest::option::weighted(0.3, batch()),
            q in progression(), k in progression(),
        ) {
            let mut terms = terms;
            terms.extend(batch);
            let pairs: Vec<(i128, i128)> =
                q.rows().flat_map(|i| k.rows().map(move |j| (i as i128, j as i128))).collect();
            let (q, k) = (Run::of(&q).unwrap(), Run::of(&k).unwrap());
            let some = |i, j| (0..2).any(|b| kept(&terms, b, i, j));
            let all = |i, j| (0..2).all(|b| kept(&terms, b, i, j));
            let steps = [ScoreStep::Fill(Mask { terms: terms.clone(), fill: Fill::NegInf })];
            let band = Kept::needed(&steps);
            let inside = band.inside(&q, &k, &mut 1000).unwrap();
            prop_assert_eq!(inside.is_some(), pairs.iter().any(|&(i, j)| some(i, j)));
            prop_assert!(inside.is_none_or(|(i, j)| pairs.contains(&(i, j)) && some(i, j)));
            let outside = Kept::unmasked(&steps).unwrap().outside(&q, &k, &mut 9).unwrap();
            prop_assert_eq!(outside.is_some(), pairs.iter().any(|&(i, j)| !all(i, j)));
            prop_assert!(outside.is_none_or(|(i, j)| pairs.contains(&(i, j)) && !all(i, j)));
        }

        #[test]
        fn an_area_is_what_counting_says(
            terms in proptest::collection::vec(term(), 0..4), batch in proptest::option::weighted(0.3, batch()),
            first in 0usize..30, rows in 0usize..40, keys in 0usize..50,
        ) {
            let entries = if batch.is_some() { 2 } else { 1 };
            let terms: Vec<Term> = terms.into_iter().chain(batch).collect();
            let end = first + rows;
            let of = |b: usize| {
                let pairs = (first..end).flat_map(|q| (0..keys).map(move |k| (q as i128, k as i128)));
                pairs.filter(|&(q, k)| kept(&terms, b, q, k)).count()
            };
            let want = (0..entries).map(of).sum::<usize>().div_ceil(entries) as u128;
            let infinite = ScoreStep::Fill(Mask { terms: terms.clone(), fill: Fill::NegInf });
            let area = |steps: &[ScoreStep]| Kept::needed(steps).area(first, end, keys, &mut 10_000);
            prop_assert_eq!(area(std::slice::from_ref(&infinite)), Ok(want));
            let all = (rows * keys) as u128;
            let finite = |fill| ScoreStep::Fill(Mask { terms: terms.clone(), fill });
            prop_assert_eq!(area(&[finite(Fill::Add(-1.0))]), Ok(all));
            // What adds to −∞ leaves it; what caps or replaces it makes a number of it.
            prop_assert_eq!(area(&[infinite.clone(), finite(Fill::Add(-1.0))]), Ok(want));
            prop_assert_eq!(area(&[infinite.clone(), ScoreStep::Softcap(3.0)]), Ok(all));
            let undone = if terms.is_empty() { want } else { all };
            prop_assert_eq!(area(&[infinite, finite(Fill::Replace(-1.0))]), Ok(undone));
        }
    }

    #[test]
    fn a_finite_fill_needs_every_pair_and_a_tensor_is_never_full() {
        let (q, k) = (Run { first: 0, last: 0, step: 1 }, Run { first: 5, last: 9, step: 1 });
        let of = |mask: Mask| [ScoreStep::Fill(mask)];
        assert_eq!(Kept::needed(&of(Mask::causal(0))).inside(&q, &k, &mut 0), Ok(None));
        let filled = of(Mask { fill: Fill::Add(-1e4), ..Mask::causal(0) });
        assert!(Kept::needed(&filled).inside(&q, &k, &mut 0).unwrap().is_some());
        assert!(Kept::unmasked(&filled).unwrap().outside(&q, &k, &mut 0).unwrap().is_some());
        let tensor = of(Mask { terms: vec![Term::Tensor { operand: 3 }], fill: Fill::NegInf });
        assert_eq!(Kept::unmasked(&tensor), None);
        assert!(Kept::needed(&tensor).inside(&q, &k, &mut 0).unwrap().is_some());
        // Extreme numbers do not overflow.
        let wide = Term::Window { left: Some(u64::MAX), right: Some(u64::MAX), offset: i64::MIN };
        let mask = Mask { terms: vec![wide, Term::Causal { offset: i64::MAX }], fill: Fill::NegInf };
        let row = Run { first: u64::MAX as i128, last: u64::MAX as i128, step: 1 };
        assert!(Kept::needed(&of(mask)).inside(&q, &row, &mut 9).is_ok());
    }
}
