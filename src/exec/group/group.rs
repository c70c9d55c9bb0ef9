//! What the ranks do together once they have met.
//!
//! Everything goes by rank 0: each rank brings its part, rank 0 waits for all, and gives back what came of it. So a rank that is missing is
//! known by name, and ranks that do different things find out.

use super::channel::Channel;
use super::error::MeetError;
use super::exchange::{Call, What, exchange};
use super::facts::{Disagreement, Facts};
use super::fault::{Abort, Fault};
use super::frame::{Decoder, Kind};
use super::guest::join;
use super::host::gather;
use super::meeting::{LONGEST, Meeting};
use super::shared::each;
use super::words::{Reader, put_bytes};
use std::time::{Duration, Instant};

/// One rank's end of a group that has met. All of them call the same methods in the same order; [`poll`](Group::poll) and [`abort`](Group::abort) may be
/// called at any time, from any thread.
///
/// A group that is dropped before [`leave`](Group::leave) has left early, which the others are told.
pub struct Group {
    rank: usize,
    channel: Channel,
    /// How many times ranks did something together.
    count: usize,
    left: bool,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group(rank {} of {})", self.rank, self.size())
    }
}

impl Meeting {
    /// Meets the others: comes back when all are here, at the latest a little after `patience`.
    ///
    /// # Errors
    /// This rank is wrong, or some did not come in time.
    pub fn meet(&self) -> Result<Group, MeetError> {
        let meeting = self.checked()?;
        let peers = match (self.rank, self.size) {
            (_, 1) => vec![],
            (0, _) => {
                let all = gather(&meeting)?.into_iter().enumerate();
                all.map(|(i, stream)| (i + 1, stream, Decoder::default())).collect()
            }
            _ => {
                let (stream, decoder) = join(&meeting)?;
                vec![(0, stream, decoder)]
            }
        };
        let channel = Channel::start(self.rank, self.size, meeting.silence, peers);
        let channel = channel.map_err(|e| MeetError::System(format!("the threads of a group: {e}")))?;
        Ok(Group { rank: self.rank, channel, count: 0, left: false })
    }
}

impl Group {
    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.channel.shared.size
    }

    /// The most bytes that a rank may bring to [`share`](Group::share) and [`gather`](Group::gather): 64 KiB, and less where ranks are more than 256.
    pub fn most(&self) -> usize {
        each(self.size())
    }

    /// Whether all is well. It never blocks.
    ///
    /// # Errors
    /// A rank died, gave up, or left early; once this says so, it says the same ever after.
    pub fn poll(&self) -> Result<(), Fault> {
        self.channel.shared.lock().fault.clone().map_or(Ok(()), Err)
    }

    /// Ends the group on all ranks: each is told why, by the name of this one. Whatever a rank waits for in this group ends. Comes back when
    /// they were told, at the latest after the limit of silence.
    pub fn abort(&self, why: Abort) {
        let shared = &self.channel.shared;
        shared.fail(Fault::Aborted { rank: self.rank, why });
        shared.until_told();
    }

    /// Rank 0's bytes, on every rank; what others bring is not read.
    ///
    /// # Errors
    /// The group is over, or not all came within the limit.
    pub fn share(&mut self, bytes: &[u8], limit: Duration) -> Result<Vec<u8>, Fault> {
        let mine = if self.rank == 0 { bytes } else { &[] };
        self.exchange(What::Share, mine, limit, |parts| parts[0].clone())
    }

    /// Every rank's bytes, on every rank, by rank.
    ///
    /// # Errors
    /// The group is over, or not all came within the limit.
    pub fn gather(&mut self, bytes: &[u8], limit: Duration) -> Result<Vec<Vec<u8>>, Fault> {
        self.parts(What::Gather, bytes, limit)
    }

    /// Comes back when all ranks have come here.
    ///
    /// # Errors
    /// The group is over, or not all came within the limit.
    pub fn barrier(&mut self, limit: Duration) -> Result<(), Fault> {
        self.exchange(What::Barrier, &[], limit, |_| vec![]).map(drop)
    }

    /// Compares what ranks state of themselves: the inner result says what differs, by fact, ranks and values, the same on every rank. The group
    /// is then still whole.
    ///
    /// # Errors
    /// The group is over, or not all came within the limit.
    pub fn agree(&mut self, facts: &Facts, limit: Duration) -> Result<Result<(), Disagreement>, Fault> {
        let parts = self.parts(What::Agree, &facts.encode(), limit)?;
        let mut all = vec![];
        for (rank, part) in parts.iter().enumerate() {
            match Facts::decode(part) {
                Some(facts) => all.push(facts),
                None => return Err(self.channel.shared.fail(Fault::Garbled { rank })),
            }
        }
        Ok(Disagreement::among(&all))
    }

    /// The clean end: comes back when every rank has called it. Until then a rank that waits here sees the others' faults.
    ///
    /// # Errors
    /// The group is over, or not all came within the limit.
    pub fn leave(mut self, limit: Duration) -> Result<(), Fault> {
        let (shared, until) = (&self.channel.shared, Instant::now() + limit.min(LONGEST));
        if self.rank == 0 {
            let state = shared.wait(until, |s| s.fault.is_some() || s.inboxes.iter().all(|i| i.done));
            let fault = state.fault.clone();
            let missing = shared.without(&state, |i| i.done);
            drop(state);
            if let Some(fault) = fault {
                return Err(fault);
            }
            if !missing.is_empty() {
                return Err(shared.missing(missing, "the end"));
            }
            shared.lock().bye = true;
            (0..shared.lines()).for_each(|line| shared.say(line, Kind::Bye, &[]));
            // They hang up; whoever hung up first might take the last word away from one that has not read it.
            let soon = Instant::now() + shared.silence;
            drop(shared.wait(soon, |s| s.inboxes.iter().all(|i| i.closed)));
        } else {
            shared.say(0, Kind::Done, &[]);
            let until = until + shared.silence;
            let state = shared.wait(until, |s| s.fault.is_some() || s.bye);
            let (fault, bye) = (state.fault.clone(), state.bye);
            drop(state);
            if let Some(fault) = fault.filter(|_| !bye) {
                return Err(fault);
            }
            if !bye {
                return Err(shared.missing(vec![0], "the end"));
            }
        }
        self.left = true;
        Ok(())
    }

    fn parts(&mut self, what: What, bytes: &[u8], limit: Duration) -> Result<Vec<Vec<u8>>, Fault> {
        let size = self.size();
        let all = self.exchange(what, bytes, limit, |parts| {
            let mut out = vec![];
            parts.iter().for_each(|part| put_bytes(&mut out, part));
            out
        })?;
        let mut r = Reader(&all);
        let parts: Option<Vec<Vec<u8>>> = (0..size).map(|_| r.bytes().map(<[u8]>::to_vec)).collect();
        let parts = parts.and_then(|parts| r.end(parts));
        parts.ok_or_else(|| self.channel.shared.fail(Fault::Garbled { rank: 0 }))
    }

    fn exchange(
        &mut self,
        what: What,
        mine: &[u8],
        limit: Duration,
        made: impl Fn(&[Vec<u8>]) -> Vec<u8>,
    ) -> Result<Vec<u8>, Fault> {
        let call = Call { what, count: self.count, until: Instant::now() + limit.min(LONGEST) };
        self.count += 1;
        exchange(&self.channel.shared, call, mine, made)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.left {
            self.channel.shared.fail(Fault::Left { rank: self.rank });
            self.channel.shared.until_told();
        }
    }
}
