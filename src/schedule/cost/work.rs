//! How long each step takes alone.
//!
//! * `attn_partial`: the launch, and the longer of computing and moving bytes. Computed are whole tiles of queries × keys, of a
//!   partial tile only those in which the mask may keep a pair: 2 · pairs · B · Hq · (Dk + Dv) operations. Moved are the
//!   queries, keys, values, leaves and carries that are read, and what is written.
//! * `pack`, `unpack`: the launch, and its bytes read and written. `merge`: the launch, what it merges, and what is written.
//! * A group of transfers: the latency of its farthest link, and for each link the time of each message and of the bytes, in
//!   and out apart, the links of both levels at the same time.

use crate::device::{Device, Link};
use crate::ir::infer::attention_sizes;
use crate::ir::{Attention, AttentionSizes, DType, Type};
use crate::layout::{Layout, Progression};
use crate::mask::{Mask, Tile};
use crate::schedule::blocks::Port;
use crate::schedule::facts::AttentionFacts;
use crate::schedule::mesh::Stream;
use crate::schedule::steps::{KvPiece, Merged, QPiece, StepOp, Transfer};
use crate::schedule::types::{RankProgram, Schedule};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};

/// Of each progression of query rows at most so many tiles are looked at one by one.
const LOOKS: usize = 1024;

/// The time of every step alone, in µs.
#[derive(Debug)]
pub(super) struct Costs {
    /// By rank and step.
    pub(super) steps: Vec<Vec<Cost>>,
    /// Kernels take 1 + this times as long while transfers are under way.
    pub(super) slowdown: f64,
}

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cost {
    /// Of a kernel.
    Kernel(f64),
    /// Of a group of transfers: for what goes out, and for what comes in.
    Transfers { out: f64, into: f64 },
}

impl Cost {
    /// How long the step takes if nothing keeps it.
    pub(super) fn alone(self) -> f64 {
        match self {
            Cost::Kernel(t) => t,
            Cost::Transfers { out, into } => out.max(into),
        }
    }
}

/// The time of the message from a rank's group to another's.
pub(super) fn message(from: Cost, to: Cost) -> f64 {
    match (from, to) {
        (Cost::Transfers { out, .. }, Cost::Transfers { into, .. }) => out.max(into),
        _ => 0.0,
    }
}

impl Costs {
    pub(super) fn of(schedule: &Schedule, device: &Device) -> Costs {
        let mut model = Model::new(&schedule.attention, device);
        model.shared = model.shared(schedule);
        let rank = |(r, program): (usize, &RankProgram)| -> Vec<Cost> {
            program.steps.iter().map(|step| model.step(r, &step.op)).collect()
        };
        let steps = schedule.ranks.par_iter().enumerate().map(rank).collect();
        Costs { steps, slowdown: device.slowdown }
    }

    /// What no run is below: of the rank that has most, the time of its transfers, or of its kernels with the least slowdown
    /// that these transfers can mean (see `bound`).
    pub(super) fn least(&self, schedule: &Schedule) -> f64 {
        let kappa = self.slowdown / (1.0 + self.slowdown);
        let of_rank = |(costs, program): (&Vec<Cost>, &RankProgram)| {
            let mut kernels = 0.0;
            // Those of each axis run beside those of the others.
            let mut transfers: Vec<f64> = schedule.mesh.streams().map(|_| 0.0).collect();
            for (cost, step) in costs.iter().zip(&program.steps) {
                match cost {
                    Cost::Kernel(time) if step.stream == Stream::Compute => kernels += time,
                    Cost::Kernel(_) => {}
                    Cost::Transfers { .. } => {
                        transfers.get_mut(step.stream.lane()).into_iter().for_each(|t| *t += cost.alone());
                    }
                }
            }
            let transfers = transfers.into_iter().fold(0.0, f64::max);
            f64::max(kernels + kappa * transfers, transfers)
        };
        self.steps.iter().zip(&schedule.ranks).map(of_rank).fold(0.0, f64::max)
    }
}

/// Of very long pieces the model looks at a sample of tiles, which may have a little less work than all.
const SURE: f64 = 0.99;

