//! Masks that are a band of the score matrix: causal, window, both, with any offset.

use crate::mask::Term;

/// Pairs with low ≤ k − q ≤ high; a bound that is `None` does not bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Band {
    pub(crate) low: Option<i64>,
    pub(crate) high: Option<i64>,
}

impl Band {
    /// The keys that a row keeps, of so many, the end excluded; `None` for none.
    pub(crate) fn range(self, q: usize, keys: usize) -> Option<(usize, usize)> {
        let at = |bound: i64| q as i64 + bound;
        let first = self.low.map_or(0, |l| at(l).max(0));
        let end = self.high.map_or(keys as i64, |h| at(h).saturating_add(1).min(keys as i64));
        (first < end).then_some((first as usize, end as usize))
    }

    /// Pairs in both.
    pub(crate) fn and(self, other: Band) -> Band {
        let pick = |a: Option<i64>, b: Option<i64>, f: fn(i64, i64) -> i64| match (a, b) {
            (Some(a), Some(b)) => Some(f(a, b)),
            (a, b) => a.or(b),
        };
        Band { low: pick(self.low, other.low, i64::max), high: pick(self.high, other.high, i64::min) }
    }

    /// The narrowest band that shows in rows of which each keeps a range of `keys` keys, its end excluded, and whether it is
    /// all that they say. A bound shows if every row that keeps a key goes right up to it; of several bands that say the
    /// same, this is one without a bound that nothing shows. A single row shows no bound that moves with it.
    pub(crate) fn fit(ranges: &[Option<(usize, usize)>], keys: usize) -> (Band, bool) {
        if let [one] = ranges {
            return (Band::default(), *one == Band::default().range(0, keys));
        }
        let mut band = Band::default();
        let (mut first_live, mut last_live) = (None, None);
        let rows = ranges.len();
        for (i, range) in ranges.iter().enumerate() {
            let &Some((first, end)) = range else { continue };
            first_live.get_or_insert(i);
            last_live = Some(i);
            if end < keys {
                band.high.get_or_insert(end as i64 - 1 - i as i64);
            }
            if first > 0 {
                band.low.get_or_insert(first as i64 - i as i64);
            }
        }
        match (first_live, last_live) {
            (Some(first), Some(last)) => {
                // Rows without a key, where no other row shows the bound: only a single key column is left to explain.
                if first > 0 && band.high.is_none() {
                    band.high = Some(-(first as i64));
                }
                if last + 1 < rows && band.low.is_none() {
                    band.low = Some(keys as i64 - 1 - last as i64);
                }
            }
            _ => band.high = Some(-(rows as i64)),
        }
        if ranges.iter().enumerate().all(|(i, range)| *range == band.range(i, keys)) {
            return (band, true);
        }
        let low = Band { high: None, ..band };
        let high = Band { low: None, ..band };
        let mut live = ranges.iter().enumerate().filter_map(|(i, range)| Some((i, (*range)?)));
        let shows = |b: Band, end: fn((usize, usize)) -> usize| {
            live.clone().all(|(i, r)| b.range(i, keys).is_some_and(|b| end(b) == end(r)))
        };
        let (low_shows, high_shows) = (shows(low, |r| r.0), shows(high, |r| r.1));
        if live.next().is_none() {
            return (Band::default(), false);
        }
        (Band { low: band.low.filter(|_| low_shows), high: band.high.filter(|_| high_shows) }, false)
    }

    /// The band as terms of a mask over `q_len` × `kv_len`: of several readings the one that a reader expects. Rows are the last
    /// of the keys, or else the first. Causal comes before a window that reaches as far behind the row as before it, whose
    /// one bound need not show, and that before any other.
    pub(crate) fn terms(self, q_len: usize, kv_len: usize) -> Vec<Term> {
        let (rows, keys) = (q_len as i64, kv_len as i64);
        // Where row 0 stands if the rows are the last of the keys.
        let own = (keys - rows).max(0);
        let gap = |a: i64, b: i64| u64::try_from(a - b).ok();
        let window = |at: i64, low: Option<i64>, high: Option<i64>| {
            let (left, right) = (low.and_then(|l| gap(at, l)), high.and_then(|h| gap(h, at)));
            vec![Term::Window { left, right, offset: at }]
        };
        // The bounds as far from `at` as each other; one that is not there must not bind, and rows that begin before the keys
        // are not taken for it.
        let even = |at: i64| {
            let (low, high) = match (self.low, self.high) {
                (Some(l), Some(h)) => (l, h),
                _ if at < 0 => return None,
                (Some(l), None) => (l, 2 * at - l),
                (None, h) => (2 * at - h?, h?),
            };
            let shows = self.low.is_none() && low > 1 - rows || self.high.is_none() && high < keys - 1;
            (low < at && low + high == 2 * at && !shows).then(|| window(at, Some(low), Some(high)))
        };
        match (self.low, self.high) {
            (None, None) => vec![],
            (None, Some(h)) if h <= own => vec![Term::Causal { offset: h }],
            (Some(l), Some(h)) if l > h => {
                vec![Term::Causal { offset: h }, Term::Window { left: Some(0), right: None, offset: l }]
            }
            (Some(_), Some(h)) if h == own || h == 0 => window(h, self.low, self.high),
            (low, high) => {
                [own, keys - rows, 0].into_iter().find_map(even).unwrap_or_else(|| match (low, high) {
                    (None, Some(h)) => vec![Term::Causal { offset: h }],
                    (Some(_), Some(h)) if h < own => window(h, low, high),
                    (l, _) => window(l.map_or(own, |l| own.max(l)), low, high),
                })
            }
        }
    }

