//! The list of operations.

use super::{
    Attention, AttentionBackward, Binary, Collective, Constant, Contract, EmptyRow, Opaque, Partial,
    Reduction, Unary, Windows,
};
use crate::ir::dag::Dag;
use crate::ir::strategy::Strategy;
use crate::ir::types::{DType, Type};
use crate::layout::{LayoutKind, Progression};
use std::sync::Arc;

/// What a region operation stands for in the printed program of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Work of this rank alone.
    Segment,
    /// One attention, split over the ranks by `strategy`.
    Island {
        /// How keys and queries meet.
        strategy: Strategy,
        /// Layout of the query rows.
        layout: LayoutKind,
    },
}

/// An operation. Its operands are edges of the graph, see [`Graph::operands`](crate::ir::Graph::operands).
///
/// It may be matched exhaustively, on purpose: whoever translates graphs into a form of their own has to translate every
/// operation, and hears from the compiler of a new one, not from a model that fails.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An input of the graph. No operand.
    Input(Type),
    /// A constant. No operand.
    Constant(Constant),
    /// Counts 0, 1, 2, … along `axis` of the type. No operand.
    Iota {
        /// Type of the result; no truth value.
        ty: Type,
        /// The axis that is counted.
        axis: usize,
    },
    /// A function of one element. Operand: x.
    Unary(Unary),
    /// A function of two elements. Operands: a, b, which broadcast.
    Binary(Binary),
    /// Elementwise choice. Operands: condition, value if true, value if false, which broadcast.
    Select,
    /// Conversion of the element type: to an integer truncates, to a float rounds to nearest even, to bool is ≠ 0.
    Cast(DType),
    /// Contraction over named axes. Operands: a, b.
    Contract(Contract),
    /// Convolution (as the field calls it: the kernel is not mirrored). Operands: x (batch, channels, …), w (channels of the
    /// result, channels / groups, kernel …). Result (batch, channels of the result, windows …). What is not there is 0. Channels
    /// are split into `groups` runs that do not mix. Sums of f16 and bf16 are kept in f32.
    Conv {
        /// Where the windows lie.
        windows: Windows,
        /// Runs of channels; divides both numbers of channels.
        groups: usize,
    },
    /// Largest element or mean of each window. Operand: x (batch, channels, …). What is not there takes no part: a window of
    /// nothing has the least number as its largest, and the mean NaN.
    Pool {
        /// [`Reduction::Max`] or [`Reduction::Mean`].
        kind: Reduction,
        /// Taps of a window, an axis.
        kernel: Vec<usize>,
        /// Where the windows lie.
        windows: Windows,
    },
    /// Folds axes. Operand: x.
    Reduce {
        /// How.
        kind: Reduction,
        /// Which axes, ascending.
        axes: Vec<usize>,
        /// Whether they stay with extent 1.
        keep: bool,
    },
    /// Softmax along an axis, the maximum subtracted first. Operand: x.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// The same elements under another shape. Operand: x.
    Reshape(Vec<usize>),
    /// Result axis i is operand axis `perm[i]`. Operand: x.
    Permute(Vec<usize>),
    /// Broadcast to a shape, aligned at the last axis. Operand: x.
    Broadcast(Vec<usize>),
    /// Elements start, start+step, … of an axis. Operand: x.
    Slice {
        /// The axis.
        axis: usize,
        /// First element.
        start: usize,
        /// How many.
        len: usize,
        /// Distance; negative runs backwards, never 0.
        step: i64,
    },
    /// Rows of an axis picked by progressions, in their order: a rank's share of a whole value. The axis is taken as
    /// (outer, length, inner), and the rows are picked of `length`. Operand: x.
    Rows {
        /// The axis.
        axis: usize,
        /// Extent outside the rows.
        outer: usize,
        /// Extent inside the rows.
        inner: usize,
        /// Which rows.
        rows: Vec<Progression>,
    },
    /// Joins operands along an axis. Operands: one or more.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// Pads with a scalar. Operands: x, the scalar.
    Pad {
        /// Elements before, per axis.
        low: Vec<usize>,
        /// Elements after, per axis.
        high: Vec<usize>,
    },
    /// Picks along an axis by an index tensor: result shape is x's with the axis replaced by the indices' shape. A negative
    /// index counts from the end. Operands: x, indices.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// Picks by index tuples in the last axis of the indices, as ONNX GatherND. Operands: x, indices.
    GatherNd {
        /// Leading axes shared by both operands.
        batch: usize,
    },
    /// Replaces slices by index tuples in the last axis of the indices, as ONNX ScatterND, or combines them with what stands
    /// there, in the order of the tuples. Operands: x, indices, updates.
    ScatterNd {
        /// How they are combined: [`Binary::Add`], `Mul`, `Min` or `Max`; `None` replaces, and later tuples win.
        how: Option<Binary>,
    },
    /// Running sum along an axis. Operand: x.
    CumSum {
        /// The axis.
        axis: usize,
        /// Whether an element is left out of its own sum.
        exclusive: bool,
        /// Whether it runs from the end.
        reverse: bool,
    },
    /// The k largest or smallest along an axis, best first, ties by lower index. Operand: x. Results: values, i64 indices.
    TopK {
        /// The axis.
        axis: usize,
        /// How many.
        k: usize,
        /// Largest, or smallest.
        largest: bool,
    },
    /// An operator that annulus does not compute. Operands and results: those of the model's node, see [`Opaque`].
    Opaque(Arc<Opaque>),
    /// Scaled-dot-product attention.
    Attention(Box<Attention>),
    /// The gradients of an attention.
    AttentionBackward(Box<AttentionBackward>),

    // Of islands, made by ring/.
    /// Rows of a rank's local value along axis 2, by global number. Operand: x, whose rows are `of`.
    Chunk {
        /// Global rows of the operand, in its order.
        of: Vec<Progression>,
        /// Global rows of the result: each a progression of `of`, or a run of rows within one.
        rows: Vec<Progression>,
    },
    /// Starts a transfer. The result is what arrives; only `Wait` may read it. Operand: what is sent, if anything; the
    /// type is that of the result.
    Start(Box<Collective>, Type),
    /// Waits for a started transfer. Operand: the result of `Start`.
    Wait,
    /// The partial result of one pair of chunks.
    Partial(Box<Partial>),
    /// Merges two partial results of one attention. Operands: o, m, l of a, then o, m, l of b. Results: o, m, l over the
    /// rows of a, then those rows of b that a lacks; a row of both is the sum in the sense of the online softmax.
    /// Source: `maths.md` 6.1, unnormalised form: m = max, l = Σ l·exp(mᵢ−m), o = Σ o·exp(mᵢ−m), with (0, −∞, 0) neutral.
    Merge {
        /// Global rows of a.
        a: Vec<Progression>,
        /// Global rows of b.
        b: Vec<Progression>,
    },
    /// Divides and casts. Operands: o, m, l over `of`, and the sinks, if the attention has any, broadcast to
    /// (B, Hq, |of|, 1): they join m and l first. Results: out over `rows` in `dtype` and, if `lse`, m + ln l.
    Finish {
        /// Global rows of the operands.
        of: Vec<Progression>,
        /// Global rows of the results: those of `of` in another order.
        rows: Vec<Progression>,
        /// Type of out.
        dtype: DType,
        /// What a row with l = 0 yields.
        empty_row: EmptyRow,
        /// Whether there is a second result.
        lse: bool,
    },

    // Of a rank's printed program.
    /// A graph of its own, whose inputs are the operands and whose outputs are the results.
    Region(RegionKind, Arc<Dag<Op>>),
    /// Puts a sharded value together on every rank. Operand: the rank's rows. Result: all rows, in global order.
    Unshard {
        /// The axis, taken as (outer, length, inner) as in [`Op::Rows`].
        axis: usize,
        /// Extent outside the rows.
        outer: usize,
        /// Extent inside the rows.
        inner: usize,
        /// For each rank its rows.
        rows: Vec<Vec<Progression>>,
    },
    /// Folds a value of which each rank has a part: the parts of ranks 0, 1, 2, … one after another, so that the bits are the
    /// same on every rank and in every run. Operand: the rank's part, in [`DType::part`] of `dtype`. Result: the value in
    /// `dtype`, rounded once.
    AllReduce {
        /// How: [`Reduction::Sum`], [`Reduction::Max`] or [`Reduction::Min`].
        kind: Reduction,
        /// How many ranks there are.
        ranks: usize,
        /// Element type of the result.
        dtype: DType,
    },
    /// What the host of a rank's graph asks annulus to do here, with the other ranks; see [`crate::host::hand_back`].
    Call {
        /// Its number in the graph, from 0; the same on every rank.
        number: usize,
        /// Types of the results.
        results: Vec<Type>,
        /// Bytes of memory that it needs beside operands and results.
        workspace: usize,
    },
}

