//! A communicator of NCCL, which never blocks.
//!
//! Invariants: one thread at a time uses it; after it failed nothing is asked of it but to be given up; whatever is asked for is asked
//! again until it is done, and who asks has a limit.

use super::error::NcclError;
use super::functions::{Functions, IN_PROGRESS, SUCCESS, functions};
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::gpu::Gpu;
use cudarc::driver::CudaContext;
use cudarc::nccl::sys::{self, ncclComm_t, ncclConfig_t, ncclUniqueId};
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the name of a communicator.
pub(super) const ID_BYTES: usize = 128;

/// The name of a communicator. It holds an address in the process that made it, which must live until all ranks have joined.
pub(crate) type Id = [u8; ID_BYTES];

/// What a communicator is doing.
const JOINING: &str = "joining a communicator";
const EXCHANGING: &str = "exchanging messages with other ranks";

/// How long the end in order may take, before the communicator is given up instead.
const END: Duration = Duration::from_secs(5);

/// One rank's end of a communicator.
#[derive(Debug)]
pub struct Communicator {
    functions: &'static Functions,
    context: Arc<CudaContext>,
    /// Null once it was given up.
    handle: ncclComm_t,
    /// By rank of the group its rank in the communicator.
    ranks: Vec<c_int>,
    /// Of the group.
    rank: usize,
    /// Whether it is given up with this value.
    own: bool,
    failed: Option<String>,
    /// What is said of it where it fails.
    does: &'static str,
}

// SAFETY: a communicator may be used by any thread, by one at a time: everything is asked for by `&mut`.
unsafe impl Send for Communicator {}

/// A new name.
pub(crate) fn new_id() -> Result<Id, NcclError> {
    let functions = functions()?;
    let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
    // SAFETY: the pointer is to what lives.
    match unsafe { (functions.unique_id)(&mut id) } {
        SUCCESS => Ok(id.internal.map(|c| c.cast_unsigned())),
        status => Err(functions.failed("making a name for a communicator", status, std::ptr::null_mut())),
    }
}

/// What is asked of a communicator where the library's own choice is not taken. The first release with these fields is 2.18.
fn config(sms: Option<c_int>) -> ncclConfig_t {
    /// Of whoever fills in no number.
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 21_800,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        // A block of its kernels holds a multiprocessor.
        maxCTAs: sms.unwrap_or(UNDEFINED),
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
    }
}

