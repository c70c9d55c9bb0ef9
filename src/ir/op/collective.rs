//! Transfers between ranks.

use crate::layout::Progression;

/// A transfer between ranks that is started here and waited for elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Collective {
    /// One hop: the operand, if there is one, goes to `to`; the result comes from `from`. Both in one group.
    SendRecv {
        /// Number of the hop in its island, from 1; the same on every rank.
        group: usize,
        /// Who gets the operand; `None` if nothing is sent (there is no operand then).
        to: Option<usize>,
        /// Whose message is received; `None` if nothing is (the result has no rows then).
        from: Option<usize>,
        /// Global rows of the result.
        rows: Vec<Progression>,
    },
    /// Everyone's operand, rank after rank, in the result's row order. A rank without rows has no operand.
    AllGather {
        /// Number of the stage in its island, from 1; the same on every rank.
        group: usize,
        /// Global rows that each rank contributes.
        rows: Vec<Vec<Progression>>,
    },
    /// To each rank something else: operand i goes to rank `to[i]`. The result is what comes from each rank, rank after rank along an
    /// axis: the rows of all (2), or the heads of all of the same rows (1). Several values may go in one group.
    AllToAll {
        /// Number of the group in its island, from 1; the same on every rank.
        group: usize,
        /// Who gets each operand, ascending.
        to: Vec<usize>,
        /// 1 or 2.
        axis: usize,
        /// Global rows that come from each rank. What comes from two ranks may be of the same rows, and along axis 1 all is.
        rows: Vec<Vec<Progression>>,
    },
}

impl Collective {
    /// Number of the group in its island.
    pub fn group(&self) -> usize {
        match self {
            Collective::SendRecv { group, .. }
            | Collective::AllGather { group, .. }
            | Collective::AllToAll { group, .. } => *group,
        }
    }

    /// Global rows of the result, in order.
    pub fn result_rows(&self) -> Vec<Progression> {
        match self {
            Collective::SendRecv { rows, .. } => rows.clone(),
            Collective::AllToAll { axis: 1, rows, .. } => {
                rows.iter().find(|r| !r.is_empty()).cloned().unwrap_or_default()
            }
            Collective::AllGather { rows, .. } | Collective::AllToAll { rows, .. } => rows.concat(),
        }
    }
}
