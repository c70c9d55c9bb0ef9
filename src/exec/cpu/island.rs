//! The event loop: runs the schedule of one island on all ranks.
//!
//! An action is a step of a rank that heads its stream and whose events have happened, or a message whose both ends are in
//! their exchange. With seed 0 all steps that may come next run at once, each rank's on a core of its own, then all messages.
//! Any other seed picks one action after another among those that may come next; no other order is kept.

use super::acc::{Acc, decode};
use super::arena::{Arena, locate};
use super::error::ExecError;
use super::kernel::{Carry, Context, Keys, attn_partial, finish, join_sinks};
use super::outcome::Traffic;
use super::rows::run_of;
use super::validate::{Message, op_name, step_name, validate};
use crate::ir::{DType, Tensor};
use crate::layout::row_count;
use crate::mask::Tile;
use crate::schedule::flow::{Flow, Life};
use crate::schedule::{KvPiece, QPiece, RankProgram, Schedule, StepOp, Stream};
use rayon::prelude::*;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// Each rank's results, and what was sent.
type Outcome = (Vec<Vec<Tensor>>, Traffic);

/// Runs one island. `args[r]` are rank r's arguments: its rows of q, k and v, then the leaves. Returns each rank's results.
///
/// # Errors
/// If the schedule or the arguments do not fit together, the steps cannot all run, or a row of the output is never written.
pub fn run_island(schedule: &Schedule, args: &[Vec<Tensor>], seed: u64) -> Result<Outcome, ExecError> {
    run_island_watched(schedule, args, seed, &mut |_, _| {})
}

