//! The engine of the CPU: the memories and streams of all ranks, run late and in any legal order.
//!
//! In: what walkers issue. Out: the bytes of results. Invariants: what is issued to a stream runs in that order, and after the events and
//! marks that it waits for; nothing else orders streams, so that a program that lacks an event fails under some seed. Nothing runs
//! before it is asked for; where something was issued and nothing can run, that is an error.

use super::drive::{walk, walk_all};
use super::engine::{Engine, HostMemory, Marks, Pointer, Spread};
use super::error::WalkError;
use super::kernels::{self, Memory};
use super::local::Local;
use super::transport::Transport;
use crate::exec::cpu::{ExecError, validate::validate};
use crate::ir::Tensor;
use crate::lower::program::{Action, Address, Launch, Program, Runs, Target, lower};
use crate::schedule::Schedule;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of how many jobs one lets its stream come elsewhere.
const LATER: u64 = 8;

/// Where a byte lies: whose, and where there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    rank: usize,
    at: Address,
}

impl Pointer for Place {
    fn plus(self, bytes: usize) -> Place {
        Place { at: self.at.plus(bytes), ..self }
    }
}

/// What was issued and has not run.
#[derive(Debug)]
enum Job {
    /// The operation of this number.
    Launch(usize),
    Copy(Spread<Place>),
    Happen(usize),
    After(usize),
}

/// The memories and streams of all ranks.
#[derive(Debug)]
pub struct Device<'p> {
    programs: &'p [Program],
    memories: Vec<Memory>,
    /// By rank and stream.
    streams: Vec<Vec<VecDeque<Job>>>,
    /// Whether events and marks have happened; of each rank first its events.
    happened: Vec<bool>,
    events: Vec<usize>,
    /// By rank and stream who comes first among those that may run; now and then one of them comes elsewhere. So some streams run late, and
    /// others far ahead of them.
    turns: Vec<Vec<u64>>,
    /// Whether a job ran since that was asked last.
    worked: bool,
    /// splitmix64.
    state: u64,
}

impl<'p> Device<'p> {
    /// One for these ranks, whose arguments are handed over as bytes; what runs first is picked by the seed.
    pub fn new(programs: &'p [Program], arguments: Vec<Vec<Vec<u8>>>, seed: u64) -> Device<'p> {
        let memories = programs.iter().zip(arguments).map(|(p, a)| Memory::new(p, a)).collect();
        let streams = programs.iter().map(|p| p.streams.iter().map(|_| VecDeque::new()).collect()).collect();
        let mut count = 0;
        let mut events = vec![];
        for program in programs {
            events.push(count);
            count += program.events;
        }
        let turns = programs.iter().map(|p| vec![0; p.streams.len()]).collect();
        let happened = vec![false; count];
        let mut device =
            Device { programs, memories, streams, happened, events, turns, worked: false, state: seed };
        for (rank, program) in programs.iter().enumerate() {
            (0..program.streams.len()).for_each(|stream| device.turns[rank][stream] = device.random());
        }
        device
    }

    fn issue(&mut self, rank: usize, stream: usize, job: Job) -> Result<(), String> {
        let streams = self.streams.get_mut(rank).and_then(|s| s.get_mut(stream));
        streams.ok_or_else(|| format!("there is no stream {stream}"))?.push_back(job);
        Ok(())
    }

    /// Runs one of the jobs that may run; none is an error.
    fn run_one(&mut self) -> Result<(), String> {
        match self.run_next()? {
            true => Ok(()),
            false => Err("what was issued waits for what never happens".into()),
        }
    }

    /// Runs one of the jobs that may run, if there is one.
    fn run_next(&mut self) -> Result<bool, String> {
        let mut first = None;
        for (rank, streams) in self.streams.iter().enumerate() {
            for (stream, jobs) in streams.iter().enumerate() {
                let can = |job: &&Job| !matches!(job, Job::After(at) if !self.happened[*at]);
                let turn = (self.turns[rank][stream], rank, stream);
                if jobs.front().filter(can).is_some() && first.is_none_or(|first| turn < first) {
                    first = Some(turn);
                }
            }
        }
        let Some((_, rank, stream)) = first else { return Ok(false) };
        if self.random().is_multiple_of(LATER) {
            self.turns[rank][stream] = self.random();
        }
        match self.streams[rank][stream].pop_front() {
            None | Some(Job::After(_)) => {}
            Some(Job::Happen(at)) => self.happened[at] = true,
            Some(Job::Launch(op)) => self.run_launch(rank, op)?,
            Some(Job::Copy(spread)) => self.run_copy(&spread)?,
        }
        self.worked = true;
        Ok(true)
    }

    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn run_launch(&mut self, rank: usize, op: usize) -> Result<(), String> {
        let program = &self.programs[rank];
        let op = program.ops.get(op).ok_or("there is no such operation")?;
        let Action::Launch(launch) = &op.action else { return Err("the operation is no launch".into()) };
        let at = |why| format!("rank {rank}, step {}: {why}", op.step);
        kernels::launch(program, launch, &mut self.memories[rank]).map_err(at)
    }

    fn run_copy(&mut self, spread: &Spread<Place>) -> Result<(), String> {
        let Spread { from, to, from_stride, to_stride, count, bytes } = *spread;
        let side = |place: Place, stride| Runs { at: place.at, count, stride, bytes };
        let mut all = Vec::with_capacity(count.saturating_mul(bytes));
        let at = |why| format!("a copy from rank {} to rank {}: {why}", from.rank, to.rank);
        self.memories[from.rank].gather(&side(from, from_stride), &mut all).map_err(at)?;
        self.memories[to.rank].scatter(&side(to, to_stride), &all).map_err(at)
    }
}

/// What a rank has of the device.
#[derive(Clone, Debug)]
pub struct Cpu<'p> {
    rank: usize,
    device: Arc<Mutex<Device<'p>>>,
}

