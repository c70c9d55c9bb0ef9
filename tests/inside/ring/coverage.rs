//! Every visible pair meets once, and full tiles hold no masked pair: by enumeration, from the island graphs alone.

use super::case::{Case, cases};
use crate::inside::support::scores::dead;
use annulus::ir::{Graph, Op, Partial};
use annulus::layout::{LayoutKind, Progression};
use annulus::mask::{Mask, Term, Tile};
use annulus::ring::Strategy;
use proptest::prelude::*;

/// The partial results of a graph in order.
fn partials(graph: &Graph) -> Vec<Partial> {
    let ops = graph.ops();
    ops.iter()
        .filter_map(|&op| if let Op::Partial(p) = graph.op(op) { Some((**p).clone()) } else { None })
        .collect()
}

fn rows(of: &[Progression]) -> impl Iterator<Item = usize> {
    of.iter().flat_map(Progression::rows)
}

fn covers(case: &Case, way: Strategy) -> Result<(), TestCaseError> {
    let (sq, sk) = (case.sizes.q_len, case.sizes.kv_len);
    let mut met = vec![0usize; sq * sk];
    let mut computed = vec![0usize; sq];
    for (rank, graph) in case.islands(way).iter().enumerate() {
        for p in partials(graph) {
            for q in rows(&p.q_rows) {
                computed[q] += 1;
                prop_assert!(rows(&case.q_rows()[rank]).any(|own| own == q), "row {q} is not of rank {rank}");
                for k in rows(&p.k_rows) {
                    met[q * sk + k] += 1;
                    let all = (0..case.sizes.batch).all(|b| case.sees_in(b, q, k));
                    let data = case
                        .attention
                        .scores
                        .masks()
                        .flat_map(|m| &m.terms)
                        .any(|t| matches!(t, Term::Tensor { .. }));
                    prop_assert!(
                        p.tile == Tile::Partial || (all && !data),
                        "{q} × {k} is masked in a full tile"
                    );
                }
            }
        }
    }
    for (i, &n) in met.iter().enumerate() {
        let (q, k) = (i / sk, i % sk);
        let wanted = (0..case.sizes.batch).any(|b| !dead(case.attention.scores.steps(), [b, q, k]));
        prop_assert!(n == 1 || (n == 0 && !wanted), "{way:?}: {q} × {k} meet {n} times");
    }
    prop_assert!(computed.iter().all(|&n| n > 0), "a row has no partial result");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_visible_pair_meets_once(case in cases()) {
        for way in Strategy::ALL.into_iter().filter(|way| way.is_at_home()) {
            covers(&case, way)?;
        }
    }
}

#[test]
fn every_length_on_every_number_of_ranks() {
    for ranks in 1..6 {
        for length in 0..=4 * ranks + 1 {
            for kind in LayoutKind::ALL {
                for mask in [Mask::none(), Mask::causal(0), Mask::causal(-2)] {
                    let case = Case::new(length, ranks, kind, mask);
                    for way in Strategy::ALL.into_iter().filter(|way| way.is_at_home()) {
                        covers(&case, way).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn zigzag_gives_every_rank_the_same_work_on_every_hop() {
    for ranks in 2..9 {
        let c = 3;
        let case = Case::new(2 * c * ranks, ranks, LayoutKind::Zigzag, Mask::causal(0));
        for graph in case.islands(Strategy::Ring) {
            // All queries × the first half of the keys, or the second half of the queries × all keys, without a mask: one
            // kernel, but for the hop on which the first half of the queries ends and the second goes on.
            let owner =
                |p: &Partial| case.kv_rows().iter().position(|own| own.contains(&p.k_rows[0])).unwrap();
            let mut work = vec![(0, 0); ranks];
            for p in partials(&graph) {
                let (kernels, area) = &mut work[owner(&p)];
                *kernels += 1;
                *area += rows(&p.q_rows).count() * rows(&p.k_rows).count();
                assert!(p.tile == Tile::Full || *kernels <= 2);
            }
            let hops: Vec<_> = work.iter().filter(|w| w.1 == 2 * c * c).collect();
            assert_eq!(hops.len(), ranks - 1, "{work:?}");
            assert!(hops.iter().filter(|w| w.0 > 1).count() <= 1, "{work:?}");
        }
    }
}

#[test]
fn rows_without_a_key_get_one_partial_over_no_keys() {
    // Rows 0 to 4 see nothing.
    let case = Case::new(12, 3, LayoutKind::Contiguous, Mask::causal(-5));
    let graphs = case.islands(Strategy::Ring);
    let first = partials(&graphs[0]);
    assert_eq!((first.len(), first[0].k_rows.len(), first[0].q_rows.len()), (1, 0, 1));
}
