//! One rank of an island, played alone on a GPU: what other ranks would send comes from memory of its own, no faster than a link would
//! bring it.
//!
//! In: a schedule, a rank of it, a link, some numbers. Out: the rank's device program, run as often as wanted, to be timed; what it computes is
//! of the numbers, and means nothing. Invariants: as many bytes arrive as the schedule says, where and behind what it says; no group is done
//! sooner than the link would be done with it. What it cannot show: other ranks that are late.

use super::call::Pointers;
use super::error::IslandError;
use super::graph::Captured;
use super::host::Host;
use super::island::{Memory, room};
use super::loaded::Kernels;
use super::options::RunOptions;
use super::rank::Rank;
use crate::device::Link;
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::error::{CudaError, driver, refuse};
use crate::exec::cuda::gpu::{Buffer, Gpu};
use crate::exec::cuda::helpers::HelperKernel;
use crate::exec::cuda::nvrtc::code;
use crate::exec::cuda::paced;
use crate::exec::walk::{Engine, Polled, Transport, TransportError, issue};
use crate::lower::Helper;
use crate::lower::program::{Action, Group, Message, Program, Target, lower};
use crate::schedule::Schedule;
use cudarc::driver::{CudaEvent, CudaStream};
use std::sync::Arc;
use std::time::Duration;

/// What takes the place of the other ranks.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// How fast messages come.
    pub link: Link,
    /// Over how many blocks of threads a message is copied where the schedule does not say: while it comes, they keep as many multiprocessors
    /// from the kernels.
    pub blocks: usize,
}

/// A rank that runs without the others.
pub struct Alone<'g> {
    gpu: &'g Gpu,
    rank: Rank,
    programs: Arc<Vec<Program>>,
    number: usize,
    pointers: Pointers,
    begin: CudaEvent,
    /// Where it is captured.
    own: Arc<CudaStream>,
    source: Source,
    options: Once,
    captured: Option<Captured>,
    /// They are freed behind all that the rank was told.
    _memory: (Memory, Buffer, Buffer),
}

/// How it is run.
#[derive(Clone, Copy)]
struct Once {
    graph: bool,
    patience: Duration,
    /// Whether it has run.
    warm: bool,
}

/// Where messages come from.
struct Source {
    kernel: HelperKernel,
    at: u64,
    wire: Option<Wire>,
}

impl<'g> Alone<'g> {
    /// Makes a rank ready. `numbers` are bytes of numbers in the type of keys and values, over and over what the rank is handed and what
    /// arrives. Without a wire no message takes any time, and nothing arrives: what is left are
    /// the kernels, on the numbers.
    ///
    /// # Errors
    /// There is no such rank, a step has no kernel, it does not fit, or the driver's.
    pub fn new(
        gpu: &'g Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        (rank, wire): (usize, Option<Wire>),
        numbers: &Buffer,
        options: RunOptions<'_>,
    ) -> Result<Alone<'g>, IslandError> {
        let Some(arch) = gpu.arch() else { return Err(IslandError::Arch(gpu.name()?)) };
        let programs = Arc::new(lower(schedule, Target::Cuda(arch))?);
        let Some(program) = programs.get(rank) else {
            return Ok(refuse(format!("there is no rank {rank} of {}", programs.len()))?);
        };
        room(gpu, &[&programs[rank]])?;
        let _entered = Entered::new(gpu.context())?;
        let bytes: Vec<u8> = program.tables.iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut tables = gpu.unwritten(bytes.len())?;
        let written = gpu.write(&bytes, &mut tables);
        // The bytes are read until they are there.
        gpu.finish()?;
        written?;
        let mut memory = Memory::of(gpu, program)?;
        // Of the arena too: without a wire kernels read there what no message brings.
        for place in memory.arguments.iter_mut().chain([&mut memory.arena]) {
            fill(gpu, place, numbers)?;
        }
        let mut source = gpu.unwritten(longest(program))?;
        fill(gpu, &mut source, numbers)?;
        gpu.finish()?;
        let loaded = program.kernels.iter().map(|k| kernels.get(gpu, k, options.cache));
        let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
        Ok(Alone {
            gpu,
            rank: Rank::new(gpu, programs.clone(), rank, loaded, tables.address())?,
            pointers: Pointers {
                arguments: memory.at.clone(),
                out: memory.out.address(),
                lse: memory.lse.address(),
                arena: memory.arena.address(),
            },
            programs,
            number: rank,
            begin: driver("making an event", gpu.context().new_event(None))?,
            own: driver("making a stream", gpu.context().new_stream())?,
            source: Source {
                kernel: gpu.load_helper(&code(&Helper::Paced, arch, options.cache)?)?,
                at: source.address(),
                wire,
            },
            options: Once { graph: options.graph, patience: options.patience, warm: false },
            captured: None,
            _memory: (memory, tables, source),
        })
    }

    /// Tells the GPU's stream to run the rank once: eagerly the first time, and then by a graph, if that is asked for.
    ///
    /// # Errors
    /// The driver's.
    pub fn run(&mut self) -> Result<(), IslandError> {
        let _entered = Entered::new(self.gpu.context())?;
        let host = Host::own(&self.gpu.stream);
        if !self.options.graph || !self.options.warm {
            self.options.warm = true;
            return self.tell(host);
        }
        let captured = match self.captured.take() {
            Some(captured) => captured,
            None => {
                let own = self.own.clone();
                Captured::of(&own, |host| self.tell(host))?
            }
        };
        Ok(self.captured.insert(captured).launch(host)?)
    }

    fn tell(&mut self, host: Host) -> Result<(), IslandError> {
        host.record(&self.begin)?;
        self.rank.begin(&self.pointers, &self.begin)?;
        let program = &self.programs[self.number];
        let told = issue(program, &mut self.rank, &mut self.source, self.options.patience);
        // Whatever came of it: the stream comes behind what was told.
        let joined = self.rank.before(host);
        told?;
        Ok(joined?)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let _ = self.rank.before(Host::own(&self.gpu.stream));
    }
}

