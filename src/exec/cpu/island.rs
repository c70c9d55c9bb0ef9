//! The event loop: runs the schedule of one island on all ranks.
//!
//! An action is a step of a rank that heads its stream and whose events have happened, or a message whose both ends are in
//! their exchange. With seed 0 all steps that may come next run at once, each rank's on a core of its own, then all messages.
//! Any other seed picks one action after another among those that may come next; no other order is kept.

use super::acc::numbers;
use super::acc::{Acc, decode};
use super::arena::{Arena, locate};
use super::error::ExecError;
use super::kernel::{Carry, Keys, Part, Queries, attn_partial, finish, join_sinks, merge};
use super::leaves::Leaves;
use super::outcome::Traffic;
use super::own::Own;
use super::validate::{Message, Target, op_name, step_name, validate};
use crate::ir::{DType, Tensor};
use crate::layout::Progression;
use crate::mask::Tile;
use crate::schedule::flow::{Flow, Life};
use crate::schedule::{
    Block, Heads, KvPiece, Merged, Packed, Port, QPiece, RankProgram, Schedule, StepOp, Stream, View,
};
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
                    deliver(schedule, &mut ranks, &messages[message])?;
                }
            }
        }
        watch(ranks.iter().map(Rank::count_begun).sum(), steps);
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
            state.streams().filter_map(|s| state.startable(s).map(|i| (i, s))).collect();
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
    own: Own<'a, A>,
    /// Its own query rows, and the leaves.
    queries: Queries<A>,
    arena: Arena,
    /// Steps to come, per stream.
    queues: Vec<VecDeque<usize>>,
    /// The exchange that a stream is in.
    running: Vec<Option<Running>>,
    events: BTreeSet<usize>,
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

