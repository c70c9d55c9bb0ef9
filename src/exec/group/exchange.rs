//! What ranks do together: every rank brings bytes to rank 0, which makes of them what all get.

use super::fault::{Abort, Fault};
use super::frame::Kind;
use super::shared::{BEFORE, Inbox, Shared, State, each};
use super::words::{Reader, put_number};
use std::time::Instant;

/// What ranks do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Share = 0,
    Gather = 1,
    Barrier = 2,
    Agree = 3,
}

impl What {
    const ALL: [What; 4] = [What::Share, What::Gather, What::Barrier, What::Agree];

    fn name(self) -> &'static str {
        match self {
            What::Share => "share",
            What::Gather => "gather",
            What::Barrier => "barrier",
            What::Agree => "agree",
        }
    }
}

/// One call of a rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) what: What,
    /// How many came before it.
    pub(super) count: usize,
    pub(super) until: Instant,
}

impl Call {
    /// What stands before what is brought, and before what is given back.
    fn head(&self) -> Vec<u8> {
        let mut out = vec![];
        put_number(&mut out, self.what as usize);
        put_number(&mut out, self.count);
        out
    }

    /// The call whose head this is.
    fn of(&self, message: &[u8]) -> Option<Call> {
        let mut r = Reader(message);
        let what = What::ALL.get(r.number()?).copied()?;
        Some(Call { what, count: r.number()?, until: self.until })
    }

    fn name(&self) -> String {
        format!("{} (number {})", self.what.name(), self.count + 1)
    }
}

/// Brings this rank's bytes; what rank 0 made of those of all.
///
/// # Errors
/// The group is over, or is so from now on, since ranks did not come in time or do different things.
pub(super) fn exchange(
    shared: &Shared,
    call: Call,
    mine: &[u8],
    made: impl Fn(&[Vec<u8>]) -> Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    if let Some(fault) = shared.lock().fault.clone() {
        return Err(fault);
    }
    let most = each(shared.size);
    if mine.len() > most {
        let message = format!("{} bytes are more than the {most} that a rank may bring", mine.len());
        let why = Abort { operation: call.what.name().into(), message, ..Abort::default() };
        let fault = shared.fail(Fault::Aborted { rank: shared.rank, why });
        shared.until_told();
        return Err(fault);
    }
    if shared.rank == 0 { first(shared, call, mine, made) } else { other(shared, call, mine) }
}

/// What any rank but 0 does.
fn other(shared: &Shared, call: Call, mine: &[u8]) -> Result<Vec<u8>, Fault> {
    let head = call.head();
    shared.say(0, Kind::Ask, &[&head, mine].concat());
    // Rank 0 says who is missing at its own deadline, which may be a little later.
    let ready = |s: &State| s.fault.is_some() || s.inboxes[0].message.is_some();
    let mut state = shared.wait(call.until + shared.silence, ready);
    let (fault, message) = (state.fault.clone(), state.inboxes[0].message.take());
    drop(state);
    match (message, fault) {
        (Some(message), _) if message.starts_with(&head) => Ok(message[BEFORE..].to_vec()),
        (Some(_), _) => Err(shared.fail(Fault::Garbled { rank: 0 })),
        (None, Some(fault)) => Err(fault),
        (None, None) => Err(shared.missing(vec![0], &call.name())),
    }
}

/// What rank 0 does.
fn first(
    shared: &Shared,
    call: Call,
    mine: &[u8],
    made: impl Fn(&[Vec<u8>]) -> Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    let here = |i: &Inbox| i.message.is_some();
    let mut state = shared.wait(call.until, |s| s.fault.is_some() || s.inboxes.iter().all(here));
    if let Some(fault) = state.fault.clone() {
        return Err(fault);
    }
    let missing = shared.without(&state, here);
    if !missing.is_empty() {
        drop(state);
        return Err(shared.missing(missing, &call.name()));
    }
    let messages: Vec<Vec<u8>> = state.inboxes.iter_mut().filter_map(|i| i.message.take()).collect();
    drop(state);
    let head = call.head();
    let mut parts = vec![mine.to_vec()];
    for (line, mut message) in messages.into_iter().enumerate() {
        let rank = shared.peer(line);
        if !message.starts_with(&head) {
            let theirs = call.of(&message).map(|theirs| theirs.name());
            let out_of_step = |theirs| Fault::OutOfStep { rank, theirs, ours: call.name() };
            let fault = shared.fail(theirs.map_or(Fault::Garbled { rank }, out_of_step));
            shared.until_told();
            return Err(fault);
        }
        message.drain(..BEFORE);
        parts.push(message);
    }
    let given = made(&parts);
    let frame = [&head[..], &given].concat();
    (0..shared.lines()).for_each(|line| shared.say(line, Kind::Given, &frame));
    Ok(given)
}