/// The same; `watch` is told again and again how many steps of all ranks have begun, and how many there are.
pub(super) fn run_island_watched(
    schedule: &Schedule,
    args: &[Vec<Tensor>],
    seed: u64,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Outcome, ExecError> {
    let messages = validate(schedule, args)?;
    match schedule.attention.acc {
        DType::F64 => run_typed::<f64>(schedule, args, &messages, seed, watch),
        _ => run_typed::<f32>(schedule, args, &messages, seed, watch),
    }
}

fn run_typed<A: Acc>(
    schedule: &Schedule,
    args: &[Vec<Tensor>],
    messages: &[Message],
    seed: u64,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Outcome, ExecError> {
    let mut ranks: Vec<Rank<'_, A>> =
        args.iter().enumerate().map(|(r, args)| Rank::new(schedule, r, args)).collect();
    let steps = schedule.ranks.iter().map(|r| r.steps.len()).sum();
    let mut pick = Pick { state: seed };
    let mut waiting: Vec<usize> = (0..messages.len()).collect();
    loop {
        let mut ready = ready(&ranks, messages, &waiting);
        if ready.is_empty() {
            break;
        }
        if seed == 0 {
            let begun: Vec<Result<(), ExecError>> =
                ranks.par_iter_mut().map(|rank| rank.start_all(messages)).collect();
            begun.into_iter().collect::<Result<(), _>>()?;
            ready.retain(|a| matches!(a, Action::Message { .. }));
        } else {
            ready = vec![ready[pick.choose(ready.len())]];
        }
        for action in ready {
            match action {
                Action::Step { rank, stream } => ranks[rank].start(stream, messages)?,
                Action::Message { message, .. } => {
                    waiting.retain(|&m| m != message);
                    deliver(&mut ranks, &messages[message]);
                }
            }
        }
        watch(ranks.iter().map(Rank::begun).sum(), steps);
    }
    if let Some(e) = stuck(schedule, &ranks) {
        return Err(e);
    }
    let traffic = Traffic {
        bytes_sent: ranks.iter().map(|r| r.bytes_sent).collect(),
        messages: ranks.iter().map(|r| r.messages).collect(),
    };
    let results = ranks.into_iter().map(Rank::results).collect::<Result<_, _>>()?;
    Ok((results, traffic))
}

/// What may happen next.
#[derive(Clone, Copy)]
enum Action {
    Step { rank: usize, stream: Stream },
    Message { to: usize, message: usize },
}

impl Action {
    fn rank(self) -> usize {
        match self {
            Action::Step { rank, .. } => rank,
            Action::Message { to, .. } => to,
        }
    }
}

/// All that may happen next, by rank.
fn ready<A: Acc>(ranks: &[Rank<'_, A>], messages: &[Message], waiting: &[usize]) -> Vec<Action> {
    let mut out = Vec::new();
    for &i in waiting {
        let m = &messages[i];
        if ranks[m.from.0].is_in(m.from.1) && ranks[m.to.0].is_in(m.to.1) {
            out.push(Action::Message { to: m.to.0, message: i });
        }
    }
    for (rank, state) in ranks.iter().enumerate() {
        let mut heads: Vec<(usize, Stream)> =
            Stream::ALL.into_iter().filter_map(|s| state.startable(s).map(|i| (i, s))).collect();
        heads.sort_unstable();
        out.extend(heads.into_iter().map(|(_, stream)| Action::Step { rank, stream }));
    }
    out.sort_by_key(|a| a.rank());
    out
}

/// Chooses among ready actions, by splitmix64.
struct Pick {
    state: u64,
}

impl Pick {
    fn choose(&mut self, among: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % among as u64) as usize
    }
}

/// A step that has begun, and how many of its messages are outstanding.
struct Running {
    step: usize,
    outstanding: usize,
}

/// How a partial result begins and ends: the flags of [`StepOp::AttnPartial`].
#[derive(Clone, Copy)]
struct Ends {
    carry_in: bool,
    sinks_here: bool,
    cast_out: bool,
}

/// The state of one rank.
struct Rank<'a, A> {
    schedule: &'a Schedule,
    rank: usize,
    ctx: Context<'a, A>,
    /// Bytes of the rank's k and v.
    kv: [Vec<u8>; 2],
    arena: Arena,
    /// Steps to come, per stream.
    queues: [VecDeque<usize>; 2],
    /// The exchange that a stream is in.
    running: [Option<Running>; 2],
    events: BTreeSet<usize>,
    out: Vec<A>,
    lse: Vec<A>,
    /// Local rows of the output that are written: (first, how many).
    written: Vec<(usize, usize)>,
    freeing: Freeing,
    /// What it sent.
    bytes_sent: usize,
    messages: usize,
}

/// When bytes of the arena are free: every step that reads what was written there is done.
struct Freeing {
    lives: Vec<Life>,
    /// By step the lives that it reads, and by life how many steps still read it.
    reads: Vec<Vec<usize>>,
    left: Vec<usize>,
}

impl Freeing {
    fn of(program: &RankProgram) -> Freeing {
        let lives = Flow::of(program).lives;
        let mut reads = vec![vec![]; program.steps.len()];
        for (i, life) in lives.iter().enumerate() {
            life.readers.iter().for_each(|&r| reads[r].push(i));
        }
        let left = lives.iter().map(|l| l.readers.len()).collect();
        Freeing { lives, reads, left }
    }

    /// The bytes that are free once the step is done, but for those that it wrote itself.
    fn after(&mut self, step: usize) -> Vec<Range<usize>> {
        let mut free = Vec::new();
        for &life in &self.reads[step] {
            self.left[life] -= 1;
            if self.left[life] == 0 && self.lives[life].replaced != Some(step) {
                free.push(self.lives[life].at.clone());
            }
        }
        free
    }
}

fn lane(stream: Stream) -> usize {
    match stream {
        Stream::Compute => 0,
        Stream::Comm => 1,
    }
}

impl<'a, A: Acc> Rank<'a, A> {
    fn new(schedule: &'a Schedule, rank: usize, args: &[Tensor]) -> Rank<'a, A> {
        let program = &schedule.ranks[rank];
        let facts = &schedule.attention;
        let mut queues = [VecDeque::new(), VecDeque::new()];
        for (i, step) in program.steps.iter().enumerate() {
            queues[lane(step.stream)].push_back(i);
        }
        let ctx = Context::new(facts, args);
        let rows = facts.sizes.batch * facts.sizes.q_heads * ctx.q_rows;
        Rank {
            schedule,
            rank,
            ctx,
            kv: [args[1].data().to_le_bytes(), args[2].data().to_le_bytes()],
            arena: Arena::new(program.arena_bytes),
            queues,
            running: [None, None],
            events: BTreeSet::new(),
            out: vec![A::NAN; rows * facts.sizes.v_head_dim],
            lse: vec![A::NAN; rows],
            written: vec![],
            freeing: Freeing::of(program),
            bytes_sent: 0,
            messages: 0,
        }
    }

    /// Whether the rank is in the exchange that is this step.
    fn is_in(&self, step: usize) -> bool {
        self.running.iter().flatten().any(|r| r.step == step)
    }

    /// The step that heads the stream, if it may start.
    fn startable(&self, stream: Stream) -> Option<usize> {
        let &i = self.queues[lane(stream)].front()?;
        let step = &self.schedule.ranks[self.rank].steps[i];
        let free = self.running[lane(stream)].is_none();
        (free && step.waits.iter().all(|e| self.events.contains(e))).then_some(i)
    }

    /// How many of its steps have begun.
    fn begun(&self) -> usize {
        self.schedule.ranks[self.rank].steps.len() - self.queues.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Starts what may start now.
    fn start_all(&mut self, messages: &[Message]) -> Result<(), ExecError> {
        let streams: Vec<Stream> = Stream::ALL.into_iter().filter(|&s| self.startable(s).is_some()).collect();
        streams.into_iter().try_for_each(|stream| self.start(stream, messages))
    }

    fn start(&mut self, stream: Stream, messages: &[Message]) -> Result<(), ExecError> {
        let Some(i) = self.queues[lane(stream)].pop_front() else { return Ok(()) };
        let schedule = self.schedule;
        let rank = self.rank;
        let fault = |why| ExecError { rank, at: step_name(schedule, rank, i), why };
        match &schedule.ranks[self.rank].steps[i].op {
            StepOp::Pack { pieces } => {
                for piece in pieces {
                    self.pack(piece).map_err(fault)?;
                }
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
                let ends = Ends { carry_in: *carry_in, sinks_here: *sinks_here, cast_out: *cast_out };
                let keys = self.keys(kv).map_err(fault)?;
                for piece in q {
                    self.partial(piece, &keys, *tile, ends).map_err(fault)?;
                }
            }
            StepOp::Exchange { sends, recvs, .. } => {
                self.messages += usize::from(!sends.is_empty());
                // What is being received is nobody's to read until it is complete.
                for m in messages.iter().filter(|m| m.to == (self.rank, i)) {
                    m.target.iter().for_each(|r| self.arena.poison(r.clone()));
                }
                let outstanding = sends.len() + recvs.len();
                if outstanding > 0 {
                    self.running[lane(stream)] = Some(Running { step: i, outstanding });
                    return Ok(());
                }
            }
        }
        self.complete(i);
        Ok(())
    }

    fn complete(&mut self, step: usize) {
        for free in self.freeing.after(step) {
            self.arena.poison(free);
        }
        self.events.extend(self.schedule.ranks[self.rank].steps[step].records);
    }

    /// One message of an exchange is through.
    fn through(&mut self, step: usize) {
        for running in &mut self.running {
            if let Some(r) = running.as_mut().filter(|r| r.step == step) {
                r.outstanding -= 1;
                if r.outstanding == 0 {
                    *running = None;
                    self.complete(step);
                    return;
                }
            }
        }
    }

    fn pack(&mut self, piece: &KvPiece) -> Result<(), String> {
        let (s, size) = (&self.schedule.attention.sizes, self.schedule.attention.dtype.bytes());
        let own = &self.schedule.kv_layout.rows[self.rank];
        let local = run_of(own, &piece.rows).ok_or("the rows are not the rank's own")?;
        let share = row_count(own);
        let at = locate(&self.schedule.ranks[self.rank], &piece.at)?;
        let mut target = self.arena.write(at);
        for (bytes, width) in self.kv.iter().zip([s.head_dim * size, s.v_head_dim * size]) {
            for head in 0..s.batch * s.kv_heads {
                let (now, later) = target.split_at_mut(piece.rows.len * width);
                let from = (head * share + local) * width;
                now.copy_from_slice(&bytes[from..from + now.len()]);
                target = later;
            }
        }
        Ok(())
    }

    /// Keys and values out of the arena.
    fn keys(&self, pieces: &[KvPiece]) -> Result<Vec<Keys<A>>, String> {
        let a = &self.schedule.attention;
        let heads = a.sizes.batch * a.sizes.kv_heads;
        pieces
            .iter()
            .map(|piece| {
                let bytes = self.arena.read(locate(&self.schedule.ranks[self.rank], &piece.at)?);
                let (k, v) = bytes.split_at(heads * piece.rows.len * a.sizes.head_dim * a.dtype.bytes());
                Ok(Keys { rows: piece.rows, k: decode(a.dtype, k), v: decode(a.dtype, v) })
            })
            .collect()
    }

    fn partial(&mut self, piece: &QPiece, keys: &[Keys<A>], tile: Tile, ends: Ends) -> Result<(), String> {
        let facts = &self.schedule.attention;
        let program = &self.schedule.ranks[self.rank];
        let rows = piece.rows.len;
        let own = &self.schedule.q_layout.rows[self.rank];
        let local = run_of(own, &piece.rows).ok_or("the rows are not the rank's own")?;
        let place = piece.carry.map(|c| locate(program, &c)).transpose()?;
        let mut carry = match &place {
            Some(at) if ends.carry_in => {
                let mut o = A::read(self.arena.read(at.clone()));
                let heads = facts.sizes.batch * facts.sizes.q_heads;
                let mut m = o.split_off(heads * rows * facts.sizes.v_head_dim);
                let l = m.split_off(heads * rows);
                Carry { o, m, l }
            }
            _ => Carry::empty(facts, rows),
        };
        attn_partial(&self.ctx, &piece.rows, local, keys, tile, &mut carry);
        if ends.sinks_here {
            join_sinks(&self.ctx, &piece.rows, local, &mut carry);
        }
        if ends.cast_out {
            let (out, lse) = finish(facts, carry);
            let width = facts.sizes.v_head_dim;
            for head in 0..facts.sizes.batch * facts.sizes.q_heads {
                let to = head * self.ctx.q_rows + local;
                let from = head * rows;
                self.out[to * width..(to + rows) * width]
                    .copy_from_slice(&out[from * width..(from + rows) * width]);
                self.lse[to..to + rows].copy_from_slice(&lse[from..from + rows]);
            }
            self.written.push((local, rows));
        } else if let Some(at) = place {
            let (o, rest) = self.arena.write(at).split_at_mut(carry.o.len() * A::BYTES);
            let (m, l) = rest.split_at_mut(carry.m.len() * A::BYTES);
            A::write(&carry.o, o);
            A::write(&carry.m, m);
            A::write(&carry.l, l);
        }
        Ok(())
    }

    /// The results, if every row was written.
    fn results(mut self) -> Result<Vec<Tensor>, ExecError> {
        let facts = &self.schedule.attention;
        let fault = |why| ExecError { rank: self.rank, at: format!("island {}", self.schedule.name), why };
        self.written.sort_unstable();
        let mut next = 0;
        for &(first, rows) in &self.written {
            if first > next {
                break;
            }
            next = next.max(first + rows);
        }
        let rows = self.ctx.q_rows;
        if next < rows {
            return Err(fault(format!("row {next} of the {rows} local rows of the output is never written")));
        }
        let s = &facts.sizes;
        let odd = || fault("the results have another size than their shape".into());
        let data = A::cast(self.out, facts.dtype);
        let mut out = vec![Tensor::new([s.batch, s.q_heads, rows, s.v_head_dim], data).ok_or_else(odd)?];
        if facts.lse {
            let data = A::cast(self.lse, facts.acc);
            out.push(Tensor::new([s.batch, s.q_heads, rows], data).ok_or_else(odd)?);
        }
        Ok(out)
    }
}

fn deliver<A: Acc>(ranks: &mut [Rank<'_, A>], m: &Message) {
    let bytes = ranks[m.from.0].arena.collect(&m.source);
    ranks[m.from.0].bytes_sent += bytes.len();
    ranks[m.to.0].arena.scatter(&m.target, &bytes);
    ranks[m.from.0].through(m.from.1);
    ranks[m.to.0].through(m.to.1);
}

/// Names the steps that wait for ever, the first rank's first.
fn stuck<A: Acc>(schedule: &Schedule, ranks: &[Rank<'_, A>]) -> Option<ExecError> {
    let mut reasons = Vec::new();
    for (rank, state) in ranks.iter().enumerate() {
        let steps = &schedule.ranks[rank].steps;
        for stream in Stream::ALL {
            if let Some(r) = &state.running[lane(stream)] {
                let StepOp::Exchange { sends, recvs, .. } = &steps[r.step].op else { continue };
                let absent = sends.iter().chain(recvs).map(|t| t.peer).find(|&p| {
                    let StepOp::Exchange { group, .. } = &steps[r.step].op else { return false };
                    !ranks[p].running.iter().flatten().any(|o| {
                        matches!(&schedule.ranks[p].steps[o.step].op, StepOp::Exchange { group: g, .. } if g == group)
                    })
                });
                let peer = absent.map_or("its peers".into(), |p| format!("rank {p}"));
                reasons.push((rank, r.step, format!("waits for {peer} to reach the same group")));
            } else if let Some(&i) = state.queues[lane(stream)].front() {
                let missing = steps[i].waits.iter().find(|e| !state.events.contains(e));
                let Some(e) = missing else { continue };
                let by = steps.iter().position(|s| s.records == Some(*e));
                let by = by.map_or("which no step records".into(), |s| {
                    format!("which step {s} ({}) records", op_name(&steps[s].op))
                });
                reasons.push((rank, i, format!("waits for event {e}, {by}")));
            }
        }
    }
    let (rank, step, why) = reasons.first()?;
    let others: Vec<String> =
        reasons[1..].iter().take(3).map(|(r, s, why)| format!("rank {r}, step {s} {why}")).collect();
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join("; ")) };
    Some(ExecError {
        rank: *rank,
        at: step_name(schedule, *rank, *step),
        why: format!("deadlock: {why}{others}"),
    })
}
