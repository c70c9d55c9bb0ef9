//! The operations of the graph. Importers lower into these few; every later room knows only these.

use super::Tensor;
use super::strategy::Strategy;
use super::types::{DType, Type};
use crate::layout::{LayoutKind, Progression};
use crate::mask::{Mask, Tile};
use std::sync::Arc;

/// A constant: its type, its content hash and, unless the graph is compiled from shapes alone, its data.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Type of the value.
    pub ty: Type,
    /// [`Tensor::content_hash`] of the data.
    pub hash: u64,
    /// The data, shared by every graph that names it; `None` for a weight known by hash only.
    pub data: Option<Arc<Tensor>>,
}

impl Constant {
    /// A constant with its data.
    pub fn new(data: Tensor) -> Constant {
        Constant { ty: data.ty(), hash: data.content_hash(), data: Some(Arc::new(data)) }
    }
}

/// Equal type and content.
impl PartialEq for Constant {
    fn eq(&self, other: &Constant) -> bool {
        self.ty == other.ty && self.hash == other.hash
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// Every one, in the order of declaration.
            pub const ALL: &[$name] = &[$($name::$variant,)*];
            /// The mnemonic in text.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
            /// The one of that mnemonic, if there is one.
            pub fn from_name(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|x| x.name() == name)
            }
        }
    };
}

named! {
    /// Functions of one element. Arithmetic keeps the type; `not` takes truth values; `isnan` and `isinf` give them.
    Unary {
        /// −x.
        Neg = "neg",
        /// |x|.
        Abs = "abs",
        /// −1, 0 or 1.
        Sign = "sign",
        /// e^x.
        Exp = "exp",
        /// Natural logarithm.
        Log = "log",
        /// Square root.
        Sqrt = "sqrt",
        /// 1/x.
        Reciprocal = "reciprocal",
        /// Sine.
        Sin = "sin",
        /// Cosine.
        Cos = "cos",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// 1/(1+e^−x).
        Sigmoid = "sigmoid",
        /// Error function.
        Erf = "erf",
        /// Largest integer not above x.
        Floor = "floor",
        /// Smallest integer not below x.
        Ceil = "ceil",
        /// Nearest integer, ties to even.
        Round = "round",
        /// Negation of a truth value.
        Not = "not",
        /// Whether x is NaN.
        IsNan = "isnan",
        /// Whether x is infinite.
        IsInf = "isinf",
    }
}

named! {
    /// Functions of two elements of one type. Operands broadcast as in NumPy. Comparisons give truth values; `and`, `or`
    /// and `xor` take them.
    Binary {
        /// a + b.
        Add = "add",
        /// a − b.
        Sub = "sub",
        /// a · b.
        Mul = "mul",
        /// a / b; of integers, truncated towards zero.
        Div = "div",
        /// a − b·⌊a/b⌋: the sign of b.
        Mod = "mod",
        /// a^b.
        Pow = "pow",
        /// The smaller; NaN if one is NaN.
        Min = "min",
        /// The larger; NaN if one is NaN.
        Max = "max",
        /// Conjunction.
        And = "and",
        /// Disjunction.
        Or = "or",
        /// Exclusive or.
        Xor = "xor",
        /// a = b.
        Eq = "eq",
        /// a < b.
        Lt = "lt",
        /// a ≤ b.
        Le = "le",
        /// a > b.
        Gt = "gt",
        /// a ≥ b.
        Ge = "ge",
    }
}

impl Binary {
    /// Whether the result is a truth value whatever the operands are.
    pub fn is_comparison(self) -> bool {
        matches!(self, Binary::Eq | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)
    }

    /// Whether it takes and gives truth values.
    pub fn is_logical(self) -> bool {
        matches!(self, Binary::And | Binary::Or | Binary::Xor)
    }
}

named! {
    /// How a reduction folds its axes.
    Reduction {
        /// Sum.
        Sum = "sum",
        /// Arithmetic mean.
        Mean = "mean",
        /// Largest.
        Max = "max",
        /// Smallest.
        Min = "min",
        /// Product.
        Prod = "prod",
    }
}

/// Where the windows of a convolution or a pooling lie: one entry an axis behind the first two. Window p of an axis begins at
/// element p·stride − low, and its taps are `dilation` apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Windows {
    /// Distance of a window from the one before, at least 1.
    pub strides: Vec<usize>,
    /// Distance of taps within a window, at least 1.
    pub dilations: Vec<usize>,
    /// Elements that are not there, before the first.
    pub low: Vec<usize>,
    /// Elements that are not there, behind the last.
    pub high: Vec<usize>,
}

/// A contraction over named axes, as in einsum: axes are letters; an axis in both operands and not in the result is summed.
/// Every axis of the result stands in an operand; within one list a letter stands once. Sums of f16 and bf16 are kept in f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Contract {
    /// Axes of the first operand.
    pub lhs: String,
    /// Axes of the second operand.
    pub rhs: String,
    /// Axes of the result.
    pub out: String,
}

/// What a query row without a live key yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EmptyRow {
    /// Zeros.
    Zero,
    /// NaN, as a softmax of nothing but −∞ gives.
    Nan,
}

impl EmptyRow {
    /// The name in text: `zero`, `nan`.
    pub fn name(self) -> &'static str {
        match self {
            EmptyRow::Zero => "zero",
            EmptyRow::Nan => "nan",
        }
    }
}

