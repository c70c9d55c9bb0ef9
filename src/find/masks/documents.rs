//! Masks that keep documents apart which are packed one after another: blocks along the diagonal of the score matrix,
//! within which a band may mask as well.

use super::band::Band;
use crate::mask::Term;
use std::sync::Arc;

/// Which documents there are; the fields are those of [`Term::Segments`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Documents {
    pub(crate) starts: Arc<[usize]>,
    pub(crate) offset: i64,
}

impl Documents {
    /// The keys of a query row's document, of so many, the end excluded; `None` for none.
    pub(crate) fn range(&self, q: usize, keys: usize) -> Option<(usize, usize)> {
        let own = q as i64 + self.offset;
        let n = self.starts.partition_point(|&s| s as i64 <= own);
        let first = n.checked_sub(1).map_or(0, |n| self.starts[n]);
        let end = self.starts.get(n).map_or(keys, |&s| s.min(keys));
        (first < end).then_some((first, end))
    }

    /// The term of a mask.
    pub(crate) fn term(&self) -> Term {
        Term::Segments { starts: self.starts.clone(), offset: self.offset }
    }

    /// The documents and the band that together keep in each row exactly this range of `keys` keys, its end excluded, if there
    /// are several documents. Rows are the last of the keys. A document begins wherever no pair that is kept reaches over.
    pub(crate) fn fit(ranges: &[Option<(usize, usize)>], keys: usize) -> Option<(Documents, Band)> {
        let offset = keys.checked_sub(ranges.len())?;
        // How many kept pairs reach over the border before each position, as differences.
        let mut over = vec![0i64; keys + 2];
        for (i, range) in ranges.iter().enumerate() {
            let (first, end) = (*range)?;
            let own = i + offset;
            over[first.min(own) + 1] += 1;
            over[(end - 1).max(own) + 1] -= 1;
        }
        let mut reach = 0;
        let border = |&p: &usize| {
            reach += over[p];
            reach == 0
        };
        // What is before the first row's keys belongs to its document.
        let begin = (*ranges.first()?)?.0.min(offset);
        let starts: Vec<usize> = (1..keys).filter(border).filter(|&p| p > begin).collect();
        if starts.is_empty() {
            return None;
        }
        let documents = Documents { starts: starts.into(), offset: offset as i64 };
        let rows = || ranges.iter().enumerate().filter_map(|(i, range)| Some((i, (*range)?)));
        let least = rows().map(|(i, (first, _))| first as i64 - i as i64).min()?;
        let most = rows().map(|(i, (_, end))| end as i64 - 1 - i as i64).max()?;
        let mut band = Band::default();
        for (i, (first, end)) in rows() {
            let (from, to) = documents.range(i, keys)?;
            if from < first {
                band.low = Some(least);
            }
            if end < to {
                band.high = Some(most);
            }
        }
        let both = |i: usize| {
            let ((a, b), (c, d)) = (documents.range(i, keys)?, band.range(i, keys)?);
            (a.max(c) < b.min(d)).then_some((a.max(c), b.min(d)))
        };
        ranges.iter().enumerate().all(|(i, range)| *range == both(i)).then_some((documents, band))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(documents: &Documents, band: Band, i: usize, keys: usize) -> Option<(usize, usize)> {
        let ((a, b), (c, d)) = (documents.range(i, keys)?, band.range(i, keys)?);
        (a.max(c) < b.min(d)).then_some((a.max(c), b.min(d)))
    }

    proptest! {
        #[test]
        fn documents_are_found_again(
            lengths in proptest::collection::vec(1usize..6, 2..5), past in 0usize..4, causal: bool, left in 1i64..9,
        ) {
            let keys: usize = lengths.iter().sum();
            let past = past.min(lengths[0] - 1);
            let mut end = 0;
            let starts: Vec<usize> = lengths.iter().map(|l| { end += l; end }).filter(|&e| e < keys).collect();
            let documents = Documents { starts: starts.into(), offset: past as i64 };
            let own = past as i64;
            let band = Band { low: causal.then_some(own - left), high: causal.then_some(own) };
            let rows: Vec<_> = (0..keys - past).map(|i| both(&documents, band, i, keys)).collect();
            let (found, within) = Documents::fit(&rows, keys).unwrap();
            prop_assert_eq!(&found, &documents);
            for (i, row) in rows.iter().enumerate() {
                prop_assert_eq!(both(&found, within, i, keys), *row);
            }
        }

        #[test]
        fn what_is_found_is_exact(
            rows in proptest::collection::vec(proptest::option::of((0usize..5, 1usize..6)), 1..6),
        ) {
            let rows: Vec<_> = rows.into_iter().map(|r| r.map(|(a, n)| (a, (a + n).min(5)))).collect();
            if let Some((documents, band)) = Documents::fit(&rows, 5) {
                for (i, row) in rows.iter().enumerate() {
                    prop_assert_eq!(both(&documents, band, i, 5), *row);
                }
            }
        }
    }

    #[test]
    fn one_document_is_none() {
        let causal: Vec<_> = (0..4).map(|i| Some((0, i + 1))).collect();
        assert_eq!(Documents::fit(&causal, 4), None);
        assert_eq!(Documents::fit(&[Some((0, 4)); 3], 4), None);
    }
}
