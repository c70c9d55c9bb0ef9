//! The processes that were started together, and this one among them.

use super::calls::{count, ok, text};
use super::error::MpiError;
use super::library::{ANY_SOURCE, COMM_WORLD, ERRORS_RETURN, Functions, Status, THREAD_SERIALIZED, load};
use super::message::{Coming, Going};
use crate::exec::group::{Disagreement, Facts};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Messages of a kind have a tag of their own.
pub(super) const EXCHANGE: c_int = 1;
const FAILED: c_int = 2;
/// Of the groups of stream 0; those of the others follow.
pub(super) const GROUPS: c_int = 16;

/// Bytes of what a rank says of its failure, at most.
const MOST_SAID: usize = 4096;
/// How long a rank that failed waits for the others to have been told.
const TOLD: Duration = Duration::from_millis(500);

/// All processes. There is one of it in a process; where it is dropped, the process has left. A rank that failed ends all others, which
/// were told why.
#[derive(Debug)]
pub struct World {
    pub(super) functions: &'static Functions,
    rank: usize,
    size: usize,
    failed: bool,
}

/// Whether this process has a world, or had one: it does not begin a second time.
static BEGUN: AtomicBool = AtomicBool::new(false);

impl World {
    /// Joins the processes that were started together; one that was started alone is all of them.
    ///
    /// # Errors
    /// The library is not there, refuses, or was begun before.
    pub fn join() -> Result<World, MpiError> {
        let functions = load()?;
        if BEGUN.swap(true, Ordering::SeqCst) {
            let message = "a process joins once".into();
            return Err(MpiError::Call { what: "beginning MPI", message });
        }
        let mut begun = 0;
        // SAFETY: the pointer is to an int that lives; the call may come before all others.
        ok(functions, "asking whether MPI has begun", unsafe { (functions.initialized)(&mut begun) })?;
        if begun != 0 {
            let message = "the host has begun it: hand its ranks over instead".into();
            return Err(MpiError::Call { what: "beginning MPI", message });
        }
        let (mut provided, none) = (0, std::ptr::null_mut());
        // SAFETY: null stands for no arguments; the last pointer is to an int that lives.
        let status = unsafe { (functions.init_thread)(none, none.cast(), THREAD_SERIALIZED, &mut provided) };
        ok(functions, "beginning MPI", status)?;
        if provided < THREAD_SERIALIZED {
            let message = "this library is called by the thread alone that began it".into();
            return Err(MpiError::Call { what: "beginning MPI", message });
        }
        let mut world = World { functions, rank: 0, size: 0, failed: false };
        // SAFETY: both are handles of the standard.
        let status = unsafe { (functions.set_errhandler)(COMM_WORLD, ERRORS_RETURN) };
        ok(functions, "asking for errors to be returned", status)?;
        world.rank = world.number("asking for the rank", functions.rank)?;
        world.size = world.number("counting processes", functions.size)?;
        Ok(world)
    }

