//! What an island graph shows is what the schedule does: the same transfers, partial results and merges, in the same order.

use super::case::{Case, cases};
use annulus::ir::{Collective, Graph, Op};
use annulus::layout::{Layout, Progression, row_count};
use annulus::mask::Tile;
use annulus::ring::Strategy;
use annulus::schedule::{AttentionFacts, RankProgram, StepOp};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What is done, without places, streams and waits.
#[derive(Debug, PartialEq)]
enum Done {
    Pack,
    /// To whom how many bytes go, and from whom how many come, in order of the ranks.
    Transfers {
        group: usize,
        sends: Vec<(usize, usize)>,
        recvs: Vec<(usize, usize)>,
    },
    /// A group in which each rank gets something else: bytes to each, and [`usize::MAX`] for what comes.
    Each {
        group: usize,
        bytes: BTreeMap<usize, usize>,
    },
    Partial {
        q: Vec<Progression>,
        k: Vec<Progression>,
        tile: Tile,
        first: bool,
    },
}

/// Whether a rank's own keys lie side by side where it is handed them: one or two runs, which no stage cuts.
fn lie(graph: &Graph, layout: &Layout, rank: usize) -> bool {
    let own = &layout.rows[rank];
    let whole = |op| match graph.op(op) {
        Op::Start(c, _) => match &**c {
            Collective::AllGather { rows, .. } => rows[rank].iter().all(|p| own.contains(p)),
            Collective::SendRecv { .. } | Collective::AllToAll { .. } => true,
        },
        _ => true,
    };
    own.len() <= 2 && graph.ops().into_iter().all(whole)
}

fn of_graph(graph: &Graph, facts: &AttentionFacts, layout: &Layout, rank: usize) -> Vec<Done> {
    let mut seen: Vec<Progression> = vec![];
    let lie = lie(graph, layout, rank);
    let mut out = vec![];
    for op in graph.ops() {
        match graph.op(op) {
            // Packed keys of no rows are no copy.
            Op::Concat { axis: 3 } if graph.ty(graph.result(op)).shape[2] > 0 => {
                assert_eq!(graph.ty(graph.result(op)).shape[2], layout.share(rank));
                if !lie {
                    out.push(Done::Pack);
                }
            }
            Op::Start(c, ty) if matches!(&**c, Collective::AllToAll { .. }) => {
                let Collective::AllToAll { group, to, .. } = &**c else { continue };
                let bytes = graph.operands(op).into_iter().map(|v| graph.ty(v).bytes());
                let more: Vec<(usize, usize)> = to
                    .iter()
                    .copied()
                    .zip(bytes)
                    .filter(|t| t.1 > 0)
                    .chain([(usize::MAX, ty.bytes())])
                    .collect();
                // Several values go in one group.
                match out.last_mut() {
                    Some(Done::Each { group: g, bytes }) if g == group => add(bytes, more),
                    _ => out.push(Done::Each { group: *group, bytes: more.into_iter().collect() }),
                }
            }
            Op::Start(c, _) => {
                let sent = graph.operands(op).first().map_or(0, |&v| facts.kv_bytes(graph.ty(v).shape[2]));
                let (group, sends, recvs) = match &**c {
                    Collective::SendRecv { group, to, from, rows } => {
                        let bytes = facts.kv_bytes(row_count(rows));
                        (
                            *group,
                            to.map(|p| (p, sent)).into_iter().collect(),
                            from.map(|p| (p, bytes)).into_iter().collect(),
                        )
                    }
                    Collective::AllGather { group, rows } => {
                        let others = || (0..rows.len()).filter(|&r| r != rank);
                        let to: Vec<_> = others().map(|r| (r, sent)).filter(|t| t.1 > 0).collect();
                        let from = others().map(|r| (r, facts.kv_bytes(row_count(&rows[r]))));
                        (*group, to, from.filter(|t| t.1 > 0).collect())
                    }
                    Collective::AllToAll { .. } => unreachable!("looked at above"),
                };
                out.push(Done::Transfers { group, sends, recvs });
            }
            Op::Partial(p) if !p.q_rows.is_empty() => {
                let first = !p.q_rows.iter().any(|rows| seen.contains(rows));
                seen.extend(&p.q_rows);
                out.push(Done::Partial { q: p.q_rows.clone(), k: p.k_rows.clone(), tile: p.tile, first });
            }
            _ => {}
        }
    }
    out
}

