//! Runs a rank's device program over an engine and a transport.
//!
//! In: a [`Program`], an [`Engine`], a [`Transport`]. Out: everything is issued, and done. Invariants: operations are issued in the order
//! of their stream, and otherwise as early as they may: a stream whose group waits for other ranks holds up no other one. An event is
//! waited for after it was recorded. Nothing blocks: who waits, asks again, until a deadline or until it is known that nobody can go on.

use super::engine::{Engine, Spread};
use super::error::WalkError;
use super::transport::{Polled, Transport, TransportError};
use crate::exec::flight::{self, Cause, Happened, Note, Record, State};
use crate::lower::program::{Action, Argument, Message, Program};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Why an operation could not be issued, and whose fault it is.
pub(super) struct Stopped(pub(super) String, pub(super) Cause);

impl From<TransportError> for Stopped {
    fn from(e: TransportError) -> Stopped {
        match e {
            TransportError::Failed(why) => Stopped(why, Cause::Own),
            TransportError::Others(why) => Stopped(why, Cause::Others),
        }
    }
}

/// How far the program of a rank is issued.
#[derive(Debug)]
pub struct Walk<'p> {
    program: &'p Program,
    /// The operations of each stream, the last one first.
    streams: Vec<Vec<u32>>,
    /// Whether the group at the head of a stream is posted.
    posted: Vec<bool>,
    /// Streams whose head could not be issued when it was tried last.
    held: Vec<bool>,
    /// By event whether it was recorded.
    recorded: Vec<bool>,
    begun: Instant,
    /// The last operations, and when.
    last: VecDeque<(Duration, u32, Happened)>,
}

/// How many of the last operations are known.
const LAST: usize = 256;

