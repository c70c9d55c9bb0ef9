//! The invariants that a graph may break, each with what is found instead.

use crate::ir::quote::quoted_name;
use crate::ir::types::{MAX_NESTING, MAX_RANK, Type};
use crate::layout::Progression;
use crate::mask::Mask;

/// One broken invariant, whatever its place. The module text of [`verify`](super) says what should be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The operation is part of a cycle, or behind one.
    #[error("needs its own result, or that of an operation that does")]
    Cycle,
    /// The slots that are filled.
    #[error("operands fill the slots {0:?}")]
    Slots(Vec<usize>),
    /// An operand does not exist.
    #[error("an operand is a result that its operation does not have")]
    NoOperand,
    /// The operation does not take these operands: what inference says.
    #[error("{0}")]
    Operands(String),
    /// The results have other types than inference gives.
    #[error("is declared as {}, but gives {}", list(.declared), list(.inferred))]
    Types {
        /// As the graph has them.
        declared: Vec<Type>,
        /// As they should be.
        inferred: Vec<Type>,
    },
    /// A result is too large.
    #[error("a result has more than 2^56 elements (a constant: 2^40) or {MAX_RANK} axes")]
    TooLarge,
    /// A result's name is empty.
    #[error("a result has no name")]
    Unnamed,
    /// A result has the name of another value.
    #[error("the name {} is that of another value too", quoted_name(.0))]
    NameTaken(String),
    /// An input is missing in the list of inputs, or stands there twice.
    #[error("the list of inputs does not hold this input once")]
    Unlisted,
    /// Something else stands in the list of inputs.
    #[error("the list of inputs holds what is no input")]
    NoInput,
    /// An output does not exist.
    #[error("is a value that does not exist")]
    NoValue,
    /// Two outputs have one name.
    #[error("another output has this name")]
    OutputTwice,
    /// The data of a constant has another type.
    #[error("the data is {data}, not {ty}")]
    DataType {
        /// Of the data.
        data: Type,
        /// Of the constant.
        ty: Type,
    },
    /// The data of a constant has another hash than this, which it claims.
    #[error("the data does not hash to #{0:016x}")]
    DataHash(u64),
    /// A transfer of group 0.
    #[error("groups count from 1")]
    GroupZero,
    /// Two transfers of one group.
    #[error("group {0} is started twice")]
    GroupTwice(usize),
    /// A started transfer is read by these instead of one `wait`.
    #[error("is read by {}; want one wait, and nothing else", if .0.is_empty() { "nothing".to_owned() } else { .0.join(", ") })]
    NotAwaited(Vec<&'static str>),
    /// A started transfer is an output.
    #[error("a started transfer is an output")]
    StartedOutput,
    /// A `wait` for something else.
    #[error("waits for what is no started transfer")]
    NotStarted,
    /// A tile that claims to be full is not.
    #[error("claims that no pair is masked, but {mask} does in rows {q} and keys {k}")]
    NotFull {
        /// Without its fill.
        mask: Box<Mask>,
        /// Query rows.
        q: Progression,
        /// Key rows.
        k: Progression,
    },
    /// A tile that claims to be full has more rows than are looked at.
    #[error("has too many rows to prove that its tile is full")]
    NotProvedFull,
    /// An operation of another stage: why there is none here.
    #[error("{0}")]
    Stage(String),
    /// Graphs within graphs.
    #[error("graphs nest deeper than {MAX_NESTING}")]
    TooDeep,
}

fn list(types: &[Type]) -> String {
    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
