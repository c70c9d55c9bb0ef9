//! What kernels are handed.

use super::bytes::{Address, Runs};
use crate::ir::DType;
use crate::layout::Progression;
use crate::mask::Tile;
use std::sync::Arc;

/// Rows × heads of a tensor, where they lie: row r of head h of batch entry b is row (b · batch_heads + h) · head_rows + r from `at`
/// on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Row 0 of the first head.
    pub at: Address,
    /// Rows from one head to the next.
    pub head_rows: usize,
    /// Heads from one batch entry to the next.
    pub batch_heads: usize,
}

/// The argument of `attn_partial`. Heads are counted from 0 in the launch: query head h reads key head (h + head_shift) / group.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionArg {
    /// B.
    pub batch: usize,
    /// Query heads of the launch.
    pub heads: usize,
    /// Key heads that they read.
    pub kv_heads: usize,
    /// Query heads that share a key head.
    pub group: usize,
    /// Those of the first key head that are not in the launch.
    pub head_shift: usize,
    /// Head size of q and k.
    pub dk: usize,
    /// Of v and the result.
    pub dv: usize,
    /// Query rows.
    pub q: Arc<Vec<QArg>>,
    /// Key rows.
    pub kv: Arc<Vec<KvArg>>,
    /// Whether it goes on from the carries.
    pub carry_in: bool,
    /// Whether it divides, casts and writes the result; else it writes the carries.
    pub cast_out: bool,
    /// What happens to the scores.
    pub scoring: Scoring,
    /// Sinks that are counted at the end.
    pub sinks: Option<LeafArg>,
    /// Two words that are zero, and behind them a byte for every 16 query rows that the kernel may leave to the launch behind it; of GPU
    /// kernels alone.
    pub marks: Option<Marks>,
}

/// What GPU kernels count with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Two words, zero before and after the launch.
    pub counter: Address,
    /// A byte for every 16 query rows of a head and a piece, zero before the pair of launches and after; `None` where the kernel leaves
    /// no rows.
    pub odd: Option<Address>,
}

/// Query rows and where they and their results lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QArg {
    /// Global rows.
    pub rows: Progression,
    /// The place of the first row in leaves whose rows are counted locally.
    pub local: usize,
    /// (…, Dk).
    pub q: Strided,
    /// o (B, heads, rows, Dv), then m (B, heads, rows), then l (B, heads, rows); `None` if the launch neither reads nor writes it.
    pub carry: Option<Address>,
    /// (…, Dv), if the launch casts out.
    pub out: Option<Strided>,
    /// A number a row, if there is a log-sum-exp and the launch casts out; with the strides of `out`.
    pub lse: Option<Address>,
}

/// Key rows and where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvArg {
    /// Global rows.
    pub rows: Progression,
    /// (…, Dk), the first key head that the launch reads.
    pub k: Strided,
    /// (…, Dv), with the strides of `k`.
    pub v: Address,
}

/// A tensor that broadcasts to (B, heads of the launch, query row, key row).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafArg {
    /// Which argument it is.
    pub argument: usize,
    /// Its first element.
    pub at: Address,
    /// Of its elements.
    pub dtype: DType,
    /// In elements, 0 along what is broadcast.
    pub strides: [usize; 4],
    /// Whether its rows are counted as [`QArg::local`] counts them, else globally.
    pub local_rows: bool,
}

/// What happens to scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Scoring {
    /// The steps of [`Shared::scores`](super::Shared::scores), as the CPU executor reads them.
    Reference {
        /// `Full`: no fill acts.
        tile: Tile,
        /// What the steps read.
        leaves: Arc<Vec<LeafArg>>,
    },
    /// What the kernel's key says, with these numbers and tensors.
    Kernel(Arc<KernelScoring>),
}

/// Numbers and tensors of a kernel's scores.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelScoring {
    /// Factor on q·k; 1 beside steps.
    pub scale: f32,
    /// cap of cap·tanh(score/cap); 0 for none.
    pub softcap: f32,
    /// What a masked score becomes, or what is added to it; 0 where it becomes −∞.
    pub fill: f32,
    /// What positions let rows see.
    pub seen: SeenKeys,
    /// Added to scores.
    pub bias: Option<LeafArg>,
    /// True for kept.
    pub mask: Option<LeafArg>,
    /// One for each step of the key.
    pub steps: Vec<StepArg>,
}

/// The keys that positions let a query row see: row r sees keys r + low ≤ k < r + high, and of those the ones of its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenKeys {
    /// Low and high; `None` where nothing binds.
    pub window: [Option<i32>; 2],
    /// First keys and ends by global row.
    pub table: Option<TableArg>,
}

/// A part of [`Program::tables`](super::Program::tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableArg {
    /// Index of the first key of row 0; the ends lie behind the first keys.
    pub first: usize,
    /// Of first keys, and of ends.
    pub len: usize,
    /// From one batch entry to the next; 0 where all see the same.
    pub entry_rows: usize,
}

/// What a step of a score program is handed.
#[derive(Clone, Debug, PartialEq)]
pub struct StepArg {
    /// The factor, the cap or the fill.
    pub number: f32,
    /// Of a fill by position.
    pub seen: SeenKeys,
    /// In the order in which it reads them.
    pub leaves: Vec<LeafArg>,
}

/// The argument of `merge`: partial results o (rows, Dv), m (rows), l (rows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeArg {
    /// What is merged into; `None` for the result of no key.
    pub a: Option<Address>,
    /// What is merged; `None` for the result of no key.
    pub b: Option<Address>,
    /// Where it goes, which may be `a` or `b`.
    pub to: Address,
    /// Batch entries times heads times rows.
    pub rows: usize,
    /// Of o.
    pub dv: usize,
}

/// The argument of `finish`: the end of a carry.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishArg {
    /// B.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Of the result.
    pub dv: usize,
    /// The rows, with their carry and where they go; `q` is not read.
    pub rows: QArg,
    /// Counted before the division.
    pub sinks: Option<LeafArg>,
    /// Whether the carry is written back, with its sinks counted, and nothing is divided; no GPU kernel does it.
    pub keep: bool,
}

/// The argument of `pack`: every copy has as many runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackArg {
    /// From, to.
    pub copies: Vec<[Runs; 2]>,
    /// Of each copy.
    pub runs: usize,
    /// Bytes of one access.
    pub unit: u8,
}