/// Adds bytes by rank; those that are received are [`usize::MAX`]'s.
fn add(all: &mut BTreeMap<usize, usize>, more: Vec<(usize, usize)>) {
    more.into_iter().for_each(|(rank, bytes)| *all.entry(rank).or_default() += bytes);
}

/// What a rank does where each gets something else: packing is what the schedule makes of it, and so are merges.
fn of_program_each(program: &RankProgram, facts: &AttentionFacts) -> Vec<Done> {
    let of = |op: &StepOp| match op {
        StepOp::Exchange { group, sends, recvs, .. } => {
            let mut bytes = BTreeMap::new();
            add(&mut bytes, sends.iter().map(|t| (t.peer, t.bytes(facts))).collect());
            add(&mut bytes, recvs.iter().map(|t| (usize::MAX, t.bytes(facts))).collect());
            bytes.entry(usize::MAX).or_default();
            Some(Done::Each { group: *group, bytes })
        }
        StepOp::AttnPartial { q, kv, tile, .. } => Some(Done::Partial {
            q: q.iter().map(|p| p.rows).collect(),
            k: kv.iter().map(|p| p.rows).collect(),
            tile: *tile,
            first: true,
        }),
        _ => None,
    };
    program.steps.iter().filter_map(|s| of(&s.op)).collect()
}

fn of_program(program: &RankProgram, facts: &AttentionFacts) -> Vec<Done> {
    let of = |op: &StepOp| match op {
        StepOp::Pack { .. } => Done::Pack,
        StepOp::Exchange { group, sends, recvs, .. } => {
            let ends =
                |t: &[annulus::schedule::Transfer]| t.iter().map(|t| (t.peer, t.bytes(facts))).collect();
            Done::Transfers { group: *group, sends: ends(sends), recvs: ends(recvs) }
        }
        StepOp::AttnPartial { q, kv, tile, carry_in, .. } => Done::Partial {
            q: q.iter().map(|p| p.rows).collect(),
            k: kv.iter().map(|p| p.rows).collect(),
            tile: *tile,
            first: !carry_in,
        },
        StepOp::Unpack { .. } | StepOp::Merge { .. } => unreachable!("no strategy of these has one"),
    };
    program.steps.iter().map(|s| of(&s.op)).collect()
}

fn same(case: &Case, way: Strategy) {
    let schedule = case.schedule(way);
    for (rank, (graph, program)) in case.islands(way).iter().zip(&schedule.ranks).enumerate() {
        let mut shown = of_graph(graph, &schedule.attention, &schedule.kv_layout, rank);
        if !way.is_at_home() {
            shown.retain(|done| !matches!(done, Done::Pack));
            shown.iter_mut().for_each(|done| {
                if let Done::Partial { first, .. } = done {
                    *first = true;
                }
            });
            let nothing = |d: &Done| matches!(d, Done::Each { bytes, .. } if bytes.values().all(|b| *b == 0));
            shown.retain(|d| !nothing(d));
            assert_eq!(
                shown,
                of_program_each(program, &schedule.attention),
                "rank {rank} of {way:?}\n{schedule}"
            );
            continue;
        }
        assert_eq!(shown, of_program(program, &schedule.attention), "rank {rank} of {way:?}\n{schedule}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn graphs_show_what_schedules_do(case in cases()) {
        for way in Strategy::ALL {
            same(&case, way);
        }
    }
}
