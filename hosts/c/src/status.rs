//! How functions say that they failed: a status, and words that can be fetched on the same thread.

use annulus::exec::cuda::CudaError;
use annulus::exec::cuda::ranks::IslandError;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a function returns.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnulusStatus {
    /// It did what it says.
    ANNULUS_OK = 0,
    /// An argument is null, out of its range, or not what the program or part takes. Nothing was done.
    ANNULUS_INVALID = 1,
    /// The graph is not well formed, or cannot be split as the options ask.
    ANNULUS_REFUSED = 2,
    /// There are no kernels for an attention of the graph, or none for the GPU.
    ANNULUS_UNSUPPORTED = 3,
    /// CUDA: a library is missing, a call failed, memory does not suffice.
    ANNULUS_CUDA = 4,
    /// A rank did not come, or another one failed: the message names it.
    ANNULUS_RANK = 5,
    /// A call before failed, and all parts must begin anew: annulus_parts_restart.
    ANNULUS_GIVEN_UP = 6,
    /// A fault of annulus.
    ANNULUS_INTERNAL = 7,
}

use AnnulusStatus::{
    ANNULUS_CUDA, ANNULUS_GIVEN_UP, ANNULUS_INTERNAL, ANNULUS_INVALID, ANNULUS_OK, ANNULUS_RANK,
    ANNULUS_REFUSED, ANNULUS_UNSUPPORTED,
};

/// Why a function did not do what it says.
pub(crate) struct Failure(AnnulusStatus, String);

pub(crate) fn invalid(why: impl Into<String>) -> Failure {
    Failure(ANNULUS_INVALID, why.into())
}

pub(crate) fn refused(why: impl ToString) -> Failure {
    Failure(ANNULUS_REFUSED, why.to_string())
}

pub(crate) fn unsupported(why: impl ToString) -> Failure {
    Failure(ANNULUS_UNSUPPORTED, why.to_string())
}

impl From<CudaError> for Failure {
    fn from(e: CudaError) -> Failure {
        Failure(ANNULUS_CUDA, e.to_string())
    }
}

impl From<IslandError> for Failure {
    fn from(e: IslandError) -> Failure {
        let status = match &e {
            IslandError::Lower(_) | IslandError::Arch(_) => ANNULUS_UNSUPPORTED,
            IslandError::Walk(_) => ANNULUS_RANK,
            IslandError::GivenUp(_) => ANNULUS_GIVEN_UP,
            IslandError::Call { .. } | IslandError::Parts { .. } | IslandError::Ranks { .. } => {
                ANNULUS_INVALID
            }
            _ => ANNULUS_CUDA,
        };
        Failure(status, e.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs what a function does: its failure is kept for `annulus_last_error`, and a panic ends here.
pub(crate) fn guarded(what: impl FnOnce() -> Result<(), Failure>) -> AnnulusStatus {
    let done = catch_unwind(AssertUnwindSafe(what));
    let Failure(status, why) = match done {
        Ok(Ok(())) => return ANNULUS_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
            Failure(ANNULUS_INTERNAL, format!("annulus is at fault: {words}"))
        }
    };
    let why = CString::new(why.replace('\0', " ")).unwrap_or_default();
    // A thread that ends may have it no more.
    let _ = LAST.try_with(|last| last.replace(why));
    status
}

/// The thing that a pointer of the caller leads to.
///
/// # Safety
/// It is null, or leads to one that lives and is not written meanwhile.
pub(crate) unsafe fn some<'a, T>(at: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { at.as_ref() }.ok_or_else(|| invalid(format!("{name} is null")))
}

/// The same, to be written.
///
/// # Safety
/// It is null, or leads to one that lives and that nobody else uses meanwhile.
pub(crate) unsafe fn place<'a, T>(at: *mut T, name: &str) -> Result<&'a mut T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { at.as_mut() }.ok_or_else(|| invalid(format!("{name} is null")))
}

/// As many things as the caller says; null only where there are none.
///
/// # Safety
/// So many lie there, live, and are not written meanwhile.
pub(crate) unsafe fn many<'a, T>(at: *const T, count: usize, name: &str) -> Result<&'a [T], Failure> {
    match count {
        0 => Ok(&[]),
        _ if at.is_null() => Err(invalid(format!("{name} is null"))),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(at, count) }),
    }
}

/// Writes as many as there is room for, and how many there are.
///
/// # Safety
/// There is room for so many, which may be none.
pub(crate) unsafe fn fill<T: Copy>(
    all: &[T],
    at: *mut T,
    capacity: usize,
    name: &str,
) -> Result<(), Failure> {
    let count = capacity.min(all.len());
    if count > 0 && at.is_null() {
        return Err(invalid(format!("{name} is null")));
    }
    for (n, one) in all.iter().take(count).enumerate() {
        // SAFETY: there is room for `count`, by the caller's promise.
        let to = unsafe { at.add(n) };
        // SAFETY: the same.
        unsafe { to.write(*one) };
    }
    Ok(())
}

/// A text of the caller; `None` for null.
///
/// # Safety
/// It is null, or ends with a null byte, lives, and is not written meanwhile.
pub(crate) unsafe fn text<'a>(at: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map(Some).map_err(|_| invalid(format!("{name} is not UTF-8")))
}

/// What the last function that failed on this thread said; empty if none has. The text stays until the next one fails here.
#[unsafe(no_mangle)]
pub extern "C" fn annulus_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The version of annulus, like "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn annulus_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
