//! One GPU: a context with one stream, buffers, kernels and their times.
//!
//! Everything here runs on the one stream, so a buffer that is dropped is freed after the launches that use it; whoever uses it on other
//! streams brings them back to this one before.

use super::error::{CudaError, driver, foreign};
use super::nvrtc::{Code, matches_driver};
use super::probe;
use crate::exec::libraries::CUDA;
use crate::lower::{Arch, KernelKey};
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result};
use cudarc::nvrtc::Ptx;
use std::cell::RefCell;
use std::sync::Arc;

/// A GPU in use.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    /// Tickets of the kernels: two words, zero between launches.
    pub(super) counter: Buffer,
    /// Marks of rows that one kernel leaves to the next, zero between launches.
    pub(super) marks: RefCell<Buffer>,
    /// Streaming multiprocessors.
    pub(super) multiprocessors: usize,
    capability: (i32, i32),
}

/// Bytes on the device.
#[derive(Debug)]
pub struct Buffer(pub(super) CudaSlice<u8>);

/// A kernel that is loaded.
#[derive(Debug)]
pub struct Kernel {
    pub(super) context: Arc<CudaContext>,
    pub(super) key: KernelKey,
    pub(super) arch: Arch,
    pub(super) function: CudaFunction,
}

/// The first with every function that is called here: of CUDA 12.8.
const OLDEST_DRIVER: i32 = 12_080;

/// The driver, of a version that will do, and started.
pub(super) fn start() -> Result<(), CudaError> {
    let version = probe::driver_version()?;
    if version < OLDEST_DRIVER {
        // cudarc panics where a function is missing.
        return Err(CudaError::Unavailable {
            library: CUDA.name,
            reason: format!("it runs CUDA {}.{}, and 12.8 is needed", version / 1000, version % 1000 / 10),
            remedy: "install a newer driver of NVIDIA, 570 or later".into(),
        });
    }
    driver("starting the driver", result::init())
}

impl Gpu {
    /// The GPU of this number.
    ///
    /// # Errors
    /// There is no driver, or no such GPU.
    pub fn open(ordinal: usize) -> Result<Gpu, CudaError> {
        start()?;
        let context = driver("opening the GPU", CudaContext::new(ordinal))?;
        // SAFETY: before any allocation; what orders work are this stream, and the events of whoever has streams of its own.
        unsafe { context.disable_event_tracking() };
        let stream = driver("making a stream", context.new_stream())?;
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = driver("counting multiprocessors", context.attribute(count))? as usize;
        let capability = driver("asking for the architecture", context.compute_capability())?;
        let counter = Buffer(driver("allocating", stream.alloc_zeros(256))?);
        let marks = RefCell::new(Buffer(driver("allocating", stream.alloc_zeros(256))?));
        Ok(Gpu { context, stream, counter, marks, multiprocessors, capability })
    }

    /// Its name, for reports.
    ///
    /// # Errors
    /// The driver's.
    pub fn name(&self) -> Result<String, CudaError> {
        driver("asking for the name", self.context.name())
    }

    /// The architecture whose code it runs; `None` if there are no kernels for it.
    pub fn arch(&self) -> Option<Arch> {
        Arch::of(self.capability)
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn upload(&self, bytes: &[u8]) -> Result<Buffer, CudaError> {
        let buffer = Buffer(driver("copying to the device", self.stream.clone_htod(bytes))?);
        self.finish()?;
        Ok(buffer)
    }

    /// So many bytes, each of this value.
    ///
    /// # Errors
    /// Out of memory.
    pub fn filled(&self, bytes: usize, value: u8) -> Result<Buffer, CudaError> {
        let slice = driver("allocating", self.stream.alloc_zeros(bytes))?;
        let buffer = Buffer(slice);
        let (at, _guard) = buffer.0.device_ptr(&self.stream);
        // SAFETY: the range is the buffer's own.
        let filled = unsafe { result::memset_d8_async(at, value, bytes, self.stream.cu_stream()) };
        driver("filling", filled)?;
        drop(_guard);
        Ok(buffer)
    }

    /// So many bytes that nobody has written.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn unwritten(&self, bytes: usize) -> Result<Buffer, CudaError> {
        // SAFETY: bytes are a type whose every value is one; who reads them before they are written reads any.
        let made = unsafe { self.stream.alloc(bytes.max(1)) };
        Ok(Buffer(driver("allocating", made)?))
    }

