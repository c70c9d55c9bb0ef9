//! What travels: both ends of every message agree, and bytes are those of the closed forms of the maths.

use super::case::{Case, cases};
use annulus::ir::{Collective, Graph, Op, Type, ValueId};
use annulus::layout::{LayoutKind, Progression};
use annulus::mask::{Fill, Mask, Term, Tile};
use annulus::ring::Strategy;
use annulus::schedule::StepOp;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Global rows of a packed value, read off the operation that makes it.
fn rows_of(graph: &Graph, v: ValueId, own: &[Progression]) -> Vec<Progression> {
    match graph.op(v.op) {
        Op::Concat { .. } => own.to_vec(),
        Op::Chunk { rows, .. } => rows.clone(),
        Op::Wait => rows_of(graph, graph.operands(v.op)[0], own),
        Op::Start(c, _) => c.result_rows(),
        other => panic!("{} travels", other.name()),
    }
}

/// What a rank does in one group: what it sends, and what it expects.
#[derive(Debug)]
struct Part {
    collective: Collective,
    sent: Vec<Progression>,
    expected: Type,
    message: Option<Type>,
}

fn parts(graph: &Graph, own: &[Progression]) -> BTreeMap<usize, Part> {
    let mut out = BTreeMap::new();
    for op in graph.ops() {
        let Op::Start(c, ty) = graph.op(op) else { continue };
        let operand = graph.operands(op).first().copied();
        let part = Part {
            collective: (**c).clone(),
            sent: operand.map_or(vec![], |v| rows_of(graph, v, own)),
            expected: ty.clone(),
            message: operand.map(|v| graph.ty(v).clone()),
        };
        assert!(out.insert(c.group(), part).is_none(), "group {} twice", c.group());
    }
    out
}

/// The strategies in which keys travel.
fn of_keys() -> impl Iterator<Item = Strategy> {
    Strategy::ALL.into_iter().filter(|way| way.is_at_home())
}

fn matches_up(case: &Case, way: Strategy) -> Result<(), TestCaseError> {
    let graphs = case.islands(way);
    let own = case.kv_rows();
    let ranks: Vec<BTreeMap<usize, Part>> = graphs.iter().zip(&own).map(|(g, o)| parts(g, o)).collect();
    for (r, groups) in ranks.iter().enumerate() {
        prop_assert!(groups.keys().is_sorted());
        for (group, part) in groups {
            match &part.collective {
                Collective::SendRecv { to, from, rows, .. } => {
                    prop_assert!(to.is_some() || from.is_some(), "an empty group");
                    prop_assert_eq!(to.is_some(), part.message.is_some());
                    prop_assert_eq!(from.is_some(), !rows.is_empty());
                    if let Some(to) = *to {
                        let on = if way == Strategy::RingReverse { case.ranks - 1 } else { 1 };
                        prop_assert_eq!(to, (r + on) % case.ranks);
                        let Some(Part {
                            collective: Collective::SendRecv { from, rows, .. }, expected, ..
                        }) = ranks[to].get(group)
                        else {
                            return Err(TestCaseError::fail(format!("rank {to} has no group {group}")));
                        };
                        prop_assert_eq!(*from, Some(r));
                        prop_assert_eq!(rows, &part.sent);
                        prop_assert_eq!(Some(expected), part.message.as_ref());
                    }
                    if let Some(from) = *from {
                        let there = ranks[from].get(group).map(|p| &p.collective);
                        let back = matches!(there, Some(Collective::SendRecv { to: Some(t), .. }) if *t == r);
                        prop_assert!(back, "rank {from} does not send");
                    }
                }
                Collective::AllToAll { .. } => panic!("keys go to all alike"),
                Collective::AllGather { rows, .. } => {
                    prop_assert_eq!(&part.sent, &rows[r]);
                    for other in (0..case.ranks).filter(|&o| o != r) {
                        let there = ranks[other].get(group).map(|p| &p.collective);
                        let alone = rows.iter().enumerate().all(|(s, sent)| s == other || sent.is_empty());
                        let same = matches!(there, Some(Collective::AllGather { rows: theirs, .. }) if theirs == rows);
                        prop_assert!(
                            same || alone && there.is_none(),
                            "rank {other} takes no part in stage {group}"
                        );
                    }
                }
            }
        }
        if matches!(way, Strategy::AllGather | Strategy::AllGatherStaged) {
            // Every row that another rank may see is sent once, and no other.
            let mut sent: Vec<usize> = groups.values().flat_map(|p| &p.sent).flat_map(|p| p.rows()).collect();
            sent.sort_unstable();
            let needed = |piece: &&Progression| (0..case.ranks).any(|o| o != r && sees(case, o, piece));
            let mut want: Vec<usize> = own[r].iter().filter(needed).flat_map(|p| p.rows()).collect();
            want.sort_unstable();
            prop_assert_eq!(sent, want);
        }
    }
    Ok(())
}

