//! An island on one GPU with memory of its own: all of its ranks in one process, or one of them, where each is a process.
//!
//! In: a schedule; then, as often as wanted, every rank's arguments. Out: every rank's results, and what they sent. Invariants: what
//! memory the ranks need is asked for at once, and refused before any of it is taken; after the first run nothing is allocated;
//! nothing waits without a limit.

use super::call::Call;
use super::error::IslandError;
use super::loaded::Kernels;
use super::options::RunOptions;
use super::part::Part;
use super::together::{Told, enqueue_all};
use crate::exec::cuda::error::{CudaError, driver};
use crate::exec::cuda::gpu::{Buffer, Gpu};
use crate::exec::cuda::nccl::Processes;
use crate::exec::cuda::settle::{END, settle};
use crate::exec::flight::{self, Cause};
use crate::exec::walk::record_of_issued;
use crate::lower::program::{Program, Target, lower};
use crate::schedule::Schedule;
use cudarc::driver::CudaEvent;
use std::time::Duration;

/// The ranks of an island that run on one GPU: all of them, or one.
pub struct Island<'g> {
    gpu: &'g Gpu,
    /// They go before the memory, which is freed behind all that they were told.
    parts: Vec<Part>,
    memories: Vec<Memory>,
    patience: Duration,
    /// Of the last run.
    replayed: bool,
    done: CudaEvent,
}

/// What a rank has.
pub(super) struct Memory {
    pub(super) arguments: Vec<Buffer>,
    pub(super) out: Buffer,
    pub(super) lse: Buffer,
    pub(super) arena: Buffer,
    /// Where the arguments lie.
    pub(super) at: Vec<u64>,
}

impl Memory {
    pub(super) fn of(gpu: &Gpu, program: &Program) -> Result<Memory, CudaError> {
        let made = |&bytes: &usize| gpu.unwritten(bytes);
        let arguments = program.attention.arguments.iter().map(made).collect::<Result<Vec<_>, _>>()?;
        Ok(Memory {
            at: arguments.iter().map(Buffer::address).collect(),
            arguments,
            out: gpu.unwritten(program.attention.out_bytes)?,
            lse: gpu.unwritten(program.attention.lse_bytes)?,
            arena: gpu.unwritten(program.arena_bytes)?,
        })
    }

    fn call(&self) -> Call<'_> {
        Call {
            arguments: &self.at,
            out: self.out.address(),
            lse: self.lse.address(),
            workspace: self.arena.address(),
            workspace_bytes: self.arena.bytes(),
        }
    }
}

/// Bytes that a rank gives: of the result, and of the log-sum-exp.
pub type Given = [Vec<u8>; 2];

