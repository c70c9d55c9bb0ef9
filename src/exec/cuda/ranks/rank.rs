//! What a rank has of a GPU: where its memory lies, streams, events; the engine that its device program runs on.

use super::loaded::Loaded;
use crate::exec::cuda::error::{CudaError, driver, refuse};
use crate::exec::cuda::gpu::Gpu;
use crate::exec::cuda::maps::{Maps, maps};
use crate::exec::walk::{Engine, Marks, Spread};
use crate::lower::Tiling;
use crate::lower::program::{Address, Addresses, Base, KernelParams, Launch, Program, Region, kernel_params};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, LaunchConfig, PushKernelArg, result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where what a program names lies on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointers {
    /// The rank's arguments, as many bytes of each as the program says.
    pub(super) arguments: Vec<u64>,
    /// Its rows of the result.
    pub(super) out: u64,
    /// Of its log-sum-exp, if there is one.
    pub(super) lse: u64,
}

/// One rank on a GPU.
#[derive(Debug)]
pub(super) struct Rank {
    program: Arc<Program>,
    kernels: Vec<Arc<Loaded>>,
    multiprocessors: usize,
    pub(super) pointers: Pointers,
    arena: u64,
    tables: u64,
    context: Arc<CudaContext>,
    pub(super) streams: Vec<Arc<CudaStream>>,
    /// By number; made when they are first recorded.
    events: Vec<Option<CudaEvent>>,
    /// Between ranks, taken one after another; used again in the next run.
    marks: Vec<Arc<CudaEvent>>,
    next_mark: usize,
    /// By stream an event behind all that was issued, and whether it is recorded.
    ends: Vec<(CudaEvent, bool)>,
    /// By operation what its kernel is handed, made once for the pointers.
    prepared: Vec<Option<Box<Prepared>>>,
}

/// What one launch takes.
#[derive(Debug)]
struct Prepared {
    params: KernelParams,
    maps: Option<Maps>,
    config: LaunchConfig,
}