impl<'p> Walk<'p> {
    /// Nothing is issued yet.
    pub fn new(program: &'p Program) -> Walk<'p> {
        let count = program.streams.len();
        let mut streams: Vec<Vec<u32>> = vec![vec![]; count];
        for (i, op) in program.ops.iter().enumerate().rev() {
            if let Some(stream) = streams.get_mut(op.stream) {
                stream.push(i as u32);
            }
        }
        Walk {
            program,
            streams,
            posted: vec![false; count],
            held: vec![false; count],
            recorded: vec![false; program.events],
            begun: Instant::now(),
            last: VecDeque::with_capacity(LAST),
        }
    }

    fn note(&mut self, op: u32, happened: Happened) {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back((self.begun.elapsed(), op, happened));
    }

    /// What the rank did last, and that it failed of this.
    pub fn record(&self, error: &WalkError) -> Record {
        let note = |&(at, op, happened): &(Duration, u32, Happened)| {
            let known = self.program.ops.get(op as usize)?;
            let action = known.action.name().to_owned();
            let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
            Some(Note { micros, op: op as usize, step: known.step, action, happened })
        };
        let state = |op: usize, stream: usize| {
            let left = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
            match left.iter().any(|&l| l as usize == op) {
                false => State::Through,
                true if self.posted[stream] && left.last() == Some(&(op as u32)) => State::Waits,
                true => State::Before,
            }
        };
        let notes = self.last.iter().filter_map(note).collect();
        Record {
            issued: self.is_issued(),
            notes,
            ..record(self.program, (&error.to_string(), error.cause), state)
        }
    }

    /// Whether all of it is issued.
    pub fn is_issued(&self) -> bool {
        self.streams.iter().all(Vec::is_empty)
    }

    /// Issues what can be issued now, in the order of the program as far as streams let it. Returns whether there was anything.
    ///
    /// # Errors
    /// The engine's or the transport's, with the operation.
    pub fn advance<E: Engine, T: Transport<E>>(
        &mut self,
        engine: &mut E,
        transport: &mut T,
    ) -> Result<bool, WalkError> {
        self.held.fill(false);
        let mut moved = false;
        loop {
            let heads = self.streams.iter().enumerate().filter(|(i, _)| !self.held[*i]);
            let Some((op, stream)) = heads.filter_map(|(i, s)| Some((*s.last()?, i))).min() else {
                return Ok(moved);
            };
            let issued = self.issue(op as usize, stream, engine, transport);
            let issued = issued.map_err(|stopped| self.fault(op as usize, stopped))?;
            moved |= issued != Polled::Waits;
            if issued == Polled::Issued {
                self.note(op, Happened::Issued);
                self.streams[stream].pop();
                // What waited for the event may go on.
                if matches!(self.program.ops[op as usize].action, Action::Record(_)) {
                    self.held.fill(false);
                }
            } else {
                self.held[stream] = true;
            }
        }
    }

    /// How far the operation is now.
    fn issue<E: Engine, T: Transport<E>>(
        &mut self,
        op: usize,
        stream: usize,
        engine: &mut E,
        transport: &mut T,
    ) -> Result<Polled, Stopped> {
        let said = |e: E::Error| Stopped(e.to_string(), Cause::Own);
        match &self.program.ops[op].action {
            Action::Launch(launch) => engine.launch(stream, op, launch).map_err(said)?,
            Action::Copy(copy) => {
                let spread = Spread {
                    from: engine.pointer(copy.from.at),
                    to: engine.pointer(copy.to.at),
                    from_stride: copy.from.stride,
                    to_stride: copy.to.stride,
                    count: copy.from.count,
                    bytes: copy.from.bytes,
                };
                engine.copy(stream, spread).map_err(said)?;
            }
            Action::Record(event) => {
                engine.record(stream, *event).map_err(said)?;
                if let Some(recorded) = self.recorded.get_mut(*event) {
                    *recorded = true;
                }
            }
            Action::Wait(event) => {
                if self.recorded.get(*event) != Some(&true) {
                    return Ok(Polled::Waits);
                }
                engine.wait(stream, *event).map_err(said)?;
            }
            Action::Group(group) => {
                let first = !self.posted[stream];
                if first {
                    transport.post(engine, stream, group)?;
                    self.posted[stream] = true;
                    self.note(op as u32, Happened::Posted);
                }
                match transport.poll(engine, stream)? {
                    Polled::Issued => self.posted[stream] = false,
                    Polled::Waits if first => return Ok(Polled::Moved),
                    polled => return Ok(polled),
                }
            }
        }
        Ok(Polled::Issued)
    }

    /// Whether everything that was issued is done.
    ///
    /// # Errors
    /// The engine's.
    pub fn is_done<E: Engine>(&self, engine: &mut E) -> Result<bool, WalkError> {
        let mut done = true;
        for stream in 0..self.streams.len() {
            let one = engine.query(stream).map_err(|why| {
                let rank = self.program.rank;
                let name = self.program.streams.get(stream).cloned().unwrap_or_default();
                let op = format!("running the stream {name}");
                WalkError { rank, step: None, op, why: why.to_string(), cause: Cause::Own }
            })?;
            done &= one;
        }
        Ok(done)
    }

    /// What the rank waits for.
    pub(super) fn waits(&self) -> Option<WalkError> {
        let heads = self.streams.iter().filter_map(|s| s.last());
        let op = *heads.min()? as usize;
        let why = match &self.program.ops[op].action {
            Action::Group(group) => {
                let mut peers: Vec<usize> = group.sends.iter().chain(&group.recvs).map(|m| m.peer).collect();
                peers.sort_unstable();
                peers.dedup();
                let peers: Vec<String> = peers.iter().map(usize::to_string).collect();
                format!("waits for rank {} to reach the same group", peers.join(" or "))
            }
            Action::Wait(event) => {
                let records = |a: &Action| matches!(a, Action::Record(e) if e == event);
                let by = self.program.ops.iter().find(|o| records(&o.action));
                let by =
                    by.map_or("which no step records".into(), |o| format!("which step {} records", o.step));
                format!("waits for event {event}, {by}")
            }
            _ => "was not issued".into(),
        };
        Some(self.fault(op, Stopped(why, Cause::Waited)))
    }

    /// Everything is issued, and something is wrong.
    pub(super) fn fault_at_end(&self, why: String, cause: Cause) -> WalkError {
        WalkError { rank: self.program.rank, step: None, op: "the end of the program".into(), why, cause }
    }

    fn fault(&self, op: usize, Stopped(why, cause): Stopped) -> WalkError {
        let at = self.program.ops.get(op);
        let what = at.map_or(String::new(), |op| match &op.action {
            Action::Launch(launch) => {
                let name = match &launch.argument {
                    Argument::Attention(_) => "attn_partial",
                    Argument::Merge(_) => "merge",
                    Argument::Finish(_) => "finish",
                    Argument::Pack(_) => "pack",
                };
                format!("launch {name}")
            }
            Action::Group(group) => format!("group {}", group.group),
            Action::Record(event) | Action::Wait(event) => format!("{} e{event}", op.action.name()),
            other => other.name().to_owned(),
        });
        WalkError { rank: self.program.rank, step: at.map(|op| op.step), op: what, why, cause }
    }
}

/// What is known of a rank all of whose operations were issued, and that failed of this afterwards.
pub fn record_of_issued(program: &Program, error: (&str, Cause)) -> Record {
    record(program, error, |_, _| State::Through)
}

/// What is known of a rank that failed before it came to its first operation.
pub fn record_of_none(program: &Program, error: (&str, Cause)) -> Record {
    Record { issued: false, ..record(program, error, |_, _| State::Before) }
}

fn record(program: &Program, (error, cause): (&str, Cause), state: impl Fn(usize, usize) -> State) -> Record {
    let ends = |list: &[Message]| list.iter().map(|m| (m.peer, m.bytes())).collect();
    let groups = program.ops.iter().enumerate().filter_map(|(i, op)| match &op.action {
        Action::Group(group) => Some(flight::Group {
            number: group.group,
            step: op.step,
            state: state(i, op.stream),
            sends: ends(&group.sends),
            recvs: ends(&group.recvs),
        }),
        _ => None,
    });
    Record {
        version: env!("CARGO_PKG_VERSION").into(),
        island: program.name.clone(),
        rank: program.rank,
        ranks: program.ranks,
        error: error.into(),
        cause,
        issued: true,
        left_out: 0,
        groups: groups.collect(),
        notes: vec![],
    }
}
