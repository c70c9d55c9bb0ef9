//! What an island graph shows is what the schedule does: the same transfers, partial results and merges, in the same order.

use super::case::{Case, cases};
use annulus::ir::{Collective, Graph, Op};
use annulus::layout::{Layout, Progression, row_count};
use annulus::mask::Tile;
use annulus::ring::Strategy;
use annulus::schedule::{AttentionFacts, RankProgram, StepOp};
use proptest::prelude::*;

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
    Partial {
        q: Vec<Progression>,
        k: Vec<Progression>,
        tile: Tile,
        first: bool,
    },
}

/// Whether a rank's own keys lie side by side where it is handed them: one progression, which no stage cuts.
fn lie(graph: &Graph, layout: &Layout, rank: usize) -> bool {
    let own = &layout.rows[rank];
    let whole = |op| match graph.op(op) {
        Op::Start(c, _) => match &**c {
            Collective::AllGather { rows, .. } => rows[rank].is_empty() || rows[rank] == *own,
            Collective::SendRecv { .. } => true,
        },
        _ => true,
    };
    own.len() == 1 && graph.ops().into_iter().all(whole)
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
        let shown = of_graph(graph, &schedule.attention, &schedule.kv_layout, rank);
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