/// Whether a row of the rank may see one of the piece.
fn sees(case: &Case, rank: usize, piece: &Progression) -> bool {
    case.q_rows()[rank].iter().any(|q| case.attention.scores.tile(q, piece) != Tile::Skip)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn both_ends_of_every_message_agree(case in cases()) {
        for way in of_keys() {
            matches_up(&case, way)?;
        }
    }

    #[test]
    fn nothing_travels_that_no_rank_ahead_needs(case in cases()) {
        // A piece goes on only while some rank at that distance or farther sees one of its rows.
        let own = case.kv_rows();
        for (way, on) in [(Strategy::Ring, 1), (Strategy::RingReverse, case.ranks - 1)] {
            for (r, graph) in case.islands(way).iter().enumerate() {
                for (hop, part) in parts(graph, &own[r]) {
                    for piece in part.sent {
                        let source = own.iter().position(|rows| rows.contains(&piece)).unwrap();
                        let there = |hops: usize| (source + on * hops) % case.ranks;
                        prop_assert_eq!(there(hop), (r + on) % case.ranks);
                        prop_assert!((hop..case.ranks).any(|d| sees(&case, there(d), &piece)));
                    }
                }
            }
        }
    }
}

fn kv_bytes(case: &Case) -> usize {
    let s = &case.sizes;
    s.batch * s.kv_len * s.kv_heads * (s.head_dim + s.v_head_dim) * case.dtype.bytes()
}

/// `maths.md` 6.5: a rank sends (P−1)/P of all keys and values, un-repeated.
#[test]
fn a_full_mask_sends_exactly_p_minus_1_of_p() {
    for ranks in 1..9 {
        for kind in LayoutKind::ALL {
            for way in of_keys() {
                let case = Case::new(ranks * 4, ranks, kind, Mask::none());
                let schedule = case.schedule(way);
                for (rank, sent) in schedule.ranks.iter().zip(schedule.bytes_sent()) {
                    assert_eq!(sent * ranks, (ranks - 1) * kv_bytes(&case));
                    let messages = match way {
                        Strategy::Ring | Strategy::RingReverse => ranks - 1,
                        Strategy::AllGather => usize::from(ranks > 1),
                        Strategy::AllGatherStaged => 4 * usize::from(ranks > 1),
                        Strategy::Queries | Strategy::Heads => unreachable!("keys travel"),
                    };
                    assert_eq!(rank.messages(), messages);
                }
            }
        }
    }
}

/// `maths.md` 6.4: under a causal zigzag the second half of a rank's keys stops at the last rank that sees it.
#[test]
fn dead_halves_of_a_zigzag_stay_at_home() {
    for (ranks, fraction) in [(2, 0.75), (3, 5.0 / 6.0), (4, 0.875), (8, 0.9375), (16, 0.96875)] {
        let case = Case::new(ranks * 4, ranks, LayoutKind::Zigzag, Mask::causal(0));
        let sent: usize = case.schedule(Strategy::Ring).bytes_sent().iter().sum();
        assert_eq!(sent as f64, fraction * ((ranks - 1) * kv_bytes(&case)) as f64, "P = {ranks}");
    }
}

