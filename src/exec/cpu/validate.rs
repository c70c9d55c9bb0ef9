//! What must be true of a schedule and its arguments before a byte is touched. Schedules are parsed from untrusted text:
//! whatever the event loop relies on is checked here, so that it neither panics nor allocates without bound.

use super::arena::locate;
use super::error::ExecError;
use super::rows::{last_row, run_of};
use crate::ir::{DType, MAX_DATA, Tensor};
use crate::layout::{Layout, Progression};
use crate::schedule::{
    AttentionFacts, Block, Heads, Packed, Place, Port, RankProgram, Schedule, StepOp, Transfer, View,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// One matched send and receive.
pub(in crate::exec) struct Message {
    /// Sender and its step.
    pub(super) from: (usize, usize),
    /// Receiver and its step.
    pub(super) to: (usize, usize),
    /// Of the sender.
    pub(super) source: Vec<Target>,
    /// Of the receiver.
    pub(super) target: Vec<Target>,
}

/// Where a part of a message lies.
#[derive(Clone)]
pub(super) enum Target {
    /// Bytes of the arena.
    Arena(Range<usize>),
    /// Own rows.
    Own(Block),
}

/// The name of a step for errors.
pub(super) fn step_name(schedule: &Schedule, rank: usize, step: usize) -> String {
    let op = schedule.ranks[rank].steps.get(step).map_or(String::new(), |s| format!(" ({})", op_name(&s.op)));
    format!("island {}, step {step}{op}", schedule.name)
}

/// What a step does, in a word or two.
pub(super) fn op_name(op: &StepOp) -> String {
    match op {
        StepOp::Pack { .. } => "pack".into(),
        StepOp::Unpack { .. } => "unpack".into(),
        StepOp::Merge { .. } => "merge".into(),
        StepOp::Exchange { group, kind, .. } => format!("{} of group {group}", kind.name()),
        StepOp::AttnPartial { .. } => "attn_partial".into(),
    }
}

/// Checks a schedule and its arguments and matches its messages.
pub(in crate::exec) fn validate(
    schedule: &Schedule,
    args: &[Vec<Tensor>],
) -> Result<Vec<Message>, ExecError> {
    let whole = |why: String| ExecError { rank: 0, at: format!("island {}", schedule.name), why };
    facts(&schedule.attention).map_err(whole)?;
    let ranks = schedule.ranks.len();
    if args.len() != ranks || ranks == 0 {
        return Err(whole(format!("{ranks} ranks, and arguments for {}", args.len())));
    }
    let sizes = &schedule.attention.sizes;
    let q_shares = shares(&schedule.q_layout, sizes.q_len, ranks).map_err(whole)?;
    let kv_shares = shares(&schedule.kv_layout, sizes.kv_len, ranks).map_err(whole)?;
    mesh(schedule).map_err(whole)?;
    for rank in 0..ranks {
        let at = |why| ExecError { rank, at: format!("island {}", schedule.name), why };
        arguments(&schedule.attention, &args[rank], q_shares[rank], kv_shares[rank]).map_err(at)?;
        arena(&schedule.attention, &schedule.ranks[rank], ranks).map_err(at)?;
        let mut events = BTreeSet::new();
        for (i, step) in schedule.ranks[rank].steps.iter().enumerate() {
            let at = |why| ExecError { rank, at: step_name(schedule, rank, i), why };
            if let Some(e) = step.records.filter(|&e| !events.insert(e)) {
                return Err(at(format!("event {e} is recorded twice")));
            }
            if step.stream.lane() > schedule.mesh.axes.len() {
                return Err(at("its stream is of no axis of the mesh".into()));
            }
            operation(schedule, rank, &step.op).map_err(at)?;
        }
    }
    messages(schedule)
}

fn facts(a: &AttentionFacts) -> Result<(), String> {
    let s = &a.sizes;
    if s.kv_heads == 0 || !s.q_heads.is_multiple_of(s.kv_heads) {
        return Err(format!("{} key heads do not divide {} query heads", s.kv_heads, s.q_heads));
    }
    if !a.dtype.is_float() || !matches!(a.acc, DType::F32 | DType::F64) {
        return Err(format!("cannot compute {} with partial results in {}", a.dtype, a.acc));
    }
    // Without elements in the arguments, nothing real would bound what is allocated.
    if s.batch == 0 || s.q_heads == 0 || (s.head_dim == 0 && s.v_head_dim == 0) {
        return Err("the batch, the heads or the head size is 0".into());
    }
    // A sequence of no rows must not hide huge extents: every extent counts as at least 1.
    let bounded = |extents: &[usize]| {
        extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e.max(1)).filter(|&n| n <= MAX_DATA))
    };
    let width = s.head_dim.checked_add(s.v_head_dim).and_then(|d| d.checked_add(2));
    let fits = width.is_some_and(|w| {
        bounded(&[s.batch, s.q_heads, s.q_len, w]).is_some()
            && bounded(&[s.batch, s.kv_heads, s.kv_len, w]).is_some()
    });
    if !fits {
        return Err("the sizes have more than 2^40 elements".into());
    }
    if let Some(fault) = a.scores.fault(s.batch).or_else(|| a.dropout?.fault()) {
        return Err(fault);
    }
    a.leaf_fault().map_or(Ok(()), Err)
}

