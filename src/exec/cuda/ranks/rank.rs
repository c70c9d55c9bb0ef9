//! What a rank has of a GPU: where its memory lies, streams, events; the engine that its device program runs on.

use super::call::Pointers;
use super::copies::copy_runs;
use super::host::Host;
use super::loaded::Loaded;
use super::prepared::Sets;
use super::spare::Spare;
use crate::exec::cuda::error::{CudaError, driver, refuse, too_large};
use crate::exec::cuda::gpu::Gpu;
use crate::exec::cuda::helpers::HelperKernel;
use crate::exec::cuda::nccl::Streams;
use crate::exec::walk::{Engine, Marks, Spread};
use crate::lower::Paced;
use crate::lower::program::{Address, KernelParams, Launch, Program, Region};
use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, LaunchConfig, PushKernelArg, result};
use std::sync::Arc;

/// One rank on a GPU.
#[derive(Debug)]
pub(super) struct Rank {
    programs: Arc<Vec<Program>>,
    number: usize,
    kernels: Vec<Arc<Loaded>>,
    multiprocessors: usize,
    tables: u64,
    context: Arc<CudaContext>,
    streams: Vec<Arc<CudaStream>>,
    /// By number; made when they are first recorded.
    events: Vec<Option<CudaEvent>>,
    /// Between ranks. One is recorded again when no other rank may still be about to wait for it: that one would wait for the wrong point.
    marks: Spare<CudaEvent>,
    /// By stream an event behind all that was issued, and whether it is recorded.
    ends: Vec<(CudaEvent, bool)>,
    /// What kernels are handed.
    sets: Sets,
}

impl Rank {
    /// Rank `number` of the programs, whose tables lie at the address. Streams for transfers go before that for kernels.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn new(
        gpu: &Gpu,
        programs: Arc<Vec<Program>>,
        number: usize,
        kernels: Vec<Arc<Loaded>>,
        tables: u64,
    ) -> Result<Rank, CudaError> {
        let context = gpu.context().clone();
        driver("using the GPU", context.bind_to_thread())?;
        let (_, greatest) = driver("asking for priorities", result::stream::get_priority_range())?;
        let mut streams = vec![];
        for lane in 0..programs[number].streams.len() {
            let made = match lane {
                0 => context.new_stream(),
                _ => context.new_stream_with_priority(greatest),
            };
            streams.push(driver("making a stream", made)?);
        }
        let ends = streams.iter().map(|_| Ok((driver("making an event", context.new_event(None))?, true)));
        let ends = ends.collect::<Result<_, CudaError>>()?;
        Ok(Rank {
            kernels,
            multiprocessors: gpu.multiprocessors,
            tables,
            context,
            streams,
            events: (0..programs[number].events).map(|_| None).collect(),
            marks: Spare::new(),
            ends,
            sets: Sets::default(),
            programs,
            number,
        })
    }

    /// A call begins, with these pointers and behind the event.
    pub(super) fn begin(&mut self, pointers: &Pointers, behind: &CudaEvent) -> Result<(), CudaError> {
        self.sets.turn_to(pointers);
        self.after(behind)?;
        let programs = self.programs.clone();
        for (stream, region) in programs[self.number].zeroed.iter().enumerate() {
            self.clear(stream, region)?;
        }
        Ok(())
    }

    /// Everything that is issued from here on comes after the event.
    pub(super) fn after(&mut self, event: &CudaEvent) -> Result<(), CudaError> {
        for stream in 0..self.streams.len() {
            driver("waiting for an event", self.stream(stream)?.wait(event))?;
            self.issued(stream);
        }
        Ok(())
    }

    /// The stream comes after all that was issued here.
    pub(super) fn before(&mut self, stream: Host) -> Result<(), CudaError> {
        for (own, (end, recorded)) in self.streams.iter().zip(&mut self.ends) {
            driver("recording an event", end.record(own))?;
            *recorded = true;
            stream.wait(end)?;
        }
        Ok(())
    }

    /// The name of a stream that is not done with what it was told, if that can be asked.
    pub(super) fn late(&mut self) -> Option<String> {
        let lanes = 0..self.streams.len();
        let late = lanes.into_iter().find(|&lane| matches!(self.query(lane), Ok(false)))?;
        self.programs[self.number].streams.get(late).cloned()
    }

    /// Sets a part of the arena to zero.
    fn clear(&mut self, stream: usize, region: &Region) -> Result<(), CudaError> {
        if region.bytes == 0 {
            return Ok(());
        }
        let at = self.sets.now.pointers.arena + region.offset as u64;
        let on = self.stream(stream)?.cu_stream();
        driver("using the GPU", self.context.bind_to_thread())?;
        // SAFETY: the region lies within the arena, as many bytes of which the caller has put there.
        driver("filling", unsafe { result::memset_d8_async(at, 0, region.bytes, on) })?;
        self.issued(stream);
        Ok(())
    }

    /// A copy that takes the place of a message.
    pub(super) fn pace(
        &mut self,
        stream: usize,
        kernel: &HelperKernel,
        argument: &Paced,
        blocks: usize,
    ) -> Result<(), CudaError> {
        let Some(function) = kernel.functions.first() else {
            return refuse("the kernel has no entry".into());
        };
        let blocks = u32::try_from(blocks.max(1)).map_err(|_| too_large("blocks"))?;
        let block_dim = (crate::lower::THREADS as u32, 1, 1);
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim, shared_mem_bytes: 0 };
        let mut builder = self.stream(stream)?.launch_builder(function);
        builder.arg(argument);
        // SAFETY: the argument is the kernel's; it reads what whoever plays has put there, and writes where the program receives.
        driver("launching a kernel", unsafe { builder.launch(config) })?;
        self.issued(stream);
        Ok(())
    }

    fn stream(&self, stream: usize) -> Result<&Arc<CudaStream>, CudaError> {
        let there = self.streams.get(stream);
        there.ok_or_else(|| CudaError::Launch(format!("there is no stream {stream}")))
    }

    fn issued(&mut self, stream: usize) {
        if let Some(end) = self.ends.get_mut(stream) {
            end.1 = false;
        }
    }
}

