//! A rank's rows of a whole input, and a whole output from the ranks' rows: what a host does before and after it runs its graph.
//!
//! In: a [`Program`], the name of an input or output, and a tensor or each rank's. Out: what the rank's graph takes, and what the
//! whole graph would have given. A value that every rank holds whole is handed over as it is.

use crate::exec::cpu::{cut, join};
use crate::ir::{Tensor, Type, ValueId};
use crate::layout::Layout;
use crate::shard::{Placement, Program, Sharding, local_type};

/// Why rows cannot be handed out or put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// The graph has no such input.
    #[error("there is no input {name}: there are {}", .inputs.join(", "))]
    Input {
        /// The name that was given.
        name: String,
        /// The names of all inputs.
        inputs: Vec<String>,
    },
    /// The graph has no such output.
    #[error("there is no output {name}: there are {}", .outputs.join(", "))]
    Output {
        /// The name that was given.
        name: String,
        /// The names of all outputs.
        outputs: Vec<String>,
    },
    /// There is no such rank.
    #[error("there is no rank {rank}: there are {ranks}, numbered from 0")]
    Rank {
        /// The rank that was named.
        rank: usize,
        /// How many there are.
        ranks: usize,
    },
    /// There are more or fewer parts than ranks.
    #[error("{given} parts are given, and there are {ranks} ranks")]
    Parts {
        /// How many parts there are.
        given: usize,
        /// How many ranks.
        ranks: usize,
    },
    /// A tensor is of another type or shape.
    #[error("{what} is {is}, and has to be {wants}")]
    Type {
        /// Which tensor, in words.
        what: String,
        /// Its type.
        is: Type,
        /// What is wanted.
        wants: Type,
    },
    /// A tensor has no such axis, or another number of rows there.
    #[error("{is} has not {length} rows along axis {axis}")]
    Axis {
        /// The type of the tensor.
        is: Type,
        /// The axis.
        axis: usize,
        /// How many rows the layout has.
        length: usize,
    },
    /// The layout does not say of each row which rank has it.
    #[error("the layout does not fit: {0}")]
    Layout(String),
}

/// What `rank` is handed of the whole tensor of an input: its rows in their order, or all of it where the input is held whole. It
/// is what the input of that name takes in the graph that [`hand_back`](super::hand_back()) gives.
///
/// # Errors
/// If there is no such input or rank, or the tensor is not of the input's type.
pub fn scatter(program: &Program, input: &str, whole: &Tensor, rank: usize) -> Result<Tensor, RowsError> {
    let graph = &program.graph;
    let inputs = graph.inputs();
    let names = || inputs.iter().map(|&v| graph.value(v).name.clone()).collect();
    let found = inputs.iter().copied().find(|&v| graph.value(v).name == input);
    let v = found.ok_or_else(|| RowsError::Input { name: input.to_owned(), inputs: names() })?;
    numbered(rank, program.ranks)?;
    typed(whole, graph.ty(v), || format!("input {input}"))?;
    match program.held(v, 0) {
        Placement::Whole | Placement::Parts(_) => Ok(whole.clone()),
        Placement::Sharded(s) => cut(whole, s, program.rows(s, rank)).map_err(RowsError::Layout),
    }
}

/// The whole tensor of an output from what the ranks hold of it, rank 0 first: their rows put together, or what rank 0 has where
/// every rank holds all of it.
///
/// # Errors
/// If there is no such output, or the parts are not one of each rank's type for each rank.
pub fn unshard(program: &Program, output: &str, parts: &[Tensor]) -> Result<Tensor, RowsError> {
    let graph = &program.graph;
    let outputs = graph.outputs();
    let names = || outputs.iter().map(|o| o.name.clone()).collect();
    let found: Option<ValueId> = outputs.iter().find(|o| o.name == output).map(|o| o.value);
    let v = found.ok_or_else(|| RowsError::Output { name: output.to_owned(), outputs: names() })?;
    let held = program.held(v, program.segments.len());
    let first = counted(parts, program.ranks)?;
    for (rank, part) in parts.iter().enumerate() {
        let wants = local_type(program, held, graph.ty(v), rank);
        typed(part, &wants, || format!("rank {rank}'s part of output {output}"))?;
    }
    match held {
        Placement::Whole | Placement::Parts(_) => Ok(first.clone()),
        Placement::Sharded(s) => join(parts, s, &program.layouts[s.layout]).map_err(RowsError::Layout),
    }
}

/// A rank's rows of any tensor that runs along a sequence, in their order: labels or positions that are no input of the graph.
///
/// ```
/// use annulus::host::{scatter_rows, unshard_rows};
/// use annulus::ir::Tensor;
/// use annulus::layout::{Layout, LayoutKind};
///
/// let layout = Layout::new(LayoutKind::Zigzag, 6, 2);
/// let labels = Tensor::vector_i64(&[10, 11, 12, 13, 14, 15]);
/// let parts = [scatter_rows(&labels, 0, &layout, 0)?, scatter_rows(&labels, 0, &layout, 1)?];
/// assert_eq!(parts[0].as_slice::<i64>(), Some(&[10, 14, 15][..]));
/// assert_eq!(parts[1].as_slice::<i64>(), Some(&[11, 12, 13][..]));
/// assert_eq!(unshard_rows(&parts, 0, &layout)?, labels);
/// # Ok::<(), annulus::host::RowsError>(())
/// ```
///
/// # Errors
/// If there is no such rank, or the tensor has not the layout's rows along the axis.
pub fn scatter_rows(whole: &Tensor, axis: usize, layout: &Layout, rank: usize) -> Result<Tensor, RowsError> {
    numbered(rank, layout.ranks())?;
    along(whole, axis, layout.length)?;
    cut(whole, &plain(axis), &layout.rows[rank]).map_err(RowsError::Layout)
}

/// The whole of a tensor that runs along a sequence, from each rank's rows, rank 0 first.
///
/// # Errors
/// If there is not one part for each rank, of one type but for its rows, with as many rows as the rank owns.
pub fn unshard_rows(parts: &[Tensor], axis: usize, layout: &Layout) -> Result<Tensor, RowsError> {
    let first = counted(parts, layout.ranks())?;
    for (rank, part) in parts.iter().enumerate() {
        along(part, axis, layout.share(rank))?;
        let mut wants = first.ty();
        wants.shape[axis] = layout.share(rank);
        typed(part, &wants, || format!("rank {rank}'s part"))?;
    }
    join(parts, &plain(axis), layout).map_err(RowsError::Layout)
}

/// An axis that holds nothing but rows.
fn plain(axis: usize) -> Sharding {
    Sharding { axis, outer: 1, inner: 1, layout: 0 }
}

fn numbered(rank: usize, ranks: usize) -> Result<(), RowsError> {
    if rank < ranks { Ok(()) } else { Err(RowsError::Rank { rank, ranks }) }
}

/// The first part, where there is one for each rank.
fn counted(parts: &[Tensor], ranks: usize) -> Result<&Tensor, RowsError> {
    let first = parts.first().filter(|_| parts.len() == ranks);
    first.ok_or(RowsError::Parts { given: parts.len(), ranks })
}

fn typed(x: &Tensor, wants: &Type, what: impl Fn() -> String) -> Result<(), RowsError> {
    let is = x.ty();
    if is == *wants { Ok(()) } else { Err(RowsError::Type { what: what(), is, wants: wants.clone() }) }
}

fn along(x: &Tensor, axis: usize, length: usize) -> Result<(), RowsError> {
    let fits = x.shape().get(axis) == Some(&length);
    if fits { Ok(()) } else { Err(RowsError::Axis { is: x.ty(), axis, length }) }
}
