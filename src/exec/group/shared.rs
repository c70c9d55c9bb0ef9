//! What the threads of a rank share: the lines to other ranks, and what is known of them.
//!
//! Whoever waits, waits on [`Shared::changed`] with a limit; no lock of [`Shared::state`] is held while anything is read or written. The first
//! fault stays.

use super::fault::Fault;
use super::frame::{Kind, frame};
use super::wire::write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Signs of life in the time after which silence is death.
pub(super) const BEATS: u32 = 8;

/// The most bytes of what all ranks bring together.
pub(super) const ALL: usize = 16 << 20;
/// The most bytes that a rank brings, where ranks are few.
pub(super) const EACH: usize = 64 << 10;
/// What stands before what is brought: the kind of exchange and its number.
pub(super) const BEFORE: usize = 8;

/// The most bytes that each of so many ranks may bring.
pub(super) fn each(size: usize) -> usize {
    EACH.min(ALL / size - 8)
}

/// A connection to another rank.
pub(super) struct Line {
    pub(super) peer: usize,
    pub(super) stream: TcpStream,
    /// Held while a frame is written.
    pub(super) turn: Mutex<()>,
}

/// What came in on a line, and what is known of it.
#[derive(Default)]
pub(super) struct Inbox {
    /// What the peer brings to an exchange, or what came of it.
    pub(super) message: Option<Vec<u8>>,
    /// It has come to its end.
    pub(super) done: bool,
    /// The connection ended.
    pub(super) closed: bool,
}

pub(super) struct State {
    /// Why the group is over.
    pub(super) fault: Option<Fault>,
    /// Whom the fault is to be told: every line, or none but where it came from.
    pub(super) tell: bool,
    /// The fault was told, as far as it could be.
    pub(super) told: bool,
    /// All have come to their end.
    pub(super) bye: bool,
    /// The threads shall end.
    pub(super) ended: bool,
    pub(super) inboxes: Vec<Inbox>,
}

pub(super) struct Shared {
    pub(super) size: usize,
    pub(super) silence: Duration,
    pub(super) rank: usize,
    pub(super) lines: Vec<Line>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as it is wanted, or the deadline has come; the state as it then is.
    pub(super) fn wait(&self, until: Instant, wanted: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !wanted(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        state
    }

    /// The group is over, as this rank found; the others are told. The fault that stays is the first one.
    pub(super) fn fail(&self, fault: Fault) -> Fault {
        self.over(fault, true)
    }

    pub(super) fn over(&self, fault: Fault, tell: bool) -> Fault {
        let mut state = self.lock();
        if state.fault.is_none() {
            state.tell = tell;
            state.fault = Some(fault.clone().cut());
            self.changed.notify_all();
        }
        state.fault.clone().unwrap_or(fault)
    }

    /// Writes a frame to the line; what cannot be written is found out by the thread that reads it.
    pub(super) fn say(&self, line: usize, kind: Kind, body: &[u8]) {
        let line = &self.lines[line];
        let _turn = line.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if write(&line.stream, &frame(kind, body), Instant::now() + self.silence).is_err() {
            // A part of a frame may be on its way: nothing that follows could be read.
            let _ = line.stream.shutdown(Shutdown::Both);
        }
    }

    /// The same, unless somebody writes there just now; whether it was written.
    pub(super) fn try_say(&self, line: usize, kind: Kind, body: &[u8]) -> bool {
        let line = &self.lines[line];
        let _turn = match line.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if write(&line.stream, &frame(kind, body), Instant::now() + self.silence / BEATS).is_err() {
            let _ = line.stream.shutdown(Shutdown::Both);
        }
        true
    }

    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// The rank at the other end of a line.
    pub(super) fn peer(&self, line: usize) -> usize {
        self.lines[line].peer
    }

    /// Waits until the fault was told, at the latest for the limit of silence.
    pub(super) fn until_told(&self) {
        drop(self.wait(Instant::now() + self.silence, |s| s.told || self.lines.is_empty()));
    }

    /// Ranks did not come in time: the fault, once the others were told.
    pub(super) fn missing(&self, ranks: Vec<usize>, during: &str) -> Fault {
        let fault = self.fail(Fault::Missing { ranks, during: during.into() });
        self.until_told();
        fault
    }

    /// The ranks at the other ends of lines of which this is not so.
    pub(super) fn without(&self, state: &State, has: impl Fn(&Inbox) -> bool) -> Vec<usize> {
        let absent = state.inboxes.iter().zip(&self.lines).filter(|(inbox, _)| !has(inbox));
        absent.map(|(_, line)| line.peer).collect()
    }
}
