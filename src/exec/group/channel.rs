//! The connections of a rank after the meeting, and the threads that keep them.
//!
//! Rank 0 has a line to every other rank, each of these one to rank 0. A thread a line reads; one more gives signs of life and tells faults.

use super::frame::{Decoder, Kind};
use super::listen::listen;
use super::shared::{BEATS, Inbox, Line, Shared, State};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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
