//! The connections of a rank after the meeting, and the threads that keep them.
//!
//! Rank 0 has a line to every other rank, each of these one to rank 0. A thread a line reads; it sees the other side die, and counts how long it
//! is silent. One more thread gives signs of life and tells faults. Whoever waits, waits on [`Shared::changed`] with a limit; no lock of
//! [`Shared::state`] is held while anything is read or written. The first fault stays.

use super::fault::{Death, Fault};
use super::frame::{Decoder, Frame, Kind, frame};
use super::wire::{PIECE, is_not_yet, write};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Signs of life in the time after which silence is death.
const BEATS: u32 = 8;

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
struct Line {
    peer: usize,
    stream: TcpStream,
    /// Held while a frame is written.
    turn: Mutex<()>,
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
    tell: bool,
    /// The fault was told, as far as it could be.
    pub(super) told: bool,
    /// All have come to their end.
    pub(super) bye: bool,
    /// The threads shall end.
    ended: bool,
    pub(super) inboxes: Vec<Inbox>,
}

pub(super) struct Shared {
    pub(super) size: usize,
    pub(super) silence: Duration,
    rank: usize,
    lines: Vec<Line>,
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

/// What a rank holds of its lines.
pub(super) struct Channel {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Channel {
    /// Starts the threads over the lines to these ranks.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        rank: usize,
        size: usize,
        silence: Duration,
        peers: Vec<(usize, TcpStream, Decoder)>,
    ) -> std::io::Result<Channel> {
        let silence = silence.max(Duration::from_millis(8));
        let inboxes = peers.iter().map(|_| Inbox::default()).collect();
        let state = State { fault: None, tell: false, told: false, bye: false, ended: false, inboxes };
        let (mut lines, mut readers) = (vec![], vec![]);
        for (peer, stream, decoder) in peers {
            readers.push((stream.try_clone()?, decoder));
            lines.push(Line { peer, stream, turn: Mutex::default() });
        }
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { size, silence, rank, lines, state, changed: Condvar::new() });
        let mut out = Channel { shared: Arc::clone(&shared), threads: vec![] };
        let thread = |name: String| thread::Builder::new().name(name).stack_size(256 << 10);
        for (at, (stream, decoder)) in readers.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let name = format!("annulus rank {}", shared.lines[at].peer);
            out.threads.push(thread(name).spawn(move || listen(&shared, at, stream, decoder))?);
        }
        if !shared.lines.is_empty() {
            out.threads.push(thread("annulus beats".into()).spawn(move || beat(&shared))?);
        }
        Ok(out)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        for line in &self.shared.lines {
            let _ = line.stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // It panics no more than this does.
            let _ = thread.join();
        }
    }
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

    fn over(&self, fault: Fault, tell: bool) -> Fault {
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
    fn try_say(&self, line: usize, kind: Kind, body: &[u8]) -> bool {
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
}

/// Gives signs of life, and tells the fault once there is one.
fn beat(shared: &Shared) {
    let every = shared.silence / BEATS;
    loop {
        let next = Instant::now() + every;
        let state = shared.wait(next, |s| s.ended || (s.fault.is_some() && !s.told));
        if state.ended {
            return;
        }
        let fault = state.fault.clone().filter(|_| state.tell && !state.told);
        let untold = state.fault.is_some() && !state.told;
        drop(state);
        if let Some(fault) = fault {
            let body = fault.encode();
            let mut left: Vec<usize> = (0..shared.lines.len()).collect();
            let until = Instant::now() + shared.silence;
            while !left.is_empty() && Instant::now() < until {
                left.retain(|line| !shared.try_say(*line, Kind::Over, &body));
                if !left.is_empty() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        if untold {
            shared.lock().told = true;
            shared.changed.notify_all();
        }
        (0..shared.lines.len()).for_each(|line| {
            shared.try_say(line, Kind::Beat, &[]);
        });
    }
}

/// The most bytes of what comes on a line.
fn most(kind: Kind, size: usize) -> usize {
    match kind {
        Kind::Ask => BEFORE + each(size),
        Kind::Given => BEFORE + 8 + ALL,
        Kind::Over => Fault::most(size),
        _ => 0,
    }
}

/// Reads a line until it ends.
fn listen(shared: &Shared, at: usize, mut stream: TcpStream, mut decoder: Decoder) {
    let peer = shared.lines[at].peer;
    let tick = shared.silence / BEATS;
    let mut piece = vec![0; PIECE];
    // Only while this thread itself ran does silence count: each read that ends without a byte is one tick, however long this process or its
    // machine stood still.
    let mut silent = 0;
    let _ = stream.set_read_timeout(Some(tick));
    loop {
        loop {
            let taken = match decoder.next(|kind| most(kind, shared.size)) {
                Ok(None) => break,
                Ok(Some(said)) => heard(shared, at, said),
                Err(_) => false,
            };
            if !taken {
                shared.over(Fault::Garbled { rank: peer }, true);
                return closed(shared, at, None);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) => return closed(shared, at, Some(Death::Closed)),
            Ok(n) => {
                silent = 0;
                decoder.feed(&piece[..n]);
            }
            Err(e) if is_not_yet(&e) => {
                if e.kind() != std::io::ErrorKind::Interrupted {
                    silent += 1;
                }
                let state = shared.lock();
                if state.ended {
                    return;
                }
                let over = state.fault.is_some() || state.bye;
                drop(state);
                if silent >= BEATS && !over {
                    shared.over(Fault::Died { rank: peer, how: Death::Silent(shared.silence) }, true);
                }
            }
            Err(_) => return closed(shared, at, Some(Death::Closed)),
        }
    }
}

/// A line ended; that is its rank's death unless it was to be expected.
fn closed(shared: &Shared, at: usize, how: Option<Death>) {
    let mut state = shared.lock();
    state.inboxes[at].closed = true;
    let expected = state.ended || state.bye;
    drop(state);
    shared.changed.notify_all();
    if let Some(how) = how.filter(|_| !expected) {
        shared.over(Fault::Died { rank: shared.lines[at].peer, how }, true);
    }
}

/// Takes in what came; whether it may come.
fn heard(shared: &Shared, at: usize, said: Frame) -> bool {
    let from_first = shared.rank != 0;
    match said.kind {
        Kind::Beat => return true,
        Kind::Over => {
            let Some(fault) = Fault::decode(&said.body) else { return false };
            // Rank 0 tells all others what one of them told it.
            shared.over(fault, !from_first);
            return true;
        }
        _ => {}
    }
    let mut state = shared.lock();
    let inbox = &mut state.inboxes[at];
    match said.kind {
        Kind::Ask if !from_first && inbox.message.is_none() && !inbox.done => inbox.message = Some(said.body),
        Kind::Given if from_first && inbox.message.is_none() => inbox.message = Some(said.body),
        Kind::Done if !from_first && !inbox.done => inbox.done = true,
        Kind::Bye if from_first => state.bye = true,
        _ => return false,
    }
    drop(state);
    shared.changed.notify_all();
    true
}
