//! The error of the parser.

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rendered}")]
#[non_exhaustive]
pub struct ParseScheduleError {
    /// The message with the line and a caret.
    pub rendered: String,
}
