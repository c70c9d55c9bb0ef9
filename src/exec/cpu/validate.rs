//! What must be true of a schedule and its arguments before a byte is touched. Schedules are parsed from untrusted text:
//! whatever the event loop relies on is checked here, so that it neither panics nor allocates without bound.

use super::arena::locate;
use super::error::ExecError;
use super::rows::{last_row, run_of};
use crate::ir::{DType, MAX_DATA, Tensor};
use crate::layout::{Layout, Progression};
use crate::schedule::{AttentionFacts, KvPiece, QPiece, RankProgram, Schedule, StepOp, Transfer};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// One matched send and receive.
pub(super) struct Message {
    /// Sender and its step.
    pub(super) from: (usize, usize),
    /// Receiver and its step.
    pub(super) to: (usize, usize),
    /// Bytes of the sender's arena.
    pub(super) source: Vec<Range<usize>>,
    /// Bytes of the receiver's arena.
    pub(super) target: Vec<Range<usize>>,
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
        StepOp::Exchange { group, kind, .. } => format!("{} of group {group}", kind.name()),
        StepOp::AttnPartial { .. } => "attn_partial".into(),
    }
}

/// Checks a schedule and its arguments and matches its messages.
pub(super) fn validate(schedule: &Schedule, args: &[Vec<Tensor>]) -> Result<Vec<Message>, ExecError> {
    let whole = |why: String| ExecError { rank: 0, at: format!("island {}", schedule.name), why };
    facts(&schedule.attention).map_err(whole)?;
    let ranks = schedule.ranks.len();
    if args.len() != ranks || ranks == 0 {
        return Err(whole(format!("{ranks} ranks, and arguments for {}", args.len())));
    }
    let sizes = &schedule.attention.sizes;
    let q_shares = shares(&schedule.q_layout, sizes.q_len, ranks).map_err(whole)?;
    let kv_shares = shares(&schedule.kv_layout, sizes.kv_len, ranks).map_err(whole)?;
    for rank in 0..ranks {
        let at = |why| ExecError { rank, at: format!("island {}", schedule.name), why };
        arguments(&schedule.attention, &args[rank], q_shares[rank], kv_shares[rank]).map_err(at)?;
        arena(&schedule.attention, &schedule.ranks[rank]).map_err(at)?;
        let mut events = BTreeSet::new();
        for (i, step) in schedule.ranks[rank].steps.iter().enumerate() {
            let at = |why| ExecError { rank, at: step_name(schedule, rank, i), why };
            if let Some(e) = step.records.filter(|&e| !events.insert(e)) {
                return Err(at(format!("event {e} is recorded twice")));
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
    if let Some(fault) = a.scores.fault(s.batch) {
        return Err(fault);
    }
    let full = [s.batch, s.q_heads, s.q_len, s.kv_len];
    for (i, leaf) in a.leaves.iter().enumerate() {
        let fits = leaf.shape.iter().zip(full).all(|(&e, f)| e == 1 || e == f);
        if !fits || (leaf.by_query_rows && leaf.shape[2] != s.q_len) {
            return Err(format!(
                "argument {} of shape {:?} does not broadcast to {full:?}",
                i + 3,
                leaf.shape
            ));
        }
    }
    let leaf = |i: usize| i.checked_sub(3).and_then(|i| a.leaves.get(i));
    for (argument, truth) in a.scores.leaves() {
        let fits =
            |l: &crate::schedule::Leaf| (l.dtype == DType::Bool) == truth && (truth || l.dtype.is_float());
        if !leaf(argument).is_some_and(fits) {
            let want = if truth { "truth" } else { "floating" };
            return Err(format!("the scores read argument {argument}, which is no {want} tensor"));
        }
    }
    if let Some(s) = a.sinks
        && leaf(s).is_none_or(|l| !l.dtype.is_float() || l.shape[3] != 1)
    {
        return Err(format!("the sinks are argument {s}, which is no floating tensor of one column"));
    }
    Ok(())
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
fn arena(a: &AttentionFacts, program: &RankProgram) -> Result<(), String> {
    let most = (a.kv_bytes(a.sizes.kv_len) + a.carry_bytes(a.sizes.q_len)) * 8 + (1 << 20);
    if program.arena_bytes > most {
        return Err(format!("an arena of {} bytes; the island can use {most} at most", program.arena_bytes));
    }
    Ok(())
}

fn operation(schedule: &Schedule, rank: usize, op: &StepOp) -> Result<(), String> {
    let program = &schedule.ranks[rank];
    let own_q = &schedule.q_layout.rows[rank];
    let own_kv = &schedule.kv_layout.rows[rank];
    let a = &schedule.attention;
    match op {
        StepOp::Pack { pieces } => pieces.iter().try_for_each(|p| {
            kv_piece(a, program, p)?;
            run_of(own_kv, &p.rows).map(drop).ok_or_else(|| not_own(&p.rows))
        }),
        StepOp::Exchange { sends, recvs, .. } => sends.iter().chain(recvs).try_for_each(|t| {
            if t.peer >= schedule.ranks.len() || t.peer == rank {
                return Err(format!("there is no other rank {}", t.peer));
            }
            t.views.iter().try_for_each(|v| locate(program, v).map(drop))
        }),
        StepOp::AttnPartial { q, kv, carry_in, sinks_here, cast_out, .. } => {
            if *sinks_here && a.sinks.is_none() {
                return Err("it counts sinks, and there are none".into());
            }
            for p in q {
                run_of(own_q, &p.rows).ok_or_else(|| not_own(&p.rows))?;
                carry(a, program, p, *carry_in || !*cast_out)?;
            }
            kv.iter().try_for_each(|p| kv_piece(a, program, p))
        }
    }
}

fn not_own(rows: &Progression) -> String {
    format!("rows {}:{}:{} are no run of the rank's own", rows.start, rows.len, rows.step)
}

fn kv_piece(a: &AttentionFacts, program: &RankProgram, p: &KvPiece) -> Result<(), String> {
    if p.rows.len > 0 && last_row(&p.rows).is_none_or(|l| l >= a.sizes.kv_len) {
        return Err(format!("there are no key rows {}:{}:{}", p.rows.start, p.rows.len, p.rows.step));
    }
    let want = a.kv_bytes(p.rows.len);
    if p.at.bytes != want {
        return Err(format!("{} key rows in {} bytes, not {want}", p.rows.len, p.at.bytes));
    }
    locate(program, &p.at).map(drop)
}

fn carry(a: &AttentionFacts, program: &RankProgram, p: &QPiece, used: bool) -> Result<(), String> {
    match &p.carry {
        None if used => Err("a carry is read or written, and has no place".into()),
        None => Ok(()),
        Some(view) => {
            let want = a.carry_bytes(p.rows.len);
            if view.bytes != want {
                return Err(format!("the carry of {} rows in {} bytes, not {want}", p.rows.len, view.bytes));
            }
            locate(program, view).map(drop)
        }
    }
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
            if send.bytes() != recv.bytes() {
                let (a, b) = (send.bytes(), recv.bytes());
                return Err(at(format!("sends {a} bytes to rank {to}, which receives {b}")));
            }
            let place = |rank: usize, t: &Transfer| -> Result<Vec<Range<usize>>, String> {
                t.views.iter().map(|v| locate(&schedule.ranks[rank], v)).collect()
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
