//! A host: memory that it allocates, streams that it makes, and calls of parts with them.

use crate::inside::ring::case::Case;
use crate::inside::ring::oracle::{Array, arguments, local};
use crate::inside::standins::islands::judge;
use annulus::exec::cuda::ranks::{Call, IslandError, Kernels, Part, RunOptions, Told, enqueue_all};
use annulus::exec::cuda::{Buffer, Gpu};
use annulus::ring::Strategy;
use cudarc::driver::{CudaContext, CudaStream, result};
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Host {
    pub(super) case: Case,
    pub(super) gpu: Gpu,
    pub(super) context: Arc<CudaContext>,
    pub(super) parts: Vec<Part>,
}

/// What one rank has: each begins so many bytes behind the begin of its buffer.
pub(super) struct Memory {
    arguments: Vec<Buffer>,
    out: Buffer,
    lse: Buffer,
    workspace: Buffer,
    shift: u64,
    /// Where the arguments are.
    at: Vec<u64>,
    workspace_bytes: usize,
}

/// What all ranks have, and the whole arguments that lie there.
pub(super) struct Set {
    pub(super) ranks: Vec<Memory>,
    pub(super) whole: Vec<Array>,
}

impl Memory {
    pub(super) fn call(&self) -> Call<'_> {
        Call {
            arguments: &self.at,
            out: self.out.address() + self.shift,
            lse: self.lse.address() + self.shift,
            workspace: self.workspace.address() + self.shift,
            workspace_bytes: self.workspace_bytes,
        }
    }

    /// The host does something else with the workspace, in the order of the stream.
    pub(super) fn scribble(&self, on: *mut c_void) {
        let at = self.workspace.address() + self.shift;
        // SAFETY: as many bytes lie there.
        unsafe { result::memset_d8_async(at, 0xee, self.workspace_bytes, on.cast()) }.unwrap();
    }
}

/// A stream of the host's as a call takes it; another thread may take it.
#[derive(Clone, Copy)]
pub(super) struct Handle(pub(super) *mut c_void);

// SAFETY: streams of CUDA may be told from any thread.
unsafe impl Send for Handle {}

impl Host {
    pub(super) fn new(case: Case, way: Strategy, patience: Duration) -> Result<Host, IslandError> {
        let gpu = Gpu::open(0)?;
        let options = RunOptions { cache: None, graph: true, patience };
        let parts = Part::all(&gpu, &mut Kernels::new(), &case.schedule(way), options)?;
        let rows = [case.q_rows(), case.kv_rows()];
        for (rank, part) in parts.iter().enumerate() {
            assert_eq!((part.rank(), part.ranks()), (rank, case.ranks));
            assert_eq!([part.query_rows(), part.key_rows()], [&*rows[0][rank], &*rows[1][rank]]);
        }
        Ok(Host { case, context: CudaContext::new(0).unwrap(), gpu, parts })
    }

    pub(super) fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().unwrap()
    }

    /// Memory for a call, with arguments from the seed.
    pub(super) fn set(&self, seed: u64, shift: usize) -> Result<Set, IslandError> {
        let whole = arguments(&self.case, seed);
        let mut ranks = vec![];
        for part in &self.parts {
            let poisoned = |bytes: usize| self.gpu.filled(bytes + shift, 0xa5);
            let mut given = vec![];
            for (argument, &bytes) in local(&self.case, &whole, part.rank()).iter().zip(part.argument_bytes())
            {
                let data = argument.data().to_le_bytes();
                assert_eq!(data.len(), bytes);
                given.push(self.gpu.upload(&[vec![0xa5; shift], data].concat())?);
            }
            ranks.push(Memory {
                at: given.iter().map(|b| b.address() + shift as u64).collect(),
                arguments: given,
                out: poisoned(part.out_bytes())?,
                lse: poisoned(part.lse_bytes())?,
                workspace: poisoned(part.workspace_bytes())?,
                shift: shift as u64,
                workspace_bytes: part.workspace_bytes(),
            });
        }
        self.gpu.finish()?;
        Ok(Set { ranks, whole })
    }

    /// Other arguments at the same places, and results that are wrong until they are computed. Nothing may be under way.
    pub(super) fn fill(&self, set: &mut Set, seed: u64) -> Result<(), IslandError> {
        let other = self.set(seed, set.ranks[0].shift as usize)?;
        for (to, from) in set.ranks.iter_mut().zip(&other.ranks) {
            for (to, from) in to.arguments.iter_mut().zip(&from.arguments) {
                self.gpu.copy((from, 0), (to, 0), from.bytes())?;
            }
            for (to, from) in [(&mut to.out, &from.out), (&mut to.lse, &from.lse)] {
                self.gpu.copy((from, 0), (to, 0), from.bytes())?;
            }
        }
        self.gpu.finish()?;
        set.whole = other.whole;
        Ok(())
    }

    /// The results are right. Nothing may be under way.
    pub(super) fn judge(&self, set: &Set) -> Result<(), IslandError> {
        let mut given = vec![];
        for memory in &set.ranks {
            let of =
                |b: &Buffer| Ok::<_, IslandError>(self.gpu.download(b)?.split_off(memory.shift as usize));
            given.push([of(&memory.out)?, of(&memory.lse)?]);
        }
        judge(&self.case, &set.whole, given);
        Ok(())
    }

    /// All ranks from this thread.
    pub(super) fn together(&mut self, set: &Set, on: *mut c_void) -> Result<Told, IslandError> {
        let calls: Vec<Call<'_>> = set.ranks.iter().map(Memory::call).collect();
        let mut parts: Vec<&mut Part> = self.parts.iter_mut().collect();
        // SAFETY: the memory is as large as the parts say, and stays until the stream is waited for.
        unsafe { enqueue_all(&mut parts, &calls, on) }
    }

    /// Each rank from a thread of its own, and with a stream of its own.
    pub(super) fn threads(&mut self, set: &Set, on: &[Handle]) -> Vec<Result<(), IslandError>> {
        self.turns(&[set], on)
    }

    /// The same with several calls one after another, which none of the threads waits for.
    pub(super) fn turns(&mut self, sets: &[&Set], on: &[Handle]) -> Vec<Result<(), IslandError>> {
        std::thread::scope(|scope| {
            let ranks = self.parts.iter_mut().zip(on).enumerate();
            let threads: Vec<_> = ranks
                .map(|(rank, (part, &handle))| {
                    scope.spawn(move || sets.iter().try_for_each(|set| one(part, &set.ranks[rank], handle)))
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }
}

/// One rank; the thread's context is what it was before.
fn one(part: &mut Part, memory: &Memory, Handle(on): Handle) -> Result<(), IslandError> {
    let current = || result::ctx::get_current().unwrap();
    let before = current();
    // SAFETY: the memory is as large as the part says, and stays until the stream is waited for.
    let told = unsafe { part.enqueue(&memory.call(), on) };
    assert_eq!(current(), before);
    told
}
