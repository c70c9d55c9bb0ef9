//! exec/cpu against attention written out in f64; orders, faults and untrusted schedules.

pub(crate) mod build;
pub(crate) mod case;
mod dropout;
mod faults;
pub(crate) mod golden;
mod goldens;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod nccl;
mod random;
mod text;
pub(crate) mod travel;
mod walk;

use annulus::eval::{Precision, eval};
use annulus::exec::cpu::{ExecError, Traffic, run, run_island};
use annulus::ir::{
    Attention, AttentionSizes, Binary, Contract, DType, EmptyRow, Graph, Op, OpId, Scores, Tensor, Type,
};
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::mask::{Mask, Tile};
use annulus::ring::{Plan as Rewrite, Strategy as Plan};
use annulus::schedule::{self, *};
use annulus::shard::{IslandSharding, Placement, Program, Segment, ShardOptions, Sharding, shard};
use build::{Way, build};
use case::{Case, Numbers, cases, first_wrong};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Puts the ranks' rows of (B, H, rows, …) together.
fn join(results: &[Vec<Tensor>], which: usize, layout: &Layout) -> Tensor {
    let first = &results[0][which];
    let (b, h) = (first.shape()[0], first.shape()[1]);
    let width = first.shape().get(3).copied().unwrap_or(1);
    let mut out = vec![f64::NAN; b * h * layout.length * width];
    for (own, result) in layout.rows.iter().zip(results) {
        let x = result[which].to_f64();
        let rows: Vec<usize> = own.iter().flat_map(Progression::rows).collect();
        for head in 0..b * h {
            for (local, &row) in rows.iter().enumerate() {
                out[(head * layout.length + row) * width..][..width]
                    .copy_from_slice(&x[(head * rows.len() + local) * width..][..width]);
            }
        }
    }
    Tensor::from_f64(first.dtype(), [b, h, layout.length, width], &out).unwrap()
}

type Outcome = (Vec<Vec<Tensor>>, Traffic);

fn run_case(case: &Case, way: Way, seed: u64) -> Result<Outcome, ExecError> {
    let (q, kv) = case.layouts();
    run_island(&build(&case.facts, &q, &kv, way), &case.local(), seed)
}