impl Op {
    /// The mnemonic in text.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input(_) => "input",
            Op::Constant(_) => "const",
            Op::Iota { .. } => "iota",
            Op::Unary(u) => u.name(),
            Op::Binary(b) => b.name(),
            Op::Select => "select",
            Op::Cast(_) => "cast",
            Op::Contract(_) => "contract",
            Op::Conv { .. } => "conv",
            Op::Pool { .. } => "pool",
            Op::Reduce { .. } => "reduce",
            Op::Softmax { .. } => "softmax",
            Op::Reshape(_) => "reshape",
            Op::Permute(_) => "permute",
            Op::Broadcast(_) => "broadcast",
            Op::Slice { .. } => "slice",
            Op::Rows { .. } => "rows",
            Op::Concat { .. } => "concat",
            Op::Pad { .. } => "pad",
            Op::Gather { .. } => "gather",
            Op::GatherNd { .. } => "gather_nd",
            Op::ScatterNd { .. } => "scatter_nd",
            Op::CumSum { .. } => "cumsum",
            Op::TopK { .. } => "topk",
            Op::Opaque(_) => "opaque",
            Op::Attention(_) => "attention",
            Op::AttentionBackward(_) => "attention_backward",
            Op::Chunk { .. } => "chunk",
            Op::Start(c, _) => match **c {
                Collective::SendRecv { .. } => "sendrecv_start",
                Collective::AllGather { .. } => "all_gather_start",
                Collective::AllToAll { .. } => "all_to_all_start",
            },
            Op::Wait => "wait",
            Op::Partial(_) => "attn_partial",
            Op::Merge { .. } => "merge",
            Op::Finish { .. } => "finish",
            Op::Region(RegionKind::Segment, _) => "segment",
            Op::Region(RegionKind::Island { .. }, _) => "island",
            Op::Unshard { .. } => "unshard",
            Op::AllReduce { .. } => "all_reduce",
            Op::Call { .. } => "call",
        }
    }
}
