//! What splitting costs on the CPU: one attention of 4096 rows, 8 heads over 2, head size 64, on 4 and 8 ranks over one.
//!
//! `cargo bench --bench ring`. All ranks share the cores of this process, so that a ratio of 1 means that chunks, transfers
//! and merges cost nothing; the median of several runs, as they are, and each against one rank with the same mask.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for people

use annulus::device::Device;
use annulus::ir::{Attention, DType, Graph, Op, Tensor, Type};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use annulus::{Compiled, Options};
use std::time::{Duration, Instant};

const ROWS: usize = 4096;
const RUNS: usize = 7;

fn attention(mask: Mask) -> Graph {
    let mut graph = Graph::new("ring");
    let q = graph.input("q", Type::new(DType::F32, [1, 8, ROWS, 64]));
    let k = graph.input("k", Type::new(DType::F32, [1, 2, ROWS, 64]));
    let v = graph.input("v", Type::new(DType::F32, [1, 2, ROWS, 64]));
    let attention = Attention::plain(0.125, DType::F32).masked(mask);
    let out = graph.add1(Op::Attention(Box::new(attention)), &[q, k, v], "o", "").unwrap();
    graph.output("out", out);
    graph
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let noise = |ty: &Type| {
        let values: Vec<f64> =
            (0..ty.elements()).map(|i| ((i * 7919 % 2003) as f64 - 1001.0) / 1001.0).collect();
        Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).unwrap()
    };
    graph.inputs().into_iter().map(|v| noise(graph.ty(v))).collect()
}

fn time(compiled: &Compiled, inputs: &[Tensor]) -> Duration {
    let start = Instant::now();
    annulus::run(compiled, inputs, 0).unwrap();
    start.elapsed()
}

fn main() {
    println!("one attention, {ROWS} rows, 8 heads over 2, head size 64, f32, on the CPU");
    println!("  mask    strategy    layout      ranks         ms  over one rank");
    for (name, mask) in [("full", Mask::none()), ("causal", Mask::causal(0))] {
        let graph = attention(mask);
        let inputs = inputs(&graph);
        for (strategy, layout) in [
            (Strategy::Ring, LayoutKind::Contiguous),
            (Strategy::Ring, LayoutKind::Zigzag),
            (Strategy::AllGather, LayoutKind::Zigzag),
        ] {
            let compiled: Vec<Compiled> = [1, 4, 8]
                .into_iter()
                .map(|ranks| {
                    let options =
                        Options::new(ranks).strategy(strategy).layout(layout).device(Device::named("cpu"));
                    annulus::compile(&graph, &options).unwrap_or_else(|e| panic!("{e}"))
                })
                .collect();
            // In turns, so that what else the machine does falls on all alike.
            let mut times = vec![vec![]; compiled.len()];
            for _ in 0..RUNS {
                for (compiled, times) in compiled.iter().zip(&mut times) {
                    times.push(time(compiled, &inputs));
                }
            }
            times.iter_mut().for_each(|t| t.sort_unstable());
            let ms = |t: &Vec<Duration>| t[RUNS / 2].as_secs_f64() * 1e3;
            for (compiled, t) in compiled.iter().zip(&times) {
                let (ranks, strategy, layout) = (compiled.program.ranks, strategy.name(), layout.name());
                let ratio = ms(t) / ms(&times[0]);
                println!("  {name:<7} {strategy:<11} {layout:<11} {ranks:>5}  {:>9.1}  {ratio:>13.3}", ms(t));
            }
        }
    }
}
