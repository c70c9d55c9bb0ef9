//! A schedule becomes the programs of its ranks, step by step.

use super::bytes::{Address, Base};
use super::error::{LowerError, Why};
use super::place::Places;
use super::scores::Scorings;
use super::types::{
    Action, Argument, Copy, Grid, Group, Kernel, Launch, Message, Op, Program, Region, Shared, Target, Work,
};
use crate::ir::DType;
use crate::schedule::beside::held_beside;
use crate::schedule::{AttentionFacts, RankProgram, Schedule, StepOp, Transfer};
use std::sync::Arc;

/// What is added behind the arena begins at a multiple of this.
const ALIGN: usize = 256;

/// The programs of all ranks.
///
/// # Errors
/// A step that no kernel of the target computes, or a schedule that cannot run; of the first rank that has one.
pub fn lower(schedule: &Schedule, target: Target) -> Result<Vec<Program>, LowerError> {
    let mut scorings = Scorings::new(&schedule.attention, target);
    let mut programs = Vec::with_capacity(schedule.ranks.len());
    for rank in 0..schedule.ranks.len() {
        programs.push(rank_program(schedule, target, rank, &mut scorings)?);
    }
    let tables = Arc::new(scorings.into_tables());
    programs.iter_mut().for_each(|p| p.tables = tables.clone());
    Ok(programs)
}

fn rank_program<'a>(
    schedule: &'a Schedule,
    target: Target,
    rank: usize,
    scorings: &mut Scorings<'a>,
) -> Result<Program, LowerError> {
    let program = &schedule.ranks[rank];
    let fault = |step: usize, why: Why| {
        let op = program.steps.get(step).map_or_else(|| "its place in the island".into(), |s| op_name(&s.op));
        LowerError { rank, step, op, why }
    };
    facts(&schedule.attention).map_err(|why| fault(usize::MAX, why.into()))?;
    let places = Places::of(schedule, rank).map_err(|why| fault(usize::MAX, why.into()))?;
    scorings.enter();
    let streams: Vec<String> = schedule.mesh.streams().map(|s| schedule.mesh.stream_name(s)).collect();
    let mut b = Builder {
        facts: &schedule.attention,
        places,
        target,
        stream: 0,
        step: 0,
        leaves: held_beside(program, streams.len()),
        ops: Vec::with_capacity(program.steps.len() * 2),
        kernels: vec![],
        scratch: vec![0; streams.len()],
        zeroed: vec![0; streams.len()],
        scorings,
    };
    // Events have the numbers of the schedule, unless those are no numbers of steps.
    let mut events: Vec<usize> =
        program.steps.iter().flat_map(|s| s.waits.iter().copied().chain(s.records)).collect();
    let few = events.iter().all(|&e| e < program.steps.len());
    events.sort_unstable();
    events.dedup();
    let number = |event: usize| if few { event } else { events.binary_search(&event).unwrap_or(0) };
    for (i, step) in program.steps.iter().enumerate() {
        (b.stream, b.step) = (step.stream.lane(), i);
        if b.stream >= streams.len() {
            return Err(fault(i, "its stream is of no axis of the mesh".to_owned().into()));
        }
        step.waits.iter().for_each(|&event| b.act(Action::Wait(number(event))));
        b.operation(schedule, rank, &step.op).map_err(|why| fault(i, why))?;
        step.records.iter().for_each(|&event| b.act(Action::Record(number(event))));
    }
    // Room for what is added behind the arena, each part at a multiple of its alignment.
    let added = b
        .scratch
        .iter()
        .chain(&b.zeroed)
        .fold(program.arena_bytes, |end, bytes| end.saturating_add(*bytes).saturating_add(ALIGN));
    if isize::try_from(added).is_err() {
        let why = format!(
            "an arena of {} bytes, and what is added, is more than an address counts",
            program.arena_bytes
        );
        return Err(fault(usize::MAX, why.into()));
    }
    let events = if few { program.steps.len() } else { events.len() };
    Ok(b.done(schedule, program, rank, streams, events))
}