/// `maths.md` 6.4, the other way round: three quarters, whatever the number of ranks. Of an uneven length, the rows of every
/// first half P − 1 times, and of a second half as often as there are ranks before its own.
#[test]
fn the_reversed_ring_of_a_zigzag_sends_three_quarters() {
    for ranks in 2..=16 {
        let case = Case::new(ranks * 4, ranks, LayoutKind::Zigzag, Mask::causal(0));
        let sent: usize = case.schedule(Strategy::RingReverse).bytes_sent().iter().sum();
        assert_eq!(sent * 4, 3 * (ranks - 1) * kv_bytes(&case), "P = {ranks}");
        for rows in [2 * ranks + 1, 4 * ranks - 1, 53] {
            let case = Case::new(rows, ranks, LayoutKind::Zigzag, Mask::causal(0));
            let per_row = kv_bytes(&case) / rows;
            let own = case.kv_rows();
            let half = |r: usize, i: usize| own[r].get(i).map_or(0, |p| p.len);
            let back: usize = (0..ranks).map(|r| half(r, 0) * (ranks - 1) + half(r, 1) * r).sum();
            let on: usize = (0..ranks)
                .map(|r| half(r, 0) * (ranks - 1) + half(r, 1) * if r == 0 { 0 } else { ranks - 1 })
                .sum();
            for (way, want) in [(Strategy::RingReverse, back), (Strategy::Ring, on)] {
                let sent: usize = case.schedule(way).bytes_sent().iter().sum();
                assert_eq!(sent, want * per_row, "{way:?} of {rows} rows on {ranks}");
            }
        }
    }
}

/// What every rank sends, piece by piece and counted pair by pair: on each hop the chunks of one rank that some rank further
/// along still sees; of a gather the rows that any other rank sees, to all of them. An empty hop is no message.
#[test]
fn each_rank_sends_the_chunks_that_are_still_needed() {
    // As wide as there are ranks: a narrower one jumps over stripes, which interval arithmetic does not see.
    let window = Term::Window { left: Some(9), right: Some(0), offset: 0 };
    let window = Mask { terms: vec![window], fill: Fill::NegInf };
    let mut empty_hops = 0;
    for ranks in 1..=9 {
        for rows in [0, ranks - 1, 2 * ranks + 1, 4 * ranks, 23] {
            for (mask, kind) in [Mask::none(), Mask::causal(0), Mask::causal(-2), window.clone()]
                .into_iter()
                .flat_map(|mask| LayoutKind::ALL.map(|kind| (mask.clone(), kind)))
            {
                let case = Case::new(rows, ranks, kind, mask);
                let row = case.sizes.kv_heads * (case.sizes.head_dim + case.sizes.v_head_dim) * 4;
                let (q, own) = (case.q_rows(), case.kv_rows());
                // Whether a rank sees a row of each piece of each other.
                let seen: Vec<Vec<Vec<bool>>> = own
                    .iter()
                    .map(|pieces| {
                        let by = |p: &Progression, q: &[Progression]| {
                            q.iter().flat_map(Progression::rows).any(|q| p.rows().any(|k| case.sees(q, k)))
                        };
                        pieces.iter().map(|p| q.iter().map(|q| by(p, q)).collect()).collect()
                    })
                    .collect();
                for way in of_keys() {
                    let sent = |r: usize| -> Vec<usize> {
                        let rows = |source: usize, needed: &dyn Fn(&[bool]) -> bool| {
                            let pieces = own[source].iter().zip(&seen[source]);
                            pieces.filter(|(_, by)| needed(by)).map(|(p, _)| p.len).sum::<usize>()
                        };
                        let on = if way == Strategy::RingReverse { ranks - 1 } else { 1 };
                        let hop = |hop: usize| {
                            let source = (r + (ranks - on) * (hop - 1)) % ranks;
                            rows(source, &|by| (hop..ranks).any(|d| by[(source + on * d) % ranks]))
                        };
                        let leaves = rows(r, &|by| (0..ranks).any(|other| other != r && by[other]));
                        let stage = |i: usize| (leaves * (i + 1) / 4 - leaves * i / 4) * (ranks - 1);
                        match way {
                            Strategy::Ring | Strategy::RingReverse => (1..ranks).map(hop).collect(),
                            Strategy::AllGather => vec![leaves * (ranks - 1)],
                            Strategy::AllGatherStaged => (0..4).map(stage).collect(),
                            Strategy::Queries | Strategy::Heads => unreachable!("keys travel"),
                        }
                    };
                    let schedule = case.schedule(way);
                    let bytes = schedule.bytes_sent();
                    for (r, program) in schedule.ranks.iter().enumerate() {
                        let want = sent(r);
                        let what = format!(
                            "rank {r} of {ranks}, {rows} rows, {kind}, {way:?}, {}",
                            case.attention.scores
                        );
                        assert_eq!(bytes[r], want.iter().sum::<usize>() * row, "{what}");
                        assert_eq!(program.messages(), want.iter().filter(|n| **n > 0).count(), "{what}");
                        empty_hops += want.iter().filter(|n| **n == 0).count();
                    }
                }
            }
        }
    }
    assert!(empty_hops > 1000, "{empty_hops}");
}

