//! One step of attention as it is handed to the GPU: tensors at places in buffers.

use super::gpu::Buffer;
use crate::lower::Rows;

/// A place on the device, in bytes from a buffer's begin.
#[derive(Clone, Copy, Debug)]
pub struct BufferRange<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// Where in it.
    pub offset: usize,
}

/// Query rows and where their carry lies.
#[derive(Clone, Copy, Debug)]
pub struct QRows<'a> {
    /// Which rows.
    pub rows: Rows,
    /// f32: o (B, Hq, len, Dv), then m (B, Hq, len), then l (B, Hq, len).
    pub carry: Option<BufferRange<'a>>,
}

/// Key rows and where they lie.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// Which rows.
    pub rows: Rows,
    /// (B, Hkv, len, Dk).
    pub k: BufferRange<'a>,
    /// (B, Hkv, len, Dv).
    pub v: BufferRange<'a>,
}

/// A tensor that broadcasts to (B, Hq, query row, key row).
#[derive(Clone, Copy, Debug)]
pub struct DeviceTensor<'a> {
    /// Its first element.
    pub at: BufferRange<'a>,
    /// Strides in elements, 0 along what is broadcast.
    pub strides: [usize; 4],
    /// Whether its rows are counted as q's are, else globally.
    pub local_rows: bool,
}

/// What a step of the score program is handed.
#[derive(Clone, Debug, Default)]
pub struct StepInput<'a> {
    /// The factor, the cap, or the fill if that is finite; else nothing reads it.
    pub number: f32,
    /// Of a fill by position: row r keeps keys r + low ≤ k < r + high.
    pub window: [Option<i32>; 2],
    /// Of a fill by position: per global query row the first and one past the last key of its document: i32, up to the greatest row.
    pub documents: Option<[BufferRange<'a>; 2]>,
    /// The tensors that it reads, in their order: a byte an element, nonzero for kept, in a fill; else in the type that the key says.
    pub leaves: Vec<DeviceTensor<'a>>,
}

/// One step: query rows against key rows.
#[derive(Clone, Debug)]
pub struct AttentionStep<'a> {
    /// B.
    pub batch: usize,
    /// Hq, a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// Rows of q, out and lse.
    pub q_rows: usize,
    /// Head size of q and k, and of v and out.
    pub head_dims: [usize; 2],
    /// (B, Hq, q_rows, Dk).
    pub q: BufferRange<'a>,
    /// (B, Hq, q_rows, Dv), written if the key says cast_out.
    pub out: Option<BufferRange<'a>>,
    /// f32 (B, Hq, q_rows), natural logarithm, if wanted.
    pub lse: Option<BufferRange<'a>>,
    /// At most eight.
    pub q_pieces: Vec<QRows<'a>>,
    /// At most eight; none leaves the carry as it is.
    pub kv_pieces: Vec<KvRows<'a>>,
    /// Factor on q·k.
    pub scale: f32,
    /// cap of cap·tanh(score/cap).
    pub softcap: f32,
    /// What a row without a live key yields.
    pub empty_row: f32,
    /// Row r sees keys r + low ≤ k < r + high: of fills of −∞ alone where the key has steps.
    pub window: [Option<i32>; 2],
    /// Added to both per batch entry: i32 (B).
    pub shift: Option<BufferRange<'a>>,
    /// Per global query row the first and one past the last key of its document: i32, up to the greatest row.
    pub documents: Option<[BufferRange<'a>; 2]>,
    /// What a masked score becomes, or what is added to it, if the key's fill is finite.
    pub fill: f32,
    /// Added to the scores, in the type that the key says.
    pub bias: Option<DeviceTensor<'a>>,
    /// A byte an element, nonzero for kept; if the key says so.
    pub mask: Option<DeviceTensor<'a>>,
    /// In the type that the key says.
    pub sinks: Option<DeviceTensor<'a>>,
    /// One for each step of the key. Where there are any, `scale` is 1, and `softcap`, `bias` and `mask` are not there.
    pub steps: Vec<StepInput<'a>>,
}
