//! NVRTC: text to machine code, with the compiler's log, whatever comes of it.

use super::error::CudaError;
use super::probe;
use crate::exec::cache::{self, Cache};
use crate::exec::libraries::NVRTC;
use crate::lower::{self, Arch, Helper, KernelKey};
use cudarc::nvrtc::sys;
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::Mutex;

/// What a compilation gave.
#[derive(Clone, Debug)]
pub struct CompiledKernel {
    /// Machine code of one architecture.
    pub cubin: Vec<u8>,
    /// The compiler's log: registers, spills, remarks.
    pub log: String,
}

/// Compiles a text. `kernel` and `arch` are for the message.
///
/// # Errors
/// NVRTC is not there, or the text does not compile.
pub fn compile(
    text: &str,
    options: &[String],
    kernel: &str,
    arch: &'static str,
) -> Result<CompiledKernel, CudaError> {
    // Threads gain nothing, and NVRTC's first use of its builtins is not guarded.
    static ONE: Mutex<()> = Mutex::new(());
    probe::nvrtc()?;
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let failed = |log: String| CudaError::Compile { kernel: kernel.into(), arch, log };
    let text = CString::new(text).map_err(|e| failed(e.to_string()))?;
    let options: Result<Vec<CString>, _> = options.iter().map(|o| CString::new(o.as_str())).collect();
    let options = options.map_err(|e| failed(e.to_string()))?;
    let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    let program = NvrtcProgram::new(&text)?;
    // SAFETY: the program lives, and the pointers are to strings that outlive the call.
    let status = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as i32, options.as_ptr()) };
    let log = program.log()?;
    if status != sys::nvrtcResult::NVRTC_SUCCESS {
        return Err(failed(if log.is_empty() { format!("{status:?}") } else { log }));
    }
    Ok(CompiledKernel { cubin: program.cubin()?, log })
}

/// What code is made from: keys of kernels, and of those around them.
pub trait KernelSource: Clone {
    /// The text, for every architecture.
    fn text(&self) -> String;
    /// For messages.
    fn name(&self) -> String;
    /// Whether there is such a kernel.
    fn exists(&self) -> bool;
}

impl KernelSource for KernelKey {
    fn text(&self) -> String {
        lower::text(self)
    }

    fn name(&self) -> String {
        self.entry().into()
    }

    fn exists(&self) -> bool {
        KernelKey::exists(self)
    }
}

impl KernelSource for Helper {
    fn text(&self) -> String {
        Helper::text(*self)
    }

    fn name(&self) -> String {
        self.entries().join(", ")
    }

    fn exists(&self) -> bool {
        Helper::all().contains(self)
    }
}

/// Machine code, and what it was made from: by [`code`] alone, so that what a launch checks by the key holds for the code.
#[derive(Clone, Debug)]
pub struct Code<S> {
    pub(super) source: S,
    pub(super) arch: Arch,
    pub(super) cubin: Vec<u8>,
    log: Option<String>,
}

impl<S> Code<S> {
    /// What the compiler said; `None` if the code comes from the cache.
    pub fn log(&self) -> Option<&str> {
        self.log.as_deref()
    }
}

/// The machine code of a kernel: from the cache, else compiled and kept there. Only another text, option, architecture or version
/// of annulus, NVRTC or the driver is another entry. Where NVRTC does not know the architecture, its code is that of the first of its
/// family ([`Arch::compiled_for`]).
///
/// # Errors
/// There is no such kernel, NVRTC is not there or makes no code for this architecture, or the text does not compile: a fault of annulus.
pub fn code<S: KernelSource>(source: &S, arch: Arch, cache: Option<&Cache>) -> Result<Code<S>, CudaError> {
    if !source.exists() {
        return Err(CudaError::Launch(format!("there is no such kernel {}", source.name())));
    }
    let arch = arch.compiled_for(&known()?).map_err(|why| lacking(why.to_string(), NEWER))?;
    let (text, options) = (source.text(), lower::options(arch));
    let fresh = || {
        let made = compile(&text, &options, &source.name(), arch.name())?;
        Ok(Code { source: source.clone(), arch, cubin: made.cubin, log: Some(made.log) })
    };
    let Some(cache) = cache else { return fresh() };
    let versions =
        format!("{:?} {} {:?}", version()?, probe::nvrtc_file(), probe::driver_version().unwrap_or(0));
    let parts = [env!("CARGO_PKG_VERSION"), &text, &options.join("\0"), arch.name(), &versions];
    let name = cache::key(&parts.map(str::as_bytes));
    if let Some(cubin) = cache.get(&name) {
        return Ok(Code { source: source.clone(), arch, cubin, log: None });
    }
    let code = fresh()?;
    // A full disk is no reason to stop: the next run compiles again.
    let _ = cache.put(&name, &code.cubin);
    Ok(code)
}