impl<'g> Island<'g> {
    /// Lowers the schedule for the GPU, loads its kernels, and takes the memory of all ranks.
    ///
    /// # Errors
    /// No kernel computes a step of it, it does not fit, or the driver's.
    pub fn new(
        gpu: &'g Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        options: RunOptions<'_>,
    ) -> Result<Island<'g>, IslandError> {
        let Some(arch) = gpu.arch() else { return Err(IslandError::Arch(gpu.name()?)) };
        Island::of_programs(gpu, kernels, lower(schedule, Target::Cuda(arch))?, options)
    }

    /// The island of one rank, where each rank is a process: see [`Part::of_process`].
    ///
    /// # Errors
    /// As [`Island::new`].
    pub fn of_process(
        gpu: &'g Gpu,
        kernels: &mut Kernels,
        schedule: &Schedule,
        processes: &Processes,
        options: RunOptions<'_>,
    ) -> Result<Island<'g>, IslandError> {
        let part = Part::of_process(gpu, kernels, schedule, processes, options)?;
        room(gpu, &[part.program()])?;
        Island::of_parts(gpu, vec![part], options)
    }

    /// The same as [`Island::new`] for programs that were lowered for this GPU.
    pub(crate) fn of_programs(
        gpu: &'g Gpu,
        kernels: &mut Kernels,
        programs: Vec<Program>,
        options: RunOptions<'_>,
    ) -> Result<Island<'g>, IslandError> {
        room(gpu, &programs.iter().collect::<Vec<_>>())?;
        Island::of_parts(gpu, Part::of_programs(gpu, kernels, programs, options)?, options)
    }

    fn of_parts(gpu: &'g Gpu, parts: Vec<Part>, options: RunOptions<'_>) -> Result<Island<'g>, IslandError> {
        let memories = parts.iter().map(|part| Memory::of(gpu, part.program()));
        Ok(Island {
            gpu,
            memories: memories.collect::<Result<_, _>>()?,
            parts,
            patience: options.patience,
            replayed: false,
            done: driver("making an event", gpu.context().new_event(None))?,
        })
    }

    /// Runs the ranks that are here: `arguments[n]` are those of the n-th, as bytes. The second run and those behind it replay a graph, if that is asked for.
    ///
    /// # Errors
    /// Something is not what the island takes, or the driver's.
    pub fn run(&mut self, arguments: &[Vec<Vec<u8>>]) -> Result<Vec<Given>, IslandError> {
        self.fits(arguments)?;
        let told = self.tell(arguments);
        // Whatever came of it: arguments are read until that is done.
        let parts = &mut self.parts;
        let well = || parts.iter_mut().try_for_each(Part::well);
        let settled = settle(&self.gpu.stream, &self.done, self.patience, well);
        if let Err(e) = &settled {
            // Messages that were given up hold up nothing: the device soon reads no argument any more.
            let _ =
                settle(&self.gpu.stream, &self.done, self.patience.min(END), || Ok::<(), IslandError>(()));
            // What could not even be told has left its own.
            if told.is_ok() {
                self.leave_record(
                    e,
                    if matches!(e, IslandError::Nccl(_)) { Cause::Others } else { Cause::Own },
                );
            }
        }
        told?;
        if !settled? {
            let late = self.parts.iter_mut().find_map(|part| Some((part.number, part.rank.late()?)));
            let late = IslandError::Late { late, patience: self.patience };
            self.leave_record(&late, Cause::Waited);
            self.parts.iter_mut().for_each(|part| part.tell_processes(&late.to_string()));
            return Err(late);
        }
        // What is copied to memory of the host is waited for by the driver, without a limit: only what is done is copied.
        let mut given = vec![];
        for (memory, part) in self.memories.iter().zip(&self.parts) {
            let out = self.gpu.read(&memory.out, part.out_bytes())?;
            given.push([out, self.gpu.read(&memory.lse, part.lse_bytes())?]);
        }
        self.gpu.finish()?;
        Ok(given)
    }

    /// All of it was told the device, which failed, or another rank did.
    fn leave_record(&self, error: &IslandError, cause: Cause) {
        for part in &self.parts {
            flight::keep(&record_of_issued(part.program(), (&error.to_string(), cause)));
        }
    }

    /// Tells the device all of a run.
    fn tell(&mut self, arguments: &[Vec<Vec<u8>>]) -> Result<(), IslandError> {
        for (memory, arguments) in self.memories.iter_mut().zip(arguments) {
            for (to, bytes) in memory.arguments.iter_mut().zip(arguments) {
                self.gpu.write(bytes, to)?;
            }
        }
        self.again()
    }

    /// Tells the GPU's stream to run all ranks once more, on the arguments that the last run left there. Nothing is copied from the host or
    /// to it, and nothing waited for.
    ///
    /// # Errors
    /// The driver's.
    pub fn again(&mut self) -> Result<(), IslandError> {
        let calls: Vec<Call<'_>> = self.memories.iter().map(Memory::call).collect();
        let mut parts: Vec<&mut Part> = self.parts.iter_mut().collect();
        let stream = self.gpu.stream.cu_stream().cast();
        // SAFETY: the stream is the GPU's own; the memory is as large as the programs say, and everything that touches it is told that
        // stream.
        self.replayed = unsafe { enqueue_all(&mut parts, &calls, stream) }? == Told::Replayed;
        Ok(())
    }

    /// Whether the last run replayed a graph.
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// What each rank's device is told, also of those elsewhere.
    pub fn programs(&self) -> &[Program] {
        self.parts.first().map_or(&[], |part| &part.shared.programs)
    }

    fn fits(&self, arguments: &[Vec<Vec<u8>>]) -> Result<(), IslandError> {
        let of_each = self.programs().first().map_or(0, |p| p.attention.arguments.len());
        if arguments.len() != self.parts.len() || arguments.iter().any(|a| a.len() != of_each) {
            let wanted = self.parts.len();
            return Err(IslandError::Ranks { got: arguments.len(), wanted, arguments: of_each });
        }
        for (part, arguments) in self.parts.iter().zip(arguments) {
            for (argument, (bytes, &wanted)) in arguments.iter().zip(part.argument_bytes()).enumerate() {
                if bytes.len() != wanted {
                    let (rank, bytes) = (part.rank(), bytes.len());
                    return Err(IslandError::Argument { rank, argument, bytes, wanted });
                }
            }
        }
        Ok(())
    }
}

/// Whether there is memory for all ranks.
pub(super) fn room(gpu: &Gpu, programs: &[&Program]) -> Result<(), IslandError> {
    let of = |p: &Program| {
        let a = &p.attention;
        [p.arena_bytes, a.out_bytes, a.lse_bytes]
            .into_iter()
            .chain(a.arguments.iter().copied())
            .fold(0usize, |sum, bytes| sum.saturating_add(bytes.max(1).next_multiple_of(512)))
    };
    let each: Vec<usize> = programs.iter().map(|p| of(p)).collect();
    let wanted = each.iter().fold(0usize, |sum, &b| sum.saturating_add(b));
    let (free, _) = driver("asking for free memory", gpu.context().mem_get_info())?;
    if wanted <= free {
        return Ok(());
    }
    let most = each.iter().copied().max().unwrap_or(0);
    let largest = each.iter().position(|&b| b == most).and_then(|at| programs.get(at)).map_or(0, |p| p.rank);
    let island = programs.first().map_or(String::new(), |p| p.name.clone());
    Err(IslandError::Memory { island, ranks: programs.len(), wanted, most, largest, free })
}
