//! Tiles and emptiness against enumeration, and the text form.

use super::{Fill, Mask, Term, Tile};
use crate::layout::Progression;
use proptest::prelude::*;

fn term() -> impl Strategy<Value = Term> {
    let causal = (-8i64..8).prop_map(|offset| Term::Causal { offset });
    let window = (proptest::option::of(0u64..6), proptest::option::of(0u64..6), -6i64..6)
        .prop_map(|(left, right, offset)| Term::Window { left, right, offset });
    let segments = (proptest::collection::btree_set(1usize..30, 0..5), -6i64..6)
        .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset });
    let prefix = (0usize..20, -8i64..8).prop_map(|(length, offset)| Term::Prefix { length, offset });
    let keys = (0usize..20, 0usize..12).prop_map(|(start, n)| Term::Keys { start, end: start + n });
    prop_oneof![causal, window, segments, prefix, keys]
}

/// Batch entries that masks tell apart, at most.
const BATCH: usize = 2;

fn terms() -> impl Strategy<Value = Vec<Term>> {
    let batch = proptest::collection::vec(proptest::collection::vec(term(), 0..3), BATCH)
        .prop_map(|entries| Term::Batch { entries: entries.into() });
    let lists = proptest::collection::vec(term(), 0..4);
    (lists, proptest::option::weighted(0.3, batch)).prop_map(|(mut terms, batch)| {
        terms.extend(batch);
        terms
    })
}

fn progression() -> impl Strategy<Value = Progression> {
    (0usize..20, 0usize..8, 1usize..4).prop_map(|(start, len, step)| Progression { start, len, step })
}

/// The definition of each term, in other words than the code's.
fn kept(mask: &Mask, entry: usize, q: usize, k: usize) -> bool {
    kept_by(&mask.terms, entry, q as i64, k as i64)
}

fn kept_by(terms: &[Term], entry: usize, q: i64, k: i64) -> bool {
    terms.iter().all(|t| match t {
        Term::Causal { offset } => k - q <= *offset,
        Term::Window { left, right, offset } => {
            let ahead = k - q - offset;
            right.is_none_or(|r| ahead <= r as i64) && left.is_none_or(|l| -ahead <= l as i64)
        }
        Term::Segments { starts, offset } => {
            starts.iter().all(|&s| (q + offset < s as i64) == (k < s as i64))
        }
        Term::Prefix { length, offset } => k < *length as i64 || k - q <= *offset,
        Term::Keys { start, end } => (*start as i64..*end as i64).contains(&k),
        Term::Batch { entries } => kept_by(&entries[entry], entry, q, k),
        Term::Tensor { .. } => true,
    })
}

proptest! {
    #[test]
    fn a_tile_is_what_enumeration_says(terms in terms(), q in progression(), k in progression()) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let mut pairs: Vec<bool> = vec![];
        for (i, j) in q.rows().flat_map(|i| k.rows().map(move |j| (i, j))) {
            for b in 0..BATCH {
                prop_assert_eq!(mask.keeps(b, i, j), kept(&mask, b, i, j));
                pairs.push(kept(&mask, b, i, j));
            }
        }
        match mask.tile(&q, &k) {
            Tile::Skip => prop_assert!(pairs.iter().all(|p| !p)),
            Tile::Full => prop_assert!(pairs.iter().all(|&p| p)),
            Tile::Partial => {}
        }
        // One term alone is decided exactly where rows are adjacent.
        if mask.terms.len() <= 1 && mask.entries() == 1 && q.step == 1 && k.step == 1 && !pairs.is_empty() {
            prop_assert_eq!(mask.tile(&q, &k) == Tile::Skip, pairs.iter().all(|p| !p));
            prop_assert_eq!(mask.tile(&q, &k) == Tile::Full, pairs.iter().all(|&p| p));
        }
        let filled = Mask { fill: Fill::Add(-1e4), ..mask };
        prop_assert!(q.len == 0 || k.len == 0 || filled.tile(&q, &k) != Tile::Skip);
    }

    #[test]
    fn what_is_kept_lies_in_the_hull(terms in terms(), q in progression(), k in progression()) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let all = mask.hull(&q, &k);
        prop_assert!(all.end <= k.len);
        for b in 0..BATCH {
            let seen = mask.hull_of(b, &q, &k);
            for (j, key) in k.rows().enumerate() {
                let kept = q.rows().any(|row| mask.keeps(b, row, key));
                prop_assert!(!kept || seen.contains(&j) && all.contains(&j), "key {}", key);
                if q.len == 1 {
                    prop_assert_eq!(kept, seen.contains(&j), "key {}", key);
                }
            }
        }
    }

    #[test]
    fn emptiness_is_what_enumeration_says(terms in terms(), q in 0usize..20, k in 0usize..20) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let row = |b, i| (0..k).any(|j| kept(&mask, b, i, j));
        let full = (0..BATCH).all(|b| (0..q).all(|i| row(b, i)));
        prop_assert_eq!(mask.no_row_is_empty(q, k), full);
    }

    #[test]
    fn an_area_is_what_counting_says(
        terms in terms(), first in 0usize..20, rows in 0usize..20, k in 0usize..30,
    ) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let pairs = || (first..first + rows).flat_map(|i| (0..k).map(move |j| (i, j)));
        let count = (0..BATCH).map(|b| pairs().filter(|&(i, j)| kept(&mask, b, i, j)).count()).sum::<usize>();
        prop_assert_eq!(mask.area(first, first + rows, k), count.div_ceil(BATCH) as u128);
    }

    #[test]
    fn text_parses_back(terms in terms(), fill in -1e9f64..0.0) {
        for fill in [Fill::NegInf, Fill::Add(fill), Fill::Replace(fill)] {
            let mask = Mask { terms: terms.clone(), fill };
            let fill = if terms.is_empty() { Fill::NegInf } else { fill };
            prop_assert_eq!(mask.to_string().parse::<Mask>().unwrap(), Mask { fill, ..mask });
        }
    }
}

#[test]
fn extreme_offsets_do_not_overflow() {
    let mut mask = Mask::causal(i64::MAX);
    mask.terms.push(Term::Window { left: Some(u64::MAX), right: Some(u64::MAX), offset: i64::MIN });
    assert_eq!(mask.hull(&Progression::range(usize::MAX >> 1, 1), &Progression::range(0, 4)), 0..4);
    assert_eq!(Mask::none().hull(&Progression::range(0, 1), &Progression::range(0, 4)), 0..4);
}
