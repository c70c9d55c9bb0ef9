//! What a rank's program is run on: a device with streams and events.

use crate::lower::program::{Address, Launch, Runs};
use std::fmt::Display;

/// An address as a device knows it.
pub trait Pointer: std::marker::Copy {
    /// So many bytes further.
    #[must_use]
    fn plus(self, bytes: usize) -> Self;
}

/// That of a GPU.
impl Pointer for u64 {
    fn plus(self, bytes: usize) -> u64 {
        self.wrapping_add(bytes as u64)
    }
}

/// A device, or what a rank has of it: memory, streams and events.
///
/// What is issued to a stream runs in that order, and as late as the device likes; `launch`, `copy`, `record` and `wait` return at once.
/// An event is recorded before anything waits for it: the walker sees to that.
pub trait Engine {
    /// An address as the device knows it.
    type Pointer: Pointer;
    /// What went wrong, in words.
    type Error: Display;

    /// Where a byte of the program lies.
    fn pointer(&self, at: Address) -> Self::Pointer;

    /// Starts the kernel of operation `op`, which is `launch`. What is made of its argument may be kept by the number of the operation.
    ///
    /// # Errors
    /// The device's.
    fn launch(&mut self, stream: usize, op: usize, launch: &Launch) -> Result<(), Self::Error>;

    /// Copies bytes.
    ///
    /// # Errors
    /// The device's.
    fn copy(&mut self, stream: usize, copy: Spread<Self::Pointer>) -> Result<(), Self::Error>;

    /// Event `event` happens when everything before it on the stream is done.
    ///
    /// # Errors
    /// The device's.
    fn record(&mut self, stream: usize, event: usize) -> Result<(), Self::Error>;

    /// What is issued to the stream from here on starts after the event.
    ///
    /// # Errors
    /// The device's.
    fn wait(&mut self, stream: usize, event: usize) -> Result<(), Self::Error>;

    /// Whether everything that was issued to the stream is done. It never blocks.
    ///
    /// # Errors
    /// What was issued failed, or can never be done.
    fn query(&mut self, stream: usize) -> Result<bool, Self::Error>;

    /// Whether anything was computed since this was asked last, by a device that computes only while it is asked for something: whoever waits
    /// for it counts that as movement.
    fn worked(&mut self) -> bool {
        false
    }
}

/// A device that orders streams of several ranks among each other: marks are events between ranks.
pub trait Marks: Engine {
    /// A point of a stream.
    type Mark: Clone;

    /// The point up to which the stream has been issued.
    ///
    /// # Errors
    /// The device's.
    fn mark(&mut self, stream: usize) -> Result<Self::Mark, Self::Error>;

    /// What is issued to the stream from here on starts after the other's point.
    ///
    /// # Errors
    /// The device's.
    fn wait_mark(&mut self, stream: usize, mark: &Self::Mark) -> Result<(), Self::Error>;
}

/// A device whose memory the host reads and writes, so that it may carry messages itself.
pub trait HostMemory: Engine {
    /// Whether everything that was issued to the stream is done; it works on that as far as it can be done by now.
    ///
    /// # Errors
    /// What was issued failed.
    fn settled(&mut self, stream: usize) -> Result<bool, Self::Error>;

    /// The bytes of these runs, one behind the other. What writes them is done.
    ///
    /// # Errors
    /// They are not all there.
    fn read(&mut self, runs: &[Runs]) -> Result<Vec<u8>, Self::Error>;

    /// Writes as many bytes as the runs have. What reads or writes them before is done.
    ///
    /// # Errors
    /// They are not all there, or as many bytes are not.
    fn write(&mut self, runs: &[Runs], bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Runs of bytes from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread<P> {
    /// The first run.
    pub from: P,
    /// Where it goes.
    pub to: P,
    /// Bytes from the begin of one run to that of the next.
    pub from_stride: usize,
    /// The same where they go.
    pub to_stride: usize,
    /// How many runs.
    pub count: usize,
    /// Of each.
    pub bytes: usize,
}
