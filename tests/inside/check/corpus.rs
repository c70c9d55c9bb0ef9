//! The schedules that faults are planted in: small, and together of every kind.

use super::build;
use super::case::{Case, LeafCase};
use super::travel::{Way as Travel, mesh, travel};
use annulus::ir::DType;
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::mask::{Fill, Mask, Term};
use annulus::ring::Strategy as Way;
use annulus::schedule::{Schedule, parse};

/// Each with a name: 1 to 8 ranks, both strategies, layouts with shares that are even, uneven and empty, cross attention,
/// masks that hide blocks and masks that hide none, several fills, some of them undone, with sinks and without.
pub(crate) fn corpus() -> Vec<(String, Case, Schedule)> {
    let window = |left, right| Mask {
        terms: vec![Term::Window { left: Some(left), right: Some(right), offset: 0 }],
        fill: Fill::NegInf,
    };
    let documents = Term::Segments { starts: [3, 9, 10].into(), offset: 0 };
    let documents = Mask { terms: vec![Term::Causal { offset: 0 }, documents], fill: Fill::NegInf };
    let filled = Mask { fill: Fill::Replace(-1e4), ..Mask::causal(0) };
    let tensor =
        Mask { terms: vec![Term::Causal { offset: 0 }, Term::Tensor { operand: 3 }], fill: Fill::NegInf };
    let prefix = vec![Term::Prefix { length: 6, offset: 0 }];
    let entries = [vec![Term::Keys { start: 2, end: 17 }], vec![Term::Keys { start: 0, end: 9 }]].into();
    let batch = Mask { terms: [prefix, vec![Term::Batch { entries }]].concat(), fill: Fill::NegInf };
    let masks = [
        ("batch", batch),
        ("all", Mask::none()),
        ("causal", Mask::causal(0)),
        ("window", window(5, 0)),
        ("documents", documents),
        ("filled", filled),
        ("tensor", tensor),
        // What becomes of scores says more than one mask: see below.
        ("steps", Mask::causal(0)),
        ("undone", Mask::causal(0)),
    ];
    let scores = |name: &str| match name {
        "steps" => {
            "round f16 | fill replace(-10000.0) unless keys(0,30) | softcap 20.0 | fill -inf unless causal(0) | add 3 | round bf16"
        }
        "undone" => {
            "fill -inf unless causal(-1) | factor 2.0 | softcap 8.0 | fill add(-100.0) unless window(9,9,0)"
        }
        _ => "",
    };
    // 19 rows are uneven on 2 to 8 ranks; 5 leave ranks without any.
    let rows = [(32, 32), (19, 19), (5, 5), (11, 26)];
    let mut all = Vec::new();
    for ranks in 1..=8 {
        for kind in LayoutKind::ALL {
            for (name, mask) in &masks {
                for rows in rows {
                    all.extend(Way::ALL.map(|way| (ranks, kind, *name, mask, rows, way)));
                }
            }
        }
    }
    // Any two properties meet in what is left of all combinations.
    let chosen = all.into_iter().step_by(11);
    chosen
        .map(|(ranks, kind, name, mask, (rows, keys), way)| {
            let mut case = Case::new(rows, ranks, kind, mask.clone());
            case.sizes.kv_len = keys;
            // Where queries travel or heads are dealt out, along two levels.
            if ranks % 2 == 0 && matches!(kind, LayoutKind::Zigzag | LayoutKind::Balanced) {
                case.nodes = 2;
            }
            // Logits of ±1e4 among the arguments leave f32 few digits.
            (case.dtype, case.attention.acc) = (DType::F64, DType::F64);
            case.sizes.batch = mask.entries();
            if name == "tensor" {
                let shape = vec![rows, keys];
                case.leaves = vec![LeafCase { dtype: DType::Bool, shape, by_query_rows: true }];
            }
            if !scores(name).is_empty() {
                case.attention.scores = scores(name).parse().unwrap();
            }
            if name == "steps" {
                let shape = vec![case.sizes.q_heads, rows, 1];
                case.leaves = vec![LeafCase { dtype: DType::F64, shape, by_query_rows: true }];
            }
            // As models with windows have them; the other masks show that none are counted where none are.
            if ["window", "filled", "tensor", "steps"].contains(&name) {
                let shape = vec![case.sizes.q_heads, 1, 1];
                case.attention.sinks = Some(3 + case.leaves.len());
                case.leaves.push(LeafCase { dtype: DType::F32, shape, by_query_rows: false });
            }
            let schedule = case.schedule(way);
            (format!("{way:?} {kind} {name} {rows}x{keys} on {ranks}"), case, schedule)
        })
        .collect()
}

