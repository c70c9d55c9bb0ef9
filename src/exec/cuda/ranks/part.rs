//! One rank of one island on one GPU, as a host embeds it: raw device pointers and the host's stream in, work enqueued on it.
//!
//! In: a schedule, once; then, as often as wanted, a [`Call`] and a stream. Out: the rank's device program, behind what the stream was told
//! and before what it is told next. Invariants: nothing waits for the device; no device memory is allocated after the parts are made;
//! what is wrong with a call is said before anything of it is enqueued; what kernels are handed are the pointers of this call.

use super::call::{Call, CallError, Pointers, Touched, overlap, pointers};
use super::error::IslandError;
use super::host::Host;
use super::loaded::Kernels;
use super::messages::Messages;
use super::options::RunOptions;
use super::rank::Rank;
use super::shared::Shared;
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::error::driver;
use crate::exec::cuda::gpu::Gpu;
use crate::exec::cuda::nccl::{Communicator, Lanes, Nccl, NcclError, Processes};
use crate::exec::group::Group;
use crate::exec::walk::{Local, Transport, issue};
use crate::layout::Progression;
use crate::lower::program::{Program, Target, lower};
use crate::schedule::Schedule;
use cudarc::driver::CudaEvent;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// One rank of an island on a GPU.
///
/// The parts of an island are made together, by [`Part::all`], and may then go to a thread each; where ranks are processes, each makes its own
/// ([`Part::of_process`]). The k-th call of one rank belongs with
/// the k-th of every other: [`enqueue`](Part::enqueue) tells the device one rank's share of it, and so is called for all ranks, from as many threads;
/// [`enqueue_all`](super::enqueue_all) tells it all shares from one thread.
///
/// Calls of one part are done one after another, also on different streams: a second one comes behind the first. Only a call that is captured into
/// a graph of the host's is ordered by the host alone, whenever that graph is launched; the parts must outlive such a graph. A part must
/// not be dropped while a call of it is being captured.
///
/// Where a call fails, the calls of the other ranks that wait for it fail too and name it, and all later ones are refused until
/// [`restart`](Part::restart). What was told the device up to there still runs, behind the streams of the failed calls: the memory of all ranks must
/// stay until those are done.
pub struct Part {
    pub(super) shared: Arc<Shared>,
    pub(super) rank: Rank,
    pub(super) number: usize,
    rows: [Vec<Progression>; 2],
    pub(super) transport: Messages,
    /// Where the host's stream stands when a call begins, and when it has been told all of it.
    begin: CudaEvent,
    pub(super) end: CudaEvent,
    pub(super) last: Last,
    /// While it is dropped. It is the last field: what was current on the thread is so again when all others are gone.
    left: Option<Entered>,
}

/// Behind which event the last call of a part is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// There was none.
    None,
    /// Its own.
    Own,
    /// That of all parts.
    Together,
}

impl Part {
    /// A part for each rank of the schedule, rank 0 first: it is lowered for the GPU, and its kernels are loaded.
    ///
    /// # Errors
    /// No kernel computes a step of it, or the driver's.
    pub fn all(
        gpu: &Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        options: RunOptions<'_>,
    ) -> Result<Vec<Part>, IslandError> {
        let mut parts = Part::of_programs(gpu, kernels, programs(gpu, schedule)?, options)?;
        parts.iter_mut().for_each(|part| part.owns(schedule));
        Ok(parts)
    }

    /// The part of one rank, where each rank is a process with a GPU of its own: its messages go by NCCL. Every process makes it, of
    /// the same schedule, and calls it as often.
    ///
    /// # Errors
    /// As [`Part::all`]; the schedule is of another number of ranks, or sends what NCCL cannot be told.
    pub fn of_process(
        gpu: &Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        processes: &Processes,
        options: RunOptions<'_>,
    ) -> Result<Part, IslandError> {
        let others = Some(processes.group().clone());
        Part::over_nccl(
            gpu,
            kernels,
            schedule,
            (processes.rank(), processes.lanes().clone(), others),
            options,
        )
    }