    /// What the library calls itself.
    ///
    /// # Errors
    /// It is not there.
    pub fn version() -> Result<String, MpiError> {
        let functions = load()?;
        text(|at, length| {
            // SAFETY: there is room for as long a text as the standard says; the call may come before all others.
            unsafe { (functions.version)(at, length) }
        })
        .map(|text| {
            // The first line, without the tabulators that some put into it.
            text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .ok_or_else(|| MpiError::Call { what: "asking for the version", message: "it has none".into() })
    }

    /// Which of them this process is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    fn number(
        &self,
        what: &'static str,
        call: unsafe extern "C" fn(usize, *mut c_int) -> c_int,
    ) -> Result<usize, MpiError> {
        let mut number = 0;
        // SAFETY: the communicator is the standard's, and the pointer is to an int that lives.
        ok(self.functions, what, unsafe { call(COMM_WORLD, &mut number) })?;
        Ok(usize::try_from(number).unwrap_or(0))
    }

    /// Bytes to every other rank, and as many as said from each: `lengths[r]` from rank r. Its own are what is handed in.
    ///
    /// # Errors
    /// They do not come for as long as `patience`, have another length, or another rank failed.
    pub fn exchange(
        &mut self,
        own: &[u8],
        lengths: &[usize],
        patience: Duration,
    ) -> Result<Vec<Vec<u8>>, MpiError> {
        let others: Vec<usize> = (0..self.size).filter(|&r| r != self.rank).collect();
        let mut coming = vec![];
        for &peer in &others {
            let bytes = lengths.get(peer).copied().unwrap_or(0);
            coming.push((peer, Coming::begin(self.functions, [self.rank, peer], EXCHANGE, bytes)?));
        }
        let mut going = vec![];
        for &peer in &others {
            going.push((peer, Going::begin(self.functions, peer, EXCHANGE, own.to_vec())?));
        }
        let mut since = Instant::now();
        let mut all = vec![vec![]; self.size];
        all[self.rank] = own.to_vec();
        loop {
            let mut moved = false;
            let mut left = vec![];
            for (peer, mut message) in coming {
                match message.poll()? {
                    Some(bytes) => (all[peer], moved) = (bytes, true),
                    None => left.push((peer, message)),
                }
            }
            coming = left;
            let mut left = vec![];
            for (peer, mut message) in going {
                if message.poll()? { moved = true } else { left.push((peer, message)) }
            }
            going = left;
            let first = coming.first().map(|c| (c.0, "a part"));
            let Some((peer, what)) = first.or_else(|| going.first().map(|g| (g.0, "the receipt of a part")))
            else {
                return Ok(all);
            };
            self.others_live()?;
            if moved {
                since = Instant::now();
            } else if since.elapsed() > patience {
                return Err(MpiError::Late { rank: self.rank, peer, what, patience });
            }
            std::thread::yield_now();
        }
    }

    /// Compares what ranks state of what they are about to run, before the first message of it.
    ///
    /// # Errors
    /// They do not agree, which every rank is told alike, or a rank does not come.
    pub fn agree(&mut self, facts: &Facts, patience: Duration) -> Result<(), MpiError> {
        /// No facts have more bytes.
        const MOST: u64 = 1 << 16;
        let own = facts.encode();
        let each = vec![8; self.size];
        let mut lengths = vec![];
        for (rank, bytes) in
            self.exchange(&(own.len() as u64).to_le_bytes(), &each, patience)?.iter().enumerate()
        {
            let length = <[u8; 8]>::try_from(bytes.as_slice()).map(u64::from_le_bytes);
            let length = length.ok().filter(|length| *length <= MOST).ok_or(MpiError::Garbled { rank })?;
            lengths.push(length as usize);
        }
        let mut all = vec![];
        for (rank, bytes) in self.exchange(&own, &lengths, patience)?.iter().enumerate() {
            all.push(Facts::decode(bytes).ok_or(MpiError::Garbled { rank })?);
        }
        Ok(Disagreement::among(&all)?)
    }

    /// Whether another rank said that it failed.
    ///
    /// # Errors
    /// One did.
    pub(super) fn others_live(&mut self) -> Result<(), MpiError> {
        let (mut there, mut status) = (0, Status::default());
        // SAFETY: the communicator is the standard's, and both pointers are to what lives.
        let probed =
            unsafe { (self.functions.iprobe)(ANY_SOURCE, FAILED, COMM_WORLD, &mut there, &mut status) };
        ok(self.functions, "listening to the others", probed)?;
        if there == 0 {
            return Ok(());
        }
        let bytes = count(self.functions, &status)?.min(MOST_SAID);
        let peer = usize::try_from(status.source).unwrap_or(0);
        let mut message = Coming::begin(self.functions, [self.rank, peer], FAILED, bytes)?;
        let begin = Instant::now();
        while begin.elapsed() < TOLD {
            if let Some(bytes) = message.poll()? {
                return Err(MpiError::Failed {
                    rank: peer,
                    why: String::from_utf8_lossy(&bytes).into_owned(),
                });
            }
        }
        Err(MpiError::Failed { rank: peer, why: "it did not come to say why".into() })
    }

    /// Tells all others why this rank failed; when it is dropped, all processes end.
    pub fn fail(&mut self, why: &str) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        let mut end = why.len().min(MOST_SAID);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        let others = (0..self.size).filter(|&r| r != self.rank);
        let mut going: Vec<Going> = others
            .filter_map(|r| Going::begin(self.functions, r, FAILED, why.as_bytes()[..end].to_vec()).ok())
            .collect();
        let begin = Instant::now();
        while !going.is_empty() && begin.elapsed() < TOLD {
            going.retain_mut(|message| !message.poll().unwrap_or(true));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.failed {
            // Those that were told end by themselves, if they listen; the rest is ended then.
            std::thread::sleep(TOLD);
            // SAFETY: the communicator is the standard's.
            unsafe { (self.functions.abort)(COMM_WORLD, 1) };
            // Who is still here has messages under way, which an end in order would wait for.
            return;
        }
        // SAFETY: it has begun, and nothing is called after it.
        unsafe { (self.functions.finalize)() };
    }
}