/// Contiguous causal needs half of everything, and sends no more.
#[test]
fn a_contiguous_causal_ring_stops_at_the_last_rank() {
    let case = Case::new(32, 8, LayoutKind::Contiguous, Mask::causal(0));
    let sent: usize = case.schedule(Strategy::Ring).bytes_sent().iter().sum();
    assert_eq!(sent * 2, 7 * kv_bytes(&case));
}

/// `maths.md` 6.4: with a window of W the ring has min(P − 1, ⌈(W−1)/C⌉) hops.
#[test]
fn a_window_ends_the_ring_early() {
    let (ranks, c) = (6, 4);
    for w in 1..=ranks * c {
        let window = Term::Window { left: Some(w as u64 - 1), right: Some(0), offset: 0 };
        let mask = Mask { terms: vec![window], fill: Fill::NegInf };
        let case = Case::new(ranks * c, ranks, LayoutKind::Contiguous, mask);
        let groups = |graph: &Graph| parts(graph, &[]).into_keys().max().unwrap_or(0);
        let hops = case.islands(Strategy::Ring).iter().map(groups).max().unwrap();
        assert_eq!(hops, (ranks - 1).min((w - 1).div_ceil(c)), "window {w}");
    }
}

/// A mask that is data, and a finite fill, skip nothing.
#[test]
fn what_is_not_proved_dead_travels() {
    let mut mask = Mask::causal(0);
    mask.fill = Fill::Replace(-1e4);
    let case = Case::new(16, 4, LayoutKind::Zigzag, mask);
    for sent in case.schedule(Strategy::Ring).bytes_sent() {
        assert_eq!(sent * 4, 3 * kv_bytes(&case));
    }
}

/// Bytes from each rank to each other, over all groups.
fn pairs(case: &Case, way: Strategy) -> Vec<Vec<usize>> {
    let schedule = case.schedule(way);
    let mut out = vec![vec![0; case.ranks]; case.ranks];
    for (rank, program) in schedule.ranks.iter().enumerate() {
        for step in &program.steps {
            let StepOp::Exchange { sends, .. } = &step.op else { continue };
            sends.iter().for_each(|t| out[rank][t.peer] += t.bytes(&schedule.attention));
        }
    }
    out
}

/// A case with other heads.
fn with_heads(mut case: Case, q_heads: usize, kv_heads: usize) -> Case {
    (case.sizes.q_heads, case.sizes.kv_heads) = (q_heads, kv_heads);
    case
}