    /// The same over communicators that the host has: streams of transfers use them in turn, so there should be one for each axis of the
    /// ranks' mesh, and all of them are of the same ranks. They hold as many multiprocessors as the host lets them, whatever the schedule
    /// says. How ranks hear that another one failed is then the host's affair: NCCL
    /// says so where it can, and every wait has its limit.
    ///
    /// # Errors
    /// As [`Part::of_process`].
    pub fn over_communicators(
        gpu: &Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        communicators: Vec<Communicator>,
        options: RunOptions<'_>,
    ) -> Result<Part, IslandError> {
        let rank = communicators.first().map_or(0, Communicator::rank);
        let lanes = Lanes::Hosts(communicators.into_iter().map(|c| Arc::new(Mutex::new(c))).collect());
        Part::over_nccl(gpu, kernels, schedule, (rank, lanes, None), options)
    }

    fn over_nccl(
        gpu: &Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        (rank, lanes, others): (usize, Lanes, Option<Arc<Group>>),
        options: RunOptions<'_>,
    ) -> Result<Part, IslandError> {
        let programs = programs(gpu, schedule)?;
        let nccl = Nccl::new(&programs, rank, lanes, others)?;
        let shared = Shared::ready(gpu, programs, rank..rank + 1, options)?;
        let mut part = Part::new(gpu, kernels, &shared, (rank, Messages::Nccl(Box::new(nccl))), options)?;
        part.owns(schedule);
        Ok(part)
    }

    fn owns(&mut self, schedule: &Schedule) {
        self.rows = [&schedule.q_layout, &schedule.kv_layout]
            .map(|layout| layout.rows.get(self.number).cloned().unwrap_or_default());
    }

    /// The same for programs that were lowered for this GPU; who owns which rows they do not say.
    pub(crate) fn of_programs(
        gpu: &Gpu,
        kernels: &mut Kernels,
        programs: Vec<Program>,
        options: RunOptions<'_>,
    ) -> Result<Vec<Part>, IslandError> {
        let all = 0..programs.len();
        let shared = Shared::ready(gpu, programs, all.clone(), options)?;
        let ends = Local::ends(all.len()).into_iter().map(Messages::Local);
        all.zip(ends).map(|end| Part::new(gpu, kernels, &shared, end, options)).collect()
    }

    fn new(
        gpu: &Gpu,
        kernels: &mut Kernels,
        shared: &Arc<Shared>,
        (number, transport): (usize, Messages),
        options: RunOptions<'_>,
    ) -> Result<Part, IslandError> {
        let _entered = Entered::new(gpu.context())?;
        let event = || driver("making an event", gpu.context().new_event(None));
        let wanted = shared.programs.get(number).map_or(&[][..], |p| &p.kernels);
        let loaded = wanted.iter().map(|k| kernels.get(gpu, k, options.cache)).collect::<Result<_, _>>()?;
        Ok(Part {
            rank: Rank::new(gpu, shared.programs.clone(), number, loaded, shared.tables.address())?,
            shared: shared.clone(),
            number,
            rows: [vec![], vec![]],
            transport,
            begin: event()?,
            end: event()?,
            last: Last::None,
            left: None,
        })
    }

    /// Which rank it is.
    pub fn rank(&self) -> usize {
        self.number
    }

    /// How many ranks the island has.
    pub fn ranks(&self) -> usize {
        self.shared.programs.len()
    }

    /// What the device is told of it.
    pub fn program(&self) -> &Program {
        &self.shared.programs[self.number]
    }

    /// How many bytes of workspace a call needs. What the kernels read beyond it, the part keeps itself.
    pub fn workspace_bytes(&self) -> usize {
        self.program().arena_bytes
    }

    /// How many bytes each argument of a call has, in their order.
    pub fn argument_bytes(&self) -> &[usize] {
        &self.program().attention.arguments
    }

    /// How many bytes the result has.
    pub fn out_bytes(&self) -> usize {
        self.program().attention.out_bytes
    }

    /// How many bytes its log-sum-exp has; 0 where there is none.
    pub fn lse_bytes(&self) -> usize {
        self.program().attention.lse_bytes
    }

    /// The rows of queries that the rank owns, in the order in which its arguments and results hold them.
    pub fn query_rows(&self) -> &[Progression] {
        &self.rows[0]
    }

    /// The same of keys and values.
    pub fn key_rows(&self) -> &[Progression] {
        &self.rows[1]
    }

