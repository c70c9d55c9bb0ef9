//! How long each step takes alone.
//!
//! * `attn_partial`: the launch, and the longer of computing and moving bytes. Computed are whole tiles of queries × keys, of a
//!   partial tile only those in which the mask may keep a pair: 2 · pairs · B · Hq · (Dk + Dv) operations. Moved are the
//!   queries, keys, values, leaves and carries that are read, and what is written.
//! * `pack`: the launch, and its bytes read and written.
//! * A group of transfers: the latency of its farthest link, and for each link the time of each message and of the bytes, in
//!   and out apart, the links of both levels at the same time.

use crate::device::{Device, Link};
use crate::layout::{Progression, row_count};
use crate::mask::{Fill, Mask, Tile};
use crate::schedule::types::*;

/// Of each progression of query rows at most so many tiles are looked at one by one.
const LOOKS: usize = 1024;

/// The time of every step alone, in µs.
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
        let model = Model::new(schedule, device);
        let rank = |(r, program): (usize, &RankProgram)| {
            program.steps.iter().map(|step| model.step(r, &step.op)).collect()
        };
        Costs { steps: schedule.ranks.iter().enumerate().map(rank).collect(), slowdown: device.slowdown }
    }
}

struct Model<'a> {
    facts: &'a AttentionFacts,
    device: &'a Device,
    /// µs for a pair of rows, over all heads and batch entries.
    per_pair: f64,
    /// µs for a byte that a kernel moves.
    per_byte: f64,
}

impl<'a> Model<'a> {
    fn new(schedule: &'a Schedule, device: &'a Device) -> Model<'a> {
        let facts = &schedule.attention;
        let s = &facts.sizes;
        let width = s.head_dim as f64 + s.v_head_dim as f64;
        let flops = 2.0 * s.batch as f64 * s.q_heads as f64 * width;
        Model {
            facts,
            device,
            per_pair: flops / device.flops(facts.dtype, (width / 2.0).max(1.0)) * 1e6,
            per_byte: 1e-3 / device.memory_gb_s,
        }
    }

    fn step(&self, rank: usize, op: &StepOp) -> Cost {
        match op {
            StepOp::Pack { pieces } => {
                let bytes: f64 = pieces.iter().map(|p| p.at.bytes as f64).sum();
                Cost::Kernel(self.device.launch_us + 2.0 * bytes * self.per_byte)
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
            let over: Vec<&Transfer> =
                transfers.iter().filter(|t| self.device.link(rank, t.peer) == link).collect();
            if over.is_empty() {
                return (0.0, 0.0);
            }
            let bytes: f64 = over.iter().flat_map(|t| &t.views).map(|v| v.bytes as f64).sum();
            (link.latency_us, over.len() as f64 * link.message_us + bytes / link.gb_s * 1e-3)
        };
        let (node, network) = (time(&self.device.node), time(&self.device.network));
        node.0.max(network.0) + node.1.max(network.1)
    }

    /// Pairs of rows in the tiles that are computed.
    fn pairs(&self, q: &[QPiece], kv: &[KvPiece], tile: Tile) -> f64 {
        let mask = Some(&self.facts.mask).filter(|m| tile == Tile::Partial && m.fill == Fill::NegInf);
        let each = |q: &QPiece| kv.iter().map(|k| self.tiles(mask, &q.rows, &k.rows)).sum::<f64>();
        let [rows, keys] = self.device.tile;
        q.iter().map(each).sum::<f64>() * rows as f64 * keys as f64
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

    fn bytes(&self, q: &[QPiece], kv: &[KvPiece], tile: Tile, carry_in: bool, cast_out: bool) -> f64 {
        let (f, s) = (self.facts, &self.facts.sizes);
        let rows: f64 = q.iter().map(|p| p.rows.len as f64).sum();
        let keys = row_count(&kv.iter().map(|p| p.rows).collect::<Vec<_>>()) as f64;
        let per_row = s.batch as f64 * s.q_heads as f64;
        let element = f.dtype.bytes() as f64;
        let carry = rows * per_row * (s.v_head_dim as f64 + 2.0) * f.acc.bytes() as f64;
        let mut bytes = rows * per_row * s.head_dim as f64 * element;
        bytes += kv.iter().map(|p| p.at.bytes as f64).sum::<f64>();
        bytes += if carry_in { carry } else { 0.0 };
        bytes += if cast_out { rows * per_row * s.v_head_dim as f64 * element } else { carry };
        for (i, leaf) in f.leaves.iter().enumerate() {
            let is_mask = f.bias != Some(i + 3) && f.sinks != Some(i + 3);
            if f.sinks == Some(i + 3) || (is_mask && tile != Tile::Partial) {
                continue;
            }
            let extent = |axis: usize, part: f64| if leaf.shape[axis] == 1 { 1.0 } else { part };
            let elements = leaf.shape[0] as f64 * leaf.shape[1] as f64 * extent(2, rows) * extent(3, keys);
            bytes += elements * leaf.dtype.bytes() as f64;
        }
        bytes
    }
}