/// How many rows each rank owns.
fn shares(layout: &Layout, length: usize, ranks: usize) -> Result<Vec<usize>, String> {
    if layout.length != length || layout.rows.len() != ranks {
        return Err(format!(
            "a layout of {} rows on {} ranks for {length} rows on {ranks}",
            layout.length,
            layout.rows.len()
        ));
    }
    let mut total = 0usize;
    let mut out = Vec::with_capacity(ranks);
    for own in &layout.rows {
        let before = total;
        for p in own {
            if p.len == 0 || p.step == 0 || last_row(p).is_none_or(|l| l >= length) {
                return Err(format!("rows {}:{}:{} are not among {length}", p.start, p.len, p.step));
            }
            total = total.checked_add(p.len).filter(|&t| t <= length).ok_or("rows are owned twice")?;
        }
        out.push(total - before);
    }
    if total != length {
        return Err(format!("{total} of {length} rows are owned"));
    }
    Ok(out)
}

fn arguments(a: &AttentionFacts, args: &[Tensor], q_rows: usize, kv_rows: usize) -> Result<(), String> {
    let s = &a.sizes;
    if args.len() != 3 + a.leaves.len() {
        return Err(format!("{} arguments, not {}", args.len(), 3 + a.leaves.len()));
    }
    let want = [
        [s.batch, s.q_heads, q_rows, s.head_dim],
        [s.batch, s.kv_heads, kv_rows, s.head_dim],
        [s.batch, s.kv_heads, kv_rows, s.v_head_dim],
    ];
    for (i, shape) in want.iter().enumerate() {
        if args[i].dtype() != a.dtype || args[i].shape() != shape {
            return Err(format!("argument {i} is {}, not {}{shape:?}", args[i].ty(), a.dtype));
        }
    }
    for (i, leaf) in a.leaves.iter().enumerate() {
        let x = &args[i + 3];
        let mut shape = leaf.shape;
        if leaf.by_query_rows {
            shape[2] = q_rows;
        }
        let missing = 4usize.saturating_sub(x.shape().len());
        let same = x.shape().len() <= 4
            && shape[..missing].iter().all(|&e| e == 1)
            && x.shape() == &shape[missing..];
        if x.dtype() != leaf.dtype || !same {
            return Err(format!("argument {} is {}, not {}{shape:?}", i + 3, x.ty(), leaf.dtype));
        }
    }
    Ok(())
}

