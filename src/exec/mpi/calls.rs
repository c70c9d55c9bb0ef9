//! What calls of MPI return: an error in words, the length of a message.

use super::error::MpiError;
use super::library::{BYTE, Functions, MOST_TEXT, Status};
use std::ffi::{c_char, c_int};

/// How many bytes a message has.
pub(super) fn count(functions: &Functions, status: &Status) -> Result<usize, MpiError> {
    let mut count = 0;
    // SAFETY: both pointers are to what lives, and the type is the standard's.
    ok(functions, "measuring a message", unsafe { (functions.get_count)(status, BYTE, &mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What a call returned.
pub(super) fn ok(functions: &Functions, what: &'static str, status: c_int) -> Result<(), MpiError> {
    if status == 0 {
        return Ok(());
    }
    let said = text(|at, length| {
        // SAFETY: there is room for as long a text as the standard says.
        unsafe { (functions.error_string)(status, at, length) }
    });
    Err(MpiError::Call { what, message: said.unwrap_or_else(|| format!("error {status}")) })
}

/// A text that a call writes.
pub(super) fn text(call: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> Option<String> {
    let mut bytes = vec![0u8; MOST_TEXT];
    let mut length = 0;
    if call(bytes.as_mut_ptr().cast(), &mut length) != 0 {
        return None;
    }
    bytes.truncate(usize::try_from(length).unwrap_or(0));
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
}