impl<'p> Cpu<'p> {
    /// An engine for each rank of the device.
    pub fn engines(device: Device<'p>) -> Vec<Cpu<'p>> {
        let ranks = device.programs.len();
        let device = Arc::new(Mutex::new(device));
        (0..ranks).map(|rank| Cpu { rank, device: device.clone() }).collect()
    }

    fn device(&self) -> MutexGuard<'_, Device<'p>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the rank's result, and of its log-sum-exp.
    pub fn results(&self) -> [Vec<u8>; 2] {
        let device = self.device();
        let memory = &device.memories[self.rank];
        [memory.out.clone(), memory.lse.clone()]
    }
}

impl Engine for Cpu<'_> {
    type Pointer = Place;
    type Error = String;

    fn pointer(&self, at: Address) -> Place {
        Place { rank: self.rank, at }
    }

    fn launch(&mut self, stream: usize, op: usize, _: &Launch) -> Result<(), String> {
        self.device().issue(self.rank, stream, Job::Launch(op))
    }

    fn copy(&mut self, stream: usize, copy: Spread<Place>) -> Result<(), String> {
        self.device().issue(self.rank, stream, Job::Copy(copy))
    }

    fn record(&mut self, stream: usize, event: usize) -> Result<(), String> {
        let mut device = self.device();
        let at = device.events[self.rank] + event;
        device.issue(self.rank, stream, Job::Happen(at))
    }

    fn wait(&mut self, stream: usize, event: usize) -> Result<(), String> {
        let mut device = self.device();
        let at = device.events[self.rank] + event;
        device.issue(self.rank, stream, Job::After(at))
    }

    fn query(&mut self, stream: usize) -> Result<bool, String> {
        let mut device = self.device();
        let empty = |d: &Device<'_>| d.streams[self.rank].get(stream).is_none_or(VecDeque::is_empty);
        if !empty(&device) {
            device.run_one()?;
        }
        Ok(empty(&device))
    }

    fn worked(&mut self) -> bool {
        std::mem::take(&mut self.device().worked)
    }
}

impl HostMemory for Cpu<'_> {
    fn settled(&mut self, stream: usize) -> Result<bool, String> {
        let mut device = self.device();
        while device.streams[self.rank].get(stream).is_some_and(|jobs| !jobs.is_empty()) {
            if !device.run_next()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&mut self, runs: &[Runs]) -> Result<Vec<u8>, String> {
        let mut all = vec![];
        let device = self.device();
        runs.iter().try_for_each(|runs| device.memories[self.rank].gather(runs, &mut all))?;
        Ok(all)
    }

    fn write(&mut self, runs: &[Runs], mut bytes: &[u8]) -> Result<(), String> {
        let mut device = self.device();
        for runs in runs {
            let (now, later) = bytes.split_at_checked(runs.total()).ok_or("too few bytes for runs")?;
            device.memories[self.rank].scatter(runs, now)?;
            bytes = later;
        }
        if bytes.is_empty() { Ok(()) } else { Err(format!("{} bytes too many for runs", bytes.len())) }
    }
}