/// An arena is bounded by what an island can hold: some times all keys, values and partial results.
fn arena(a: &AttentionFacts, program: &RankProgram, ranks: usize) -> Result<(), String> {
    let of = |port, rows| a.block_bytes(port, rows, a.heads_of(port).len);
    let rows = |port| of(port, a.sizes.q_len);
    let leaves = (3..3 + a.leaves.len()).map(|n| rows(Port::Leaf(n))).fold(0usize, usize::saturating_add);
    let once = [of(Port::Kv, a.sizes.kv_len), rows(Port::Q), rows(Port::Out), rows(Port::Lse), leaves];
    // Of each rank's keys a partial result of every row may lie there.
    let partials = a.carry_bytes(a.sizes.q_len, a.sizes.q_heads).saturating_mul(ranks.max(8));
    let all = once.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
    let most = all.saturating_mul(8).saturating_add(partials).saturating_add(1 << 20);
    if program.arena_bytes > most {
        return Err(format!("an arena of {} bytes; the island can use {most} at most", program.arena_bytes));
    }
    Ok(())
}

/// The axes of the mesh have as many ranks as there are.
fn mesh(schedule: &Schedule) -> Result<(), String> {
    let ranks = schedule.ranks.len();
    let product = schedule.mesh.axes.iter().try_fold(1usize, |n, a| n.checked_mul(a.size));
    // Each axis has a stream, and each rank has all streams.
    if product != Some(ranks) || schedule.mesh.axes.len() > MOST_AXES {
        return Err(format!("a mesh of {} axes is none of {ranks} ranks", schedule.mesh.axes.len()));
    }
    Ok(())
}

/// Axes of one mesh, at most.
const MOST_AXES: usize = 8;

fn operation(schedule: &Schedule, rank: usize, op: &StepOp) -> Result<(), String> {
    let facts = &schedule.attention;
    let on = Operand { schedule, rank, facts, program: &schedule.ranks[rank] };
    match op {
        StepOp::Pack { pieces } => pieces.iter().try_for_each(|p| on.packed(p, true)),
        StepOp::Unpack { pieces } => pieces.iter().try_for_each(|p| on.packed(p, false)),
        StepOp::Exchange { sends, recvs, .. } => {
            let all = sends.iter().map(|t| (t, true)).chain(recvs.iter().map(|t| (t, false)));
            all.into_iter().try_for_each(|(t, sends)| on.transfer(t, sends))
        }
        StepOp::AttnPartial { q, kv, carry_in, sinks_here, cast_out, .. } => {
            on.sinks(*sinks_here)?;
            for p in q {
                on.heads(p.heads, facts.q_heads())?;
                match p.at.split_first() {
                    None => on.own_q(&p.rows)?,
                    Some((q, leaves)) => {
                        on.rows(&p.rows, facts.sizes.q_len)?;
                        on.view(q, facts.block_bytes(Port::Q, p.rows.len, p.heads.len), "queries")?;
                        let by_rows: Vec<usize> =
                            (0..facts.leaves.len()).filter(|&i| facts.leaves[i].by_query_rows).collect();
                        if leaves.len() != by_rows.len() {
                            let (n, want) = (leaves.len(), by_rows.len());
                            return Err(format!("{n} leaves with received queries, not {want}"));
                        }
                        for (view, i) in leaves.iter().zip(by_rows) {
                            let bytes = facts.block_bytes(Port::Leaf(i + 3), p.rows.len, p.heads.len);
                            on.view(view, bytes, "a leaf")?;
                        }
                    }
                }
                on.ends((&p.rows, p.heads), (p.carry.as_ref(), &p.out), (*carry_in, *cast_out))?;
            }
            for p in kv {
                on.heads(p.heads, facts.kv_heads())?;
                on.rows(&p.rows, facts.sizes.kv_len)?;
                match &p.at {
                    None => on.own_kv(&p.rows)?,
                    Some(at) => {
                        on.view(at, facts.block_bytes(Port::Kv, p.rows.len, p.heads.len), "keys")?;
                    }
                }
                let has = |h: Heads| p.heads.start <= h.start && h.end() <= p.heads.end();
                if let Some(q) = q.iter().find(|q| !has(facts.keys_of(q.heads))) {
                    return Err(format!(
                        "query heads {}..{} read key heads that {}..{} has not",
                        q.heads.start,
                        q.heads.end(),
                        p.heads.start,
                        p.heads.end()
                    ));
                }
            }
            Ok(())
        }
        StepOp::Merge { q, carry_in, sinks_here, cast_out } => {
            on.sinks(*sinks_here)?;
            let by_rows = facts.sinks.and_then(|s| facts.leaves.get(s - 3)).is_some_and(|l| l.by_query_rows);
            for p in q {
                on.heads(p.heads, facts.q_heads())?;
                on.rows(&p.rows, facts.sizes.q_len)?;
                if *sinks_here && by_rows {
                    on.own_q(&p.rows)?;
                }
                let bytes = facts.carry_bytes(p.rows.len, p.heads.len);
                p.partials.iter().try_for_each(|v| on.view(v, bytes, "a partial result"))?;
                on.ends((&p.rows, p.heads), (p.carry.as_ref(), &p.out), (*carry_in, *cast_out))?;
            }
            Ok(())
        }
    }
}

