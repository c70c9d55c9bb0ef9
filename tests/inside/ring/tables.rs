//! Who computes what, and when, as tables that others publish for the same attention.

use super::case::Case;
use annulus::ir::{Attention, DType, Graph, Op, Tensor, Type, Unary};
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::mask::{Fill, Mask, Term, Tile};
use annulus::ring::Strategy;

/// For each rank, what it does with the keys that it holds after each hop: nothing, a masked block, or whole blocks.
fn steps(ranks: usize, kind: LayoutKind, mask: Mask) -> Vec<Vec<&'static str>> {
    let case = Case::new(ranks * 4, ranks, kind, mask);
    let owned = case.kv_rows();
    let of_rank = |(r, graph): (usize, Graph)| {
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

/// The rows of each rank, in order.
fn rows_of(kind: LayoutKind, rows: usize, ranks: usize) -> Vec<Vec<usize>> {
    let own = |own: &Vec<Progression>| own.iter().flat_map(Progression::rows).collect();
    Layout::new(kind, rows, ranks).rows.iter().map(own).collect()
}

/// Sixteen rows dealt one block after another, and with balance: chunks r and 2P − 1 − r of 2P.
#[test]
fn which_rows_on_which_rank() {
    let (plain, balanced) = (LayoutKind::Contiguous, LayoutKind::Zigzag);
    let both = |a: std::ops::Range<usize>, b: std::ops::Range<usize>| a.chain(b).collect::<Vec<_>>();
    assert_eq!(rows_of(balanced, 16, 2), [both(0..4, 12..16), both(4..12, 0..0)]);
    assert_eq!(
        rows_of(balanced, 16, 4),
        [both(0..2, 14..16), both(2..4, 12..14), both(4..6, 10..12), both(6..10, 0..0)]
    );
    let eight = [[0, 15], [1, 14], [2, 13], [3, 12], [4, 11], [5, 10], [6, 9], [7, 8]];
    assert_eq!(rows_of(balanced, 16, 8), eight);
    for ranks in [2, 4, 8] {
        let c = 16 / ranks;
        let want: Vec<Vec<usize>> = (0..ranks).map(|r| (r * c..(r + 1) * c).collect()).collect();
        assert_eq!(rows_of(plain, 16, ranks), want);
        let want: Vec<Vec<usize>> = (0..ranks).map(|r| (r..16).step_by(ranks).collect()).collect();
        assert_eq!(rows_of(LayoutKind::Stripe, 16, ranks), want);
    }
}

/// A sequence that is dealt to the ranks and put together again is what it was, whatever its length.
#[test]
fn dealing_and_putting_together_are_inverse() {
    let documents = Term::Segments { starts: [3, 4, 17].into(), offset: 0 };
    let mask = Mask { terms: vec![documents], fill: Fill::NegInf };
    for (ranks, rows) in (1..=9).flat_map(|p| [0, 1, p, 2 * p + 1, 4 * p + 3].map(|s| (p, s))) {
        let mut graph = Graph::new("deal");
        let args = ["q", "k", "v"].map(|name| graph.input(name, Type::new(DType::F32, [1, 1, rows, 1])));
        let attention = Attention::plain(1.0, DType::F32).masked(mask.clone());
        let out = graph.add1(Op::Attention(Box::new(attention)), &args, "attn", "").unwrap();
        let there = graph.add1(Op::Unary(Unary::Neg), &[args[0]], "there", "").unwrap();
        let back = graph.add1(Op::Unary(Unary::Neg), &[there], "back", "").unwrap();
        graph.output("out", out);
        graph.output("back", back);
        let numbers: Vec<f64> = (0..rows).map(|i| i as f64 + 0.5).collect();
        let x = Tensor::from_f64(DType::F32, [1, 1, rows, 1], &numbers).unwrap();
        // Of so few rows there is one document.
        for kind in LayoutKind::ALL.into_iter().filter(|&k| rows > 3 || k != LayoutKind::Document) {
            let options = annulus::Options::new(ranks).layout(kind);
            let compiled = annulus::compile(&graph, &options).unwrap();
            let sharded = rows > 0 && compiled.program.layouts.first().is_some_and(|l| l.kind == kind);
            assert!(sharded || rows == 0, "{kind}, {rows} rows on {ranks}");
            let got = annulus::run(&compiled, &[x.clone(), x.clone(), x.clone()], 0).unwrap().outputs;
            assert_eq!(got[1].to_f64(), numbers, "{kind}, {rows} rows on {ranks}");
        }
    }
}

/// Of each rank the lengths of its runs of rows of one document, and how many keys the last row of each sees.
fn lengths(starts: &[usize], rows: usize, ranks: usize, kind: LayoutKind) -> Vec<(Vec<usize>, Vec<usize>)> {
    let documents = Term::Segments { starts: starts.into(), offset: 0 };
    let mask = Mask { terms: vec![Term::Causal { offset: 0 }, documents], fill: Fill::NegInf };
    let seen = |q: usize| (0..rows).filter(|&k| mask.keeps(0, q, k)).count();
    let of_rank = |own: &Vec<Progression>| {
        let all: Vec<usize> = own.iter().flat_map(Progression::rows).collect();
        let same = |a: &usize, b: &usize| b - a == 1 && mask.keeps(0, *b, *a);
        let runs: Vec<&[usize]> = all.chunk_by(same).collect();
        (runs.iter().map(|r| r.len()).collect(), runs.iter().map(|r| seen(r[r.len() - 1])).collect())
    };
    Layout::new(kind, rows, ranks).rows.iter().map(of_rank).collect()
}

/// The lengths that PyTorch's tests of packed sequences state for two ranks, and their further cases.
#[test]
fn lengths_of_documents_on_each_rank() {
    let (plain, balanced) = (LayoutKind::Contiguous, LayoutKind::Zigzag);
    assert_eq!(lengths(&[], 32, 2, plain), [(vec![16], vec![16]), (vec![16], vec![32])]);
    assert_eq!(lengths(&[], 32, 2, balanced), [(vec![8, 8], vec![8, 32]), (vec![16], vec![24])]);
    let documents = [10, 50];
    assert_eq!(
        lengths(&documents, 64, 2, plain),
        [(vec![10, 22], vec![10, 22]), (vec![18, 14], vec![40, 14])]
    );
    assert_eq!(
        lengths(&documents, 64, 2, balanced),
        [(vec![10, 6, 2, 14], vec![10, 6, 40, 14]), (vec![32], vec![38])]
    );
    // Ends of documents that are ends of shares, on four ranks; the last documents of length 1.
    assert_eq!(
        lengths(&[20], 64, 4, plain),
        [(vec![16], vec![16]), (vec![4, 12], vec![20, 12]), (vec![16], vec![28]), (vec![16], vec![44])]
    );
    assert_eq!(
        lengths(&[20], 64, 4, balanced),
        [
            (vec![8, 8], vec![8, 44]),
            (vec![8, 8], vec![16, 36]),
            (vec![4, 4, 8], vec![20, 4, 28]),
            (vec![16], vec![20])
        ]
    );
    assert_eq!(lengths(&[1, 15], 16, 2, plain), [(vec![1, 7], vec![1, 7]), (vec![7, 1], vec![14, 1])]);
    assert_eq!(
        lengths(&[1, 15], 16, 2, balanced),
        [(vec![1, 3, 3, 1], vec![1, 3, 14, 1]), (vec![8], vec![11])]
    );
}

/// One all-gather, or P − 1 hops: under a full mask, however the rows are dealt; of lengths from P on no hop is empty.
#[test]
fn one_gather_or_a_hop_for_every_other_rank() {
    for (ranks, kind) in (1..=8).flat_map(|p| LayoutKind::ALL.map(|k| (p, k))) {
        for rows in [ranks, 2 * ranks + 1, 4 * ranks] {
            let case = Case::new(rows, ranks, kind, Mask::none());
            let messages = |way| case.schedule(way).ranks.iter().map(|r| r.messages()).collect::<Vec<_>>();
            if case.kv_rows().iter().any(Vec::is_empty) {
                assert!(rows < 2 * ranks, "{kind} of {rows} rows on {ranks} leaves a rank without");
                continue;
            }
            assert_eq!(messages(Strategy::Ring), vec![ranks - 1; ranks], "{kind}");
            assert_eq!(messages(Strategy::RingReverse), vec![ranks - 1; ranks], "{kind}");
            assert_eq!(messages(Strategy::AllGather), vec![usize::from(ranks > 1); ranks], "{kind}");
        }
    }
}
