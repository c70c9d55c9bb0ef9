//! What the host spends on a step before any kernel runs: lowering a schedule to device programs, and walking them over an engine that
//! does nothing.
//!
//! `cargo bench --bench walk`. One causal attention on 64 ranks, by strategy; the figure to look at is µs an operation, and the bench
//! fails where lowering and walking together take more than 1.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for people

use annulus::exec::walk::{Engine, Local, Marks, Spread, walk_all};
use annulus::ir::{Attention, DType, Graph, Op, Type};
use annulus::layout::LayoutKind;
use annulus::lower::Arch;
use annulus::lower::program::{self, Action, Address, Launch, Target, lower};
use annulus::mask::Mask;
use annulus::ring::{Plan, Strategy};
use annulus::schedule::{SLOTS, schedule};
use annulus::shard::{Segment, ShardOptions, shard};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RANKS: usize = 64;
const ROWS: usize = 2048;
/// µs an operation, lowered and walked.
const MOST: f64 = 1.0;

/// An engine that counts.
#[derive(Default)]
struct Nothing {
    marks: usize,
    copies: usize,
    launches: usize,
}

impl Engine for Nothing {
    type Pointer = u64;
    type Error = Infallible;

    fn pointer(&self, at: Address) -> u64 {
        at.offset as u64
    }

    fn launch(&mut self, _: usize, _: usize, _: &Launch) -> Result<(), Infallible> {
        self.launches += 1;
        Ok(())
    }

    fn copy(&mut self, _: usize, _: Spread<u64>) -> Result<(), Infallible> {
        self.copies += 1;
        Ok(())
    }

    fn record(&mut self, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn wait(&mut self, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn query(&mut self, _: usize) -> Result<bool, Infallible> {
        Ok(true)
    }
}

impl Marks for Nothing {
    type Mark = usize;

    fn mark(&mut self, _: usize) -> Result<usize, Infallible> {
        self.marks += 1;
        Ok(self.marks)
    }

    fn wait_mark(&mut self, _: usize, _: &usize) -> Result<(), Infallible> {
        Ok(())
    }
}

fn attention(rows: usize) -> Graph {
    let mut graph = Graph::new("walk");
    let ty = |heads| Type::new(DType::BF16, [1, heads, rows, 128]);
    let [q, k, v] = [("q", 64), ("k", 8), ("v", 8)].map(|(name, heads)| graph.input(name, ty(heads)));
    let attention = Attention::plain(0.09, DType::F32).masked(Mask::causal(0));
    let out = graph.add1(Op::Attention(Box::new(attention)), &[q, k, v], "o", "").unwrap();
    graph.output("out", out);
    graph
}

/// A group is as many as it has messages: each is handed over and fetched on its own.
fn operations(op: &program::Op) -> usize {
    match &op.action {
        Action::Group(group) => (group.sends.len() + group.recvs.len()).max(1),
        _ => 1,
    }
}

/// The least of several runs: what else the machine does makes a run longer, never shorter.
fn timed<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut least = Duration::MAX;
    let mut last = None;
    for _ in 0..9 {
        drop(last.take());
        let start = Instant::now();
        last = Some(work());
        least = least.min(start.elapsed());
    }
    (least, last.unwrap())
}

fn main() {
    println!("one causal attention, {RANKS} ranks, {ROWS} rows a rank, 64 heads over 8; µs an operation");
    println!("  (a group counts as its messages)");
    println!("  strategy           operations  launches   copies    lower     walk   together");
    let request = ShardOptions::new(RANKS).layout(LayoutKind::Zigzag);
    let program = shard(Arc::new(attention(RANKS * ROWS)), &request).unwrap();
    let islands = program.segments.iter();
    let op =
        islands.filter_map(|s| if let Segment::Island(op) = s { Some(*op) } else { None }).next().unwrap();
    let mut worst = 0.0f64;
    for way in Strategy::ALL {
        let schedule = schedule(&Plan::new(&program, op, way).unwrap(), SLOTS);
        let (lowered, programs) = timed(|| lower(&schedule, Target::Cuda(Arch::Sm90a)).unwrap());
        let (walked, engines) = timed(|| {
            let mut engines: Vec<Nothing> = programs.iter().map(|_| Nothing::default()).collect();
            walk_all(&programs, &mut engines, &mut Local::ends(RANKS)).unwrap();
            engines
        });
        let ops: usize = programs.iter().flat_map(|p| &p.ops).map(operations).sum();
        let launches: usize = engines.iter().map(|e| e.launches).sum();
        let copies: usize = engines.iter().map(|e| e.copies).sum();
        let each = |t: Duration| t.as_secs_f64() * 1e6 / ops as f64;
        let (lower, walk) = (each(lowered), each(walked));
        println!(
            "  {:<18} {ops:>10} {launches:>9} {copies:>8} {lower:>8.3} {walk:>8.3} {:>10.3}",
            way.name(),
            lower + walk
        );
        worst = worst.max(lower + walk);
    }
    assert!(worst < MOST, "{worst:.3} µs an operation, and at most {MOST} is wanted");
}