/// What no schedule of an attention under these layouts (of its query rows and of its key rows) is below, in µs: the pairs that
/// the mask keeps for the rank that has most of them, at the rate of the device. The operands' types are those of the attention.
/// If queries stay `at_home`, a rank has all pairs of its rows; wherever they are computed, the busiest rank has at least the mean.
///
/// Tiles hold at least the pairs that the mask keeps.
pub(crate) fn least(
    attention: &Attention,
    operands: &[Type],
    [q, kv]: [&Layout; 2],
    at_home: bool,
    device: &Device,
) -> f64 {
    let [q_type, k_type, v_type, ..] = operands else { return 0.0 };
    let Ok(sizes) = attention_sizes(q_type, k_type, v_type) else { return 0.0 };
    let pairs = |p: &Progression| attention.scores.live().area(p.start, p.start + p.len, kv.length) as f64;
    // Rows that are apart are counted in the mean alone.
    let of = |rows: &Vec<Progression>| rows.iter().filter(|p| p.step == 1).map(pairs).sum::<f64>();
    let mean = pairs(&Progression::range(0, q.length)) / q.ranks() as f64;
    let most = if at_home { q.rows.iter().map(of).fold(mean, f64::max) } else { mean };
    SURE * most * per_pair(&sizes, q_type.dtype, device)
}

/// µs for a pair of rows, over all heads and batch entries.
fn per_pair(s: &AttentionSizes, dtype: DType, device: &Device) -> f64 {
    let width = s.head_dim as f64 + s.v_head_dim as f64;
    let flops = 2.0 * s.batch as f64 * s.q_heads as f64 * width;
    flops / device.flops(dtype, (width / 2.0).max(1.0)) * 1e6
}

struct Model<'a> {
    facts: &'a AttentionFacts,
    device: &'a Device,
    /// µs for a pair of rows, over all heads and batch entries.
    per_pair: f64,
    /// µs for a byte that a kernel moves.
    per_byte: f64,
    /// Tiles of masked pairs of pieces that many steps compute, each in other heads.
    shared: BTreeMap<(Progression, Progression), f64>,
}

