//! What positions say of a mask whose rows each keep a range of keys: a band, documents, a prefix, padding, for all batch
//! entries or for each its own.

use super::band::Band;
use super::documents::Documents;
use crate::mask::Term;

/// For each query row the range of keys that it keeps, its end excluded; `None` for none.
pub(crate) type Rows = Vec<Option<(usize, usize)>>;

/// A band, and terms that are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recognised {
    pub(crate) band: Band,
    pub(crate) more: Vec<Term>,
}

impl Recognised {
    /// What one term says.
    pub(crate) fn by(term: &Term) -> Recognised {
        match Band::of(term) {
            Some(band) => Recognised { band, more: vec![] },
            None => Recognised { band: Band::default(), more: vec![term.clone()] },
        }
    }

    /// Both at once.
    pub(crate) fn and(&mut self, other: &Recognised) {
        self.band = self.band.and(other.band);
        let new: Vec<Term> = other.more.iter().filter(|t| !self.more.contains(t)).cloned().collect();
        self.more.extend(new);
    }

    /// As terms of a mask over `q_len` × `kv_len`, the keys that are none as one.
    pub(crate) fn terms(&self, q_len: usize, kv_len: usize) -> Vec<Term> {
        let mut terms = self.band.terms(q_len, kv_len);
        for term in &self.more {
            let keys = terms.iter_mut().find_map(|t| match t {
                Term::Keys { start, end } => Some((start, end)),
                _ => None,
            });
            match (keys, term) {
                (Some((start, end)), Term::Keys { start: a, end: b }) => {
                    *start = *a.max(start);
                    *end = *b.min(end).max(start);
                }
                _ => terms.push(term.clone()),
            }
        }
        terms
    }

    /// What is all that the rows of each batch entry keep of `keys` keys; one entry if all are the same.
    pub(crate) fn fit(entries: &[Rows], keys: usize) -> Option<Recognised> {
        let (first, others) = entries.split_first()?;
        if first.len() == 1 {
            return Some(Recognised::of_single_rows(entries, keys));
        }
        if others.iter().all(|rows| rows == first) {
            return Recognised::of_one(first, keys);
        }
        // Most often they differ in what is padding alone.
        let all = union(entries);
        let band = Recognised::of_one(&all, keys)
            .map_or_else(|| Band::fit(&all, keys).0, |recognised| recognised.band);
        let padded: Option<Vec<Vec<Term>>> = entries.iter().map(|rows| padding(rows, band, keys)).collect();
        if let Some(entries) = padded {
            return Some(Recognised { band, more: vec![Term::Batch { entries: entries.into() }] });
        }
        let each: Vec<Recognised> =
            entries.iter().map(|rows| Recognised::of_one(rows, keys)).collect::<Option<_>>()?;
        let band = each[0].band;
        let shared = each.iter().all(|s| s.band == band);
        let own = each.into_iter().map(|s| if shared { s.more } else { s.terms(first.len(), keys) });
        let batch = Term::Batch { entries: own.collect() };
        Some(Recognised { band: if shared { band } else { Band::default() }, more: vec![batch] })
    }

    /// The same of a single row: whether a bound would move with it does not show, so that it is one of the keys.
    fn of_single_rows(entries: &[Rows], keys: usize) -> Recognised {
        let kept = |rows: &Rows| match rows[0] {
            Some((0, end)) if end == keys => vec![],
            range => {
                vec![range.map_or(Term::Keys { start: 0, end: 0 }, |(start, end)| Term::Keys { start, end })]
            }
        };
        let all: Vec<Vec<Term>> = entries.iter().map(kept).collect();
        let same = all.iter().all(|e| *e == all[0]);
        let more = if same { all[0].clone() } else { vec![Term::Batch { entries: all.into() }] };
        Recognised { band: Band::default(), more }
    }

    fn of_one(rows: &Rows, keys: usize) -> Option<Recognised> {
        if let (band, true) = Band::fit(rows, keys) {
            return Some(Recognised { band, more: vec![] });
        }
        if let Some((documents, band)) = Documents::fit(rows, keys) {
            return Some(Recognised { band, more: vec![documents.term()] });
        }
        let (start, end) = hull(rows);
        let live = || rows.iter().enumerate().filter_map(|(i, r)| Some((i as i64, (*r)?)));
        let (begin, last) = (live().next()?.0, live().next_back()?.0);
        // Rows without a key before the others and behind them: the bound has left all keys there.
        let before = (begin > 0).then(|| start as i64 - begin);
        let behind = (last + 1 < rows.len() as i64).then(|| end as i64 - 1 - last);
        let low =
            live().find(|&(_, (from, _))| from > start).map(|(i, (from, _))| from as i64 - i).or(behind);
        // Rows that end before the last key: the later ones by causality, the earlier ones perhaps by a prefix.
        let mut early = live().filter(|&(_, (_, to))| to < end);
        let least = early.clone().map(|(_, (_, to))| to).min();
        let high = early.next_back().map(|(i, (_, to))| to as i64 - 1 - i);
        let band = Band { low, high: high.or(before) };
        if let Some(more) = padding(rows, band, keys) {
            return Some(Recognised { band, more });
        }
        let term = Term::Prefix { length: least?, offset: high? };
        let limit = |i: usize| usize::try_from(i as i64 + high? + 1).ok();
        let prefixed = |i: usize| cut((start, end.min(least?.max(limit(i).unwrap_or(0)))), (0, keys));
        let holds = low.is_none() && rows.iter().enumerate().all(|(i, r)| *r == prefixed(i));
        let pad = if (start, end) == (0, keys) { None } else { Some(Term::Keys { start, end }) };
        holds.then(|| Recognised { band: Band::default(), more: [term].into_iter().chain(pad).collect() })
    }
}