    /// Tells the device this rank's share of a call, behind what the stream was told and before what it is told next. Returns when all
    /// of it is told, which is when the other ranks' calls have come far enough to send what this one receives, and to receive what it
    /// sends; none of it need be done by then. Where they do not come, it gives up after the patience of the options.
    ///
    /// `stream` is a `CUstream` or a `cudaStream_t` of the device's primary context; null is its default stream. It may be under
    /// capture, if the streams of all ranks' calls are captured into one graph.
    ///
    /// # Errors
    /// Something is wrong with the call, a rank failed, or the driver's.
    ///
    /// # Safety
    /// The stream is one of the GPU's primary context, and each pointer leads to as many bytes of its memory as the part says, until the
    /// stream has done the call; the arguments are not written meanwhile, and the rest is not touched.
    pub unsafe fn enqueue(&mut self, call: &Call<'_>, stream: *mut c_void) -> Result<(), IslandError> {
        if let Some(why) = self.given_up() {
            return Err(IslandError::GivenUp(why));
        }
        let _entered = Entered::new(&self.shared.context)?;
        // SAFETY: the caller's promise.
        let host = unsafe { Host::of(stream.cast()) };
        let done = self.tell(call, host);
        if let Err(e) = &done {
            Transport::<Rank>::abort(&mut self.transport, &e.to_string());
        }
        done
    }

    /// Whether nothing is known to have failed, here or on other ranks, of what was told the device up to now. It never blocks; whoever waits
    /// for the device asks it meanwhile.
    ///
    /// # Errors
    /// A rank failed, or its process is gone.
    pub fn well(&mut self) -> Result<(), IslandError> {
        let well = Transport::<Rank>::well(&mut self.transport).map_err(|e| NcclError::Over(e.to_string()));
        if let Err(e) = &well {
            Transport::<Rank>::abort(&mut self.transport, &e.to_string());
        }
        Ok(well?)
    }

    pub(super) fn given_up(&self) -> Option<String> {
        self.transport.aborted()
    }

    /// This rank cannot go on: where the others are processes, they are told.
    pub(super) fn tell_processes(&mut self, why: &str) {
        if let Messages::Nccl(nccl) = &mut self.transport {
            Transport::<Rank>::abort(&mut **nccl, why);
        }
    }

    fn tell(&mut self, call: &Call<'_>, host: Host) -> Result<(), IslandError> {
        let mut touched = vec![];
        let pointers = self.pointers(call, &mut touched)?;
        if let Some((_, why)) = overlap(touched) {
            return Err(IslandError::Call { rank: self.number, why });
        }
        let captured = host.captures()?;
        if !captured {
            self.await_last(host)?;
        }
        let told = self.issue(&pointers, host);
        // Whatever came of it: the host's stream comes behind what was told.
        let mut joined = self.rank.before(host);
        if !captured {
            let ended = host.record(&self.end);
            if ended.is_ok() {
                self.last = Last::Own;
            }
            joined = joined.and(ended);
        }
        told?;
        Ok(joined?)
    }

    fn issue(&mut self, pointers: &Pointers, host: Host) -> Result<(), IslandError> {
        host.record(&self.begin)?;
        self.rank.begin(pointers, &self.begin)?;
        self.transport.begin();
        let program = &self.shared.programs[self.number];
        Ok(issue(program, &mut self.rank, &mut self.transport, self.shared.patience)?)
    }

    /// The stream comes behind the last call.
    pub(super) fn await_last(&self, host: Host) -> Result<(), IslandError> {
        match self.last {
            Last::None => Ok(()),
            Last::Own => Ok(host.wait(&self.end)?),
            Last::Together => Ok(host.wait(&self.shared.together().end)?),
        }
    }

    /// The call's pointers, if the rank can take them.
    pub(super) fn pointers(
        &self,
        call: &Call<'_>,
        touched: &mut Vec<Touched>,
    ) -> Result<Pointers, IslandError> {
        let wrong = |why: CallError| IslandError::Call { rank: self.number, why };
        pointers(self.program(), call, touched).map_err(wrong)
    }
}

/// What each rank's device is told.
fn programs(gpu: &Gpu, schedule: &Schedule) -> Result<Vec<Program>, IslandError> {
    let Some(arch) = gpu.arch() else { return Err(IslandError::Arch(gpu.name()?)) };
    Ok(lower(schedule, Target::Cuda(arch))?)
}

impl Drop for Part {
    fn drop(&mut self) {
        self.left = Entered::new(&self.shared.context).ok();
        // The tables are freed behind what reads them.
        let frees = Host::own(&self.shared.frees);
        let _ = self.rank.before(frees);
        let _ = self.await_last(frees);
    }
}
