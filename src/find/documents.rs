//! Masks that keep documents apart which are packed one after another: blocks along the diagonal of the score matrix,
//! within which a band may mask as well.

use super::band::Band;
use crate::mask::Term;
use std::sync::Arc;

/// Which documents there are; the fields are those of [`Term::Segments`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Documents {
    pub(super) starts: Arc<[usize]>,
    pub(super) offset: i64,
}

impl Documents {
    /// Query and key are of one document.
    pub(super) fn keeps(&self, q: usize, k: usize) -> bool {
        let document = |p: i64| self.starts.partition_point(|&s| s as i64 <= p);
        document(q as i64 + self.offset) == document(k as i64)
    }

    /// The term of a mask.
    pub(super) fn term(&self) -> Term {
        Term::Segments { starts: self.starts.clone(), offset: self.offset }
    }

    /// The documents and the band that together are exactly this matrix of `keys` columns, if there are several documents.
    /// Rows are the last of the keys. A document begins wherever no pair that is kept reaches over.
    pub(super) fn fit(matrix: &[bool], keys: usize) -> Option<(Documents, Band)> {
        let rows = matrix.len().checked_div(keys)?;
        let offset = keys.checked_sub(rows)?;
        // How many kept pairs reach over the border before each position, as differences.
        let mut over = vec![0i64; keys + 2];
        let lines = || matrix.chunks_exact(keys).enumerate();
        for (i, row) in lines() {
            let own = i + offset;
            let first = row.iter().position(|&k| k)?;
            let last = row.iter().rposition(|&k| k)?;
            over[first.min(own) + 1] += 1;
            over[last.max(own) + 1] -= 1;
        }
        let mut reach = 0;
        let border = |&p: &usize| {
            reach += over[p];
            reach == 0
        };
        // What is before the first row's keys belongs to its document.
        let begin = matrix.iter().position(|&k| k)?.min(offset);
        let starts: Vec<usize> = (1..keys).filter(border).filter(|&p| p > begin).collect();
        if starts.is_empty() {
            return None;
        }
        let documents = Documents { starts: starts.into(), offset: offset as i64 };
        let document = |p: usize| documents.starts.partition_point(|&s| s <= p);
        let away = |i: usize, j: usize| j as i64 - i as i64;
        let pairs =
            || lines().flat_map(|(i, row)| row.iter().enumerate().map(move |(j, &keep)| (i, j, keep)));
        let kept = || pairs().filter(|p| p.2).map(|(i, j, _)| away(i, j));
        let (least, most) = (kept().min()?, kept().max()?);
        let mut band = Band::default();
        for (i, j, _) in pairs().filter(|&(i, j, keep)| !keep && document(i + offset) == document(j)) {
            if away(i, j) < least {
                band.low = Some(least);
            } else {
                band.high = Some(most);
            }
        }
        let exact =
            pairs().all(|(i, j, keep)| keep == (document(i + offset) == document(j) && band.keeps(i, j)));
        exact.then_some((documents, band))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            let matrix: Vec<bool> = (0..(keys - past) * keys)
                .map(|at| (at / keys, at % keys))
                .map(|(i, j)| documents.keeps(i, j) && band.keeps(i, j))
                .collect();
            let (found, within) = Documents::fit(&matrix, keys).unwrap();
            prop_assert_eq!(&found, &documents);
            for (at, &keep) in matrix.iter().enumerate() {
                let (i, j) = (at / keys, at % keys);
                prop_assert_eq!(found.keeps(i, j) && within.keeps(i, j), keep);
            }
        }

        #[test]
        fn what_is_found_is_exact(matrix in proptest::collection::vec(any::<bool>(), 20)) {
            if let Some((documents, band)) = Documents::fit(&matrix, 5) {
                for (at, &keep) in matrix.iter().enumerate() {
                    prop_assert_eq!(documents.keeps(at / 5, at % 5) && band.keeps(at / 5, at % 5), keep);
                }
            }
        }
    }

    #[test]
    fn one_document_is_none() {
        let causal: Vec<bool> = (0..16).map(|at| at % 4 <= at / 4).collect();
        assert_eq!(Documents::fit(&causal, 4), None);
        assert_eq!(Documents::fit(&[true; 12], 4), None);
    }
}
