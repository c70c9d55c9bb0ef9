//! How messages come from one rank to another.

use super::engine::Engine;
use crate::lower::program::Group;

/// Why messages do not come through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub enum TransportError {
    /// Of something here.
    Failed(String),
    /// Another rank is gone, or gave up.
    Others(String),
}

/// How far a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// It is issued.
    Issued,
    /// A part of it was issued now.
    Moved,
    /// Nothing has changed.
    Waits,
}

/// One rank's end of what carries messages.
///
/// A group is posted, and then polled until it is issued: from then on what is issued to its stream runs behind all of its messages. On a
/// stream one group is under way at a time.
pub trait Transport<E: Engine> {
    /// Begins all messages of a group, behind what was issued to the stream.
    ///
    /// # Errors
    /// The engine's, or the transport was aborted.
    fn post(&mut self, engine: &mut E, stream: usize, group: &Group) -> Result<(), TransportError>;

    /// How far the group is that was posted to the stream. It never blocks.
    ///
    /// # Errors
    /// The engine's, messages do not fit each other, or the transport was aborted.
    fn poll(&mut self, engine: &mut E, stream: usize) -> Result<Polled, TransportError>;

    /// Whether nothing is known to have failed, here or on other ranks: asked while what was issued is not done. It never blocks.
    ///
    /// # Errors
    /// What failed.
    fn well(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    /// Nobody waits for this rank any more: whoever polls is told why.
    fn abort(&mut self, why: &str);
}