impl Marks for Cpu<'_> {
    type Mark = usize;

    fn mark(&mut self, stream: usize) -> Result<usize, String> {
        let mut device = self.device();
        device.happened.push(false);
        let at = device.happened.len() - 1;
        device.issue(self.rank, stream, Job::Happen(at))?;
        Ok(at)
    }

    fn wait_mark(&mut self, stream: usize, mark: &usize) -> Result<(), String> {
        self.device().issue(self.rank, stream, Job::After(*mark))
    }
}

/// Runs one rank of an island whose other ranks run elsewhere. `arguments` are the rank's own, `programs` those of all ranks.
///
/// # Errors
/// The arguments do not fit, an operation fails, or the other ranks do not come for as long as `patience`.
pub fn run_rank<T>(
    (schedule, program): (&Schedule, &Program),
    arguments: &[Tensor],
    transport: &mut T,
    (seed, patience): (u64, Duration),
) -> Result<Vec<Tensor>, LocalError>
where
    T: for<'p> Transport<Cpu<'p>>,
{
    let wanted = &program.attention.arguments;
    let bytes: Vec<Vec<u8>> = arguments.iter().map(|x| x.data().to_le_bytes()).collect();
    if bytes.iter().map(Vec::len).ne(wanted.iter().copied()) {
        let at = "its arguments".into();
        let why = format!("have other bytes than the {wanted:?} that its program takes");
        return Err(ExecError { rank: program.rank, at, why }.into());
    }
    let device = Device::new(std::slice::from_ref(program), vec![bytes], seed);
    let mut engines = Cpu::engines(device);
    for engine in &mut engines {
        walk(program, engine, transport, patience)?;
    }
    Ok(engines.iter().flat_map(|engine| results(schedule, engine, arguments)).collect())
}

/// Why an island did not run on the CPU by its device program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The schedule or its arguments do not fit together.
    #[error(transparent)]
    Invalid(#[from] ExecError),
    /// There is no program.
    #[error(transparent)]
    Lower(#[from] crate::lower::program::LowerError),
    /// It did not run to its end.
    #[error(transparent)]
    Walk(#[from] WalkError),
}

/// Each rank's results.
pub type Results = Vec<Vec<Tensor>>;

/// Runs one island by its device program: the CPU's engine, messages within the process. `args[r]` are rank r's arguments, as for
/// [`run_island`](crate::exec::cpu::run_island), whose results have the same bits. `seed` picks another legal order of streams.
///
/// # Errors
/// The schedule or the arguments do not fit together, or ranks wait for each other in vain.
pub fn run_local(schedule: &Schedule, args: &[Vec<Tensor>], seed: u64) -> Result<Results, LocalError> {
    validate(schedule, args)?;
    let programs = lower(schedule, Target::Cpu)?;
    let bytes = |args: &Vec<Tensor>| args.iter().map(|x| x.data().to_le_bytes()).collect();
    let device = Device::new(&programs, args.iter().map(bytes).collect(), seed);
    let mut engines = Cpu::engines(device);
    walk_all(&programs, &mut engines, &mut Local::ends(programs.len()))?;
    Ok(engines.iter().zip(args).map(|(engine, args)| results(schedule, engine, args)).collect())
}

/// The result, and the log-sum-exp if it is wanted, of a rank with these arguments.
fn results(schedule: &Schedule, engine: &Cpu<'_>, args: &[Tensor]) -> Vec<Tensor> {
    let (facts, s) = (&schedule.attention, &schedule.attention.sizes);
    let [out, lse] = engine.results();
    let rows = args.first().and_then(|q| q.shape().get(2).copied()).unwrap_or(0);
    let shape = [s.batch, s.q_heads, rows, s.v_head_dim];
    // As many bytes as the program says, which is what the shapes have.
    let mut all = Vec::from_iter(Tensor::from_le_bytes(facts.dtype, shape, &out));
    if facts.lse {
        all.extend(Tensor::from_le_bytes(facts.acc, [s.batch, s.q_heads, rows], &lse));
    }
    all
}