/// Scaled-dot-product attention with everything explicit:
///
/// ```text
/// s[b,h,i,j] = softcap(scale · Σ_d q[b,h,i,d] · k[b,g,j,d]) + bias[b,h,i,j]      g = h / (Hq / Hkv)
/// s          = masked as `mask` says
/// out[b,h,i] = Σ_j softmax_j(s)[j] · v[b,g,j]
/// ```
///
/// Operands: q (B, Hq, Sq, Dk), k (B, Hkv, Sk, Dk), v (B, Hkv, Sk, Dv), then the leaves that `bias` and the tensor terms
/// of `mask` name by operand index, each broadcast to (B, Hq, Sq, Sk), and last the sinks, if there are any, broadcast to
/// (B, Hq, Sq, 1). Results: out (B, Hq, Sq, Dv) in the type of q and,
/// if `lse`, the natural log-sum-exp (B, Hq, Sq) in `acc`. Softcap is cap·tanh(s/cap), absent if 0.
/// A key masked with −∞, or whose bias is −∞, takes no part even if its value is infinite or NaN. A sink is one more
/// score of a row, as it is, neither scaled nor masked, that weighs in the softmax and in lse and has no value: a row
/// without a live key, but with a sink above −∞, gives zeros whatever `empty_row` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Factor on q·k. Never derived from the head size.
    pub scale: f64,
    /// Which keys a row sees.
    pub mask: Mask,
    /// cap of cap·tanh(s/cap), before bias and mask; 0 for none.
    pub softcap: f64,
    /// Operand index of an additive bias.
    pub bias: Option<usize>,
    /// Operand index of the sinks: always the last operand.
    pub sinks: Option<usize>,
    /// Type in which scores, sums and products are accumulated: [`DType::F32`] or [`DType::F64`].
    pub acc: DType,
    /// What a row without a live key yields.
    pub empty_row: EmptyRow,
    /// Whether the log-sum-exp is a second result.
    pub lse: bool,
}

impl Attention {
    /// Plain attention: no mask, no softcap, no bias, an empty row gives zeros.
    pub fn plain(scale: f64, acc: DType) -> Attention {
        Attention {
            scale,
            mask: Mask::none(),
            softcap: 0.0,
            bias: None,
            sinks: None,
            acc,
            empty_row: EmptyRow::Zero,
            lse: false,
        }
    }
}

/// The sizes of an attention, read off its operands' types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionSizes {
    /// B.
    pub batch: usize,
    /// Hq.
    pub q_heads: usize,
    /// Hkv; divides Hq.
    pub kv_heads: usize,
    /// Sq.
    pub q_len: usize,
    /// Sk.
    pub kv_len: usize,
    /// Dk.
    pub head_dim: usize,
    /// Dv.
    pub v_head_dim: usize,
}

/// One pair of chunks of an attention: the partial result of query rows `q_rows` over key rows `k_rows`.
///
/// Operands: q (B, Hq, |q_rows|, Dk); packed keys and values (B, Hkv, |k_rows|, Dk+Dv), keys first; then the leaves of
/// the attention, whole along the key axis, but not its sinks: [`Op::Finish`] counts them, once. Results in `attention.acc`: o (B, Hq, |q_rows|, Dv) not divided, row maximum
/// m (B, Hq, |q_rows|) and l = Σ exp(score − m) (B, Hq, |q_rows|); of no key (0, −∞, 0).
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The attention it is a part of; `bias` and tensor terms name operands of the attention, one less here because
    /// k and v travel packed.
    pub attention: Arc<Attention>,
    /// Dv: where the values begin in the packed operand is its last extent less Dv.
    pub v_head_dim: usize,
    /// Global query rows, in the order of the operand.
    pub q_rows: Vec<Progression>,
    /// Global key rows, in the order of the operand; may be empty.
    pub k_rows: Vec<Progression>,
    /// `Full`: no pair is masked. `Partial`: mask pair by pair.
    pub tile: Tile,
}

/// A transfer between ranks that is started here and waited for elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Collective {
    /// Number of the group in its island.
    pub fn group(&self) -> usize {
        match self {
            Collective::SendRecv { group, .. } | Collective::AllGather { group, .. } => *group,
        }
    }

    /// Global rows of the result, in order.
    pub fn result_rows(&self) -> Vec<Progression> {
        match self {
            Collective::SendRecv { rows, .. } => rows.clone(),
            Collective::AllGather { rows, .. } => rows.concat(),
        }
    }
}

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

/// An operation. Its operands are edges of the graph, see [`super::Graph::operands`].
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
    /// Scaled-dot-product attention.
    Attention(Box<Attention>),

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
    Region(RegionKind, Arc<super::Graph>),
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
            Op::Attention(_) => "attention",
            Op::Chunk { .. } => "chunk",
            Op::Start(c, _) => match **c {
                Collective::SendRecv { .. } => "sendrecv_start",
                Collective::AllGather { .. } => "all_gather_start",
            },
            Op::Wait => "wait",
            Op::Partial(_) => "attn_partial",
            Op::Merge { .. } => "merge",
            Op::Finish { .. } => "finish",
            Op::Region(RegionKind::Segment, _) => "segment",
            Op::Region(RegionKind::Island { .. }, _) => "island",
            Op::Unshard { .. } => "unshard",
            Op::Call { .. } => "call",
        }
    }
}
