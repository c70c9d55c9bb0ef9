//! Why something of CUDA could not be done, and how the room says so.

use cudarc::driver::DriverError;
use std::ffi::CStr;

/// Why something of CUDA could not be done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// A library is not there, or does not load.
    #[error("{library} is not available: {reason}; what to do: {remedy}")]
    Unavailable {
        /// `libcuda`.
        library: &'static str,
        /// What was tried.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The driver refused.
    #[error("{what}: {message}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// What it says.
        message: String,
    },
    /// A kernel does not compile: a fault of annulus.
    #[error("{kernel} does not compile for {arch}:\n{log}")]
    Compile {
        /// Entry point.
        kernel: String,
        /// Architecture.
        arch: &'static str,
        /// The compiler's log, as it is.
        log: String,
    },
    /// The thread's current context is none that can be used.
    #[error("{0}")]
    Context(String),
    /// A launch that would read or write outside of its buffers.
    #[error("launch refused: {0}")]
    Launch(String),
}

impl CudaError {
    /// Why not, without what to do about it.
    pub fn reason(&self) -> String {
        match self {
            CudaError::Unavailable { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }

    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        if let CudaError::Unavailable { remedy, .. } = self { Some(remedy) } else { None }
    }
}

/// What the driver says of what was asked of it.
pub(super) fn driver<T>(what: &'static str, result: Result<T, DriverError>) -> Result<T, CudaError> {
    result.map_err(|e| {
        let said = |text: Result<&CStr, DriverError>| text.map(|t| t.to_string_lossy().into_owned());
        // A driver has names for its own errors, and this build for those that it knows.
        let message = match (said(e.error_name()), said(e.error_string())) {
            (Ok(name), Ok(words)) => format!("{name}, {words}"),
            _ => format!("{:?}", e.0),
        };
        CudaError::Driver { what, message }
    })
}

/// The streams of two GPUs, or of one that was opened twice, know no order.
pub(super) fn foreign(what: &str) -> CudaError {
    CudaError::Launch(format!("{what} belongs to another GPU"))
}

/// A launch that is refused.
pub(super) fn refuse<T>(why: String) -> Result<T, CudaError> {
    Err(CudaError::Launch(why))
}

/// A count that no launch takes.
pub(super) fn too_large(what: &str) -> CudaError {
    CudaError::Launch(format!("{what}: too many for one launch"))
}
