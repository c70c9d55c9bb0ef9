//! Who computes what, and when, as tables that others publish for the same attention.

use crate::case::Case;
use annulus::ir::Op;
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::mask::{Fill, Mask, Term, Tile};
use annulus::ring::Strategy;

/// For each rank, what it does with the keys that it holds after each hop: nothing, a masked block, or whole blocks.
fn steps(ranks: usize, kind: LayoutKind, mask: Mask) -> Vec<Vec<&'static str>> {
    let case = Case::new(ranks * 4, ranks, kind, mask);
    let owned = case.kv_rows();
    let of_rank = |(r, graph): (usize, annulus::ir::Graph)| {
        let mut table = vec!["skip"; ranks];
        for op in graph.ops() {
            let Op::Partial(p) = graph.op(op) else { continue };
            for key in &p.k_rows {
                let owner = owned.iter().position(|rows| rows.contains(key)).unwrap();
                let hop = (r + ranks - owner) % ranks;
                let masked = p.tile == Tile::Partial || table[hop] == "causal";
                table[hop] = if masked { "causal" } else { "full" };
            }
        }
        table
    };
    case.islands(Strategy::Ring).into_iter().enumerate().map(of_rank).collect()
}

/// Without balance a rank has nothing to do with keys of later ranks; with it every rank has whole blocks on every hop.
#[test]
fn causal_step_tables() {
    for ranks in 1..=8 {
        for (r, table) in steps(ranks, LayoutKind::Contiguous, Mask::causal(0)).into_iter().enumerate() {
            let want = |hop: usize| match hop {
                0 => "causal",
                _ if hop <= r => "full",
                _ => "skip",
            };
            assert_eq!(table, (0..ranks).map(want).collect::<Vec<_>>(), "rank {r} of {ranks}");
        }
        for table in steps(ranks, LayoutKind::Zigzag, Mask::causal(0)) {
            assert!(table[0] == "causal" && table[1..].iter().all(|&t| t == "full"), "{table:?} on {ranks}");
        }
        // Without a causal mask, balance changes nothing.
        for kind in [LayoutKind::Contiguous, LayoutKind::Zigzag] {
            let tables = steps(ranks, kind, Mask::none());
            assert!(tables.iter().flatten().all(|&t| t == "full"), "{kind} on {ranks}");
        }
    }
}

/// Of each rank the lengths of its runs of rows of one document, and how many keys the last row of each sees.
fn lengths(starts: &[usize], rows: usize, kind: LayoutKind) -> Vec<(Vec<usize>, Vec<usize>)> {
    let documents = Term::Segments { starts: starts.into(), offset: 0 };
    let mask = Mask { terms: vec![Term::Causal { offset: 0 }, documents], fill: Fill::NegInf };
    let seen = |q: usize| (0..rows).filter(|&k| mask.keeps(0, q, k)).count();
    let of_rank = |own: &Vec<Progression>| {
        let all: Vec<usize> = own.iter().flat_map(Progression::rows).collect();
        let same = |a: &usize, b: &usize| b - a == 1 && mask.keeps(0, *b, *a);
        let runs: Vec<&[usize]> = all.chunk_by(same).collect();
        (runs.iter().map(|r| r.len()).collect(), runs.iter().map(|r| seen(r[r.len() - 1])).collect())
    };
    Layout::new(kind, rows, 2).rows.iter().map(of_rank).collect()
}

/// The lengths that PyTorch's tests of packed sequences state for two ranks.
#[test]
fn lengths_of_documents_on_each_rank() {
    let (plain, balanced) = (LayoutKind::Contiguous, LayoutKind::Zigzag);
    assert_eq!(lengths(&[], 32, plain), [(vec![16], vec![16]), (vec![16], vec![32])]);
    assert_eq!(lengths(&[], 32, balanced), [(vec![8, 8], vec![8, 32]), (vec![16], vec![24])]);
    let documents = [10, 50];
    assert_eq!(lengths(&documents, 64, plain), [(vec![10, 22], vec![10, 22]), (vec![18, 14], vec![40, 14])]);
    assert_eq!(
        lengths(&documents, 64, balanced),
        [(vec![10, 6, 2, 14], vec![10, 6, 40, 14]), (vec![32], vec![38])]
    );
}
