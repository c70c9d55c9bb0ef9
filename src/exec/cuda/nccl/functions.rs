//! The functions of NCCL that are called, looked up in the library by name.
//!
//! cudarc looks for the library under names that its packages do not have, and panics where it finds none: types and constants are
//! cudarc's, functions come from the library that the probe holds. Results are whole numbers, for a newer library has newer ones.

use super::error::NcclError;
use crate::exec::cuda::error::CudaError;
use crate::exec::cuda::probe;
use crate::exec::libraries::NCCL;
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclConfig_t, ncclUniqueId};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// All is well.
pub(super) const SUCCESS: c_int = 0;
/// What was asked for is still being prepared.
pub(super) const IN_PROGRESS: c_int = 7;

macro_rules! functions {
    ($($field:ident = $name:literal ($($arg:ty),*) -> $result:ty;)*) => {
        /// The functions, each as NCCL 2.18 and later declare it.
        #[derive(Debug)]
        pub(super) struct Table {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $result,)*
        }

        impl Table {
            fn find() -> Result<Table, CudaError> {
                let library = probe::nccl_library()?;
                let lacks = |name: &str| CudaError::Unavailable {
                    library: NCCL.name,
                    reason: format!("it has no {name}: it is older than 2.18"),
                    remedy: NCCL.remedy.into(),
                };
                Ok(Table {
                    $($field: {
                        // SAFETY: NCCL declares the function so.
                        let found = unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> $result>(concat!($name, "\0").as_bytes()) };
                        *found.map_err(|_| lacks($name))?
                    },)*
                })
            }
        }
    };
}

functions! {
    unique_id = "ncclGetUniqueId" (*mut ncclUniqueId) -> c_int;
    init = "ncclCommInitRankConfig" (*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_int;
    async_error = "ncclCommGetAsyncError" (ncclComm_t, *mut c_int) -> c_int;
    abort = "ncclCommAbort" (ncclComm_t) -> c_int;
    finalize = "ncclCommFinalize" (ncclComm_t) -> c_int;
    destroy = "ncclCommDestroy" (ncclComm_t) -> c_int;
    count = "ncclCommCount" (ncclComm_t, *mut c_int) -> c_int;
    user_rank = "ncclCommUserRank" (ncclComm_t, *mut c_int) -> c_int;
    device = "ncclCommCuDevice" (ncclComm_t, *mut c_int) -> c_int;
    group_start = "ncclGroupStart" () -> c_int;
    group_end = "ncclGroupEnd" () -> c_int;
    send = "ncclSend" (*const c_void, usize, c_int, c_int, ncclComm_t, cudaStream_t) -> c_int;
    recv = "ncclRecv" (*mut c_void, usize, c_int, c_int, ncclComm_t, cudaStream_t) -> c_int;
    error_string = "ncclGetErrorString" (c_int) -> *const c_char;
    last_error = "ncclGetLastError" (ncclComm_t) -> *const c_char;
}

/// All of them.
pub(super) type Functions = Table;

/// All of them, looked up once.
pub(super) fn functions() -> Result<&'static Functions, CudaError> {
    static FOUND: OnceLock<Result<Functions, CudaError>> = OnceLock::new();
    FOUND.get_or_init(Functions::find).as_ref().map_err(Clone::clone)
}

/// The version of the library, if it has every function that is called.
///
/// # Errors
/// It is not there, or lacks one.
pub fn version() -> Result<String, CudaError> {
    functions()?;
    let v = probe::nccl()?;
    Ok(format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100))
}

impl Functions {
    /// What a call returned, where it is no success; `of` is the communicator that it was about, or null.
    pub(super) fn failed(&self, what: &'static str, status: c_int, of: ncclComm_t) -> NcclError {
        // SAFETY: it takes any number.
        let code = text(unsafe { (self.error_string)(status) });
        // SAFETY: the communicator lives, or is null.
        let message = text(unsafe { (self.last_error)(of) });
        let code = if code.is_empty() { format!("error {status}") } else { code };
        NcclError::Call { what, code, message }
    }
}

/// A text of the library's own.
fn text(at: *const c_char) -> String {
    /// No longer than this is shown.
    const MOST: usize = 512;
    if at.is_null() {
        return String::new();
    }
    // SAFETY: the library ends its texts with a zero, and keeps them.
    let text = unsafe { CStr::from_ptr(at) }.to_string_lossy();
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MOST).collect()
}