/// What an operation of a rank reads and writes.
struct Operand<'a> {
    schedule: &'a Schedule,
    rank: usize,
    facts: &'a AttentionFacts,
    program: &'a RankProgram,
}

impl Operand<'_> {
    fn rows(&self, rows: &Progression, length: usize) -> Result<(), String> {
        if rows.len > 0 && last_row(rows).is_none_or(|l| l >= length) {
            return Err(format!("there are no rows {}:{}:{}", rows.start, rows.len, rows.step));
        }
        Ok(())
    }

    fn own_q(&self, rows: &Progression) -> Result<(), String> {
        let own = &self.schedule.q_layout.rows[self.rank];
        run_of(own, rows).map(drop).ok_or_else(|| not_own(rows))
    }

    fn own_kv(&self, rows: &Progression) -> Result<(), String> {
        let own = &self.schedule.kv_layout.rows[self.rank];
        run_of(own, rows).map(drop).ok_or_else(|| not_own(rows))
    }

    fn heads(&self, some: Heads, all: Heads) -> Result<(), String> {
        if some.len == 0 || some.end() > all.len {
            return Err(format!("there are no heads {}..{} of {}", some.start, some.end(), all.len));
        }
        Ok(())
    }

    fn view(&self, view: &View, bytes: usize, what: &str) -> Result<(), String> {
        if view.bytes != bytes {
            return Err(format!("{what} in {} bytes, not {bytes}", view.bytes));
        }
        locate(self.program, view).map(drop)
    }

    /// Own rows that are read, or results that are written.
    fn block(&self, b: &Block, read: bool) -> Result<(), String> {
        let result = matches!(b.port, Port::Out | Port::Lse);
        if result == read {
            let (what, does) = if result { ("a result", "read") } else { ("an argument", "written") };
            return Err(format!("{what} is {does}"));
        }
        if b.port == Port::Lse && !self.facts.lse {
            return Err("there is no log-sum-exp".into());
        }
        if let Port::Leaf(n) = b.port {
            let leaf = n.checked_sub(3).and_then(|i| self.facts.leaves.get(i));
            if !leaf.is_some_and(|l| l.by_query_rows) {
                return Err(format!("argument {n} is not handed out by query rows"));
            }
        }
        self.heads(b.heads, self.facts.heads_of(b.port))?;
        if b.port == Port::Kv { self.own_kv(&b.rows) } else { self.own_q(&b.rows) }
    }

    fn packed(&self, p: &Packed, read: bool) -> Result<(), String> {
        self.block(&p.block, read)?;
        let b = &p.block;
        self.view(&p.at, self.facts.block_bytes(b.port, b.rows.len, b.heads.len), "a block")
    }

    fn transfer(&self, t: &Transfer, sends: bool) -> Result<(), String> {
        if t.peer >= self.schedule.ranks.len() || t.peer == self.rank {
            return Err(format!("there is no other rank {}", t.peer));
        }
        t.parts.iter().try_for_each(|p| match p {
            Place::Arena(view) => locate(self.program, view).map(drop),
            Place::Own(block) => self.block(block, sends),
        })
    }

    fn sinks(&self, here: bool) -> Result<(), String> {
        match self.facts.sinks {
            None if here => Err("it counts sinks, and there are none".into()),
            _ => Ok(()),
        }
    }

    /// Carries and results have their places.
    fn ends(
        &self,
        (rows, heads): (&Progression, Heads),
        (carry, out): (Option<&View>, &[View]),
        (carry_in, cast_out): (bool, bool),
    ) -> Result<(), String> {
        match carry {
            None if carry_in || !cast_out => {
                return Err("a carry is read or written, and has no place".into());
            }
            None => {}
            Some(view) => self.view(view, self.facts.carry_bytes(rows.len, heads.len), "a carry")?,
        }
        match out {
            [] if cast_out => self.own_q(rows),
            [] => Ok(()),
            [o, lse @ ..] => {
                self.view(o, self.facts.block_bytes(Port::Out, rows.len, heads.len), "a result")?;
                if lse.len() != usize::from(self.facts.lse) {
                    return Err(format!("{} places for the log-sum-exp", lse.len()));
                }
                let bytes = self.facts.block_bytes(Port::Lse, rows.len, heads.len);
                lse.iter().try_for_each(|v| self.view(v, bytes, "a log-sum-exp"))
            }
        }
    }
}