/// The numbers over and over.
fn fill(gpu: &Gpu, to: &mut Buffer, numbers: &Buffer) -> Result<(), IslandError> {
    let mut done = 0;
    while done < to.bytes() && numbers.bytes() > 0 {
        let bytes = numbers.bytes().min(to.bytes() - done);
        gpu.copy((numbers, 0), (to, done), bytes)?;
        done += bytes;
    }
    Ok(())
}

/// Bytes of the longest part of a message that the program receives.
fn longest(program: &Program) -> usize {
    let groups = program.ops.iter().filter_map(|op| match &op.action {
        Action::Group(group) => Some(group),
        _ => None,
    });
    groups.flat_map(|g| &g.recvs).flat_map(|m| &m.parts).map(|p| p.total()).max().unwrap_or(0)
}

impl Transport<Rank> for Source {
    fn post(&mut self, engine: &mut Rank, stream: usize, group: &Group) -> Result<(), TransportError> {
        let Some(Wire { link, blocks }) = self.wire else { return Ok(()) };
        let blocks = group.sms.filter(|&sms| sms > 0).unwrap_or(blocks);
        let bytes = |messages: &[Message]| messages.iter().map(Message::bytes).sum::<usize>();
        let (out, into) = (bytes(&group.sends), bytes(&group.recvs));
        let count = group.sends.len().max(group.recvs.len());
        // Both ways at once; a rank's own way in and out is all that its messages have.
        let us = link.latency_us
            + link.message_us * count as f64
            + out.max(into) as f64 / link.rate(group.sms) * 1e-3;
        let mut parts = vec![];
        for part in group.recvs.iter().flat_map(|m| &m.parts) {
            if part.count > 1 && part.stride != part.bytes {
                return Err(TransportError::Failed(
                    "a message arrives in several runs, which is not played".into(),
                ));
            }
            parts.push((engine.pointer(part.at), part.total(), us * part.total() as f64 / into as f64));
        }
        if into == 0 {
            parts = vec![(self.at, 0, us)];
        }
        let mut pace = |(to, bytes, us): (u64, usize, f64)| {
            let argument = paced::argument([self.at, to], bytes, Duration::from_secs_f64(us * 1e-6))?;
            engine.pace(stream, &self.kernel, &argument, blocks)
        };
        let paced = parts.into_iter().try_for_each(&mut pace);
        paced.map_err(|e: CudaError| TransportError::Failed(e.to_string()))
    }

    fn poll(&mut self, _: &mut Rank, _: usize) -> Result<Polled, TransportError> {
        Ok(Polled::Issued)
    }

    fn abort(&mut self, _: &str) {}
}
