//! Masks that are a band of the score matrix: causal, window, both, with any offset.

use crate::mask::Term;

/// Pairs with low ≤ k − q ≤ high; a bound that is `None` does not bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) low: Option<i64>,
    pub(super) high: Option<i64>,
}

impl Band {
    pub(super) fn keeps(self, q: usize, k: usize) -> bool {
        let d = k as i64 - q as i64;
        self.low.is_none_or(|l| d >= l) && self.high.is_none_or(|h| d <= h)
    }

    /// Pairs in both.
    pub(super) fn and(self, other: Band) -> Band {
        let pick = |a: Option<i64>, b: Option<i64>, f: fn(i64, i64) -> i64| match (a, b) {
            (Some(a), Some(b)) => Some(f(a, b)),
            (a, b) => a.or(b),
        };
        Band { low: pick(self.low, other.low, i64::max), high: pick(self.high, other.high, i64::min) }
    }

    /// The band that is exactly this matrix of `keys` columns, if there is one. Of the bands that agree on it, one without
    /// a bound that nothing shows.
    pub(super) fn fit(matrix: &[bool], keys: usize) -> Option<Band> {
        let mut band = Band::default();
        let (mut first_live, mut last_live) = (None, None);
        let rows = matrix.len().checked_div(keys)?;
        for (i, row) in matrix.chunks_exact(keys).enumerate() {
            let (Some(first), Some(last)) = (row.iter().position(|&k| k), row.iter().rposition(|&k| k))
            else {
                continue;
            };
            first_live.get_or_insert(i);
            last_live = Some(i);
            if last + 1 < keys {
                band.high.get_or_insert(last as i64 - i as i64);
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
        let exact = matrix.iter().enumerate().all(|(at, &keep)| band.keeps(at / keys, at % keys) == keep);
        exact.then_some(band)
    }

    /// The band as terms of a mask over `q_len` × `kv_len`.
    pub(super) fn terms(self, q_len: usize, kv_len: usize) -> Vec<Term> {
        // Where a row's own key stands if the rows are the last of the keys.
        let own = (kv_len as i64 - q_len as i64).max(0);
        let gap = |a: i64, b: i64| u64::try_from(a - b).ok();
        match (self.low, self.high) {
            (None, None) => vec![],
            (None, Some(h)) => vec![Term::Causal { offset: h }],
            (Some(l), None) => {
                let offset = own.max(l);
                vec![Term::Window { left: gap(offset, l), right: None, offset }]
            }
            (Some(l), Some(h)) if l <= own && own < h => {
                vec![Term::Window { left: gap(own, l), right: gap(h, own), offset: own }]
            }
            (Some(l), Some(h)) if l <= h => {
                vec![Term::Window { left: gap(h, l), right: Some(0), offset: h }]
            }
            (Some(l), Some(h)) => {
                vec![Term::Causal { offset: h }, Term::Window { left: Some(0), right: None, offset: l }]
            }
        }
    }

    /// The band of a term; `None` for documents and for a tensor. A bound beyond any row number does not bind, or keeps nothing.
    pub(super) fn of(term: &Term) -> Option<Band> {
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
            Term::Segments { .. } | Term::Tensor { .. } => None,
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
            q in 1usize..9, k in 1usize..9,
            low in proptest::option::of(-9i64..9), high in proptest::option::of(-9i64..9),
        ) {
            let band = Band { low, high };
            let matrix: Vec<bool> = (0..q * k).map(|at| band.keeps(at / k, at % k)).collect();
            let found = Band::fit(&matrix, k);
            // A matrix with holes between two one-sided shadows may fit no band again, but what is found is exact.
            if let Some(found) = found {
                let mask = Mask { terms: found.terms(q, k), fill: Fill::NegInf };
                for (at, &keep) in matrix.iter().enumerate() {
                    prop_assert_eq!(mask.keeps(at / k, at % k), keep);
                }
                let again = mask.terms.iter().filter_map(Band::of).fold(Band::default(), Band::and);
                prop_assert_eq!(again, found);
            } else {
                prop_assert!(low.is_some() && high.is_some());
            }
        }

        #[test]
        fn a_causal_mask_has_its_offset(q in 2usize..9, k in 2usize..9, offset in -9i64..9) {
            let matrix: Vec<bool> = (0..q * k).map(|at| (at % k) as i64 <= (at / k) as i64 + offset).collect();
            let shown = (0..q).any(|i| (0..k as i64 - 1).contains(&(i as i64 + offset)));
            if shown {
                prop_assert_eq!(Band::fit(&matrix, k), Some(Band { low: None, high: Some(offset) }));
            }
        }

        #[test]
        fn other_matrices_are_no_band(mut matrix in proptest::collection::vec(any::<bool>(), 16)) {
            matrix[5] = false;
            matrix[4] = true;
            matrix[6] = true;
            prop_assert_eq!(Band::fit(&matrix, 4), None);
        }
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
