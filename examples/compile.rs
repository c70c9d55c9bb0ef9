//! Compiles a text graph from Rust, shows what came of it, runs all ranks in this process, and compares with the graph itself.
//!
//! `cargo run --example compile`

#![allow(clippy::print_stdout)]

use annulus::eval::{Precision, compare, eval};
use annulus::ir::{DType, Tensor, parse};
use annulus::layout::LayoutKind;
use annulus::{Options, compile, label, run};

/// A layer of a model as its author wrote it: projections, attention written out with its mask, and an addition behind it.
const GRAPH: &str = r#"graph "layer" {
  input %x: f32[1,16,32]
  const %half: f32[] = 0.35355339
  const %never: f32[] = -inf
  input %wq: f32[32,4,8]
  input %wk: f32[32,4,8]
  input %wv: f32[32,4,8]
  %q: f32[1,4,16,8] = contract %x, %wq {bie,ehd->bhid}
  %k: f32[1,4,16,8] = contract %x, %wk {bie,ehd->bhid}
  %v: f32[1,4,16,8] = contract %x, %wv {bie,ehd->bhid}
  %s: f32[1,4,16,16] = contract %q, %k {bhid,bhjd->bhij}
  %t: f32[1,4,16,16] = mul %s, %half
  %i: i64[16,1] = iota {axis=0}
  %j: i64[1,16] = iota {axis=1}
  %seen: bool[16,16] = le %j, %i
  %m: f32[1,4,16,16] = select %seen, %t, %never
  %p: f32[1,4,16,16] = softmax %m {axis=3}
  %a: f32[1,4,16,8] = contract %p, %v {bhij,bhjd->bhid}
  %o: f32[1,4,16,8] = add %a, %q
  output "o" = %o
}"#;

/// Numbers between −1 and 1 that look random and are the same in every run.
fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|i| (((i + seed) * 7919) % 1009) as f64 / 504.5 - 1.0).collect();
    Tensor::from_f64(DType::F32, shape, &values).expect("as many numbers as the shape has places")
}

/// Compiles for four ranks, prints, runs and compares.
/// It is an error if anything fails, or a result is not what the graph itself gives.
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let graph = parse(GRAPH)?;

    // What is asked: four ranks, and a layout under which causal work is equal. The strategy is chosen by time on the device.
    let mut options = Options::new(4);
    options.layout = Some(LayoutKind::Zigzag);
    let compiled = compile(&graph, &options)?;

    println!("attentions, and the rewritings that led to them:");
    for attention in &compiled.attentions {
        println!("  {}", attention.name);
        for step in &attention.applied {
            println!("    {:18} {:14} {}", step.rule, step.numerics.name(), step.what);
        }
    }

    let island = &compiled.islands[0];
    let proved: Vec<String> =
        island.report.passed.iter().map(|p| format!("{} ({})", p.check, p.facts)).collect();
    println!("\nproved, with the number of facts: {}", proved.join(", "));
    println!(
        "estimated on {}: {:.1} µs, and no order of these steps takes less than {:.1} µs",
        compiled.device.name, island.estimate.makespan_us, island.estimate.lower_bound_us
    );
    for rejected in island.rejected.iter().take(3) {
        println!(
            "not taken: {}, {}",
            label(rejected.strategy, rejected.nodes, rejected.layouts),
            rejected.reason
        );
    }
    println!("\nthe schedule of all ranks:\n{}", island.schedule);
    println!("the graph of rank 1:\n{}", compiled.rank_graph(1)?);

    // Every rank in this process, streams and events honoured, and the graph as it stands beside it.
    let inputs: Vec<Tensor> = graph
        .inputs()
        .into_iter()
        .enumerate()
        .map(|(seed, v)| numbers(&graph.ty(v).shape, 31 * seed))
        .collect();
    let ran = run(&compiled, &inputs, 0)?;
    let want = eval(&graph, &inputs, Precision::F64)?;
    let apart = compare(&ran.outputs[0], &want[0], 1e-5, 1e-5, false)?;
    println!("bytes sent by each rank: {:?}", ran.traffic.bytes_sent);
    println!("largest difference from the graph evaluated in f64: {:.1e}", apart.max_abs_error);
    if apart.within { Ok(()) } else { Err("the ranks computed something else".into()) }
}