fn not_own(rows: &Progression) -> String {
    format!("rows {}:{}:{} are no run of the rank's own", rows.start, rows.len, rows.step)
}

/// Every send with its receive: the k-th from one rank to another in a group with the k-th.
fn messages(schedule: &Schedule) -> Result<Vec<Message>, ExecError> {
    type Ends<'a> = BTreeMap<(usize, usize, usize), Vec<(usize, &'a Transfer)>>;
    let (mut sends, mut recvs) = (Ends::new(), Ends::new());
    for (rank, program) in schedule.ranks.iter().enumerate() {
        let mut groups = BTreeSet::new();
        for (i, step) in program.steps.iter().enumerate() {
            let StepOp::Exchange { group, sends: s, recvs: r, .. } = &step.op else { continue };
            if !groups.insert(*group) {
                let why = format!("the rank takes part in group {group} twice");
                return Err(ExecError { rank, at: step_name(schedule, rank, i), why });
            }
            for t in s {
                sends.entry((*group, rank, t.peer)).or_default().push((i, t));
            }
            for t in r {
                recvs.entry((*group, t.peer, rank)).or_default().push((i, t));
            }
        }
    }
    let mut out = Vec::new();
    for (&(group, from, to), s) in &sends {
        let none = Vec::new();
        let r = recvs.get(&(group, from, to)).unwrap_or(&none);
        for (k, &(step, send)) in s.iter().enumerate() {
            let at = |why| ExecError { rank: from, at: step_name(schedule, from, step), why };
            let Some(&(to_step, recv)) = r.get(k) else {
                return Err(at(format!("rank {to} receives nothing from it in group {group}")));
            };
            let facts = &schedule.attention;
            let (a, b) = (send.bytes(facts), recv.bytes(facts));
            if a != b {
                return Err(at(format!("sends {a} bytes to rank {to}, which receives {b}")));
            }
            let place = |rank: usize, t: &Transfer| -> Result<Vec<Target>, String> {
                let part = |p: &Place| match p {
                    Place::Arena(view) => locate(&schedule.ranks[rank], view).map(Target::Arena),
                    Place::Own(block) => Ok(Target::Own(*block)),
                };
                t.parts.iter().map(part).collect()
            };
            out.push(Message {
                from: (from, step),
                to: (to, to_step),
                source: place(from, send).map_err(at)?,
                target: place(to, recv).map_err(at)?,
            });
        }
    }
    for (&(group, from, to), r) in &recvs {
        let sent = sends.get(&(group, from, to)).map_or(0, Vec::len);
        if let Some(&(step, _)) = r.get(sent) {
            let why = format!("rank {from} sends nothing to it in group {group}");
            return Err(ExecError { rank: to, at: step_name(schedule, to, step), why });
        }
    }
    Ok(out)
}
