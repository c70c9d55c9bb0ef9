//! Schedules of one attention, and numbers to run them on.

use super::case::{Random, bytes};
use annulus::device::Device;
use annulus::exec::cuda::{Buffer, CudaError, Gpu};
use annulus::ir::{Attention, DType, Graph, Op, Type};
use annulus::layout::LayoutKind;
use annulus::lower::Element;
use annulus::mask::Mask;
use annulus::ring::{Plan, Strategy};
use annulus::schedule::{SLOTS, Schedule, schedule};
use annulus::shard::{Segment, ShardOptions, shard};
use rayon::prelude::*;
use std::sync::Arc;

/// Size of a head.
pub(crate) const D: usize = 128;

/// How large it is: what a test takes, what a person takes, and all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Tiny,
    Quick,
    Whole,
}

impl Size {
    pub(crate) fn of(word: Option<&str>) -> Size {
        match word {
            Some("tiny") => Size::Tiny,
            Some("quick") => Size::Quick,
            _ => Size::Whole,
        }
    }

    /// Heads of queries and of keys.
    pub(crate) fn heads(self) -> [usize; 2] {
        if self == Size::Tiny { [2, 1] } else { [32, 8] }
    }

    /// How often each time is taken.
    pub(crate) fn times(self) -> usize {
        if self == Size::Tiny { 1 } else { 7 }
    }
}

/// Causal attention in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Island {
    /// Heads of queries and of keys.
    pub(crate) heads: [usize; 2],
    /// Of queries and keys, over all ranks.
    pub(crate) rows: usize,
    pub(crate) ranks: usize,
    pub(crate) strategy: Strategy,
    pub(crate) nodes: usize,
}

impl Island {
    pub(crate) fn name(&self) -> String {
        format!("{}/{} heads, S {}, D {D}, causal, bf16", self.heads[0], self.heads[1], self.rows)
    }

    /// How its ranks go about it.
    pub(crate) fn way(&self) -> String {
        let nodes = if self.nodes > 1 { format!(" on {} nodes", self.nodes) } else { String::new() };
        format!("{}{nodes}", self.strategy)
    }

    pub(crate) fn schedule(&self) -> Result<Schedule, String> {
        let mut graph = Graph::new("island");
        let ty = |heads| Type::new(DType::BF16, [1, heads, self.rows, D]);
        let [q, k, v] = [("q", self.heads[0]), ("k", self.heads[1]), ("v", self.heads[1])]
            .map(|(n, h)| graph.input(n, ty(h)));
        let attention = Attention::plain(1.0 / (D as f64).sqrt(), DType::F32).masked(Mask::causal(0));
        let out = graph.add1(Op::Attention(Box::new(attention)), &[q, k, v], "o", "");
        graph.output("out", out.map_err(|e| e.to_string())?);
        let program = shard(Arc::new(graph), &ShardOptions::new(self.ranks).layout(LayoutKind::Zigzag));
        let program = program.map_err(|e| e.to_string())?;
        let island = |s: &Segment| if let Segment::Island(op) = s { Some(*op) } else { None };
        let op = program.segments.iter().find_map(island).ok_or("no island was made")?;
        let plan = Plan::on_nodes(&program, op, self.strategy, self.nodes).map_err(|e| e.to_string())?;
        Ok(schedule(&plan, SLOTS))
    }
}

/// A node of eight: as it is, or joined by what joins nodes.
pub(crate) fn device(fast: bool) -> Device {
    let mut device = Device::named("h200x8").expect("it is bundled");
    if !fast {
        device.node = device.network;
    }
    device
}

/// Normal numbers in bf16; an odd number of them, so that copies do not line up.
pub(crate) fn pool(count: usize) -> Vec<u8> {
    let parts = (0..count.div_ceil(1 << 16) as u64).into_par_iter().map(|i| {
        let mut random = Random(i << 32);
        let normal: Vec<f32> = (0..1 << 16).map(|_| random.normal()).collect();
        bytes(Element::Bf16, &normal)
    });
    let parts: Vec<Vec<u8>> = parts.collect();
    parts.concat()[..2 * count].to_vec()
}

/// Of what is done several times on the device: the median time of one in milliseconds, and that of telling it, in µs.
pub(crate) fn timed(
    gpu: &Gpu,
    times: usize,
    mut work: impl FnMut() -> Result<(), CudaError>,
) -> Result<(f64, f64), CudaError> {
    let (mut device, mut host) = (vec![], vec![]);
    // Stand-ins have no time.
    let clock = !gpu.name()?.contains("stand-in");
    for _ in 0..times {
        let mut told = 0.0;
        let mut tell = || {
            let begin = std::time::Instant::now();
            let done = work();
            told = begin.elapsed().as_secs_f64() * 1e6;
            done
        };
        let ms = if clock { gpu.time(&mut tell)? } else { tell().map(|()| 0.0)? };
        gpu.finish()?;
        device.push(f64::from(ms));
        host.push(told);
    }
    Ok((median(device), median(host)))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The numbers on the device.
pub(crate) fn on_device(gpu: &Gpu, count: usize) -> Result<Buffer, CudaError> {
    gpu.upload(&pool(count))
}