impl<'a> Model<'a> {
    fn new(facts: &'a AttentionFacts, device: &'a Device) -> Model<'a> {
        let per_pair = per_pair(&facts.sizes, facts.dtype, device);
        Model { facts, device, per_pair, per_byte: 1e-3 / device.memory_gb_s, shared: BTreeMap::new() }
    }

    fn step(&self, rank: usize, op: &StepOp) -> Cost {
        match op {
            StepOp::Pack { pieces } | StepOp::Unpack { pieces } => {
                let bytes: f64 = pieces.iter().map(|p| p.at.bytes as f64).sum();
                Cost::Kernel(self.device.launch_us + 2.0 * bytes * self.per_byte)
            }
            StepOp::Merge { q, carry_in, cast_out, .. } => {
                let of = |m: &Merged| {
                    let partials = m.partials.iter().map(|v| v.bytes as f64).sum::<f64>();
                    partials + self.ends(m.rows.len, m.heads.len, *carry_in, *cast_out)
                };
                let bytes = q.iter().map(of).sum::<f64>();
                Cost::Kernel(self.device.launch_us + bytes * self.per_byte)
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, cast_out, .. } => {
                let pairs = self.pairs(q, kv, *tile) * self.per_pair;
                let bytes = self.bytes(q, kv, *tile, *carry_in, *cast_out) * self.per_byte;
                Cost::Kernel(self.device.launch_us + pairs.max(bytes))
            }
            StepOp::Exchange { sends, recvs, .. } => {
                Cost::Transfers { out: self.transfers(rank, sends), into: self.transfers(rank, recvs) }
            }
        }
    }

    fn transfers(&self, rank: usize, transfers: &[Transfer]) -> f64 {
        let time = |link: &Link| {
            let over = || transfers.iter().filter(|t| std::ptr::eq(self.device.link(rank, t.peer), link));
            let messages = over().count();
            if messages == 0 {
                return (0.0, 0.0);
            }
            let bytes: f64 = over().map(|t| t.bytes(self.facts) as f64).sum();
            (link.latency_us, messages as f64 * link.message_us + bytes / link.gb_s * 1e-3)
        };
        let (node, network) = (time(&self.device.node), time(&self.device.network));
        node.0.max(network.0) + node.1.max(network.1)
    }

    /// Pairs of rows in the tiles that are computed, for the part of the heads that each query piece has.
    fn pairs(&self, q: &[QPiece], kv: &[KvPiece], tile: Tile) -> f64 {
        let mask = Some(self.facts.scores.live()).filter(|_| tile == Tile::Partial);
        let heads = self.facts.sizes.q_heads.max(1) as f64;
        let each = |q: &QPiece| {
            let known = |k: &KvPiece| self.shared.get(&(q.rows, k.rows)).filter(|_| mask.is_some()).copied();
            let of = |k: &KvPiece| known(k).unwrap_or_else(|| self.tiles(mask, &q.rows, &k.rows));
            let tiles = kv.iter().map(of).sum::<f64>();
            tiles * (q.heads.len as f64 / heads)
        };
        let [rows, keys] = self.device.tile;
        q.iter().map(each).sum::<f64>() * rows as f64 * keys as f64
    }

    /// The tiles of masked pairs of pieces, each counted once, if most are met more than once.
    fn shared(&self, schedule: &Schedule) -> BTreeMap<(Progression, Progression), f64> {
        let (mut met, mut pairs) = (0usize, HashSet::new());
        for step in schedule.ranks.iter().flat_map(|r| &r.steps) {
            let StepOp::AttnPartial { q, kv, tile: Tile::Partial, .. } = &step.op else { continue };
            met += q.len() * kv.len();
            for q in q {
                pairs.extend(kv.iter().map(|k| (q.rows, k.rows)));
            }
        }
        if met < 2 * pairs.len() {
            return BTreeMap::new();
        }
        let mask = Some(self.facts.scores.live());
        // Each has its own place, whatever the order in which they are counted.
        let pairs: Vec<_> = pairs.into_iter().collect();
        pairs.into_par_iter().map(|(q, k)| ((q, k), self.tiles(mask, &q, &k))).collect()
    }

    /// Tiles of two progressions that are computed.
    fn tiles(&self, mask: Option<&Mask>, q: &Progression, k: &Progression) -> f64 {
        let [rows, keys] = self.device.tile;
        let Some(mask) = mask else { return q.len.div_ceil(rows) as f64 * k.len.div_ceil(keys) as f64 };
        let tiles = q.len.div_ceil(rows);
        let stride = tiles.div_ceil(LOOKS).max(1);
        let look = |first: usize| {
            let (from, len) = (first * rows, rows.min(q.len - first * rows));
            let part = Progression { start: q.start + from * q.step, len, step: q.step };
            let seen = mask.hull(&part, k);
            let over = if seen.is_empty() { 0 } else { seen.end.div_ceil(keys) - seen.start / keys };
            // It stands for those up to the next that is looked at.
            over as f64 * stride.min(tiles - first) as f64
        };
        (0..tiles).step_by(stride).map(look).sum()
    }

    /// What is read and written of a carry or of the result of so many rows and heads.
    fn ends(&self, rows: usize, heads: usize, carry_in: bool, cast_out: bool) -> f64 {
        let f = self.facts;
        let carry = f.carry_bytes(rows, heads) as f64;
        let out = if cast_out { f.block_bytes(Port::Out, rows, heads) as f64 } else { carry };
        out + if carry_in { carry } else { 0.0 }
    }

    fn bytes(&self, q: &[QPiece], kv: &[KvPiece], tile: Tile, carry_in: bool, cast_out: bool) -> f64 {
        let f = self.facts;
        let keys: f64 = kv.iter().map(|p| p.rows.len as f64).sum();
        let of_keys = |p: &KvPiece| f.block_bytes(Port::Kv, p.rows.len, p.heads.len) as f64;
        let mut bytes = kv.iter().map(of_keys).sum::<f64>();
        for p in q {
            bytes += f.block_bytes(Port::Q, p.rows.len, p.heads.len) as f64;
            bytes += self.ends(p.rows.len, p.heads.len, carry_in, cast_out);
        }
        // Of rows that several pieces have the leaf is read once.
        let rows: f64 = q.iter().map(|p| p.rows.len as f64).sum();
        for (i, leaf) in f.leaves.iter().enumerate() {
            let is_mask = leaf.dtype == DType::Bool;
            if f.sinks == Some(i + 3) || (is_mask && tile != Tile::Partial) {
                continue;
            }
            let extent = |axis: usize, part: f64| if leaf.shape[axis] == 1 { 1.0 } else { part };
            let heads = q.iter().map(|p| p.heads.len).max().unwrap_or(0) as f64;
            let elements = leaf.shape[0] as f64 * extent(1, heads) * extent(2, rows) * extent(3, keys);
            bytes += elements * leaf.dtype.bytes() as f64;
        }
        bytes
    }
}