/// Schedules by hand in which queries or heads travel: even, uneven and empty shares, heads that ranks do not divide, leaves that travel
/// with queries, sinks, log-sum-exps, one level and two. They are of no strategy.
pub(crate) fn travelling() -> Vec<(String, Case, Schedule)> {
    let sizes =
        [(1, 1, 5, 7), (2, 1, 8, 6), (3, 1, 7, 7), (4, 2, 9, 12), (4, 1, 3, 8), (5, 1, 1, 11), (6, 2, 13, 6)];
    let mut all = Vec::new();
    for (n, (ranks, nodes, rows, keys)) in sizes.into_iter().enumerate() {
        for (k, kind) in [LayoutKind::Zigzag, LayoutKind::Contiguous].into_iter().enumerate() {
            for way in [Travel::Queries, Travel::Heads] {
                let mask = if n % 2 == 0 { Mask::none() } else { Mask::causal(2) };
                let mut case = Case::new(rows, ranks, kind, mask);
                (case.dtype, case.attention.acc) = (DType::F64, DType::F64);
                (case.sizes.kv_len, case.sizes.batch) = (keys, 1 + n % 2);
                (case.sizes.q_heads, case.sizes.kv_heads) = [(6, 2), (4, 4), (3, 1)][(n + k) % 3];
                case.attention.lse = (n + k) % 2 == 0;
                if n % 3 < 2 {
                    case.attention.scores = "add 3 | fill -inf unless causal(2)".parse().unwrap();
                    let shape = vec![if k == 0 { case.sizes.q_heads } else { 1 }, rows, keys];
                    case.leaves.push(LeafCase { dtype: DType::F64, shape, by_query_rows: true });
                }
                if n % 2 == k {
                    case.attention.sinks = Some(3 + case.leaves.len());
                    let shape = vec![case.sizes.q_heads, rows, 1];
                    case.leaves.push(LeafCase { dtype: DType::F64, shape, by_query_rows: n % 3 == 0 });
                }
                let nodes = if way == Travel::Heads { 1 } else { nodes };
                let made = case.schedule(Way::AllGather);
                let schedule =
                    travel(&made.attention, (&made.q_layout, &made.kv_layout), way, mesh(ranks, nodes));
                all.push((format!("{way:?} {kind} {rows}x{keys} on {ranks} of {nodes}"), case, schedule));
            }
        }
    }
    all
}

/// The schedule whose faults are shown: a causal ring of four ranks, as it stands in the file.
pub(crate) fn example() -> Schedule {
    parse(include_str!("right_example.txt")).unwrap().remove(0)
}

/// One in which sinks are counted, for the faults that only such a one can have.
pub(crate) fn with_sinks() -> Schedule {
    parse(include_str!("right_sinks.txt")).unwrap().remove(0)
}

/// Every P-th row.
pub(crate) fn striped(length: usize, ranks: usize) -> Layout {
    let rows = (0..ranks).map(|r| {
        let len = (length + ranks - 1 - r) / ranks;
        if len == 0 {
            vec![]
        } else {
            vec![Progression { start: r, len, step: if len == 1 { 1 } else { ranks } }]
        }
    });
    Layout { kind: LayoutKind::Given, length, rows: rows.collect() }
}

/// Blocks that end at `cuts`, dealt to ranks by `deal`, every other one split into even and odd rows.
pub(crate) fn scattered(length: usize, ranks: usize, cuts: &[usize], deal: &[usize]) -> Layout {
    let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (length + 1)).chain([0, length]).collect();
    cuts.sort_unstable();
    let mut rows = vec![vec![]; ranks];
    for (i, pair) in cuts.windows(2).enumerate() {
        let (start, len) = (pair[0], pair[1] - pair[0]);
        let parts = if i % 2 == 0 {
            vec![Progression::range(start, len)]
        } else {
            let half = |odd: usize| Progression { start: start + odd, len: (len + 1 - odd) / 2, step: 2 };
            vec![half(0), half(1)]
        };
        for (j, p) in parts.into_iter().filter(|p| p.len > 0).enumerate() {
            rows[deal[(i + j) % deal.len()] % ranks].push(p);
        }
    }
    Layout { kind: LayoutKind::Given, length, rows }
}

/// A schedule over any layouts, with every pair computed.
pub(crate) fn by_hand(mask: Mask, q: Layout, kv: Layout, way: build::Way) -> Schedule {
    let mut case = Case::new(q.length, q.ranks(), LayoutKind::Contiguous, mask);
    case.sizes.kv_len = kv.length;
    let facts = case.schedule(Way::Ring).attention;
    build::build(&facts, &q, &kv, way)
}