impl<'a, A: Acc> Rank<'a, A> {
    fn new(schedule: &'a Schedule, rank: usize, args: &[Tensor]) -> Rank<'a, A> {
        let program = &schedule.ranks[rank];
        let facts = &schedule.attention;
        let mut queues: Vec<VecDeque<usize>> = schedule.mesh.streams().map(|_| VecDeque::new()).collect();
        for (i, step) in program.steps.iter().enumerate() {
            queues[step.stream.lane()].push_back(i);
        }
        let queries = Queries {
            q: numbers(args[0].data()),
            heads: facts.q_heads(),
            rows: args[0].shape()[2],
            leaves: Leaves::new(facts, args),
        };
        Rank {
            schedule,
            rank,
            own: Own::new(schedule, rank, args),
            queries,
            arena: Arena::new(program.arena_bytes),
            running: queues.iter().map(|_| None).collect(),
            queues,
            events: BTreeSet::new(),
            freeing: Freeing::of(program),
            bytes_sent: 0,
            messages: 0,
        }
    }

    fn streams(&self) -> impl Iterator<Item = Stream> + use<A> {
        self.schedule.mesh.streams()
    }

    /// Whether the rank is in the exchange that is this step.
    fn is_in(&self, step: usize) -> bool {
        self.running.iter().flatten().any(|r| r.step == step)
    }

    /// The step that heads the stream, if it may start.
    fn startable(&self, stream: Stream) -> Option<usize> {
        let &i = self.queues[stream.lane()].front()?;
        let step = &self.schedule.ranks[self.rank].steps[i];
        let free = self.running[stream.lane()].is_none();
        (free && step.waits.iter().all(|e| self.events.contains(e))).then_some(i)
    }

    /// How many of its steps have begun.
    fn count_begun(&self) -> usize {
        self.schedule.ranks[self.rank].steps.len() - self.queues.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Starts what may start now.
    fn start_all(&mut self, messages: &[Message]) -> Result<(), ExecError> {
        let streams: Vec<Stream> = self.streams().filter(|&s| self.startable(s).is_some()).collect();
        streams.into_iter().try_for_each(|stream| self.start(stream, messages))
    }

    fn start(&mut self, stream: Stream, messages: &[Message]) -> Result<(), ExecError> {
        let Some(i) = self.queues[stream.lane()].pop_front() else { return Ok(()) };
        let schedule = self.schedule;
        let rank = self.rank;
        let fault = |why| ExecError { rank, at: step_name(schedule, rank, i), why };
        match &schedule.ranks[self.rank].steps[i].op {
            StepOp::Pack { pieces } => pieces.iter().try_for_each(|p| self.pack(p)).map_err(fault)?,
            StepOp::Unpack { pieces } => pieces.iter().try_for_each(|p| self.unpack(p)).map_err(fault)?,
            StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
                let ends = Ends { carry_in: *carry_in, sinks_here: *sinks_here, cast_out: *cast_out };
                let keys = self.keys(kv).map_err(fault)?;
                for piece in q {
                    self.partial(piece, &keys, *tile, ends).map_err(fault)?;
                }
            }
            StepOp::Merge { q, carry_in, sinks_here, cast_out } => {
                let ends = Ends { carry_in: *carry_in, sinks_here: *sinks_here, cast_out: *cast_out };
                q.iter().try_for_each(|piece| self.merge(piece, ends)).map_err(fault)?;
            }
            StepOp::Exchange { sends, recvs, .. } => {
                self.messages += usize::from(!sends.is_empty());
                // What is being received is nobody's to read until it is complete.
                for target in messages.iter().filter(|m| m.to == (self.rank, i)).flat_map(|m| &m.target) {
                    if let Target::Arena(at) = target {
                        self.arena.poison(at.clone());
                    }
                }
                let outstanding = sends.len() + recvs.len();
                if outstanding > 0 {
                    self.running[stream.lane()] = Some(Running { step: i, outstanding });
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

    /// The bytes of a view.
    fn at(&self, view: &View) -> Result<Range<usize>, String> {
        locate(&self.schedule.ranks[self.rank], view)
    }

    fn pack(&mut self, piece: &Packed) -> Result<(), String> {
        let at = self.at(&piece.at)?;
        let bytes = self.own.read(&piece.block)?;
        self.arena.write(at).copy_from_slice(&bytes);
        Ok(())
    }

    fn unpack(&mut self, piece: &Packed) -> Result<(), String> {
        let at = self.at(&piece.at)?;
        self.own.write(&piece.block, self.arena.read(at))
    }

    /// Keys and values of some pieces.
    fn keys(&self, pieces: &[KvPiece]) -> Result<Vec<Keys<A>>, String> {
        let a = &self.schedule.attention;
        pieces
            .iter()
            .map(|&KvPiece { rows, heads, at }| {
                let own;
                let bytes = match at {
                    Some(view) => self.arena.read(self.at(&view)?),
                    None => {
                        own = self.own.read(&Block { port: Port::Kv, rows, heads })?;
                        &own
                    }
                };
                let keys = a.sizes.batch * heads.len * rows.len * a.sizes.head_dim * a.dtype.bytes();
                let (k, v) = bytes.split_at(keys);
                Ok(Keys { rows, heads, k: decode(a.dtype, k), v: decode(a.dtype, v) })
            })
            .collect()
    }

    /// A carry that lies in the arena.
    fn carried(&self, at: Range<usize>, rows: usize, heads: usize) -> Carry<A> {
        let s = &self.schedule.attention.sizes;
        let mut o = A::read(self.arena.read(at));
        let mut m = o.split_off(s.batch * heads * rows * s.v_head_dim);
        let l = m.split_off(s.batch * heads * rows);
        Carry { o, m, l }
    }

    /// What a step goes on from.
    fn begun(&self, place: Option<&Range<usize>>, rows: usize, heads: usize, ends: Ends) -> Carry<A> {
        match place {
            Some(at) if ends.carry_in => self.carried(at.clone(), rows, heads),
            _ => Carry::empty(&self.schedule.attention, rows, heads),
        }
    }

    fn partial(&mut self, piece: &QPiece, keys: &[Keys<A>], tile: Tile, ends: Ends) -> Result<(), String> {
        let facts = &self.schedule.attention;
        let (rows, heads) = (&piece.rows, piece.heads);
        let place = piece.carry.map(|c| self.at(&c)).transpose()?;
        let mut carry = self.begun(place.as_ref(), rows.len, heads.len, ends);
        let received;
        let (queries, local) = match piece.at.split_first() {
            None => (&self.queries, self.own.q_local(rows)?),
            Some((q, leaves)) => {
                let leaves: Vec<&[u8]> =
                    leaves.iter().map(|v| Ok(self.arena.read(self.at(v)?))).collect::<Result<_, String>>()?;
                received = Queries {
                    q: decode(facts.dtype, self.arena.read(self.at(q)?)),
                    heads,
                    rows: rows.len,
                    leaves: self.queries.leaves.received(facts, (rows.len, heads), &leaves),
                };
                (&received, 0)
            }
        };
        let part = Part { rows, heads, local };
        attn_partial(facts, queries, part, keys, tile, &mut carry);
        if ends.sinks_here {
            join_sinks(facts, &queries.leaves, part, &mut carry);
        }
        self.end(carry, (rows, heads), (place, &piece.out), ends)
    }

    fn merge(&mut self, piece: &Merged, ends: Ends) -> Result<(), String> {
        let facts = &self.schedule.attention;
        let (rows, heads) = (&piece.rows, piece.heads);
        let place = piece.carry.map(|c| self.at(&c)).transpose()?;
        let mut carry = self.begun(place.as_ref(), rows.len, heads.len, ends);
        for view in &piece.partials {
            merge(facts, &mut carry, &self.carried(self.at(view)?, rows.len, heads.len));
        }
        if ends.sinks_here {
            // Sinks of single rows are those of own rows; see `validate`.
            let local = self.own.q_local(rows).unwrap_or(0);
            join_sinks(facts, &self.queries.leaves, Part { rows, heads, local }, &mut carry);
        }
        self.end(carry, (rows, heads), (place, &piece.out), ends)
    }

    /// Divides, casts and writes the result, or writes the carry.
    fn end(
        &mut self,
        carry: Carry<A>,
        (rows, heads): (&Progression, Heads),
        (place, out): (Option<Range<usize>>, &[View]),
        ends: Ends,
    ) -> Result<(), String> {
        let facts = &self.schedule.attention;
        if !ends.cast_out {
            let Some(at) = place else { return Ok(()) };
            let (o, rest) = self.arena.write(at).split_at_mut(carry.o.len() * A::BYTES);
            let (m, l) = rest.split_at_mut(carry.m.len() * A::BYTES);
            A::write(&carry.o, o);
            A::write(&carry.m, m);
            A::write(&carry.l, l);
            return Ok(());
        }
        let (o, lse) = finish(facts, carry);
        let [to_out, to_lse] = [out.first(), out.get(1)];
        let Some(to_out) = to_out else {
            let block = |port| Block { port, rows: *rows, heads };
            self.own.put(&block(Port::Out), &o)?;
            return self.own.put(&block(Port::Lse), &lse);
        };
        let at = self.at(to_out)?;
        self.arena.write(at).copy_from_slice(&A::cast(o, facts.dtype).to_le_bytes());
        if let Some(to_lse) = to_lse {
            let at = self.at(to_lse)?;
            A::write(&lse, self.arena.write(at));
        }
        Ok(())
    }

    /// The bytes of a message.
    fn collect(&self, parts: &[Target]) -> Result<Vec<u8>, String> {
        let mut out = vec![];
        for part in parts {
            match part {
                Target::Arena(at) => out.extend_from_slice(self.arena.read(at.clone())),
                Target::Own(block) => out.append(&mut self.own.read(block)?),
            }
        }
        Ok(out)
    }

    /// Writes the bytes of a message, of which there are as many as the parts have.
    fn scatter(&mut self, parts: &[Target], mut message: &[u8]) -> Result<(), String> {
        for part in parts {
            let facts = &self.schedule.attention;
            let bytes = match part {
                Target::Arena(at) => at.len(),
                Target::Own(b) => facts.block_bytes(b.port, b.rows.len, b.heads.len),
            };
            let (now, later) = message.split_at(bytes);
            match part {
                Target::Arena(at) => self.arena.write(at.clone()).copy_from_slice(now),
                Target::Own(block) => self.own.write(block, now)?,
            }
            message = later;
        }
        Ok(())
    }

    /// The results, if every row was written.
    fn results(self) -> Result<Vec<Tensor>, ExecError> {
        let (rank, at) = (self.rank, format!("island {}", self.schedule.name));
        self.own.results().map_err(|why| ExecError { rank, at, why })
    }
}

fn deliver<A: Acc>(schedule: &Schedule, ranks: &mut [Rank<'_, A>], m: &Message) -> Result<(), ExecError> {
    let at = |(rank, step), why| ExecError { rank, at: step_name(schedule, rank, step), why };
    let bytes = ranks[m.from.0].collect(&m.source).map_err(|why| at(m.from, why))?;
    ranks[m.from.0].bytes_sent += bytes.len();
    ranks[m.to.0].scatter(&m.target, &bytes).map_err(|why| at(m.to, why))?;
    ranks[m.from.0].through(m.from.1);
    ranks[m.to.0].through(m.to.1);
    Ok(())
}

/// Names the steps that wait for ever, the first rank's first.
fn stuck<A: Acc>(schedule: &Schedule, ranks: &[Rank<'_, A>]) -> Option<ExecError> {
    let mut reasons = Vec::new();
    for (rank, state) in ranks.iter().enumerate() {
        let steps = &schedule.ranks[rank].steps;
        for stream in state.streams() {
            if let Some(r) = &state.running[stream.lane()] {
                let StepOp::Exchange { sends, recvs, .. } = &steps[r.step].op else { continue };
                let absent = sends.iter().chain(recvs).map(|t| t.peer).find(|&p| {
                    let StepOp::Exchange { group, .. } = &steps[r.step].op else { return false };
                    !ranks[p].running.iter().flatten().any(|o| {
                        matches!(&schedule.ranks[p].steps[o.step].op, StepOp::Exchange { group: g, .. } if g == group)
                    })
                });
                let peer = absent.map_or("its peers".into(), |p| format!("rank {p}"));
                reasons.push((rank, r.step, format!("waits for {peer} to reach the same group")));
            } else if let Some(&i) = state.queues[stream.lane()].front() {
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
