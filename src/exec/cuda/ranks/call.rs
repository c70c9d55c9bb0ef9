//! A call of one rank: where its memory lies, held to what the rank's program says of it.
//!
//! In: raw device pointers. Out: the same as [`Pointers`], or what is wrong with them, before anything is enqueued. What addresses alone
//! cannot tell, that as many bytes lie there, the caller promises.

use crate::lower::program::Program;
use std::fmt;

/// What every pointer of a call is a multiple of, in bytes.
pub const ALIGNMENT: u64 = 16;

/// Where one call of a rank finds its memory: addresses on the GPU, each a multiple of [`ALIGNMENT`]; 0 where there are no bytes.
///
/// Nothing that is written, which is `out`, `lse` and the workspace, shares bytes with anything else of the call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The rank's own rows of queries, keys and values, then what else the attention takes: dense, as the rank's graph says.
    pub arguments: &'a [u64],
    /// The rank's rows of the result.
    pub out: u64,
    /// Of its log-sum-exp.
    pub lse: u64,
    /// Memory that the call may use as it likes. What lies there before is of no matter, and nothing is kept there for the next call.
    pub workspace: u64,
    /// How many bytes the workspace has.
    pub workspace_bytes: usize,
}

/// One of the pointers of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The argument of this number.
    Argument(usize),
    /// The result.
    Out,
    /// Its log-sum-exp.
    Lse,
    /// The workspace.
    Workspace,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Argument(n) => write!(f, "argument {n}"),
            Place::Out => f.write_str("out"),
            Place::Lse => f.write_str("lse"),
            Place::Workspace => f.write_str("the workspace"),
        }
    }
}

/// What is wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Too few arguments, or too many.
    #[error("{got} arguments, and the island takes {wanted}")]
    Arguments {
        /// How many came.
        got: usize,
        /// How many it takes.
        wanted: usize,
    },
    /// There are bytes, and no address.
    #[error("{0} is null")]
    Null(Place),
    /// An address that is no multiple of [`ALIGNMENT`].
    #[error("{place} lies at {at:#x}, which is no multiple of {ALIGNMENT}")]
    Misaligned {
        /// What lies there.
        place: Place,
        /// Where.
        at: u64,
    },
    /// Bytes that no address counts.
    #[error("{bytes} bytes of {place} from {at:#x} on leave what addresses count")]
    Range {
        /// What lies there.
        place: Place,
        /// Where.
        at: u64,
        /// How many bytes it has.
        bytes: usize,
    },
    /// The workspace is too small.
    #[error("a workspace of {bytes} bytes, and {wanted} are needed")]
    Workspace {
        /// How many it has.
        bytes: usize,
        /// How many it should have.
        wanted: usize,
    },
    /// What is written shares bytes with something else.
    #[error("{place} overlaps {other} of rank {of}")]
    Overlap {
        /// One of them.
        place: Place,
        /// The other.
        other: Place,
        /// Whose the other is.
        of: usize,
    },
}

/// Where what a program names lies on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointers {
    /// The rank's arguments, as many bytes of each as the program says.
    pub(super) arguments: Vec<u64>,
    /// Its rows of the result.
    pub(super) out: u64,
    /// Of its log-sum-exp, if there is one.
    pub(super) lse: u64,
    pub(super) arena: u64,
}

/// A range that a call touches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    rank: usize,
    place: Place,
    begin: u64,
    end: u64,
    written: bool,
}

/// The pointers of a call that the program can take; what they touch is put with the rest.
pub(super) fn pointers(
    program: &Program,
    call: &Call<'_>,
    touched: &mut Vec<Touched>,
) -> Result<Pointers, CallError> {
    let facts = &program.attention;
    let (got, wanted) = (call.arguments.len(), facts.arguments.len());
    if got != wanted {
        return Err(CallError::Arguments { got, wanted });
    }
    if call.workspace_bytes < program.arena_bytes {
        return Err(CallError::Workspace { bytes: call.workspace_bytes, wanted: program.arena_bytes });
    }
    let arguments = call.arguments.iter().zip(&facts.arguments).enumerate();
    let arguments = arguments.map(|(n, (&at, &bytes))| (Place::Argument(n), at, bytes));
    let written = [
        (Place::Out, call.out, facts.out_bytes),
        (Place::Lse, call.lse, facts.lse_bytes),
        (Place::Workspace, call.workspace, program.arena_bytes),
    ];
    for (place, at, bytes) in arguments.chain(written) {
        if bytes == 0 {
            continue;
        }
        if at == 0 {
            return Err(CallError::Null(place));
        }
        if !at.is_multiple_of(ALIGNMENT) {
            return Err(CallError::Misaligned { place, at });
        }
        let end = at.checked_add(bytes as u64).ok_or(CallError::Range { place, at, bytes })?;
        let written = !matches!(place, Place::Argument(_));
        touched.push(Touched { rank: program.rank, place, begin: at, end, written });
    }
    Ok(Pointers { arguments: call.arguments.to_vec(), out: call.out, lse: call.lse, arena: call.workspace })
}

/// Two of the ranges that share bytes of which one writes: the rank of the first, and what is wrong.
pub(super) fn overlap(mut touched: Vec<Touched>) -> Option<(usize, CallError)> {
    touched.sort_by_key(|t| (t.begin, t.rank));
    // Of those before the one that reaches furthest, and the same of those that are written.
    let (mut any, mut written): (Option<Touched>, Option<Touched>) = (None, None);
    for t in touched {
        let before = if t.written { any } else { written };
        if let Some(other) = before.filter(|o| o.end > t.begin) {
            return Some((t.rank, CallError::Overlap { place: t.place, other: other.place, of: other.rank }));
        }
        let further = |furthest: Option<Touched>| furthest.filter(|f| f.end >= t.end).or(Some(t));
        any = further(any);
        if t.written {
            written = further(written);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_shares_bytes_with_nothing() {
        let found = |ranges: &[(u64, u64, bool)]| {
            let touched = ranges.iter().enumerate().map(|(rank, &(begin, end, written))| Touched {
                rank,
                place: Place::Argument(rank),
                begin,
                end,
                written,
            });
            overlap(touched.collect()).map(|(rank, why)| match why {
                CallError::Overlap { of, .. } => (rank, of),
                other => panic!("{other}"),
            })
        };
        // Arguments that several ranks read may be one.
        assert_eq!(found(&[(0, 100, false), (0, 100, false), (50, 60, false), (100, 110, true)]), None);
        assert_eq!(found(&[(90, 110, true), (0, 100, false), (20, 30, false)]), Some((0, 1)));
        assert_eq!(found(&[(0, 100, true), (10, 20, false)]), Some((1, 0)));
        assert_eq!(found(&[(0, 10, true), (10, 20, true), (19, 21, true)]), Some((2, 1)));
        // Behind a long range that is read lies a short one; what is written meets the long one.
        assert_eq!(found(&[(0, 100, false), (10, 20, false), (50, 60, true)]), Some((2, 0)));
    }
}
