//! The thread that reads a line: it takes in what comes, sees the other side die, and counts how long it is silent.

use super::fault::{Death, Fault};
use super::frame::{Decoder, Frame, Kind};
use super::shared::{ALL, BEATS, BEFORE, Shared, each};
use super::wire::{PIECE, is_not_yet};
use std::io::Read;
use std::net::TcpStream;

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
pub(super) fn listen(shared: &Shared, at: usize, mut stream: TcpStream, mut decoder: Decoder) {
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
