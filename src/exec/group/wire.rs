//! Reading and writing frames on a connection, never beyond a deadline.

use super::frame::{Decoder, Frame, Kind, NoFrame};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// So much is read at a time.
pub(super) const PIECE: usize = 16 << 10;

/// Why no frame came.
#[derive(Debug)]
pub(super) enum Lost {
    /// The other side is gone.
    Closed,
    /// Nothing came in time.
    Late,
    /// What came is no frame.
    NoFrame(NoFrame),
}

/// Whether an error says only that nothing can be done now.
pub(super) fn is_not_yet(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

/// The next frame from a connection that blocks.
pub(super) fn read(
    stream: &mut TcpStream,
    decoder: &mut Decoder,
    most: impl Fn(Kind) -> usize,
    until: Instant,
) -> Result<Frame, Lost> {
    let mut piece = [0; PIECE];
    loop {
        if let Some(frame) = decoder.next(&most).map_err(Lost::NoFrame)? {
            return Ok(frame);
        }
        let left = left(until).ok_or(Lost::Late)?;
        stream.set_read_timeout(Some(left)).map_err(|_| Lost::Closed)?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(Lost::Closed),
            Ok(n) => decoder.feed(&piece[..n]),
            Err(e) if is_not_yet(&e) => {}
            Err(_) => return Err(Lost::Closed),
        }
    }
}

/// Writes all bytes to a connection that blocks. Where it fails a part may have been written: the connection is then of no more use.
pub(super) fn write(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = left(until).ok_or(ErrorKind::TimedOut)?;
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if is_not_yet(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