/// NVRTC's version, major and minor.
///
/// # Errors
/// NVRTC is not there.
pub fn version() -> Result<(i32, i32), CudaError> {
    probe::nvrtc()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written.
    ok("asking for the version", unsafe { sys::nvrtcVersion(&mut major, &mut minor) })?;
    Ok((major, minor))
}

/// The architectures that it makes code for, each by its number without a letter.
///
/// # Errors
/// NVRTC is not there.
pub fn known() -> Result<Vec<i32>, CudaError> {
    const WHAT: &str = "asking for the architectures";
    probe::nvrtc()?;
    let mut count = 0;
    // SAFETY: the pointer is to an int that lives.
    ok(WHAT, unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) })?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for as many as it said.
    ok(WHAT, unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) })?;
    Ok(known)
}

/// Whether the driver loads what NVRTC makes: it does not where NVRTC is of a later major version.
///
/// # Errors
/// It does not, or one of them is not there.
pub fn matches_driver() -> Result<(), CudaError> {
    let ((major, minor), driver) = (version()?, probe::driver_version()?);
    if major <= driver / 1000 {
        return Ok(());
    }
    let runs = format!("{}.{}", driver / 1000, driver % 1000 / 10);
    Err(lacking(
        format!("it is of CUDA {major}.{minor}, whose code the driver, of CUDA {runs}, does not load"),
        OLDER,
    ))
}

const NEWER: &str = "install a newer CUDA toolkit, or `pip install nvidia-cuda-nvrtc`";
const OLDER: &str = "install a newer driver of NVIDIA, or an NVRTC of the driver's CUDA, such as `pip install nvidia-cuda-nvrtc-cu12`";

fn lacking(reason: String, remedy: &str) -> CudaError {
    CudaError::Unavailable { library: NVRTC.name, reason, remedy: remedy.into() }
}

struct NvrtcProgram(sys::nvrtcProgram);

impl NvrtcProgram {
    fn new(text: &CString) -> Result<NvrtcProgram, CudaError> {
        let mut program = ptr::null_mut();
        let (name, none) = (c"kernel.cu", ptr::null());
        // SAFETY: text and name end in NUL; there are no headers.
        let status =
            unsafe { sys::nvrtcCreateProgram(&mut program, text.as_ptr(), name.as_ptr(), 0, none, none) };
        ok("creating a program", status)?;
        Ok(NvrtcProgram(program))
    }

    fn log(&self) -> Result<String, CudaError> {
        let mut size = 0;
        // SAFETY: the program lives.
        ok("reading the log", unsafe { sys::nvrtcGetProgramLogSize(self.0, &mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that was asked for.
        ok("reading the log", unsafe { sys::nvrtcGetProgramLog(self.0, bytes.as_mut_ptr().cast()) })?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>, CudaError> {
        let mut size = 0;
        // SAFETY: the program lives.
        ok("reading the code", unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that was asked for.
        ok("reading the code", unsafe { sys::nvrtcGetCUBIN(self.0, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for NvrtcProgram {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram, destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn ok(what: &'static str, status: sys::nvrtcResult) -> Result<(), CudaError> {
    match status {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(CudaError::Driver { what, message: format!("{other:?}") }),
    }
}
