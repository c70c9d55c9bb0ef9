//! The functions of MPI that are called, looked up in the library by name.
//!
//! Names, types and numbers are those of the standard binary interface (MPI 5.0, chapter 20): handles are as wide as pointers, counts of the
//! `_c` functions 64 bits.

use super::error::MpiError;
use crate::exec::libraries::{self, MPI};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;

/// A handle of any kind.
pub(super) type Handle = usize;

/// All processes that were started together.
pub(super) const COMM_WORLD: Handle = 0x101;
/// Errors are returned, and end nothing by themselves.
pub(super) const ERRORS_RETURN: Handle = 0x143;
pub(super) const BYTE: Handle = 0x247;
pub(super) const ANY_SOURCE: c_int = -1;
/// Calls come from several threads, one at a time.
pub(super) const THREAD_SERIALIZED: c_int = 2048;
/// Bytes of the longest text of an error, and of a version.
pub(super) const MOST_TEXT: usize = 8192;

/// What is known of a message that came.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status {
    pub(super) source: c_int,
    pub(super) tag: c_int,
    pub(super) error: c_int,
    internal: [c_int; 5],
}

macro_rules! functions {
    ($($field:ident = $name:literal ($($arg:ty),*);)*) => {
        /// The functions, each as the standard declares it.
        #[derive(Debug)]
        pub(super) struct Table {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> c_int,)*
            _library: Library,
        }

        impl Table {
            fn of(library: Library) -> Result<Table, String> {
                Ok(Table {
                    $($field: {
                        // SAFETY: the standard declares the function so.
                        let found = unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> c_int>(concat!($name, "\0").as_bytes()) };
                        *found.map_err(|e| format!("{} is not in it: {e}", $name))?
                    },)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    init_thread = "MPI_Init_thread" (*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int);
    initialized = "MPI_Initialized" (*mut c_int);
    finalize = "MPI_Finalize" ();
    abort = "MPI_Abort" (Handle, c_int);
    version = "MPI_Get_library_version" (*mut c_char, *mut c_int);
    error_string = "MPI_Error_string" (c_int, *mut c_char, *mut c_int);
    set_errhandler = "MPI_Comm_set_errhandler" (Handle, Handle);
    rank = "MPI_Comm_rank" (Handle, *mut c_int);
    size = "MPI_Comm_size" (Handle, *mut c_int);
    isend = "MPI_Isend_c" (*const c_void, i64, Handle, c_int, c_int, Handle, *mut Handle);
    irecv = "MPI_Irecv_c" (*mut c_void, i64, Handle, c_int, c_int, Handle, *mut Handle);
    test = "MPI_Test" (*mut Handle, *mut c_int, *mut Status);
    iprobe = "MPI_Iprobe" (c_int, c_int, Handle, *mut c_int, *mut Status);
    get_count = "MPI_Get_count_c" (*const Status, Handle, *mut i64);
}

/// All of them.
pub(super) type Functions = Table;

/// The library, loaded once.
pub(super) fn load() -> Result<&'static Functions, MpiError> {
    static LOADED: OnceLock<Result<Functions, MpiError>> = OnceLock::new();
    LOADED.get_or_init(find).as_ref().map_err(Clone::clone)
}

fn find() -> Result<Functions, MpiError> {
    let found = libraries::find(&MPI, &libraries::places()).into_iter().map(|(path, _)| path);
    let mut reasons = vec![];
    for path in std::iter::once("libmpi_abi.so.1".into()).chain(found) {
        // A name that ends otherwise may be a script for a linker.
        if path.to_string_lossy().ends_with(".so") {
            continue;
        }
        match open(&path).and_then(Functions::of) {
            Ok(functions) => return Ok(functions),
            Err(why) if why.contains("No such file") => {}
            Err(why) => reasons.push(format!("{}: {why}", path.display())),
        }
    }
    reasons.dedup();
    let reason = if reasons.is_empty() { "it was found nowhere".into() } else { reasons.join("; ") };
    Err(MpiError::Unavailable { reason, remedy: MPI.remedy.into() })
}

fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: what runs when it is loaded is the library's own set-up, which asks nothing of the process.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map_err(|e| std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string))
}
