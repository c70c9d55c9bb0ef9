//! An island on one GPU: all of its ranks in one process.
//!
//! In: a schedule; then, as often as wanted, every rank's arguments. Out: every rank's results, and what they sent. Invariants: what
//! memory the ranks need is asked for at once, and refused before any of it is taken; after the first run nothing is allocated;
//! nothing waits without a limit.

use super::graph::Captured;
use super::loaded::Kernels;
use super::rank::{Pointers, Rank, settle};
use crate::exec::cache::Cache;
use crate::exec::cuda::error::{CudaError, driver};
use crate::exec::cuda::gpu::{Buffer, Gpu};
use crate::exec::walk::{Local, WalkError, issue_all};
use crate::lower::program::{LowerError, Program, Target, lower};
use crate::schedule::Schedule;
use cudarc::driver::{CudaEvent, DevicePtr};
use std::sync::Arc;
use std::time::Duration;

/// Why an island did not run on a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IslandError {
    /// A step that no kernel computes.
    #[error("no GPU kernel: {0}")]
    Lower(#[from] LowerError),
    /// Of CUDA.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// It did not run to its end.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// There are no kernels for the GPU.
    #[error("there are no kernels for this GPU ({0}): run with the CPU backend")]
    Arch(String),
    /// It does not fit.
    #[error(
        "the {ranks} ranks of {island} need {wanted} bytes of device memory, {most} of them rank {largest}, and {free} are free: use more GPUs, another strategy, or less memory for it (--memory)"
    )]
    Memory {
        /// The island.
        island: String,
        /// How many ranks.
        ranks: usize,
        /// Bytes of all.
        wanted: usize,
        /// Of the rank that needs most, and which it is.
        most: usize,
        /// See `most`.
        largest: usize,
        /// How many bytes are free.
        free: usize,
    },
    /// What is handed over is not what the island takes.
    #[error("rank {rank}: argument {argument} has {bytes} bytes, and the island takes {wanted}")]
    Argument {
        /// The rank.
        rank: usize,
        /// Its number.
        argument: usize,
        /// How many it has.
        bytes: usize,
        /// How many it should have.
        wanted: usize,
    },
    /// As many ranks are handed over as there are.
    #[error("{got} ranks are handed over, and the island has {wanted}, each with {arguments} arguments")]
    Ranks {
        /// How many came.
        got: usize,
        /// How many there are.
        wanted: usize,
        /// Of each.
        arguments: usize,
    },
}

/// How an island is run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'c> {
    /// Where compiled kernels are kept.
    pub cache: Option<&'c Cache>,
    /// Whether runs behind the first one replay a graph of CUDA that holds all of it.
    pub graph: bool,
    /// How long the device may take.
    pub patience: Duration,
}

/// An island whose ranks all run on one GPU.
pub struct Island<'g> {
    gpu: &'g Gpu,
    programs: Arc<Vec<Program>>,
    /// Of each rank the arguments, the result, its log-sum-exp, the arena. Freed when everything is done.
    memories: Vec<Memory>,
    _tables: Buffer,
    ranks: Vec<Rank>,
    captured: Option<Captured>,
    options: Patience,
    /// Of the last run.
    replayed: bool,
    done: CudaEvent,
}

#[derive(Clone, Copy)]
struct Patience {
    graph: bool,
    patience: Duration,
}