/// What a step does, in a word or two.
fn op_name(op: &StepOp) -> String {
    match op {
        StepOp::Pack { .. } => "pack".into(),
        StepOp::Unpack { .. } => "unpack".into(),
        StepOp::Merge { .. } => "merge".into(),
        StepOp::Exchange { group, kind, .. } => format!("{} of group {group}", kind.name()),
        StepOp::AttnPartial { .. } => "attn_partial".into(),
    }
}

/// The numbers of the facts may be multiplied with each other.
fn facts(a: &AttentionFacts) -> Result<(), String> {
    let s = &a.sizes;
    if s.kv_heads == 0 || !s.q_heads.is_multiple_of(s.kv_heads) || s.batch == 0 || s.q_heads == 0 {
        return Err(format!("{} key heads do not divide {} query heads", s.kv_heads, s.q_heads));
    }
    if a.dropout.is_some() {
        return Err("no kernel drops weights yet".into());
    }
    if !a.dtype.is_float() || !matches!(a.acc, DType::F32 | DType::F64) {
        return Err(format!("cannot compute {} with partial results in {}", a.dtype, a.acc));
    }
    let most = crate::ir::MAX_DATA;
    let bounded = |extents: &[usize]| {
        extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e.max(1)).filter(|&n| n <= most)).is_some()
    };
    let width = s.head_dim.checked_add(s.v_head_dim).and_then(|d| d.checked_add(2)).unwrap_or(usize::MAX);
    if !bounded(&[s.batch, s.q_heads, s.q_len, width]) || !bounded(&[s.batch, s.kv_heads, s.kv_len, width]) {
        return Err("the sizes have more than 2^40 elements".into());
    }
    if let Some(fault) = a.leaf_fault() {
        return Err(fault);
    }
    if a.leaves.iter().any(|leaf| !bounded(&leaf.shape)) {
        return Err("a leaf has more than 2^40 elements".into());
    }
    a.scores.fault(s.batch).map_or(Ok(()), Err)
}

/// Makes one rank's program.
pub(super) struct Builder<'a, 's> {
    pub(super) facts: &'a AttentionFacts,
    pub(super) places: Places<'a>,
    pub(super) target: Target,
    stream: usize,
    step: usize,
    /// By step how many multiprocessors transfers beside it may hold.
    leaves: Vec<usize>,
    ops: Vec<Op>,
    kernels: Vec<Kernel>,
    /// Bytes by stream.
    scratch: Vec<usize>,
    zeroed: Vec<usize>,
    pub(super) scorings: &'s mut Scorings<'a>,
}