fn check_case(case: &Case, results: &[Vec<Tensor>]) -> Result<(), String> {
    let (q, _) = case.layouts();
    let want = case.expected();
    if let Some(wrong) = first_wrong(&join(results, 0, &q), &want.out) {
        return Err(format!("out, {wrong}"));
    }
    match case.facts.lse.then(|| first_wrong(&join(results, 1, &q), &want.lse)).flatten() {
        Some(wrong) => Err(format!("lse, {wrong}")),
        None => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_attention_split_by_hand_is_the_attention(case in cases(40), all_gather: bool) {
        let way = if all_gather { Way::AllGather } else { Way::Ring };
        let first = run_case(&case, way, 0).unwrap();
        if let Err(wrong) = check_case(&case, &first.0) {
            prop_assert!(false, "{}", wrong);
        }
        for seed in [1, case.seed | 1] {
            prop_assert_eq!(&run_case(&case, way, seed).unwrap(), &first, "another order, other bits");
        }
    }
}

/// The attention that a schedule of these facts computes.
fn node(f: &AttentionFacts) -> Attention {
    Attention {
        scores: f.scores.clone(),
        sinks: f.sinks,
        dropout: f.dropout,
        acc: f.acc,
        empty_row: f.empty_row,
        lse: f.lse,
        stats: false,
    }
}

/// The case as a program of one island: a graph whose inputs are whole.
pub(crate) fn program_of(case: &Case) -> (Program, OpId) {
    let f = &case.facts;
    let mut graph = Graph::new("case");
    let operands: Vec<_> =
        case.args.iter().enumerate().map(|(i, x)| graph.input(&format!("x{i}"), x.ty())).collect();
    let op = graph.add(Op::Attention(Box::new(node(f))), &operands, "att", "").unwrap();
    for v in graph.results(op) {
        let name = format!("y{}", v.port);
        graph.output(&name, v);
    }
    let (q, kv) = case.layouts();
    let rows = |layout| Placement::Sharded(Sharding { axis: 2, outer: 1, inner: 1, layout });
    let mut handed = vec![rows(0), rows(1), rows(1)];
    handed.extend(f.leaves.iter().map(|l| if l.by_query_rows { rows(0) } else { Placement::Whole }));
    let mut placements: BTreeMap<_, _> = operands.iter().map(|&v| (v, Placement::Whole)).collect();
    placements.extend(graph.results(op).into_iter().map(|v| (v, rows(0))));
    let program = Program {
        graph: Arc::new(graph),
        ranks: case.ranks,
        layouts: vec![q, kv],
        placements,
        segments: vec![Segment::Island(op)],
        islands: [(op, IslandSharding { q_layout: 0, kv_layout: 1, operands: handed })].into(),
        joined: BTreeMap::new(),
        refused: vec![],
    };
    (program, op)
}

/// The schedule that the pass makes of it.
fn compiled(program: &Program, op: OpId, way: Plan) -> Schedule {
    on_nodes(program, op, way, 1)
}

/// The same where ranks stand on so many nodes.
pub(crate) fn on_nodes(program: &Program, op: OpId, way: Plan, nodes: usize) -> Schedule {
    schedule::schedule(&Rewrite::on_nodes(program, op, way, nodes).unwrap(), SLOTS)
}

fn sizes(heads: (usize, usize), length: usize, dim: usize) -> AttentionSizes {
    AttentionSizes {
        batch: 1,
        q_heads: heads.0,
        kv_heads: heads.1,
        q_len: length,
        kv_len: length,
        head_dim: dim,
        v_head_dim: dim,
    }
}

fn plain(sizes: AttentionSizes, dtype: DType, mask: Mask) -> AttentionFacts {
    AttentionFacts {
        sizes,
        dtype,
        acc: dtype.accumulator(),
        scores: Scores::usual(0.5, 0.0, None, mask),
        sinks: None,
        dropout: None,
        empty_row: EmptyRow::Zero,
        lse: true,
        leaves: vec![],
    }
}

/// A causal attention on random numbers.
fn causal(length: usize, ranks: usize, layout: LayoutKind) -> Case {
    let facts = plain(sizes((4, 2), length, 4), DType::F32, Mask::causal(0));
    let mut n = Numbers(7);
    let args = vec![
        n.tensor(DType::F32, &[1, 4, length, 4], 1.0),
        n.tensor(DType::F32, &[1, 2, length, 4], 1.0),
        n.tensor(DType::F32, &[1, 2, length, 4], 1.0),
    ];
    Case { facts, args, layout, ranks, seed: 1 }
}

fn schedule_of(case: &Case, way: Way) -> Schedule {
    let (q, kv) = case.layouts();
    build(&case.facts, &q, &kv, way)
}

/// Logits of ±1e4 at 17 rows on 5 ranks: the maximum moves by 1e4 between chunks.
#[test]
fn logits_of_ten_thousand() {
    let mut case = causal(17, 5, LayoutKind::Zigzag);
    let mut n = Numbers(3);
    case.args[0] = n.tensor(DType::F32, &[1, 4, 17, 4], 150.0);
    case.args[1] = n.tensor(DType::F32, &[1, 2, 17, 4], 150.0);
    let (results, _) = run_case(&case, Way::Ring, 5).unwrap();
    check_case(&case, &results).unwrap();
}

/// A masked key takes no part although its key is NaN and its value infinite.
#[test]
fn poison_behind_the_mask_stays_there() {
    for ranks in [1, 2, 3, 7] {
        let mut case = causal(9, ranks, LayoutKind::Zigzag);
        case.facts.scores = Scores::usual(0.5, 0.0, None, Mask::causal(-3));
        let spoil = |x: &Tensor, bad: f64| {
            let mut y = x.to_f64();
            // Key 8 is seen by nobody; key 4 from row 7 on only.
            for head in 0..2 {
                y[(head * 9 + 8) * 4..][..4].fill(bad);
                y[(head * 9 + 4) * 4..][..4].fill(bad);
            }
            Tensor::from_f64(DType::F32, x.shape(), &y).unwrap()
        };
        case.args[1] = spoil(&case.args[1], f64::NAN);
        case.args[2] = spoil(&case.args[2], f64::INFINITY);
        let (results, _) = run_case(&case, Way::Ring, 0).unwrap();
        let (q, _) = case.layouts();
        let out = join(&results, 0, &q).to_f64();
        for row in 0..9 {
            for head in 0..4 {
                let finite = out[(head * 9 + row) * 4..][..4].iter().all(|x| x.is_finite());
                assert_eq!(finite, row < 7, "{ranks} ranks, row {row}");
            }
        }
        assert!(out[..3 * 4].iter().all(|&x| x == 0.0), "rows 0 to 2 see nothing");
    }
}

/// Traffic is what moves: every rank's keys and values P − 1 times.
#[test]
fn traffic_is_counted_as_it_moves() {
    for way in [Way::Ring, Way::AllGather] {
        let case = causal(10, 4, LayoutKind::Contiguous);
        let (_, traffic) = run_case(&case, way, 9).unwrap();
        let schedule = schedule_of(&case, way);
        assert_eq!(traffic.bytes_sent, schedule.bytes_sent());
        assert_eq!(traffic.bytes_sent.iter().sum::<usize>(), 3 * case.facts.kv_bytes(10));
        let messages = if way == Way::Ring { 3 } else { 1 };
        assert_eq!(traffic.messages, [messages; 4]);
    }
}

/// Every event of the ring is needed: without it some order gives NaN or a wrong number, never an unnoticed right one.
#[test]
fn a_missing_wait_shows_under_some_seed() {
    let mut case = causal(16, 4, LayoutKind::Contiguous);
    case.facts.scores = Scores::scaled(0.5);
    let args = case.local();
    let good = schedule_of(&case, Way::Ring);
    let (right, _) = run_island(&good, &args, 0).unwrap();
    let mut planted = 0;
    for rank in 0..4 {
        for step in 0..good.ranks[rank].steps.len() {
            for wait in 0..good.ranks[rank].steps[step].waits.len() {
                let mut bad = good.clone();
                bad.ranks[rank].steps[step].waits.remove(wait);
                let shows = (1..200).any(|seed| run_island(&bad, &args, seed).unwrap().0 != right);
                assert!(shows, "rank {rank}, step {step}, wait {wait}");
                planted += 1;
            }
        }
    }
    assert_eq!(planted, 4 * 5);
}

/// Keys whose last reader is done are NaN: who comes too early finds nothing old in a slot, only NaN or what it should.
#[test]
fn freed_bytes_are_nan() {
    let mut case = causal(20, 5, LayoutKind::Contiguous);
    case.facts.scores = Scores::scaled(0.5);
    let args = case.local();
    let mut schedule = schedule_of(&case, Way::Ring);
    let (right, _) = run_island(&schedule, &args, 0).unwrap();
    // The keys of the last hop lie where those of the hop before the last but one did.
    let last = schedule.ranks[2].steps.iter_mut().rfind(|s| matches!(s.op, StepOp::AttnPartial { .. }));
    last.unwrap().waits.clear();
    let mut early = 0;
    for seed in 1..300 {
        let (got, _) = run_island(&schedule, &args, seed).unwrap();
        if got != right {
            assert!(got[2][0].to_f64().iter().all(|x| x.is_nan()), "seed {seed}");
            early += 1;
        }
    }
    assert!(early > 0);
}

/// Steps that can never run are named, with what they wait for.
#[test]
fn a_deadlock_is_named() {
    let case = causal(8, 2, LayoutKind::Contiguous);
    let args = case.local();
    let mut schedule = schedule_of(&case, Way::Ring);
    schedule.ranks[1].steps[0].records = None;
    let e = run_island(&schedule, &args, 4).unwrap_err();
    assert_eq!(
        e.to_string(),
        "rank 0, island by hand, step 3 (attn_partial): deadlock: waits for event 2, which step 2 (sendrecv of group 1) \
         records; rank 0, step 2 waits for rank 1 to reach the same group; rank 1, step 3 waits for event 2, which step 2 \
         (sendrecv of group 1) records; rank 1, step 2 waits for event 0, which no step records"
    );
}

/// Two ranks that take two groups in opposite order wait for each other.
#[test]
fn groups_in_opposite_order_deadlock() {
    let case = causal(9, 3, LayoutKind::Contiguous);
    let args = case.local();
    let mut schedule = schedule_of(&case, Way::Ring);
    let steps = &mut schedule.ranks[0].steps;
    let exchanges: Vec<usize> = (0..steps.len()).filter(|&i| steps[i].stream == Stream::Comm(0)).collect();
    let (a, b) = (steps[exchanges[0]].op.clone(), steps[exchanges[1]].op.clone());
    (steps[exchanges[0]].op, steps[exchanges[1]].op) = (b, a);
    let e = run_island(&schedule, &args, 1).unwrap_err();
    assert!(e.why.contains("deadlock: waits for") && e.why.contains("to reach the same group"), "{e}");
}

/// What a schedule from untrusted text may claim is refused by name, without a panic.
#[test]
fn nonsense_is_refused() {
    let case = causal(8, 2, LayoutKind::Contiguous);
    let args = case.local();
    let good = schedule_of(&case, Way::Ring);
    let refuses = |what: &str, change: &dyn Fn(&mut Schedule)| {
        let mut bad = good.clone();
        change(&mut bad);
        let e = run_island(&bad, &args, 0).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    fn exchange(s: &mut Schedule, rank: usize) -> (&mut Vec<Transfer>, &mut Vec<Transfer>) {
        let StepOp::Exchange { sends, recvs, .. } = &mut s.ranks[rank].steps[2].op else {
            panic!("an exchange")
        };
        (sends, recvs)
    }
    /// What it sends first.
    fn sent(s: &mut Schedule) -> &mut View {
        let Place::Arena(view) = &mut exchange(s, 0).0[0].parts[0] else { panic!("a view") };
        view
    }
    fn received(s: &mut Schedule) -> &mut View {
        let Place::Arena(view) = &mut exchange(s, 1).1[0].parts[0] else { panic!("a view") };
        view
    }
    fn partial(s: &mut Schedule, step: usize) -> (&mut Vec<QPiece>, &mut Vec<KvPiece>) {
        let StepOp::AttnPartial { q, kv, .. } = &mut s.ranks[0].steps[step].op else { panic!("a partial") };
        (q, kv)
    }
    refuses("leave slot kv.local", &|s| sent(s).start = 1);
    refuses("leave slot kv.local", &|s| sent(s).start = usize::MAX);
    refuses("no slot 99", &|s| sent(s).slot = 99);
    refuses("leaves the arena", &|s| s.ranks[0].slots[0].offset = usize::MAX);
    refuses("leaves the arena", &|s| s.ranks[1].arena_bytes -= 1);
    refuses("the island can use", &|s| s.ranks[0].arena_bytes = 1 << 50);
    refuses("no other rank 0", &|s| exchange(s, 0).0[0].peer = 0);
    refuses("no other rank 7", &|s| exchange(s, 0).1[0].peer = 7);
    refuses("receives nothing from it", &|s| exchange(s, 1).1.clear());
    refuses("sends nothing to it", &|s| exchange(s, 1).0.clear());
    refuses("which receives 64", &|s| received(s).bytes = 64);
    refuses("takes part in group 1 twice", &|s| {
        let again = s.ranks[0].steps[2].clone();
        s.ranks[0].steps.push(Step { records: None, ..again });
    });
    refuses("event 0 is recorded twice", &|s| s.ranks[0].steps[1].records = Some(0));
    refuses("no run of the rank's own", &|s| partial(s, 1).0[0].rows = Progression::range(2, 4));
    refuses("no run of the rank's own", &|s| partial(s, 1).0[0].rows.len = usize::MAX);
    refuses("there are no rows 5:4:1", &|s| partial(s, 1).1[0].rows.start = 5);
    refuses("keys in 256 bytes, not 128", &|s| partial(s, 1).1[0].rows.len = 2);
    refuses("has no place", &|s| partial(s, 1).0[0].carry = None);
    refuses("a carry in 8 bytes", &|s| partial(s, 1).0[0].carry.as_mut().unwrap().bytes = 8);
    refuses("is never written", &|s| {
        let StepOp::AttnPartial { cast_out, .. } = &mut s.ranks[0].steps[3].op else { panic!("a partial") };
        *cast_out = false;
    });
    refuses("divide", &|s| s.attention.sizes.kv_heads = 3);
    refuses("the heads or the head size is 0", &|s| s.attention.sizes.batch = 0);
    refuses("2^40", &|s| s.attention.sizes.q_len = usize::MAX);
    refuses("a layout of 8 rows", &|s| s.attention.sizes.q_len = 9);
    refuses("are not among 8", &|s| s.q_layout.rows[0][0].step = 0);
    refuses("are not among 8", &|s| s.q_layout.rows[0][0].len = usize::MAX);
    refuses("7 of 8 rows are owned", &|s| s.kv_layout.rows[0][0].len = 3);
    let scores = |text: &str| text.parse::<Scores>().unwrap();
    refuses("no truth tensor", &|s| s.attention.scores = scores("fill -inf unless tensor(2)"));
    refuses("no floating tensor", &|s| s.attention.scores = scores("add 3"));
    refuses("no floating tensor", &|s| s.attention.scores = scores("factor leaf 3"));
    refuses("argument 0 is", &|s| s.attention.dtype = DType::F16);
    refuses("partial results in", &|s| s.attention.acc = DType::F16);
}

/// A step over no keys writes rows that see nothing.
#[test]
fn rows_without_keys_are_written_by_a_step_over_none() {
    let case = causal(3, 1, LayoutKind::Contiguous);
    let mut schedule = schedule_of(&case, Way::Ring);
    for (empty, want) in [(EmptyRow::Zero, 0.0), (EmptyRow::Nan, f64::NAN)] {
        schedule.attention.empty_row = empty;
        let StepOp::AttnPartial { kv, tile, .. } = &mut schedule.ranks[0].steps[1].op else {
            panic!("a partial")
        };
        kv.clear();
        *tile = Tile::Partial;
        let (results, _) = run_island(&schedule, &case.local(), 0).unwrap();
        assert!(results[0][0].to_f64().iter().all(|x| *x == want || (x.is_nan() && want.is_nan())));
        assert!(results[0][1].to_f64().iter().all(|&x| x == f64::NEG_INFINITY));
    }
}

/// The bits do not depend on how many threads there are.
#[test]
fn thread_counts_do_not_change_bits() {
    let case = causal(150, 3, LayoutKind::Zigzag);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run_case(&case, Way::Ring, 2).unwrap())
    };
    let one = on(1);
    check_case(&case, &one.0).unwrap();
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

/// A block with a residual around a causal attention; then a running sum over rows, which needs all of them.
fn block(length: usize) -> Graph {
    let mut g = Graph::new("block");
    let mut n = Numbers(11);
    let x = g.input("x", Type::new(DType::F32, [2, length, 8]));
    let mut heads = Vec::new();
    for (name, count) in [("q", 4), ("k", 2), ("v", 2)] {
        let weight = g.constant(&format!("w{name}"), n.tensor(DType::F32, &[8, count * 3], 0.5));
        let axes = Contract { lhs: "bsd".into(), rhs: "de".into(), out: "bse".into() };
        let y = g.add1(Op::Contract(axes), &[x, weight], name, "").unwrap();
        let y = g.add1(Op::Reshape(vec![2, length, count, 3]), &[y], name, "").unwrap();
        heads.push(g.add1(Op::Permute(vec![0, 2, 1, 3]), &[y], name, "").unwrap());
    }
    let attention = Attention::plain(0.6, DType::F32).masked(Mask::causal(0));
    let y = g.add1(Op::Attention(Box::new(attention)), &heads, "att", "").unwrap();
    let y = g.add1(Op::Permute(vec![0, 2, 1, 3]), &[y], "merge", "").unwrap();
    let y = g.add1(Op::Reshape(vec![2, length, 12]), &[y], "merge", "").unwrap();
    let weight = g.constant("wo", n.tensor(DType::F32, &[12, 8], 0.5));
    let axes = Contract { lhs: "bse".into(), rhs: "ed".into(), out: "bsd".into() };
    let y = g.add1(Op::Contract(axes), &[y, weight], "out", "").unwrap();
    let y = g.add1(Op::Binary(Binary::Add), &[x, y], "residual", "").unwrap();
    g.output("y", y);
    let sum = g.add1(Op::CumSum { axis: 1, exclusive: false, reverse: false }, &[y], "sum", "").unwrap();
    g.output("sum", sum);
    g
}

/// Local segments, islands and gathers in one program, against the oracle on one rank.
#[test]
fn a_block_runs_as_the_oracle_says() {
    for length in [1, 5, 16, 23] {
        let graph = Arc::new(block(length));
        let x = Numbers(5).tensor(DType::F32, &[2, length, 8], 1.0);
        let want = eval(&graph, std::slice::from_ref(&x), Precision::F64).unwrap();
        for ranks in [1, 2, 3, 8] {
            let program = shard(graph.clone(), &ShardOptions::new(ranks)).unwrap();
            let mut schedules = BTreeMap::new();
            for segment in &program.segments {
                if let Segment::Island(op) = segment {
                    schedules.insert(*op, Arc::new(compiled(&program, *op, Plan::Ring)));
                }
            }
            assert_eq!(schedules.len(), 1, "the attention is split");
            let gathers = program.segments.iter().filter(|s| matches!(s, Segment::Gather { .. })).count();
            let first = run(&program, &schedules, std::slice::from_ref(&x), 0).unwrap();
            for (got, want) in first.outputs.iter().zip(&want) {
                let want: Vec<(f64, f64)> = want.to_f64().iter().map(|&w| (w, 2e-5)).collect();
                assert_eq!(first_wrong(got, &want), None, "{length} rows on {ranks} ranks");
            }
            let again = run(&program, &schedules, std::slice::from_ref(&x), 77).unwrap();
            assert_eq!(again.outputs, first.outputs);
            assert_eq!(again.traffic, first.traffic);
            if ranks > 1 && length > 1 {
                assert!(gathers > 0, "the running sum needs all rows");
                let island: usize = schedules.values().flat_map(|s| s.bytes_sent()).sum();
                let rows = gathers * 2 * length * 8 * 4 * (ranks - 1);
                assert_eq!(first.traffic.bytes_sent.iter().sum::<usize>(), island + rows);
            }
        }
    }
}

/// Bytes that are being received are nobody's to read, even where the message brings what was there before.
#[test]
fn a_read_during_a_receive_shows() {
    let mut case = causal(8, 2, LayoutKind::Contiguous);
    case.facts.scores = Scores::scaled(0.5);
    let args = case.local();
    let mut schedule = schedule_of(&case, Way::Ring);
    let (right, _) = run_island(&schedule, &args, 0).unwrap();
    for rank in &mut schedule.ranks {
        // pack, partial, exchange, partial: the same exchange once more, for which nobody waits.
        let mut again = rank.steps[2].clone();
        let StepOp::Exchange { group, .. } = &mut again.op else { panic!("an exchange") };
        *group = 2;
        again.records = None;
        rank.steps.insert(3, again);
    }
    let shows = (1..200).any(|seed| run_island(&schedule, &args, seed).unwrap().0 != right);
    assert!(shows, "the partial read what was being received");
}