impl Communicator {
    /// Joins the communicator of this name as rank `rank` of `size`: comes back when all ranks have, or after `patience`. `well` is asked
    /// meanwhile. Its kernels hold at most `sms` multiprocessors, if that is given.
    ///
    /// # Errors
    /// The library's, `well` says that a rank failed, or not all came in time.
    pub(super) fn join(
        gpu: &Gpu,
        id: Id,
        (rank, size, sms): (usize, usize, Option<usize>),
        patience: Duration,
        well: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Communicator, NcclError> {
        let functions = functions()?;
        let number = |n: usize| c_int::try_from(n).map_err(|e| NcclError::Over(e.to_string()));
        let ranks = (0..size).map(number).collect::<Result<Vec<_>, _>>()?;
        let (own, all) = (number(rank)?, number(size)?);
        let sms = sms.map(number).transpose()?;
        let _entered = Entered::new(gpu.context())?;
        let (mut handle, mut config) = (std::ptr::null_mut(), config(sms));
        let id = ncclUniqueId { internal: id.map(u8::cast_signed) };
        // SAFETY: all pointers are to what lives; the GPU is current.
        let status = unsafe { (functions.init)(&mut handle, all, id, own, &mut config) };
        let context = gpu.context().clone();
        let mut made =
            Communicator { functions, context, handle, ranks, rank, own: true, failed: None, does: JOINING };
        if status != SUCCESS && status != IN_PROGRESS {
            let failed = functions.failed(JOINING, status, handle);
            made.give_up();
            return Err(failed);
        }
        let joined = made.wait("all ranks to join a communicator", patience, well);
        if joined.is_err() {
            made.give_up();
        }
        made.does = EXCHANGING;
        joined.map(|()| made)
    }

    /// A communicator that the host has, for the ranks that have these ranks in it: the k-th is rank k of the program.
    ///
    /// # Errors
    /// It is not of this GPU, failed, or this process is none of the ranks.
    ///
    /// A communicator that blocks blocks here too, without a limit: one that was made with `blocking = 0` does not.
    ///
    /// # Safety
    /// It is an `ncclComm_t` of the library that annulus finds, and lives as long as this value; nobody else uses it while annulus does.
    pub unsafe fn of_host(
        gpu: &Gpu,
        handle: *mut c_void,
        ranks: &[usize],
    ) -> Result<Communicator, NcclError> {
        let functions = functions()?;
        let wrong = |why: String| Err(NcclError::Foreign(why));
        let handle: ncclComm_t = handle.cast();
        if handle.is_null() {
            return wrong("is null".into());
        }
        let ask = |what, call: unsafe extern "C" fn(ncclComm_t, *mut c_int) -> c_int| {
            let mut number = 0;
            // SAFETY: the caller's promise; the pointer is to what lives.
            match unsafe { call(handle, &mut number) } {
                SUCCESS => Ok(number),
                status => Err(functions.failed(what, status, handle)),
            }
        };
        let size = ask("counting the ranks of a communicator", functions.count)?;
        let own = ask("asking for the rank in a communicator", functions.user_rank)?;
        let device = ask("asking for the GPU of a communicator", functions.device)?;
        if device != gpu.context().ordinal() as c_int {
            return wrong(format!(
                "is of GPU {device}, and the ranks run on GPU {}",
                gpu.context().ordinal()
            ));
        }
        let there = |&rank: &usize| c_int::try_from(rank).ok().filter(|&rank| rank < size);
        let Some(inside) = ranks.iter().map(there).collect::<Option<Vec<_>>>() else {
            return wrong(format!("has {size} ranks, and the ranks of the program in it are {ranks:?}"));
        };
        let mut once = inside.clone();
        once.sort_unstable();
        once.dedup();
        if once.len() != inside.len() {
            return wrong(format!("has a rank for each rank of the program: {ranks:?} names one twice"));
        }
        let Some(rank) = inside.iter().position(|&rank| rank == own) else {
            return wrong(format!("has this process as rank {own}, which is none of {ranks:?}"));
        };
        let context = gpu.context().clone();
        let mut made = Communicator {
            functions,
            context,
            handle,
            ranks: inside,
            rank,
            own: false,
            failed: None,
            does: EXCHANGING,
        };
        if !made.ready()? {
            return wrong("is not ready: wait until its state is a success".into());
        }
        Ok(made)
    }

    /// How many ranks of the program it has.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    /// Which of them this is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Whether what was asked for is on its way: what comes behind it on its streams is then behind it. It never blocks.
    ///
    /// # Errors
    /// The communicator failed, now or before.
    pub(super) fn ready(&mut self) -> Result<bool, NcclError> {
        self.check()?;
        let mut state = SUCCESS;
        // SAFETY: the communicator lives; the pointer is to what lives.
        let status = unsafe { (self.functions.async_error)(self.handle, &mut state) };
        match if status == SUCCESS { state } else { status } {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            failed => Err(self.failed(self.does, failed)),
        }
    }

    fn check(&self) -> Result<(), NcclError> {
        match &self.failed {
            Some(why) => Err(NcclError::Over(why.clone())),
            None => Ok(()),
        }
    }

    fn failed(&mut self, what: &'static str, status: c_int) -> NcclError {
        let error = self.functions.failed(what, status, self.handle);
        self.failed = Some(error.to_string());
        error
    }

    /// Waits until it is ready.
    pub(super) fn wait(
        &mut self,
        what: &'static str,
        patience: Duration,
        well: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<(), NcclError> {
        let begin = Instant::now();
        while !self.ready()? {
            well().map_err(NcclError::Over)?;
            if begin.elapsed() > patience {
                return Err(NcclError::Late { rank: self.rank, what, patience });
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Begins messages that are under way together and done together, behind what the stream was told: bytes to and from ranks of the
    /// program. They are told the stream when the communicator is [`ready`](Communicator::ready) again. Messages of no bytes are left out.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Safety
    /// The stream is one of the communicator's GPU, and all bytes lie in its memory until the stream has done them.
    pub(super) unsafe fn exchange(
        &mut self,
        messages: &[Message],
        stream: sys::cudaStream_t,
    ) -> Result<(), NcclError> {
        self.check()?;
        let functions = self.functions;
        let byte = sys::ncclDataType_t::ncclUint8 as c_int;
        // Whatever is wrong with them is known before the group begins.
        let there = messages.iter().filter(|m| m.bytes > 0).map(|m| match self.ranks.get(m.peer) {
            Some(&peer) if m.at != 0 => Ok((m, peer)),
            _ => Err(NcclError::Over(format!(
                "{} bytes at {:#x} with rank {} are no message",
                m.bytes, m.at, m.peer
            ))),
        });
        let there = there.collect::<Result<Vec<_>, _>>()?;
        if there.is_empty() {
            return Ok(());
        }
        // SAFETY: it takes nothing.
        let status = unsafe { (functions.group_start)() };
        if status != SUCCESS {
            return Err(self.failed("beginning a group", status));
        }
        let mut told = Ok(());
        for (m, peer) in there {
            let at = m.at as *mut c_void;
            let status = if m.sends {
                // SAFETY: the caller's promise.
                unsafe { (functions.send)(at, m.bytes, byte, peer, self.handle, stream) }
            } else {
                // SAFETY: the caller's promise.
                unsafe { (functions.recv)(at, m.bytes, byte, peer, self.handle, stream) }
            };
            if status != SUCCESS && status != IN_PROGRESS {
                told = Err(self.failed(if m.sends { "sending" } else { "receiving" }, status));
                break;
            }
        }
        // A group has an end, whatever came of it.
        // SAFETY: it takes nothing.
        let status = unsafe { (functions.group_end)() };
        told?;
        match status {
            SUCCESS | IN_PROGRESS => Ok(()),
            status => Err(self.failed("ending a group", status)),
        }
    }

    /// Nobody waits for this rank any more, and it waits for nobody. One of the host is left to the host.
    pub(super) fn give_up(&mut self) {
        self.failed.get_or_insert_with(|| "the communicator was given up".into());
        let handle = std::mem::replace(&mut self.handle, std::ptr::null_mut());
        if self.own && !handle.is_null() {
            let _entered = Entered::new(&self.context);
            // SAFETY: it lives, and nothing is asked of it after this.
            let _ = unsafe { (self.functions.abort)(handle) };
        }
    }
}

/// Bytes of one run, to or from a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sends: bool,
    /// By number in the program.
    pub(super) peer: usize,
    pub(super) at: u64,
    pub(super) bytes: usize,
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.own || self.handle.is_null() {
            return;
        }
        let _entered = Entered::new(&self.context);
        let begun = self.failed.is_none() && {
            // SAFETY: it lives.
            let status = unsafe { (self.functions.finalize)(self.handle) };
            status == SUCCESS || status == IN_PROGRESS
        };
        if !begun || self.wait("the end of a communicator", END, &mut || Ok(())).is_err() {
            return self.give_up();
        }
        // SAFETY: it lives, and nothing is asked of it after this.
        let _ = unsafe { (self.functions.destroy)(self.handle) };
    }
}