struct Memory {
    arguments: Vec<Buffer>,
    out: Buffer,
    lse: Buffer,
    arena: Buffer,
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
        Island::of(gpu, kernels, lower(schedule, Target::Cuda(arch))?, options)
    }

    /// The same of device programs that are there.
    pub(crate) fn of(
        gpu: &'g Gpu,
        kernels: &mut Kernels,
        programs: Vec<Program>,
        options: RunOptions<'_>,
    ) -> Result<Island<'g>, IslandError> {
        let programs = Arc::new(programs);
        room(gpu, &programs)?;
        let tables: &[i32] = programs.first().map_or(&[], |p| &p.tables);
        let bytes: Vec<u8> = tables.iter().flat_map(|n| n.to_le_bytes()).collect();
        let table = gpu.unwritten(bytes.len())?;
        let mut island = Island {
            gpu,
            programs: programs.clone(),
            memories: vec![],
            _tables: table,
            ranks: vec![],
            captured: None,
            options: Patience { graph: options.graph, patience: options.patience },
            replayed: false,
            done: driver("making an event", gpu.context().new_event(None))?,
        };
        // The bytes are read until they are there.
        let written = gpu.write(&bytes, &mut island._tables);
        let there = island.settle();
        written.and(there)?;
        for program in programs.iter() {
            let made = |&bytes: &usize| gpu.unwritten(bytes);
            let mut memory = Memory {
                arguments: program.attention.arguments.iter().map(made).collect::<Result<_, _>>()?,
                out: gpu.unwritten(program.attention.out_bytes)?,
                lse: gpu.unwritten(program.attention.lse_bytes)?,
                arena: gpu.unwritten(program.arena_bytes)?,
            };
            for region in program.zeroed.iter().filter(|r| r.bytes > 0) {
                gpu.clear(&mut memory.arena, region.offset, region.bytes)?;
            }
            let at = |b: &Buffer| b.0.device_ptr(&gpu.stream).0;
            let pointers = Pointers {
                arguments: memory.arguments.iter().map(at).collect(),
                out: at(&memory.out),
                lse: at(&memory.lse),
            };
            let places = [at(&memory.arena), at(&island._tables)];
            let loaded = program.kernels.iter().map(|k| kernels.get(gpu, k, options.cache));
            let loaded = loaded.collect::<Result<Vec<_>, _>>()?;
            island.memories.push(memory);
            island.ranks.push(Rank::new(gpu, Arc::new(program.clone()), loaded, places, pointers)?);
        }
        Ok(island)
    }

    /// Runs all ranks: `arguments[r]` are rank r's, as bytes. The second run and those behind it replay a graph, if that is asked for.
    ///
    /// # Errors
    /// Something is not what the island takes, or the driver's.
    pub fn run(&mut self, arguments: &[Vec<Vec<u8>>]) -> Result<Vec<Given>, IslandError> {
        self.fits(arguments)?;
        let mut given = vec![];
        let told = self.tell(arguments, &mut given);
        // Whatever came of it: arguments are read, and what is given is written, until that is done.
        let settled = self.settle();
        told?;
        settled?;
        Ok(given)
    }

    /// Tells the device all of a run.
    fn tell(&mut self, arguments: &[Vec<Vec<u8>>], given: &mut Vec<Given>) -> Result<(), IslandError> {
        for (memory, arguments) in self.memories.iter_mut().zip(arguments) {
            for (to, bytes) in memory.arguments.iter_mut().zip(arguments) {
                self.gpu.write(bytes, to)?;
            }
        }
        self.enqueue()?;
        for (memory, program) in self.memories.iter().zip(&*self.programs) {
            given.push([self.gpu.read(&memory.out, program.attention.out_bytes)?, vec![]]);
            if let Some([_, lse]) = given.last_mut() {
                *lse = self.gpu.read(&memory.lse, program.attention.lse_bytes)?;
            }
        }
        Ok(())
    }

    /// All ranks behind what the GPU's stream was told, and before what it is told next: eagerly, or as a graph.
    pub(super) fn enqueue(&mut self) -> Result<(), IslandError> {
        self.replayed = self.options.graph && self.captured.is_some();
        if let Some(captured) = self.captured.as_ref().filter(|_| self.replayed) {
            return Ok(captured.launch()?);
        }
        self.issue()?;
        if self.options.graph {
            // What was run eagerly is issued once more, to be kept.
            let captured = Captured::of(self.gpu, |gpu| {
                let _ = gpu;
                self.issue()
            })?;
            self.captured = Some(captured);
        }
        Ok(())
    }

    fn issue(&mut self) -> Result<(), IslandError> {
        driver("recording an event", self.done.record(&self.gpu.stream))?;
        for rank in &mut self.ranks {
            rank.begin();
            rank.after(&self.done)?;
        }
        issue_all(&self.programs, &mut self.ranks, &mut Local::ends(self.programs.len()))?;
        self.ranks.iter_mut().try_for_each(|rank| rank.before(&self.gpu.stream))?;
        Ok(())
    }

    /// Whether the last run replayed a graph.
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// What each rank's device is told.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    fn fits(&self, arguments: &[Vec<Vec<u8>>]) -> Result<(), IslandError> {
        let of_each = self.programs.first().map_or(0, |p| p.attention.arguments.len());
        if arguments.len() != self.programs.len() || arguments.iter().any(|a| a.len() != of_each) {
            let wanted = self.programs.len();
            return Err(IslandError::Ranks { got: arguments.len(), wanted, arguments: of_each });
        }
        for (rank, (program, arguments)) in self.programs.iter().zip(arguments).enumerate() {
            for (argument, (bytes, &wanted)) in arguments.iter().zip(&program.attention.arguments).enumerate()
            {
                if bytes.len() != wanted {
                    return Err(IslandError::Argument { rank, argument, bytes: bytes.len(), wanted });
                }
            }
        }
        Ok(())
    }

    /// Waits for all that the GPU's stream was told.
    fn settle(&self) -> Result<(), CudaError> {
        driver("recording an event", self.done.record(&self.gpu.stream))?;
        settle(&self.done, "the island", self.options.patience)
    }
}

impl Drop for Island<'_> {
    fn drop(&mut self) {
        // Memory is freed behind what uses it: the GPU's stream frees, and it comes behind the ranks' streams.
        for rank in &mut self.ranks {
            let _ = rank.before(&self.gpu.stream);
        }
    }
}

/// Whether there is memory for all ranks.
fn room(gpu: &Gpu, programs: &[Program]) -> Result<(), IslandError> {
    let of = |p: &Program| {
        let a = &p.attention;
        [p.arena_bytes, a.out_bytes, a.lse_bytes]
            .into_iter()
            .chain(a.arguments.iter().copied())
            .fold(0usize, |sum, bytes| sum.saturating_add(bytes.max(1).next_multiple_of(512)))
    };
    let each: Vec<usize> = programs.iter().map(of).collect();
    let wanted = each.iter().fold(0usize, |sum, &b| sum.saturating_add(b));
    let (free, _) = driver("asking for free memory", gpu.context().mem_get_info())?;
    if wanted <= free {
        return Ok(());
    }
    let most = each.iter().copied().max().unwrap_or(0);
    let largest = each.iter().position(|&b| b == most).unwrap_or(0);
    let island = programs.first().map_or(String::new(), |p| p.name.clone());
    Err(IslandError::Memory { island, ranks: programs.len(), wanted, most, largest, free })
}
