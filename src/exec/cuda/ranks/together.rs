//! All ranks of an island, told from one thread: eagerly, or as a graph that was captured before for the same pointers.
//!
//! Invariants: a graph holds the pointers that it was captured with, and is launched in calls with these alone; a few are kept, and one is given up
//! only when its last launch is known to be done.

use super::call::{Call, Pointers, Touched, overlap};
use super::error::IslandError;
use super::graph::Captured;
use super::host::Host;
use super::known::{Known, Together};
use super::messages::Messages;
use super::part::{Last, Part};
use super::shared::Shared;
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::error::{CudaError, driver};
use crate::exec::walk::{Local, issue, issue_all};
use crate::lower::program::Program;
use cudarc::driver::CudaEvent;
use std::ffi::c_void;
use std::sync::Arc;

/// How many sets of pointers are known by the calls that had them.
const MOST: usize = 8;

/// How a call was told the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Operation by operation.
    Eagerly,
    /// By one launch of a graph that holds all of them.
    Replayed,
}

/// Tells the device all ranks' shares of a call, behind what the stream was told and before what it is told next, and waits for nothing.
/// `calls[r]` is that of `parts[r]`, which are all parts of one island in this process, in the order of ranks.
///
/// The first call with certain pointers is told eagerly; the second one is captured as a graph, which it and those behind it launch, if the
/// options of the parts ask for graphs. Where other ranks are processes, their calls must have known pointers when these have: a message from
/// a graph is received by a graph. A stream that is under capture is told eagerly: the graph that its owner makes then holds the call.
/// Other than [`Part::enqueue`] a call that failed leaves nothing behind that later ones meet, where all ranks are in this process.
///
/// # Errors
/// Something is wrong with a call, a message finds no receiver, or the driver's.
///
/// # Safety
/// As [`Part::enqueue`], for each rank.
pub unsafe fn enqueue_all(
    parts: &mut [&mut Part],
    calls: &[Call<'_>],
    stream: *mut c_void,
) -> Result<Told, IslandError> {
    let shared = whole(parts)?;
    if let Some(why) = parts.iter().find_map(|part| part.given_up()) {
        return Err(IslandError::GivenUp(why));
    }
    // SAFETY: the caller's promise.
    let told = unsafe { enqueue_here(parts, calls, &shared, stream) };
    if let Err(e) = &told {
        // Other processes would wait for this one.
        parts.iter_mut().for_each(|part| part.tell_processes(&e.to_string()));
    }
    told
}

/// # Safety
/// As [`enqueue_all`].
unsafe fn enqueue_here(
    parts: &mut [&mut Part],
    calls: &[Call<'_>],
    shared: &Shared,
    stream: *mut c_void,
) -> Result<Told, IslandError> {
    if calls.len() != parts.len() {
        let arguments = shared.programs.first().map_or(0, |p| p.attention.arguments.len());
        return Err(IslandError::Ranks { got: calls.len(), wanted: parts.len(), arguments });
    }
    let mut touched = vec![];
    let each = parts.iter().zip(calls).map(|(part, call)| part.pointers(call, &mut touched));
    let pointers = each.collect::<Result<Vec<_>, _>>()?;
    let _entered = Entered::new(&shared.context)?;
    // SAFETY: the caller's promise.
    let host = unsafe { Host::of(stream.cast()) };
    let mut together = shared.together();
    if host.captures()? {
        apart(touched)?;
        tell_all(parts, &shared.programs, &pointers, host, &together.begin)?;
        return Ok(Told::Eagerly);
    }
    together.await_last(parts, host)?;
    let told = together.tell(parts, &shared.programs, pointers, touched, host);
    let ended = together.ended(parts, host);
    let told = told?;
    ended?;
    Ok(told)
}

impl Together {
    /// The stream comes behind the last call of each part.
    pub(super) fn await_last(&self, parts: &[&mut Part], host: Host) -> Result<(), CudaError> {
        // One of all of them is waited for once.
        if parts.iter().any(|part| part.last == Last::Together) {
            host.wait(&self.end)?;
        }
        let own = parts.iter().filter(|part| part.last == Last::Own);
        own.map(|part| &part.end).try_for_each(|end| host.wait(end))
    }

    /// The last call of each part is done where the stream stands now.
    pub(super) fn ended(&self, parts: &mut [&mut Part], host: Host) -> Result<(), CudaError> {
        host.record(&self.end)?;
        parts.iter_mut().for_each(|part| part.last = Last::Together);
        Ok(())
    }

    fn tell(
        &mut self,
        parts: &mut [&mut Part],
        programs: &[Program],
        pointers: Vec<Pointers>,
        touched: Vec<Touched>,
        host: Host,
    ) -> Result<Told, IslandError> {
        let Some(at) = self.known.iter().position(|known| known.pointers == pointers) else {
            apart(touched)?;
            tell_all(parts, programs, &pointers, host, &self.begin)?;
            self.remember(pointers)?;
            return Ok(Told::Eagerly);
        };
        self.known[at..].rotate_left(1);
        let Some(known) = self.known.last_mut() else { return Ok(Told::Eagerly) };
        let captured = match known.captured.take() {
            Some(captured) => captured,
            None => {
                let issue = |own| tell_all(parts, programs, &pointers, own, &self.begin);
                Captured::of(&self.own, issue)?
            }
        };
        known.captured.insert(captured).launch(host)?;
        host.record(&known.done)?;
        Ok(Told::Replayed)
    }

    /// The next call with these pointers finds them known, if there is room, or a graph that is done with.
    fn remember(&mut self, pointers: Vec<Pointers>) -> Result<(), CudaError> {
        if !self.graph {
            return Ok(());
        }
        if self.known.len() >= MOST && self.alike {
            return Ok(());
        }
        if self.known.len() >= MOST {
            // An event that is asked for in vain counts as one that has not come.
            let idle = |known: &Known| known.captured.is_none() || known.done.is_complete();
            let Some(at) = self.known.iter().position(idle) else { return Ok(()) };
            self.known.remove(at);
        }
        let done = driver("making an event", self.own.context().new_event(None))?;
        self.known.push(Known { pointers, captured: None, done });
        Ok(())
    }
}

/// What one rank writes, no other one touches.
fn apart(touched: Vec<Touched>) -> Result<(), IslandError> {
    match overlap(touched) {
        Some((rank, why)) => Err(IslandError::Call { rank, why }),
        None => Ok(()),
    }
}

/// All ranks, eagerly, behind what the stream was told and before what it is told next.
fn tell_all(
    parts: &mut [&mut Part],
    programs: &[Program],
    pointers: &[Pointers],
    host: Host,
    begin: &CudaEvent,
) -> Result<(), IslandError> {
    let mut tell = || -> Result<(), IslandError> {
        host.record(begin)?;
        for (part, pointers) in parts.iter_mut().zip(pointers) {
            part.rank.begin(pointers, begin)?;
        }
        if let [part] = parts
            && let Messages::Nccl(nccl) = &mut part.transport
        {
            nccl.begin();
            let told = issue(&programs[part.number], &mut part.rank, &mut **nccl, part.shared.patience);
            return Ok(told?);
        }
        let mut ends = Local::ends(programs.len());
        let mut ranks: Vec<_> = parts.iter_mut().map(|part| &mut part.rank).zip(&mut ends).collect();
        Ok(issue_all(programs, &mut ranks)?)
    };
    let told = tell();
    // Whatever came of it: the host's stream comes behind what was told.
    let joined = parts.iter_mut().map(|part| part.rank.before(host));
    let joined = joined.fold(Ok(()), Result::and);
    told?;
    Ok(joined?)
}

/// What all parts of an island share, if these are all of one, each once and in order.
fn whole(parts: &[&mut Part]) -> Result<Arc<Shared>, IslandError> {
    let Some(first) = parts.first() else { return Err(IslandError::Parts { got: 0, wanted: 1 }) };
    let shared = first.shared.clone();
    let wanted = shared.here.len();
    let mut numbered = shared.here.clone().zip(parts.iter());
    let right = numbered.all(|(n, part)| part.rank() == n && Arc::ptr_eq(&part.shared, &shared));
    if !right || parts.len() != wanted {
        return Err(IslandError::Parts { got: parts.len(), wanted });
    }
    Ok(shared)
}

impl Part {
    /// Begins anew after a call failed, with all parts of the island, rank 0 first. Whatever comes next runs behind everything that the
    /// device was told for any rank.
    ///
    /// # Errors
    /// They are not all parts of one island, or the driver's.
    pub fn restart(parts: &mut [&mut Part]) -> Result<(), IslandError> {
        let shared = whole(parts)?;
        if let [Part { transport: Messages::Nccl(_), .. }] = parts {
            let why = "a communicator that was given up is gone: join another one, and make the part anew";
            return Err(IslandError::GivenUp(why.into()));
        }
        let _entered = Entered::new(&shared.context)?;
        let together = shared.together();
        let meeting = Host::own(&together.own);
        together.await_last(parts, meeting)?;
        parts.iter_mut().try_for_each(|part| part.rank.before(meeting))?;
        together.ended(parts, meeting)?;
        parts.iter_mut().try_for_each(|part| part.rank.after(&together.end))?;
        for (part, local) in parts.iter_mut().zip(Local::ends(shared.programs.len())) {
            part.transport = Messages::Local(local);
        }
        Ok(())
    }
}