/// The keys of which a band leaves the rows exactly what they keep: no term if all, `None` if there are none such.
fn padding(rows: &Rows, band: Band, keys: usize) -> Option<Vec<Term>> {
    let (start, end) = hull(rows);
    let own = |i: usize| band.range(i, keys).and_then(|r| cut(r, (start, end)));
    if !rows.iter().enumerate().all(|(i, r)| *r == own(i)) {
        return None;
    }
    let all = rows.iter().enumerate().all(|(i, r)| *r == band.range(i, keys));
    Some(if all { vec![] } else { vec![Term::Keys { start, end }] })
}

/// From the first key that some row keeps to the last.
fn hull(rows: &Rows) -> (usize, usize) {
    let ranges = || rows.iter().flatten();
    let start = ranges().map(|r| r.0).min();
    start.map_or((0, 0), |start| (start, ranges().map(|r| r.1).max().unwrap_or(start)))
}

/// What two ranges share.
fn cut(a: (usize, usize), b: (usize, usize)) -> Option<(usize, usize)> {
    let (from, to) = (a.0.max(b.0), a.1.min(b.1));
    (from < to).then_some((from, to))
}

/// Of each row from the first key that some batch entry keeps to the last.
pub(crate) fn union(entries: &[Rows]) -> Rows {
    let rows = entries.first().map_or(0, Vec::len);
    let of = |i: usize| {
        let ranges = || entries.iter().filter_map(move |e| e[i]);
        Some((ranges().map(|r| r.0).min()?, ranges().map(|r| r.1).max()?))
    };
    (0..rows).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Fill, Mask};
    use proptest::prelude::*;

    const KEYS: usize = 9;

    fn rows(mask: &Mask, entry: usize, q_len: usize) -> Rows {
        let row = |q| {
            let (low, high) = mask.keys_of(entry, q);
            let (from, to) = (low.max(0), high.saturating_add(1).min(KEYS as i128));
            (from < to).then_some((from as usize, to as usize))
        };
        (0..q_len).map(row).collect()
    }

    fn mask(terms: Vec<Term>) -> Mask {
        Mask { terms, fill: Fill::NegInf }
    }

    /// A band, or causal behind a prefix, and padding.
    fn entry(window: Option<u64>, prefix: usize, padding: (usize, usize)) -> Vec<Term> {
        let causal = match window {
            Some(left) => Term::Window { left: Some(left), right: Some(0), offset: 0 },
            None => Term::Prefix { length: prefix, offset: 0 },
        };
        vec![causal, Term::Keys { start: padding.0, end: padding.0 + padding.1 }]
    }

    proptest! {
        #[test]
        fn padding_and_prefixes_are_found_again(
            window in proptest::option::of(0u64..7), prefix in [0usize..6, 0..6],
            padding in [(0usize..4, 0usize..6), (0..4, 0..6)], both: bool,
        ) {
            let entries: Vec<Vec<Term>> =
                (0..2).map(|b| if both { b } else { 0 }).map(|b| entry(window, prefix[b], padding[b])).collect();
            let want: Vec<Rows> = entries.iter().map(|e| rows(&mask(e.clone()), 0, KEYS)).collect();
            let recognised = Recognised::fit(&want, KEYS).unwrap();
            let found = mask(recognised.terms(KEYS, KEYS));
            prop_assert_eq!(found.fault(2), None);
            for (b, want) in want.iter().enumerate() {
                prop_assert_eq!(&rows(&found, b, KEYS), want);
            }
        }

        #[test]
        fn what_is_found_is_exact(
            all in proptest::collection::vec(proptest::collection::vec(
                proptest::option::of((0usize..KEYS, 1usize..5)), 4..5), 1..3),
        ) {
            let all: Vec<Rows> = all.into_iter()
                .map(|rows| rows.into_iter().map(|r| r.map(|(a, n)| (a, (a + n).min(KEYS)))).collect())
                .collect();
            if let Some(recognised) = Recognised::fit(&all, KEYS) {
                let found = mask(recognised.terms(4, KEYS));
                for (b, want) in all.iter().enumerate() {
                    prop_assert_eq!(&rows(&found, b, 4), want);
                }
            }
        }
    }

    #[test]
    fn names_are_those_that_a_reader_expects() {
        let name = |entries: &[Vec<Term>]| {
            let all: Vec<Rows> = entries.iter().map(|e| rows(&mask(e.clone()), 0, KEYS)).collect();
            mask(Recognised::fit(&all, KEYS).unwrap().terms(KEYS, KEYS)).to_string()
        };
        let causal = Term::Causal { offset: 0 };
        let keys = |start, end| Term::Keys { start, end };
        assert_eq!(name(&[vec![keys(0, 4)]]), "keys(0,4)");
        assert_eq!(name(&[vec![causal.clone(), keys(2, 9)]]), "causal(0) & keys(2,9)");
        assert_eq!(name(&[vec![keys(0, 4)], vec![keys(0, 9)]]), "batch(keys(0,4); none)");
        let both = [vec![causal.clone(), keys(0, 1)], vec![causal, keys(0, 6)]];
        assert_eq!(name(&both), "causal(0) & batch(keys(0,1); keys(0,6))");
        let prefix = Term::Prefix { length: 3, offset: 0 };
        assert_eq!(name(&[vec![prefix.clone()]]), "prefix(3)");
        assert_eq!(name(&[vec![prefix.clone(), keys(0, 7)]]), "prefix(3) & keys(0,7)");
        assert_eq!(
            name(&[vec![prefix], vec![Term::Prefix { length: 5, offset: 0 }]]),
            "batch(prefix(3); prefix(5))"
        );
    }
}
