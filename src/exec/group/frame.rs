//! Frames: how messages lie in a stream of bytes.
//!
//! A frame is a head of 12 bytes (four letters, the version, the kind, the length) and its body. The length is compared with the most that
//! a frame of its kind may have before anything of the body is kept, so that memory is bounded by what was agreed on, never by what a
//! stranger says. [`Decoder`] takes bytes in whatever pieces they come.

/// The version of this protocol. Two versions refuse each other in the meeting; heads and the kinds up to `Refused` are the same in all.
pub(crate) const VERSION: u16 = 1;

const LETTERS: [u8; 4] = *b"anlu";
const HEAD: usize = 12;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To rank 0: a fresh number.
    Hello = 1,
    /// From rank 0: its own.
    Challenge = 2,
    /// To rank 0: who it is, and the proof that it holds the token.
    Answer = 3,
    /// From rank 0: its proof.
    Welcome = 4,
    /// From rank 0: why not.
    Refused = 5,
    /// From rank 0: all are here.
    Start = 6,
    /// A sign of life.
    Beat = 7,
    /// To rank 0: what a rank brings to something that all do.
    Ask = 8,
    /// From rank 0: what came of it.
    Given = 9,
    /// The group is over, and why.
    Over = 10,
    /// To rank 0: this rank has come to its end.
    Done = 11,
    /// From rank 0: all have.
    Bye = 12,
}

impl Kind {
    const ALL: [Kind; 12] = [
        Kind::Hello,
        Kind::Challenge,
        Kind::Answer,
        Kind::Welcome,
        Kind::Refused,
        Kind::Start,
        Kind::Beat,
        Kind::Ask,
        Kind::Given,
        Kind::Over,
        Kind::Done,
        Kind::Bye,
    ];
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoFrame {
    /// Nothing that annulus says.
    Junk,
    /// A head of another version.
    Version(u16),
    /// Longer than a frame of its kind may be.
    Long,
}

/// A frame as bytes.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    frame_of(VERSION, kind, body)
}

/// A frame of some version.
pub(crate) fn frame_of(version: u16, kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.extend_from_slice(&LETTERS);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0]);
    // Bodies are bounded far below this by whoever makes them.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Takes frames out of bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Bytes that came.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether a part of a frame is held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The next frame, once all of it is there.
    ///
    /// # Errors
    /// What is held is no frame, or one that is longer than `most` says of its kind. Nothing more can be read from such a stream.
    pub(crate) fn next(&mut self, most: impl Fn(Kind) -> usize) -> Result<Option<Frame>, NoFrame> {
        // What is wrong from the first byte on is seen at once.
        let letters = self.held.len().min(LETTERS.len());
        if self.held[..letters] != LETTERS[..letters] {
            return Err(NoFrame::Junk);
        }
        let Some(head) = self.held.first_chunk::<HEAD>() else { return Ok(None) };
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != VERSION {
            return Err(NoFrame::Version(version));
        }
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == head[6]).ok_or(NoFrame::Junk)?;
        if head[7] != 0 {
            return Err(NoFrame::Junk);
        }
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let length = usize::try_from(length).ok().filter(|n| *n <= most(kind)).ok_or(NoFrame::Long)?;
        if self.held.len() < HEAD + length {
            return Ok(None);
        }
        let body = self.held[HEAD..HEAD + length].to_vec();
        self.held.drain(..HEAD + length);
        Ok(Some(Frame { kind, body }))
    }
}