    /// The band of a term that is one; `None` for the others. A bound beyond any row number does not bind, or keeps nothing.
    pub(crate) fn of(term: &Term) -> Option<Band> {
        const FAR: i128 = 1 << 62;
        let clamp = |x: i128| x.clamp(-FAR, FAR) as i64;
        let low = |x: i128| (x > -FAR).then(|| clamp(x));
        let high = |x: i128| (x < FAR).then(|| clamp(x));
        match *term {
            Term::Causal { offset } => Some(Band { low: None, high: high(i128::from(offset)) }),
            Term::Window { left, right, offset } => {
                let at = i128::from(offset);
                Some(Band {
                    low: left.and_then(|l| low(at - i128::from(l))),
                    high: right.and_then(|r| high(at + i128::from(r))),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Fill, Mask};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_band_is_found_again(
            q in 2usize..9, k in 1usize..9,
            low in proptest::option::of(-9i64..9), high in proptest::option::of(-9i64..9),
        ) {
            let band = Band { low, high };
            let keeps = |q: usize, k: usize| {
                let d = k as i64 - q as i64;
                low.is_none_or(|l| d >= l) && high.is_none_or(|h| d <= h)
            };
            let ranges: Vec<_> = (0..q).map(|i| band.range(i, k)).collect();
            for (i, r) in ranges.iter().enumerate() {
                for j in 0..k {
                    prop_assert_eq!(r.is_some_and(|(a, b)| (a..b).contains(&j)), keeps(i, j));
                }
            }
            let (found, exact) = Band::fit(&ranges, k);
            // Rows between two one-sided shadows may fit no band again, but what is recognised to be exact is.
            if exact {
                let mask = Mask { terms: found.terms(q, k), fill: Fill::NegInf };
                for (i, j) in (0..q).flat_map(|i| (0..k).map(move |j| (i, j))) {
                    prop_assert_eq!(mask.keeps(0, i, j), keeps(i, j));
                }
                // The same words again for what they say.
                let again = mask.terms.iter().filter_map(Band::of).fold(Band::default(), Band::and);
                prop_assert_eq!(again.terms(q, k), mask.terms);
            } else {
                prop_assert!(low.is_some() && high.is_some());
            }
        }

        #[test]
        fn a_causal_mask_has_its_offset(q in 2usize..9, k in 2usize..9, offset in -9i64..9) {
            let band = Band { low: None, high: Some(offset) };
            let shown = (0..q).any(|i| (0..k as i64 - 1).contains(&(i as i64 + offset)));
            if shown {
                let rows: Vec<_> = (0..q).map(|i| band.range(i, k)).collect();
                prop_assert_eq!(Band::fit(&rows, k), (band, true));
            }
        }

        /// Whatever the rows keep lies within the band that is recognised of them, and is all of it if that is recognised.
        #[test]
        fn what_rows_keep_lies_in_their_band(
            rows in proptest::collection::vec(proptest::option::of((0usize..5, 1usize..6)), 0..6),
        ) {
            let ranges: Vec<_> = rows.into_iter().map(|r| r.map(|(a, n)| (a, (a + n).min(5)))).collect();
            let (band, exact) = Band::fit(&ranges, 5);
            for (i, r) in ranges.iter().enumerate() {
                let b = band.range(i, 5);
                prop_assert!(r.is_none_or(|(a, e)| b.is_some_and(|(x, y)| x <= a && e <= y)));
                prop_assert!(!exact || b == *r);
            }
        }
    }

    #[test]
    fn documents_show_one_side() {
        let ranges = [(0, 1), (0, 2), (2, 3), (2, 4), (4, 5)].map(Some);
        assert_eq!(Band::fit(&ranges, 5), (Band { low: None, high: Some(0) }, false));
        let prefix = [(0, 2), (0, 2), (0, 3), (0, 4), (0, 5)].map(Some);
        assert_eq!(Band::fit(&prefix, 5), (Band::default(), false));
    }

    #[test]
    fn a_window_is_counted_from_the_row_itself() {
        let causal = Band { low: Some(-11), high: Some(0) };
        assert_eq!(causal.terms(48, 48), [Term::Window { left: Some(11), right: Some(0), offset: 0 }]);
        let decode = Band { low: Some(17), high: Some(28) };
        assert_eq!(decode.terms(4, 32), [Term::Window { left: Some(11), right: Some(0), offset: 28 }]);
        let both = Band { low: Some(-4), high: Some(3) };
        assert_eq!(both.terms(8, 8), [Term::Window { left: Some(4), right: Some(3), offset: 0 }]);
    }
}