    /// Copies bytes into a buffer that has room for them, behind what was told before. They are read until that is done.
    ///
    /// # Errors
    /// The buffer is smaller.
    pub(super) fn write(&self, bytes: &[u8], to: &mut Buffer) -> Result<(), CudaError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(mut to) = to.0.try_slice_mut(..bytes.len()) else {
            return Err(CudaError::Launch(format!("{} bytes do not fit a buffer", bytes.len())));
        };
        driver("copying to the device", self.stream.memcpy_htod(bytes, &mut to))
    }

    /// Copies so many bytes of a buffer back, behind what was told before; they are there when that is done.
    ///
    /// # Errors
    /// The buffer is smaller.
    pub(super) fn read(&self, from: &Buffer, bytes: usize) -> Result<Vec<u8>, CudaError> {
        if bytes == 0 {
            return Ok(vec![]);
        }
        let Some(from) = from.0.try_slice(..bytes) else {
            return Err(CudaError::Launch(format!("a buffer has fewer than {bytes} bytes")));
        };
        driver("copying from the device", self.stream.clone_dtoh(&from))
    }

    /// Copies bytes within the device.
    ///
    /// # Errors
    /// A range is outside of its buffer, or a buffer lies on another GPU.
    pub fn copy(
        &self,
        from: (&Buffer, usize),
        to: (&mut Buffer, usize),
        bytes: usize,
    ) -> Result<(), CudaError> {
        let outside = || CudaError::Launch("a copy reaches outside of a buffer".into());
        if !self.owns(from.0) || !self.owns(to.0) {
            return Err(foreign("a buffer of a copy"));
        }
        let from = from.0.0.try_slice(from.1..from.1.saturating_add(bytes)).ok_or_else(outside)?;
        let mut to = to.0.0.try_slice_mut(to.1..to.1.saturating_add(bytes)).ok_or_else(outside)?;
        driver("copying on the device", self.stream.memcpy_dtod(&from, &mut to))
    }

    /// Copies bytes back, after everything that was launched.
    ///
    /// # Errors
    /// A launch before failed, or the buffer lies on another GPU.
    pub fn download(&self, buffer: &Buffer) -> Result<Vec<u8>, CudaError> {
        if !self.owns(buffer) {
            return Err(foreign("the buffer"));
        }
        let bytes = driver("copying from the device", self.stream.clone_dtoh(&buffer.0))?;
        self.finish()?;
        Ok(bytes)
    }

    /// Waits until everything that was launched is done.
    ///
    /// # Errors
    /// A launch before failed.
    pub fn finish(&self) -> Result<(), CudaError> {
        driver("running kernels", self.stream.synchronize())
    }

    /// Loads a kernel.
    ///
    /// # Errors
    /// The code is for another architecture.
    pub fn load(&self, code: &Code<KernelKey>) -> Result<Kernel, CudaError> {
        let key = code.source;
        let function = self.function(&self.module(code)?, key.entry())?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        driver("reserving shared memory", function.set_attribute(attribute, key.shared_bytes() as i32))?;
        Ok(Kernel { context: self.context.clone(), key, arch: code.arch, function })
    }

    pub(super) fn module<S>(&self, code: &Code<S>) -> Result<Arc<CudaModule>, CudaError> {
        if self.arch().is_none_or(|own| !own.runs(code.arch)) {
            let (major, minor) = self.capability;
            let why = format!("code for {} on a GPU of compute capability {major}.{minor}", code.arch.name());
            return Err(CudaError::Launch(why));
        }
        matches_driver()?;
        let cubin = Ptx::from_binary(code.cubin.clone());
        driver("loading a kernel", self.context.load_module(cubin))
    }

    pub(super) fn function(&self, module: &Arc<CudaModule>, entry: &str) -> Result<CudaFunction, CudaError> {
        driver("finding a kernel", module.load_function(entry))
    }

    /// The buffer, at least so large: a larger one of zeros in its place where it is not.
    pub(super) fn at_least<'a>(&self, buffer: &'a mut Buffer, bytes: usize) -> Result<&'a Buffer, CudaError> {
        if buffer.bytes() < bytes {
            let larger = bytes.next_power_of_two();
            *buffer = Buffer(driver("allocating", self.stream.alloc_zeros(larger))?);
        }
        Ok(buffer)
    }

    /// Whether the buffer lies on this GPU.
    pub(super) fn owns(&self, buffer: &Buffer) -> bool {
        self.is_of(buffer.0.context())
    }

    pub(super) fn is_of(&self, context: &Arc<CudaContext>) -> bool {
        Arc::ptr_eq(context, &self.context)
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Milliseconds that the device spends on what is launched inside.
    ///
    /// # Errors
    /// Whatever `work` returns, or the driver's.
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f32, CudaError> {
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let begin = driver("recording an event", self.stream.record_event(flags))?;
        work()?;
        let end = driver("recording an event", self.stream.record_event(flags))?;
        driver("waiting for an event", end.synchronize())?;
        driver("reading an event", begin.elapsed_ms(&end))
    }
}

impl Buffer {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Where it lies on the device. What is done there by other streams, the caller orders.
    pub fn address(&self) -> u64 {
        self.0.device_ptr(self.0.stream()).0
    }
}