impl Rank {
    /// Streams for transfers go before that for kernels.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn new(
        gpu: &Gpu,
        program: Arc<Program>,
        kernels: Vec<Arc<Loaded>>,
        [arena, tables]: [u64; 2],
        pointers: Pointers,
    ) -> Result<Rank, CudaError> {
        let context = gpu.context().clone();
        driver("using the GPU", context.bind_to_thread())?;
        let (_, greatest) = driver("asking for priorities", result::stream::get_priority_range())?;
        let mut streams = vec![];
        for lane in 0..program.streams.len() {
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
            pointers,
            arena,
            tables,
            context,
            streams,
            events: (0..program.events).map(|_| None).collect(),
            marks: vec![],
            next_mark: 0,
            ends,
            prepared: program.ops.iter().map(|_| None).collect(),
            program,
        })
    }

    /// A run begins: marks are used from the first on.
    pub(super) fn begin(&mut self) {
        self.next_mark = 0;
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
    pub(super) fn before(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        for (own, (end, recorded)) in self.streams.iter().zip(&mut self.ends) {
            driver("recording an event", end.record(own))?;
            *recorded = true;
            driver("waiting for an event", stream.wait(end))?;
        }
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

    fn prepare(&self, launch: &Launch) -> Result<Prepared, CudaError> {
        let of = |at: Address| self.pointer(at);
        let params = kernel_params(&self.program, launch, &Addresses { of: &of, tables: self.tables });
        let Some(loaded) = self.kernels.get(launch.kernel) else {
            return refuse(format!("the program has no kernel {}", launch.kernel));
        };
        let hopper = loaded.key.filter(|key| matches!(key.tiling, Tiling::Hopper(_)));
        let maps = match (hopper, &params) {
            (Some(key), KernelParams::Usual(p)) => Some(maps(&key, p)?),
            (Some(key), KernelParams::Steps(p)) => Some(maps(&key, &p.usual)?),
            _ => None,
        };
        let config = LaunchConfig {
            grid_dim: (number(launch.grid.on(self.multiprocessors))?, 1, 1),
            block_dim: (number(launch.grid.threads)?, 1, 1),
            shared_mem_bytes: number(loaded.key.map_or(0, |key| key.shared_bytes()))?,
        };
        Ok(Prepared { params, maps, config })
    }
}

fn number(n: usize) -> Result<u32, CudaError> {
    u32::try_from(n).map_err(|_| CudaError::Launch(format!("{n} is more than a launch counts")))
}

fn inside(region: Option<&Region>) -> usize {
    region.map_or(0, |r| r.offset)
}

impl Engine for Rank {
    type Pointer = u64;
    type Error = CudaError;

    fn pointer(&self, at: Address) -> u64 {
        let base = match at.base {
            Base::Arena => self.arena,
            Base::Argument(n) => self.pointers.arguments.get(n).copied().unwrap_or(0),
            Base::Out => self.pointers.out,
            Base::Lse => self.pointers.lse,
            Base::Scratch(stream) => self.arena + inside(self.program.scratch.get(stream)) as u64,
            Base::Zeroed(stream) => self.arena + inside(self.program.zeroed.get(stream)) as u64,
        };
        base + at.offset as u64
    }

    fn launch(&mut self, stream: usize, op: usize, launch: &Launch) -> Result<(), CudaError> {
        if self.prepared.get(op).is_none_or(Option::is_none) {
            let made = Box::new(self.prepare(launch)?);
            match self.prepared.get_mut(op) {
                Some(place) => *place = Some(made),
                None => return refuse(format!("the program has no operation {op}")),
            }
        }
        let (Some(Some(prepared)), Some(loaded)) = (self.prepared.get(op), self.kernels.get(launch.kernel))
        else {
            return refuse(format!("the program has no kernel {}", launch.kernel));
        };
        let on = self.stream(stream)?;
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

impl Marks for Rank {
    type Mark = Arc<CudaEvent>;

    fn mark(&mut self, stream: usize) -> Result<Arc<CudaEvent>, CudaError> {
        if self.next_mark == self.marks.len() {
            self.marks.push(Arc::new(driver("making an event", self.context.new_event(None))?));
        }
        let mark = self.marks[self.next_mark].clone();
        self.next_mark += 1;
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

/// The widest pitch of a copy of two dimensions, of every GPU of today.
const PITCH: usize = i32::MAX as usize;

fn copy_runs(on: &CudaStream, copy: &Spread<u64>) -> Result<(), CudaError> {
    use cudarc::driver::sys::{CUDA_MEMCPY2D, CUmemorytype, cuMemcpy2DAsync_v2};
    let pitched =
        copy.from_stride.max(copy.to_stride) <= PITCH && copy.from_stride.min(copy.to_stride) >= copy.bytes;
    if copy.count > 1 && pitched {
        let memory = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let shape = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: memory,
            srcHost: std::ptr::null(),
            srcDevice: copy.from,
            srcArray: std::ptr::null_mut(),
            srcPitch: copy.from_stride,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: memory,
            dstHost: std::ptr::null_mut(),
            dstDevice: copy.to,
            dstArray: std::ptr::null_mut(),
            dstPitch: copy.to_stride,
            WidthInBytes: copy.bytes,
            Height: copy.count,
        };
        // SAFETY: runs of the program's own memory, as in `launch`; the shape lives for the call.
        let status = unsafe { cuMemcpy2DAsync_v2(&shape, on.cu_stream()) };
        return driver("copying on the device", status.result());
    }
    for run in 0..copy.count {
        let at = |base: u64, stride: usize| base + (run * stride) as u64;
        let (from, to) = (at(copy.from, copy.from_stride), at(copy.to, copy.to_stride));
        // SAFETY: runs of the program's own memory, as in `launch`.
        let copied = unsafe { result::memcpy_dtod_async(to, from, copy.bytes, on.cu_stream()) };
        driver("copying on the device", copied)?;
    }
    Ok(())
}

/// Waits until the event has happened, but no longer than so long.
pub(super) fn settle(event: &CudaEvent, what: &str, patience: Duration) -> Result<(), CudaError> {
    let begin = Instant::now();
    while !driver("running the device program", event.try_is_complete())? {
        if begin.elapsed() > patience {
            return refuse(format!("{what} is not done after {patience:?}"));
        }
        std::thread::yield_now();
    }
    Ok(())
}