/// Heads that are dealt out, pair by pair: the own rows of queries, keys and values in the heads of the other rank, and results of its
/// rows in the own heads. `maths.md` 6.5: where all divides evenly, (P−1)/P² of queries, results, keys and values.
#[test]
fn heads_send_what_ulysses_sends() {
    for (q_heads, kv_heads) in [(1, 1), (4, 4), (8, 4), (12, 6), (24, 24), (6, 2), (5, 1), (9, 3)] {
        for ranks in 1..=6 {
            for (rows, kind) in [24, 25, 3].into_iter().flat_map(|n| LayoutKind::ALL.map(|kind| (n, kind))) {
                let case = with_heads(Case::new(rows, ranks, kind, Mask::causal(0)), q_heads, kv_heads);
                let (s, sent) = (&case.sizes, pairs(&case, Strategy::Heads));
                let group = q_heads / kv_heads;
                let heads = |r: usize| q_heads * r / ranks..q_heads * (r + 1) / ranks;
                let keys = |r: usize| {
                    let all: std::collections::BTreeSet<usize> = heads(r).map(|h| h / group).collect();
                    all.len()
                };
                let count = |rows: &[Progression]| rows.iter().map(|p| p.len).sum::<usize>();
                let (q, kv): (Vec<usize>, Vec<usize>) = (
                    case.q_rows().iter().map(|r| count(r)).collect(),
                    case.kv_rows().iter().map(|r| count(r)).collect(),
                );
                for (from, to) in
                    (0..ranks).flat_map(|a| (0..ranks).map(move |b| (a, b))).filter(|(a, b)| a != b)
                {
                    let out = q[from] * heads(to).len() * s.head_dim;
                    let keys = kv[from] * keys(to) * (s.head_dim + s.v_head_dim);
                    let home = q[to] * heads(from).len() * s.v_head_dim;
                    let what =
                        format!("{q_heads}/{kv_heads} heads, {rows} rows, {kind}, {from} to {to} of {ranks}");
                    assert_eq!(sent[from][to], 4 * (out + keys + home), "{what}");
                }
                if kv_heads % ranks == 0 && rows % (2 * ranks) == 0 && kind != LayoutKind::Balanced {
                    let width = s.head_dim + s.v_head_dim;
                    let whole = 4 * rows * (q_heads + kv_heads) * width;
                    for sent in &sent {
                        assert_eq!(sent.iter().sum::<usize>() * ranks * ranks, (ranks - 1) * whole);
                    }
                }
            }
        }
    }
}

/// Queries go to the ranks whose keys they see, and o, m and l come home from each of them.
#[test]
fn queries_send_themselves_and_their_partial_results() {
    for ranks in 1..=6 {
        for (rows, kind) in [24, 25, 3].into_iter().flat_map(|n| LayoutKind::ALL.map(|kind| (n, kind))) {
            for mask in [Mask::none(), Mask::causal(0)] {
                let case = Case::new(rows, ranks, kind, mask);
                let (s, sent) = (&case.sizes, pairs(&case, Strategy::Queries));
                let (q, kv) = (case.q_rows(), case.kv_rows());
                let seen = |of: usize, at: usize| -> usize {
                    let sees = |p: &&Progression| {
                        let mut keys = kv[at].iter().flat_map(Progression::rows);
                        keys.any(|k| p.rows().any(|q| case.sees(q, k)))
                    };
                    q[of].iter().filter(sees).map(|p| p.len).sum()
                };
                for (from, to) in
                    (0..ranks).flat_map(|a| (0..ranks).map(move |b| (a, b))).filter(|(a, b)| a != b)
                {
                    let out = seen(from, to) * s.q_heads * s.head_dim;
                    let home = seen(to, from) * s.q_heads * (s.v_head_dim + 2);
                    assert_eq!(
                        sent[from][to],
                        4 * (out + home),
                        "{rows} rows, {kind}, {from} to {to} of {ranks}"
                    );
                }
            }
        }
    }
}