impl Builder<'_, '_> {
    fn operation(&mut self, schedule: &Schedule, rank: usize, op: &StepOp) -> Result<(), Why> {
        match op {
            StepOp::Pack { pieces } => self.pack(pieces, true),
            StepOp::Unpack { pieces } => self.pack(pieces, false),
            StepOp::Exchange { group, sms, sends, recvs, .. } => {
                let message = |t: &Transfer| {
                    if t.peer >= schedule.ranks.len() || t.peer == rank {
                        return Err(format!("there is no other rank {}", t.peer));
                    }
                    let mut parts = Vec::with_capacity(t.parts.len());
                    t.parts.iter().try_for_each(|p| self.places.part(p, &mut parts))?;
                    Ok(Message { peer: t.peer, parts })
                };
                let all =
                    |transfers: &[Transfer]| transfers.iter().map(message).collect::<Result<Vec<_>, _>>();
                let group = Group { group: *group, sms: *sms, sends: all(sends)?, recvs: all(recvs)? };
                self.act(Action::Group(group));
                Ok(())
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
                self.attention(q, kv, *tile, [*carry_in, *sinks_here, *cast_out])
            }
            StepOp::Merge { q, carry_in, sinks_here, cast_out } => {
                self.merge(q, [*carry_in, *sinks_here, *cast_out])
            }
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.ops.push(Op { stream: self.stream, step: self.step, action });
    }

    pub(super) fn copy(&mut self, copy: Copy) {
        self.act(Action::Copy(copy));
    }

    /// Starts a kernel, the same one by the same number.
    pub(super) fn launch(&mut self, kernel: Kernel, grid: Grid, argument: Argument) {
        // The last ones are asked first: steps that follow each other are alike.
        let known = self.kernels.iter().rposition(|k| *k == kernel);
        let kernel = known.unwrap_or_else(|| {
            self.kernels.push(kernel);
            self.kernels.len() - 1
        });
        // Where blocks stay as long as there is work, those of transfers would find no room.
        let leaves = if grid.most.is_some() { self.leaves.get(self.step).copied().unwrap_or(0) } else { 0 };
        self.act(Action::Launch(Launch { kernel, grid: Grid { leaves, ..grid }, argument }));
    }

    /// Bytes of the stream's scratch from `from` on, which live until the step is done.
    pub(super) fn scratch(&mut self, from: usize, bytes: usize) -> Address {
        let size = &mut self.scratch[self.stream];
        *size = (*size).max(from.saturating_add(bytes));
        Address { base: Base::Scratch(self.stream), offset: from }
    }

    /// Bytes that are zero between launches of the stream.
    pub(super) fn zeroed(&mut self, from: usize, bytes: usize) -> Address {
        let size = &mut self.zeroed[self.stream];
        *size = (*size).max(from.saturating_add(bytes));
        Address { base: Base::Zeroed(self.stream), offset: from }
    }

    /// The kernel for a work around attention.
    pub(super) fn helper(&self, work: Work, helper: crate::lower::Helper) -> Kernel {
        match self.target {
            Target::Cpu => Kernel::Cpu(work),
            Target::Cuda(_) => Kernel::Helper(helper, work),
        }
    }

    fn done(
        self,
        schedule: &Schedule,
        program: &RankProgram,
        rank: usize,
        streams: Vec<String>,
        events: usize,
    ) -> Program {
        let f = self.facts;
        let s = &f.sizes;
        let mut end = program.arena_bytes;
        let mut place = |&bytes: &usize| {
            if bytes == 0 {
                return Region::default();
            }
            let offset = end.next_multiple_of(ALIGN);
            end = offset.saturating_add(bytes);
            Region { offset, bytes }
        };
        let scratch = self.scratch.iter().map(&mut place).collect();
        let zeroed = self.zeroed.iter().map(&mut place).collect();
        let (q, kv, size) = (self.places.q_count, self.places.kv_count, f.dtype.bytes());
        let mut arguments = vec![
            s.batch * s.q_heads * q * s.head_dim * size,
            s.batch * s.kv_heads * kv * s.head_dim * size,
            s.batch * s.kv_heads * kv * s.v_head_dim * size,
        ];
        arguments.extend(f.leaves.iter().map(|leaf| {
            let rows = if leaf.by_query_rows { q } else { leaf.shape[2] };
            leaf.shape[0] * leaf.shape[1] * rows * leaf.shape[3] * leaf.dtype.bytes()
        }));
        let rows = s.batch * s.q_heads * q;
        Program {
            name: schedule.name.clone(),
            rank,
            ranks: schedule.ranks.len(),
            target: self.target,
            streams,
            attention: Shared {
                dtype: f.dtype,
                acc: f.acc,
                empty_row: f.empty_row,
                scores: f.scores.clone(),
                arguments,
                out_bytes: rows * s.v_head_dim * size,
                lse_bytes: if f.lse { rows * f.acc.bytes() } else { 0 },
            },
            arena_bytes: end,
            scratch,
            zeroed,
            tables: Arc::default(),
            kernels: self.kernels,
            events,
            ops: self.ops,
        }
    }
}
