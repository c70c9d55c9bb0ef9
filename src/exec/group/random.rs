//! Fresh numbers that nobody can guess, for challenges and tokens. They never reach a result.

use std::fs::File;
use std::io::{self, Read};

/// 32 bytes of the system's randomness.
///
/// # Errors
/// The system has none to give.
pub(super) fn fresh() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
