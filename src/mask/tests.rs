//! Tiles and emptiness against enumeration, and the text form.

use super::*;
use proptest::prelude::*;

fn terms() -> impl Strategy<Value = Vec<Term>> {
    let causal = (-8i64..8).prop_map(|offset| Term::Causal { offset });
    let window = (proptest::option::of(0u64..6), proptest::option::of(0u64..6), -6i64..6)
        .prop_map(|(left, right, offset)| Term::Window { left, right, offset });
    let segments = (proptest::collection::btree_set(1usize..30, 0..5), -6i64..6)
        .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset });
    proptest::collection::vec(prop_oneof![causal, window, segments], 0..4)
}

fn progression() -> impl Strategy<Value = Progression> {
    (0usize..20, 0usize..8, 1usize..4).prop_map(|(start, len, step)| Progression { start, len, step })
}

/// The definition of each term, in other words than the code's.
fn kept(mask: &Mask, q: usize, k: usize) -> bool {
    let (q, k) = (q as i64, k as i64);
    mask.terms.iter().all(|t| match t {
        Term::Causal { offset } => k - q <= *offset,
        Term::Window { left, right, offset } => {
            let ahead = k - q - offset;
            right.is_none_or(|r| ahead <= r as i64) && left.is_none_or(|l| -ahead <= l as i64)
        }
        Term::Segments { starts, offset } => {
            starts.iter().all(|&s| (q + offset < s as i64) == (k < s as i64))
        }
        Term::Tensor { .. } => true,
    })
}

proptest! {
    #[test]
    fn a_tile_is_what_enumeration_says(terms in terms(), q in progression(), k in progression()) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let pairs: Vec<bool> =
            q.rows().flat_map(|i| k.rows().map(move |j| (i, j))).map(|(i, j)| kept(&mask, i, j)).collect();
        for (i, j) in q.rows().flat_map(|i| k.rows().map(move |j| (i, j))) {
            prop_assert_eq!(mask.keeps(i, j), kept(&mask, i, j));
        }
        match mask.tile(&q, &k) {
            Tile::Skip => prop_assert!(pairs.iter().all(|p| !p)),
            Tile::Full => prop_assert!(pairs.iter().all(|&p| p)),
            Tile::Partial => {}
        }
        // One term alone is decided exactly where rows are adjacent.
        if mask.terms.len() <= 1 && q.step == 1 && k.step == 1 {
            prop_assert_eq!(mask.tile(&q, &k) == Tile::Skip, pairs.iter().all(|p| !p));
        }
        let filled = Mask { fill: Fill::Add(-1e4), ..mask };
        prop_assert!(q.len == 0 || k.len == 0 || filled.tile(&q, &k) != Tile::Skip);
    }

    #[test]
    fn what_is_kept_lies_in_the_hull(terms in terms(), q in progression(), k in progression()) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let seen = mask.hull(&q, &k);
        prop_assert!(seen.end <= k.len);
        for (j, key) in k.rows().enumerate() {
            let kept = q.rows().any(|row| mask.keeps(row, key));
            prop_assert!(!kept || seen.contains(&j), "key {}", key);
            if q.len == 1 {
                prop_assert_eq!(kept, seen.contains(&j), "key {}", key);
            }
        }
    }

    #[test]
    fn emptiness_is_what_enumeration_says(terms in terms(), q in 0usize..20, k in 0usize..20) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let full = (0..q).all(|i| (0..k).any(|j| kept(&mask, i, j)));
        prop_assert_eq!(mask.no_row_is_empty(q, k), full);
    }

    #[test]
    fn an_area_is_what_counting_says(
        terms in terms(), first in 0usize..20, rows in 0usize..20, k in 0usize..30,
    ) {
        let mask = Mask { terms, fill: Fill::NegInf };
        let count = (first..first + rows).flat_map(|i| (0..k).map(move |j| (i, j))).filter(|&(i, j)| kept(&mask, i, j));
        prop_assert_eq!(mask.area(first, first + rows, k), count.count() as u128);
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
