//! A device of one's own: its description as text, and how what the pass chooses changes with it.
//!
//! `cargo run --example device`

#![allow(clippy::print_stdout)]

use annulus::device::Device;
use annulus::ir::parse;
use annulus::{Options, compile, label};

/// Causal attention over 32768 rows with 8 key heads, as a layer of a large model has it.
const GRAPH: &str = r#"graph "long" {
  input %q: bf16[1,32,32768,128]
  input %k: bf16[1,8,32768,128]
  input %v: bf16[1,8,32768,128]
  %o: bf16[1,32,32768,128] = attention %q, %k, %v {scores=[factor 0.08838834764831845 | fill -inf unless causal(0)], acc=f32, empty=zero}
  output "o" = %o
}"#;

/// Eight GPUs in one node whose links carry `gb_s` 10⁹ bytes a second. `src/device/h200x8.toml` says what each field means.
fn description(name: &str, gb_s: f64) -> String {
    format!(
        r#"
name = "{name}"
kind = "gpu"
nodes = 1
ranks_per_node = 8

launch_us = 4.0
memory_gb_s = 2000.0
tile = [128, 128]
slowdown = 0.1

[tflops.bf16]
64 = 200.0
128 = 250.0

[tflops.f16]
64 = 200.0
128 = 250.0

[tflops.f32]
64 = 20.0

[tflops.f64]
64 = 10.0

[link.node]
gb_s = {gb_s:?}
latency_us = 10.0
message_us = 2.0
"#
    )
}

/// Compiles the same graph for links of three speeds, and prints what is chosen.
/// It is an error if anything fails, or all three choices are the same.
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let graph = parse(GRAPH)?;
    let mut chosen = Vec::new();
    for (name, gb_s) in [("fast links", 400.0), ("slow links", 5.0), ("a network", 0.5)] {
        let mut options = Options::new(8);
        options.device = Some(Device::parse(&description(name, gb_s), name)?);
        let compiled = compile(&graph, &options)?;
        let island = &compiled.islands[0];
        let (estimate, schedule) = (&island.estimate, &island.schedule);
        let choice = label(island.strategy, island.nodes, [schedule.q_layout.kind, schedule.kv_layout.kind]);
        println!(
            "{name:11} {gb_s:5.1} GB/s: {choice}, {:.0} µs of which {:.0} µs are transfers that nothing hides; limited by {}",
            estimate.makespan_us, estimate.exposed_us, estimate.limiter
        );
        if let Some(next) = island.rejected.first() {
            println!("    next best: {}, {}", label(next.strategy, next.nodes, next.layouts), next.reason);
        }
        chosen.push(choice);
    }

    // A description that is wrong is refused by line and field.
    let wrong = description("wrong", 400.0).replace("slowdown = 0.1", "slowdown = 11.0");
    if let Err(error) = Device::parse(&wrong, "wrong.toml") {
        println!("\n{error}");
    }
    chosen.dedup();
    if chosen.len() > 1 { Ok(()) } else { Err("the device changes nothing".into()) }
}
