//! How long each step takes.
//!
//! * `attn_partial`: the launch, and the longer of computing and moving bytes. Computed are whole tiles of queries × keys, of a
//!   partial tile only those in which the mask may keep a pair: 2 · pairs · B · Hq · (Dk + Dv) operations. Moved are the
//!   queries, keys, values, leaves and carries that are read, and what is written.
//! * `pack`, `unpack`: the launch, and its bytes read and written. `merge`: the launch, what it merges, and what is written.
//! * A group of transfers: the latency of its farthest link, and for each link the time of each message and of the bytes, in
//!   and out apart, the links of both levels at the same time. Bytes are slower by the part that the group's multiprocessors are of
//!   those that the link wants.
//! * A kernel that may have transfers beside it leaves them what they hold, of all that the device has, for its whole length.

use crate::device::{Device, Link};
use crate::ir::infer::attention_sizes;
use crate::ir::{Attention, AttentionSizes, DType, Type};
use crate::layout::{Layout, Progression};
use crate::mask::{Mask, Tile};
use crate::schedule::beside::held_beside;
use crate::schedule::blocks::Port;
use crate::schedule::facts::AttentionFacts;
use crate::schedule::mesh::Stream;
use crate::schedule::steps::{KvPiece, Merged, QPiece, Step, StepOp, Transfer};
use crate::schedule::types::{RankProgram, Schedule};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};

/// Of each progression of query rows at most so many tiles are looked at one by one.
const LOOKS: usize = 1024;

/// The time of every step, in µs.
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
    /// Of a kernel: on the whole device, and on what it leaves to the transfers that may be beside it.
    Kernel { alone: f64, takes: f64 },
    /// Of a group of transfers: for what goes out, and for what comes in. A µs of it takes at least so much of kernels.
    Transfers { out: f64, into: f64, lost: f64 },
}

impl Cost {
    /// How long the step takes if nothing keeps it and it has the whole device.
    pub(super) fn alone(self) -> f64 {
        match self {
            Cost::Kernel { alone, .. } => alone,
            Cost::Transfers { out, into, .. } => out.max(into),
        }
    }

    /// How long it takes where transfers are beside it that do not slow it.
    pub(super) fn takes(self) -> f64 {
        match self {
            Cost::Kernel { takes, .. } => takes,
            Cost::Transfers { .. } => self.alone(),
        }
    }

    /// How much of the kernels' time its transfers take at least, whatever runs beside them.
    pub(super) fn lost(self) -> f64 {
        match self {
            Cost::Kernel { .. } => 0.0,
            Cost::Transfers { lost, .. } => lost * self.alone(),
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
        Loads::of(schedule, device).costs(schedule, device)
    }

    /// What no run is below: of the rank that has most, the time of its transfers, or of its kernels with the least that these transfers
    /// can take of them (see `bound`).
    pub(super) fn least(&self, schedule: &Schedule) -> f64 {
        let of_rank = |(costs, program): (&Vec<Cost>, &RankProgram)| {
            let mut kernels = 0.0;
            // Those of each axis run beside those of the others.
            let mut transfers: Vec<[f64; 2]> = schedule.mesh.streams().map(|_| [0.0; 2]).collect();
            for (cost, step) in costs.iter().zip(&program.steps) {
                match cost {
                    Cost::Kernel { alone, .. } if step.stream == Stream::Compute => kernels += alone,
                    Cost::Kernel { .. } => {}
                    Cost::Transfers { .. } => {
                        let of_lane = transfers.get_mut(step.stream.lane());
                        of_lane.into_iter().for_each(|[time, lost]| {
                            *time += cost.alone();
                            *lost += cost.lost();
                        });
                    }
                }
            }
            let most = |of: usize| transfers.iter().map(|t| t[of]).fold(0.0, f64::max);
            f64::max(kernels + most(1), most(0))
        };
        self.steps.iter().zip(&schedule.ranks).map(of_rank).fold(0.0, f64::max)
    }
}

/// What a step has to do, whatever transfers may hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// The µs of a kernel on the whole device.
    Kernel(f64),
    /// What goes out, and what comes in.
    Transfers([Traffic; 2]),
}

impl Load {
    /// How long it takes: of a kernel, which leaves so many multiprocessors; of transfers, which hold so many.
    pub(super) fn cost(&self, device: &Device, leaves: usize, sms: Option<usize>) -> Cost {
        match self {
            Load::Kernel(alone) => Cost::Kernel { alone: *alone, takes: alone * slower(device, leaves) },
            Load::Transfers([out, into]) => {
                let slower = slower(device, sms.unwrap_or(0)) * (1.0 + device.slowdown);
                let [out, into] = [out, into].map(|traffic| traffic.us(device, sms));
                Cost::Transfers { out, into, lost: 1.0 - 1.0 / slower }
            }
        }
    }
}