/// On nodes: what goes to a rank at another place of another node goes by the one there that stands as the sender does, so that rows
/// cross once for all heads of a node, and key heads that its ranks share once for all of them.
#[test]
fn heads_cross_once_for_a_node() {
    for (q_heads, kv_heads) in [(1, 1), (4, 4), (8, 2), (12, 6), (24, 24), (6, 1), (9, 3)] {
        for (nodes, ranks) in [(2, 4), (2, 6), (3, 6), (2, 2), (4, 8)] {
            for (rows, kind) in [24, 25, 3].into_iter().flat_map(|n| LayoutKind::ALL.map(|kind| (n, kind))) {
                let case = Case { nodes, ..Case::new(rows, ranks, kind, Mask::causal(0)) };
                let case = with_heads(case, q_heads, kv_heads);
                let (s, sent, size) = (&case.sizes, pairs(&case, Strategy::Heads), ranks / nodes);
                let group = q_heads / kv_heads;
                let heads = |r: usize| q_heads * r / ranks..q_heads * (r + 1) / ranks;
                let keys = |r: usize| heads(r).map(|h| h / group).collect::<std::collections::BTreeSet<_>>();
                let count = |rows: &[Progression]| rows.iter().map(|p| p.len).sum::<usize>();
                let q: Vec<usize> = case.q_rows().iter().map(|r| count(r)).collect();
                let kv: Vec<usize> = case.kv_rows().iter().map(|r| count(r)).collect();
                let rows_of = |layout: &[usize], r: usize| -> usize {
                    (r % size..ranks).step_by(size).map(|o| layout[o]).sum()
                };
                for (from, to) in (0..ranks).flat_map(|a| (0..ranks).map(move |b| (a, b))) {
                    let what = format!(
                        "{q_heads}/{kv_heads} heads, {rows} rows, {kind}, {from} to {to} of {ranks} on {nodes}"
                    );
                    let width = s.head_dim + s.v_head_dim;
                    let node = |r: usize| r / size * size..(r / size + 1) * size;
                    if from == to || (from / size != to / size && from % size != to % size) {
                        assert_eq!(sent[from][to], 0, "{what}");
                    } else if from / size == to / size {
                        let out = rows_of(&q, from) * heads(to).len() * s.head_dim;
                        let keys = rows_of(&kv, from) * keys(to).len() * width;
                        let home = rows_of(&q, to) * heads(from).len() * s.v_head_dim;
                        assert_eq!(sent[from][to], 4 * (out + keys + home), "{what}");
                    } else {
                        let there: usize = node(to).map(|r| heads(r).len()).sum();
                        let here: usize = node(from).map(|r| heads(r).len()).sum();
                        let rest = 4 * (q[from] * there * s.head_dim + q[to] * here * s.v_head_dim);
                        // A key head that only parts of heads of two ranks share may cross once for each.
                        let each: usize = node(to).map(|r| keys(r).len()).sum();
                        let once = node(to).flat_map(keys).collect::<std::collections::BTreeSet<_>>().len();
                        let least = rest + 4 * kv[from] * once * width;
                        let most = rest + 4 * kv[from] * each * width;
                        assert!(
                            (least..=most).contains(&sent[from][to]),
                            "{what}: {least}, {}, {most}",
                            sent[from][to]
                        );
                        if kv_heads < ranks && ranks % kv_heads == 0 && q_heads % ranks == 0 {
                            assert_eq!(sent[from][to], least, "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// A piece of queries crosses once to each other node that sees it, and one partial result of it comes back.
#[test]
fn queries_cross_once_for_a_node() {
    for (nodes, ranks) in [(2, 4), (2, 6), (3, 6), (2, 2), (4, 8)] {
        for (rows, kind) in [24, 25, 3, 1].into_iter().flat_map(|n| LayoutKind::ALL.map(|kind| (n, kind))) {
            for mask in [Mask::none(), Mask::causal(0)] {
                let case = Case { nodes, ..Case::new(rows, ranks, kind, mask) };
                let (s, sent, size) = (&case.sizes, pairs(&case, Strategy::Queries), ranks / nodes);
                let (q, kv) = (case.q_rows(), case.kv_rows());
                // How many query rows lie in pieces that see any key of some ranks.
                let seen = |of: usize, at: &[usize]| -> usize {
                    let sees = |p: &&Progression| {
                        let mut keys = at.iter().flat_map(|&at| kv[at].iter().flat_map(Progression::rows));
                        keys.any(|k| p.rows().any(|q| case.sees(q, k)))
                    };
                    q[of].iter().filter(sees).map(|p| p.len).sum()
                };
                let others = |r: usize| (r % size..ranks).step_by(size).filter(move |&o| o != r);
                for (from, to) in (0..ranks).flat_map(|a| (0..ranks).map(move |b| (a, b))) {
                    let node = |r: usize| (r / size * size..(r / size + 1) * size).collect::<Vec<_>>();
                    let (out, home) = match () {
                        () if from == to => (0, 0),
                        () if from / size == to / size => (
                            others(from).chain([from]).map(|o| seen(o, &[to])).sum(),
                            others(to).chain([to]).map(|o| seen(o, &[from])).sum(),
                        ),
                        () if from % size == to % size => (seen(from, &node(to)), seen(to, &node(from))),
                        () => (0, 0),
                    };
                    let want = 4 * s.q_heads * (out * s.head_dim + home * (s.v_head_dim + 2));
                    assert_eq!(
                        sent[from][to], want,
                        "{rows} rows, {kind}, {from} to {to} of {ranks} on {nodes}"
                    );
                }
            }
        }
    }
}
