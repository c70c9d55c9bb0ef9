//! How time grows with the number of ranks: one causal attention on a zigzag ring, from its plan to its proof, and the whole
//! pass over every strategy.
//!
//! `cargo bench --bench ranks`. A ring of P ranks has P² hops and more, so that the figure to look at is µs a step; the bench fails
//! where a step costs many times as much on 1024 ranks as on 64. The device is a description that is made here: nodes of eight
//! GPUs, as many as it takes.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for people

use annulus::device::Device;
use annulus::ir::{Attention, DType, Graph, Op, Type};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::{Plan, Strategy};
use annulus::schedule::{SLOTS, cost::estimate, schedule};
use annulus::shard::{Segment, ShardOptions, shard};
use annulus::{Options, check, compile};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows of a rank.
const ROWS: usize = 2048;

/// How much more a step may cost on the most ranks than on the fewest: a factor of 2 to 4 is that caches no longer hold what is
/// looked at. If each step looked at all others of its rank, or at all ranks, it would be 16 times as much.
const MOST: f64 = 10.0;

fn attention(rows: usize) -> Graph {
    let mut graph = Graph::new("ranks");
    let ty = |heads| Type::new(DType::BF16, [1, heads, rows, 128]);
    let [q, k, v] = [("q", 64), ("k", 8), ("v", 8)].map(|(name, heads)| graph.input(name, ty(heads)));
    let attention = Attention::plain(0.09, DType::F32).masked(Mask::causal(0));
    let out = graph.add1(Op::Attention(Box::new(attention)), &[q, k, v], "o", "").unwrap();
    graph.output("out", out);
    graph
}

/// Nodes of eight.
fn device(ranks: usize) -> Device {
    let eight = include_str!("../src/device/h200x8x8.toml");
    let text = eight.replace("nodes = 8", &format!("nodes = {}", ranks.div_ceil(8)));
    Device::parse(&text, "made").unwrap()
}

/// The least of several runs, and what the last one gave: what else the machine does makes a run longer, never shorter.
fn timed<T>(runs: usize, mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut least = Duration::MAX;
    let mut last = None;
    for _ in 0..runs {
        drop(last.take());
        let start = Instant::now();
        last = Some(work());
        least = least.min(start.elapsed());
    }
    (least, last.unwrap())
}

fn main() {
    println!("one causal attention, {ROWS} rows a rank, 64 heads over 8, zigzag ring");
    println!("  ranks    steps   schedule     check  estimate   (ms, and µs a step)");
    let mut fewest: Option<[f64; 3]> = None;
    for ranks in [64, 256, 1024] {
        let runs = if ranks == 64 { 9 } else { 3 };
        let request = ShardOptions::new(ranks).layout(LayoutKind::Zigzag);
        let program = shard(Arc::new(attention(ranks * ROWS)), &request).unwrap();
        let islands = program.segments.iter();
        let op = islands
            .filter_map(|s| if let Segment::Island(op) = s { Some(*op) } else { None })
            .next()
            .unwrap();
        let device = device(ranks);
        let (made, ring) = timed(runs, || schedule(&Plan::new(&program, op, Strategy::Ring).unwrap(), SLOTS));
        let (proved, report) = timed(runs, || check::check(&ring));
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let (estimated, _) = timed(runs, || estimate(&ring, &device));
        let steps: usize = ring.ranks.iter().map(|r| r.steps.len()).sum();
        let ms = [made, proved, estimated].map(|t| t.as_secs_f64() * 1e3);
        let step = ms.map(|ms| ms * 1e3 / steps as f64);
        println!("  {ranks:>5}  {steps:>7}  {:>9.1} {:>9.1} {:>9.1}", ms[0], ms[1], ms[2]);
        println!("                  {:>9.2} {:>9.2} {:>9.2}", step[0], step[1], step[2]);
        let least = *fewest.get_or_insert(step);
        for (stage, (now, least)) in ["schedule", "check", "estimate"].iter().zip(step.iter().zip(least)) {
            let ratio = now / least;
            assert!(ratio < MOST, "{stage}: on {ranks} ranks a step costs {ratio:.1} times as much as on 64");
        }
    }
    println!(
        "\nthe whole pass over every strategy, and up to 256 ranks every layout\n  ranks         ms  chosen"
    );
    for ranks in [64, 256, 1024] {
        let graph = attention(ranks * ROWS);
        let options = Options::new(ranks).device(device(ranks));
        let (took, compiled) = timed(1, || compile(&graph, &options).unwrap_or_else(|e| panic!("{e}")));
        let island = &compiled.islands[0];
        let layouts = [island.schedule.q_layout.kind, island.schedule.kv_layout.kind];
        let chosen = annulus::label(island.strategy, island.nodes, layouts);
        println!("  {ranks:>5}  {:>9.1}  {chosen}", took.as_secs_f64() * 1e3);
    }
}