/// Messages and bytes over the links within a node, and over those between nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic([(usize, f64); 2]);

impl Traffic {
    /// The µs that it takes with so many multiprocessors.
    pub(super) fn us(&self, device: &Device, sms: Option<usize>) -> f64 {
        let time = |link: &Link, (messages, bytes): (usize, f64)| {
            if messages == 0 {
                return (0.0, 0.0);
            }
            (link.latency_us, messages as f64 * link.message_us + bytes / link.rate(sms) * 1e-3)
        };
        let (node, network) = (time(&device.node, self.0[0]), time(&device.network, self.0[1]));
        node.0.max(network.0) + node.1.max(network.1)
    }

    /// With how many it is fastest.
    pub(super) fn wants(&self, device: &Device) -> usize {
        let of = |link: &Link, (messages, _): (usize, f64)| if messages > 0 { link.sms } else { 0 };
        of(&device.node, self.0[0]).max(of(&device.network, self.0[1]))
    }
}

/// What every step has to do, by rank and step.
pub(super) struct Loads(pub(super) Vec<Vec<Load>>);

impl Loads {
    pub(super) fn of(schedule: &Schedule, device: &Device) -> Loads {
        let mut model = Model::new(&schedule.attention, device);
        model.shared = model.shared(schedule);
        let rank = |(r, program): (usize, &RankProgram)| -> Vec<Load> {
            program.steps.iter().map(|step| model.step(r, &step.op)).collect()
        };
        Loads(schedule.ranks.par_iter().enumerate().map(rank).collect())
    }

    /// How long the steps take with what the schedule gives transfers.
    pub(super) fn costs(&self, schedule: &Schedule, device: &Device) -> Costs {
        let streams = schedule.mesh.streams().count();
        let rank = |(loads, program): (&Vec<Load>, &RankProgram)| -> Vec<Cost> {
            let held = held_beside(program, streams);
            let cost = |((load, step), held): ((&Load, &Step), usize)| {
                let sms = if let StepOp::Exchange { sms, .. } = step.op { sms } else { None };
                load.cost(device, held, sms)
            };
            loads.iter().zip(&program.steps).zip(held).map(cost).collect()
        };
        let steps = self.0.par_iter().zip(&schedule.ranks).map(rank).collect();
        Costs { steps, slowdown: device.slowdown }
    }
}

/// How many times as long a kernel takes that leaves so many multiprocessors: all but one at most.
pub(super) fn slower(device: &Device, leaves: usize) -> f64 {
    let all = device.sms.max(1);
    all as f64 / (all - leaves.min(all - 1)) as f64
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

    fn step(&self, rank: usize, op: &StepOp) -> Load {
        match op {
            StepOp::Pack { pieces } | StepOp::Unpack { pieces } => {
                let bytes: f64 = pieces.iter().map(|p| p.at.bytes as f64).sum();
                Load::Kernel(self.device.launch_us + 2.0 * bytes * self.per_byte)
            }
            StepOp::Merge { q, carry_in, cast_out, .. } => {
                let of = |m: &Merged| {
                    let partials = m.partials.iter().map(|v| v.bytes as f64).sum::<f64>();
                    partials + self.ends(m.rows.len, m.heads.len, *carry_in, *cast_out)
                };
                let bytes = q.iter().map(of).sum::<f64>();
                Load::Kernel(self.device.launch_us + bytes * self.per_byte)
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, cast_out, .. } => {
                let pairs = self.pairs(q, kv, *tile) * self.per_pair;
                let bytes = self.bytes(q, kv, *tile, *carry_in, *cast_out) * self.per_byte;
                Load::Kernel(self.device.launch_us + pairs.max(bytes))
            }
            StepOp::Exchange { sends, recvs, .. } => {
                Load::Transfers([sends, recvs].map(|transfers| self.transfers(rank, transfers)))
            }
        }
    }

    fn transfers(&self, rank: usize, transfers: &[Transfer]) -> Traffic {
        let levels = [&self.device.node, &self.device.network];
        Traffic(levels.map(|link| {
            let over = || transfers.iter().filter(|t| std::ptr::eq(self.device.link(rank, t.peer), link));
            (over().count(), over().map(|t| t.bytes(self.facts) as f64).sum())
        }))
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
