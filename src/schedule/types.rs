//! The Schedule as plain data: the program of all ranks for one island.

use crate::ir::{AttentionSizes, DType, EmptyRow, Scores, Strategy};
use crate::layout::{Layout, Progression};
use crate::mask::Tile;

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
///   rank 0 arena 16 {
///     slot kv.local 0..16
///     #0 compute  pack 0:2@kv.local[0..16]                                  // own keys and values
///     #1 compute  attn_partial partial cast_out q 0:2 k 0:2@kv.local[0..16]  // all of them
///   }
/// }
/// "#;
/// let schedules = annulus::schedule::parse(text)?;
/// assert_eq!(schedules[0].ranks[0].steps[1].reason, "all of them");
/// assert_eq!(annulus::schedule::parse(&schedules[0].to_string())?, schedules);
/// # Ok::<(), annulus::schedule::ParseScheduleError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Name of the island.
    pub name: String,
    /// How keys and queries meet.
    pub strategy: Strategy,
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

/// The attention that a schedule computes; the meaning of the fields is that of [`crate::ir::Attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionFacts {
    /// B, Hq, Hkv, Sq, Sk, Dk, Dv of the whole attention.
    pub sizes: AttentionSizes,
    /// Type of q, k, v and the output.
    pub dtype: DType,
    /// Type of o, m, l.
    pub acc: DType,
    /// What happens to q·k before the softmax. Its leaves name arguments.
    pub scores: Scores,
    /// Argument that holds the sinks; of extent 1 along the keys.
    pub sinks: Option<usize>,
    /// What a row without a live key yields.
    pub empty_row: EmptyRow,
    /// Whether the log-sum-exp is a second result.
    pub lse: bool,
    /// Arguments beyond q, k, v (0, 1, 2), from argument 3 on.
    pub leaves: Vec<Leaf>,
}

/// A mask, bias, factor or sinks tensor handed to the island at run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Element type.
    pub dtype: DType,
    /// Whole shape, broadcasting to (B, Hq, Sq, Sk), padded with leading ones to four axes.
    pub shape: [usize; 4],
    /// Whether the rank is handed its own query rows alone (axis 2 in the order of the query layout); the key axis is whole.
    pub by_query_rows: bool,
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

/// Bytes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct View {
    /// Index of the slot in [`RankProgram::slots`].
    pub slot: usize,
    /// First byte, counted from the slot's begin.
    pub start: usize,
    /// Length.
    pub bytes: usize,
}

/// A queue on which steps run one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Kernels.
    Compute,
    /// Transfers.
    Comm,
}

impl Stream {
    /// Both, in order.
    pub const ALL: [Stream; 2] = [Stream::Compute, Stream::Comm];

    /// The name in text: `compute`, `comm`.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Compute => "compute",
            Stream::Comm => "comm",
        }
    }
}

/// One operation of a rank on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it runs.
    pub stream: Stream,
    /// Events that must have happened before it starts.
    pub waits: Vec<usize>,
    /// The event that happens when it is done, if anyone waits for it. Numbers are the rank's own, from 0.
    pub records: Option<usize>,
    /// What it does.
    pub op: StepOp,
    /// Why it stands here, for the reader; no meaning for a machine.
    pub reason: String,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepOp {
    /// Copies rows of the rank's k and v (arguments 1 and 2) into the arena. Piece after piece: all of the piece's keys
    /// (B, Hkv, rows, Dk), then all of its values (B, Hkv, rows, Dv), row-major, in the type of the attention.
    Pack {
        /// Each a run of the rank's own rows and where it goes.
        pieces: Vec<KvPiece>,
    },
    /// One group of transfers; all of it begins together and is done together.
    Exchange {
        /// Number of the group, from 1, the same on every rank that takes part.
        group: usize,
        /// Which collective it is.
        kind: ExchangeKind,
        /// What is sent.
        sends: Vec<Transfer>,
        /// What is received.
        recvs: Vec<Transfer>,
    },
    /// The partial result of query rows over key rows, folded into the carry.
    AttnPartial {
        /// Query rows: each a run of the rank's own rows, and its carry.
        q: Vec<QPiece>,
        /// Key rows and where they lie; may be empty.
        kv: Vec<KvPiece>,
        /// `Full`: no pair is masked. `Partial`: mask pair by pair. Never `Skip`.
        tile: Tile,
        /// Whether it goes on from the carry that is in the arena, or starts from (0, −∞, 0).
        carry_in: bool,
        /// Whether it counts the sinks of these rows, after the keys; of the steps of a row one does, if there are sinks.
        sinks_here: bool,
        /// Whether it divides, casts and writes these rows of the output (and of lse); else it writes the carry.
        cast_out: bool,
    },
}

/// Which collective an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// At most one send and one receive.
    SendRecv,
    /// Everyone to everyone: one send to, and one receive from, every other rank that has rows.
    AllGather,
}

impl ExchangeKind {
    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::SendRecv => "sendrecv",
            ExchangeKind::AllGather => "all_gather",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The other rank.
    pub peer: usize,
    /// Which bytes, in the order of the message.
    pub views: Vec<View>,
}

impl Transfer {
    /// Length of the message.
    pub fn bytes(&self) -> usize {
        self.views.iter().map(|v| v.bytes).sum()
    }
}

/// Key rows and where their packed keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPiece {
    /// Global rows.
    pub rows: Progression,
    /// B·Hkv·rows·(Dk+Dv) elements.
    pub at: View,
}

/// Query rows and where their carry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QPiece {
    /// Global rows, a run of the rank's own.
    pub rows: Progression,
    /// o (B, Hq, rows, Dv), then m (B, Hq, rows), then l (B, Hq, rows), in the accumulation type. `None` if the step
    /// neither reads nor writes a carry.
    pub carry: Option<View>,
}

impl AttentionFacts {
    /// Bytes of packed keys and values of so many rows.
    pub fn kv_bytes(&self, rows: usize) -> usize {
        let s = &self.sizes;
        s.batch * s.kv_heads * rows * (s.head_dim + s.v_head_dim) * self.dtype.bytes()
    }

    /// Bytes of the carry of so many query rows.
    pub fn carry_bytes(&self, rows: usize) -> usize {
        let s = &self.sizes;
        s.batch * s.q_heads * rows * (s.v_head_dim + 2) * self.acc.bytes()
    }
}

impl RankProgram {
    /// Bytes that the rank sends.
    pub fn bytes_sent(&self) -> usize {
        self.sends().map(Transfer::bytes).sum()
    }

    /// Groups in which the rank sends anything: a message is one hop's send or one all-gather stage.
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
