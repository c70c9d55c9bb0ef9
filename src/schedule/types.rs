//! The Schedule as plain data: the program of all ranks for one island.

use super::facts::AttentionFacts;
use super::mesh::{Mesh, Stream};
use super::steps::{Step, StepOp, Transfer};
use crate::ir::Strategy;
use crate::layout::Layout;

/// Receive slots of a ring where nobody says otherwise: one is computed on and sent on while the next arrives.
pub const SLOTS: usize = 2;

/// The program of all ranks for one attention, with the attention and the ownership of rows that it claims to compute.
/// Whatever runs, proves, draws or estimates reads this type and nothing else. [`guide::schedules`](crate::guide::schedules) says how
/// its text is read.
///
/// ```
/// let text = r#"schedule "o" all-gather {
///   attention q f32[1,1,2,1] k f32[1,1,2,1] v f32[1,1,2,1] acc f32 empty zero
///   scores factor 1.0 | fill -inf unless causal(0)
///   q_layout  contiguous 2 { 0:2 }
///   kv_layout contiguous 2 { 0:2 }
///
///   rank 0 arena 0 {
///     #0 compute  attn_partial partial cast_out q 0:2 k 0:2  // all of them
///   }
/// }
/// "#;
/// let schedules = annulus::schedule::parse(text)?;
/// assert_eq!(schedules[0].ranks[0].steps[0].reason, "all of them");
/// assert_eq!(annulus::schedule::parse(&schedules[0].to_string())?, schedules);
/// # Ok::<(), annulus::schedule::ParseScheduleError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Name of the island.
    pub name: String,
    /// How keys and queries meet.
    pub strategy: Strategy,
    /// How the ranks stand in the machine.
    pub mesh: Mesh,
    /// How many receive slots the rank of a ring has that fills the most of them, but no fewer than [`SLOTS`]; [`SLOTS`] where no
    /// hop goes round.
    pub slots: usize,
    /// What is computed.
    pub attention: AttentionFacts,
    /// Who owns which query rows (and rows of the output).
    pub q_layout: Layout,
    /// Who owns which key rows.
    pub kv_layout: Layout,
    /// One program per rank.
    pub ranks: Vec<RankProgram>,
}

/// The program of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RankProgram {
    /// Size of the arena in bytes.
    pub arena_bytes: usize,
    /// Named byte ranges of the arena. Two slots may share bytes if their uses are ordered.
    pub slots: Vec<Slot>,
    /// What is done, in order of issue. Steps of one stream run in this order; beyond that only `waits` orders them.
    pub steps: Vec<Step>,
}

/// A named range of a rank's arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Unique in the rank: `kv.local`, `kv.0`, `kv.1`, `acc`.
    pub name: String,
    /// First byte.
    pub offset: usize,
    /// Length.
    pub bytes: usize,
}

impl Schedule {
    /// Bytes that each rank sends.
    pub fn bytes_sent(&self) -> Vec<usize> {
        let of = |r: &RankProgram| r.sends().map(|t| t.bytes(&self.attention)).sum();
        self.ranks.iter().map(of).collect()
    }
}

impl Schedule {
    /// How many multiprocessors the transfers along each axis of the mesh may hold at most; empty if none of them says.
    pub fn comm_sms(&self) -> Vec<usize> {
        let mut most: Vec<Option<usize>> = vec![None; self.mesh.axes.len()];
        for step in self.ranks.iter().flat_map(|r| &r.steps) {
            if let (StepOp::Exchange { sms, .. }, Stream::Comm(axis)) = (&step.op, step.stream)
                && let Some(most) = most.get_mut(axis)
            {
                *most = (*most).max(*sms);
            }
        }
        let says = most.iter().any(Option::is_some);
        if says { most.into_iter().map(Option::unwrap_or_default).collect() } else { vec![] }
    }

    /// Lets every exchange hold as many multiprocessors as its stream may: of the k-th axis `budgets[k]`.
    pub(crate) fn give_transfers(&mut self, budgets: &[Option<usize>]) {
        for step in self.ranks.iter_mut().flat_map(|r| &mut r.steps) {
            if let (StepOp::Exchange { sms, .. }, Stream::Comm(axis)) = (&mut step.op, step.stream) {
                *sms = budgets.get(axis).copied().flatten();
            }
        }
    }
}

impl RankProgram {
    /// Groups in which the rank sends anything: a message is one hop's send or one stage of an exchange with everyone.
    pub fn messages(&self) -> usize {
        self.steps
            .iter()
            .filter(|s| matches!(&s.op, StepOp::Exchange { sends, .. } if !sends.is_empty()))
            .count()
    }

    fn sends(&self) -> impl Iterator<Item = &Transfer> {
        self.steps.iter().flat_map(|s| match &s.op {
            StepOp::Exchange { sends, .. } => sends.as_slice(),
            _ => &[],
        })
    }
}