impl Engine for Rank {
    type Pointer = u64;
    type Error = CudaError;

    fn pointer(&self, at: Address) -> u64 {
        self.sets.now.pointer(&self.programs[self.number], at)
    }

    fn launch(&mut self, stream: usize, op: usize, launch: &Launch) -> Result<(), CudaError> {
        let Some(loaded) = self.kernels.get(launch.kernel) else {
            return refuse(format!("the program has no kernel {}", launch.kernel));
        };
        let (program, given) = (&self.programs[self.number], (self.tables, self.multiprocessors));
        let prepared = self.sets.now.launch(op, |set| set.prepare(program, launch, loaded, given))?;
        let Some(on) = self.streams.get(stream) else {
            return refuse(format!("there is no stream {stream}"));
        };
        let mut builder = on.launch_builder(&loaded.function);
        match &prepared.params {
            KernelParams::Usual(p) => builder.arg(&**p),
            KernelParams::Steps(p) => builder.arg(&**p),
            KernelParams::Merge(p) => builder.arg(p),
            KernelParams::Finish(p) => builder.arg(&**p),
            KernelParams::Pack(p) => builder.arg(&**p),
        };
        if let Some(maps) = &prepared.maps {
            builder.arg(maps);
        }
        // SAFETY: the arguments are the kernel's; the lowering holds every address to the arguments, the results and the arena of the
        // program, and whoever made the pointers said that as many bytes lie there.
        driver("launching a kernel", unsafe { builder.launch(prepared.config) })?;
        self.issued(stream);
        Ok(())
    }

    fn copy(&mut self, stream: usize, copy: Spread<u64>) -> Result<(), CudaError> {
        let on = self.stream(stream)?;
        driver("using the GPU", self.context.bind_to_thread())?;
        copy_runs(on, &copy)?;
        self.issued(stream);
        Ok(())
    }

    fn record(&mut self, stream: usize, event: usize) -> Result<(), CudaError> {
        let Some(place) = self.events.get_mut(event) else {
            return refuse(format!("the program has no event {event}"));
        };
        let made = match place.take() {
            Some(made) => made,
            None => driver("making an event", self.context.new_event(None))?,
        };
        let recorded = self.streams.get(stream).map(|on| driver("recording an event", made.record(on)));
        self.events[event] = Some(made);
        recorded.unwrap_or_else(|| refuse(format!("there is no stream {stream}")))?;
        self.issued(stream);
        Ok(())
    }

    fn wait(&mut self, stream: usize, event: usize) -> Result<(), CudaError> {
        let Some(Some(made)) = self.events.get(event) else {
            return refuse(format!("event {event} was never recorded"));
        };
        driver("waiting for an event", self.stream(stream)?.wait(made))?;
        self.issued(stream);
        Ok(())
    }

    fn query(&mut self, stream: usize) -> Result<bool, CudaError> {
        let (Some(on), Some((end, recorded))) = (self.streams.get(stream), self.ends.get_mut(stream)) else {
            return refuse(format!("there is no stream {stream}"));
        };
        if !*recorded {
            driver("recording an event", end.record(on))?;
            *recorded = true;
        }
        driver("running the device program", end.try_is_complete())
    }
}

impl Streams for Rank {
    fn handle(&mut self, stream: usize) -> Result<CUstream, CudaError> {
        driver("using the GPU", self.context.bind_to_thread())?;
        let handle = self.stream(stream)?.cu_stream();
        self.issued(stream);
        Ok(handle)
    }
}

impl Marks for Rank {
    type Mark = Arc<CudaEvent>;

    fn mark(&mut self, stream: usize) -> Result<Arc<CudaEvent>, CudaError> {
        let new = || driver("making an event", self.context.new_event(None));
        let mark = self.marks.take(new)?;
        driver("recording an event", mark.record(self.stream(stream)?))?;
        self.issued(stream);
        Ok(mark)
    }

    fn wait_mark(&mut self, stream: usize, mark: &Arc<CudaEvent>) -> Result<(), CudaError> {
        driver("waiting for an event", self.stream(stream)?.wait(mark))?;
        self.issued(stream);
        Ok(())
    }
}
